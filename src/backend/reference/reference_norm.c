// The reference backend's normalisation and loss: see reference.c.
#include <inttypes.h>
#include <math.h>

#include "backend/reference/reference_internal.h"

// Values of one channel of x [N,C,H,W]: element j of `count` lies at channel_at.
static int64_t channel_at(const struct ls_shape *s, int64_t c, int64_t j) {
  int64_t hw = s->dim[2] * s->dim[3];
  return (j / hw * s->dim[1] + c) * hw + j % hw;
}

static int64_t channel_count(const struct ls_shape *s) { return s->dim[0] * s->dim[2] * s->dim[3]; }

void reference_bn_train(const struct ls_op_desc *desc, const struct ls_op_args *args) {
  const struct ls_shape *s = &desc->tensor[0].shape;
  const double *x = args->tensor[0], *gamma = args->tensor[1], *beta = args->tensor[2];
  double *y = args->tensor[3], *mean = args->tensor[4], *variance = args->tensor[5];
  uint8_t *positive = args->workspace;
  int64_t count = channel_count(s);
  for (int64_t c = 0; c < s->dim[1]; c++) {
    mean[c] = variance[c] = 0;
    for (int64_t j = 0; j < count; j++) mean[c] += x[channel_at(s, c, j)] / (double)count;
    for (int64_t j = 0; j < count; j++) variance[c] += pow(x[channel_at(s, c, j)] - mean[c], 2) / (double)count;
    for (int64_t j = 0; j < count; j++) {
      int64_t at = channel_at(s, c, j);
      y[at] = gamma[c] * (x[at] - mean[c]) / sqrt(variance[c] + desc->attributes.epsilon) + beta[c];
      if (!desc->attributes.relu) continue;
      positive[at] = y[at] > 0;
      if (!positive[at]) y[at] = 0;
    }
  }
}

void reference_bn_infer(const struct ls_op_desc *desc, void *const *t) {
  const struct ls_shape *s = &desc->tensor[0].shape;
  const double *x = t[0], *gamma = t[1], *beta = t[2], *mean = t[3], *variance = t[4];
  double *y = t[5];
  for (int64_t i = 0; i < ls_shape_elements(s); i++) {
    int64_t c = i / (s->dim[2] * s->dim[3]) % s->dim[1];
    y[i] = gamma[c] * (x[i] - mean[c]) / sqrt(variance[c] + desc->attributes.epsilon) + beta[c];
    if (desc->attributes.relu && y[i] < 0) y[i] = 0;
  }
}

// With h = (x - mean) / deviation, n values a channel: dgamma = sum dy h, dbeta = sum dy, and because mean and deviation
// depend on every x: dx = gamma / deviation * (dy - dbeta / n - h dgamma / n).
void reference_bn_backward(const struct ls_op_desc *desc, const struct ls_op_args *args) {
  const struct ls_shape *s = &desc->tensor[0].shape;
  const double *x = args->tensor[0], *dy = args->tensor[1], *gamma = args->tensor[2];
  const double *mean = args->tensor[4], *variance = args->tensor[5];
  double *dx = args->tensor[6], *dgamma = args->tensor[7], *dbeta = args->tensor[8];
  const uint8_t *positive = desc->attributes.relu ? args->workspace : NULL;
  double count = (double)channel_count(s);
  for (int64_t c = 0; c < s->dim[1]; c++) {
    double deviation = sqrt(variance[c] + desc->attributes.epsilon);
    dgamma[c] = dbeta[c] = 0;
    for (int64_t j = 0; j < channel_count(s); j++) {
      int64_t at = channel_at(s, c, j);
      double slope = positive && !positive[at] ? 0 : dy[at];
      dgamma[c] += slope * (x[at] - mean[c]) / deviation;
      dbeta[c] += slope;
    }
    for (int64_t j = 0; j < channel_count(s); j++) {
      int64_t at = channel_at(s, c, j);
      double slope = positive && !positive[at] ? 0 : dy[at], h = (x[at] - mean[c]) / deviation;
      dx[at] = gamma[c] / deviation * (slope - dbeta[c] / count - h * dgamma[c] / count);
    }
  }
}

// k + alpha/size * sum of squares over the `size` channels around c, at the place of element i.
static double lrn_base(const struct ls_op_desc *desc, const double *x, int64_t i) {
  const struct ls_op_attributes *a = &desc->attributes;
  const struct ls_shape *s = &desc->tensor[0].shape;
  int64_t hw = s->dim[2] * s->dim[3], c = i / hw % s->dim[1];
  double sum = 0;
  for (int64_t d = -(a->lrn_size / 2); d <= a->lrn_size / 2; d++) {
    if (c + d >= 0 && c + d < s->dim[1]) sum += x[i + d * hw] * x[i + d * hw];
  }
  return a->k + a->alpha / (double)a->lrn_size * sum;
}

void reference_lrn_forward(const struct ls_op_desc *desc, void *const *t) {
  const double *x = t[0];
  double *y = t[1];
  for (int64_t i = 0; i < ls_shape_elements(&desc->tensor[0].shape); i++) {
    y[i] = x[i] / pow(lrn_base(desc, x, i), desc->attributes.beta);
  }
}

// y_c = x_c b_c^-beta, b_c = k + a sum x_d^2: dy_c/dx_d = [c = d] b_c^-beta - 2 a beta x_c x_d b_c^(-beta-1).
void reference_lrn_backward(const struct ls_op_desc *desc, void *const *t) {
  const struct ls_op_attributes *a = &desc->attributes;
  const struct ls_shape *s = &desc->tensor[0].shape;
  const double *x = t[0], *dy = t[1];
  double *dx = t[2];
  int64_t hw = s->dim[2] * s->dim[3];
  for (int64_t i = 0; i < ls_shape_elements(s); i++) {
    dx[i] = dy[i] * pow(lrn_base(desc, x, i), -a->beta);
    for (int64_t d = -(a->lrn_size / 2); d <= a->lrn_size / 2; d++) {
      int64_t c = i / hw % s->dim[1] + d, other = i + d * hw;
      if (c < 0 || c >= s->dim[1]) continue;
      dx[i] -= dy[other] * 2 * a->alpha / (double)a->lrn_size * a->beta * x[other] * x[i] *
               pow(lrn_base(desc, x, other), -a->beta - 1);
    }
  }
}

static void softmax(const struct ls_op_desc *desc, void *const *t) {
  int64_t images = desc->tensor[0].shape.dim[0], classes = desc->tensor[0].shape.dim[1];
  for (int64_t n = 0; n < images; n++) {
    const double *x = (const double *)t[0] + n * classes;
    double *p = (double *)t[desc->inputs] + n * classes, largest = x[0], sum = 0;
    for (int64_t c = 0; c < classes; c++) largest = fmax(largest, x[c]);
    for (int64_t c = 0; c < classes; c++) sum += exp(x[c] - largest);
    for (int64_t c = 0; c < classes; c++) p[c] = exp(x[c] - largest) / sum;
  }
}

ls_status reference_loss_forward(const struct ls_op_desc *desc, void *const *t, struct ls_error *err) {
  int64_t images = desc->tensor[0].shape.dim[0], classes = desc->tensor[0].shape.dim[1];
  const int32_t *labels = t[1];
  double sum[LS_METRICS] = {0};
  softmax(desc, t);
  for (int64_t n = 0; n < images; n++) {
    const double *x = (const double *)t[0] + n * classes, *p = (const double *)t[2] + n * classes;
    int32_t label = labels[n];
    if (label == -1) continue;
    if (label < 0 || label >= classes) {
      return ls_fail(err, LS_INVALID, "image %" PRId64 " has label %d, the network has classes 0 to %" PRId64, n, label,
                     classes - 1);
    }
    // Classes that the network holds for likelier; among equals the lower number goes first, a NaN comes behind all.
    int64_t before = isnan(x[label]) ? INT32_MAX : 0;
    for (int64_t c = 0; c < classes; c++) before += x[c] > x[label] || (x[c] == x[label] && c < label);
    sum[LS_METRIC_LOSS] -= log(p[label]);
    sum[LS_METRIC_TOP1] += before < 1;
    sum[LS_METRIC_TOP5] += before < 5;
    sum[LS_METRIC_IMAGES] += 1;
  }
  for (int i = 0; i < LS_METRICS; i++) ((float *)t[3])[i] = (float)sum[i];
  return LS_OK;
}

void reference_loss_backward(const struct ls_op_desc *desc, void *const *t) {
  int64_t classes = desc->tensor[0].shape.dim[1];
  const double *p = t[0];
  const int32_t *labels = t[1];
  double *dx = t[2];
  for (int64_t i = 0; i < ls_shape_elements(&desc->tensor[0].shape); i++) {
    int32_t label = labels[i / classes];
    dx[i] = label == -1 ? 0 : (p[i] - (i % classes == label)) * desc->attributes.scale;
  }
}
