// Lowering: from a program to prepared operations on a backend. See plan.h.
//
// Walks the program once. For each operation the layouts known so far are put into its description; prepare() answers the
// layouts it wants; where an input lies otherwise, a reorder goes in between (once for each value and layout), where an
// output must lie otherwise (a gradient in its parameter's layout), one goes behind.
#include "graph/plan.h"

#include <stdlib.h>
#include <string.h>

#include "graph/plan_internal.h"

static const char *const op_names[LS_OP_COUNT] = {"reorder",
                                                  "add",
                                                  "conv_forward",
                                                  "conv_backward_data",
                                                  "conv_backward_weights",
                                                  "fc_forward",
                                                  "fc_backward_data",
                                                  "fc_backward_weights",
                                                  "pool_forward",
                                                  "pool_backward",
                                                  "relu_forward",
                                                  "relu_backward",
                                                  "bn_forward",
                                                  "bn_forward_infer",
                                                  "bn_backward",
                                                  "lrn_forward",
                                                  "lrn_backward",
                                                  "dropout_forward",
                                                  "dropout_backward",
                                                  "shortcut_forward",
                                                  "shortcut_backward",
                                                  "softmax_ce_forward",
                                                  "softmax_ce_backward",
                                                  "bn_fold"};

const char *ls_plan_op_name(enum ls_op_kind kind) { return op_names[kind]; }

static int add_value(struct ls_plan *plan, const struct plan_value *value) {
  if (plan->value_count == plan->value_capacity) {
    int capacity = plan->value_capacity ? 2 * plan->value_capacity : 128;
    void *grown = realloc(plan->values, (size_t)capacity * sizeof *plan->values);
    if (!grown) return -1;
    plan->values = grown;
    plan->value_capacity = capacity;
  }
  plan->values[plan->value_count] = *value;
  plan->values[plan->value_count].shares = plan->value_count;
  return plan->value_count++;
}

static struct plan_step *add_step(struct ls_plan *plan) {
  if (plan->step_count == plan->step_capacity) {
    int capacity = plan->step_capacity ? 2 * plan->step_capacity : 128;
    void *grown = realloc(plan->steps, (size_t)capacity * sizeof *plan->steps);
    if (!grown) return NULL;
    plan->steps = grown;
    plan->step_capacity = capacity;
    // Backward operations point to their forward operation's description.
    for (int i = 0; i < plan->step_count; i++) {
      int forward = plan->steps[i].forward_step;
      if (forward >= 0) plan->steps[i].op.desc.forward = &plan->steps[forward].op;
    }
  }
  struct plan_step *step = &plan->steps[plan->step_count];
  *step = (struct plan_step){.forward_step = -1};
  return step;
}

static bool same_layout(const struct ls_plan *plan, const struct ls_tensor_desc *a, const struct ls_tensor_desc *b) {
  return a->dtype == b->dtype && plan->backend->ops->layout_equal(a->layout, b->layout);
}

// Appends a reorder of value `from` into value `to`.
static ls_status add_reorder(struct ls_plan *plan, int layer, int from, int to, struct ls_error *err) {
  struct plan_step *step = add_step(plan);
  if (!step) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  struct ls_op_desc desc = {.kind = LS_OP_REORDER,
                            .layer_name = plan->graph->layers[layer].name,
                            .inputs = 1,
                            .outputs = 1,
                            .tensor = {plan->values[from].tensor, plan->values[to].tensor}};
  LS_TRY(plan->backend->ops->prepare(plan->backend, &desc, &step->op, err));
  step->value[0] = from;
  step->value[1] = to;
  plan->step_count++;
  return LS_OK;
}

// The value that holds `value` in the layout of `wanted`: itself, an earlier copy, or a new one.
static ls_status in_layout(struct ls_plan *plan, int layer, int value, const struct ls_tensor_desc *wanted, int *result,
                           struct ls_error *err) {
  struct plan_value *v = &plan->values[value];
  *result = value;
  if (!v->tensor.layout && v->tensor.dtype == wanted->dtype) {
    v->tensor = *wanted;  // the shape too: a grouped weight may have got a group axis
    return LS_OK;
  }
  // A float32 parameter that operations take in 16 bits stays one, in the order that a device likes.
  if (!v->tensor.layout)
    v->tensor.layout = plan->backend->ops->plain_layout(plan->backend, v->tensor.dtype, &v->tensor.shape, true);
  if (same_layout(plan, &v->tensor, wanted)) return LS_OK;
  for (int i = 0; i < plan->value_count; i++) {
    if (plan->values[i].source == value && same_layout(plan, &plan->values[i].tensor, wanted)) {
      *result = i;
      return LS_OK;
    }
  }
  struct plan_value copy = {.kind = LS_VALUE_ACTIVATION, .tensor = *wanted, .index = -1, .source = value};
  *result = add_value(plan, &copy);
  if (*result < 0) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  return add_reorder(plan, layer, value, *result, err);
}

// The layout that a gradient or statistic must have: its parameter's.
static void fix_gradient_layout(struct ls_plan *plan, struct plan_value *v) {
  if (v->kind != LS_VALUE_GRADIENT || v->tensor.layout) return;
  for (int i = 0; i < plan->value_count; i++) {
    if (plan->values[i].kind != LS_VALUE_PARAMETER || plan->values[i].index != v->index) continue;
    v->tensor.layout = plan->values[i].tensor.layout;
    v->tensor.shape = plan->values[i].tensor.shape;
  }
  if (!v->tensor.layout) {  // running statistics: no operation of a training plan reads them
    v->tensor.layout = plan->backend->ops->plain_layout(plan->backend, v->tensor.dtype, &v->tensor.shape, false);
  }
}

// Prepares an operation of the program as it stands.
static ls_status prepare(struct ls_plan *plan, const struct ls_program_op *from, const int *step_of_op,
                         struct ls_op *op, struct ls_error *err) {
  struct ls_op_desc desc = {.kind = from->kind,
                            .layer_name = plan->graph->layers[from->layer].name,
                            .inputs = from->inputs,
                            .outputs = from->outputs,
                            .attributes = from->attributes};
  desc.attributes.tf32 = plan->options.tf32;
  for (int i = 0; i < from->inputs + from->outputs; i++) {
    fix_gradient_layout(plan, &plan->values[from->value[i]]);
    desc.tensor[i] = plan->values[from->value[i]].tensor;
  }
  if (from->forward >= 0) desc.forward = &plan->steps[step_of_op[from->forward]].op;
  *op = (struct ls_op){0};
  return plan->backend->ops->prepare(plan->backend, &desc, op, err);
}

static ls_status lower(struct ls_plan *plan, const struct ls_program_op *from, int *step_of_op, int op_index,
                       struct ls_error *err) {
  struct ls_op op;
  struct ls_error refusal = LS_ERROR_INIT;  // is no error of the plan
  bool statistics = from->kind == LS_OP_CONV_FORWARD && from->attributes.statistics;
  ls_status status = prepare(plan, from, step_of_op, &op, statistics ? &refusal : err);
  if (statistics && status == LS_UNSUPPORTED) {
    ls_program_drop_statistics(&plan->program, op_index);
    status = prepare(plan, from, step_of_op, &op, err);
  } else if (statistics && status != LS_OK && err) {
    *err = refusal;
  }
  if (status != LS_OK)
    return ls_error_prefix(err, "layer '%s' (%s)", plan->graph->layers[from->layer].name, op_names[from->kind]);
  int value[LS_OP_MAX_TENSORS];
  for (int i = 0; i < from->inputs && status == LS_OK; i++) {
    status = in_layout(plan, from->layer, from->value[i], &op.desc.tensor[i], &value[i], err);
  }
  for (int i = from->inputs; i < from->inputs + from->outputs && status == LS_OK; i++) {
    struct plan_value *v = &plan->values[from->value[i]];
    value[i] = from->value[i];
    if (!v->tensor.layout) v->tensor.layout = op.desc.tensor[i].layout;
    if (same_layout(plan, &v->tensor, &op.desc.tensor[i])) continue;
    struct plan_value raw = {.kind = LS_VALUE_ACTIVATION, .tensor = op.desc.tensor[i], .index = -1, .source = -1};
    value[i] = add_value(plan, &raw);
    if (value[i] < 0) status = ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  }
  struct plan_step *step = status == LS_OK ? add_step(plan) : NULL;
  if (!step) {
    plan->backend->ops->op_release(plan->backend, &op);
    return status == LS_OK ? ls_fail(err, LS_NO_MEMORY, "no memory for the plan") : status;
  }
  step->op = op;
  step->forward_step = from->forward >= 0 ? step_of_op[from->forward] : -1;
  if (step->forward_step >= 0) step->op.desc.forward = &plan->steps[step->forward_step].op;
  memcpy(step->value, value, sizeof value);
  step_of_op[op_index] = plan->step_count++;
  for (int i = from->inputs; i < from->inputs + from->outputs; i++) {
    if (value[i] != from->value[i]) LS_TRY(add_reorder(plan, from->layer, value[i], from->value[i], err));
  }
  return LS_OK;
}

// The input's layout. With more channels than it has only where nothing but convolutions reads it, which take it so: all
// else would have to have it reordered.
static const struct ls_layout *input_layout(const struct ls_plan *plan, int value) {
  const struct ls_backend_ops *ops = plan->backend->ops;
  const struct ls_value *v = &plan->program.values[value];
  bool padded = plan->options.input_padded && ops->input_layout;
  for (int i = 0; i < plan->program.op_count && padded; i++) {
    const struct ls_program_op *op = &plan->program.ops[i];
    bool takes =
        (op->kind == LS_OP_CONV_FORWARD || op->kind == LS_OP_CONV_BACKWARD_WEIGHTS) && op->attributes.groups == 1;
    for (int j = 0; j < op->inputs; j++) padded &= op->value[j] != value || takes;
  }
  return padded ? ops->input_layout(plan->backend, v->dtype, plan->options.tf32, &v->shape)
                : ops->plain_layout(plan->backend, v->dtype, &v->shape, plan->options.input_channels_last);
}

// Values of the program become values of the plan; the loader's and the fixed ones get their layouts.
static ls_status take_values(struct ls_plan *plan, struct ls_error *err) {
  const struct ls_backend_ops *ops = plan->backend->ops;
  for (int i = 0; i < plan->program.value_count; i++) {
    const struct ls_value *from = &plan->program.values[i];
    struct plan_value v = {
        .kind = from->kind, .tensor = {from->dtype, from->shape, NULL}, .index = from->index, .source = -1};
    bool fixed = from->kind == LS_VALUE_INPUT || from->kind == LS_VALUE_LABELS || from->kind == LS_VALUE_STEP ||
                 from->kind == LS_VALUE_METRICS;
    if (fixed || from->plain) {
      v.tensor.layout = from->kind == LS_VALUE_INPUT
                            ? input_layout(plan, i)
                            : ops->plain_layout(plan->backend, from->dtype, &from->shape, false);
    }
    if (from->kind == LS_VALUE_PARAMETER && plan->options.parameters_of) {
      v.tensor = plan->options.parameters_of->parameters[from->index].tensor;
    }
    if (add_value(plan, &v) < 0) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  }
  return LS_OK;
}

static float statistic_scale(const struct ls_plan *plan, const struct ls_parameter *p) {
  if (p->kind != LS_PARAMETER_RUNNING_VARIANCE) return 1;
  struct ls_shape shape = plan->graph->layers[p->layer].output_shape;
  double n = (double)(plan->options.batch * shape.dim[1] * shape.dim[2]);
  return n > 1 ? (float)(n / (n - 1)) : 1;
}

static ls_status take_parameters(struct ls_plan *plan, struct ls_error *err) {
  plan->parameter_count = plan->graph->parameter_count;
  plan->parameters = calloc((size_t)plan->parameter_count + 1, sizeof *plan->parameters);
  if (!plan->parameters) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  for (int i = 0; i < plan->parameter_count; i++) {
    struct ls_plan_parameter *p = &plan->parameters[i];
    p->parameter = plan->graph->parameters[i];
    p->statistic_scale = statistic_scale(plan, p->parameter);
    enum ls_dtype dtype = plan->options.dtype == LS_F64 ? LS_F64 : LS_F32;
    p->tensor = (struct ls_tensor_desc){dtype, p->parameter->shape, NULL};
    for (int j = 0; j < plan->value_count; j++) {
      const struct plan_value *v = &plan->values[j];
      bool mine = v->kind == LS_VALUE_PARAMETER || (v->kind == LS_VALUE_GRADIENT && !p->parameter->learned);
      if (mine && v->index == i && v->tensor.layout) p->tensor = v->tensor;
    }
    if (!p->tensor.layout) {
      p->tensor.layout = plan->backend->ops->plain_layout(plan->backend, dtype, &p->tensor.shape, false);
    }
    p->bytes = plan->backend->ops->layout_bytes(p->tensor.layout);
  }
  return LS_OK;
}

// The factored layers, from the values that the layers made: the input comes first, then the output's gradient.
static ls_status find_factors(struct ls_plan *plan, struct ls_error *err) {
  const struct ls_plan *other = plan->options.parameters_of;
  for (int i = 0; other && i < plan->parameter_count; i++) plan->parameters[i].factored = other->parameters[i].factored;
  plan->factors = calloc((size_t)plan->value_count + 1, sizeof *plan->factors);
  if (!plan->factors) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  for (int i = 0; i < plan->value_count; i++) {
    struct plan_value *v = &plan->values[i];
    if (v->kind != LS_VALUE_FACTOR) continue;
    v->offset = plan->factor_bytes;
    plan->factor_bytes += ls_align(plan->backend->ops->layout_bytes(v->tensor.layout));
    struct ls_plan_factors *f = plan->factors;
    while (f < plan->factors + plan->factors_count && f->weight != v->index) f++;
    if (f == plan->factors + plan->factors_count) {
      const struct ls_parameter *w = plan->graph->parameters[v->index];
      bool bias = v->index + 1 < plan->parameter_count && plan->graph->parameters[v->index + 1]->layer == w->layer;
      *f = (struct ls_plan_factors){.weight = v->index, .bias = bias ? v->index + 1 : -1, .x_offset_bytes = v->offset};
      f->k = w->shape.dim[0];
      f->c = ls_shape_elements(&w->shape) / f->k;
      plan->factors_count++;
      plan->parameters[f->weight].factored = true;
      if (bias) plan->parameters[f->bias].factored = true;
    } else {
      f->dy_offset_bytes = v->offset;
    }
  }
  return LS_OK;
}

// Offsets in the parameter slab: learned ones, then running statistics, then those without a place in the gradient slab;
// each in network order.
static ls_status place_parameters(struct ls_plan *plan, struct ls_error *err) {
  LS_TRY(take_parameters(plan, err));
  LS_TRY(find_factors(plan, err));
  for (int part = 0; part < 3; part++) {
    if (part == 2) plan->metrics_offset = plan->parameter_bytes;
    for (int i = 0; i < plan->parameter_count; i++) {
      struct ls_plan_parameter *p = &plan->parameters[i];
      if ((p->factored ? 2 : p->parameter->learned ? 0 : 1) != part) continue;
      p->offset_bytes = plan->parameter_bytes;
      plan->parameter_bytes += ls_align(p->bytes);
      if (!p->parameter->learned) continue;
      p->momentum_offset_bytes = plan->learned_bytes;
      plan->learned_bytes += ls_align(p->bytes);
    }
  }
  plan->gradient_bytes = plan->metrics_offset + ls_align(LS_METRICS * sizeof(float));
  return LS_OK;
}

static ls_status build(struct ls_plan *plan, struct ls_error *err) {
  struct ls_program *program = &plan->program;
  program->training = plan->options.training;
  program->factors = plan->options.parameters_of ? plan->options.parameters_of->options.factors : plan->options.factors;
  program->relu_sums = !plan->options.no_fusion && plan->backend->ops->relu_sums;
  program->folds = !program->training && !plan->options.no_fusion && plan->backend->ops->folds;
  program->norm_adds = program->training && !plan->options.no_fusion && plan->backend->ops->norm_adds;
  program->conv_statistics = program->training && !plan->options.no_fusion && plan->backend->ops->conv_statistics;
  program->dtype = plan->options.dtype;
  program->scaled = program->training && program->dtype == LS_F16;
  program->batch = plan->options.batch;
  program->loss_scale = 1.0f / (float)(plan->options.loss_images > 0 ? plan->options.loss_images : plan->options.batch);
  if (program->training && ls_graph_classes(plan->graph) == 0) {
    return ls_fail(err, LS_INVALID,
                   "network '%s' has no loss: its last layer must be softmax_cross_entropy to be trained",
                   plan->graph->network->name ? plan->graph->network->name : "");
  }
  LS_TRY(ls_graph_write_program(plan->graph, program, plan->options.no_fusion, err));
  LS_TRY(take_values(plan, err));
  int *step_of_op = calloc((size_t)program->op_count + 1, sizeof *step_of_op);
  if (!step_of_op) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  ls_status status = LS_OK;
  for (int i = 0; i < program->op_count && status == LS_OK; i++) {
    if (i == program->forward_count) plan->forward_count = plan->step_count;
    status = lower(plan, &program->ops[i], step_of_op, i, err);
  }
  if (program->forward_count == program->op_count) plan->forward_count = plan->step_count;
  free(step_of_op);
  if (status != LS_OK) return status;
  LS_TRY(place_parameters(plan, err));
  return ls_plan_place(plan, err);
}

ls_status ls_plan_build(const struct ls_graph *graph, struct ls_backend *backend, const struct ls_plan_options *options,
                        struct ls_plan **result, struct ls_error *err) {
  *result = NULL;
  if (options->batch < 1) return ls_fail(err, LS_INVALID, "a plan needs a batch of at least 1 image");
  struct ls_plan *plan = calloc(1, sizeof *plan);
  if (!plan) return ls_fail(err, LS_NO_MEMORY, "no memory for the plan");
  plan->graph = graph;
  plan->backend = backend;
  plan->options = *options;
  ls_status status = build(plan, err);
  if (status != LS_OK) {
    ls_plan_free(plan);
    return status;
  }
  *result = plan;
  return LS_OK;
}

void ls_plan_free(struct ls_plan *plan) {
  if (!plan) return;
  for (int i = plan->step_count - 1; i >= 0; i--) plan->backend->ops->op_release(plan->backend, &plan->steps[i].op);
  ls_program_release(&plan->program);
  free(plan->values);
  free(plan->steps);
  free(plan->parameters);
  free(plan->factors);
  free(plan);
}

int ls_plan_parameter_count(const struct ls_plan *plan) { return plan->parameter_count; }
const struct ls_plan_parameter *ls_plan_parameter(const struct ls_plan *plan, int index) {
  return &plan->parameters[index];
}
size_t ls_plan_learned_bytes(const struct ls_plan *plan) { return plan->learned_bytes; }
size_t ls_plan_parameter_bytes(const struct ls_plan *plan) { return plan->parameter_bytes; }
size_t ls_plan_gradient_bytes(const struct ls_plan *plan) { return plan->gradient_bytes; }
size_t ls_plan_factor_bytes(const struct ls_plan *plan) { return plan->factor_bytes; }
int ls_plan_factors_count(const struct ls_plan *plan) { return plan->factors_count; }
const struct ls_plan_factors *ls_plan_factors(const struct ls_plan *plan, int index) { return &plan->factors[index]; }
size_t ls_plan_metrics_offset(const struct ls_plan *plan) { return plan->metrics_offset; }
size_t ls_plan_activation_bytes(const struct ls_plan *plan) { return plan->activation_bytes; }
size_t ls_plan_folded_bytes(const struct ls_plan *plan) { return plan->folded_bytes; }
size_t ls_plan_input_bytes(const struct ls_plan *plan) { return plan->input_bytes; }
int64_t ls_plan_input_channels(const struct ls_plan *plan) { return plan->input_channels; }
