// From operations to kernels: what all of them share. See cuda_internal.h.
#include <stdlib.h>

#include "backend/cuda/cuda_internal.h"

static ls_status check(const struct ls_op_desc *desc, struct ls_error *err) {
  if (desc->kind < 0 || desc->kind >= LS_OP_COUNT)
    return ls_fail(err, LS_UNSUPPORTED, "the CUDA backend has no operation %d", (int)desc->kind);
  for (int i = 0; i < desc->inputs + desc->outputs; i++) {
    const struct ls_tensor_desc *t = &desc->tensor[i];
    if (t->dtype == LS_F64 && desc->kind != LS_OP_REORDER)
      return ls_fail(err, LS_UNSUPPORTED, "the CUDA backend does not compute in %s", ls_dtype_name(t->dtype));
    if (ls_shape_elements(&t->shape) <= INT32_MAX) continue;
    char text[64];
    return ls_fail(err, LS_UNSUPPORTED, "a tensor of %s has more than 2147483647 values; use more shards",
                   ls_shape_format(&t->shape, text, sizeof text));
  }
  return LS_OK;
}

// Products on 16-bit images take 16-bit weights and give 16-bit weight gradients: cuDNN has engines for these alone. The
// planner converts from and to the float32 slabs. So it does with biases, which a product adds itself where it can; what
// else there is of parameters is taken as float32.
static void set_product_types(struct ls_op_desc *desc) {
  enum ls_dtype dtype = desc->tensor[0].dtype;
  switch (desc->kind) {
    case LS_OP_CONV_FORWARD:
    case LS_OP_FC_FORWARD:
      if (desc->attributes.has_bias) desc->tensor[2].dtype = dtype;
      desc->tensor[1].dtype = dtype;
      break;
    case LS_OP_CONV_BACKWARD_DATA:
    case LS_OP_FC_BACKWARD_DATA: desc->tensor[1].dtype = dtype; break;
    case LS_OP_CONV_BACKWARD_WEIGHTS:
    case LS_OP_FC_BACKWARD_WEIGHTS: desc->tensor[2].dtype = dtype; break;
    default: break;
  }
}

// A convolution reads the network's input with the channels that it lies with (cuda_input_layout), and its weight and that
// one's gradient have as many. The zeros of the input keep the gradient's zero, and so the weight's. 0: as in the shape.
static int64_t padded_channels(const struct ls_op_desc *desc) {
  const struct ls_layout *x = desc->tensor[0].layout;
  bool reads = desc->kind == LS_OP_CONV_FORWARD || desc->kind == LS_OP_CONV_BACKWARD_WEIGHTS;
  return reads && desc->attributes.groups == 1 && x && x->channels > x->shape.dim[1] ? x->channels : 0;
}

// Images and what has their shape lie channels last, all else row-major. A reorder keeps what was asked for.
static ls_status set_layouts(struct cuda_context *context, struct ls_op *op, struct ls_error *err) {
  int64_t channels = padded_channels(&op->desc);
  int weight = op->desc.kind == LS_OP_CONV_FORWARD ? 1 : op->desc.inputs;
  for (int i = 0; i < op->desc.inputs + op->desc.outputs; i++) {
    struct ls_tensor_desc *t = &op->desc.tensor[i];
    bool keep = t->layout && op->desc.kind == LS_OP_REORDER;
    if (channels && (i == 0 || i == weight))
      t->layout = cuda_padded_layout(context, t->dtype, &t->shape, channels);
    else if (!keep)
      t->layout = cuda_own_layout(context, t->dtype, &t->shape);
    if (!t->layout) return ls_fail(err, LS_NO_MEMORY, "no memory for a layout");
  }
  return LS_OK;
}

ls_status cuda_prepare(struct ls_backend *backend, const struct ls_op_desc *desc, struct ls_op *op,
                       struct ls_error *err) {
  static ls_status (*const lower[])(struct cuda_context *, struct ls_op *, struct ls_error *) = {
      cuda_lower_elementwise, cuda_lower_spatial, cuda_lower_norm, cuda_lower_loss, cuda_lower_product};
  *op = (struct ls_op){.ops = backend->ops, .desc = *desc, .kernel = "own"};
  LS_TRY(check(desc, err));
  set_product_types(&op->desc);
  LS_TRY(set_layouts(backend->state, op, err));
  op->state = calloc(1, sizeof(struct cuda_op));
  if (!op->state) return ls_fail(err, LS_NO_MEMORY, "no memory for an operation");
  ls_status status = LS_UNSUPPORTED;
  const struct cuda_op *state = op->state;
  for (size_t i = 0; i < sizeof lower / sizeof *lower && status == LS_UNSUPPORTED; i++) {
    status = lower[i](backend->state, op, err);
    if (status == LS_UNSUPPORTED && state->run) break;  // it is its own, and it says why not
  }
  if (status == LS_UNSUPPORTED && !state->run)
    ls_fail(err, LS_UNSUPPORTED, "the CUDA backend has no operation %d", (int)desc->kind);
  if (status != LS_OK) cuda_op_release(backend, op);
  return status;
}

void cuda_op_release(struct ls_backend *backend, struct ls_op *op) {
  const struct cuda_context *context = backend->state;
  struct cuda_op *state = op->state;
  if (state && state->product) context->machine->product_free(state->product);
  free(state);
  op->state = NULL;
}

ls_status cuda_run(struct ls_backend *backend, struct ls_op *op, struct ls_stream *stream,
                   const struct ls_op_args *args, struct ls_error *err) {
  return ((struct cuda_op *)op->state)->run(backend->state, op, stream, args, err);
}

ls_status cuda_column_sum(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *r,
                          const void *x, enum ls_dtype dtype, int64_t c, float *scratch, float *out,
                          struct ls_error *err) {
  bool whole = r->parts == 1;
  struct ls_k_column_sum k = {.x = x,
                              .out = whole ? out : scratch,
                              .dtype = dtype,
                              .c = (int32_t)c,
                              .tile = r->tile,
                              .rows = r->rows,
                              .run = r->run};
  LS_TRY(CUDA_LAUNCH(context, stream, column_sum, r->parts * r->across, &k, err));
  return whole ? LS_OK : cuda_join(context, stream, r, scratch, c, out, NULL, err);
}

ls_status cuda_join(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *r,
                    const float *partial, int64_t c, float *out, float *second, struct ls_error *err) {
  int64_t width = second ? 2 * c : c;
  struct ls_k_column_sum k = {.x = partial,
                              .out = out,
                              .high = second,
                              .dtype = LS_F32,
                              .c = (int32_t)width,
                              .half = second ? (int32_t)c : 0,
                              .tile = 1,
                              .rows = r->parts,
                              .run = r->parts};
  return CUDA_LAUNCH(context, stream, column_sum, ls_joining_blocks(c) * (second ? 2 : 1), &k, err);
}
