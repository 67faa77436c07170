// A program: the operations of a network for one batch, on symbolic values, before any backend has seen them.
//
// Layers write it (layer.h), the planner lowers it onto a backend (src/graph/plan.c). Values are written once (SSA): what
// may share memory is the planner's decision. One thread at a time.
#ifndef LS_LAYERS_PROGRAM_H
#define LS_LAYERS_PROGRAM_H

#include "backend/backend.h"

enum ls_value_kind {
  LS_VALUE_ACTIVATION,  // in the activation slab, lives from its operation to its last use
  LS_VALUE_PARAMETER,   // index: parameter of the graph
  LS_VALUE_GRADIENT,    // gradient of parameter `index`, or its batch statistic, in the gradient slab
  LS_VALUE_METRICS,     // LS_METRICS floats
  LS_VALUE_INPUT,       // images as the loader delivers them
  LS_VALUE_LABELS,
  LS_VALUE_STEP,  // struct ls_step_parameters
  // A factor of the gradient of parameter `index`, a fully connected layer's weight: its input, then its output's gradient,
  // in the factor slab. Row-major.
  LS_VALUE_FACTOR,
  LS_VALUE_FOLDED,  // inference: computed from parameters once for many runs; in a slab of its own
};

enum { LS_NO_VALUE = -1 };

struct ls_value {
  enum ls_value_kind kind;
  enum ls_dtype dtype;
  struct ls_shape shape;  // with N
  int index;
  bool plain;  // must lie row-major
};

struct ls_program_op {
  enum ls_op_kind kind;
  int layer;
  int forward;  // backward operations: index of the forward operation whose workspace they share; else -1
  int inputs, outputs;
  int value[LS_OP_MAX_TENSORS];
  struct ls_op_attributes attributes;
};

struct ls_program {
  bool training;
  bool factors;          // gradients of large fully connected layers are left as factors (plan.h)
  bool relu_sums;        // the backend's ReLU backward sums the gradients itself
  bool folds;            // inference on a backend with LS_OP_BN_FOLD
  bool norm_adds;        // training on a backend whose batch norm adds and then has the ReLU
  bool conv_statistics;  // training on a backend whose convolutions may sum for the batch norm behind them
  enum ls_dtype dtype;
  int64_t batch;
  float loss_scale;  // 1 / images of the global batch
  bool scaled;       // gradients are multiplied by the step's loss scale (ls_step_parameters)
  struct ls_value *values;
  int value_count, value_capacity;
  struct ls_program_op *ops;
  int op_count, op_capacity;
  int forward_count;  // ops before this one are the forward pass; behind it backward or, in inference, the folds
  int probabilities;  // value of the loss's softmax
  bool failed;        // memory ran out while it was written
};

// The type of what is never held in 16 bits: parameters, their gradients, probabilities.
static inline enum ls_dtype ls_program_full(const struct ls_program *program) {
  return program->dtype == LS_F64 ? LS_F64 : LS_F32;
}

// Index of a new value, LS_NO_VALUE when memory runs out (then `failed` is set and later calls do nothing).
int ls_program_value(struct ls_program *program, enum ls_value_kind kind, enum ls_dtype dtype,
                     const struct ls_shape *shape, int index);
// The value for parameter or gradient `index`, made at first use. Shapes may differ in rank but not in elements.
int ls_program_slab_value(struct ls_program *program, enum ls_value_kind kind, const struct ls_shape *shape, int index);
// The step parameters.
int ls_program_step(struct ls_program *program);
// Appends an operation; `values` are inputs, then outputs. Returns its index.
int ls_program_add(struct ls_program *program, enum ls_op_kind kind, int layer, int inputs, int outputs,
                   const int *values, const struct ls_op_attributes *attributes);
// Describes convolution `op`, which has statistics, and the batch norm that reads them without.
void ls_program_drop_statistics(struct ls_program *program, int op);
void ls_program_release(struct ls_program *program);

#endif
