// Kernel bodies: elementwise operations, moves between layouts and types, the optimizer, sums over shards, input images.
// See kernel_basics.h. `i` of most is a group of LS_GROUP values; where not, it says so.
#ifndef LS_BACKEND_CUDA_KERNELS_ELEMENTWISE_H
#define LS_BACKEND_CUDA_KERNELS_ELEMENTWISE_H

#include "backend/cuda/kernel_basics.h"
#include "backend/device.h"

enum { LS_ADD_MAX = 9, LS_TREE_MAX = LS_DEVICE_PARTS };

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
  LS_UNROLL for (int j = 1; j < LS_ADD_MAX; j++) {  // unrolled: else a copy of the arguments would lie in memory
    if (j >= k->inputs) break;
    ls_get_group(k->x[j], k->dtype, i, size, v);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[l] += v[l];
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) sum[l] = k->relu && sum[l] < 0 ? 0 : sum[l];
  ls_put_group(k->y, k->dtype, i, size, sum);
}

// Forward: to = from, times slope where negative; NaN passes. Backward (sign: the forward output): to = the sum of all from
// in their order where sign is positive, else times slope.
struct ls_k_relu {
  const void *from[LS_ADD_MAX], *sign;
  void *to;
  int inputs;
  float slope;
  enum ls_dtype dtype;
  int64_t n;
};

LS_BODY void ls_body_relu_forward(const struct ls_k_relu *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float v[LS_GROUP];
  ls_get_group(k->from[0], k->dtype, i, size, v);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] = v[l] < 0 ? k->slope * v[l] : v[l];
  ls_put_group(k->to, k->dtype, i, size, v);
}

LS_BODY void ls_body_relu_backward(const struct ls_k_relu *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float v[LS_GROUP], more[LS_GROUP], sign[LS_GROUP];
  ls_get_group(k->from[0], k->dtype, i, size, v);
  ls_get_group(k->sign, k->dtype, i, size, sign);
  LS_UNROLL for (int j = 1; j < LS_ADD_MAX; j++) {  // as in add
    if (j >= k->inputs) break;
    ls_get_group(k->from[j], k->dtype, i, size, more);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] += more[l];
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) v[l] = sign[l] > 0 ? v[l] : k->slope * v[l];
  ls_put_group(k->to, k->dtype, i, size, v);
}

// What a convolution or fully connected layer does behind its products: y = x + bias[channel] + z; [relu]. Channels are
// innermost: x, y, z [n/c, c].
struct ls_k_epilogue {
  const void *x, *z, *bias;
  void *y;
  int relu, c;
  enum ls_dtype dtype;
  int64_t n;
};

LS_BODY void ls_body_epilogue(const struct ls_k_epilogue *k, int64_t i) {
  int size = ls_group_size(k->n, i), c = ls_channel_of(i, k->c);
  float v[LS_GROUP], z[LS_GROUP];
  ls_get_group(k->x, k->dtype, i, size, v);
  if (k->z) {
    ls_get_group(k->z, k->dtype, i, size, z);
  }
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    if (k->bias) v[l] += ls_get(k->bias, k->dtype, c);
    if (k->z) v[l] += z[l];
    if (k->relu && v[l] < 0) v[l] = 0;
    c = c + 1 == k->c ? 0 : c + 1;
  }
  ls_put_group(k->y, k->dtype, i, size, v);
}

// Between floating types, in the same order. A group an index.
struct ls_k_cast {
  const void *from;
  void *to;
  enum ls_dtype from_dtype, to_dtype;
  int64_t n;
};

LS_BODY void ls_body_cast(const struct ls_k_cast *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float v[LS_GROUP];
  ls_get_group(k->from, k->from_dtype, i, size, v);
  ls_put_group(k->to, k->to_dtype, i, size, v);
}

// Between types and the two orders of [n,c,h,w]: row-major, or channels last, there perhaps with more channels than c, which
// are zeros. One value of `to` an index.
struct ls_k_reorder {
  const void *from;
  void *to;
  enum ls_dtype from_dtype, to_dtype;
  int64_t from_channels, to_channels;  // channels last: how many lie there; else 0
  int64_t n, c, h, w;
};

LS_BODY void ls_body_reorder(const struct ls_k_reorder *k, int64_t i) {
  int64_t plane = k->h * k->w, last = k->to_channels;
  int64_t c = last ? i % last : i / plane % k->c, at = last ? i / last % plane : i % plane;
  int64_t n = i / plane / (last ? last : k->c);
  if (c >= k->c) {
    ls_put(k->to, k->to_dtype, i, 0);
    return;
  }
  at = k->from_channels ? (n * plane + at) * k->from_channels + c : (n * k->c + c) * plane + at;
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
  const struct ls_step_parameters *step;
  uint32_t layer, threshold;
  float scale;
  enum ls_dtype dtype;
  int64_t c, plane;  // memory: [n, plane, c]
};

LS_BODY void ls_body_dropout(const struct ls_k_dropout *k, int64_t i) {
  int64_t image = k->c * k->plane, quads = (image + 3) / 4, n = i / quads, first = i % quads * 4;
  uint64_t where = (uint64_t)k->layer << 32 | (k->step->first_image + (uint64_t)n);
  struct ls_philox4 r = ls_random(k->step->seed, LS_RANDOM_DROPOUT, k->step->step, where, (uint32_t)(first / 4));
  LS_UNROLL for (int j = 0; j < 4; j++) {
    int64_t e = first + j;
    if (e >= image) continue;
    int64_t at = n * image + (k->plane == 1 ? e : e % k->plane * k->c + e / k->plane);
    ls_put(k->to, k->dtype, at, r.v[j] >= k->threshold ? ls_get(k->from, k->dtype, at) * k->scale : 0);
  }
}

// Group i of the balanced tree sum ((0+1)+(2+3))+... of `count` (a power of two) parts of n floats. The tree as a stack:
// sums[level] waits for its other half. Part j completes as many levels as j has trailing ones.
LS_BODY void ls_tree_group(const float *const *part, int count, int64_t i, int size, float *v) {
  float sums[7][LS_GROUP];  // 7: log2(LS_TREE_MAX) + 1
  for (int j = 0; j < count; j++) {
    ls_get_group(part[j], LS_F32, i, size, v);
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
}

// out = the tree sum. `out` may be one of the parts.
struct ls_k_tree_sum {
  const float *part[LS_TREE_MAX];
  float *out;
  int count;
  int64_t n;
};

LS_BODY void ls_body_tree_sum(const struct ls_k_tree_sum *k, int64_t i) {
  int size = ls_group_size(k->n, i);
  float v[LS_GROUP];
  ls_tree_group(k->part, k->count, i, size, v);
  ls_put_group(k->out, LS_F32, i, size, v);
}

// The optimizer (device.h): an index is a group of the slab, counted from its begin; groups never straddle a line.
struct ls_k_update {
  struct ls_update of;
};

LS_BODY void ls_update_learned(const struct ls_update *u, const struct ls_update_rule *rule, int64_t i, float *g,
                               float *w) {
  const struct ls_update_numbers *s = u->numbers;
  float v[LS_GROUP], decay = s->weight_decay * rule->decay;
  float *momentum = u->momentum + rule->momentum;
  ls_get_group(momentum, LS_F32, i, LS_GROUP, v);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    float gradient = g[l] * s->gradient_scale + decay * w[l];
    v[l] = s->momentum * v[l] + gradient;
    w[l] = w[l] - s->learning_rate * (s->nesterov ? gradient + s->momentum * v[l] : v[l]);
  }
  ls_put_group(momentum, LS_F32, i, LS_GROUP, v);
}

LS_BODY void ls_body_update(const struct ls_k_update *k, int64_t i) {
  const struct ls_update *u = &k->of;
  float g[LS_GROUP], w[LS_GROUP];
  i += u->begin / LS_GROUP;
  uint16_t number = u->rule_of_line[i * LS_GROUP / LS_DEVICE_LINE];
  if (number == UINT16_MAX) return;
  for (int j = 0; j < u->parts; j++) {
    if (u->overflow[j] && *u->overflow[j]) return;
  }
  const struct ls_update_rule *rule = &u->rules[number];
  ls_tree_group(u->part, u->parts, i, LS_GROUP, g);
  ls_get_group(u->parameters, LS_F32, i, LS_GROUP, w);
  if (rule->learned) {
    ls_update_learned(u, rule, i, g, w);
  } else {
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) w[l] = w[l] + rule->share * (rule->scale * g[l] - w[l]);
  }
  ls_put_group(u->parameters, LS_F32, i, LS_GROUP, w);
  for (int j = 0; j < u->copies; j++) ls_put_group(u->copy[j], LS_F32, i, LS_GROUP, w);
}

// *flag = 1 where a value is infinite or no number: every index that meets one writes the same. One group an index.
struct ls_k_check_finite {
  const float *values;
  uint32_t *flag;
  int64_t n;
};

LS_BODY void ls_body_check_finite(const struct ls_k_check_finite *k, int64_t i) {
  int size = ls_group_size(k->n, i), good = 1;
  float v[LS_GROUP];
  ls_get_group(k->values, LS_F32, i, size, v);
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) good &= isfinite(v[l]) != 0;
  if (!good) *k->flag = 1;
}

// Stored pixels to the network's input (device.h). One index: one pixel of `out` [n,h,w,out_c].
struct ls_k_input {
  struct ls_input of;
};

LS_BODY void ls_body_input(const struct ls_k_input *k, int64_t i) {
  const struct ls_input *in = &k->of;
  int64_t n = i / ((int64_t)in->h * in->w);
  int32_t y = (int32_t)(i / in->w % in->h), x = (int32_t)(i % in->w);
  const int32_t *place = in->places ? in->places + n * in->place_words : NULL;
  int32_t row = y, column = place && place[2] ? in->w - 1 - x : x, v[4];
  if (place) row += place[0], column += place[1];
  int inside = row >= 0 && row < in->height && column >= 0 && column < in->width;
  const uint8_t *pixel =
      in->pixels + ((n * in->height + (inside ? row : 0)) * in->width + (inside ? column : 0)) * in->c;
  LS_UNROLL for (int c = 0; c < 4; c++) v[c] = inside && c < in->c ? pixel[c] : 0;
  for (int s = 3; s < in->place_words; s += LS_PIXEL_STEP_WORDS) ls_pixel_change(place + s, y, x, v);
  float out[LS_GROUP] = {0};
  LS_UNROLL for (int c = 0; c < 4; c++) out[c] = c < in->c ? (float)v[c] * in->scale[c] + in->bias[c] : 0;
  if (in->out_c == LS_GROUP) {
    ls_put_group(in->out, in->dtype, i, LS_GROUP, out);
    return;
  }
  LS_UNROLL for (int c = 0; c < LS_GROUP; c++) {
    if (c < in->out_c) ls_put(in->out, in->dtype, i * in->out_c + c, out[c]);
  }
}

// Batch norm folded into weights: w' = w * s, b' = beta + (b - mean) * s, s = gamma / sqrt(variance + epsilon). One value of
// w [k, inner] an index; the first of each output channel writes the bias too.
struct ls_k_fold {
  const float *w, *b, *gamma, *beta, *mean, *variance;  // b may be NULL
  void *to_w;
  float *to_b;
  enum ls_dtype dtype;  // of to_w
  float epsilon;
  int64_t inner;
};

LS_BODY void ls_body_fold(const struct ls_k_fold *k, int64_t i) {
  int64_t c = i / k->inner;
  float s = k->gamma[c] / sqrtf(k->variance[c] + k->epsilon);
  ls_put(k->to_w, k->dtype, i, k->w[i] * s);
  if (i % k->inner == 0) k->to_b[c] = k->beta[c] + ((k->b ? k->b[c] : 0) - k->mean[c]) * s;
}

#endif
