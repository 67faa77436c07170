// ResNet's option A shortcut (He et al., 2015, section 3.3): every stride-th row and column, extra channels zero.
#include <inttypes.h>
#include <stdio.h>

#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__IdentityShortcut *m = layer->message->identity_shortcut;
  LS_TRY(ls_layer_need_image(layer, err));
  struct ls_shape in = layer->input_shape[0];
  if (m->channels < in.dim[0] || m->stride < 1) {
    return ls_fail(err, LS_INVALID,
                   "layer '%s' (identity_shortcut): channels %u, stride %u; at least the input's %" PRId64
                   " channels and a stride of 1 are needed",
                   layer->name, m->channels, m->stride, in.dim[0]);
  }
  layer->output_shape =
      LS_SHAPE(m->channels, (in.dim[1] + m->stride - 1) / m->stride, (in.dim[2] + m->stride - 1) / m->stride);
  layer->attributes.stride[0] = layer->attributes.stride[1] = m->stride;
  snprintf(layer->detail, sizeof layer->detail, "to %u, stride %u", m->channels, m->stride);
  return LS_OK;
}

static bool does_nothing(const struct ls_layer *layer) {
  return ls_shape_equal(&layer->input_shape[0], &layer->output_shape);
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  if (does_nothing(i->layer)) {
    i->y = i->x[0];
    return;
  }
  i->y = ls_layer_activation(program, &i->layer->output_shape);
  i->op = ls_program_add(program, LS_OP_SHORTCUT_FORWARD, i->layer->number, 1, 1, (int[]){i->x[0], i->y},
                         &i->layer->attributes);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  if (dx[0] == LS_NO_VALUE) return;
  if (does_nothing(i->layer)) {
    dx[0] = dy;
    return;
  }
  dx[0] = ls_layer_like(program, i->x[0]);
  ls_program_add(program, LS_OP_SHORTCUT_BACKWARD, i->layer->number, 1, 1, (int[]){dy, dx[0]}, &i->layer->attributes);
}

const struct ls_layer_type ls_layer_identity_shortcut = {.name = "identity_shortcut",
                                                         .type_case = LOCKSTEP__V1__LAYER__TYPE_IDENTITY_SHORTCUT,
                                                         .min_inputs = 1,
                                                         .max_inputs = 1,
                                                         .infer = infer,
                                                         .forward = forward,
                                                         .backward = backward};
