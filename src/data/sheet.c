// See sheet.h.
#include "data/sheet.h"

#include <inttypes.h>
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/reader.h"
#include "data/sheet_font.h"

enum {
  TILE = 112,    // pixels a side for an image
  GAP = 8,       // around each
  LINE = 10,     // below it, for the text
  LETTER = 6,    // width of one
  MOST = 10000,  // images
};

struct sheet {
  int64_t columns, rows, width, height;
  uint8_t *pixels;  // [height, width, 3]
};

static ls_status make_sheet(struct sheet *s, int64_t count, struct ls_error *err) {
  s->columns = (int64_t)ceil(sqrt((double)count * 1.3));
  s->rows = (count + s->columns - 1) / s->columns;
  s->width = s->columns * (TILE + GAP) + GAP;
  s->height = s->rows * (TILE + LINE + GAP) + GAP;
  s->pixels = malloc((size_t)(s->width * s->height * 3));
  if (!s->pixels) return ls_fail(err, LS_NO_MEMORY, "no memory for a sheet of %" PRId64 " images", count);
  memset(s->pixels, 0xf4, (size_t)(s->width * s->height * 3));
  return LS_OK;
}

static void draw_text(struct sheet *s, int64_t left, int64_t top, const char *text) {
  enum { FIT = TILE / LETTER };
  for (int64_t i = 0; text[i] && i < FIT; i++) {
    unsigned char letter = (unsigned char)text[i];
    if (i == FIT - 1 && text[i + 1]) letter = '.';  // cut off
    const uint8_t *columns = ls_sheet_font[letter >= 32 && letter < 127 ? letter - 32 : '?' - 32];
    for (int64_t x = 0; x < 5; x++) {
      for (int64_t y = 0; y < 7; y++) {
        if (columns[x] >> y & 1) memset(s->pixels + ((top + y) * s->width + left + i * LETTER + x) * 3, 0x20, 3);
      }
    }
  }
}

// The image at place `at`, as large as fits: small ones by whole factors and sharp, large ones smoothly.
static ls_status draw_image(struct sheet *s, int64_t at, const uint8_t *pixels, size_t stride, int64_t height,
                            int64_t width, int64_t channels, const char *name, struct ls_error *err) {
  int64_t longer = height > width ? height : width, h, w;
  int64_t left = at % s->columns * (TILE + GAP) + GAP, top = at / s->columns * (TILE + LINE + GAP) + GAP;
  uint8_t *small = NULL;
  if (longer > TILE) {
    h = height * TILE / longer, w = width * TILE / longer;
    h = h < 1 ? 1 : h, w = w < 1 ? 1 : w;
    struct ls_axis y = {.count = h, .step = (double)height / (double)h, .size = height};
    struct ls_axis x = {.count = w, .step = (double)width / (double)w, .size = width};
    struct ls_filter fy, fx;
    void *my = malloc(ls_filter_bytes(&y)), *mx = malloc(ls_filter_bytes(&x));
    uint8_t *between = malloc((size_t)(height * w * channels));
    small = malloc((size_t)(h * w * channels));
    if (my && mx && between && small) {
      ls_filter_make(&y, my, &fy);
      ls_filter_make(&x, mx, &fx);
      ls_resample(&fy, &fx, pixels, stride, 0, height, 0, channels, between, small, (size_t)(w * channels));
    }
    bool failed = !my || !mx || !between || !small;
    free(my), free(mx), free(between);
    if (failed) {
      free(small);
      return ls_fail(err, LS_NO_MEMORY, "no memory for a sheet");
    }
    pixels = small;
    stride = (size_t)(w * channels);
    height = h, width = w;
  }
  int64_t factor = TILE / (height > width ? height : width);
  h = height * factor, w = width * factor;
  for (int64_t y = 0; y < h; y++) {
    for (int64_t x = 0; x < w; x++) {
      const uint8_t *from = pixels + (size_t)(y / factor) * stride + (size_t)(x / factor * channels);
      uint8_t *to = s->pixels + ((top + y + (TILE - h) / 2) * s->width + left + x + (TILE - w) / 2) * 3;
      for (int64_t c = 0; c < 3; c++) to[c] = from[channels >= 3 ? c : 0];
    }
  }
  free(small);
  draw_text(s, left, top + TILE + 2, name);
  return LS_OK;
}

static ls_status draw_stored(struct sheet *s, const struct ls_dataset *d, int64_t count, struct ls_error *err) {
  struct ls_reader *reader;
  LS_TRY(ls_reader_new(d, false, 1, &reader, err));
  ls_status status = LS_OK;
  for (int64_t i = 0; i < count && status == LS_OK; i++) {
    int64_t sample = (int64_t)((__int128)i * d->info.count / count), height, width;
    int32_t label = 0;
    struct ls_pixels pixels;
    status = ls_dataset_image_size(d, sample, &height, &width, err);
    struct ls_rect all = {0, 0, height, width};
    if (status == LS_OK) status = ls_reader_queue(reader, 0, sample, &all, err);
    if (status == LS_OK) status = ls_reader_take(reader, 0, &pixels, err);
    if (status == LS_OK) status = ls_dataset_read_label(d, sample, &label, err);
    if (status == LS_OK)
      status = draw_image(s, i, pixels.data, pixels.stride_bytes, height, width, d->info.channels,
                          ls_dataset_class_name(d, label), err);
  }
  ls_reader_free(reader);
  return status;
}

static ls_status draw_augmented(struct sheet *s, struct ls_dataset *d, int64_t count,
                                const struct ls_loader_options *wanted, struct ls_error *err) {
  struct ls_loader_options options = *wanted;
  options.dataset = d;
  options.training = true;
  options.batch = count;
  options.shuffle = LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL;
  options.output = LS_U8;
  options.channels_last = true;
  options.readers = options.depth = options.consumers = 1;
  options.allocate = NULL;
  options.release = NULL;
  struct ls_loader *loader;
  const struct ls_batch *batch;
  LS_TRY(ls_loader_new(&options, &loader, err));
  ls_status status = ls_loader_wait(loader, 0, &batch, err);
  size_t stride = (size_t)(options.crop_width * d->info.channels), bytes = stride * (size_t)options.crop_height;
  for (int64_t i = 0; i < count && status == LS_OK; i++) {
    status = draw_image(s, i, (const uint8_t *)batch->images + (size_t)i * bytes, stride, options.crop_height,
                        options.crop_width, d->info.channels, ls_dataset_class_name(d, batch->labels[i]), err);
  }
  ls_loader_free(loader);
  return status;
}

ls_status ls_data_sheet(struct ls_dataset *dataset, int64_t count, const struct ls_loader_options *options,
                        const char *path, struct ls_error *err) {
  struct sheet s = {.pixels = NULL};
  if (count > dataset->info.count) count = dataset->info.count;
  if (count < 1 || count > MOST) return ls_fail(err, LS_INVALID, "a sheet has 1 to %d images", MOST);
  LS_TRY(make_sheet(&s, count, err));
  ls_status status = options ? draw_augmented(&s, dataset, count, options, err) : draw_stored(&s, dataset, count, err);
  if (status == LS_OK) {
    png_image png = {.version = PNG_IMAGE_VERSION, .width = (png_uint_32)s.width, .height = (png_uint_32)s.height};
    png.format = PNG_FORMAT_RGB;
    if (!png_image_write_to_file(&png, path, 0, s.pixels, 0, NULL)) {
      remove(path);
      status = ls_fail(err, LS_IO, "cannot write '%s': %s", path, png.message);
    }
  }
  free(s.pixels);
  return status;
}
