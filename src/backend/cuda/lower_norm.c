// Batch norm, its folding, local response norm. See cuda_internal.h.
//
// Batch norm's scratch: the parts of the sums (reduce.h), twice: moments or the two sums of the backward pass. Where the
// convolution before it has summed x already, one small kernel makes the moments of these sums instead. Its workspace: the
// inverse deviations [C], float32. No mask of the fused ReLU is kept: the backward pass computes the sign again.
#include "backend/cuda/cuda_internal.h"

ls_status cuda_moments(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *r,
                       const struct cuda_moments *of, struct ls_error *err) {
  int32_t c = of->c;
  float *means = of->scratch, *squares = of->scratch + r->parts * c;
  struct ls_k_moments k = {of->x, means, squares, of->dtype, c, r->tile, r->rows, r->run};
  LS_TRY(CUDA_LAUNCH(context, stream, moments, r->parts * r->across, &k, err));
  struct ls_k_moments_join j = {.mean = means,
                                .squares = squares,
                                .out_mean = of->mean,
                                .variance = of->variance,
                                .inverse = of->inverse,
                                .epsilon = of->epsilon,
                                .c = c,
                                .rows = r->rows,
                                .run = r->run,
                                .parts = r->parts};
  return CUDA_LAUNCH(context, stream, moments_join, ls_joining_blocks(c), &j, err);
}

static ls_status run_train(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                           const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_reduce *r = &((struct cuda_op *)op->state)->reduce;
  const struct ls_tensor_desc *t = &op->desc.tensor[0];
  const struct ls_op_attributes *a = &op->desc.attributes;
  int32_t c = (int32_t)cuda_channels(t);
  void *const *p = args->tensor, *const *out = p + op->desc.inputs;
  float *inverse = args->workspace;
  if (a->statistics) {
    struct ls_k_statistics k = {p[LS_BN_SUM], p[LS_BN_SUM + 1], out[1], out[2], inverse, a->epsilon, r->rows};
    LS_TRY(CUDA_LAUNCH(context, stream, statistics, c, &k, err));
  } else {
    struct cuda_moments of = {p[0], t->dtype, c, a->epsilon, out[1], out[2], inverse, args->scratch};
    LS_TRY(cuda_moments(context, stream, r, &of, err));
  }
  struct ls_k_normalise y = {.x = p[0],
                             .z = a->has_addend ? p[op->desc.inputs - 1] : NULL,
                             .y = out[0],
                             .gamma = p[1],
                             .beta = p[2],
                             .mean = out[1],
                             .inverse = inverse,
                             .dtype = t->dtype,
                             .c = c,
                             .relu = a->relu,
                             .n = ls_shape_elements(&t->shape)};
  y.stride = ls_stride_of(y.n, c);
  return CUDA_LAUNCH(context, stream, normalise, y.stride, &y, err);
}

static ls_status run_infer(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                           const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_tensor_desc *t = &op->desc.tensor[0];
  int32_t c = (int32_t)cuda_channels(t);
  void *const *p = args->tensor;
  struct ls_k_inverse i = {p[4], args->scratch, op->desc.attributes.epsilon};
  LS_TRY(CUDA_LAUNCH(context, stream, inverse, c, &i, err));
  struct ls_k_normalise y = {.x = p[0],
                             .y = p[5],
                             .gamma = p[1],
                             .beta = p[2],
                             .mean = p[3],
                             .inverse = args->scratch,
                             .dtype = t->dtype,
                             .c = c,
                             .relu = op->desc.attributes.relu,
                             .n = ls_shape_elements(&t->shape)};
  y.stride = ls_stride_of(y.n, c);
  return CUDA_LAUNCH(context, stream, normalise, y.stride, &y, err);
}

static ls_status run_backward(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                              const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_reduce *r = &((struct cuda_op *)op->state)->reduce;
  const struct ls_tensor_desc *t = &op->desc.tensor[0];
  int32_t c = (int32_t)cuda_channels(t);
  void *const *p = args->tensor;
  float *dgamma = p[7], *dbeta = p[8], *partial = args->scratch;
  bool more = r->parts > 1;
  struct ls_k_bn_backward k = {.x = p[0],
                               .dy = p[1],
                               .dx = p[6],
                               .gamma = p[2],
                               .beta = p[3],
                               .mean = p[4],
                               .inverse = args->workspace,
                               .dgamma = dgamma,
                               .dbeta = dbeta,
                               .products = more ? partial : dgamma,
                               .slopes = more ? partial + c : dbeta,
                               .dtype = t->dtype,
                               .c = c,
                               .relu = op->desc.attributes.relu,
                               .tile = r->tile,
                               .rows = r->rows,
                               .run = r->run,
                               .stride = ls_stride_of(r->rows * c, c)};
  LS_TRY(CUDA_LAUNCH(context, stream, bn_backward_sums, r->parts * r->across, &k, err));
  if (more) LS_TRY(cuda_join(context, stream, r, partial, c, dgamma, dbeta, err));
  return CUDA_LAUNCH(context, stream, bn_backward_data, k.stride, &k, err);
}

static ls_status run_fold(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                          const struct ls_op_args *args, struct ls_error *err) {
  int bias = op->desc.attributes.has_bias;
  void *const *p = args->tensor + bias;
  const struct ls_shape *w = &op->desc.tensor[0].shape;
  int64_t n = ls_shape_elements(w);
  struct ls_k_fold k = {.w = args->tensor[0],
                        .b = bias ? args->tensor[1] : NULL,
                        .gamma = p[1],
                        .beta = p[2],
                        .mean = p[3],
                        .variance = p[4],
                        .to_w = p[5],
                        .to_b = p[6],
                        .dtype = op->desc.tensor[op->desc.inputs].dtype,
                        .epsilon = op->desc.attributes.epsilon,
                        .inner = n / w->dim[0]};
  return CUDA_LAUNCH(context, stream, fold, n, &k, err);
}

static ls_status run_lrn(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                         const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_op_attributes *a = &op->desc.attributes;
  bool forward = op->desc.kind == LS_OP_LRN_FORWARD;
  int64_t n = ls_shape_elements(&op->desc.tensor[0].shape);
  struct ls_k_lrn k = {.x = args->tensor[0],
                       .dy = forward ? NULL : args->tensor[1],
                       .to = args->tensor[forward ? 1 : 2],
                       .base = a->training || !forward ? args->workspace : NULL,
                       .terms = forward ? NULL : args->scratch,
                       .dtype = op->desc.tensor[0].dtype,
                       .c = (int32_t)cuda_channels(&op->desc.tensor[0]),
                       .half = (int32_t)(a->lrn_size / 2),
                       .alpha = a->alpha / (float)a->lrn_size,
                       .beta = a->beta,
                       .k = a->k};
  if (forward) return CUDA_LAUNCH(context, stream, lrn_forward, n, &k, err);
  LS_TRY(CUDA_LAUNCH(context, stream, lrn_terms, n, &k, err));
  return CUDA_LAUNCH(context, stream, lrn_backward, n, &k, err);
}

ls_status cuda_lower_norm(struct cuda_context *context, struct ls_op *op, struct ls_error *err) {
  (void)context;
  (void)err;
  struct cuda_op *state = op->state;
  const struct ls_tensor_desc *t = &op->desc.tensor[0];
  int64_t n = ls_shape_elements(&t->shape), c = cuda_channels(t);
  switch (op->desc.kind) {
    case LS_OP_BN_FORWARD_TRAIN: state->run = run_train; break;
    case LS_OP_BN_BACKWARD: state->run = run_backward; break;
    case LS_OP_BN_FORWARD_INFER:
      state->run = run_infer;
      op->scratch_bytes = (size_t)c * sizeof(float);
      op->in_place = true;
      return LS_OK;
    case LS_OP_BN_FOLD: state->run = run_fold; return LS_OK;
    case LS_OP_LRN_FORWARD:
      if (op->desc.attributes.training) op->workspace_bytes = (size_t)n * sizeof(float);
      state->run = run_lrn;
      return LS_OK;
    case LS_OP_LRN_BACKWARD:
      op->scratch_bytes = (size_t)n * sizeof(float);
      state->run = run_lrn;
      return LS_OK;
    default: return LS_UNSUPPORTED;
  }
  state->reduce = ls_reduce_of(n / c, c);
  if (!op->desc.attributes.statistics) op->scratch_bytes = cuda_moments_scratch(&state->reduce, c);
  if (op->desc.kind == LS_OP_BN_FORWARD_TRAIN) op->workspace_bytes = (size_t)c * sizeof(float);
  return LS_OK;
}
