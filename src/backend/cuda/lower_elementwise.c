// Sums, activations, moves, dropout: one kernel each. See cuda_internal.h.
#include "backend/cuda/cuda_internal.h"

static int64_t elements(const struct ls_op *op, int tensor) {
  return ls_shape_elements(&op->desc.tensor[tensor].shape);
}

static ls_status run_add(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                         const struct ls_op_args *args, struct ls_error *err) {
  struct ls_k_add k = {.y = args->tensor[op->desc.inputs],
                       .inputs = op->desc.inputs,
                       .relu = op->desc.attributes.relu,
                       .dtype = op->desc.tensor[0].dtype,
                       .n = elements(op, 0)};
  for (int i = 0; i < k.inputs; i++) k.x[i] = args->tensor[i];
  return CUDA_LAUNCH(context, stream, add, cuda_groups(k.n), &k, err);
}

static ls_status run_relu(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                          const struct ls_op_args *args, struct ls_error *err) {
  bool forward = op->desc.kind == LS_OP_RELU_FORWARD;
  void *const *t = args->tensor;
  struct ls_k_relu k = {.sign = t[0],
                        .to = t[op->desc.inputs],
                        .inputs = forward ? 1 : op->desc.inputs - 1,
                        .slope = op->desc.attributes.slope,
                        .dtype = op->desc.tensor[0].dtype,
                        .n = elements(op, 0)};
  for (int i = 0; i < k.inputs; i++) k.from[i] = t[forward ? i : i + 1];
  if (forward) return CUDA_LAUNCH(context, stream, relu_forward, cuda_groups(k.n), &k, err);
  return CUDA_LAUNCH(context, stream, relu_backward, cuda_groups(k.n), &k, err);
}

static ls_status run_reorder(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                             const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_tensor_desc *from = &op->desc.tensor[0], *to = &op->desc.tensor[1];
  bool integers = from->dtype == LS_I32 || to->dtype == LS_I32;
  const struct ls_layout *a = from->layout, *b = to->layout;
  if (a->channels_last == b->channels_last && a->channels == b->channels && !integers) {
    int64_t n = (int64_t)(cuda_layout_bytes(b) / ls_dtype_bytes(b->dtype));
    struct ls_k_cast cast = {args->tensor[0], args->tensor[1], from->dtype, to->dtype, n};
    return CUDA_LAUNCH(context, stream, cast, cuda_groups(cast.n), &cast, err);
  }
  struct ls_k_reorder k = {.from = args->tensor[0],
                           .to = args->tensor[1],
                           .from_dtype = from->dtype,
                           .to_dtype = to->dtype,
                           .from_channels = a->channels,
                           .to_channels = b->channels,
                           .n = 1,
                           .c = 1,
                           .h = 1,
                           .w = elements(op, 0)};
  if (from->shape.rank == 4) {
    k.n = from->shape.dim[0], k.c = from->shape.dim[1];
    k.h = from->shape.dim[2], k.w = from->shape.dim[3];
  }
  return CUDA_LAUNCH(context, stream, reorder, (int64_t)(cuda_layout_bytes(b) / ls_dtype_bytes(b->dtype)), &k, err);
}

static ls_status run_dropout(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                             const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_tensor_desc *t = &op->desc.tensor[0];
  const struct ls_op_attributes *a = &op->desc.attributes;
  struct ls_k_dropout k = {.from = args->tensor[0],
                           .to = args->tensor[2],
                           .step = args->tensor[1],
                           .layer = a->layer,
                           .threshold = (uint32_t)((double)a->rate * 4294967296.0),
                           .scale = 1 / (1 - a->rate),
                           .dtype = t->dtype,
                           .c = cuda_channels(t)};
  k.plane = elements(op, 0) / t->shape.dim[0] / k.c;
  return CUDA_LAUNCH(context, stream, dropout, t->shape.dim[0] * ((k.c * k.plane + 3) / 4), &k, err);
}

ls_status cuda_lower_elementwise(struct cuda_context *context, struct ls_op *op, struct ls_error *err) {
  (void)context;
  (void)err;
  struct cuda_op *state = op->state;
  switch (op->desc.kind) {
    case LS_OP_ADD: state->run = run_add; break;
    case LS_OP_RELU_FORWARD:
    case LS_OP_RELU_BACKWARD: state->run = run_relu; break;
    case LS_OP_REORDER: state->run = run_reorder; break;
    case LS_OP_DROPOUT_FORWARD:
    case LS_OP_DROPOUT_BACKWARD: state->run = run_dropout; break;
    default: return LS_UNSUPPORTED;
  }
  op->in_place = op->desc.kind != LS_OP_REORDER;
  return LS_OK;
}
