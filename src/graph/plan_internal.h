// The plan's insides, shared by plan.c (building), memory.c (where everything lies) and binding.c (running).
#ifndef LS_GRAPH_PLAN_INTERNAL_H
#define LS_GRAPH_PLAN_INTERNAL_H

#include "graph/graph_internal.h"
#include "graph/plan.h"

enum { LS_ALIGNMENT = 64 };

// A value on the backend: one of the program's, or a reordered or temporary copy that lowering added.
struct plan_value {
  enum ls_value_kind kind;
  struct ls_tensor_desc tensor;
  int index;   // parameter index
  int source;  // a reordered copy: the value it copies; else -1
  size_t bytes;
  int first, last;  // steps between which it lives (activations)
  int shares;       // root of the values whose memory it shares; itself when none
  size_t offset;    // in its slab
};

struct plan_step {
  struct ls_op op;
  int value[LS_OP_MAX_TENSORS];
  int forward_step;  // backward: step whose workspace it shares; -1
  size_t workspace_offset;
  int workspace_last;  // last step that uses the workspace
};

struct ls_plan {
  const struct ls_graph *graph;
  struct ls_backend *backend;
  struct ls_plan_options options;
  struct ls_program program;
  struct plan_value *values;
  int value_count, value_capacity;
  struct plan_step *steps;
  int step_count, step_capacity, forward_count;
  struct ls_plan_parameter *parameters;
  int parameter_count;
  struct ls_plan_factors *factors;
  int factors_count;
  size_t learned_bytes, parameter_bytes, metrics_offset, gradient_bytes, factor_bytes;
  size_t activation_bytes, scratch_offset, scratch_bytes, value_bytes;  // value_bytes: without reuse
  size_t input_bytes, folded_bytes;
  int64_t input_channels;
};

const char *ls_plan_op_name(enum ls_op_kind kind);

// Decides which activations share memory and where everything lies; fills in offsets and sizes.
ls_status ls_plan_place(struct ls_plan *plan, struct ls_error *err);

static inline size_t ls_align(size_t bytes) { return (bytes + LS_ALIGNMENT - 1) / LS_ALIGNMENT * LS_ALIGNMENT; }

#endif
