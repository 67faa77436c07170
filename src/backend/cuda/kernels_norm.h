// Kernel bodies: sums over columns in fixed order, batch norm, local response norm, softmax and loss. See kernel_basics.h.
//
// A sum over the rows of [rows, c] goes in stages (reduce.h): each index sums a run of rows of one column, then runs of
// the partial sums, until one row is left. Which rows meet is a function of the shape alone.
#ifndef LS_BACKEND_CUDA_KERNELS_NORM_H
#define LS_BACKEND_CUDA_KERNELS_NORM_H

#include "backend/cuda/kernel_basics.h"

// out [ceil(rows / run), c]: sums of `run` rows of x [rows, c] each. One value of out an index.
struct ls_k_column_sum {
  const void *x;
  float *out;
  enum ls_dtype dtype;
  int32_t c;
  int64_t rows, run;
};

LS_BODY void ls_body_column_sum(const struct ls_k_column_sum *k, int64_t i) {
  int64_t first = i / k->c * k->run, end = first + k->run < k->rows ? first + k->run : k->rows, row = first;
  const int64_t c = i % k->c;
  float sum[4] = {0, 0, 0, 0};  // of every fourth row: independent loads
  for (; row + 4 <= end; row += 4) {
    LS_UNROLL for (int l = 0; l < 4; l++) sum[l] += ls_get(k->x, k->dtype, (row + l) * k->c + c);
  }
  for (; row < end; row++) sum[0] += ls_get(k->x, k->dtype, row * k->c + c);
  k->out[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Mean and sum of squared distances from it of `run` rows of x [rows, c]; out [ceil(rows / run), c]. Summed around the
// run's first value, so that a large mean costs no digits.
struct ls_k_moments {
  const void *x;
  float *mean, *squares;
  enum ls_dtype dtype;
  int32_t c;
  int64_t rows, run;
};

LS_BODY void ls_body_moments(const struct ls_k_moments *k, int64_t i) {
  int64_t first = i / k->c * k->run, end = first + k->run < k->rows ? first + k->run : k->rows, row = first;
  const int64_t c = i % k->c;
  float pivot = ls_get(k->x, k->dtype, first * k->c + c), sum[4] = {0, 0, 0, 0}, squares[4] = {0, 0, 0, 0};
  for (; row + 4 <= end; row += 4) {
    LS_UNROLL for (int l = 0; l < 4; l++) {
      float d = ls_get(k->x, k->dtype, (row + l) * k->c + c) - pivot;
      sum[l] += d;
      squares[l] += d * d;
    }
  }
  for (; row < end; row++) {
    float d = ls_get(k->x, k->dtype, row * k->c + c) - pivot;
    sum[0] += d;
    squares[0] += d * d;
  }
  float all = (sum[0] + sum[1]) + (sum[2] + sum[3]), n = (float)(end - first);
  float rest = (squares[0] + squares[1]) + (squares[2] + squares[3]) - all * all / n;
  k->mean[i] = pivot + all / n;
  k->squares[i] = rest > 0 || isnan(rest) ? rest : 0;
}

// Joins runs of `run` partial moments (Chan, Golub and LeVeque, 1979): partial j of a column stands for `each` rows, the
// last one for what is left of `rows`. last: out_squares becomes the variance, squares / rows, and `inverse`
// 1 / sqrt(variance + epsilon).
struct ls_k_moments_join {
  const float *mean, *squares;
  float *out_mean, *out_squares, *inverse;
  float epsilon;
  int32_t c, last;
  int64_t rows, each, partials, run;
};

LS_BODY void ls_body_moments_join(const struct ls_k_moments_join *k, int64_t i) {
  int64_t first = i / k->c * k->run, end = first + k->run < k->partials ? first + k->run : k->partials;
  const int64_t c = i % k->c;
  float mean = 0, squares = 0, n = 0;
  for (int64_t j = first; j < end; j++) {
    int64_t rows = k->rows - j * k->each < k->each ? k->rows - j * k->each : k->each;
    float m = (float)rows, all = n + m, delta = k->mean[j * k->c + c] - mean;
    squares = squares + k->squares[j * k->c + c] + delta * delta * (n * (m / all));
    mean = mean + delta * (m / all);
    n = all;
  }
  k->out_mean[i] = mean;
  k->out_squares[i] = k->last ? squares / (float)k->rows : squares;
  if (k->last) k->inverse[i] = 1 / sqrtf(squares / (float)k->rows + k->epsilon);
}

// inverse = 1 / sqrt(variance + epsilon); one channel an index.
struct ls_k_inverse {
  const float *variance;
  float *inverse;
  float epsilon;
};

LS_BODY void ls_body_inverse(const struct ls_k_inverse *k, int64_t i) {
  k->inverse[i] = 1 / sqrtf(k->variance[i] + k->epsilon);
}

// y = gamma * (x - mean) * inverse + beta; [relu]. A group an index, x and y [n/c, c].
struct ls_k_normalise {
  const void *x;
  void *y;
  const float *gamma, *beta, *mean, *inverse;
  enum ls_dtype dtype;
  int32_t c, relu;
  int64_t n;
};

// The one formula, also for the backward pass, which asks it again where the ReLU let values through.
LS_BODY float ls_normalised(float x, float mean, float inverse, float gamma, float beta) {
  return gamma * ((x - mean) * inverse) + beta;
}

LS_BODY void ls_body_normalise(const struct ls_k_normalise *k, int64_t i) {
  int size = ls_group_size(k->n, i), c = (int)(i * LS_GROUP % k->c);
  float v[LS_GROUP];
  ls_get_group(k->x, k->dtype, i, size, v);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    v[l] = ls_normalised(v[l], k->mean[c], k->inverse[c], k->gamma[c], k->beta[c]);
    if (k->relu && v[l] < 0) v[l] = 0;
    c = c + 1 == k->c ? 0 : c + 1;
  }
  ls_put_group(k->y, k->dtype, i, size, v);
}

// Backward, first stage: partial sums of the slope (dy, 0 where the ReLU was shut) and of slope * h, with
// h = (x - mean) * inverse; out [ceil(rows / run), c] each. Second: dx = gamma * inverse * (slope - dbeta / n - h dgamma / n).
struct ls_k_bn_backward {
  const void *x, *dy;
  void *dx;
  const float *gamma, *beta, *mean, *inverse, *dgamma, *dbeta;
  float *slopes, *products;
  enum ls_dtype dtype;
  int32_t c, relu;
  int64_t rows, run;
};

LS_BODY float ls_bn_slope(const struct ls_k_bn_backward *k, float x, float dy, int64_t c) {
  return k->relu && !(ls_normalised(x, k->mean[c], k->inverse[c], k->gamma[c], k->beta[c]) > 0) ? 0 : dy;
}

LS_BODY void ls_body_bn_backward_sums(const struct ls_k_bn_backward *k, int64_t i) {
  int64_t first = i / k->c * k->run, end = first + k->run < k->rows ? first + k->run : k->rows;
  const int64_t c = i % k->c;
  float slopes[2] = {0, 0}, products[2] = {0, 0};
  for (int64_t row = first; row < end; row++) {
    float x = ls_get(k->x, k->dtype, row * k->c + c), dy = ls_get(k->dy, k->dtype, row * k->c + c);
    float slope = ls_bn_slope(k, x, dy, c), product = slope * ((x - k->mean[c]) * k->inverse[c]);
    int odd = (int)((row - first) & 1);
    slopes[0] += odd ? 0 : slope, slopes[1] += odd ? slope : 0;
    products[0] += odd ? 0 : product, products[1] += odd ? product : 0;
  }
  k->slopes[i] = slopes[0] + slopes[1];
  k->products[i] = products[0] + products[1];
}

LS_BODY void ls_body_bn_backward_data(const struct ls_k_bn_backward *k, int64_t i) {
  int64_t n = k->rows * k->c;
  int size = ls_group_size(n, i), c = (int)(i * LS_GROUP % k->c);
  float x[LS_GROUP], dy[LS_GROUP], count = (float)k->rows;
  ls_get_group(k->x, k->dtype, i, size, x);
  ls_get_group(k->dy, k->dtype, i, size, dy);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float h = (x[l] - k->mean[c]) * k->inverse[c], slope = ls_bn_slope(k, x[l], dy[l], c);
    dy[l] = k->gamma[c] * k->inverse[c] * (slope - k->dbeta[c] / count - h * (k->dgamma[c] / count));
    c = c + 1 == k->c ? 0 : c + 1;
  }
  ls_put_group(k->dx, k->dtype, i, size, dy);
}

// y = x * base^-beta, base = k + alpha * sum of squares over the channels around; `alpha` is already divided by the size.
// Backward: dx_c = dy_c base_c^-beta - 2 alpha beta x_c sum over d of dy_d x_d base_d^(-beta-1). One value an index.
struct ls_k_lrn {
  const void *x, *dy;
  void *to;
  float *base;  // forward in training writes it, backward reads it; else NULL
  enum ls_dtype dtype;
  int32_t c, half;  // channels c-half to c+half
  float alpha, beta, k;
};

LS_BODY void ls_body_lrn_forward(const struct ls_k_lrn *k, int64_t i) {
  int32_t c = (int32_t)(i % k->c);
  float sum = 0;
  for (int32_t d = -k->half; d <= k->half; d++) {
    if (c + d < 0 || c + d >= k->c) continue;
    float v = ls_get(k->x, k->dtype, i + d);
    sum += v * v;
  }
  float base = k->k + k->alpha * sum;
  if (k->base) k->base[i] = base;
  ls_put(k->to, k->dtype, i, ls_get(k->x, k->dtype, i) * powf(base, -k->beta));
}

LS_BODY void ls_body_lrn_backward(const struct ls_k_lrn *k, int64_t i) {
  int32_t c = (int32_t)(i % k->c);
  float sum = 0;
  for (int32_t d = -k->half; d <= k->half; d++) {
    if (c + d < 0 || c + d >= k->c) continue;
    sum += ls_get(k->dy, k->dtype, i + d) * ls_get(k->x, k->dtype, i + d) * powf(k->base[i + d], -k->beta - 1);
  }
  float dx = ls_get(k->dy, k->dtype, i) * powf(k->base[i], -k->beta);
  ls_put(k->to, k->dtype, i, dx - 2 * k->alpha * k->beta * ls_get(k->x, k->dtype, i) * sum);
}

// x [rows, c] -> p [rows, c]; with labels also row_metrics [rows, LS_METRICS]: loss, in the first one, in the first five,
// counted. One row an index, by lanes. A label outside [0, c) but -1 makes the loss NaN: the device cannot return an
// error, and the data set's labels are checked when it is opened.
struct ls_k_softmax {
  const void *x;
  void *p;
  const int32_t *labels;
  float *row_metrics;
  enum ls_dtype dtype, p_dtype;
  int32_t c;
};

LS_BODY void ls_body_softmax(const struct ls_k_softmax *k, int64_t row) {
  float most[LS_LANE_VALUES], sum[LS_LANE_VALUES], before[LS_LANE_VALUES];
  int64_t first = row * k->c;
  LS_LANE_LOOP(l) {
    LS_LANE(most, l) = -INFINITY;
    for (int32_t c = l; c < k->c; c += LS_LANES) {
      float v = ls_get(k->x, k->dtype, first + c);
      if (v > LS_LANE(most, l) || isnan(v)) LS_LANE(most, l) = v;
    }
  }
  ls_lanes_max(most);
  LS_LANE_LOOP(l) {
    LS_LANE(sum, l) = 0;
    for (int32_t c = l; c < k->c; c += LS_LANES)
      LS_LANE(sum, l) += expf(ls_get(k->x, k->dtype, first + c) - LS_LANE(most, l));
  }
  ls_lanes_sum(sum);
  int32_t label = k->labels ? k->labels[row] : -1;
  int known = label >= 0 && label < k->c;
  float own = known ? ls_get(k->x, k->dtype, first + label) : 0;
  LS_LANE_LOOP(l) {
    LS_LANE(before, l) = 0;
    for (int32_t c = l; c < k->c; c += LS_LANES) {
      float v = ls_get(k->x, k->dtype, first + c);
      LS_LANE(before, l) += known && (v > own || (v == own && c < label));
      ls_put(k->p, k->p_dtype, first + c, expf(v - LS_LANE(most, l)) / LS_LANE(sum, l));
    }
  }
  ls_lanes_sum(before);
  if (!k->labels) return;
  LS_LANE_LOOP(l) {
    if (l != 0) continue;
    int32_t rank = isnan(own) ? k->c : (int32_t)LS_LANE(before, l);
    float *m = k->row_metrics + row * 4;
    m[0] = known ? logf(LS_LANE(sum, l)) + (LS_LANE(most, l) - own) : label == -1 ? 0 : NAN;
    m[1] = known && rank < 1;
    m[2] = known && rank < 5;
    m[3] = label != -1;
  }
}

// out [4] = sums over rows of row_metrics [rows, 4]; one metric an index, by lanes, in float64.
struct ls_k_metrics {
  const float *row_metrics;
  float *out;
  int64_t rows;
};

LS_BODY void ls_body_metrics(const struct ls_k_metrics *k, int64_t metric) {
  double sum[LS_LANE_VALUES];
  LS_LANE_LOOP(l) {
    LS_LANE(sum, l) = 0;
    for (int64_t row = l; row < k->rows; row += LS_LANES) LS_LANE(sum, l) += (double)k->row_metrics[row * 4 + metric];
  }
  ls_lanes_sum_double(sum);
  LS_LANE_LOOP(l) {
    if (l == 0) k->out[metric] = (float)LS_LANE(sum, l);
  }
}

// dx = (p - onehot) * scale [* loss scale]; 0 for label -1. One value of [rows, c] an index.
struct ls_k_softmax_backward {
  const void *p;
  const int32_t *labels;
  const struct ls_step_parameters *step;  // NULL: no loss scale
  void *dx;
  enum ls_dtype p_dtype, dtype;
  int32_t c;
  float scale;
};

LS_BODY void ls_body_softmax_backward(const struct ls_k_softmax_backward *k, int64_t i) {
  int32_t label = k->labels[i / k->c];
  float p = ls_get(k->p, k->p_dtype, i), scale = k->step ? k->scale * k->step->loss_scale : k->scale;
  ls_put(k->dx, k->dtype, i, label < 0 ? 0 : (p - (i % k->c == label ? 1.0f : 0.0f)) * scale);
}

#endif
