// A network as a graph of layers with inferred shapes. Immutable once built; any thread may read it.
//
// network message -> ls_graph (this file: shapes, parameters, cost, checks) -> ls_plan (plan.h: operations on a
// backend).
#ifndef LS_GRAPH_GRAPH_H
#define LS_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "layers/layer.h"
#include "lockstep/v1/network.pb-c.h"
#include "tensor/tensor.h"

struct ls_graph;  // parameters are described in layers/layer.h

// What `lockstep model show` prints for one layer.
struct ls_layer_summary {
  const char *name;
  const char *type;        // "convolution"
  char detail[64];         // "64 3x3 stride 1 pad 1"
  struct ls_shape output;  // of one image, without N
  int64_t parameters;      // learned
  int64_t multiply_adds;   // forward, one image; convolutions and fully connected layers only
  int64_t activations;     // output values of one image
};

// Checks and infers everything. `network` must outlive the graph. An error names the layer.
ls_status ls_graph_build(const Lockstep__V1__Network *network, struct ls_graph **graph, struct ls_error *err);
void ls_graph_free(struct ls_graph *graph);

int ls_graph_layer_count(const struct ls_graph *graph);
void ls_graph_layer_summary(const struct ls_graph *graph, int layer, struct ls_layer_summary *summary);
int ls_graph_parameter_count(const struct ls_graph *graph);
// In network order: this order is also that of the SHA-256 over all parameters and of checkpoints.
const struct ls_parameter *ls_graph_parameter(const struct ls_graph *graph, int index);
// Number of classes: units of the layer that feeds the loss. 0 without a loss.
int64_t ls_graph_classes(const struct ls_graph *graph);
struct ls_shape ls_graph_input_shape(const struct ls_graph *graph);  // [C,H,W]

// Initial values of one parameter in canonical row-major float32, a function of (seed, index, element) alone.
ls_status ls_graph_initial_values(const struct ls_graph *graph, int index, uint64_t seed, float *values,
                                  struct ls_error *err);

#endif
