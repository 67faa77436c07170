// Sum of inputs of equal shape: the joint of a residual block (He et al., 2015).
#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  layer->output_shape = layer->input_shape[0];
  for (int i = 1; i < layer->inputs; i++) {
    if (!ls_shape_equal(&layer->input_shape[i], &layer->input_shape[0])) {
      char first[64], other[64];
      return ls_fail(err, LS_INVALID, "layer '%s' (add): its inputs have different shapes, %s and %s", layer->name,
                     ls_shape_format(&layer->input_shape[0], first, sizeof first),
                     ls_shape_format(&layer->input_shape[i], other, sizeof other));
    }
  }
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  if (i->fused) {  // inference: part of a convolution; training: of a batch norm
    i->y = i->x[i->fused_input];
    return;
  }
  struct ls_op_attributes a = {.relu = i->relu};
  int values[LS_LAYER_MAX_INPUTS + 1];
  for (int j = 0; j < i->layer->inputs; j++) values[j] = i->x[j];
  i->y = values[i->layer->inputs] = ls_layer_like(program, i->x[0]);
  i->op = ls_program_add(program, LS_OP_ADD, i->layer->number, i->layer->inputs, 1, values, &a);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  dy = ls_layer_before_relu(i, program, dy);
  for (int j = 0; j < i->layer->inputs; j++) {
    if (dx[j] != LS_NO_VALUE) dx[j] = dy;
  }
}

const struct ls_layer_type ls_layer_add = {.name = "add",
                                           .type_case = LOCKSTEP__V1__LAYER__TYPE_ADD,
                                           .min_inputs = 2,
                                           .max_inputs = LS_LAYER_MAX_INPUTS,
                                           .can_fuse_relu = true,
                                           .infer = infer,
                                           .forward = forward,
                                           .backward = backward};
