// Helpers over cuDNN's backend interface: descriptors are made, filled and finalised through a graph that owns them and
// keeps the first error, so that a convolution is described in a page (cudnn_product.c). One thread at a time.
//
//   operations:  graph_tensor, graph_convolution, graph_pointwise, graph_statistics
//   a plan:      graph_finish (the operation graph), then graph_plan: heuristics A, B, fallback; the first engine that is
//                allowed and can be made ready. Or graph_candidates and graph_take one after another, to measure them; then
//                graph_describe and, on another run, graph_take_described
//   running it:  graph_run
#ifndef LS_BACKEND_CUDA_DEVICE_CUDNN_GRAPH_H
#define LS_BACKEND_CUDA_DEVICE_CUDNN_GRAPH_H

#include <cudnn.h>

#include "backend/cuda/cuda_internal.h"

enum { GRAPH_DESCRIPTORS = 64, GRAPH_OPERATIONS = 8, GRAPH_TENSORS = 8 };

struct graph {
  cudnnHandle_t handle;
  cudnnBackendDescriptor_t device;                   // of a graph for a GPU that is not here
  cudnnBackendDescriptor_t made[GRAPH_DESCRIPTORS];  // destroyed with the graph
  int count;
  cudnnBackendDescriptor_t operation[GRAPH_OPERATIONS];
  int operations;
  cudnnBackendDescriptor_t graph;
  cudnnStatus_t status;  // the first that was not success
  const char *failed;    // what was being done then
  // The plan.
  cudnnBackendDescriptor_t plan;
  int64_t engine;
  int64_t workspace_bytes;
  bool no_memory;  // an engine could not be made ready for want of memory
  // The pointers of the last run and the pack made of them.
  cudnnBackendDescriptor_t pack;
  void *pointers[GRAPH_TENSORS], *workspace;
};

// What an engine must not be.
struct graph_rules {
  bool deterministic;   // not one that adds in any order
  bool no_tensor_core;  // float32 as float32: no TF32
  int64_t most_workspace_bytes;
};

void graph_init(struct graph *graph, cudnnHandle_t handle);
// For a GPU that is not here, by its properties in cuDNN's JSON: plans can be made, not run. NULL: descriptions only.
void graph_init_for(struct graph *graph, const char *properties);
void graph_release(struct graph *graph);
ls_status graph_error(const struct graph *graph, struct ls_error *err);

// A tensor [n,c,h,w] that lies n,h,w,c. virtual: between two operations, never in memory. Number `uid` in graph_run.
cudnnBackendDescriptor_t graph_tensor(struct graph *graph, int64_t uid, enum ls_dtype dtype, const int64_t nchw[4],
                                      bool is_virtual);
// One of x, w, y is the output: by direction.
void graph_convolution(struct graph *graph, const struct cuda_convolution *convolution, cudnnBackendDescriptor_t x,
                       cudnnBackendDescriptor_t w, cudnnBackendDescriptor_t y);
// y = mode(x, b); b NULL: of one argument.
void graph_pointwise(struct graph *graph, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x,
                     cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y);
// The sum and the sum of squares of x's channels, [1,c,1,1] float32.
void graph_statistics(struct graph *graph, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t sum,
                      cudnnBackendDescriptor_t squares);
void graph_finish(struct graph *graph);
// What the heuristics propose and the rules allow, without repetition, best guess first; the caller destroys them.
int graph_candidates(struct graph *graph, const struct graph_rules *rules, cudnnBackendDescriptor_t *configs, int most);
// Puts different engines before one engine with other knobs; best guess first all the same.
void graph_spread(cudnnBackendDescriptor_t *configs, int count);
// Makes a plan of it. False where that cannot be; the graph is as before then. graph_take_within: nor where it wants more
// scratch memory than the rules allow; the graph is without a plan then.
bool graph_take(struct graph *graph, cudnnBackendDescriptor_t config);
bool graph_take_within(struct graph *graph, cudnnBackendDescriptor_t config, const struct graph_rules *rules);
void graph_drop_plan(struct graph *graph);
// "engine 62, knobs 1=2 3=4": the configuration in a form that lasts. False where it does not fit.
bool graph_describe(cudnnBackendDescriptor_t config, char *text, size_t size);
ls_status graph_take_described(struct graph *graph, const char *text, struct ls_error *err);
// LS_UNSUPPORTED where no engine does it, LS_NO_MEMORY where there was no memory for one.
ls_status graph_plan(struct graph *graph, const struct graph_rules *rules, struct ls_error *err);
ls_status graph_run(struct graph *graph, int tensors, const int64_t *uids, void *const *pointers, void *workspace,
                    struct ls_error *err);

// Numbers of a convolution's tensors.
enum { UID_X = 1, UID_W, UID_Y, UID_BIAS, UID_SUM, UID_SQUARES, UID_PRODUCT, UID_BIASED };

// tune.c: the fastest of the engines that the rules allow, in words; DEVICE_NO_ENGINE where none runs. The graph is left
// without a plan. `separate`: NULL, or the plan of the convolution alone, whose bias and ReLU, or statistics, are part of
// the graph; DEVICE_SEPARATE where that plan with own kernels behind it is faster. An error, and no choice, where the GPU
// has failed or has no memory to measure with.
#define DEVICE_NO_ENGINE "none"
#define DEVICE_SEPARATE "separate"
struct device_context;
struct device_tuning {
  struct device_context *context;
  struct graph *graph, *separate;
  const struct cuda_convolution *convolution;
  const struct graph_rules *rules;
};
ls_status device_tune(const struct device_tuning *tuning, char *choice, struct ls_error *err);

// cudnn_product.c: the operations of a convolution; fused: with its bias and ReLU. Statistics are always part of it.
void device_describe_product(struct graph *graph, const struct cuda_convolution *convolution, bool fused);
// Runs them, with those of the tensors that are there.
ls_status device_run_graph(struct graph *graph, const struct cuda_product_args *args, struct ls_error *err);

#endif
