// The CUDA backend's insides.
//
//   layout.c             layouts: row-major, or channels last (all images and their weights)
//   lower*.c             operations -> kernels and convolutions: preparation, memory between them, order of launches
//   device_work.c        the optimizer, sums over shards, input: what backend/device.h asks for
//   kernels*.h           the kernels' bodies
//   device/              what needs CUDA: context, memory, streams, kernels on the device, convolutions by cuDNN
//   twin.c               the same on the host, for tests: kernels as loops, convolutions as plain loops
//
// What is not in device/ includes no header of CUDA and is built everywhere. A `struct cuda_machine` stands between: the
// lowering launches kernels and convolutions on it and does not know whether it is a GPU.
#ifndef LS_BACKEND_CUDA_CUDA_INTERNAL_H
#define LS_BACKEND_CUDA_CUDA_INTERNAL_H

#include "backend/backend.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/reduce.h"
#include "backend/device.h"

struct ls_layout {
  enum ls_dtype dtype;
  struct ls_shape shape;
  bool channels_last;  // memory order N,H,W,C; only of rank 4
  int64_t channels;    // channels last: how many lie there, those from C on zeros; else 0
  struct ls_layout *next;
};

struct cuda_context;
struct cuda_product;  // a prepared convolution; the machine's own

enum cuda_direction { CUDA_FORWARD, CUDA_BACKWARD_DATA, CUDA_BACKWARD_WEIGHTS };

// A convolution in one of its directions: x [n,h,w,c], w [k,r,s,c/groups], y [n,p,q,k]; two of them in, one out. Fully
// connected: h = w = r = s = p = q = 1. With `bias` or `relu` the machine may do these too (forward) and says so.
struct cuda_convolution {
  enum cuda_direction direction;
  enum ls_dtype dtype;
  int64_t n, c, h, w, k, r, s, p, q, groups;
  int64_t stride[2], dilation[2], before[2], after[2];
  bool bias, relu;
  bool statistics;  // forward: the sums of y's channels too, or it is refused (LS_UNSUPPORTED)
  bool tf32;        // float32 inputs may be rounded to TF32
};

struct cuda_product_args {
  void *x, *w, *y;
  const void *bias;      // of the inputs' type; NULL: not part of it
  float *sum, *squares;  // [k]; NULL: not part of it
  void *scratch;
};

struct cuda_machine {
  ls_status (*launch)(struct cuda_context *context, struct ls_stream *stream, enum ls_kernel kernel,
                      const void *arguments, int64_t n, struct ls_error *err);
  ls_status (*zero)(struct cuda_context *context, struct ls_stream *stream, void *memory, size_t bytes,
                    struct ls_error *err);
  // *fused: bias and relu are part of it. *kernel: a name for people, owned by the context.
  ls_status (*product_new)(struct cuda_context *context, const struct cuda_convolution *convolution,
                           struct cuda_product **product, size_t *scratch_bytes, bool *fused, const char **kernel,
                           struct ls_error *err);
  void (*product_free)(struct cuda_product *product);
  ls_status (*product_run)(struct cuda_context *context, struct ls_stream *stream, struct cuda_product *product,
                           const struct cuda_product_args *args, struct ls_error *err);
};

// The beginning of a backend context; the machine's own part follows.
struct cuda_context {
  const struct cuda_machine *machine;
  struct ls_layout *layouts;   // interned
  struct ls_choices *choices;  // NULL: the library's guess
  bool fast;                   // kernels may give other bits on another run
};

// A prepared operation.
struct cuda_op {
  ls_status (*run)(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                   const struct ls_op_args *args, struct ls_error *err);
  struct cuda_product *product;
  bool fused;
  size_t product_scratch_bytes;
  struct ls_reduce reduce;
};

// ---- layout.c; the first five are functions of ls_backend_ops
const struct ls_layout *cuda_plain_layout(struct ls_backend *backend, enum ls_dtype dtype, const struct ls_shape *shape,
                                          bool channels_last);
const struct ls_layout *cuda_input_layout(struct ls_backend *backend, enum ls_dtype dtype, bool tf32,
                                          const struct ls_shape *shape);
bool cuda_layout_equal(const struct ls_layout *a, const struct ls_layout *b);
size_t cuda_layout_bytes(const struct ls_layout *layout);
void cuda_layout_format(const struct ls_layout *layout, char *text, size_t size);
// Rank 4: channels last; others row-major. NULL when memory runs out.
const struct ls_layout *cuda_own_layout(struct cuda_context *context, enum ls_dtype dtype,
                                        const struct ls_shape *shape);
// Channels last, as many as said: at least those of the shape.
const struct ls_layout *cuda_padded_layout(struct cuda_context *context, enum ls_dtype dtype,
                                           const struct ls_shape *shape, int64_t channels);
void cuda_layouts_free(struct cuda_context *context);
// On the host: canonical row-major values to or from `layout`, same type.
void cuda_to_canonical(const struct ls_layout *layout, const void *memory, void *canonical);
void cuda_from_canonical(const struct ls_layout *layout, const void *canonical, void *memory);

// ---- lower.c; functions of ls_backend_ops
ls_status cuda_prepare(struct ls_backend *backend, const struct ls_op_desc *desc, struct ls_op *op,
                       struct ls_error *err);
void cuda_op_release(struct ls_backend *backend, struct ls_op *op);
ls_status cuda_run(struct ls_backend *backend, struct ls_op *op, struct ls_stream *stream,
                   const struct ls_op_args *args, struct ls_error *err);

// Set op->state->run, workspace, scratch, in_place; LS_UNSUPPORTED without a message: not one of theirs.
ls_status cuda_lower_elementwise(struct cuda_context *context, struct ls_op *op, struct ls_error *err);
ls_status cuda_lower_spatial(struct cuda_context *context, struct ls_op *op, struct ls_error *err);
ls_status cuda_lower_norm(struct cuda_context *context, struct ls_op *op, struct ls_error *err);
ls_status cuda_lower_loss(struct cuda_context *context, struct ls_op *op, struct ls_error *err);
ls_status cuda_lower_product(struct cuda_context *context, struct ls_op *op, struct ls_error *err);

// out [c] = sum over the rows of x [rows, c]; scratch: cuda_parts_bytes.
ls_status cuda_column_sum(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *reduce,
                          const void *x, enum ls_dtype dtype, int64_t c, float *scratch, float *out,
                          struct ls_error *err);
// out [c] = sum over the parts of partial [parts, c]. With `second` it is [parts, 2, c], and its second half goes there.
ls_status cuda_join(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *reduce,
                    const float *partial, int64_t c, float *out, float *second, struct ls_error *err);
// [parts, c] floats.
static inline size_t cuda_parts_bytes(const struct ls_reduce *reduce, int64_t c) {
  return (size_t)(reduce->parts * c) * sizeof(float);
}
// Mean and variance (biased) of the columns of x [rows, c], and the inverse deviation 1 / sqrt(variance + epsilon). Scratch:
// cuda_moments_scratch bytes.
struct cuda_moments {
  const void *x;
  enum ls_dtype dtype;
  int32_t c;
  float epsilon;
  float *mean, *variance, *inverse;
  float *scratch;
};
ls_status cuda_moments(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *reduce,
                       const struct cuda_moments *moments, struct ls_error *err);
static inline size_t cuda_moments_scratch(const struct ls_reduce *reduce, int64_t c) {
  return 2 * cuda_parts_bytes(reduce, c);
}
static inline int64_t cuda_groups(int64_t n) { return (n + LS_GROUP - 1) / LS_GROUP; }
// Channels and rows of a tensor that lies [rows, channels]: [N,C,H,W] channels last, [N,C], [C].
static inline int64_t cuda_channels(const struct ls_tensor_desc *t) { return t->shape.dim[t->shape.rank == 1 ? 0 : 1]; }

// Names the convolution and what decides how it may be computed: a line without tabs. Pure.
void cuda_convolution_key(const struct cuda_convolution *convolution, const char *machine, bool fused, bool fast,
                          char *text, size_t size);

// The most scratch memory that the library may ask for: engines that want more are not used, so that the memory of a plan
// has a bound that is known without a GPU. Pure. As much as the three tensors together and an eighth, for float32's fastest
// engines put padded copies of them there; where they are small, 64 MiB and four times their size, up to 256 MiB.
size_t cuda_workspace_limit(const struct cuda_convolution *convolution);

// ---- device_work.c; functions of ls_device_ops
void cuda_choose_by(struct ls_backend *backend, struct ls_choices *choices, bool fast);
ls_status cuda_update(struct ls_backend *backend, struct ls_stream *stream, const struct ls_update *update,
                      struct ls_error *err);
ls_status cuda_tree_sum(struct ls_backend *backend, struct ls_stream *stream, float *out, const float *const *part,
                        int parts, int64_t n, struct ls_error *err);
ls_status cuda_check_finite(struct ls_backend *backend, struct ls_stream *stream, const float *values, int64_t n,
                            uint32_t *flag, struct ls_error *err);
ls_status cuda_input(struct ls_backend *backend, struct ls_stream *stream, const struct ls_input *input,
                     struct ls_error *err);
ls_status cuda_zero(struct ls_backend *backend, struct ls_stream *stream, void *memory, size_t bytes,
                    struct ls_error *err);

// The launch macro of the lowering: kernel by name, arguments in place.
#define CUDA_LAUNCH(context, stream, name, n, arguments, err) \
  (context)->machine->launch(context, stream, LS_KERNEL_##name, arguments, n, err)

// The backend of the tests: everything but the device itself.
const struct ls_backend_ops *ls_backend_cuda_twin(void);

#endif
