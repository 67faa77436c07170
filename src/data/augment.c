// See augment.h. Padding is black (0), as in the papers' recipes before normalisation. Evaluation takes the centre.
#include "data/augment.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "data/data_internal.h"
#include "data/draws.h"
#include "tensor/pixel.h"

// ---- from the job's list

static ls_status take_window(struct ls_augmenter *a, int window, bool *given, struct ls_error *err) {
  if (*given) {
    return ls_fail(err, LS_INVALID,
                   "key 'augment': only one of random_crop, center_crop and random_resized_crop can choose the window");
  }
  *given = true;
  a->window = window;
  return LS_OK;
}

static ls_status take_colour(struct ls_augmenter *a, struct ls_colour_op op, struct ls_error *err) {
  bool colours = op.kind == LS_COLOUR_LIGHTING || op.saturation > 0;
  if (colours && a->channels != 3) {
    return ls_fail(err, LS_INVALID, "key 'augment': %s needs images of 3 channels, these have %" PRId64,
                   op.kind == LS_COLOUR_LIGHTING ? "pca_lighting" : "color_jitter.saturation", a->channels);
  }
  if (a->op_count == LS_MAX_COLOUR_OPS)
    return ls_fail(err, LS_INVALID, "key 'augment': more than %d colour operations", LS_MAX_COLOUR_OPS);
  a->ops[a->op_count++] = op;
  return LS_OK;
}

static ls_status take_resized(struct ls_augmenter *a, const Lockstep__V1__RandomResizedCrop *m, struct ls_error *err) {
  a->min_area = m->min_area, a->max_area = m->max_area;
  a->min_aspect = m->min_aspect, a->max_aspect = m->max_aspect;
  if (a->min_area <= a->max_area && a->min_aspect <= a->max_aspect) return LS_OK;
  return ls_fail(err, LS_INVALID, "key 'augment': random_resized_crop has a minimum above its maximum");
}

static ls_status take_scale(struct ls_augmenter *a, const Lockstep__V1__ScaleJitter *m, struct ls_error *err) {
  if (a->min_side) return ls_fail(err, LS_INVALID, "key 'augment': scale_jitter is given twice");
  if (m->min_side > m->max_side)
    return ls_fail(err, LS_INVALID, "key 'augment': scale_jitter has min_side %u above max_side %u", m->min_side,
                   m->max_side);
  a->min_side = m->min_side, a->max_side = m->max_side;
  return LS_OK;
}

static ls_status take(struct ls_augmenter *a, const Lockstep__V1__Augmentation *m, bool *window, struct ls_error *err) {
  switch (m->kind_case) {
    case LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP:
      a->pad = m->random_crop->pad;
      return take_window(a, LS_WINDOW_RANDOM, window, err);
    case LOCKSTEP__V1__AUGMENTATION__KIND_CENTER_CROP: return take_window(a, LS_WINDOW_CENTER, window, err);
    case LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_RESIZED_CROP:
      LS_TRY(take_resized(a, m->random_resized_crop, err));
      return take_window(a, LS_WINDOW_RESIZED, window, err);
    case LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP:
      a->flip_probability = (float)m->horizontal_flip->probability;
      return LS_OK;
    case LOCKSTEP__V1__AUGMENTATION__KIND_COLOR_JITTER:
      return take_colour(a,
                         (struct ls_colour_op){.kind = LS_COLOUR_JITTER,
                                               .brightness = m->color_jitter->brightness,
                                               .contrast = m->color_jitter->contrast,
                                               .saturation = m->color_jitter->saturation},
                         err);
    case LOCKSTEP__V1__AUGMENTATION__KIND_PCA_LIGHTING:
      return take_colour(a, (struct ls_colour_op){.kind = LS_COLOUR_LIGHTING, .sigma = m->pca_lighting->sigma}, err);
    case LOCKSTEP__V1__AUGMENTATION__KIND_CUTOUT:
      return take_colour(a, (struct ls_colour_op){.kind = LS_COLOUR_CUTOUT, .size = m->cutout->size}, err);
    case LOCKSTEP__V1__AUGMENTATION__KIND_SCALE_JITTER: return take_scale(a, m->scale_jitter, err);
    default:
      return ls_fail(err, LS_UNSUPPORTED, "key 'augment': number %d of the schema is not known to this version",
                     (int)m->kind_case);
  }
}

static ls_status check_window(const struct ls_augmenter *a, int64_t height, int64_t width, struct ls_error *err) {
  if (a->window == LS_WINDOW_RESIZED) {
    if (!a->min_side) return LS_OK;
    return ls_fail(err, LS_INVALID,
                   "key 'augment': scale_jitter and random_resized_crop both choose the size; use one");
  }
  if (a->min_side) {  // of the resized image
    double shorter = (double)(height < width ? height : width);
    height = (int64_t)floor((double)height * (double)a->min_side / shorter + 0.5);
    width = (int64_t)floor((double)width * (double)a->min_side / shorter + 0.5);
  }
  if (a->crop_height <= height + 2 * a->pad && a->crop_width <= width + 2 * a->pad) return LS_OK;
  return ls_fail(err, LS_INVALID,
                 "a crop of %" PRId64 "x%" PRId64 " does not fit into images of %" PRId64 "x%" PRId64 "%s",
                 a->crop_height, a->crop_width, height, width, a->min_side ? " (after scale_jitter)" : "");
}

// Of a channel, 0-255: the options', else the data set's.
static float mean_of(const struct ls_loader_options *o, int64_t c) {
  const struct ls_dataset_info *info = o->dataset ? ls_dataset_info(o->dataset) : NULL;
  return o->mean ? o->mean[c] : info && info->has_statistics ? info->mean[c] : 0;
}

static float deviation_of(const struct ls_loader_options *o, int64_t c) {
  const struct ls_dataset_info *info = o->dataset ? ls_dataset_info(o->dataset) : NULL;
  float deviation = o->deviation ? o->deviation[c] : info && info->has_statistics ? info->deviation[c] : 255;
  return deviation > 0 ? deviation : 1;
}

ls_status ls_augmenter_init(struct ls_augmenter *a, const struct ls_loader_options *o, int64_t smallest_height,
                            int64_t smallest_width, struct ls_error *err) {
  const struct ls_dataset_info *info = ls_dataset_info(o->dataset);
  *a = (struct ls_augmenter){.training = o->training,
                             .seed = o->seed,
                             .channels = info->channels,
                             .crop_height = o->crop_height,
                             .crop_width = o->crop_width,
                             .channels_last = o->channels_last,
                             .output = o->output};
  bool window = false;
  for (size_t i = 0; o->training && i < o->augment_count; i++) LS_TRY(take(a, o->augment[i], &window, err));
  LS_TRY(check_window(a, smallest_height, smallest_width, err));
  ls_loader_normalisation(o, a->channels, a->scale, a->bias);
  for (int64_t c = 0; c < a->channels; c++) {
    float mean = mean_of(o, c);
    a->mean[c] = mean < 0 ? 0 : mean > 255 ? 255 : (uint8_t)lrintf(mean);
  }
  return LS_OK;
}

void ls_loader_normalisation(const struct ls_loader_options *o, int64_t channels, float *scale, float *bias) {
  for (int64_t c = 0; c < channels; c++) {
    float deviation = deviation_of(o, c);
    scale[c] = 1 / deviation;
    bias[c] = -mean_of(o, c) / deviation;
  }
}

// ---- draws

static struct ls_philox4 draw(const struct ls_augmenter *a, const struct ls_view *view, uint32_t number) {
  return ls_random(a->seed, LS_RANDOM_AUGMENT, view->epoch, (uint64_t)view->sample, number);
}

// `wanted` positions from `at` on of an axis of `size` stored pixels, resized to `resized`.
static void set_axis(struct ls_axis *axis, int64_t size, int64_t resized, int64_t at, int64_t wanted) {
  axis->begin = at < 0 ? -at : 0;
  if (axis->begin > wanted) axis->begin = wanted;
  int64_t end = at + wanted > resized ? resized - at : wanted;
  axis->count = end > axis->begin ? end - axis->begin : 0;
  axis->first = at + axis->begin;
  axis->step = (double)size / (double)resized;
  axis->offset = 0;
  axis->size = size;
}

// Ten tries for an area and an aspect that fit, then the centre with the nearest aspect that does.
static void draw_resized(const struct ls_augmenter *a, int64_t height, int64_t width, struct ls_view *view) {
  double area = (double)height * (double)width, log_low = log(a->min_aspect), log_high = log(a->max_aspect);
  int64_t h = 0, w = 0, top = 0, left = 0;
  bool found = false;
  for (uint32_t attempt = 0; attempt < 10 && !found; attempt++) {
    struct ls_philox4 r = draw(a, view, LS_DRAW_RESIZED + attempt);
    double wanted = area * (a->min_area + (a->max_area - a->min_area) * (double)ls_random_unit(r.v[0]));
    double aspect = exp(log_low + (log_high - log_low) * (double)ls_random_unit(r.v[1]));
    w = lround(sqrt(wanted * aspect));
    h = lround(sqrt(wanted / aspect));
    found = w >= 1 && h >= 1 && w <= width && h <= height;
    if (!found) continue;
    top = ls_random_below(r.v[2], (uint32_t)(height - h + 1));
    left = ls_random_below(r.v[3], (uint32_t)(width - w + 1));
  }
  if (!found) {
    double aspect = (double)width / (double)height;
    w = aspect > a->max_aspect ? lround((double)height * a->max_aspect) : width;
    h = aspect < a->min_aspect ? lround((double)width / a->min_aspect) : height;
    w = w < 1 ? 1 : w > width ? width : w;
    h = h < 1 ? 1 : h > height ? height : h;
    top = (height - h) / 2;
    left = (width - w) / 2;
  }
  set_axis(&view->y, h, a->crop_height, 0, a->crop_height);
  set_axis(&view->x, w, a->crop_width, 0, a->crop_width);
  view->y.offset = top;
  view->x.offset = left;
}

static void draw_window(const struct ls_augmenter *a, int64_t height, int64_t width, struct ls_view *view) {
  int64_t h = height, w = width;  // of the resized image
  if (a->training && a->min_side) {
    uint32_t word = draw(a, view, LS_DRAW_SCALE).v[0];
    int64_t side = a->min_side + ls_random_below(word, (uint32_t)(a->max_side - a->min_side + 1));
    double shorter = (double)(h < w ? h : w);
    h = (int64_t)floor((double)height * (double)side / shorter + 0.5);
    w = (int64_t)floor((double)width * (double)side / shorter + 0.5);
  }
  int64_t top = (h - a->crop_height) / 2, left = (w - a->crop_width) / 2;
  if (a->training && a->window == LS_WINDOW_RANDOM) {
    struct ls_philox4 r = draw(a, view, LS_DRAW_CROP);
    top = ls_random_below(r.v[0], (uint32_t)(h + 2 * a->pad - a->crop_height + 1)) - a->pad;
    left = ls_random_below(r.v[1], (uint32_t)(w + 2 * a->pad - a->crop_width + 1)) - a->pad;
  }
  set_axis(&view->y, height, h, top, a->crop_height);
  set_axis(&view->x, width, w, left, a->crop_width);
}

// The four corners and the centre, then the same mirrored.
static void take_crop(const struct ls_augmenter *a, int64_t height, int64_t width, int crop, struct ls_view *view) {
  int place = crop % 5;
  int64_t down = height - a->crop_height, right = width - a->crop_width;
  set_axis(&view->y, height, height, place == 4 ? down / 2 : place / 2 * down, a->crop_height);
  set_axis(&view->x, width, width, place == 4 ? right / 2 : place % 2 * right, a->crop_width);
  view->flip = crop >= 5;
}

// Stored pixels that an axis needs.
static void needed(const struct ls_axis *axis, bool resample, int64_t *low, int64_t *count) {
  if (axis->count == 0) {
    *low = *count = 0;
  } else if (!resample) {
    *low = axis->offset + axis->first;
    *count = axis->count;
  } else {
    int64_t high;
    ls_filter_range(axis, low, &high);
    *count = high - *low;
  }
}

void ls_augmenter_view(const struct ls_augmenter *a, int64_t height, int64_t width, uint64_t epoch, int64_t sample,
                       int crop, struct ls_view *view) {
  view->epoch = epoch;
  view->sample = sample;
  view->flip = false;
  if (crop >= 0)
    take_crop(a, height, width, crop, view);
  else if (a->training && a->window == LS_WINDOW_RESIZED)
    draw_resized(a, height, width, view);
  else
    draw_window(a, height, width, view);
  if (crop < 0 && a->training && a->flip_probability > 0)
    view->flip = ls_random_unit(draw(a, view, LS_DRAW_FLIP).v[0]) < a->flip_probability;
  view->resample = view->y.step != 1 || view->x.step != 1;
  needed(&view->y, view->resample, &view->source.top, &view->source.height);
  needed(&view->x, view->resample, &view->source.left, &view->source.width);
  if (!view->source.height || !view->source.width) view->source.height = view->source.width = 0;
}

bool ls_augmenter_by_pixel(const struct ls_augmenter *a) {
  return !a->training || (a->window != LS_WINDOW_RESIZED && !a->min_side && ls_colour_by_pixel(a));
}

int ls_augmenter_place_words(const struct ls_augmenter *a) {
  return 3 + LS_PIXEL_STEP_WORDS * ls_colour_steps(a, NULL, NULL);
}

void ls_augmenter_place(const struct ls_augmenter *a, const struct ls_view *view, int32_t *place) {
  place[0] = (int32_t)(view->y.first - view->y.begin);
  place[1] = (int32_t)(view->x.first - view->x.begin);
  place[2] = view->flip;
  ls_colour_steps(a, view, place + 3);
}

// ---- pixels

void ls_augment_scratch_release(struct ls_augment_scratch *scratch) {
  free(scratch->bytes);
  *scratch = (struct ls_augment_scratch){NULL, 0};
}

static ls_status need_scratch(struct ls_augment_scratch *scratch, size_t size, struct ls_error *err) {
  if (scratch->size >= size) return LS_OK;
  ls_augment_scratch_release(scratch);
  size = (size + 4095) / 4096 * 4096;
  scratch->bytes = aligned_alloc(64, size);
  if (!scratch->bytes) return ls_fail(err, LS_NO_MEMORY, "no memory to change an image (%zu bytes)", size);
  scratch->size = size;
  return LS_OK;
}

static size_t padded(size_t size) { return (size + 63) / 64 * 64; }

// Row y of the window as stored values [crop_width, C]; padding and flip done.
static void copy_row(const struct ls_augmenter *a, const struct ls_view *view, const uint8_t *pixels, size_t stride,
                     int64_t y, uint8_t *row) {
  int64_t c = a->channels, begin = view->x.begin, count = view->x.count, behind = a->crop_width - begin - count;
  if (y < view->y.begin || y >= view->y.begin + view->y.count || count == 0) {
    memset(row, 0, (size_t)(a->crop_width * c));
    return;
  }
  const uint8_t *from = pixels + (size_t)(y - view->y.begin) * stride;
  int64_t before = view->flip ? behind : begin;
  if (before) memset(row, 0, (size_t)(before * c));
  if (view->flip)
    ls_pixels_reverse(from, count, c, row + before * c);
  else
    memcpy(row + before * c, from, (size_t)(count * c));
  if (before + count < a->crop_width)
    memset(row + (before + count) * c, 0, (size_t)((a->crop_width - before - count) * c));
}

static void put_row(const struct ls_augmenter *a, const uint8_t *row, int64_t y, void *out) {
  int64_t c = a->channels, n = a->crop_width, plane = a->crop_height * n;
  if (a->output == LS_U8 && a->channels_last) {
    ls_pixels_store(row, n * c, (uint8_t *)out + y * n * c);
  } else if (a->output == LS_U8) {
    ls_pixels_to_planes(row, n, c, (uint8_t *)out + y * n, plane);
  } else if (a->channels_last) {
    ls_pixels_to_floats(row, n, c, a->scale, a->bias, (float *)out + y * n * c);
  } else {
    ls_pixels_to_float_planes(row, n, c, a->scale, a->bias, (float *)out + y * n, plane);
  }
}

// Memory for an image that is resampled or coloured, laid out in the scratch.
struct workshop {
  uint8_t *row, *image, *resampled, *between, *filter_y, *filter_x;
};

static ls_status lay_out(const struct ls_augmenter *a, const struct ls_view *view, struct ls_augment_scratch *scratch,
                         struct workshop *w, struct ls_error *err) {
  size_t c = (size_t)a->channels, row = padded((size_t)a->crop_width * c), image = row * (size_t)a->crop_height;
  bool resample = view->resample && view->source.height > 0;
  size_t resampled = resample ? padded((size_t)(view->x.count * view->y.count) * c) : 0;
  size_t between = resample ? padded((size_t)(view->source.height * view->x.count) * c) : 0;
  size_t filter_y = resample ? padded(ls_filter_bytes(&view->y)) : 0;
  size_t filter_x = resample ? padded(ls_filter_bytes(&view->x)) : 0;
  LS_TRY(need_scratch(scratch, row + image + resampled + between + filter_y + filter_x, err));
  w->row = scratch->bytes;
  w->image = w->row + row;
  w->resampled = w->image + image;
  w->between = w->resampled + resampled;
  w->filter_y = w->between + between;
  w->filter_x = w->filter_y + filter_y;
  return LS_OK;
}

bool ls_augmenter_is_crop(const struct ls_augmenter *a, const struct ls_view *view) {
  return a->output == LS_U8 && a->channels_last && !view->resample && !view->flip && view->x.count == a->crop_width &&
         view->y.count == a->crop_height && !(a->training && a->op_count > 0);
}

ls_status ls_augmenter_apply(const struct ls_augmenter *a, const struct ls_view *view, const uint8_t *pixels,
                             size_t stride_bytes, struct ls_augment_scratch *scratch, void *out, struct ls_error *err) {
  struct workshop w;
  LS_TRY(lay_out(a, view, scratch, &w, err));
  if (view->resample && view->source.height > 0) {
    struct ls_filter fy, fx;
    ls_filter_make(&view->y, w.filter_y, &fy);
    ls_filter_make(&view->x, w.filter_x, &fx);
    size_t stride = (size_t)(view->x.count * a->channels);
    ls_resample(&fy, &fx, pixels, stride_bytes, view->source.top, view->source.top + view->source.height,
                view->source.left, a->channels, w.between, w.resampled, stride);
    pixels = w.resampled;
    stride_bytes = stride;
  }
  size_t row_bytes = (size_t)(a->crop_width * a->channels);
  bool whole = a->training && a->op_count > 0;           // the image is needed as a whole before it goes out
  bool direct = a->output == LS_U8 && a->channels_last;  // rows are what goes out
  uint8_t *image = direct ? out : w.image;
  for (int64_t y = 0; y < a->crop_height; y++) {
    uint8_t *row = whole ? image + (size_t)y * row_bytes : w.row;
    copy_row(a, view, pixels, stride_bytes, y, row);
    if (!whole) put_row(a, row, y, out);
  }
  if (!whole) {
    ls_pixels_stored();
    return LS_OK;
  }
  ls_colour_apply(a, view, image);
  for (int64_t y = 0; !direct && y < a->crop_height; y++) put_row(a, image + (size_t)y * row_bytes, y, out);
  return LS_OK;
}
