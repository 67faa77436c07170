// Operations of the sixteen-image kernels (batch16.h) as the planner sees them.
//
// They are chosen by rule, so that every run and every worker chooses alike: the batch is a multiple of 16, and a
// convolution has stride 1, one group, a kernel of at most 7, few enough weights to stay in the second-level cache, and
// output channels that oneDNN would pad (or an input that is in this layout already and no whole block of channels).
#include <stdlib.h>

#include "backend/cpu/batch16.h"
#include "backend/cpu/cpu_internal.h"

enum { MAX_WEIGHT_BYTES = 1 << 19 };

struct batch16_op {
  struct cpu_op base;
  const struct ls_b16_kernels *kernels;
  struct ls_b16_conv conv;
  struct ls_b16_pool pool;
};

static void release_op(struct cpu_op *state) { free(state); }

static bool is_fc(enum ls_op_kind kind) { return kind >= LS_OP_FC_FORWARD && kind <= LS_OP_FC_BACKWARD_WEIGHTS; }

static ls_status run_conv(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                          struct ls_error *err) {
  (void)context;
  (void)err;
  const struct batch16_op *state = op->state;
  const struct ls_b16_kernels *k = state->kernels;
  void *const *t = args->tensor;
  bool bias = op->desc.attributes.has_bias;
  switch (op->desc.kind) {
    case LS_OP_CONV_FORWARD:
      k->conv_forward(&state->conv, t[0], t[1], bias ? t[2] : NULL, t[bias ? 3 : 2], args->scratch);
      break;
    case LS_OP_FC_FORWARD:
      k->fc_forward(&state->conv, t[0], t[1], bias ? t[2] : NULL, t[bias ? 3 : 2], args->scratch);
      break;
    case LS_OP_CONV_BACKWARD_DATA: k->conv_backward_data(&state->conv, t[0], t[1], t[2], args->scratch); break;
    case LS_OP_FC_BACKWARD_DATA: k->fc_backward_data(&state->conv, t[0], t[1], t[2], args->scratch); break;
    case LS_OP_CONV_BACKWARD_WEIGHTS:
      k->conv_backward_weights(&state->conv, t[0], t[1], t[2], bias ? t[3] : NULL, args->scratch);
      break;
    default: k->fc_backward_weights(&state->conv, t[0], t[1], t[2], bias ? t[3] : NULL, args->scratch); break;
  }
  return LS_OK;
}

static ls_status run_pool(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                          struct ls_error *err) {
  (void)context;
  (void)err;
  const struct batch16_op *state = op->state;
  if (op->desc.kind == LS_OP_POOL_FORWARD) {
    state->kernels->pool_forward(&state->pool, args->tensor[0], args->tensor[1],
                                 state->pool.max && op->desc.attributes.training ? args->workspace : NULL);
  } else {
    state->kernels->pool_backward(&state->pool, args->tensor[0], args->workspace, args->tensor[1]);
  }
  return LS_OK;
}

// Layouts: images in the sixteen-image layout, parameters row-major.
static ls_status set_layouts(struct cpu_context *context, struct ls_op *op, const bool *is_parameter,
                             struct ls_error *err) {
  for (int i = 0; i < op->desc.inputs + op->desc.outputs; i++) {
    struct ls_tensor_desc *t = &op->desc.tensor[i];
    dnnl_memory_desc_t md = is_parameter[i] ? cpu_plain_md(LS_F32, &t->shape, false) : cpu_batch16_md(&t->shape);
    t->layout = cpu_layout(context, &md);
    if (!t->layout) return ls_fail(err, LS_NO_MEMORY, "no memory for a layout");
  }
  return LS_OK;
}

// x, w and y of a convolution or fully connected operation of any direction.
static void find_tensors(const struct ls_op_desc *desc, struct ls_shape *x, struct ls_shape *w, struct ls_shape *y) {
  const struct ls_tensor_desc *t = desc->tensor;
  switch (desc->kind) {
    case LS_OP_CONV_FORWARD:
    case LS_OP_FC_FORWARD: *x = t[0].shape, *w = t[1].shape, *y = t[desc->inputs].shape; break;
    case LS_OP_CONV_BACKWARD_DATA:
    case LS_OP_FC_BACKWARD_DATA: *y = t[0].shape, *w = t[1].shape, *x = t[2].shape; break;
    default: *x = t[0].shape, *y = t[1].shape, *w = t[2].shape; break;
  }
}

static struct ls_b16_conv conv_of(const struct ls_op_desc *desc) {
  struct ls_shape x, w, y;
  find_tensors(desc, &x, &w, &y);
  struct ls_b16_conv conv = {.groups16 = x.dim[0] / 16,
                             .k = y.dim[1],
                             .relu = desc->attributes.relu,
                             .h = 1,
                             .w = 1,
                             .p = 1,
                             .q = 1,
                             .r = 1,
                             .s = 1};
  if (is_fc(desc->kind)) {
    conv.c = ls_shape_elements(&x) / x.dim[0];
    return conv;
  }
  conv.c = x.dim[1], conv.h = x.dim[2], conv.w = x.dim[3];
  conv.p = y.dim[2], conv.q = y.dim[3], conv.r = w.dim[2], conv.s = w.dim[3];
  conv.pad_h = desc->attributes.pad_before[0], conv.pad_w = desc->attributes.pad_before[1];
  return conv;
}

static bool suits(const struct ls_op_desc *desc) {
  const struct ls_op_attributes *a = &desc->attributes;
  const struct ls_shape *x = &desc->tensor[0].shape, *w = &desc->tensor[1].shape;
  bool here = cpu_is_batch16(desc->tensor[0].layout);
  if (!ls_b16_kernels() || a->has_addend || x->dim[0] % 16 != 0) return false;
  if (desc->tensor[1].layout && desc->tensor[1].layout->md.format_desc.blocking.inner_nblks != 0) return false;
  if (desc->kind == LS_OP_FC_FORWARD) return here;
  for (int i = 0; i < 2; i++) {
    if (a->stride[i] != 1 || a->dilation[i] != 1 || a->kernel[i] > LS_B16_MAX_KERNEL ||
        a->pad_before[i] >= a->kernel[i]) {
      return false;
    }
  }
  if (a->groups != 1 || a->kernel[1] < 3 || ls_shape_elements(w) * 4 > MAX_WEIGHT_BYTES) return false;
  bool padded_output = w->dim[0] % 16 != 0, padded_input = w->dim[1] % 16 != 0;
  return padded_output || (here && padded_input);
}

static ls_status prepare_conv(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  bool forward = desc->kind == LS_OP_CONV_FORWARD || desc->kind == LS_OP_FC_FORWARD;
  bool weights = desc->kind == LS_OP_CONV_BACKWARD_WEIGHTS || desc->kind == LS_OP_FC_BACKWARD_WEIGHTS;
  if (forward ? !suits(desc) : !desc->forward || !cpu_is_batch16(desc->forward->desc.tensor[0].layout))
    return LS_UNSUPPORTED;
  struct batch16_op *state = calloc(1, sizeof *state);
  if (!state) return ls_fail(err, LS_NO_MEMORY, "no memory for an operation");
  *state = (struct batch16_op){{run_conv, release_op}, ls_b16_kernels(), conv_of(desc), {0}};
  op->state = state;
  op->kernel = state->kernels->name;
  op->scratch_bytes = ls_b16_scratch_bytes(&state->conv);
  bool parameter[LS_OP_MAX_TENSORS] = {false, !weights, weights || (forward && desc->inputs == 3), weights};
  return set_layouts(context, op, parameter, err);
}

static ls_status prepare_pool(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  const struct ls_op_attributes *a = &desc->attributes;
  bool forward = desc->kind == LS_OP_POOL_FORWARD;
  const struct ls_layout *decides = forward         ? desc->tensor[0].layout
                                    : desc->forward ? desc->forward->desc.tensor[0].layout
                                                    : NULL;
  if (!cpu_is_batch16(decides) || a->kernel[0] * a->kernel[1] > 255) return LS_UNSUPPORTED;
  struct batch16_op *state = calloc(1, sizeof *state);
  if (!state) return ls_fail(err, LS_NO_MEMORY, "no memory for an operation");
  const struct ls_shape *x = &desc->tensor[forward ? 0 : 1].shape, *y = &desc->tensor[forward ? 1 : 0].shape;
  state->base = (struct cpu_op){run_pool, release_op};
  state->kernels = ls_b16_kernels();
  state->pool = (struct ls_b16_pool){.planes = x->dim[0] / 16 * x->dim[1],
                                     .h = x->dim[2],
                                     .w = x->dim[3],
                                     .p = y->dim[2],
                                     .q = y->dim[3],
                                     .r = a->kernel[0],
                                     .s = a->kernel[1],
                                     .stride_h = a->stride[0],
                                     .stride_w = a->stride[1],
                                     .pad_h = a->pad_before[0],
                                     .pad_w = a->pad_before[1],
                                     .max = a->pool == LS_POOL_MAX,
                                     .count_pad = a->pool == LS_POOL_AVERAGE_WITH_PAD,
                                     .pad_end_h = a->pad_after[0],
                                     .pad_end_w = a->pad_after[1]};
  op->state = state;
  op->kernel = state->kernels->name;
  if (state->pool.max) op->workspace_bytes = (size_t)ls_shape_elements(y);
  return set_layouts(context, op, (bool[LS_OP_MAX_TENSORS]){false}, err);
}

ls_status cpu_batch16_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  switch (op->desc.kind) {
    case LS_OP_CONV_FORWARD:
    case LS_OP_CONV_BACKWARD_DATA:
    case LS_OP_CONV_BACKWARD_WEIGHTS:
    case LS_OP_FC_FORWARD:
    case LS_OP_FC_BACKWARD_DATA:
    case LS_OP_FC_BACKWARD_WEIGHTS: return prepare_conv(context, op, err);
    case LS_OP_POOL_FORWARD:
    case LS_OP_POOL_BACKWARD: return prepare_pool(context, op, err);
    default: return LS_UNSUPPORTED;
  }
}
