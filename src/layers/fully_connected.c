// Fully connected: y[n,k] = b[k] + sum over c of w[k,c] x[n,c]; an image input counts as its C*H*W values.
#include <stdio.h>

#include "layers/table.h"

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__FullyConnected *m = layer->message->fully_connected;
  if (m->units < 1)
    return ls_fail(err, LS_INVALID, "layer '%s' (fully_connected): units must be at least 1", layer->name);
  int64_t inputs = ls_shape_elements(&layer->input_shape[0]);
  layer->attributes.has_bias = m->bias;
  layer->output_shape = LS_SHAPE(m->units);
  struct ls_parameter *w = ls_layer_add_parameter(layer, LS_PARAMETER_WEIGHT, &LS_SHAPE(m->units, inputs));
  w->init = m->weight_init;
  w->fan_in = inputs;
  w->fan_out = m->units;
  if (m->bias) {
    struct ls_parameter *b = ls_layer_add_parameter(layer, LS_PARAMETER_BIAS, &LS_SHAPE(m->units));
    b->init = m->bias_init;
    b->fan_in = inputs;
  }
  layer->multiply_adds = m->units * inputs;
  snprintf(layer->detail, sizeof layer->detail, "%u", m->units);
  return LS_OK;
}

// The weight with the shape of the value it meets: [K,C,H,W] where x is still an image. Row-major, the values are the same.
static int weight(struct ls_layer_instance *i, struct ls_program *program, enum ls_value_kind kind) {
  if (i->x[0] < 0) return LS_NO_VALUE;
  struct ls_shape shape = program->values[i->x[0]].shape;
  shape.dim[0] = i->layer->output_shape.dim[0];
  return ls_program_slab_value(program, kind, &shape, i->layer->first_parameter);
}

// Weights of at least this many values get their gradient as two factors. A rule of the network alone: it decides about
// the order of sums, so it must not depend on the number of workers.
enum { FACTOR_MIN_WEIGHTS = 1 << 20 };

static bool factored(const struct ls_layer_instance *i, const struct ls_program *program) {
  return program->factors && i->layer->multiply_adds >= FACTOR_MIN_WEIGHTS;
}

// The input row-major, as a factor; the weight too, so that the optimizer can work on tiles of rows and columns.
static int plain_input(struct ls_layer_instance *i, struct ls_program *program) {
  int x = i->x[0], w = weight(i, program, LS_VALUE_PARAMETER);
  if (x < 0 || w < 0) return x;
  struct ls_shape shape = program->values[x].shape;
  int plain = ls_program_value(program, program->training ? LS_VALUE_FACTOR : LS_VALUE_ACTIVATION,
                               program->values[x].dtype, &shape, i->layer->first_parameter);
  if (plain < 0) return x;
  program->values[plain].plain = program->values[w].plain = true;
  ls_program_add(program, LS_OP_REORDER, i->layer->number, 1, 1, (int[]){x, plain}, NULL);
  return plain;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  struct ls_op_attributes a = i->layer->attributes;
  a.relu = i->relu;
  a.training = program->training;
  i->y = ls_layer_activation(program, &i->layer->output_shape);
  int x = factored(i, program) ? plain_input(i, program) : i->x[0];
  int values[4] = {x, weight(i, program, LS_VALUE_PARAMETER), i->y};
  if (a.has_bias) {
    values[2] = ls_layer_parameter(i, program, 1);
    values[3] = i->y;
  }
  i->op = ls_program_add(program, LS_OP_FC_FORWARD, i->layer->number, a.has_bias ? 3 : 2, 1, values, &a);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  struct ls_op_attributes a = i->layer->attributes;
  dy = ls_layer_before_relu(i, program, dy);
  if (dx[0] != LS_NO_VALUE) {
    dx[0] = ls_layer_like(program, i->x[0]);
    int op = ls_program_add(program, LS_OP_FC_BACKWARD_DATA, i->layer->number, 2, 1,
                            (int[]){dy, weight(i, program, LS_VALUE_PARAMETER), dx[0]}, &a);
    if (op >= 0) program->ops[op].forward = i->op;
  }
  if (factored(i, program)) {
    if (dy < 0) return;
    struct ls_shape shape = program->values[dy].shape;
    int factor =
        ls_program_value(program, LS_VALUE_FACTOR, program->values[dy].dtype, &shape, i->layer->first_parameter);
    if (factor < 0) return;
    program->values[factor].plain = true;
    ls_program_add(program, LS_OP_REORDER, i->layer->number, 1, 1, (int[]){dy, factor}, NULL);
    return;
  }
  int values[4] = {i->x[0], dy, weight(i, program, LS_VALUE_GRADIENT)};
  if (a.has_bias) values[3] = ls_layer_gradient(i, program, 1);
  int op = ls_program_add(program, LS_OP_FC_BACKWARD_WEIGHTS, i->layer->number, 2, a.has_bias ? 2 : 1, values, &a);
  if (op >= 0) program->ops[op].forward = i->op;
}

const struct ls_layer_type ls_layer_fully_connected = {.name = "fully_connected",
                                                       .type_case = LOCKSTEP__V1__LAYER__TYPE_FULLY_CONNECTED,
                                                       .min_inputs = 1,
                                                       .max_inputs = 1,
                                                       .can_fuse_relu = true,
                                                       .infer = infer,
                                                       .forward = forward,
                                                       .backward = backward};
