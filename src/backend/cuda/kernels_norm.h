// Kernel bodies: sums over columns in fixed order, batch norm, local response norm, softmax and loss. See kernel_basics.h.
//
// A sum over the rows of [rows, c] goes in stages (reduce.h): each index sums a run of rows of a few columns, then runs of
// the partial sums, until one row is left. Which rows meet is a function of the shape alone.
#ifndef LS_BACKEND_CUDA_KERNELS_NORM_H
#define LS_BACKEND_CUDA_KERNELS_NORM_H

#include "backend/cuda/kernel_basics.h"

// Which rows of which channels index `i` of a sum over runs of rows works on.
struct ls_run {
  int64_t first, end;  // rows
  int64_t out;         // where its result goes, of [runs, c]
  int32_t c;           // first channel
  int width;
};

// `unit`: what stretches must divide, c or a part of it.
LS_BODY struct ls_run ls_run_of(int64_t i, int32_t c, int32_t unit, int64_t rows, int64_t run) {
  struct ls_run r;
  r.width = ls_stretch(unit);
  int32_t stretches = c / r.width;
  int64_t which = i / stretches;
  r.c = (int32_t)(i % stretches) * r.width;
  r.first = which * run;
  r.end = r.first + run < rows ? r.first + run : rows;
  r.out = which * c + r.c;
  return r;
}

enum { LS_ROWS_AT_ONCE = 4 };  // whose loads are under way together

// out [ceil(rows / run), c]: sums of `run` rows of x [rows, c] each. One stretch of out an index. `half`: where c holds two
// sums side by side, how wide each is; `high`: where the second one goes in the last stage. Else 0 and NULL.
struct ls_k_column_sum {
  const void *x;
  float *out, *high;
  enum ls_dtype dtype;
  int32_t c, half;
  int64_t rows, run;
};

LS_BODY void ls_body_column_sum(const struct ls_k_column_sum *k, int64_t i) {
  struct ls_run r = ls_run_of(i, k->c, k->half ? k->half : k->c, k->rows, k->run);
  float sum[LS_ROWS_AT_ONCE][LS_GROUP] = {{0}}, v[LS_ROWS_AT_ONCE][LS_GROUP];
  int64_t row = r.first;
  for (; row + LS_ROWS_AT_ONCE <= r.end; row += LS_ROWS_AT_ONCE) {
    LS_UNROLL for (int j = 0; j < LS_ROWS_AT_ONCE; j++)
        ls_get_stretch(k->x, k->dtype, (row + j) * k->c + r.c, r.width, v[j]);
    LS_UNROLL for (int j = 0; j < LS_ROWS_AT_ONCE; j++) {
      LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[j][l] += v[j][l];
    }
  }
  for (; row < r.end; row++) {
    ls_get_stretch(k->x, k->dtype, row * k->c + r.c, r.width, v[0]);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[0][l] += v[0][l];
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[0][l] = (sum[0][l] + sum[1][l]) + (sum[2][l] + sum[3][l]);
  if (k->high && r.c >= k->half)
    ls_put_stretch(k->high, r.c - k->half, r.width, sum[0]);
  else
    ls_put_stretch(k->out, r.out, r.width, sum[0]);
}

// Mean and sum of squared distances from it of `run` rows of x [rows, c]; out [ceil(rows / run), c]. Summed around the
// run's first value, so that a large mean costs no digits. One stretch an index.
struct ls_k_moments {
  const void *x;
  float *mean, *squares;
  enum ls_dtype dtype;
  int32_t c;
  int64_t rows, run;
};

LS_BODY void ls_add_moments(const float *v, const float *pivot, float *sum, float *squares) {
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float d = v[l] - pivot[l];
    sum[l] += d;
    squares[l] += d * d;
  }
}

LS_BODY void ls_body_moments(const struct ls_k_moments *k, int64_t i) {
  struct ls_run r = ls_run_of(i, k->c, k->c, k->rows, k->run);
  float pivot[LS_GROUP], v[LS_ROWS_AT_ONCE][LS_GROUP], sum[2][LS_GROUP] = {{0}}, squares[2][LS_GROUP] = {{0}};
  int64_t row = r.first;
  ls_get_stretch(k->x, k->dtype, r.first * k->c + r.c, r.width, pivot);
  for (; row + LS_ROWS_AT_ONCE <= r.end; row += LS_ROWS_AT_ONCE) {
    LS_UNROLL for (int j = 0; j < LS_ROWS_AT_ONCE; j++)
        ls_get_stretch(k->x, k->dtype, (row + j) * k->c + r.c, r.width, v[j]);
    LS_UNROLL for (int j = 0; j < LS_ROWS_AT_ONCE; j++) ls_add_moments(v[j], pivot, sum[j & 1], squares[j & 1]);
  }
  for (; row < r.end; row++) {
    ls_get_stretch(k->x, k->dtype, row * k->c + r.c, r.width, v[0]);
    ls_add_moments(v[0], pivot, sum[0], squares[0]);
  }
  float n = (float)(r.end - r.first);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float all = sum[0][l] + sum[1][l], rest = (squares[0][l] + squares[1][l]) - all * all / n;
    sum[0][l] = pivot[l] + all / n;
    squares[0][l] = rest > 0 || isnan(rest) ? rest : 0;
  }
  ls_put_stretch(k->mean, r.out, r.width, sum[0]);
  ls_put_stretch(k->squares, r.out, r.width, squares[0]);
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

// Mean, variance (biased) and inverse deviation from a channel's sum and sum of squares over `rows` values, float32, as a
// convolution that sums its output leaves them; one channel an index.
//
// The variance is a difference of two numbers that may be large: where the sum of squares is off by a share e, the variance
// is by e * (1 + mean^2 / variance). Partial sums of a few hundred rows each keep e below 1e-6. Behind a convolution the
// mean is seldom ten deviations away, which makes 1e-4 of the variance, less than it changes from batch to batch; at a
// hundred deviations it is a percent, and at a thousand nothing is left, where float16 itself no longer tells the values
// from their mean. (The moments above stay good there: they are what all other types have.) float64 here, so that nothing
// is lost beyond that.
struct ls_k_statistics {
  const float *sum, *squares;
  float *mean, *variance, *inverse;
  float epsilon;
  int64_t rows;
};

LS_BODY void ls_body_statistics(const struct ls_k_statistics *k, int64_t i) {
  double rows = (double)k->rows, mean = (double)k->sum[i] / rows;
  double variance = (double)k->squares[i] / rows - mean * mean;
  if (variance < 0) variance = 0;  // NaN stays
  k->mean[i] = (float)mean;
  k->variance[i] = (float)variance;
  k->inverse[i] = 1 / sqrtf((float)variance + k->epsilon);
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

// The eight channels from c on, going round; as one load where they lie together.
LS_BODY void ls_get_channels(const float *memory, int c, int channels, float *v) {
  if (channels % LS_GROUP == 0) {
    ls_get_group(memory, LS_F32, c / LS_GROUP, LS_GROUP, v);
    return;
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    v[l] = memory[c];
    c = c + 1 == channels ? 0 : c + 1;
  }
}

// y = gamma * (x - mean) * inverse + beta [+ z]; [relu]. A group an index, x, y and z [n/c, c].
struct ls_k_normalise {
  const void *x, *z;
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
  float v[LS_GROUP], z[LS_GROUP], mean[LS_GROUP], inverse[LS_GROUP], gamma[LS_GROUP], beta[LS_GROUP];
  ls_get_group(k->x, k->dtype, i, size, v);
  if (k->z) ls_get_group(k->z, k->dtype, i, size, z);
  ls_get_channels(k->mean, c, k->c, mean);
  ls_get_channels(k->inverse, c, k->c, inverse);
  ls_get_channels(k->gamma, c, k->c, gamma);
  ls_get_channels(k->beta, c, k->c, beta);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    v[l] = ls_normalised(v[l], mean[l], inverse[l], gamma[l], beta[l]);
    if (k->z) v[l] += z[l];
    if (k->relu && v[l] < 0) v[l] = 0;
  }
  ls_put_group(k->y, k->dtype, i, size, v);
}

// Backward, first stage: partial sums of slope * h and of the slope (dy, 0 where the ReLU was shut), with
// h = (x - mean) * inverse; out [ceil(rows / run), 2, c]: products, then slopes. Second: dx = gamma * inverse * (slope -
// dbeta / n - h dgamma / n).
struct ls_k_bn_backward {
  const void *x, *dy;
  void *dx;
  const float *gamma, *beta, *mean, *inverse, *dgamma, *dbeta;
  float *products, *slopes;  // rows of 2 c values; in the last stage: dgamma and dbeta themselves
  enum ls_dtype dtype;
  int32_t c, relu;
  int64_t rows, run;
};

// The channels' numbers of one index.
struct ls_bn_channels {
  float mean[LS_GROUP], inverse[LS_GROUP], gamma[LS_GROUP], beta[LS_GROUP];
};

LS_BODY float ls_bn_slope(const struct ls_k_bn_backward *k, const struct ls_bn_channels *n, int l, float x, float dy) {
  return k->relu && !(ls_normalised(x, n->mean[l], n->inverse[l], n->gamma[l], n->beta[l]) > 0) ? 0 : dy;
}

LS_BODY void ls_bn_add(const struct ls_k_bn_backward *k, const struct ls_bn_channels *n, const float *x,
                       const float *dy, float *products, float *slopes) {
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float slope = ls_bn_slope(k, n, l, x[l], dy[l]);
    slopes[l] += slope;
    products[l] += slope * ((x[l] - n->mean[l]) * n->inverse[l]);
  }
}

LS_BODY void ls_body_bn_backward_sums(const struct ls_k_bn_backward *k, int64_t i) {
  struct ls_run r = ls_run_of(i, k->c, k->c, k->rows, k->run);
  struct ls_bn_channels n;
  float x[2][LS_GROUP], dy[2][LS_GROUP], slopes[2][LS_GROUP] = {{0}}, products[2][LS_GROUP] = {{0}};
  int64_t row = r.first;
  ls_get_stretch(k->mean, LS_F32, r.c, r.width, n.mean);
  ls_get_stretch(k->inverse, LS_F32, r.c, r.width, n.inverse);
  ls_get_stretch(k->gamma, LS_F32, r.c, r.width, n.gamma);
  ls_get_stretch(k->beta, LS_F32, r.c, r.width, n.beta);
  for (; row + 2 <= r.end; row += 2) {
    LS_UNROLL for (int j = 0; j < 2; j++) {
      ls_get_stretch(k->x, k->dtype, (row + j) * k->c + r.c, r.width, x[j]);
      ls_get_stretch(k->dy, k->dtype, (row + j) * k->c + r.c, r.width, dy[j]);
    }
    LS_UNROLL for (int j = 0; j < 2; j++) ls_bn_add(k, &n, x[j], dy[j], products[j], slopes[j]);
  }
  if (row < r.end) {
    ls_get_stretch(k->x, k->dtype, row * k->c + r.c, r.width, x[0]);
    ls_get_stretch(k->dy, k->dtype, row * k->c + r.c, r.width, dy[0]);
    ls_bn_add(k, &n, x[0], dy[0], products[0], slopes[0]);
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    slopes[0][l] += slopes[1][l];
    products[0][l] += products[1][l];
  }
  int64_t out = (r.out - r.c) * 2 + r.c;
  ls_put_stretch(k->products, out, r.width, products[0]);
  ls_put_stretch(k->slopes, out, r.width, slopes[0]);
}

LS_BODY void ls_body_bn_backward_data(const struct ls_k_bn_backward *k, int64_t i) {
  int64_t values = k->rows * k->c;
  int size = ls_group_size(values, i), c = (int)(i * LS_GROUP % k->c);
  float x[LS_GROUP], dy[LS_GROUP], dgamma[LS_GROUP], dbeta[LS_GROUP], count = (float)k->rows;
  struct ls_bn_channels n;
  ls_get_group(k->x, k->dtype, i, size, x);
  ls_get_group(k->dy, k->dtype, i, size, dy);
  ls_get_channels(k->mean, c, k->c, n.mean);
  ls_get_channels(k->inverse, c, k->c, n.inverse);
  ls_get_channels(k->gamma, c, k->c, n.gamma);
  ls_get_channels(k->beta, c, k->c, n.beta);
  ls_get_channels(k->dgamma, c, k->c, dgamma);
  ls_get_channels(k->dbeta, c, k->c, dbeta);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float h = (x[l] - n.mean[l]) * n.inverse[l], slope = ls_bn_slope(k, &n, l, x[l], dy[l]);
    dy[l] = n.gamma[l] * n.inverse[l] * (slope - dbeta[l] / count - h * (dgamma[l] / count));
  }
  ls_put_group(k->dx, k->dtype, i, size, dy);
}

// y = x * base^-beta, base = k + alpha * sum of squares over the channels around; `alpha` is already divided by the size.
// Backward, first the terms t_d = dy_d x_d base_d^(-beta-1), as powers are dear; then dx_c = dy_c base_c^-beta - 2 alpha
// beta x_c sum over d of t_d. One value an index.
struct ls_k_lrn {
  const void *x, *dy;
  void *to;
  float *base;   // forward in training writes it, backward reads it; else NULL
  float *terms;  // backward
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

LS_BODY void ls_body_lrn_terms(const struct ls_k_lrn *k, int64_t i) {
  k->terms[i] = ls_get(k->dy, k->dtype, i) * ls_get(k->x, k->dtype, i) * powf(k->base[i], -k->beta - 1);
}

LS_BODY void ls_body_lrn_backward(const struct ls_k_lrn *k, int64_t i) {
  int32_t c = (int32_t)(i % k->c);
  float sum = 0;
  for (int32_t d = -k->half; d <= k->half; d++) {
    if (c + d < 0 || c + d >= k->c) continue;
    sum += k->terms[i + d];
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
