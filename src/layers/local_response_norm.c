// Local response normalisation across channels (Krizhevsky et al., 2012, section 3.3), alpha divided by size.
#include <stdio.h>

#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__LocalResponseNorm *m = layer->message->local_response_norm;
  LS_TRY(ls_layer_need_image(layer, err));
  if (m->size % 2 == 0) {
    return ls_fail(err, LS_INVALID, "layer '%s' (local_response_norm): size is %u, only odd sizes are allowed",
                   layer->name, m->size);
  }
  layer->output_shape = layer->input_shape[0];
  layer->attributes.lrn_size = m->size;
  layer->attributes.alpha = m->alpha;
  layer->attributes.beta = m->beta;
  layer->attributes.k = m->k;
  snprintf(layer->detail, sizeof layer->detail, "size %u", m->size);
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  struct ls_op_attributes a = i->layer->attributes;
  a.training = program->training;
  i->y = ls_layer_like(program, i->x[0]);
  i->op = ls_program_add(program, LS_OP_LRN_FORWARD, i->layer->number, 1, 1, (int[]){i->x[0], i->y}, &a);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  if (dx[0] == LS_NO_VALUE) return;
  dx[0] = ls_layer_like(program, i->x[0]);
  int op = ls_program_add(program, LS_OP_LRN_BACKWARD, i->layer->number, 2, 1, (int[]){i->x[0], dy, dx[0]},
                          &i->layer->attributes);
  if (op >= 0) program->ops[op].forward = i->op;
}

const struct ls_layer_type ls_layer_local_response_norm = {.name = "local_response_norm",
                                                           .type_case = LOCKSTEP__V1__LAYER__TYPE_LOCAL_RESPONSE_NORM,
                                                           .min_inputs = 1,
                                                           .max_inputs = 1,
                                                           .infer = infer,
                                                           .forward = forward,
                                                           .backward = backward};
