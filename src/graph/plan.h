// A plan: a graph made ready for one backend context and one batch size. Two flat lists of prepared operations
// (forward, backward), a static memory plan, and the table of parameters.
//
// Memory is in slabs, all pointers fixed at bind time:
//   parameters   every parameter in the layout its kernels want, float32, each 64-byte aligned; the optimizer works on
//   it
//                in place. Learned parameters first, in network order; then running statistics.
//   gradients    same offsets as `parameters`: gradient of each learned parameter; where a running statistic stands,
//   the
//                batch statistic of this shard; then LS_METRICS floats (sums over the shard). What is reduced over
//                shards is this one slab.
//   factors      the gradient of a large fully connected layer is a sum of few outer products, and forming it for each
//                shard costs more memory and time than all the rest of a step. With options.factors its two factors, the
//                layer's input and its output's gradient, are left here instead; whoever updates the weights forms the
//                gradient tile by tile. Those parameters lie behind all others and have no place in `gradients`.
//   activations  private to one worker; reused by liveness. Holds workspace and scratch too.
//   folded       inference: weights and biases of convolutions with the batch norm behind them folded in, computed from
//                the parameters by ls_binding_refresh. Plans of one kind may share it, as they do the parameters.
// Workers of one process on the CPU share one parameter slab (read-only while they compute).
//
// Threads: a plan and its bindings belong to the worker thread that owns the backend context.
#ifndef LS_GRAPH_PLAN_H
#define LS_GRAPH_PLAN_H

#include <stdio.h>

#include "backend/backend.h"
#include "graph/graph.h"

struct ls_plan;
struct ls_binding;

struct ls_plan_options {
  int64_t batch;             // images a run: the shard's size
  bool training;             // false: inference (no backward, batch norm by running statistics)
  enum ls_dtype dtype;       // LS_F32; LS_F64 for the reference backend; LS_BF16, LS_F16 on CUDA (parameters: float32)
  bool tf32;                 // products of float32 on CUDA may round their inputs to TF32
  int64_t loss_images;       // images of the global batch the loss is a mean over (training)
  bool input_channels_last;  // layout the loader delivers: [N,H,W,C] instead of [N,C,H,W]
  bool input_padded;  // channels last with ls_plan_input_channels of them, as the backend likes, those from C on zeros
  // Use this plan's parameter layouts and offsets instead of choosing own ones, so that both work on the same slab.
  const struct ls_plan *parameters_of;
  bool no_fusion;  // for tests: one operation a layer
  bool factors;    // training: see ls_plan_factors
};

struct ls_plan_parameter {
  const struct ls_parameter *parameter;
  struct ls_tensor_desc tensor;
  size_t offset_bytes;  // in both slabs
  size_t bytes;         // with the layout's padding
  // Running statistics: what the mean over shards of the batch statistic is multiplied by before the running one takes
  // its share of it: 1 for means, n/(n-1) for variances, n = values a channel in one shard.
  float statistic_scale;
  bool factored;                 // its gradient is left as factors
  size_t momentum_offset_bytes;  // learned ones: in a slab of ls_plan_learned_bytes
};

// One fully connected layer whose gradient is left as factors: dw [k, c] = dyT x, db [k] = column sums of dy; both
// factors row-major, [batch, c] and [batch, k].
struct ls_plan_factors {
  int weight, bias;  // parameter indices; bias -1: none
  int64_t k, c;
  size_t x_offset_bytes, dy_offset_bytes;  // in the factor slab
};

struct ls_plan_op_info {
  const char *layer, *kind, *kernel;
};

ls_status ls_plan_build(const struct ls_graph *graph, struct ls_backend *backend, const struct ls_plan_options *options,
                        struct ls_plan **plan, struct ls_error *err);
void ls_plan_free(struct ls_plan *plan);

int ls_plan_parameter_count(const struct ls_plan *plan);
const struct ls_plan_parameter *ls_plan_parameter(const struct ls_plan *plan, int index);
size_t ls_plan_learned_bytes(const struct ls_plan *plan);    // of all learned parameters: the momentum slab
size_t ls_plan_parameter_bytes(const struct ls_plan *plan);  // whole parameter slab
size_t ls_plan_gradient_bytes(const struct ls_plan *plan);   // without factored ones, + metrics, rounded up to 64
size_t ls_plan_factor_bytes(const struct ls_plan *plan);     // factor slab, for one run
int ls_plan_factors_count(const struct ls_plan *plan);
const struct ls_plan_factors *ls_plan_factors(const struct ls_plan *plan, int index);
size_t ls_plan_metrics_offset(const struct ls_plan *plan);  // of LS_METRICS floats in the gradient slab
size_t ls_plan_activation_bytes(const struct ls_plan *plan);
size_t ls_plan_folded_bytes(const struct ls_plan *plan);     // 0 in training
size_t ls_plan_input_bytes(const struct ls_plan *plan);      // what must be delivered for one run, in the plan's type
int64_t ls_plan_input_channels(const struct ls_plan *plan);  // of it: the network's, or more with options.input_padded

size_t ls_plan_scratch_bytes(
    const struct ls_plan *plan);  // part of the activations: what operations need while they run
size_t ls_plan_unshared_bytes(const struct ls_plan *plan);  // the activations if nothing were reused; without scratch

// Training: a stretch of the gradient slab, [begin, end) in floats, whole lines. After so many operations of the backward pass
// every gradient in it is written, and no later one reads a parameter that lies there or a learned one's gradient (batch
// norms read their statistics): sums may be made and its parameters overwritten while the pass goes on.
enum { LS_PLAN_BUCKETS = 8 };
struct ls_plan_bucket {
  int64_t begin, end;
  int operations;
};
// Cuts the slab (without the metrics) into at most `most` buckets, each of at least `least_bytes` unless there is only one;
// fewer where another one gains nothing. In the slab's order: the backward pass completes them from the last to the first.
ls_status ls_plan_buckets(const struct ls_plan *plan, int most, size_t least_bytes, struct ls_plan_bucket *buckets,
                          int *count, struct ls_error *err);
// The layer of a backward operation, counted from 0; "" where there is none.
const char *ls_plan_backward_layer(const struct ls_plan *plan, int operation);

// One buffer of the activation slab. Strings live as long as the plan.
struct ls_plan_buffer {
  const char *layer, *operation;  // that writes it, or whose workspace it is
  const char *what;               // "output", "workspace", "scratch"
  size_t bytes;
};
// The largest buffers, larger ones first; those that lie in the memory of another are left out. Returns how many, at most
// `capacity`.
int ls_plan_largest_buffers(const struct ls_plan *plan, struct ls_plan_buffer *buffers, int capacity);

struct ls_plan_memory {
  void *parameters;   // device
  void *gradients;    // device; NULL for inference (metrics then go to `metrics`)
  void *activations;  // device
  void *folded;       // device; may be NULL where ls_plan_folded_bytes is 0
  void *input;        // device (CPU: the loader's batch itself), plain layout
  void *labels;       // device, int32 [batch]; NULL for predict
  void *step;         // device, struct ls_step_parameters
  void *metrics;      // inference: LS_METRICS floats
  void *factors;      // device; options.factors
};

// Resolves every pointer. Cheap enough to do once for each pair of (batch buffer, gradient buffer) that occurs.
ls_status ls_plan_bind(struct ls_plan *plan, const struct ls_plan_memory *memory, struct ls_binding **binding,
                       struct ls_error *err);
void ls_binding_free(struct ls_binding *binding);
// Changes the input and label pointers of a binding (same layout). No allocation: for use in the step.
void ls_binding_set_input(struct ls_binding *binding, void *input, void *labels);

// Inference: to be called after the parameters changed, before the next forward. Writes the folded slab.
ls_status ls_binding_refresh(struct ls_binding *binding, struct ls_stream *stream, struct ls_error *err);
ls_status ls_binding_forward(struct ls_binding *binding, struct ls_stream *stream, struct ls_error *err);
// After forward, same stream. Writes (does not add to) the whole gradient slab.
ls_status ls_binding_backward(struct ls_binding *binding, struct ls_stream *stream, struct ls_error *err);
// Its operations [begin, end) alone; all of them must follow each other.
ls_status ls_binding_backward_part(struct ls_binding *binding, int begin, int end, struct ls_stream *stream,
                                   struct ls_error *err);
// Inference: class probabilities of the last forward, float32 [batch, classes] row-major, in device memory.
const void *ls_binding_probabilities(const struct ls_binding *binding);

// Profiling: with a function set, it is called after every operation with its time. NULL turns it off again.
void ls_binding_profile(struct ls_binding *binding,
                        void (*done)(void *user, const struct ls_plan_op_info *info, int64_t begin_ns, int64_t end_ns),
                        void *user);

// Operations, kernels, layouts, reorders, memory: `lockstep model show --plan`.
void ls_plan_print(const struct ls_plan *plan, FILE *out);

#endif
