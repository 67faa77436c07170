// Pooling and the option A shortcut. See cuda_internal.h.
#include <inttypes.h>

#include "backend/cuda/cuda_internal.h"

static ls_status run_pool(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                          const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_op_attributes *a = &op->desc.attributes;
  bool forward = op->desc.kind == LS_OP_POOL_FORWARD, most = a->pool == LS_POOL_MAX;
  const struct ls_shape *x = &op->desc.tensor[forward ? 0 : 1].shape, *y = &op->desc.tensor[forward ? 1 : 0].shape;
  struct ls_k_pool k = {.from = args->tensor[0],
                        .to = args->tensor[1],
                        .where = most && (a->training || !forward) ? args->workspace : NULL,
                        .dtype = op->desc.tensor[0].dtype,
                        .average = most                                  ? 0
                                   : a->pool == LS_POOL_AVERAGE_WITH_PAD ? 2
                                                                         : 1,
                        .c = (int32_t)x->dim[1],
                        .h = (int32_t)x->dim[2],
                        .w = (int32_t)x->dim[3],
                        .p = (int32_t)y->dim[2],
                        .q = (int32_t)y->dim[3]};
  for (int i = 0; i < 2; i++) {
    k.kernel[i] = (int32_t)a->kernel[i];
    k.stride[i] = (int32_t)a->stride[i];
    k.dilation[i] = (int32_t)a->dilation[i];
    k.before[i] = (int32_t)a->pad_before[i];
    k.after[i] = (int32_t)a->pad_after[i];
  }
  int width = ls_stretch(k.c);
  if (forward) return CUDA_LAUNCH(context, stream, pool_forward, ls_shape_elements(y) / width, &k, err);
  return CUDA_LAUNCH(context, stream, pool_backward, ls_shape_elements(x) / width, &k, err);
}

static ls_status run_shortcut(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                              const struct ls_op_args *args, struct ls_error *err) {
  bool forward = op->desc.kind == LS_OP_SHORTCUT_FORWARD;
  const struct ls_shape *x = &op->desc.tensor[forward ? 0 : 1].shape, *y = &op->desc.tensor[forward ? 1 : 0].shape;
  struct ls_k_shortcut k = {.from = args->tensor[0],
                            .to = args->tensor[1],
                            .dtype = op->desc.tensor[0].dtype,
                            .c = (int32_t)x->dim[1],
                            .h = (int32_t)x->dim[2],
                            .w = (int32_t)x->dim[3],
                            .k = (int32_t)y->dim[1],
                            .p = (int32_t)y->dim[2],
                            .q = (int32_t)y->dim[3],
                            .stride = {(int32_t)op->desc.attributes.stride[0], (int32_t)op->desc.attributes.stride[1]}};
  if (forward) return CUDA_LAUNCH(context, stream, shortcut_forward, ls_shape_elements(y), &k, err);
  return CUDA_LAUNCH(context, stream, shortcut_backward, ls_shape_elements(x), &k, err);
}

ls_status cuda_lower_spatial(struct cuda_context *context, struct ls_op *op, struct ls_error *err) {
  (void)context;
  struct cuda_op *state = op->state;
  const struct ls_op_attributes *a = &op->desc.attributes;
  switch (op->desc.kind) {
    case LS_OP_POOL_FORWARD:
    case LS_OP_POOL_BACKWARD: state->run = run_pool; break;
    case LS_OP_SHORTCUT_FORWARD:
    case LS_OP_SHORTCUT_BACKWARD: state->run = run_shortcut; return LS_OK;
    default: return LS_UNSUPPORTED;
  }
  if (a->pool == LS_POOL_MAX && a->kernel[0] * a->kernel[1] > UINT16_MAX) {
    return ls_fail(err, LS_UNSUPPORTED,
                   "a maximum over windows of %" PRId64 " positions: the CUDA backend goes up to %d",
                   a->kernel[0] * a->kernel[1], UINT16_MAX);
  }
  if (op->desc.kind == LS_OP_POOL_FORWARD && a->pool == LS_POOL_MAX && a->training)
    op->workspace_bytes = (size_t)ls_shape_elements(&op->desc.tensor[1].shape) * sizeof(uint16_t);
  return LS_OK;
}
