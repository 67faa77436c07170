// Changes of a pixel's colours in whole numbers: the same arithmetic on the host (src/data) and in device code, so that both
// give the same bits. Pure functions; any thread.
//
// What is done to one image is a list of steps of LS_PIXEL_STEP_WORDS words: a kind and its numbers.
#ifndef LS_TENSOR_PIXEL_H
#define LS_TENSOR_PIXEL_H

#include <stdint.h>

#include "base/philox.h"

enum { LS_PIXEL_ONE = 1 << 16, LS_PIXEL_STEP_WORDS = 6 };  // fixed point of the factors

enum ls_pixel_step {
  LS_PIXEL_SCALE,     // by word 1 / LS_PIXEL_ONE: brightness
  LS_PIXEL_SATURATE,  // of 3 channels: each one's distance to the grey value, by word 1 / LS_PIXEL_ONE
  LS_PIXEL_ADD,       // words 1-3: to channels 0-2
  LS_PIXEL_FILL       // rows [word 1, word 3) and columns [word 2, word 4) of the window become the bytes of word 5
};

LS_EVERYWHERE static inline int32_t ls_pixel_clamp(int32_t v) { return v < 0 ? 0 : v > 255 ? 255 : v; }

// around + (v - around) * factor, rounded; factor in units of 1/LS_PIXEL_ONE.
LS_EVERYWHERE static inline int32_t ls_pixel_stretch(int32_t v, int32_t around, int32_t factor) {
  return ls_pixel_clamp((around * LS_PIXEL_ONE + (v - around) * factor + LS_PIXEL_ONE / 2) >> 16);
}

// ITU-R 601 luma, as in the Python Imaging Library.
LS_EVERYWHERE static inline int32_t ls_pixel_grey(int32_t r, int32_t g, int32_t b) {
  return (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
}

// One step of the pixel at (y, x) of the window; v: its c <= 4 channels, always four values.
LS_EVERYWHERE static inline void ls_pixel_change(const int32_t *step, int32_t y, int32_t x, int32_t *v) {
  int32_t grey = ls_pixel_grey(v[0], v[1], v[2]);
  int inside = y >= step[1] && y < step[3] && x >= step[2] && x < step[4];
  for (int i = 0; i < 4; i++) {
    switch (step[0]) {
      case LS_PIXEL_SCALE: v[i] = ls_pixel_stretch(v[i], 0, step[1]); break;
      case LS_PIXEL_SATURATE: v[i] = ls_pixel_stretch(v[i], grey, step[1]); break;
      case LS_PIXEL_ADD: v[i] = i < 3 ? ls_pixel_clamp(v[i] + step[1 + i]) : v[i]; break;
      default: v[i] = inside ? (int32_t)((uint32_t)step[5] >> 8 * i & 255) : v[i]; break;
    }
  }
}

#endif
