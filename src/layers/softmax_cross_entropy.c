// The loss of a classifier: mean over the global batch of -log softmax(x)[label]. Its gradient is
// (softmax(x) - onehot(label)) / images. In inference it yields the probabilities.
#include <inttypes.h>

#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  struct ls_shape in = layer->input_shape[0];
  if (in.rank == 3 && in.dim[1] * in.dim[2] != 1) {
    char text[64];
    return ls_fail(err, LS_INVALID, "layer '%s' (softmax_cross_entropy): needs one value a class, but its input is %s",
                   layer->name, ls_shape_format(&in, text, sizeof text));
  }
  if (in.dim[0] < 2) {
    return ls_fail(err, LS_INVALID,
                   "layer '%s' (softmax_cross_entropy): needs at least 2 classes, its input has %" PRId64, layer->name,
                   in.dim[0]);
  }
  layer->output_shape = LS_SHAPE(in.dim[0]);
  return LS_OK;
}

static int labels(struct ls_program *program) {
  int value = ls_program_slab_value(program, LS_VALUE_LABELS, &LS_SHAPE(program->batch), 0);
  if (value >= 0) program->values[value].dtype = LS_I32;
  return value;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  i->y = ls_layer_activation(program, &i->layer->output_shape);
  if (i->y >= 0) program->values[i->y].dtype = ls_program_full(program);
  int metrics = ls_program_slab_value(program, LS_VALUE_METRICS, &LS_SHAPE(LS_METRICS), 0);
  if (metrics >= 0) program->values[metrics].dtype = LS_F32;
  i->op = ls_program_add(program, LS_OP_SOFTMAX_CE_FORWARD, i->layer->number, 2, 2,
                         (int[]){i->x[0], labels(program), i->y, metrics}, &i->layer->attributes);
  program->probabilities = i->y;
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  struct ls_op_attributes a = i->layer->attributes;
  (void)dy;  // the loss is the end: its own gradient is 1
  a.scale = program->loss_scale;
  if (dx[0] == LS_NO_VALUE) return;
  dx[0] = ls_layer_like(program, i->x[0]);
  int values[4] = {i->y, labels(program), dx[0]};
  if (program->scaled) {
    values[2] = ls_program_step(program);
    values[3] = dx[0];
  }
  ls_program_add(program, LS_OP_SOFTMAX_CE_BACKWARD, i->layer->number, program->scaled ? 3 : 2, 1, values, &a);
}

const struct ls_layer_type ls_layer_softmax_cross_entropy = {
    .name = "softmax_cross_entropy",
    .type_case = LOCKSTEP__V1__LAYER__TYPE_SOFTMAX_CROSS_ENTROPY,
    .min_inputs = 1,
    .max_inputs = 1,
    .infer = infer,
    .forward = forward,
    .backward = backward};
