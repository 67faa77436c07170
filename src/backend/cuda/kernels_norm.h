// Kernel bodies: sums over columns in fixed order, batch norm, local response norm, softmax and loss. See kernel_basics.h.
//
// A sum over the rows of [rows, c] goes in two stages (reduce.h): blocks sum runs of rows of a tile of channels, then blocks
// join the runs of eight channels. Which rows meet is a function of the shape alone.
#ifndef LS_BACKEND_CUDA_KERNELS_NORM_H
#define LS_BACKEND_CUDA_KERNELS_NORM_H

#include "backend/cuda/kernel_basics.h"

// What lane `lane` of block `i` works on: of a stretch of channels the rows from `first` on, every `deep`-th of them.
struct ls_tile {
  int64_t part, top, first, end;  // which run of rows, and its rows
  int32_t c;                      // first channel
  int width, deep;
  int writes;  // it has the sum of them all
};

// `unit`: what stretches must divide, c or a part of it.
LS_BODY struct ls_tile ls_tile_of(int64_t i, int lane, int32_t c, int32_t unit, int32_t tile, int64_t rows,
                                  int64_t run) {
  struct ls_tile t;
  t.width = ls_stretch(unit);
  int32_t stretches = c / t.width, across = (stretches + tile - 1) / tile;
  int32_t stretch = (int32_t)(i % across) * tile + lane % tile;
  t.part = i / across;
  t.deep = LS_BLOCK_LANES / tile;
  t.c = stretch * t.width;
  t.top = t.part * run;
  t.end = t.top + run < rows ? t.top + run : rows;
  t.first = stretch < stretches && lane / tile < t.deep ? t.top + lane / tile : t.end;  // or none
  t.writes = lane < tile && stretch < stretches;
  return t;
}

enum { LS_ROWS_AT_ONCE = 4 };  // whose loads are under way together

// out [ceil(rows / run), c]: sums of `run` rows of x [rows, c] each; a block an index. `half`: where c holds two sums side by
// side, how wide each is; `high`: where the second one goes when one run is all. Else 0 and NULL.
struct ls_k_column_sum {
  const void *x;
  float *out, *high;
  enum ls_dtype dtype;
  int32_t c, half, tile;
  int64_t rows, run;
};

LS_BODY struct ls_tile ls_column_tile(const struct ls_k_column_sum *k, int64_t i, int lane) {
  return ls_tile_of(i, lane, k->c, k->half ? k->half : k->c, k->tile, k->rows, k->run);
}

LS_BODY void ls_add_columns(const struct ls_k_column_sum *k, const struct ls_tile *t, float *sum) {
  float v[LS_ROWS_AT_ONCE][LS_GROUP];
  int64_t row = t->first;
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) sum[j] = 0;
  for (; row + (LS_ROWS_AT_ONCE - 1) * t->deep < t->end; row += LS_ROWS_AT_ONCE * t->deep) {
    LS_UNROLL for (int r = 0; r < LS_ROWS_AT_ONCE; r++)
        ls_get_stretch(k->x, k->dtype, (row + r * t->deep) * k->c + t->c, t->width, v[r]);
    LS_UNROLL for (int r = 0; r < LS_ROWS_AT_ONCE; r++) {
      LS_UNROLL for (int j = 0; j < LS_GROUP; j++) sum[j] += v[r][j];
    }
  }
  for (; row < t->end; row += t->deep) {
    ls_get_stretch(k->x, k->dtype, row * k->c + t->c, t->width, v[0]);
    LS_UNROLL for (int j = 0; j < LS_GROUP; j++) sum[j] += v[0][j];
  }
}

LS_BODY void ls_body_column_sum(const struct ls_k_column_sum *k, int64_t i) {
  float sum[LS_BLOCK_VALUES][LS_GROUP];
  LS_BLOCK_LOOP(l) {
    struct ls_tile t = ls_column_tile(k, i, l);
    ls_add_columns(k, &t, LS_BLOCK(sum, l));
  }
  ls_block_sum(sum, k->tile);
  LS_BLOCK_LOOP(l) {
    struct ls_tile t = ls_column_tile(k, i, l);
    if (!t.writes) continue;
    if (k->high && t.c >= k->half)
      ls_put_stretch(k->high, t.c - k->half, t.width, LS_BLOCK(sum, l));
    else
      ls_put_stretch(k->out, t.part * k->c + t.c, t.width, LS_BLOCK(sum, l));
  }
}

// Mean and sum of squared distances from it of `run` rows of x [rows, c]; out [ceil(rows / run), c]; a block an index.
// Summed around the run's first value, so that a large mean costs no digits.
struct ls_k_moments {
  const void *x;
  float *mean, *squares;
  enum ls_dtype dtype;
  int32_t c, tile;
  int64_t rows, run;
};

LS_BODY void ls_add_moments(const float *v, const float *pivot, float *sum, float *squares) {
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) {
    float d = v[j] - pivot[j];
    sum[j] += d;
    squares[j] += d * d;
  }
}

LS_BODY void ls_add_rows(const struct ls_k_moments *k, const struct ls_tile *t, float *sum, float *squares) {
  float pivot[LS_GROUP], v[LS_ROWS_AT_ONCE][LS_GROUP];
  int64_t row = t->first;
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) sum[j] = squares[j] = 0;
  if (row >= t->end) return;
  ls_get_stretch(k->x, k->dtype, t->top * k->c + t->c, t->width, pivot);
  for (; row + (LS_ROWS_AT_ONCE - 1) * t->deep < t->end; row += LS_ROWS_AT_ONCE * t->deep) {
    LS_UNROLL for (int r = 0; r < LS_ROWS_AT_ONCE; r++)
        ls_get_stretch(k->x, k->dtype, (row + r * t->deep) * k->c + t->c, t->width, v[r]);
    LS_UNROLL for (int r = 0; r < LS_ROWS_AT_ONCE; r++) ls_add_moments(v[r], pivot, sum, squares);
  }
  for (; row < t->end; row += t->deep) {
    ls_get_stretch(k->x, k->dtype, row * k->c + t->c, t->width, v[0]);
    ls_add_moments(v[0], pivot, sum, squares);
  }
}

LS_BODY void ls_body_moments(const struct ls_k_moments *k, int64_t i) {
  float sum[LS_BLOCK_VALUES][LS_GROUP], squares[LS_BLOCK_VALUES][LS_GROUP], pivot[LS_GROUP];
  LS_BLOCK_LOOP(l) {
    struct ls_tile t = ls_tile_of(i, l, k->c, k->c, k->tile, k->rows, k->run);
    ls_add_rows(k, &t, LS_BLOCK(sum, l), LS_BLOCK(squares, l));
  }
  ls_block_sum(sum, k->tile);
  ls_block_sum(squares, k->tile);
  LS_BLOCK_LOOP(l) {
    struct ls_tile t = ls_tile_of(i, l, k->c, k->c, k->tile, k->rows, k->run);
    if (!t.writes) continue;
    float *mean = LS_BLOCK(sum, l), *around = LS_BLOCK(squares, l), n = (float)(t.end - t.top);
    ls_get_stretch(k->x, k->dtype, t.top * k->c + t.c, t.width, pivot);
    LS_UNROLL for (int j = 0; j < LS_GROUP; j++) {
      float rest = around[j] - mean[j] * mean[j] / n;
      mean[j] = pivot[j] + mean[j] / n;
      around[j] = rest > 0 || isnan(rest) ? rest : 0;
    }
    ls_put_stretch(k->mean, t.part * k->c + t.c, t.width, mean);
    ls_put_stretch(k->squares, t.part * k->c + t.c, t.width, around);
  }
}

// Joins the moments of all parts: part j stands for `run` rows, the last one for what is left of `rows`. A block an index,
// each for one stretch. Summed around the first part's mean; out [c]: mean, variance (squares / rows) and the inverse
// deviation 1 / sqrt(variance + epsilon).
struct ls_k_moments_join {
  const float *mean, *squares;
  float *out_mean, *variance, *inverse;
  float epsilon;
  int32_t c;
  int64_t rows, run, parts;
};

LS_BODY void ls_body_moments_join(const struct ls_k_moments_join *k, int64_t i) {
  float sum[LS_BLOCK_VALUES][LS_GROUP], squares[LS_BLOCK_VALUES][LS_GROUP];
  float pivot[LS_GROUP], mean[LS_GROUP], around[LS_GROUP];
  int width = ls_stretch(k->c);
  int64_t c = i * width;
  ls_get_stretch(k->mean, LS_F32, c, width, pivot);
  LS_BLOCK_LOOP(l) {
    LS_UNROLL for (int j = 0; j < LS_GROUP; j++) LS_BLOCK(sum, l)[j] = LS_BLOCK(squares, l)[j] = 0;
    for (int64_t part = l; part < k->parts; part += LS_BLOCK_LANES) {
      int64_t rows = k->rows - part * k->run < k->run ? k->rows - part * k->run : k->run;
      ls_get_stretch(k->mean, LS_F32, part * k->c + c, width, mean);
      ls_get_stretch(k->squares, LS_F32, part * k->c + c, width, around);
      LS_UNROLL for (int j = 0; j < LS_GROUP; j++) {
        float d = mean[j] - pivot[j], all = (float)rows * d;
        LS_BLOCK(sum, l)[j] += all;
        LS_BLOCK(squares, l)[j] += around[j] + all * d;
      }
    }
  }
  ls_block_sum(sum, 1);
  ls_block_sum(squares, 1);
  LS_BLOCK_LOOP(l) {
    if (l > 0) continue;
    float n = (float)k->rows;
    LS_UNROLL for (int j = 0; j < LS_GROUP; j++) {
      float rest = squares[0][j] - sum[0][j] * sum[0][j] / n;
      mean[j] = pivot[j] + sum[0][j] / n;
      around[j] = rest > 0 || isnan(rest) ? rest / n : 0;
      pivot[j] = 1 / sqrtf(around[j] + k->epsilon);
    }
    ls_put_stretch(k->out_mean, c, width, mean);
    ls_put_stretch(k->variance, c, width, around);
    ls_put_stretch(k->inverse, c, width, pivot);
  }
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

// y = gamma * (x - mean) * inverse + beta [+ z]; [relu]. x, y and z [n/c, c]; an index: every `stride`-th group, all of the
// same channels (ls_stride_of), whose numbers it reads once.
struct ls_k_normalise {
  const void *x, *z;
  void *y;
  const float *gamma, *beta, *mean, *inverse;
  enum ls_dtype dtype;
  int32_t c, relu;
  int64_t n, stride;
};

// The one formula, also for the backward pass, which asks it again where the ReLU let values through.
LS_BODY float ls_normalised(float x, float mean, float inverse, float gamma, float beta) {
  return gamma * ((x - mean) * inverse) + beta;
}

LS_BODY void ls_body_normalise(const struct ls_k_normalise *k, int64_t i) {
  int c = ls_channel_of(i, k->c), size = ls_group_size(k->n, i);
  float v[LS_GROUP], z[LS_GROUP], next[LS_GROUP], mean[LS_GROUP], inverse[LS_GROUP], gamma[LS_GROUP], beta[LS_GROUP];
  if (size <= 0) return;
  ls_get_group(k->x, k->dtype, i, size, v);
  ls_get_channels(k->mean, c, k->c, mean);
  ls_get_channels(k->inverse, c, k->c, inverse);
  ls_get_channels(k->gamma, c, k->c, gamma);
  ls_get_channels(k->beta, c, k->c, beta);
  for (int64_t group = i; size > 0; group += k->stride) {
    int more = ls_group_size(k->n, group + k->stride);
    if (k->z) ls_get_group(k->z, k->dtype, group, size, z);
    if (more > 0) ls_get_group(k->x, k->dtype, group + k->stride, more, next);  // under way while this one is worked on
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
      v[l] = ls_normalised(v[l], mean[l], inverse[l], gamma[l], beta[l]);
      if (k->z) v[l] += z[l];
      if (k->relu && v[l] < 0) v[l] = 0;
    }
    ls_put_group(k->y, k->dtype, group, size, v);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] = next[l];
    size = more;
  }
}

// Backward, first: partial sums of slope * h and of the slope (dy, 0 where the ReLU was shut), with h = (x - mean) *
// inverse; out [ceil(rows / run), 2, c]: products, then slopes; a block an index. Second: dx = gamma * inverse * (slope -
// dbeta / n - h dgamma / n); an index: every `stride`-th group, as in normalise.
struct ls_k_bn_backward {
  const void *x, *dy;
  void *dx;
  const float *gamma, *beta, *mean, *inverse, *dgamma, *dbeta;
  float *products, *slopes;  // rows of 2 c values; when one run is all: dgamma and dbeta themselves
  enum ls_dtype dtype;
  int32_t c, relu, tile;
  int64_t rows, run, stride;
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

LS_BODY void ls_bn_add_rows(const struct ls_k_bn_backward *k, const struct ls_tile *t, float *products, float *slopes) {
  struct ls_bn_channels n;
  float x[2][LS_GROUP], dy[2][LS_GROUP];
  int64_t row = t->first;
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) products[j] = slopes[j] = 0;
  if (row >= t->end) return;
  ls_get_stretch(k->mean, LS_F32, t->c, t->width, n.mean);
  ls_get_stretch(k->inverse, LS_F32, t->c, t->width, n.inverse);
  ls_get_stretch(k->gamma, LS_F32, t->c, t->width, n.gamma);
  ls_get_stretch(k->beta, LS_F32, t->c, t->width, n.beta);
  for (; row + t->deep < t->end; row += 2 * t->deep) {
    LS_UNROLL for (int r = 0; r < 2; r++) {
      ls_get_stretch(k->x, k->dtype, (row + r * t->deep) * k->c + t->c, t->width, x[r]);
      ls_get_stretch(k->dy, k->dtype, (row + r * t->deep) * k->c + t->c, t->width, dy[r]);
    }
    LS_UNROLL for (int r = 0; r < 2; r++) ls_bn_add(k, &n, x[r], dy[r], products, slopes);
  }
  if (row < t->end) {
    ls_get_stretch(k->x, k->dtype, row * k->c + t->c, t->width, x[0]);
    ls_get_stretch(k->dy, k->dtype, row * k->c + t->c, t->width, dy[0]);
    ls_bn_add(k, &n, x[0], dy[0], products, slopes);
  }
}

LS_BODY void ls_body_bn_backward_sums(const struct ls_k_bn_backward *k, int64_t i) {
  float products[LS_BLOCK_VALUES][LS_GROUP], slopes[LS_BLOCK_VALUES][LS_GROUP];
  LS_BLOCK_LOOP(l) {
    struct ls_tile t = ls_tile_of(i, l, k->c, k->c, k->tile, k->rows, k->run);
    ls_bn_add_rows(k, &t, LS_BLOCK(products, l), LS_BLOCK(slopes, l));
  }
  ls_block_sum(products, k->tile);
  ls_block_sum(slopes, k->tile);
  LS_BLOCK_LOOP(l) {
    struct ls_tile t = ls_tile_of(i, l, k->c, k->c, k->tile, k->rows, k->run);
    if (!t.writes) continue;
    ls_put_stretch(k->products, t.part * 2 * k->c + t.c, t.width, LS_BLOCK(products, l));
    ls_put_stretch(k->slopes, t.part * 2 * k->c + t.c, t.width, LS_BLOCK(slopes, l));
  }
}

LS_BODY void ls_body_bn_backward_data(const struct ls_k_bn_backward *k, int64_t i) {
  int64_t values = k->rows * k->c;
  int c = ls_channel_of(i, k->c), size = ls_group_size(values, i);
  float x[LS_GROUP], dy[LS_GROUP], dgamma[LS_GROUP], dbeta[LS_GROUP], share = 1 / (float)k->rows;
  struct ls_bn_channels n;
  if (size <= 0) return;
  ls_get_channels(k->mean, c, k->c, n.mean);
  ls_get_channels(k->inverse, c, k->c, n.inverse);
  ls_get_channels(k->gamma, c, k->c, n.gamma);
  ls_get_channels(k->beta, c, k->c, n.beta);
  ls_get_channels(k->dgamma, c, k->c, dgamma);
  ls_get_channels(k->dbeta, c, k->c, dbeta);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    dgamma[l] *= share;
    dbeta[l] *= share;
  }
  for (int64_t group = i; (size = ls_group_size(values, group)) > 0; group += k->stride) {
    ls_get_group(k->x, k->dtype, group, size, x);
    ls_get_group(k->dy, k->dtype, group, size, dy);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
      float h = (x[l] - n.mean[l]) * n.inverse[l], slope = ls_bn_slope(k, &n, l, x[l], dy[l]);
      dy[l] = n.gamma[l] * n.inverse[l] * (slope - dbeta[l] - h * dgamma[l]);
    }
    ls_put_group(k->dx, k->dtype, group, size, dy);
  }
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

// x [rows, c] -> p [rows, c] and row_metrics [rows, LS_METRICS]: loss, in the first one, in the first five,
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
  int32_t label = k->labels[row];
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
  LS_LANE_LOOP(l) {
    if (l != 0) continue;
    int32_t rank = isnan(own) ? INT32_MAX : (int32_t)LS_LANE(before, l);
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
