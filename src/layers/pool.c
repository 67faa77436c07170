// Pooling: maximum or average over windows, global and adaptive average.
#include <inttypes.h>
#include <stdio.h>

#include "layers/table.h"

// Windows of a max_pool or average_pool message.
static ls_status infer_windows(struct ls_layer *layer, const Lockstep__V1__Pool *m, enum ls_pool_kind kind,
                               struct ls_error *err) {
  LS_TRY(ls_layer_need_image(layer, err));
  if (m->n_kernel < 1 || m->n_kernel > 2) {
    return ls_fail(err, LS_INVALID, "layer '%s' (%s): kernel has %zu numbers, one or two (height, width) are allowed",
                   layer->name, layer->type->name, m->n_kernel);
  }
  struct ls_op_attributes *a = &layer->attributes;
  a->pool = kind;
  layer->output_shape = layer->input_shape[0];
  for (int i = 0; i < 2; i++) {
    int64_t input = layer->input_shape[0].dim[i + 1], *output = &layer->output_shape.dim[i + 1];
    a->kernel[i] = ls_layer_pair(m->kernel, m->n_kernel, i, 1);
    a->stride[i] = ls_layer_pair(m->stride, m->n_stride, i, a->kernel[i]);
    a->dilation[i] = 1;
    a->pad_before[i] = ls_layer_pair(m->pad, m->n_pad, i, 0);
    if (a->kernel[i] < 1 || a->stride[i] < 1) {
      return ls_fail(err, LS_INVALID, "layer '%s' (%s): kernel and stride must be at least 1", layer->name,
                     layer->type->name);
    }
    if (2 * a->pad_before[i] > a->kernel[i]) {
      return ls_fail(err, LS_INVALID, "layer '%s' (%s): pad %" PRId64 " is more than half of the kernel (%" PRId64 ")",
                     layer->name, layer->type->name, a->pad_before[i], a->kernel[i]);
    }
    LS_TRY(ls_layer_window(layer, i, input, a->pad_before[i], a->pad_before[i], a->kernel[i], 1, a->stride[i], m->ceil,
                           output, err));
    int64_t reach = (*output - 1) * a->stride[i] + a->kernel[i] - input - a->pad_before[i];
    a->pad_after[i] = reach > 0 ? reach : 0;
  }
  snprintf(layer->detail, sizeof layer->detail, "%" PRId64 "x%" PRId64 ", stride %" PRId64 "%s", a->kernel[0],
           a->kernel[1], a->stride[0], m->ceil ? ", ceil" : "");
  return LS_OK;
}

static ls_status infer_max(struct ls_layer *layer, struct ls_error *err) {
  return infer_windows(layer, layer->message->max_pool, LS_POOL_MAX, err);
}

// What ceil mode adds behind the padding never counts in the divisor (Caffe's and PyTorch's rule). Without padding that is
// the divisor of count_pad: false; with padding the backends have no such divisor.
static ls_status infer_average(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__Pool *m = layer->message->average_pool;
  LS_TRY(infer_windows(layer, m, m->count_pad ? LS_POOL_AVERAGE_WITH_PAD : LS_POOL_AVERAGE_WITHOUT_PAD, err));
  struct ls_op_attributes *a = &layer->attributes;
  if (a->pad_before[0] == 0 && a->pad_before[1] == 0) a->pool = LS_POOL_AVERAGE_WITHOUT_PAD;
  if (a->pool == LS_POOL_AVERAGE_WITHOUT_PAD) return LS_OK;
  for (int i = 0; i < 2; i++) {
    if (a->pad_after[i] <= a->pad_before[i]) continue;
    return ls_fail(err, LS_UNSUPPORTED,
                   "layer '%s' (average_pool): with ceil the last window reaches %" PRId64
                   " %s behind the padding; allowed are pad: 0, count_pad: false or ceil: false",
                   layer->name, a->pad_after[i] - a->pad_before[i], i == 0 ? "rows" : "columns");
  }
  return LS_OK;
}

// Average over equal windows that tile the input.
static ls_status infer_tiles(struct ls_layer *layer, int64_t height, int64_t width, struct ls_error *err) {
  LS_TRY(ls_layer_need_image(layer, err));
  struct ls_op_attributes *a = &layer->attributes;
  a->pool = LS_POOL_AVERAGE_WITHOUT_PAD;
  int64_t output[2] = {height, width};
  layer->output_shape = LS_SHAPE(layer->input_shape[0].dim[0], height, width);
  for (int i = 0; i < 2; i++) {
    int64_t input = layer->input_shape[0].dim[i + 1];
    if (output[i] < 1 || input % output[i]) {
      return ls_fail(err, LS_UNSUPPORTED,
                     "layer '%s' (%s): an output of %" PRId64 "x%" PRId64 " does not divide the input of %" PRId64
                     "x%" PRId64 " into equal windows",
                     layer->name, layer->type->name, height, width, layer->input_shape[0].dim[1],
                     layer->input_shape[0].dim[2]);
    }
    a->kernel[i] = a->stride[i] = input / output[i];
    a->dilation[i] = 1;
  }
  return LS_OK;
}

static ls_status infer_global(struct ls_layer *layer, struct ls_error *err) { return infer_tiles(layer, 1, 1, err); }

static ls_status infer_adaptive(struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__AdaptiveAveragePool *m = layer->message->adaptive_average_pool;
  LS_TRY(infer_tiles(layer, m->height, m->width, err));
  snprintf(layer->detail, sizeof layer->detail, "to %ux%u", m->height, m->width);
  return LS_OK;
}

static bool does_nothing(const struct ls_op_attributes *a) {
  return a->kernel[0] == 1 && a->kernel[1] == 1 && a->stride[0] == 1 && a->stride[1] == 1;
}

static void forward(struct ls_layer_instance *i, struct ls_program *program) {
  struct ls_op_attributes a = i->layer->attributes;
  if (does_nothing(&a)) {  // adaptive pooling to the size that is there
    i->y = i->x[0];
    return;
  }
  a.training = program->training;
  i->y = ls_layer_activation(program, &i->layer->output_shape);
  i->op = ls_program_add(program, LS_OP_POOL_FORWARD, i->layer->number, 1, 1, (int[]){i->x[0], i->y}, &a);
}

static void backward(struct ls_layer_instance *i, struct ls_program *program, int dy, int *dx) {
  if (dx[0] == LS_NO_VALUE) return;
  if (does_nothing(&i->layer->attributes)) {
    dx[0] = dy;
    return;
  }
  dx[0] = ls_layer_like(program, i->x[0]);
  int op =
      ls_program_add(program, LS_OP_POOL_BACKWARD, i->layer->number, 1, 1, (int[]){dy, dx[0]}, &i->layer->attributes);
  if (op >= 0) program->ops[op].forward = i->op;
}

const struct ls_layer_type ls_layer_max_pool = {.name = "max_pool",
                                                .type_case = LOCKSTEP__V1__LAYER__TYPE_MAX_POOL,
                                                .min_inputs = 1,
                                                .max_inputs = 1,
                                                .infer = infer_max,
                                                .forward = forward,
                                                .backward = backward};
const struct ls_layer_type ls_layer_average_pool = {.name = "average_pool",
                                                    .type_case = LOCKSTEP__V1__LAYER__TYPE_AVERAGE_POOL,
                                                    .min_inputs = 1,
                                                    .max_inputs = 1,
                                                    .infer = infer_average,
                                                    .forward = forward,
                                                    .backward = backward};
const struct ls_layer_type ls_layer_global_average_pool = {.name = "global_average_pool",
                                                           .type_case = LOCKSTEP__V1__LAYER__TYPE_GLOBAL_AVERAGE_POOL,
                                                           .min_inputs = 1,
                                                           .max_inputs = 1,
                                                           .infer = infer_global,
                                                           .forward = forward,
                                                           .backward = backward};
const struct ls_layer_type ls_layer_adaptive_average_pool = {
    .name = "adaptive_average_pool",
    .type_case = LOCKSTEP__V1__LAYER__TYPE_ADAPTIVE_AVERAGE_POOL,
    .min_inputs = 1,
    .max_inputs = 1,
    .infer = infer_adaptive,
    .forward = forward,
    .backward = backward};
