// Sixteen-image kernels: choice of the variant, pooling, and the way in and out of the layout. See batch16.h.
#include "backend/cpu/batch16.h"

#include <float.h>
#include <string.h>

#include "backend/cpu/batch16_internal.h"
#include "base/fast_loop.h"

const struct ls_b16_kernels *ls_b16_kernels(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return &ls_b16_kernels_avx512;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &ls_b16_kernels_avx2 : NULL;
}

size_t ls_b16_scratch_bytes(const struct ls_b16_conv *v) {
  int64_t padded_x = v->pad_w ? v->groups16 * v->c * v->h * (v->w + 2 * v->pad_w) : 0;
  int64_t padded_dy = v->k * v->p * (v->q + 2 * (v->s - 1));
  int64_t turned = (v->c * v->k * v->r * v->s + 15) / 16;  // in units of 16 floats
  int64_t rows = v->groups16 * v->c * v->h * v->w;         // fully connected: the input turned round
  int64_t most = padded_x > turned + padded_dy ? padded_x : turned + padded_dy;
  if (v->h == 1 && v->w == 1 && v->r == 1) most = rows;
  return (size_t)most * LS_B16_LANES * sizeof(float);
}

static inline int64_t clip(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// The part of window (p, q) that lies inside the image.
struct window {
  int64_t r0, r1, c0, c1;  // rows and columns of the image
  int64_t top, left;       // where the unclipped window begins, may be negative
  float scale;             // average: 1 / divisor
};

static struct window window_at(const struct ls_b16_pool *v, int64_t p, int64_t q) {
  struct window at = {.top = p * v->stride_h - v->pad_h, .left = q * v->stride_w - v->pad_w};
  at.r0 = clip(at.top, 0, v->h);
  at.r1 = clip(at.top + v->r, 0, v->h);
  at.c0 = clip(at.left, 0, v->w);
  at.c1 = clip(at.left + v->s, 0, v->w);
  int64_t counted = (at.r1 - at.r0) * (at.c1 - at.c0);
  if (v->count_pad) {
    counted = (clip(at.top + v->r, 0, v->h + v->pad_end_h) - at.top) *
              (clip(at.left + v->s, 0, v->w + v->pad_end_w) - at.left);
  }
  at.scale = counted > 0 ? 1.0f / (float)counted : 0.0f;
  return at;
}

LS_FAST_LOOP static void max_forward(const struct ls_b16_pool *v, const struct window *at, const float *x, float *y,
                                     uint8_t *where) {
  float best[LS_B16_LANES];
  int32_t place[LS_B16_LANES];
  for (int l = 0; l < LS_B16_LANES; l++) {
    best[l] = -FLT_MAX;
    place[l] = (int32_t)((at->r0 - at->top) * v->s + at->c0 - at->left);
  }
  for (int64_t r = at->r0; r < at->r1; r++) {
    for (int64_t c = at->c0; c < at->c1; c++) {
      const float *from = x + (r * v->w + c) * LS_B16_LANES;
      int32_t here = (int32_t)((r - at->top) * v->s + c - at->left);
      for (int l = 0; l < LS_B16_LANES; l++) {
        place[l] = from[l] > best[l] ? here : place[l];
        // Written so that a NaN comes through: it must reach the loss, where it is noticed.
        best[l] = from[l] <= best[l] ? best[l] : from[l];
      }
    }
  }
  memcpy(y, best, sizeof best);
  if (where) {
    for (int l = 0; l < LS_B16_LANES; l++) where[l] = (uint8_t)place[l];
  }
}

static void average_forward(const struct ls_b16_pool *v, const struct window *at, const float *x, float *y) {
  float sum[LS_B16_LANES] = {0};
  for (int64_t r = at->r0; r < at->r1; r++) {
    for (int64_t c = at->c0; c < at->c1; c++) {
      for (int l = 0; l < LS_B16_LANES; l++) sum[l] += x[(r * v->w + c) * LS_B16_LANES + l];
    }
  }
  for (int l = 0; l < LS_B16_LANES; l++) y[l] = sum[l] * at->scale;
}

void ls_b16_pool_forward(const struct ls_b16_pool *v, const float *x, float *y, uint8_t *where) {
  for (int64_t plane = 0; plane < v->planes; plane++, x += v->h * v->w * LS_B16_LANES) {
    for (int64_t p = 0; p < v->p; p++) {
      for (int64_t q = 0; q < v->q; q++, y += LS_B16_LANES) {
        struct window at = window_at(v, p, q);
        if (v->max) {
          max_forward(v, &at, x, y, where);
          if (where) where += LS_B16_LANES;
        } else {
          average_forward(v, &at, x, y);
        }
      }
    }
  }
}

void ls_b16_pool_backward(const struct ls_b16_pool *v, const float *dy, const uint8_t *where, float *dx) {
  int64_t plane_size = v->h * v->w * LS_B16_LANES;
  memset(dx, 0, (size_t)(v->planes * plane_size) * sizeof *dx);
  for (int64_t plane = 0; plane < v->planes; plane++, dx += plane_size) {
    for (int64_t p = 0; p < v->p; p++) {
      for (int64_t q = 0; q < v->q; q++, dy += LS_B16_LANES) {
        struct window at = window_at(v, p, q);
        if (v->max) {
          for (int l = 0; l < LS_B16_LANES; l++) {
            int64_t r = at.top + where[l] / v->s, c = at.left + where[l] % v->s;
            dx[(r * v->w + c) * LS_B16_LANES + l] += dy[l];
          }
          where += LS_B16_LANES;
          continue;
        }
        for (int64_t r = at.r0; r < at.r1; r++) {
          for (int64_t c = at.c0; c < at.c1; c++) {
            for (int l = 0; l < LS_B16_LANES; l++) dx[(r * v->w + c) * LS_B16_LANES + l] += dy[l] * at.scale;
          }
        }
      }
    }
  }
}

void ls_b16_from_plain(int64_t groups16, int64_t c, int64_t hw, bool channels_last, const float *plain, float *b16) {
  int64_t size = c * hw, channel_step = channels_last ? 1 : hw, pixel_step = channels_last ? c : 1;
  for (int64_t g = 0; g < groups16; g++, plain += size * LS_B16_LANES) {
    for (int64_t i = 0; i < c; i++) {
      for (int64_t j = 0; j < hw; j++, b16 += LS_B16_LANES) {
        const float *from = plain + i * channel_step + j * pixel_step;
        for (int l = 0; l < LS_B16_LANES; l++) b16[l] = from[l * size];
      }
    }
  }
}

void ls_b16_to_plain(int64_t groups16, int64_t c, int64_t hw, bool channels_last, const float *b16, float *plain) {
  int64_t size = c * hw, channel_step = channels_last ? 1 : hw, pixel_step = channels_last ? c : 1;
  for (int64_t g = 0; g < groups16; g++, plain += size * LS_B16_LANES) {
    for (int64_t i = 0; i < c; i++) {
      for (int64_t j = 0; j < hw; j++, b16 += LS_B16_LANES) {
        float *to = plain + i * channel_step + j * pixel_step;
        for (int l = 0; l < LS_B16_LANES; l++) to[l * size] = b16[l];
      }
    }
  }
}
