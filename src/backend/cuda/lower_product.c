// Convolutions and fully connected layers: a product on the machine (cuDNN; plain loops on the host), then bias, addend and
// ReLU by an own kernel where the product did not take them. The bias gradient is an own column sum. See cuda_internal.h.
//
// The network's input may lie with more channels than it has (lower.c): for the product they are channels like others.
//
// A fully connected layer is a convolution over images of one pixel: both its input and its weight lie channels last, so
// their values meet in the same order.
//
// Scratch: the product's, then (aligned) that of the bias gradient's sum.
#include <inttypes.h>
#include <stdio.h>

#include "backend/cuda/cuda_internal.h"

static size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

static enum cuda_direction direction_of(enum ls_op_kind kind) {
  switch (kind) {
    case LS_OP_CONV_BACKWARD_DATA:
    case LS_OP_FC_BACKWARD_DATA: return CUDA_BACKWARD_DATA;
    case LS_OP_CONV_BACKWARD_WEIGHTS:
    case LS_OP_FC_BACKWARD_WEIGHTS: return CUDA_BACKWARD_WEIGHTS;
    default: return CUDA_FORWARD;
  }
}

static bool is_convolution(enum ls_op_kind kind) {
  return kind == LS_OP_CONV_FORWARD || kind == LS_OP_CONV_BACKWARD_DATA || kind == LS_OP_CONV_BACKWARD_WEIGHTS;
}

// Which tensors of the operation are x, w, y (or their gradients).
struct places {
  int x, w, y, bias, addend, sum;  // -1: none
};

static struct places places_of(const struct ls_op_desc *desc) {
  const struct ls_op_attributes *a = &desc->attributes;
  switch (direction_of(desc->kind)) {
    case CUDA_BACKWARD_DATA: return (struct places){2, 1, 0, -1, -1, -1};
    case CUDA_BACKWARD_WEIGHTS: return (struct places){0, 2, 1, a->has_bias ? 3 : -1, -1, -1};
    default:
      return (struct places){0,
                             1,
                             desc->inputs,
                             a->has_bias ? 2 : -1,
                             is_convolution(desc->kind) && a->has_addend ? desc->inputs - 1 : -1,
                             is_convolution(desc->kind) && a->statistics ? desc->inputs + 1 : -1};
  }
}

static struct cuda_convolution convolution_of(const struct ls_op_desc *desc) {
  struct places at = places_of(desc);
  const struct ls_shape *x = &desc->tensor[at.x].shape, *w = &desc->tensor[at.w].shape, *y = &desc->tensor[at.y].shape;
  const struct ls_op_attributes *a = &desc->attributes;
  struct cuda_convolution c = {.direction = direction_of(desc->kind),
                               .dtype = desc->tensor[at.x].dtype,
                               .n = x->dim[0],
                               .c = ls_shape_elements(x) / x->dim[0],
                               .h = 1,
                               .w = 1,
                               .k = w->dim[0],
                               .r = 1,
                               .s = 1,
                               .p = 1,
                               .q = 1,
                               .groups = 1,
                               .tf32 = a->tf32,
                               .stride = {1, 1},
                               .dilation = {1, 1}};
  if (c.direction == CUDA_FORWARD) {
    c.bias = a->has_bias && at.addend < 0;
    c.relu = a->relu && at.addend < 0;
    c.statistics = at.sum >= 0;
  }
  if (!is_convolution(desc->kind)) return c;
  c.c = desc->tensor[at.x].layout->channels, c.h = x->dim[2], c.w = x->dim[3];
  c.r = w->dim[2], c.s = w->dim[3];
  c.p = y->dim[2], c.q = y->dim[3];
  c.groups = a->groups;
  for (int i = 0; i < 2; i++) {
    c.stride[i] = a->stride[i], c.dilation[i] = a->dilation[i];
    c.before[i] = a->pad_before[i], c.after[i] = a->pad_after[i];
  }
  return c;
}

void cuda_convolution_key(const struct cuda_convolution *c, const char *machine, bool fused, bool fast, char *text,
                          size_t size) {
  static const char *const directions[] = {"forward", "backward data", "backward weights"};
  const char *type = c->dtype == LS_F32 && c->tf32 ? "tf32" : ls_dtype_name(c->dtype);
  snprintf(text, size,
           "%s, %s%s%s%s%s%s, x %" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64 " w %" PRId64 "x%" PRId64 "x%" PRId64
           " groups %" PRId64 " stride %" PRId64 ",%" PRId64 " dilation %" PRId64 ",%" PRId64 " pad %" PRId64
           ",%" PRId64 ",%" PRId64 ",%" PRId64 ", %s",
           machine, directions[c->direction], fused && c->bias ? " + bias" : "", fused && c->relu ? " + relu" : "",
           c->statistics ? " + statistics" : "", fused ? " fused" : "", fast ? " fast" : "", c->n, c->c, c->h, c->w,
           c->k, c->r, c->s, c->groups, c->stride[0], c->stride[1], c->dilation[0], c->dilation[1], c->before[0],
           c->before[1], c->after[0], c->after[1], type);
}

size_t cuda_workspace_limit(const struct cuda_convolution *c) {
  const size_t mib = (size_t)1 << 20;
  int64_t values = c->n * c->c * c->h * c->w + c->k * c->c / c->groups * c->r * c->s + c->n * c->k * c->p * c->q;
  size_t tensors = aligned((size_t)values * ls_dtype_bytes(c->dtype)), copies = tensors + tensors / 8;
  size_t small = 64 * mib + 4 * tensors;
  if (small > 256 * mib) small = 256 * mib;
  return copies > small ? copies : small;
}

static ls_status run_product(struct cuda_context *context, struct ls_op *op, struct ls_stream *stream,
                             const struct ls_op_args *args, struct ls_error *err) {
  const struct cuda_op *state = op->state;
  struct places at = places_of(&op->desc);
  const struct ls_op_attributes *a = &op->desc.attributes;
  bool forward = direction_of(op->desc.kind) == CUDA_FORWARD;
  const void *bias = forward && at.bias >= 0 ? args->tensor[at.bias] : NULL;
  struct cuda_product_args product = {.x = args->tensor[at.x],
                                      .w = args->tensor[at.w],
                                      .y = args->tensor[at.y],
                                      .bias = state->fused ? bias : NULL,
                                      .sum = at.sum >= 0 ? args->tensor[at.sum] : NULL,
                                      .squares = at.sum >= 0 ? args->tensor[at.sum + 1] : NULL,
                                      .scratch = args->scratch};
  LS_TRY(context->machine->product_run(context, stream, state->product, &product, err));
  if (at.bias >= 0 && !forward) {
    const struct ls_tensor_desc *dy = &op->desc.tensor[at.y];
    float *scratch = (float *)((char *)args->scratch + aligned(state->product_scratch_bytes));
    return cuda_column_sum(context, stream, &state->reduce, args->tensor[at.y], dy->dtype, cuda_channels(dy), scratch,
                           args->tensor[at.bias], err);
  }
  if (!forward || state->fused || (!bias && !a->relu && at.addend < 0)) return LS_OK;
  const struct ls_tensor_desc *y = &op->desc.tensor[at.y];
  struct ls_k_epilogue k = {.x = args->tensor[at.y],
                            .z = at.addend >= 0 ? args->tensor[at.addend] : NULL,
                            .bias = bias,
                            .y = args->tensor[at.y],
                            .relu = a->relu,
                            .c = (int32_t)cuda_channels(y),
                            .dtype = y->dtype,
                            .n = ls_shape_elements(&y->shape)};
  return CUDA_LAUNCH(context, stream, epilogue, cuda_groups(k.n), &k, err);
}

ls_status cuda_lower_product(struct cuda_context *context, struct ls_op *op, struct ls_error *err) {
  struct cuda_op *state = op->state;
  bool known = op->desc.kind >= LS_OP_CONV_FORWARD && op->desc.kind <= LS_OP_FC_BACKWARD_WEIGHTS;
  if (!known) return LS_UNSUPPORTED;
  state->run = run_product;
  const struct ls_op_attributes *a = &op->desc.attributes;
  if (places_of(&op->desc).sum >= 0 && (a->has_bias || a->has_addend || a->relu))
    return ls_fail(err, LS_UNSUPPORTED, "a convolution's statistics are those of the product alone");
  struct cuda_convolution convolution = convolution_of(&op->desc);
  LS_TRY(context->machine->product_new(context, &convolution, &state->product, &state->product_scratch_bytes,
                                       &state->fused, &op->kernel, err));
  op->scratch_bytes = state->product_scratch_bytes;
  if (convolution.direction == CUDA_BACKWARD_WEIGHTS && a->has_bias) {
    const struct ls_tensor_desc *dy = &op->desc.tensor[places_of(&op->desc).y];
    int64_t c = cuda_channels(dy);
    state->reduce = ls_reduce_of(ls_shape_elements(&dy->shape) / c, c);
    op->scratch_bytes = aligned(op->scratch_bytes) + cuda_parts_bytes(&state->reduce, c);
  }
  return LS_OK;
}
