// Helpers that several layer types share: see layer.h.
#include "layers/layer.h"

#include <inttypes.h>
#include <stdio.h>

int ls_layer_activation(struct ls_program *program, const struct ls_shape *image_shape) {
  struct ls_shape shape = {.rank = image_shape->rank + 1, .dim = {program->batch}};
  for (int i = 0; i < image_shape->rank; i++) shape.dim[i + 1] = image_shape->dim[i];
  return ls_program_value(program, LS_VALUE_ACTIVATION, program->dtype, &shape, -1);
}

int ls_layer_like(struct ls_program *program, int value) {
  if (value < 0) return LS_NO_VALUE;
  struct ls_shape shape = program->values[value].shape;
  return ls_program_value(program, LS_VALUE_ACTIVATION, program->dtype, &shape, -1);
}

int ls_layer_parameter(struct ls_layer_instance *instance, struct ls_program *program, int which) {
  return ls_program_slab_value(program, LS_VALUE_PARAMETER, &instance->layer->parameter[which].shape,
                               instance->layer->first_parameter + which);
}

int ls_layer_gradient(struct ls_layer_instance *instance, struct ls_program *program, int which) {
  return ls_program_slab_value(program, LS_VALUE_GRADIENT, &instance->layer->parameter[which].shape,
                               instance->layer->first_parameter + which);
}

int ls_layer_before_relu(struct ls_layer_instance *instance, struct ls_program *program, int dy) {
  if (!instance->relu) return dy;
  int before = ls_layer_like(program, instance->y);
  // A sum of gradients just written is for this ReLU alone (its layer is fused, so nobody else reads them): one pass.
  struct ls_program_op *last = program->op_count > program->forward_count ? &program->ops[program->op_count - 1] : NULL;
  if (program->relu_sums && last && last->kind == LS_OP_ADD && last->value[last->inputs] == dy) {
    for (int i = last->inputs; i > 0; i--) last->value[i] = last->value[i - 1];
    last->value[0] = instance->y;
    last->value[++last->inputs] = before;
    last->kind = LS_OP_RELU_BACKWARD;
    last->layer = instance->layer->number;
    last->attributes = (struct ls_op_attributes){.relu = true};
    return before;
  }
  struct ls_op_attributes attributes = {.relu = true};
  ls_program_add(program, LS_OP_RELU_BACKWARD, instance->layer->number, 2, 1, (int[]){instance->y, dy, before},
                 &attributes);
  return before;
}

struct ls_parameter *ls_layer_add_parameter(struct ls_layer *layer, enum ls_parameter_kind kind,
                                            const struct ls_shape *shape) {
  static const char *const suffix[] = {"weight", "bias", "gamma", "beta", "running_mean", "running_variance"};
  struct ls_parameter *parameter = &layer->parameter[layer->parameters++];
  *parameter = (struct ls_parameter){
      .layer = layer->number, .kind = kind, .shape = *shape, .learned = kind < LS_PARAMETER_RUNNING_MEAN};
  snprintf(parameter->name, sizeof parameter->name, "%s.%s", layer->name, suffix[kind]);
  return parameter;
}

ls_status ls_layer_window(struct ls_layer *layer, int axis, int64_t input, int64_t pad_before, int64_t pad_after,
                          int64_t kernel, int64_t dilation, int64_t stride, bool ceil, int64_t *output,
                          struct ls_error *err) {
  int64_t span = (kernel - 1) * dilation + 1, padded = input + pad_before + pad_after;
  if (span > padded) {
    return ls_fail(err, LS_INVALID,
                   "layer '%s' (%s): the kernel covers %" PRId64 " %s but its padded input has only %" PRId64,
                   layer->name, layer->type->name, span, axis == 0 ? "rows" : "columns", padded);
  }
  *output = (padded - span + (ceil ? stride - 1 : 0)) / stride + 1;
  // A last window that would begin in the padding behind the input is left out (Caffe's and PyTorch's rule).
  if (ceil && (*output - 1) * stride >= input + pad_before) (*output)--;
  return LS_OK;
}

ls_status ls_layer_need_image(const struct ls_layer *layer, struct ls_error *err) {
  if (layer->input_shape[0].rank == 3) return LS_OK;
  return ls_fail(err, LS_INVALID,
                 "layer '%s' (%s) needs an input of channels x height x width, but gets a flat one of %" PRId64
                 " values",
                 layer->name, layer->type->name, layer->input_shape[0].dim[0]);
}

int64_t ls_layer_pair(const uint32_t *values, size_t count, int i, int64_t absent) {
  if (count == 0) return absent;
  return values[count > 1 ? i : 0];
}
