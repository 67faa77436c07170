// Sixteen-image kernels: choice of the variant, and the way in and out of the layout. See batch16.h.
#include "backend/cpu/batch16.h"

#include "backend/cpu/batch16_internal.h"

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
