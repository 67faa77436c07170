// The graph's insides, for the files of src/graph.
#ifndef LS_GRAPH_GRAPH_INTERNAL_H
#define LS_GRAPH_GRAPH_INTERNAL_H

#include "graph/graph.h"

struct ls_graph {
  const Lockstep__V1__Network *network;
  struct ls_shape input;  // [C,H,W]
  int layer_count;
  struct ls_layer *layers;
  int parameter_count;
  struct ls_parameter **parameters;  // network order; point into layers
};

// Writes the whole network's operations, forward and (training) backward, with fusion unless `no_fusion`.
ls_status ls_graph_write_program(const struct ls_graph *graph, struct ls_program *program, bool no_fusion,
                                 struct ls_error *err);

#endif
