// Convolution: y[n,k,p,q] = b[k] + sum over c,r,s of w[k,c,r,s] x[n,c,p*stride+r*dilation-pad,...]. With groups, output
// channel k reads the C/groups input channels of its group (AlexNet's two towers).
#include <inttypes.h>
#include <stdio.h>

#include "layers/table.h"

static ls_status check(const struct ls_layer *layer, const Lockstep__V1__Convolution *m, int64_t channels,
                       struct ls_error *err) {
  LS_TRY(ls_layer_need_image(layer, err));
  if (m->n_kernel < 1 || m->n_kernel > 2) {
    return ls_fail(err, LS_INVALID,
                   "layer '%s' (convolution): kernel has %zu numbers, one or two (height, width) are allowed",
                   layer->name, m->n_kernel);
  }
  if (m->filters < 1)
    return ls_fail(err, LS_INVALID, "layer '%s' (convolution): filters must be at least 1", layer->name);
  if (m->groups < 1 || channels % m->groups || m->filters % m->groups) {
    return ls_fail(err, LS_INVALID,
                   "layer '%s' (convolution): %u groups do not divide both %" PRId64
                   " input channels and %u filters evenly",
                   layer->name, m->groups, channels, m->filters);
  }
  return LS_OK;
}

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__Convolution *m = layer->message->convolution;
  struct ls_shape in = layer->input_shape[0], out = {.rank = 3, .dim = {m->filters}};
  LS_TRY(check(layer, m, in.dim[0], err));
  struct ls_op_attributes *a = &layer->attributes;
  a->groups = m->groups;
  a->has_bias = m->bias;
  for (int i = 0; i < 2; i++) {
    a->kernel[i] = ls_layer_pair(m->kernel, m->n_kernel, i, 1);
    a->stride[i] = ls_layer_pair(m->stride, m->n_stride, i, 1);
    a->dilation[i] = ls_layer_pair(m->dilation, m->n_dilation, i, 1);
    a->pad_before[i] = a->pad_after[i] = ls_layer_pair(m->pad, m->n_pad, i, 0);
    if (a->kernel[i] < 1 || a->stride[i] < 1 || a->dilation[i] < 1) {
      return ls_fail(err, LS_INVALID, "layer '%s' (convolution): kernel, stride and dilation must be at least 1",
                     layer->name);
    }
    LS_TRY(ls_layer_window(layer, i, in.dim[i + 1], a->pad_before[i], a->pad_after[i], a->kernel[i], a->dilation[i],
                           a->stride[i], false, &out.dim[i + 1], err));
  }
  layer->output_shape = out;
  int64_t per_group = in.dim[0] / m->groups, taps = a->kernel[0] * a->kernel[1];
  struct ls_shape weight = LS_SHAPE(m->filters, per_group, a->kernel[0], a->kernel[1]);
  struct ls_parameter *w = ls_layer_add_parameter(layer, LS_PARAMETER_WEIGHT, &weight);
  w->init = m->weight_init;
  w->fan_in = per_group * taps;
  w->fan_out = m->filters / m->groups * taps;
  if (m->bias) {
    struct ls_parameter *b = ls_layer_add_parameter(layer, LS_PARAMETER_BIAS, &LS_SHAPE(m->filters));
    b->init = m->bias_init;
    b->fan_in = w->fan_in;
  }
  layer->multiply_adds = m->filters * out.dim[1] * out.dim[2] * per_group * taps;
  int used =
      snprintf(layer->detail, sizeof layer->detail, "%u, %" PRId64 "x%" PRId64, m->filters, a->kernel[0], a->kernel[1]);
  if (a->stride[0] > 1)
    used += snprintf(layer->detail + used, sizeof layer->detail - (size_t)used, ", stride %" PRId64, a->stride[0]);
  if (a->pad_before[0])
    used += snprintf(layer->detail + used, sizeof layer->detail - (size_t)used, ", pad %" PRId64, a->pad_before[0]);
  if (m->groups > 1) snprintf(layer->detail + used, sizeof layer->detail - (size_t)used, ", %u groups", m->groups);
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  struct ls_op_attributes a = i->layer->attributes;
  a.relu = i->relu;
  a.training = program->training;
  i->y = ls_layer_activation(program, &i->layer->output_shape);
  int values[7] = {i->x[0]}, count = 1;
  if (i->folded) {
    a.has_bias = true;
    i->folded_weight = ls_program_value(program, LS_VALUE_FOLDED, program->dtype, &i->layer->parameter[0].shape, -1);
    i->folded_bias = ls_program_value(program, LS_VALUE_FOLDED, ls_program_full(program),
                                      &LS_SHAPE(i->layer->output_shape.dim[0]), -1);
  }
  values[count++] = i->folded ? i->folded_weight : ls_layer_parameter(i, program, 0);
  if (a.has_bias) values[count++] = i->folded ? i->folded_bias : ls_layer_parameter(i, program, 1);
  a.has_addend = i->addend != LS_NO_LAYER;
  if (a.has_addend) values[count++] = i->addend_value;
  values[count] = i->y;
  a.statistics = i->sums;
  for (int j = 0; a.statistics && j < 2; j++) {
    i->sum_value[j] = ls_program_value(program, LS_VALUE_ACTIVATION, ls_program_full(program),
                                       &LS_SHAPE(i->layer->output_shape.dim[0]), -1);
    values[count + 1 + j] = i->sum_value[j];
  }
  i->op = ls_program_add(program, LS_OP_CONV_FORWARD, i->layer->number, count, a.statistics ? 3 : 1, values, &a);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  struct ls_op_attributes a = i->layer->attributes;
  dy = ls_layer_before_relu(i, program, dy);
  if (dx[0] != LS_NO_VALUE) {
    dx[0] = ls_layer_like(program, i->x[0]);
    int op = ls_program_add(program, LS_OP_CONV_BACKWARD_DATA, i->layer->number, 2, 1,
                            (int[]){dy, ls_layer_parameter(i, program, 0), dx[0]}, &a);
    if (op >= 0) program->ops[op].forward = i->op;
  }
  int values[4] = {i->x[0], dy, ls_layer_gradient(i, program, 0)};
  if (a.has_bias) values[3] = ls_layer_gradient(i, program, 1);
  int op = ls_program_add(program, LS_OP_CONV_BACKWARD_WEIGHTS, i->layer->number, 2, a.has_bias ? 2 : 1, values, &a);
  if (op >= 0) program->ops[op].forward = i->op;
}

const struct ls_layer_type ls_layer_convolution = {.name = "convolution",
                                                   .type_case = LOCKSTEP__V1__LAYER__TYPE_CONVOLUTION,
                                                   .min_inputs = 1,
                                                   .max_inputs = 1,
                                                   .can_fuse_relu = true,
                                                   .infer = infer,
                                                   .forward = forward,
                                                   .backward = backward};
