// Colour jitter, PCA lighting and cut-outs, in whole numbers. See augment.h.
#include <math.h>
#include <string.h>

#include "base/philox.h"
#include "data/augment.h"
#include "data/draws.h"

enum { ONE = 1 << 16 };  // fixed point of the factors

static inline uint8_t clamp(int64_t v) { return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v; }

// around + (v - around) * factor, rounded; factor in units of 1/ONE.
static inline uint8_t stretch(int64_t v, int64_t around, int64_t factor) {
  return clamp((around * ONE + (v - around) * factor + ONE / 2) >> 16);
}

// ITU-R 601 luma, as in the Python Imaging Library.
static inline int64_t grey(const uint8_t *p) { return (19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 0x8000) >> 16; }

static int64_t factor(uint32_t word, double width) {
  return (int64_t)lround((1 - width + 2 * width * (double)ls_random_unit(word)) * ONE);
}

static void use_table(const uint8_t table[256], uint8_t *image, int64_t n) {
  for (int64_t i = 0; i < n; i++) image[i] = table[image[i]];
}

static void jitter(const struct ls_augmenter *a, const struct ls_view *view, const struct ls_colour_op *op, int number,
                   uint8_t *image) {
  int64_t c = a->channels, pixels = a->crop_height * a->crop_width;
  struct ls_philox4 r =
      ls_random(a->seed, LS_RANDOM_AUGMENT, view->epoch, (uint64_t)view->sample, LS_DRAW_COLOUR + (uint32_t)number);
  uint8_t table[256];
  if (op->brightness > 0) {
    int64_t f = factor(r.v[0], op->brightness);
    for (int v = 0; v < 256; v++) table[v] = stretch(v, 0, f);
    use_table(table, image, pixels * c);
  }
  if (op->contrast > 0) {
    int64_t sum = 0, f = factor(r.v[1], op->contrast);
    for (int64_t i = 0; i < pixels; i++) sum += c == 3 ? grey(image + 3 * i) : image[i * c];
    int64_t mean = (2 * sum + pixels) / (2 * pixels);
    for (int v = 0; v < 256; v++) table[v] = stretch(v, mean, f);
    use_table(table, image, pixels * c);
  }
  if (op->saturation > 0 && c == 3) {
    int64_t f = factor(r.v[2], op->saturation);
    for (int64_t i = 0; i < pixels; i++) {
      uint8_t *p = image + 3 * i;
      int64_t around = grey(p);
      for (int k = 0; k < 3; k++) p[k] = stretch(p[k], around, f);
    }
  }
}

// Principal components of the RGB values of ImageNet (deviations along them times 255, and directions), as in the
// recipes that came after AlexNet; section 4.1 of the paper.
static const double component_size[3] = {55.46, 4.794, 1.148};
static const double component[3][3] = {
    {-0.5675, 0.7192, 0.4009}, {-0.5808, -0.0045, -0.8140}, {-0.5836, -0.6948, 0.4203}};  // [channel][component]

static void lighting(const struct ls_augmenter *a, const struct ls_view *view, const struct ls_colour_op *op,
                     int number, uint8_t *image) {
  struct ls_philox4 r =
      ls_random(a->seed, LS_RANDOM_AUGMENT, view->epoch, (uint64_t)view->sample, LS_DRAW_COLOUR + (uint32_t)number);
  double normal[4];
  for (int i = 0; i < 4; i += 2) {  // Box and Muller
    double radius = sqrt(-2 * log(1 - (double)ls_random_unit(r.v[i])));
    double angle = 6.283185307179586 * (double)ls_random_unit(r.v[i + 1]);
    normal[i] = radius * cos(angle);
    normal[i + 1] = radius * sin(angle);
  }
  uint8_t table[3][256];
  for (int c = 0; c < 3; c++) {
    double sum = 0;
    for (int k = 0; k < 3; k++) sum += component[c][k] * component_size[k] * op->sigma * normal[k];
    int64_t added = (int64_t)lround(sum);
    for (int v = 0; v < 256; v++) table[c][v] = clamp(v + added);
  }
  for (int64_t i = 0; i < a->crop_height * a->crop_width; i++) {
    for (int c = 0; c < 3; c++) image[3 * i + c] = table[c][image[3 * i + c]];
  }
}

static void cutout(const struct ls_augmenter *a, const struct ls_view *view, const struct ls_colour_op *op, int number,
                   uint8_t *image) {
  struct ls_philox4 r =
      ls_random(a->seed, LS_RANDOM_AUGMENT, view->epoch, (uint64_t)view->sample, LS_DRAW_COLOUR + (uint32_t)number);
  // The centre lies anywhere in the image; what reaches beyond is cut off.
  int64_t top = (int64_t)ls_random_below(r.v[0], (uint32_t)a->crop_height) - op->size / 2;
  int64_t left = (int64_t)ls_random_below(r.v[1], (uint32_t)a->crop_width) - op->size / 2;
  int64_t bottom = top + op->size < a->crop_height ? top + op->size : a->crop_height;
  int64_t right = left + op->size < a->crop_width ? left + op->size : a->crop_width;
  for (int64_t y = top > 0 ? top : 0; y < bottom; y++) {
    for (int64_t x = left > 0 ? left : 0; x < right; x++) {
      memcpy(image + (y * a->crop_width + x) * a->channels, a->mean, (size_t)a->channels);
    }
  }
}

void ls_colour_apply(const struct ls_augmenter *a, const struct ls_view *view, uint8_t *image) {
  for (int i = 0; a->training && i < a->op_count; i++) {
    switch (a->ops[i].kind) {
      case LS_COLOUR_JITTER: jitter(a, view, &a->ops[i], i, image); break;
      case LS_COLOUR_LIGHTING: lighting(a, view, &a->ops[i], i, image); break;
      case LS_COLOUR_CUTOUT: cutout(a, view, &a->ops[i], i, image); break;
    }
  }
}
