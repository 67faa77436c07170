// Batch normalisation (Ioffe and Szegedy, 2015): y = gamma * (x - mean) / sqrt(variance + epsilon) + beta for each
// channel; mean and (biased) variance over the shard in training, the running ones in inference. The batch statistics go
// into the gradient slab where the running ones stand in the parameter slab, so that they are reduced with the gradients.
#include "layers/table.h"

enum { GAMMA, BETA, MEAN, VARIANCE };

static ls_status infer(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__BatchNorm *m = layer->message->batch_norm;
  LS_TRY(ls_layer_need_image(layer, err));
  layer->output_shape = layer->input_shape[0];
  layer->attributes.epsilon = m->epsilon;
  for (int i = 0; i < 4; i++) {
    struct ls_parameter *parameter = ls_layer_add_parameter(layer, LS_PARAMETER_GAMMA + (enum ls_parameter_kind)i,
                                                            &LS_SHAPE(layer->input_shape[0].dim[0]));
    parameter->running_momentum = m->momentum;
  }
  return LS_OK;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  if (i->fused) {  // inference: part of a convolution
    i->y = i->x[i->fused_input];
    return;
  }
  struct ls_op_attributes a = i->layer->attributes;
  a.relu = i->relu;
  a.training = program->training;
  i->y = ls_layer_like(program, i->x[0]);
  int gamma = ls_layer_parameter(i, program, GAMMA), beta = ls_layer_parameter(i, program, BETA);
  if (!program->training) {
    int mean = ls_layer_parameter(i, program, MEAN), variance = ls_layer_parameter(i, program, VARIANCE);
    i->op = ls_program_add(program, LS_OP_BN_FORWARD_INFER, i->layer->number, 5, 1,
                           (int[]){i->x[0], gamma, beta, mean, variance, i->y}, &a);
    return;
  }
  i->statistics[0] = ls_layer_gradient(i, program, MEAN);
  i->statistics[1] = ls_layer_gradient(i, program, VARIANCE);
  a.has_addend = i->added != LS_NO_LAYER;
  a.relu |= i->sum_relu;
  a.statistics = i->summed_by != LS_NO_LAYER;
  int values[9] = {i->x[0], gamma, beta}, count = LS_BN_SUM;
  for (int j = 0; a.statistics && j < 2; j++) values[count++] = i->sum_value[j];
  if (a.has_addend) values[count++] = i->added_value;
  values[count] = i->y;
  values[count + 1] = i->statistics[0];
  values[count + 2] = i->statistics[1];
  i->op = ls_program_add(program, LS_OP_BN_FORWARD_TRAIN, i->layer->number, count, 3, values, &a);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  struct ls_op_attributes a = i->layer->attributes;
  a.relu = i->relu;  // undone inside the operation, by the mask of the forward pass
  // The operation computes dx in any case; where nobody wants it, it is thrown away.
  dx[0] = ls_layer_like(program, i->x[0]);
  int values[9] = {i->x[0],
                   dy,
                   ls_layer_parameter(i, program, GAMMA),
                   ls_layer_parameter(i, program, BETA),
                   i->statistics[0],
                   i->statistics[1],
                   dx[0],
                   ls_layer_gradient(i, program, GAMMA),
                   ls_layer_gradient(i, program, BETA)};
  int op = ls_program_add(program, LS_OP_BN_BACKWARD, i->layer->number, 6, 3, values, &a);
  if (op >= 0) program->ops[op].forward = i->op;
}

const struct ls_layer_type ls_layer_batch_norm = {.name = "batch_norm",
                                                  .type_case = LOCKSTEP__V1__LAYER__TYPE_BATCH_NORM,
                                                  .min_inputs = 1,
                                                  .max_inputs = 1,
                                                  .can_fuse_relu = true,
                                                  .infer = infer,
                                                  .forward = forward,
                                                  .backward = backward};
