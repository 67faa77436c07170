// Dropout (Srivastava et al., 2014), inverted: in training a value is zeroed with probability `rate` and scaled by
// 1/(1-rate) otherwise; in inference there is nothing to do. The backward pass draws the same numbers again, so no mask is
// kept.
#include <stdio.h>

#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  (void)err;
  layer->output_shape = layer->input_shape[0];
  layer->attributes.rate = layer->message->dropout->rate;
  layer->attributes.layer = (uint32_t)layer->number;
  snprintf(layer->detail, sizeof layer->detail, "rate %g", (double)layer->attributes.rate);
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  if (!program->training || i->layer->attributes.rate <= 0) {
    i->y = i->x[0];
    return;
  }
  i->y = ls_layer_like(program, i->x[0]);
  i->op = ls_program_add(program, LS_OP_DROPOUT_FORWARD, i->layer->number, 2, 1,
                         (int[]){i->x[0], ls_program_step(program), i->y}, &i->layer->attributes);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  if (dx[0] == LS_NO_VALUE) return;
  if (i->layer->attributes.rate <= 0) {
    dx[0] = dy;
    return;
  }
  dx[0] = ls_layer_like(program, i->x[0]);
  ls_program_add(program, LS_OP_DROPOUT_BACKWARD, i->layer->number, 2, 1, (int[]){dy, ls_program_step(program), dx[0]},
                 &i->layer->attributes);
}

const struct ls_layer_type ls_layer_dropout = {.name = "dropout",
                                               .type_case = LOCKSTEP__V1__LAYER__TYPE_DROPOUT,
                                               .min_inputs = 1,
                                               .max_inputs = 1,
                                               .infer = infer,
                                               .forward = forward,
                                               .backward = backward};
