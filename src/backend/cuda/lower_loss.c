// Softmax, cross-entropy, metrics. See cuda_internal.h. Scratch of the loss: its metrics row by row, [N, LS_METRICS].
#include "backend/cuda/cuda_internal.h"

_Static_assert(LS_METRICS == 4, "the kernels write four metrics a row");

static ls_status run_softmax(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                             const struct ls_op_args *args, struct ls_error *err) {
  int64_t rows = op->desc.tensor[0].shape.dim[0];
  struct ls_k_softmax k = {.x = args->tensor[0],
                           .p = args->tensor[2],
                           .labels = args->tensor[1],
                           .row_metrics = args->scratch,
                           .dtype = op->desc.tensor[0].dtype,
                           .p_dtype = op->desc.tensor[2].dtype,
                           .c = (int32_t)(ls_shape_elements(&op->desc.tensor[0].shape) / rows)};
  LS_TRY(CUDA_LAUNCH(context, stream, softmax, rows, &k, err));
  struct ls_k_metrics m = {args->scratch, args->tensor[3], rows};
  return CUDA_LAUNCH(context, stream, metrics, LS_METRICS, &m, err);
}

static ls_status run_backward(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                              const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_tensor_desc *t = op->desc.tensor;
  int64_t n = ls_shape_elements(&t[0].shape);
  struct ls_k_softmax_backward k = {.p = args->tensor[0],
                                    .labels = args->tensor[1],
                                    .step = op->desc.inputs > 2 ? args->tensor[2] : NULL,
                                    .dx = args->tensor[op->desc.inputs],
                                    .p_dtype = t[0].dtype,
                                    .dtype = t[op->desc.inputs].dtype,
                                    .c = (int32_t)(n / t[0].shape.dim[0]),
                                    .scale = op->desc.attributes.scale};
  return CUDA_LAUNCH(context, stream, softmax_backward, n, &k, err);
}

ls_status cuda_lower_loss(struct cuda_context *context, struct ls_op *op, struct ls_error *err) {
  (void)context;
  (void)err;
  struct cuda_op *state = op->state;
  switch (op->desc.kind) {
    case LS_OP_SOFTMAX_CE_FORWARD:
      state->run = run_softmax;
      op->scratch_bytes = (size_t)op->desc.tensor[0].shape.dim[0] * LS_METRICS * sizeof(float);
      break;
    case LS_OP_SOFTMAX_CE_BACKWARD:
      state->run = run_backward;
      op->in_place = op->desc.tensor[0].dtype == op->desc.tensor[op->desc.inputs].dtype;
      break;
    default: return LS_UNSUPPORTED;
  }
  return LS_OK;
}
