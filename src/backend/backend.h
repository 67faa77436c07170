// A backend runs prepared operations on one device: a const table of functions (struct ls_backend_ops) plus a context.
//
// Life of an operation: the planner (src/graph) describes it (struct ls_op_desc), asks the backend to prepare it once,
// which fixes kernels, layouts and workspace, and then runs it many times with nothing but pointers. An operation that
// a backend lacks fails in prepare with LS_UNSUPPORTED, when the network is built, never in mid-run.
//
// Layouts: a shape names its axes N,C,H,W (weights K,C/groups,R,S; fully connected weights K,C); how the values lie in
// memory is a `struct ls_layout`, opaque here, made and compared by the backend. NULL as a tensor's layout means "not
// fixed yet: the backend chooses". prepare() answers in op->desc which layout every tensor must have; where that
// differs from the layout a tensor already has, the planner puts a LS_OP_REORDER in between (or, for weights, the
// parameter is kept in the operation's layout from the start).
//
// Exactness: for a given description and device model an operation gives the same bits on every run, on any worker.
// Whatever could change them (thread count, algorithm) is fixed in prepare.
//
// Threads: one context belongs to one worker thread: prepare and run are called from that thread only. Buffers may be
// shared between contexts of one device kind as long as nobody writes what another reads.
#ifndef LS_BACKEND_BACKEND_H
#define LS_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"

struct ls_layout;      // how a tensor lies in memory; owned by the backend context, lives as long as it
struct ls_stream;      // work in order; the CPU has one, which runs at once
struct ls_event;       // a point in a stream's work
struct ls_device_ops;  // device.h

enum { LS_OP_MAX_TENSORS = 10 };

// Operations. "in" and "out" list the tensors in the order of ls_op_desc.tensor: all inputs, then all outputs.
// x, y: forward input and output; dx, dy their gradients; w weights, b bias. [..] is optional (has_* in the
// attributes). An output may share memory with the input named in "in place" (the planner decides; the backend says
// whether it can in ls_op.in_place).
enum ls_op_kind {
  LS_OP_REORDER,       // in x                         out y            same shape, another layout or dtype
  LS_OP_ADD,           // in x0..xn-1                  out y            sum in order; [relu]; in place x0
  LS_OP_CONV_FORWARD,  // in x, w, [b], [z]            out y = conv + z   [relu fused]; in place z
  //                              [statistics: also out sum [K] and sum of squares [K] of y, float32; no b, z, relu]
  LS_OP_CONV_BACKWARD_DATA,     // in dy, w                     out dx
  LS_OP_CONV_BACKWARD_WEIGHTS,  // in x, dy                 out dw, [db]
  LS_OP_FC_FORWARD,             // in x [N,C] or [N,C,H,W], w [K,C] or [K,C,H,W], [b]   out y [N,K]   [relu fused]
  LS_OP_FC_BACKWARD_DATA,       // in dy, w                     out dx
  LS_OP_FC_BACKWARD_WEIGHTS,    // in x, dy                 out dw, [db]
  LS_OP_POOL_FORWARD,           // in x                         out y            workspace: where the maxima were
  LS_OP_POOL_BACKWARD,          // in dy                        out dx           same workspace
  LS_OP_RELU_FORWARD,           // in x                         out y            slope: leaky; in place x
  LS_OP_RELU_BACKWARD,          // in y, dy0..dyn-1             out dx           of the sum, by y's sign; in place dy0
  LS_OP_BN_FORWARD_TRAIN,       // in x, gamma, beta, [z]       out y, mean [C], variance [C] (biased, of this shard);
  //                              [statistics: x's sum [C] and sum of squares [C] are inputs 3 and 4]
  //                              [relu fused, mask in the workspace; z is added before it,
  //                              then the ReLU is the sum's, not BN_BACKWARD's]
  LS_OP_BN_FORWARD_INFER,     // in x, gamma, beta, running mean, running variance   out y    [relu fused]; in place x
  LS_OP_BN_BACKWARD,          // in x, dy, gamma, beta, mean, variance   out dx, dgamma, dbeta  [relu]; same workspace
  LS_OP_LRN_FORWARD,          // in x                         out y            workspace
  LS_OP_LRN_BACKWARD,         // in x, dy                     out dx           same workspace
  LS_OP_DROPOUT_FORWARD,      // in x, step parameters        out y            in place x
  LS_OP_DROPOUT_BACKWARD,     // in dy, step parameters       out dx           draws the same numbers again; in place dy
  LS_OP_SHORTCUT_FORWARD,     // in x [N,C,H,W]               out y [N,K,ceil(H/s),ceil(W/s)]   option A
  LS_OP_SHORTCUT_BACKWARD,    // in dy                        out dx
  LS_OP_SOFTMAX_CE_FORWARD,   // in x [N,C], labels i32 [N]   out p [N,C], metrics f32 [LS_METRICS]   label -1: not
                              // counted
  LS_OP_SOFTMAX_CE_BACKWARD,  // in p, labels, [step parameters]   out dx = (p - onehot) * scale [* loss scale]; 0 for
                              // label -1; in place p
  LS_OP_BN_FOLD,              // in w, [b], gamma, beta, running mean, running variance   out w, b of a convolution that
                              // computes what convolution and batch norm after it compute in inference
  LS_OP_COUNT
};

enum { LS_BN_SUM = 3 };  // LS_OP_BN_FORWARD_TRAIN with statistics: which input the sum is; the squares come next

// What LS_OP_SOFTMAX_CE_FORWARD writes: sums over the images of the shard, not means.
enum ls_metric { LS_METRIC_LOSS, LS_METRIC_TOP1, LS_METRIC_TOP5, LS_METRIC_IMAGES, LS_METRICS };

// Numbers that change from step to step; lives in device memory, written by the worker before each shard's run.
struct ls_step_parameters {
  uint64_t seed;
  uint64_t step;
  uint64_t first_image;  // position of the shard's first image in the global batch
  float loss_scale;      // what gradients are multiplied by (float16), where the plan asks for it
  float reserved;
};

enum ls_pool_kind { LS_POOL_MAX, LS_POOL_AVERAGE_WITH_PAD, LS_POOL_AVERAGE_WITHOUT_PAD };

struct ls_op_attributes {
  // convolution, pooling: kernel, stride, dilation; pad before and after each axis (after > before for ceil mode)
  int64_t kernel[2], stride[2], dilation[2], pad_before[2], pad_after[2];
  int64_t groups;
  enum ls_pool_kind pool;
  bool training;  // forward operations: keep what backward needs in the workspace
  bool has_bias;
  bool has_addend;  // z is added before the activation: convolution (inference), batch norm (training)
  bool statistics;  // training: the convolution sums its output for the batch norm behind it
  bool relu;        // fused activation, or for RELU_* itself
  float slope;      // leaky ReLU; 0 for the plain one
  float epsilon;    // batch norm
  int64_t lrn_size;
  float alpha, beta, k;  // LRN: y = x / (k + alpha/size * sum)^beta
  float rate;            // dropout
  uint32_t layer;        // dropout: number of the layer in the network, part of the random key
  float scale;           // softmax backward: 1 / images in the global batch
  bool tf32;             // products of float32 may round their inputs to TF32
};

struct ls_tensor_desc {
  enum ls_dtype dtype;
  struct ls_shape shape;
  const struct ls_layout *layout;  // NULL: backend chooses
};

struct ls_op_desc {
  enum ls_op_kind kind;
  const char *layer_name;  // for error messages and profiles
  int inputs, outputs;
  struct ls_tensor_desc tensor[LS_OP_MAX_TENSORS];  // inputs, then outputs
  struct ls_op_attributes attributes;
  // For a backward operation: the prepared forward operation whose workspace and algorithm it shares; else NULL.
  const struct ls_op *forward;
};

// A prepared operation. The planner owns the pointers it passes to run and the memory behind them.
struct ls_op {
  const struct ls_backend_ops *ops;
  struct ls_op_desc desc;  // with every layout filled in
  size_t workspace_bytes;  // must survive from forward to backward; 0: none
  size_t scratch_bytes;    // only while it runs; the planner shares one buffer among all operations
  bool in_place;           // the first output may be the memory of the input named in the table above
  const char *kernel;      // which implementation, for `model show --plan` and profiles; owned by the backend
  void *state;
};

// Pointers of one run, in the order of desc.tensor; then workspace (also for backward) and scratch.
struct ls_op_args {
  void *tensor[LS_OP_MAX_TENSORS];
  void *workspace;
  void *scratch;
};

struct ls_backend {
  const struct ls_backend_ops *ops;
  void *state;
};

struct ls_device_info {
  char name[16];          // "cpu0", "gpu3"
  char description[112];  // model
  size_t memory_bytes;
};

enum ls_memory { LS_MEMORY_DEVICE, LS_MEMORY_PINNED };

struct ls_backend_ops {
  const char *name;  // "cpu", "cuda", "reference"
  // Has LS_OP_BN_FOLD and the addend of LS_OP_CONV_FORWARD. Where false, inference plans run batch norms and sums as they
  // stand.
  bool folds;
  // What else devices with memory of their own do; NULL: device memory is the host's.
  const struct ls_device_ops *device;
  bool relu_sums;  // LS_OP_RELU_BACKWARD takes more than one dy. Where false, an LS_OP_ADD stands before it
  bool norm_adds;  // LS_OP_BN_FORWARD_TRAIN takes an addend. Where false, sums stand as they are
  // LS_OP_CONV_FORWARD may have statistics and LS_OP_BN_FORWARD_TRAIN takes them. Where prepare refuses a convolution with
  // them (LS_UNSUPPORTED: it cannot, or is faster without), the planner describes both operations without.
  bool conv_statistics;

  // Devices of this kind on the machine. 0 with LS_OK where there are none.
  ls_status (*devices)(struct ls_device_info *info, int capacity, int *count, struct ls_error *err);
  // A context on device `index`, for the calling thread.
  ls_status (*open)(int index, struct ls_backend *backend, struct ls_error *err);
  void (*close)(struct ls_backend *backend);
  // Operations prepared from now on compute with so many threads each (1 after open). Their bits may depend on it, so it is
  // for inference alone. They are bound to the cores from number `first` of those the calling thread may use. From the
  // context's thread, before the first prepare. NULL where a device needs no such help.
  void (*use_threads)(struct ls_backend *backend, int first, int threads);

  // Memory, 64-byte aligned at least (device: 256). NULL-safe release. Contents undefined.
  ls_status (*allocate)(struct ls_backend *backend, enum ls_memory kind, size_t bytes, void **memory,
                        struct ls_error *err);
  void (*release)(struct ls_backend *backend, enum ls_memory kind, void *memory, size_t bytes);
  // Copies in stream order; host memory is pinned or ordinary (then the call returns only when it is done).
  ls_status (*upload)(struct ls_backend *backend, struct ls_stream *stream, void *device, const void *host,
                      size_t bytes, struct ls_error *err);
  ls_status (*download)(struct ls_backend *backend, struct ls_stream *stream, void *host, const void *device,
                        size_t bytes, struct ls_error *err);

  // Streams and events; the CPU's are trivial. stream NULL is the context's own compute stream.
  ls_status (*stream_new)(struct ls_backend *backend, struct ls_stream **stream, struct ls_error *err);
  void (*stream_free)(struct ls_backend *backend, struct ls_stream *stream);
  ls_status (*stream_wait_idle)(struct ls_backend *backend, struct ls_stream *stream, struct ls_error *err);
  ls_status (*event_new)(struct ls_backend *backend, struct ls_event **event, struct ls_error *err);
  void (*event_free)(struct ls_backend *backend, struct ls_event *event);
  ls_status (*event_record)(struct ls_backend *backend, struct ls_event *event, struct ls_stream *stream,
                            struct ls_error *err);
  ls_status (*stream_wait_event)(struct ls_backend *backend, struct ls_stream *stream, struct ls_event *event,
                                 struct ls_error *err);

  // Layouts. plain_layout: row-major in the shape's own axis order (channels_last: N,H,W,C). Two equal layouts compare
  // equal by layout_equal, not by pointer. layout_bytes includes padding; padding is zero in parameters and stays zero.
  const struct ls_layout *(*plain_layout)(struct ls_backend *backend, enum ls_dtype dtype, const struct ls_shape *shape,
                                          bool channels_last);
  // How a network's input [N,C,H,W] of `dtype` had best lie for the convolutions that read it: channels last, perhaps with
  // more channels, which are zeros. tf32: as in their attributes. NULL: plain.
  const struct ls_layout *(*input_layout)(struct ls_backend *backend, enum ls_dtype dtype, bool tf32,
                                          const struct ls_shape *shape);
  bool (*layout_equal)(const struct ls_layout *a, const struct ls_layout *b);
  size_t (*layout_bytes)(const struct ls_layout *layout);
  // "nchw", "nChw16c"; for people.
  void (*layout_format)(const struct ls_layout *layout, char *text, size_t size);
  // Between a tensor in device memory in any layout and canonical row-major values in host memory. Slow path:
  // checkpoints, tests, initial values.
  ls_status (*to_canonical)(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *memory,
                            void *canonical, struct ls_error *err);
  ls_status (*from_canonical)(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *canonical,
                              void *memory, struct ls_error *err);

  // Prepares an operation; *op is the caller's memory, released with `op_release`.
  ls_status (*prepare)(struct ls_backend *backend, const struct ls_op_desc *desc, struct ls_op *op,
                       struct ls_error *err);
  void (*op_release)(struct ls_backend *backend, struct ls_op *op);
  // A tile of a sum of outer products: out [rows][columns] = sum over i < n of dy[i * dy_stride + row] * x[i * x_stride +
  // column], in the order of i. NULL where the backend does not do it: gradients are then never left as factors.
  void (*outer_sum)(int64_t n, int64_t rows, int64_t columns, const float *dy, int64_t dy_stride, const float *x,
                    int64_t x_stride, float *out);
  // Enqueues it. No allocation, no lock.
  ls_status (*run)(struct ls_backend *backend, struct ls_op *op, struct ls_stream *stream,
                   const struct ls_op_args *args, struct ls_error *err);
};

// The backends of this build; NULL where it was built without.
const struct ls_backend_ops *ls_backend_cpu(void);
const struct ls_backend_ops *ls_backend_cuda(void);
// What was missing where ls_backend_cuda is NULL: "the CUDA toolkit (nvcc)". NULL where nothing was.
const char *ls_backend_cuda_missing(void);
// Whether the libraries that it loads at run time are all there; LS_OK where ls_backend_cuda is NULL.
ls_status ls_backend_cuda_check(struct ls_error *err);
// Prepares what the CUDA backend prepares, without a GPU and in every build: for the memory that a plan will take there.
// The scratch memory of a convolution is the most that cuDNN may ask for there (cuda_workspace_limit).
const struct ls_backend_ops *ls_backend_cuda_planner(void);
// Plain loops in float64 (tensors of LS_F64), row-major: the oracle of the tests.
const struct ls_backend_ops *ls_backend_reference(void);

#endif
