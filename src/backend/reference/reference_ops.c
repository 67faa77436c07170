// The reference backend's operations, each written from its definition (backend.h, the layer files), in float64.
//
// Backward passes are written as scatters of the forward loop: for every product that the forward pass adds up, both
// factors get their share. tests/gradient holds each of them against finite differences.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "backend/reference/reference_internal.h"
#include "base/philox.h"

// Where row `r` of window `p` lies on an axis (0: rows, 1: columns) of the input; may be outside.
static int64_t tap(const struct ls_op_attributes *a, int axis, int64_t p, int64_t r) {
  return p * a->stride[axis] + r * a->dilation[axis] - a->pad_before[axis];
}

static int64_t at4(const struct ls_shape *s, int64_t n, int64_t c, int64_t h, int64_t w) {
  return ((n * s->dim[1] + c) * s->dim[2] + h) * s->dim[3] + w;
}

enum direction { FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS };

// x [N,C,H,W], w [K,C/groups,R,S], y [N,K,P,Q]. One product w*x of output element y[at]: forward adds it; backward gives
// dx its share w*dy, dw its share x*dy.
static void conv_element(enum direction direction, const struct ls_op_attributes *a, const struct ls_shape *xs,
                         const struct ls_shape *ws, const int64_t y_index[4], double *x, double *w, double *y) {
  int64_t n = y_index[0], k = y_index[1], per_group = ws->dim[1];
  int64_t first_channel = k / (ws->dim[0] / a->groups) * per_group;
  for (int64_t c = 0; c < per_group; c++) {
    for (int64_t r = 0; r < ws->dim[2]; r++) {
      for (int64_t s = 0; s < ws->dim[3]; s++) {
        int64_t row = tap(a, 0, y_index[2], r), column = tap(a, 1, y_index[3], s);
        if (row < 0 || row >= xs->dim[2] || column < 0 || column >= xs->dim[3]) continue;
        double *xv = x + at4(xs, n, first_channel + c, row, column), *wv = w + at4(ws, k, c, r, s);
        if (direction == FORWARD) *y += *xv * *wv;
        if (direction == BACKWARD_DATA) *xv += *y * *wv;
        if (direction == BACKWARD_WEIGHTS) *wv += *y * *xv;
      }
    }
  }
}

static void zero(const struct ls_tensor_desc *t, double *values) {
  memset(values, 0, (size_t)ls_shape_elements(&t->shape) * sizeof *values);
}

static void convolution(const struct ls_op_desc *desc, enum direction direction, void *const *t) {
  const struct ls_op_attributes *a = &desc->attributes;
  int xi = direction == BACKWARD_DATA ? 2 : 0, wi = direction == BACKWARD_WEIGHTS ? 2 : 1;
  int yi = direction == FORWARD ? desc->inputs : direction == BACKWARD_DATA ? 0 : 1;
  const struct ls_shape *ys = &desc->tensor[yi].shape;
  double *x = t[xi], *w = t[wi], *y = t[yi], *bias = !a->has_bias ? NULL : direction == FORWARD ? t[2] : t[3];
  if (direction == BACKWARD_DATA) zero(&desc->tensor[xi], x);
  if (direction == BACKWARD_WEIGHTS) zero(&desc->tensor[wi], w);
  if (direction == BACKWARD_WEIGHTS && bias) zero(&desc->tensor[3], bias);
  for (int64_t i = 0; i < ls_shape_elements(ys); i++) {
    int64_t hw = ys->dim[2] * ys->dim[3], k = i / hw % ys->dim[1];
    int64_t index[4] = {i / hw / ys->dim[1], k, i % hw / ys->dim[3], i % ys->dim[3]};
    if (direction == FORWARD) y[i] = bias ? bias[k] : 0;
    if (direction == BACKWARD_WEIGHTS && bias) bias[k] += y[i];
    conv_element(direction, a, &desc->tensor[xi].shape, &desc->tensor[wi].shape, index, x, w, &y[i]);
    if (direction == FORWARD && a->relu && y[i] < 0) y[i] = 0;
  }
}

// x [N,C], w [K,C], y [N,K]; images count as their row-major values.
static void fully_connected(const struct ls_op_desc *desc, enum direction direction, void *const *t) {
  int xi = direction == BACKWARD_DATA ? 2 : 0, wi = direction == BACKWARD_WEIGHTS ? 2 : 1;
  int yi = direction == FORWARD ? desc->inputs : direction == BACKWARD_DATA ? 0 : 1;
  int64_t images = desc->tensor[yi].shape.dim[0], units = desc->tensor[yi].shape.dim[1];
  int64_t inputs = ls_shape_elements(&desc->tensor[xi].shape) / images;
  const struct ls_op_attributes *a = &desc->attributes;
  double *x = t[xi], *w = t[wi], *y = t[yi], *bias = !a->has_bias ? NULL : direction == FORWARD ? t[2] : t[3];
  if (direction == BACKWARD_DATA) zero(&desc->tensor[xi], x);
  if (direction == BACKWARD_WEIGHTS) zero(&desc->tensor[wi], w);
  if (direction == BACKWARD_WEIGHTS && bias) zero(&desc->tensor[3], bias);
  for (int64_t n = 0; n < images; n++) {
    for (int64_t k = 0; k < units; k++) {
      double *yv = &y[n * units + k];
      if (direction == FORWARD) *yv = bias ? bias[k] : 0;
      if (direction == BACKWARD_WEIGHTS && bias) bias[k] += *yv;
      for (int64_t c = 0; c < inputs; c++) {
        if (direction == FORWARD) *yv += x[n * inputs + c] * w[k * inputs + c];
        if (direction == BACKWARD_DATA) x[n * inputs + c] += *yv * w[k * inputs + c];
        if (direction == BACKWARD_WEIGHTS) w[k * inputs + c] += *yv * x[n * inputs + c];
      }
      if (direction == FORWARD && a->relu && *yv < 0) *yv = 0;
    }
  }
}

// How many positions average pooling divides by: those inside the image, or inside image and padding.
static int64_t divisor(const struct ls_op_attributes *a, const struct ls_shape *xs, int64_t p, int64_t q) {
  int64_t margin_before[2] = {0, 0}, margin_after[2] = {0, 0}, count = 0;
  if (a->pool == LS_POOL_AVERAGE_WITH_PAD) {
    memcpy(margin_before, a->pad_before, sizeof margin_before);
    memcpy(margin_after, a->pad_after, sizeof margin_after);
  }
  for (int64_t r = 0; r < a->kernel[0]; r++) {
    for (int64_t s = 0; s < a->kernel[1]; s++) {
      int64_t row = tap(a, 0, p, r), column = tap(a, 1, q, s);
      count += row >= -margin_before[0] && row < xs->dim[2] + margin_after[0] && column >= -margin_before[1] &&
               column < xs->dim[3] + margin_after[1];
    }
  }
  return count;
}

// x [N,C,H,W], y [N,C,P,Q]. Maximum: the first in row-major order wins, the first NaN over all; its index in x goes to
// `where`.
static void pool_forward_window(const struct ls_op_desc *desc, const double *x, int64_t i, double *y, int64_t *where) {
  const struct ls_op_attributes *a = &desc->attributes;
  const struct ls_shape *xs = &desc->tensor[0].shape, *ys = &desc->tensor[1].shape;
  int64_t q = i % ys->dim[3], p = i / ys->dim[3] % ys->dim[2], plane = i / ys->dim[3] / ys->dim[2];
  double sum = 0;
  int64_t best = -1;
  for (int64_t r = 0; r < a->kernel[0]; r++) {
    for (int64_t s = 0; s < a->kernel[1]; s++) {
      int64_t row = tap(a, 0, p, r), column = tap(a, 1, q, s);
      if (row < 0 || row >= xs->dim[2] || column < 0 || column >= xs->dim[3]) continue;
      int64_t at = (plane * xs->dim[2] + row) * xs->dim[3] + column;
      sum += x[at];
      if (best < 0 || x[at] > x[best] || (isnan(x[at]) && !isnan(x[best]))) best = at;
    }
  }
  if (a->pool == LS_POOL_MAX) {
    y[i] = x[best];
    where[i] = best;
  } else {
    y[i] = sum / (double)divisor(a, xs, p, q);
  }
}

static void pool_backward_window(const struct ls_op_desc *desc, const double *dy, int64_t i, double *dx,
                                 const int64_t *where) {
  const struct ls_op_attributes *a = &desc->attributes;
  const struct ls_shape *ys = &desc->tensor[0].shape, *xs = &desc->tensor[1].shape;
  int64_t q = i % ys->dim[3], p = i / ys->dim[3] % ys->dim[2], plane = i / ys->dim[3] / ys->dim[2];
  if (a->pool == LS_POOL_MAX) {
    dx[where[i]] += dy[i];
    return;
  }
  double share = dy[i] / (double)divisor(a, xs, p, q);
  for (int64_t r = 0; r < a->kernel[0]; r++) {
    for (int64_t s = 0; s < a->kernel[1]; s++) {
      int64_t row = tap(a, 0, p, r), column = tap(a, 1, q, s);
      if (row < 0 || row >= xs->dim[2] || column < 0 || column >= xs->dim[3]) continue;
      dx[(plane * xs->dim[2] + row) * xs->dim[3] + column] += share;
    }
  }
}

static void pooling(const struct ls_op_desc *desc, const struct ls_op_args *args) {
  bool forward = desc->kind == LS_OP_POOL_FORWARD;
  if (!forward) zero(&desc->tensor[1], args->tensor[1]);
  for (int64_t i = 0; i < ls_shape_elements(&desc->tensor[forward ? 1 : 0].shape); i++) {
    if (forward)
      pool_forward_window(desc, args->tensor[0], i, args->tensor[1], args->workspace);
    else
      pool_backward_window(desc, args->tensor[0], i, args->tensor[1], args->workspace);
  }
}

static void add(const struct ls_op_desc *desc, void *const *t) {
  double *y = t[desc->inputs];
  for (int64_t i = 0; i < ls_shape_elements(&desc->tensor[0].shape); i++) {
    double sum = 0;
    for (int j = 0; j < desc->inputs; j++) sum += ((const double *)t[j])[i];
    y[i] = desc->attributes.relu && sum < 0 ? 0 : sum;
  }
}

static void relu(const struct ls_op_desc *desc, void *const *t) {
  bool forward = desc->kind == LS_OP_RELU_FORWARD;
  const double *sign = t[0], *from = forward ? t[0] : t[1];
  double *to = forward ? t[1] : t[2], slope = desc->attributes.slope;
  for (int64_t i = 0; i < ls_shape_elements(&desc->tensor[0].shape); i++) {
    to[i] = sign[i] > 0 ? from[i] : slope * from[i];
  }
}

// Element e of image n of the global batch falls out by its word of the random sequence (base/philox.h), the one thing
// that has to be the same number for number on every backend.
static void dropout(const struct ls_op_desc *desc, void *const *t) {
  const double *from = t[0];
  const struct ls_step_parameters *step = t[1];
  double *to = t[2], rate = desc->attributes.rate;
  int64_t images = desc->tensor[0].shape.dim[0], size = ls_shape_elements(&desc->tensor[0].shape) / images;
  for (int64_t i = 0; i < images * size; i++) {
    uint64_t image = step->first_image + (uint64_t)(i / size), element = (uint64_t)(i % size);
    struct ls_philox4 r = ls_random(step->seed, LS_RANDOM_DROPOUT, step->step,
                                    (uint64_t)desc->attributes.layer << 32 | image, (uint32_t)(element / 4));
    to[i] = r.v[element % 4] < (uint32_t)(rate * 0x1p32) ? 0 : from[i] / (1 - rate);
  }
}

// Option A: y[n,c,p,q] = x[n,c,p*stride,q*stride] for the input's channels, 0 for the others.
static void shortcut(const struct ls_op_desc *desc, void *const *t) {
  bool forward = desc->kind == LS_OP_SHORTCUT_FORWARD;
  const struct ls_shape *xs = &desc->tensor[forward ? 0 : 1].shape, *ys = &desc->tensor[forward ? 1 : 0].shape;
  double *x = t[forward ? 0 : 1], *y = t[forward ? 1 : 0];
  zero(&desc->tensor[1], t[1]);
  for (int64_t i = 0; i < ls_shape_elements(ys); i++) {
    int64_t q = i % ys->dim[3], p = i / ys->dim[3] % ys->dim[2], c = i / ys->dim[3] / ys->dim[2] % ys->dim[1];
    int64_t n = i / ys->dim[3] / ys->dim[2] / ys->dim[1];
    if (c >= xs->dim[1]) continue;
    double *xv = &x[at4(xs, n, c, p * desc->attributes.stride[0], q * desc->attributes.stride[1])];
    if (forward)
      y[i] = *xv;
    else
      *xv = y[i];
  }
}

void reference_copy(const struct ls_layout *from_layout, const void *from, const struct ls_layout *to_layout,
                    void *to) {
  const struct ls_shape *s = &from_layout->shape;
  for (int64_t i = 0; i < ls_shape_elements(s); i++) {
    int64_t nchw = i, nhwc = i;
    if (s->rank == 4) {
      int64_t w = i % s->dim[3], h = i / s->dim[3] % s->dim[2], c = i / s->dim[3] / s->dim[2] % s->dim[1];
      int64_t n = i / s->dim[3] / s->dim[2] / s->dim[1];
      nhwc = ((n * s->dim[2] + h) * s->dim[3] + w) * s->dim[1] + c;
    }
    int64_t a = from_layout->channels_last ? nhwc : nchw, b = to_layout->channels_last ? nhwc : nchw;
    double value = 0;
    switch (from_layout->dtype) {
      case LS_F64: value = ((const double *)from)[a]; break;
      case LS_F32: value = ((const float *)from)[a]; break;
      case LS_U8: value = ((const uint8_t *)from)[a]; break;
      case LS_I32: value = ((const int32_t *)from)[a]; break;
      default: break;
    }
    switch (to_layout->dtype) {
      case LS_F64: ((double *)to)[b] = value; break;
      case LS_F32: ((float *)to)[b] = (float)value; break;
      case LS_U8: ((uint8_t *)to)[b] = (uint8_t)value; break;
      case LS_I32: ((int32_t *)to)[b] = (int32_t)value; break;
      default: break;
    }
  }
}

ls_status reference_run(const struct ls_op *op, const struct ls_op_args *args, struct ls_error *err) {
  const struct ls_op_desc *desc = &op->desc;
  void *const *t = args->tensor;
  switch (desc->kind) {
    case LS_OP_REORDER: reference_copy(desc->tensor[0].layout, t[0], desc->tensor[1].layout, t[1]); break;
    case LS_OP_ADD: add(desc, t); break;
    case LS_OP_CONV_FORWARD: convolution(desc, FORWARD, t); break;
    case LS_OP_CONV_BACKWARD_DATA: convolution(desc, BACKWARD_DATA, t); break;
    case LS_OP_CONV_BACKWARD_WEIGHTS: convolution(desc, BACKWARD_WEIGHTS, t); break;
    case LS_OP_FC_FORWARD: fully_connected(desc, FORWARD, t); break;
    case LS_OP_FC_BACKWARD_DATA: fully_connected(desc, BACKWARD_DATA, t); break;
    case LS_OP_FC_BACKWARD_WEIGHTS: fully_connected(desc, BACKWARD_WEIGHTS, t); break;
    case LS_OP_POOL_FORWARD:
    case LS_OP_POOL_BACKWARD: pooling(desc, args); break;
    case LS_OP_RELU_FORWARD:
    case LS_OP_RELU_BACKWARD: relu(desc, t); break;
    case LS_OP_DROPOUT_FORWARD:
    case LS_OP_DROPOUT_BACKWARD: dropout(desc, t); break;
    case LS_OP_SHORTCUT_FORWARD:
    case LS_OP_SHORTCUT_BACKWARD: shortcut(desc, t); break;
    case LS_OP_BN_FORWARD_TRAIN: reference_bn_train(desc, args); break;
    case LS_OP_BN_FORWARD_INFER: reference_bn_infer(desc, t); break;
    case LS_OP_BN_BACKWARD: reference_bn_backward(desc, args); break;
    case LS_OP_LRN_FORWARD: reference_lrn_forward(desc, t); break;
    case LS_OP_LRN_BACKWARD: reference_lrn_backward(desc, t); break;
    case LS_OP_SOFTMAX_CE_FORWARD: return reference_loss_forward(desc, t, err);
    case LS_OP_SOFTMAX_CE_BACKWARD: reference_loss_backward(desc, t); break;
    default: return ls_fail(err, LS_UNSUPPORTED, "the reference backend has no operation %d", (int)desc->kind);
  }
  return LS_OK;
}
