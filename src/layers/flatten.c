// Flatten: [C,H,W] becomes [C*H*W]. No operation: what follows reads the image as it lies, a fully connected layer in
// whatever layout it finds.
#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  (void)err;
  layer->output_shape = LS_SHAPE(ls_shape_elements(&layer->input_shape[0]));
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  (void)program;
  i->y = i->x[0];
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  (void)i;
  (void)program;
  if (dx[0] != LS_NO_VALUE) dx[0] = dy;
}

const struct ls_layer_type ls_layer_flatten = {.name = "flatten",
                                               .type_case = LOCKSTEP__V1__LAYER__TYPE_FLATTEN,
                                               .min_inputs = 1,
                                               .max_inputs = 1,
                                               .infer = infer,
                                               .forward = forward,
                                               .backward = backward};
