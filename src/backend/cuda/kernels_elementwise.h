// Kernel bodies: elementwise operations, moves between layouts and types, the optimizer, sums over shards, input images.
// See kernel_basics.h. `i` of most is a group of LS_GROUP values; where not, it says so.
#ifndef LS_BACKEND_CUDA_KERNELS_ELEMENTWISE_H
#define LS_BACKEND_CUDA_KERNELS_ELEMENTWISE_H

#include "backend/cuda/kernel_basics.h"

enum { LS_ADD_MAX = 9, LS_TREE_MAX = 64 };

// y = x0 + x1 + ... in order; [relu].
struct ls_k_add {
  const void *x[LS_ADD_MAX];
  void *y;
  int inputs, relu;
  enum ls_dtype dtype;
  int64_t n;
};

LS_BODY void ls_body_add(const struct ls_k_add *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float sum[LS_GROUP], v[LS_GROUP];
  ls_get_group(k->x[0], k->dtype, i, size, sum);
  for (int j = 1; j < k->inputs; j++) {
    ls_get_group(k->x[j], k->dtype, i, size, v);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[l] += v[l];
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[l] = k->relu && sum[l] < 0 ? 0 : sum[l];
  ls_put_group(k->y, k->dtype, i, size, sum);
}

// Forward: to = from, times slope where negative; NaN passes. Backward (sign: the forward output): to = from where sign is
// positive, else times slope.
struct ls_k_relu {
  const void *from, *sign;
  void *to;
  float slope;
  enum ls_dtype dtype;
  int64_t n;
};

LS_BODY void ls_body_relu_forward(const struct ls_k_relu *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float v[LS_GROUP];
  ls_get_group(k->from, k->dtype, i, size, v);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] = v[l] < 0 ? k->slope * v[l] : v[l];
  ls_put_group(k->to, k->dtype, i, size, v);
}

LS_BODY void ls_body_relu_backward(const struct ls_k_relu *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float v[LS_GROUP], sign[LS_GROUP];
  ls_get_group(k->from, k->dtype, i, size, v);
  ls_get_group(k->sign, k->dtype, i, size, sign);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] = sign[l] > 0 ? v[l] : k->slope * v[l];
  ls_put_group(k->to, k->dtype, i, size, v);
}

// What a convolution or fully connected layer does behind its products: y = x + bias[channel] + z; [relu]. Channels are
// innermost: x, y, z [n/c, c].
struct ls_k_epilogue {
  const void *x, *z;
  const float *bias;
  void *y;
  int relu, c;
  enum ls_dtype dtype;
  int64_t n;
};

LS_BODY void ls_body_epilogue(const struct ls_k_epilogue *k, int64_t i) {
  int size = ls_group_size(k->n, i), c = (int)(i * LS_GROUP % k->c);
  float v[LS_GROUP], z[LS_GROUP];
  ls_get_group(k->x, k->dtype, i, size, v);
  if (k->z) {
    ls_get_group(k->z, k->dtype, i, size, z);
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    if (k->bias) v[l] += k->bias[c];
    if (k->z) v[l] += z[l];
    if (k->relu && v[l] < 0) v[l] = 0;
    c = c + 1 == k->c ? 0 : c + 1;
  }
  ls_put_group(k->y, k->dtype, i, size, v);
}

// Between types and the two orders of [n,c,h,w]: row-major, or channels last. One value of `to` an index.
struct ls_k_reorder {
  const void *from;
  void *to;
  enum ls_dtype from_dtype, to_dtype;
  int from_last, to_last;
  int64_t n, c, h, w;
};

LS_BODY void ls_body_reorder(const struct ls_k_reorder *k, int64_t i) {
  int64_t at = i, plane = k->h * k->w, image = plane * k->c, n = i / image, inside = i % image;
  if (k->to_last && !k->from_last) at = n * image + inside % k->c * plane + inside / k->c;
  if (!k->to_last && k->from_last) at = n * image + inside % plane * k->c + inside / plane;
  if (k->from_dtype == LS_I32 && k->to_dtype == LS_I32)  // float32 holds 24 bits of them
    ((int32_t *)k->to)[i] = ((const int32_t *)k->from)[at];
  else
    ls_put(k->to, k->to_dtype, i, ls_get(k->from, k->from_dtype, at));
}

// Element e (row-major over [c,plane]) of image n of the global batch is kept when its word of Philox(seed, dropout, step,
// layer << 32 | image, e / 4) is at least the threshold. One index: four elements of one image, which share a draw.
struct ls_k_dropout {
  const void *from;
  void *to;
  const uint64_t *step;  // struct ls_step_parameters: seed, step, first image
  uint32_t layer, threshold;
  float scale;
  enum ls_dtype dtype;
  int64_t c, plane;  // memory: [n, plane, c]
};

LS_BODY void ls_body_dropout(const struct ls_k_dropout *k, int64_t i) {
  int64_t image = k->c * k->plane, quads = (image + 3) / 4, n = i / quads, first = i % quads * 4;
  uint64_t where = (uint64_t)k->layer << 32 | (k->step[2] + (uint64_t)n);
  struct ls_philox4 r = ls_random(k->step[0], LS_RANDOM_DROPOUT, k->step[1], where, (uint32_t)(first / 4));
  LS_UNROLL for (int j = 0; j < 4; j++) {
    int64_t e = first + j;
    if (e >= image) continue;
    int64_t at = n * image + (k->plane == 1 ? e : e % k->plane * k->c + e / k->plane);
    ls_put(k->to, k->dtype, at, r.v[j] >= k->threshold ? ls_get(k->from, k->dtype, at) * k->scale : 0);
  }
}

// SGD as in src/optim on n values of a slice; `copy`: the new weights in another type, or NULL.
struct ls_k_sgd {
  float *w, *v;
  const float *g;
  void *copy;
  enum ls_dtype copy_dtype;
  float learning_rate, momentum, weight_decay;
  int nesterov;
  int64_t n;
};

LS_BODY void ls_body_sgd(const struct ls_k_sgd *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float w[LS_GROUP], v[LS_GROUP], g[LS_GROUP];
  ls_get_group(k->w, LS_F32, i, size, w);
  ls_get_group(k->v, LS_F32, i, size, v);
  ls_get_group(k->g, LS_F32, i, size, g);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float gradient = g[l] + k->weight_decay * w[l];
    v[l] = k->momentum * v[l] + gradient;
    w[l] = w[l] - k->learning_rate * (k->nesterov ? gradient + k->momentum * v[l] : v[l]);
  }
  ls_put_group(k->w, LS_F32, i, size, w);
  ls_put_group(k->v, LS_F32, i, size, v);
  if (k->copy) ls_put_group(k->copy, k->copy_dtype, i, size, w);
}

// running = running + share * (scale * batch - running)
struct ls_k_running {
  float *running;
  const float *batch;
  float share, scale;
  int64_t n;
};

LS_BODY void ls_body_running(const struct ls_k_running *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float r[LS_GROUP], b[LS_GROUP];
  ls_get_group(k->running, LS_F32, i, size, r);
  ls_get_group(k->batch, LS_F32, i, size, b);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) r[l] = r[l] + k->share * (k->scale * b[l] - r[l]);
  ls_put_group(k->running, LS_F32, i, size, r);
}

// out = balanced tree sum ((0+1)+(2+3))+... of `count` (a power of two) parts. `out` may be one of them.
struct ls_k_tree_sum {
  const float *part[LS_TREE_MAX];
  float *out;
  int count;
  int64_t n;
};

// The tree as a stack: sums[level] waits for its other half. Part j completes as many levels as j has trailing ones.
LS_BODY void ls_body_tree_sum(const struct ls_k_tree_sum *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float sums[7][LS_GROUP], v[LS_GROUP];  // 7: log2(LS_TREE_MAX) + 1
  for (int j = 0; j < k->count; j++) {
    ls_get_group(k->part[j], LS_F32, i, size, v);
    int done = 0;
    LS_UNROLL for (int level = 0; level < 6; level++) {
      if (done || !(j >> level & 1)) {
        if (!done) LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sums[level][l] = v[l];
        done = 1;
        continue;
      }
      LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] = sums[level][l] + v[l];
    }
  }
  ls_put_group(k->out, LS_F32, i, size, v);
}

// Stored pixels to the network's input: the window at (top, left), black outside the image, mirrored, then
// value * scale + bias of its channel; channels c to c_out are 0. One index: one pixel of `out` [n,h,w,c_out].
struct ls_k_input {
  const uint8_t *pixels;  // [n, height, width, c]
  const int32_t *places;  // [n, 3]: top, left, mirrored; NULL: 0, 0, no
  void *out;
  enum ls_dtype dtype;
  int32_t height, width, h, w, c, c_out;
  float scale[4], bias[4];
};

LS_BODY void ls_body_input(const struct ls_k_input *k, int64_t i) {
  int64_t n = i / (k->h * k->w);
  int32_t y = (int32_t)(i / k->w % k->h), x = (int32_t)(i % k->w);
  const int32_t *place = k->places ? k->places + n * 3 : NULL;
  if (place && place[2]) x = k->w - 1 - x;
  if (place) y += place[0], x += place[1];
  int inside = y >= 0 && y < k->height && x >= 0 && x < k->width;
  const uint8_t *pixel = k->pixels + ((n * k->height + (inside ? y : 0)) * k->width + (inside ? x : 0)) * k->c;
  for (int c = 0; c < k->c_out; c++) {
    float value = c < k->c ? (inside ? (float)pixel[c] : 0) * k->scale[c] + k->bias[c] : 0;
    ls_put(k->out, k->dtype, i * k->c_out + c, value);
  }
}

// Batch norm folded into weights: w' = w * s, b' = beta + (b - mean) * s, s = gamma / sqrt(variance + epsilon). One value of
// w [k, inner] an index; the first of each output channel writes the bias too.
struct ls_k_fold {
  const float *w, *b, *gamma, *beta, *mean, *variance;  // b may be NULL
  float *to_w, *to_b;
  float epsilon;
  int64_t inner;
};

LS_BODY void ls_body_fold(const struct ls_k_fold *k, int64_t i) {
  int64_t c = i / k->inner;
  float s = k->gamma[c] / sqrtf(k->variance[c] + k->epsilon);
  k->to_w[i] = k->w[i] * s;
  if (i % k->inner == 0) k->to_b[c] = k->beta[c] + ((k->b ? k->b[c] : 0) - k->mean[c]) * s;
}

#endif
