// Operations that oneDNN runs: convolution, fully connected, pooling, batch norm, LRN, reorders.
//
// prepare() makes one primitive with the layouts oneDNN likes best ("any") where they are free, and tells the planner
// which it got. The scratchpad is the planner's memory, so a run allocates nothing.
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_internal.h"

struct dnnl_op {
  struct cpu_op base;
  dnnl_primitive_desc_t pd;
  dnnl_primitive_t primitive;
  int count;
  dnnl_exec_arg_t args[LS_OP_MAX_TENSORS + 2];
  int source[LS_OP_MAX_TENSORS + 2];  // tensor of the operation, or one of the two below
  void *last[LS_OP_MAX_TENSORS + 2];  // pointer set most recently: setting one costs, so only changes are set
};

enum { FROM_WORKSPACE = -1, FROM_SCRATCH = -2 };

static void release_op(struct cpu_op *base) {
  struct dnnl_op *state = (struct dnnl_op *)base;
  for (int i = 0; i < state->count; i++) dnnl_memory_destroy(state->args[i].memory);
  if (state->primitive) dnnl_primitive_destroy(state->primitive);
  if (state->pd) dnnl_primitive_desc_destroy(state->pd);
  free(state);
}

static ls_status run_op(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                        struct ls_error *err) {
  struct dnnl_op *state = op->state;
  if (op->desc.attributes.has_addend) {  // oneDNN adds to what the output holds
    int y = op->desc.inputs;
    if (args->tensor[y] != args->tensor[y - 1])
      memcpy(args->tensor[y], args->tensor[y - 1], dnnl_memory_desc_get_size(&op->desc.tensor[y].layout->md));
  }
  for (int i = 0; i < state->count; i++) {
    int from = state->source[i];
    void *pointer = from == FROM_WORKSPACE ? args->workspace
                    : from == FROM_SCRATCH ? args->scratch
                                           : args->tensor[from];
    if (pointer == state->last[i]) continue;
    dnnl_memory_set_data_handle(state->args[i].memory, pointer);
    state->last[i] = pointer;
  }
  dnnl_status_t status = dnnl_primitive_execute(state->primitive, context->stream, state->count, state->args);
  return cpu_dnnl_error(status, "execution", err);
}

static ls_status add_argument(struct cpu_context *context, struct dnnl_op *state, int argument,
                              const dnnl_memory_desc_t *md, int source, struct ls_error *err) {
  dnnl_exec_arg_t *arg = &state->args[state->count];
  LS_TRY(cpu_dnnl_error(dnnl_memory_create(&arg->memory, md, context->engine, DNNL_MEMORY_NONE), "memory", err));
  arg->arg = argument;
  state->source[state->count++] = source;
  return LS_OK;
}

// What links tensors of an operation to arguments of a primitive.
struct slot {
  int argument;        // 0: none, the tensor only has the layout
  dnnl_query_t query;  // which descriptor it has; dnnl_query_undef: as in the operation's description
};

// From a primitive descriptor to a ready operation: layouts back into the description, arguments, workspace, scratch.
static ls_status finish(struct cpu_context *context, struct ls_op *op, dnnl_primitive_desc_t pd,
                        const struct slot *slots, struct ls_error *err) {
  struct dnnl_op *state = calloc(1, sizeof *state);
  if (!state) {
    dnnl_primitive_desc_destroy(pd);
    return ls_fail(err, LS_NO_MEMORY, "no memory for an operation");
  }
  state->base = (struct cpu_op){run_op, release_op};
  state->pd = pd;
  op->state = state;
  LS_TRY(cpu_dnnl_error(dnnl_primitive_create(&state->primitive, pd), "primitive", err));
  dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&op->kernel);
  for (int i = 0; i < op->desc.inputs + op->desc.outputs; i++) {
    struct ls_tensor_desc *t = &op->desc.tensor[i];
    const dnnl_memory_desc_t *md =
        slots[i].query == dnnl_query_undef
            ? NULL
            : dnnl_primitive_desc_query_md(pd, slots[i].query,
                                           slots[i].query == dnnl_query_exec_arg_md ? slots[i].argument : 0);
    if (md) t->layout = cpu_layout(context, md);
    if (!t->layout) {
      dnnl_memory_desc_t plain = cpu_plain_md(t->dtype, &t->shape, false);
      t->layout = cpu_layout(context, &plain);
    }
    if (!t->layout) return ls_fail(err, LS_NO_MEMORY, "no memory for a layout");
    if (slots[i].argument) LS_TRY(add_argument(context, state, slots[i].argument, md ? md : &t->layout->md, i, err));
  }
  const dnnl_memory_desc_t *workspace = dnnl_primitive_desc_query_md(pd, dnnl_query_workspace_md, 0);
  if (workspace && dnnl_memory_desc_get_size(workspace)) {
    op->workspace_bytes = dnnl_memory_desc_get_size(workspace);
    LS_TRY(add_argument(context, state, DNNL_ARG_WORKSPACE, workspace, FROM_WORKSPACE, err));
  }
  const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
  if (scratch && dnnl_memory_desc_get_size(scratch)) {
    op->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    LS_TRY(add_argument(context, state, DNNL_ARG_SCRATCHPAD, scratch, FROM_SCRATCH, err));
  }
  return LS_OK;
}

// User scratchpad; behind the operation a sum with what the output held, then max(x, 0), when asked for.
static dnnl_status_t make_attributes(bool sum, bool relu, dnnl_primitive_attr_t *attr) {
  dnnl_status_t status = dnnl_primitive_attr_create(attr);
  if (status == dnnl_success) status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
  dnnl_post_ops_t ops = NULL;
  if (status == dnnl_success && (sum || relu)) {
    status = dnnl_post_ops_create(&ops);
    if (status == dnnl_success && sum) status = dnnl_post_ops_append_sum(ops, 1);
    if (status == dnnl_success && relu) status = dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_relu, 0, 0);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops) dnnl_post_ops_destroy(ops);
  }
  return status;
}

// The forward primitive descriptor that a backward one needs as its hint.
static const_dnnl_primitive_desc_t hint_of(const struct ls_op_desc *desc) {
  return desc->forward ? ((const struct dnnl_op *)desc->forward->state)->pd : NULL;
}

static dnnl_status_t make_pd(struct cpu_context *context, const struct ls_op_desc *desc, const void *op_desc, bool relu,
                             dnnl_primitive_desc_t *pd) {
  dnnl_primitive_attr_t attr = NULL;
  dnnl_status_t status = make_attributes(desc->attributes.has_addend, relu, &attr);
  if (status == dnnl_success) status = dnnl_primitive_desc_create(pd, op_desc, attr, context->engine, hint_of(desc));
  if (attr) dnnl_primitive_attr_destroy(attr);
  return status;
}

static bool is_fast(const_dnnl_primitive_desc_t pd) {
  const char *name = "";
  dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name);
  return strncmp(name, "ref", 3) != 0 && !strstr(name, "gemm:ref");
}

static dnnl_memory_desc_t layout_or_any(const struct ls_tensor_desc *t, bool any) {
  return t->layout && !any && !cpu_is_batch16(t->layout) ? t->layout->md : cpu_any_md(t);
}

// Convolution. Weights in oneDNN have a group axis in front when there are groups: [G, K/G, C/G, R, S].
struct conv_mds {
  dnnl_memory_desc_t x, w, b, y;
};

static struct ls_tensor_desc grouped(const struct ls_tensor_desc *w, int64_t groups) {
  if (groups == 1 || w->shape.rank == 5) return *w;
  struct ls_tensor_desc g = *w;
  g.shape = LS_SHAPE(groups, w->shape.dim[0] / groups, w->shape.dim[1], w->shape.dim[2], w->shape.dim[3]);
  return g;
}

static dnnl_status_t conv_pd(struct cpu_context *context, const struct ls_op_desc *desc, const struct conv_mds *m,
                             dnnl_primitive_desc_t *pd) {
  const struct ls_op_attributes *a = &desc->attributes;
  dnnl_convolution_desc_t d;
  dnnl_dims_t dilates = {a->dilation[0] - 1, a->dilation[1] - 1}, strides = {a->stride[0], a->stride[1]};
  dnnl_dims_t before = {a->pad_before[0], a->pad_before[1]}, after = {a->pad_after[0], a->pad_after[1]};
  const dnnl_memory_desc_t *b = a->has_bias ? &m->b : NULL;
  dnnl_status_t status;
  if (desc->kind == LS_OP_CONV_FORWARD) {
    status = dnnl_dilated_convolution_forward_desc_init(
        &d, a->training ? dnnl_forward_training : dnnl_forward_inference, dnnl_convolution_direct, &m->x, &m->w, b,
        &m->y, strides, dilates, before, after);
  } else if (desc->kind == LS_OP_CONV_BACKWARD_DATA) {
    status = dnnl_dilated_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &m->x, &m->w, &m->y, strides,
                                                              dilates, before, after);
  } else {
    status = dnnl_dilated_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &m->x, &m->w, b, &m->y,
                                                                 strides, dilates, before, after);
  }
  return status == dnnl_success ? make_pd(context, desc, &d, desc->kind == LS_OP_CONV_FORWARD && a->relu, pd) : status;
}

static ls_status prepare_conv(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  bool forward = desc->kind == LS_OP_CONV_FORWARD, data = desc->kind == LS_OP_CONV_BACKWARD_DATA,
       bias = desc->attributes.has_bias;
  int xi = data ? 2 : 0, wi = forward || data ? 1 : 2, yi = forward ? desc->inputs : data ? 0 : 1, bi = forward ? 2 : 3;
  int64_t groups = desc->attributes.groups;
  struct ls_tensor_desc w = grouped(&desc->tensor[wi], groups);
  struct conv_mds m = {.b = cpu_plain_md(LS_F32, &LS_SHAPE(desc->tensor[yi].shape.dim[1]), false)};
  dnnl_primitive_desc_t pd = NULL;
  // Backward first tries the layouts of the forward pass, then whatever oneDNN likes.
  for (int any = 0; any < 2 && !pd; any++) {
    bool free_x = forward || any;
    m.x = free_x || !desc->forward ? cpu_any_md(&desc->tensor[xi]) : desc->forward->desc.tensor[0].layout->md;
    m.y = free_x || !desc->forward ? cpu_any_md(&desc->tensor[yi])
                                   : desc->forward->desc.tensor[desc->forward->desc.inputs].layout->md;
    m.w = layout_or_any(&w, any && !forward);
    if (forward && any) m.w = cpu_any_md(&w);
    dnnl_status_t status = conv_pd(context, desc, &m, &pd);
    if (status != dnnl_success) pd = NULL;
    if (pd && any == 0 && !is_fast(pd)) {
      dnnl_primitive_desc_destroy(pd);
      pd = NULL;
    }
    if (any && status != dnnl_success) return cpu_dnnl_error(status, "convolution", err);
  }
  struct slot slots[LS_OP_MAX_TENSORS] = {{0, dnnl_query_undef}};
  slots[xi] =
      data ? (struct slot){DNNL_ARG_DIFF_SRC, dnnl_query_diff_src_md} : (struct slot){DNNL_ARG_SRC, dnnl_query_src_md};
  slots[yi] = forward ? (struct slot){DNNL_ARG_DST, dnnl_query_dst_md}
                      : (struct slot){DNNL_ARG_DIFF_DST, dnnl_query_diff_dst_md};
  slots[wi] = forward || data ? (struct slot){DNNL_ARG_WEIGHTS, dnnl_query_weights_md}
                              : (struct slot){DNNL_ARG_DIFF_WEIGHTS, dnnl_query_diff_weights_md};
  if (bias && !data) slots[bi] = (struct slot){forward ? DNNL_ARG_BIAS : DNNL_ARG_DIFF_BIAS, dnnl_query_undef};
  if (desc->attributes.has_addend) {
    slots[desc->inputs - 1] = (struct slot){0, dnnl_query_dst_md};
    op->in_place = true;
  }
  // With groups the parameter keeps oneDNN's five axes from here on.
  if (groups > 1) op->desc.tensor[wi].shape = w.shape;
  return finish(context, op, pd, slots, err);
}

static ls_status prepare_fc(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  bool forward = desc->kind == LS_OP_FC_FORWARD, data = desc->kind == LS_OP_FC_BACKWARD_DATA,
       bias = desc->attributes.has_bias;
  int xi = data ? 2 : 0, wi = forward || data ? 1 : 2, yi = forward ? desc->inputs : data ? 0 : 1, bi = forward ? 2 : 3;
  dnnl_memory_desc_t b = cpu_plain_md(LS_F32, &LS_SHAPE(desc->tensor[wi].shape.dim[0]), false);
  dnnl_inner_product_desc_t d;
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t status = dnnl_success;
  for (int any = 0; any < 2 && !pd; any++) {
    dnnl_memory_desc_t x = forward ? layout_or_any(&desc->tensor[0], any) : desc->forward->desc.tensor[0].layout->md;
    dnnl_memory_desc_t y = cpu_any_md(&desc->tensor[yi]), w = layout_or_any(&desc->tensor[wi], any);
    if (any && !forward) x = cpu_any_md(&desc->tensor[xi]);
    const dnnl_memory_desc_t *bias_md = bias ? &b : NULL;
    if (forward) {
      status = dnnl_inner_product_forward_desc_init(
          &d, desc->attributes.training ? dnnl_forward_training : dnnl_forward_inference, &x, &w, bias_md, &y);
    } else if (data) {
      status = dnnl_inner_product_backward_data_desc_init(&d, &x, &w, &y);
    } else {
      status = dnnl_inner_product_backward_weights_desc_init(&d, &x, &w, bias_md, &y);
    }
    if (status == dnnl_success) status = make_pd(context, desc, &d, forward && desc->attributes.relu, &pd);
    if (status != dnnl_success) pd = NULL;
    if (pd && any == 0 && !is_fast(pd)) {
      dnnl_primitive_desc_destroy(pd);
      pd = NULL;
    }
  }
  if (!pd) return cpu_dnnl_error(status, "fully connected layer", err);
  struct slot slots[LS_OP_MAX_TENSORS] = {{0, dnnl_query_undef}};
  slots[xi] =
      data ? (struct slot){DNNL_ARG_DIFF_SRC, dnnl_query_diff_src_md} : (struct slot){DNNL_ARG_SRC, dnnl_query_src_md};
  slots[yi] = forward ? (struct slot){DNNL_ARG_DST, dnnl_query_dst_md}
                      : (struct slot){DNNL_ARG_DIFF_DST, dnnl_query_diff_dst_md};
  slots[wi] = forward || data ? (struct slot){DNNL_ARG_WEIGHTS, dnnl_query_weights_md}
                              : (struct slot){DNNL_ARG_DIFF_WEIGHTS, dnnl_query_diff_weights_md};
  if (bias && !data) slots[bi] = (struct slot){forward ? DNNL_ARG_BIAS : DNNL_ARG_DIFF_BIAS, dnnl_query_undef};
  return finish(context, op, pd, slots, err);
}

// A layout that oneDNN's other kernels read fast: as it is, or blocked by channels when it came in the sixteen-image one.
static dnnl_memory_desc_t given_md(const struct ls_tensor_desc *t) {
  if (t->layout && !cpu_is_batch16(t->layout)) return t->layout->md;
  return cpu_plain_md(t->dtype, &t->shape, false);
}

static ls_status prepare_pool(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  const struct ls_op_attributes *a = &desc->attributes;
  static const dnnl_alg_kind_t kinds[] = {dnnl_pooling_max, dnnl_pooling_avg_include_padding,
                                          dnnl_pooling_avg_exclude_padding};
  dnnl_dims_t kernel = {a->kernel[0], a->kernel[1]}, strides = {a->stride[0], a->stride[1]};
  dnnl_dims_t before = {a->pad_before[0], a->pad_before[1]}, after = {a->pad_after[0], a->pad_after[1]};
  dnnl_pooling_desc_t d;
  dnnl_primitive_desc_t pd;
  dnnl_status_t status;
  bool forward = desc->kind == LS_OP_POOL_FORWARD;
  if (forward) {
    dnnl_memory_desc_t x = given_md(&desc->tensor[0]), y = cpu_any_md(&desc->tensor[1]);
    status = dnnl_pooling_forward_desc_init(&d, a->training ? dnnl_forward_training : dnnl_forward_inference,
                                            kinds[a->pool], &x, &y, strides, kernel, before, after);
  } else {
    dnnl_memory_desc_t dx = desc->forward->desc.tensor[0].layout->md, dy = desc->forward->desc.tensor[1].layout->md;
    status = dnnl_pooling_backward_desc_init(&d, kinds[a->pool], &dx, &dy, strides, kernel, before, after);
  }
  if (status == dnnl_success) status = make_pd(context, desc, &d, false, &pd);
  if (status != dnnl_success) return cpu_dnnl_error(status, "pooling", err);
  static const struct slot slots[2][2] = {
      {{DNNL_ARG_DIFF_DST, dnnl_query_diff_dst_md}, {DNNL_ARG_DIFF_SRC, dnnl_query_diff_src_md}},
      {{DNNL_ARG_SRC, dnnl_query_src_md}, {DNNL_ARG_DST, dnnl_query_dst_md}}};
  return finish(context, op, pd, slots[forward], err);
}

static ls_status prepare_bn(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  bool backward = desc->kind == LS_OP_BN_BACKWARD, infer = desc->kind == LS_OP_BN_FORWARD_INFER;
  unsigned flags = dnnl_use_scale | dnnl_use_shift | (infer ? dnnl_use_global_stats : 0) |
                   (desc->attributes.relu && !infer ? dnnl_fuse_norm_relu : 0);
  dnnl_memory_desc_t x = backward ? desc->forward->desc.tensor[0].layout->md : given_md(&desc->tensor[0]);
  dnnl_batch_normalization_desc_t d;
  dnnl_primitive_desc_t pd;
  dnnl_status_t status;
  if (backward) {
    status = dnnl_batch_normalization_backward_desc_init(&d, dnnl_backward, &x, &x, desc->attributes.epsilon, flags);
  } else {
    status = dnnl_batch_normalization_forward_desc_init(&d, infer ? dnnl_forward_inference : dnnl_forward_training, &x,
                                                        desc->attributes.epsilon, flags);
  }
  if (status == dnnl_success) status = make_pd(context, desc, &d, infer && desc->attributes.relu, &pd);
  if (status != dnnl_success) return cpu_dnnl_error(status, "batch normalisation", err);
  static const struct slot train[] = {{DNNL_ARG_SRC, dnnl_query_src_md},  {DNNL_ARG_SCALE, dnnl_query_undef},
                                      {DNNL_ARG_SHIFT, dnnl_query_undef}, {DNNL_ARG_DST, dnnl_query_dst_md},
                                      {DNNL_ARG_MEAN, dnnl_query_undef},  {DNNL_ARG_VARIANCE, dnnl_query_undef}};
  static const struct slot inference[] = {{DNNL_ARG_SRC, dnnl_query_src_md},     {DNNL_ARG_SCALE, dnnl_query_undef},
                                          {DNNL_ARG_SHIFT, dnnl_query_undef},    {DNNL_ARG_MEAN, dnnl_query_undef},
                                          {DNNL_ARG_VARIANCE, dnnl_query_undef}, {DNNL_ARG_DST, dnnl_query_dst_md}};
  static const struct slot back[] = {
      {DNNL_ARG_SRC, dnnl_query_src_md},           {DNNL_ARG_DIFF_DST, dnnl_query_diff_dst_md},
      {DNNL_ARG_SCALE, dnnl_query_undef},          {DNNL_ARG_SHIFT, dnnl_query_undef},
      {DNNL_ARG_MEAN, dnnl_query_undef},           {DNNL_ARG_VARIANCE, dnnl_query_undef},
      {DNNL_ARG_DIFF_SRC, dnnl_query_diff_src_md}, {DNNL_ARG_DIFF_SCALE, dnnl_query_undef},
      {DNNL_ARG_DIFF_SHIFT, dnnl_query_undef}};
  op->in_place = infer;
  return finish(context, op, pd, backward ? back : infer ? inference : train, err);
}

static ls_status prepare_lrn(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  const struct ls_op_attributes *a = &desc->attributes;
  bool forward = desc->kind == LS_OP_LRN_FORWARD;
  dnnl_memory_desc_t x = forward ? given_md(&desc->tensor[0]) : desc->forward->desc.tensor[0].layout->md;
  dnnl_lrn_desc_t d;
  dnnl_primitive_desc_t pd;
  dnnl_status_t status =
      forward ? dnnl_lrn_forward_desc_init(&d, a->training ? dnnl_forward_training : dnnl_forward_inference,
                                           dnnl_lrn_across_channels, &x, a->lrn_size, a->alpha, a->beta, a->k)
              : dnnl_lrn_backward_desc_init(&d, dnnl_lrn_across_channels, &x, &x, a->lrn_size, a->alpha, a->beta, a->k);
  if (status == dnnl_success) status = make_pd(context, desc, &d, false, &pd);
  if (status != dnnl_success) return cpu_dnnl_error(status, "local response normalisation", err);
  static const struct slot go[] = {{DNNL_ARG_SRC, dnnl_query_src_md}, {DNNL_ARG_DST, dnnl_query_dst_md}};
  static const struct slot back[] = {{DNNL_ARG_SRC, dnnl_query_src_md},
                                     {DNNL_ARG_DIFF_DST, dnnl_query_diff_dst_md},
                                     {DNNL_ARG_DIFF_SRC, dnnl_query_diff_src_md}};
  return finish(context, op, pd, forward ? go : back, err);
}

static ls_status prepare_reorder(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  dnnl_primitive_attr_t attr = NULL;
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t status = make_attributes(false, false, &attr);
  if (status == dnnl_success) {
    status = dnnl_reorder_primitive_desc_create(&pd, &op->desc.tensor[0].layout->md, context->engine,
                                                &op->desc.tensor[1].layout->md, context->engine, attr);
  }
  if (attr) dnnl_primitive_attr_destroy(attr);
  if (status != dnnl_success) return cpu_dnnl_error(status, "reorder", err);
  static const struct slot slots[] = {{DNNL_ARG_FROM, dnnl_query_undef}, {DNNL_ARG_TO, dnnl_query_undef}};
  return finish(context, op, pd, slots, err);
}

ls_status cpu_dnnl_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  switch (op->desc.kind) {
    case LS_OP_REORDER: return prepare_reorder(context, op, err);
    case LS_OP_CONV_FORWARD:
    case LS_OP_CONV_BACKWARD_DATA:
    case LS_OP_CONV_BACKWARD_WEIGHTS: return prepare_conv(context, op, err);
    case LS_OP_FC_FORWARD:
    case LS_OP_FC_BACKWARD_DATA:
    case LS_OP_FC_BACKWARD_WEIGHTS: return prepare_fc(context, op, err);
    case LS_OP_POOL_FORWARD:
    case LS_OP_POOL_BACKWARD: return prepare_pool(context, op, err);
    case LS_OP_BN_FORWARD_TRAIN:
    case LS_OP_BN_FORWARD_INFER:
    case LS_OP_BN_BACKWARD: return prepare_bn(context, op, err);
    case LS_OP_LRN_FORWARD:
    case LS_OP_LRN_BACKWARD: return prepare_lrn(context, op, err);
    default: return ls_fail(err, LS_UNSUPPORTED, "the CPU backend has no operation %d", (int)op->desc.kind);
  }
}
