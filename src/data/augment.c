// From stored pixels to what the network takes: crop, flip, normalise.
//
// Every draw is a function of (seed, epoch, sample, number of the draw). Padding is black (0), as in the papers' recipes
// before normalisation. Evaluation takes the centre.
#include <inttypes.h>
#include <string.h>

#include "base/philox.h"
#include "data/data_internal.h"

enum { DRAW_CROP, DRAW_FLIP };

static ls_status take_augmentation(struct ls_augmenter *a, const Lockstep__V1__Augmentation *m, struct ls_error *err) {
  switch (m->kind_case) {
    case LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP:
      a->random_crop = true;
      a->pad = m->random_crop->pad;
      return LS_OK;
    case LOCKSTEP__V1__AUGMENTATION__KIND_CENTER_CROP: a->random_crop = false; return LS_OK;
    case LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP:
      a->flip_probability = (float)m->horizontal_flip->probability;
      return LS_OK;
    default:
      return ls_fail(
          err, LS_UNSUPPORTED,
          "key 'augment': this version has random_crop, center_crop and horizontal_flip, not number %d of the list",
          (int)m->kind_case);
  }
}

ls_status ls_augmenter_init(struct ls_augmenter *a, const struct ls_loader_options *o, struct ls_error *err) {
  const struct ls_dataset_info *info = &o->dataset->info;
  *a = (struct ls_augmenter){.training = o->training,
                             .seed = o->seed,
                             .height = info->height,
                             .width = info->width,
                             .channels = info->channels,
                             .crop_height = o->crop_height,
                             .crop_width = o->crop_width,
                             .channels_last = o->channels_last,
                             .output = o->output};
  for (size_t i = 0; o->training && i < o->augment_count; i++) LS_TRY(take_augmentation(a, o->augment[i], err));
  if (a->crop_height > a->height + 2 * a->pad || a->crop_width > a->width + 2 * a->pad) {
    return ls_fail(err, LS_INVALID,
                   "a crop of %" PRId64 "x%" PRId64 " does not fit into images of %" PRId64 "x%" PRId64, a->crop_height,
                   a->crop_width, a->height, a->width);
  }
  for (int64_t c = 0; c < a->channels; c++) {
    float mean = o->mean ? o->mean[c] : info->has_statistics ? info->mean[c] : 0;
    float deviation = o->deviation ? o->deviation[c] : info->has_statistics ? info->deviation[c] : 255;
    if (!(deviation > 0)) deviation = 1;
    a->scale[c] = 1 / deviation;
    a->bias[c] = -mean / deviation;
  }
  return LS_OK;
}

struct window {
  int64_t top, left;  // in the stored image; negative in the padding
  bool flip;
};

static struct window draw_window(const struct ls_augmenter *a, uint64_t epoch, int64_t index) {
  struct window w = {(a->height - a->crop_height) / 2, (a->width - a->crop_width) / 2, false};
  if (!a->training) return w;
  if (a->random_crop) {
    struct ls_philox4 r = ls_random(a->seed, LS_RANDOM_AUGMENT, epoch, (uint64_t)index, DRAW_CROP);
    w.top = ls_random_below(r.v[0], (uint32_t)(a->height + 2 * a->pad - a->crop_height + 1)) - a->pad;
    w.left = ls_random_below(r.v[1], (uint32_t)(a->width + 2 * a->pad - a->crop_width + 1)) - a->pad;
  }
  if (a->flip_probability > 0) {
    uint32_t word = ls_random(a->seed, LS_RANDOM_AUGMENT, epoch, (uint64_t)index, DRAW_FLIP).v[0];
    w.flip = ls_random_unit(word) < a->flip_probability;
  }
  return w;
}

// One row of the window as stored values [crop_width, C], padding and flip done, into `row`.
static void copy_row(const struct ls_augmenter *a, const uint8_t *pixels, const struct window *w, int64_t y,
                     uint8_t *row) {
  int64_t c = a->channels, from_y = w->top + y;
  int64_t begin = w->left < 0 ? -w->left : 0,
          end = w->left + a->crop_width > a->width ? a->width - w->left : a->crop_width;
  if (from_y < 0 || from_y >= a->height || begin >= end) {
    memset(row, 0, (size_t)(a->crop_width * c));
    return;
  }
  const uint8_t *from = pixels + (from_y * a->width + w->left) * c;
  memset(row, 0, (size_t)(begin * c));
  memcpy(row + begin * c, from + begin * c, (size_t)((end - begin) * c));
  memset(row + end * c, 0, (size_t)((a->crop_width - end) * c));
  if (!w->flip) return;
  for (int64_t i = 0, j = a->crop_width - 1; i < j; i++, j--) {
    for (int64_t k = 0; k < c; k++) {
      uint8_t kept = row[i * c + k];
      row[i * c + k] = row[j * c + k];
      row[j * c + k] = kept;
    }
  }
}

// Values of one channel, `step` apart, to floats side by side.
__attribute__((target_clones("avx2", "default"))) static void normalise(const uint8_t *row, int64_t step, int64_t n,
                                                                        float scale, float bias, float *out) {
  if (step == 1) {
    for (int64_t i = 0; i < n; i++) out[i] = (float)row[i] * scale + bias;
  } else if (step == 3) {
    for (int64_t i = 0; i < n; i++) out[i] = (float)row[3 * i] * scale + bias;
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = (float)row[step * i] * scale + bias;
  }
}

void ls_augmenter_run(const struct ls_augmenter *a, const uint8_t *pixels, uint64_t epoch, int64_t index, void *out) {
  struct window w = draw_window(a, epoch, index);
  int64_t c = a->channels, plane = a->crop_height * a->crop_width;
  uint8_t row[65536 * LS_MAX_CHANNELS];
  for (int64_t y = 0; y < a->crop_height; y++) {
    if (a->output == LS_U8 && a->channels_last) {
      copy_row(a, pixels, &w, y, (uint8_t *)out + y * a->crop_width * c);
      continue;
    }
    copy_row(a, pixels, &w, y, row);
    for (int64_t k = 0; k < c; k++) {
      if (a->output == LS_U8) {
        uint8_t *to = (uint8_t *)out + k * plane + y * a->crop_width;
        for (int64_t x = 0; x < a->crop_width; x++) to[x] = row[x * c + k];
      } else if (a->channels_last) {
        float *to = (float *)out + y * a->crop_width * c + k;
        for (int64_t x = 0; x < a->crop_width; x++) to[x * c] = (float)row[x * c + k] * a->scale[k] + a->bias[k];
      } else {
        normalise(row + k, c, a->crop_width, a->scale[k], a->bias[k], (float *)out + k * plane + y * a->crop_width);
      }
    }
  }
}
