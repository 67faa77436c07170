// Colour jitter, PCA lighting and cut-outs, in whole numbers. See augment.h. What an operation does to one image is drawn
// first and applied then: here, or by a device (tensor/pixel.h), which gets it in words (ls_colour_steps).
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/philox.h"
#include "data/augment.h"
#include "data/draws.h"
#include "tensor/pixel.h"

// The loops over pixels are compiled twice, for AVX2 and for any machine; whole numbers are the same in both.
#define INLINE inline __attribute__((always_inline))
enum { PIECE = 256 };  // pixels

static inline uint8_t stretch(int32_t v, int32_t around, int32_t factor) {
  return (uint8_t)ls_pixel_stretch(v, around, factor);
}

// Sum of the grey values of n <= PIECE pixels in three planes.
static INLINE int32_t grey_sum(const uint8_t *planes, int64_t n) {
  int32_t sum = 0;
  for (int64_t i = 0; i < n; i++) sum += ls_pixel_grey(planes[i], planes[PIECE + i], planes[2 * PIECE + i]);
  return sum;
}

static INLINE void saturate(uint8_t *planes, int64_t n, int32_t f) {
  for (int64_t i = 0; i < n; i++) {
    int32_t r = planes[i], g = planes[PIECE + i], b = planes[2 * PIECE + i], around = ls_pixel_grey(r, g, b);
    planes[i] = stretch(r, around, f);
    planes[PIECE + i] = stretch(g, around, f);
    planes[2 * PIECE + i] = stretch(b, around, f);
  }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static int32_t grey_sum_avx2(const uint8_t *planes, int64_t n) {
  return grey_sum(planes, n);
}
__attribute__((target("avx2"))) static void saturate_avx2(uint8_t *planes, int64_t n, int32_t f) {
  saturate(planes, n, f);
}
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#else
static int32_t grey_sum_avx2(const uint8_t *planes, int64_t n) { return grey_sum(planes, n); }
static void saturate_avx2(uint8_t *planes, int64_t n, int32_t f) { saturate(planes, n, f); }
static bool has_avx2(void) { return false; }
#endif

static int64_t grey_sum_of(const uint8_t *image, int64_t pixels, int64_t c) {
  int64_t sum = 0;
  if (c != 3) {
    for (int64_t i = 0; i < pixels; i++) sum += image[i * c];
    return sum;
  }
  uint8_t planes[3 * PIECE];
  for (int64_t i = 0; i < pixels; i += PIECE) {
    int64_t n = pixels - i < PIECE ? pixels - i : PIECE;
    ls_pixels_to_planes(image + 3 * i, n, 3, planes, PIECE);
    sum += has_avx2() ? grey_sum_avx2(planes, n) : grey_sum(planes, n);
  }
  return sum;
}

static void saturate_image(uint8_t *image, int64_t pixels, int32_t f) {
  uint8_t planes[3 * PIECE];
  for (int64_t i = 0; i < pixels; i += PIECE) {
    int64_t n = pixels - i < PIECE ? pixels - i : PIECE;
    ls_pixels_to_planes(image + 3 * i, n, 3, planes, PIECE);
    if (has_avx2())
      saturate_avx2(planes, n, f);
    else
      saturate(planes, n, f);
    ls_pixels_from_planes(planes, PIECE, n, image + 3 * i);
  }
}

static void use_table(const uint8_t table[256], uint8_t *image, int64_t n) {
  for (int64_t i = 0; i < n; i++) image[i] = table[image[i]];
}

// ---- what is drawn

static struct ls_philox4 draw(const struct ls_augmenter *a, const struct ls_view *view, int number) {
  return ls_random(a->seed, LS_RANDOM_AUGMENT, view->epoch, (uint64_t)view->sample, LS_DRAW_COLOUR + (uint32_t)number);
}

static int32_t factor(uint32_t word, double width) {
  return (int32_t)lround((1 - width + 2 * width * (double)ls_random_unit(word)) * LS_PIXEL_ONE);
}

// Principal components of the RGB values of ImageNet (deviations along them times 255, and directions), as in the
// recipes that came after AlexNet; section 4.1 of the paper.
static const double component_size[3] = {55.46, 4.794, 1.148};
static const double component[3][3] = {
    {-0.5675, 0.7192, 0.4009}, {-0.5808, -0.0045, -0.8140}, {-0.5836, -0.6948, 0.4203}};  // [channel][component]

static void draw_lighting(const struct ls_augmenter *a, const struct ls_view *view, int number, int32_t added[3]) {
  struct ls_philox4 r = draw(a, view, number);
  double normal[4];
  for (int i = 0; i < 4; i += 2) {  // Box and Muller
    double radius = sqrt(-2 * log(1 - (double)ls_random_unit(r.v[i])));
    double angle = 6.283185307179586 * (double)ls_random_unit(r.v[i + 1]);
    normal[i] = radius * cos(angle);
    normal[i + 1] = radius * sin(angle);
  }
  for (int c = 0; c < 3; c++) {
    double sum = 0;
    for (int k = 0; k < 3; k++) sum += component[c][k] * component_size[k] * a->ops[number].sigma * normal[k];
    added[c] = (int32_t)lround(sum);
  }
}

// Top, left, bottom, right. The centre lies anywhere in the image; what reaches beyond is cut off.
static void draw_cutout(const struct ls_augmenter *a, const struct ls_view *view, int number, int32_t place[4]) {
  struct ls_philox4 r = draw(a, view, number);
  int64_t size = a->ops[number].size;
  int64_t top = (int64_t)ls_random_below(r.v[0], (uint32_t)a->crop_height) - size / 2;
  int64_t left = (int64_t)ls_random_below(r.v[1], (uint32_t)a->crop_width) - size / 2;
  place[0] = (int32_t)(top > 0 ? top : 0);
  place[1] = (int32_t)(left > 0 ? left : 0);
  place[2] = (int32_t)(top + size < a->crop_height ? top + size : a->crop_height);
  place[3] = (int32_t)(left + size < a->crop_width ? left + size : a->crop_width);
}

// ---- applied to an image in memory

static void jitter(const struct ls_augmenter *a, const struct ls_view *view, int number, uint8_t *image) {
  const struct ls_colour_op *op = &a->ops[number];
  int64_t c = a->channels, pixels = a->crop_height * a->crop_width;
  struct ls_philox4 r = draw(a, view, number);
  uint8_t table[256];
  if (op->brightness > 0) {
    int32_t f = factor(r.v[0], op->brightness);
    for (int v = 0; v < 256; v++) table[v] = stretch(v, 0, f);
    use_table(table, image, pixels * c);
  }
  if (op->contrast > 0) {
    int32_t f = factor(r.v[1], op->contrast);
    int32_t mean = (int32_t)((2 * grey_sum_of(image, pixels, c) + pixels) / (2 * pixels));
    for (int v = 0; v < 256; v++) table[v] = stretch(v, mean, f);
    use_table(table, image, pixels * c);
  }
  if (op->saturation > 0 && c == 3) saturate_image(image, pixels, factor(r.v[2], op->saturation));
}

static void lighting(const struct ls_augmenter *a, const struct ls_view *view, int number, uint8_t *image) {
  int32_t added[3];
  uint8_t table[3][256];
  draw_lighting(a, view, number, added);
  for (int c = 0; c < 3; c++) {
    for (int v = 0; v < 256; v++) table[c][v] = (uint8_t)ls_pixel_clamp(v + added[c]);
  }
  for (int64_t i = 0; i < a->crop_height * a->crop_width; i++) {
    for (int c = 0; c < 3; c++) image[3 * i + c] = table[c][image[3 * i + c]];
  }
}

static void cutout(const struct ls_augmenter *a, const struct ls_view *view, int number, uint8_t *image) {
  int32_t place[4];
  draw_cutout(a, view, number, place);
  for (int64_t y = place[0]; y < place[2]; y++) {
    for (int64_t x = place[1]; x < place[3]; x++) {
      memcpy(image + (y * a->crop_width + x) * a->channels, a->mean, (size_t)a->channels);
    }
  }
}

void ls_colour_apply(const struct ls_augmenter *a, const struct ls_view *view, uint8_t *image) {
  for (int i = 0; a->training && i < a->op_count; i++) {
    switch (a->ops[i].kind) {
      case LS_COLOUR_JITTER: jitter(a, view, i, image); break;
      case LS_COLOUR_LIGHTING: lighting(a, view, i, image); break;
      case LS_COLOUR_CUTOUT: cutout(a, view, i, image); break;
    }
  }
}

// ---- told to a device

bool ls_colour_by_pixel(const struct ls_augmenter *a) {
  for (int i = 0; a->training && i < a->op_count; i++) {
    if (a->ops[i].kind == LS_COLOUR_JITTER && a->ops[i].contrast > 0) return false;
  }
  return true;
}

static int jitter_steps(const struct ls_augmenter *a, const struct ls_view *view, int number, int32_t *steps) {
  const struct ls_colour_op *op = &a->ops[number];
  int count = 0;
  struct ls_philox4 r = {{0}};
  if (steps) r = draw(a, view, number);
  if (op->brightness > 0) {
    if (steps) steps[0] = LS_PIXEL_SCALE, steps[1] = factor(r.v[0], op->brightness);
    count++;
  }
  if (op->saturation > 0) {
    int32_t *step = steps ? steps + (ptrdiff_t)count * LS_PIXEL_STEP_WORDS : NULL;
    if (step) step[0] = LS_PIXEL_SATURATE, step[1] = factor(r.v[2], op->saturation);
    count++;
  }
  return count;
}

int ls_colour_steps(const struct ls_augmenter *a, const struct ls_view *view, int32_t *steps) {
  int count = 0;
  for (int i = 0; a->training && i < a->op_count; i++) {
    int32_t *step = steps ? steps + (ptrdiff_t)count * LS_PIXEL_STEP_WORDS : NULL;
    if (a->ops[i].kind == LS_COLOUR_JITTER) {
      count += jitter_steps(a, view, i, step);
      continue;
    }
    count++;
    if (!step) continue;
    bool fills = a->ops[i].kind == LS_COLOUR_CUTOUT;
    step[0] = fills ? LS_PIXEL_FILL : LS_PIXEL_ADD;
    if (fills) {
      draw_cutout(a, view, i, step + 1);
      uint32_t mean = 0;
      for (int c = 0; c < 4; c++) mean |= (uint32_t)a->mean[c] << 8 * c;
      step[5] = (int32_t)mean;
    } else {
      draw_lighting(a, view, i, step + 1);
    }
  }
  return count;
}
