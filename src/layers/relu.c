// ReLU, y = max(x, 0), and leaky ReLU, y = x > 0 ? x : slope * x. A plain ReLU behind a layer that can is part of that
// layer's operation (ls_layer_instance.fused).
#include <stdio.h>

#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  (void)err;
  layer->output_shape = layer->input_shape[0];
  layer->attributes.relu = true;
  if (layer->message->type_case == LOCKSTEP__V1__LAYER__TYPE_LEAKY_RELU) {
    layer->attributes.slope = layer->message->leaky_relu->slope;
    snprintf(layer->detail, sizeof layer->detail, "slope %g", (double)layer->attributes.slope);
  }
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  if (i->fused) {
    i->y = i->x[0];
    return;
  }
  i->y = ls_layer_like(program, i->x[0]);
  i->op = ls_program_add(program, LS_OP_RELU_FORWARD, i->layer->number, 1, 1, (int[]){i->x[0], i->y},
                         &i->layer->attributes);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  if (dx[0] == LS_NO_VALUE) return;
  if (i->fused) {
    dx[0] = dy;
    return;
  }
  dx[0] = ls_layer_like(program, i->x[0]);
  ls_program_add(program, LS_OP_RELU_BACKWARD, i->layer->number, 2, 1, (int[]){i->y, dy, dx[0]}, &i->layer->attributes);
}

const struct ls_layer_type ls_layer_relu = {.name = "relu",
                                            .type_case = LOCKSTEP__V1__LAYER__TYPE_RELU,
                                            .min_inputs = 1,
                                            .max_inputs = 1,
                                            .infer = infer,
                                            .forward = forward,
                                            .backward = backward};
const struct ls_layer_type ls_layer_leaky_relu = {.name = "leaky_relu",
                                                  .type_case = LOCKSTEP__V1__LAYER__TYPE_LEAKY_RELU,
                                                  .min_inputs = 1,
                                                  .max_inputs = 1,
                                                  .infer = infer,
                                                  .forward = forward,
                                                  .backward = backward};
