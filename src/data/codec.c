// See codec.h. libjpeg reports errors by a jump, which is turned into a return here; its warnings about damaged data
// (after which it would go on with grey) are errors for us.
#include "data/codec.h"

#include <inttypes.h>
#include <stdio.h>
// jpeglib.h wants size_t and FILE first.
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "data/data_internal.h"

struct ls_decoder {
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr manager;
  jmp_buf back;
  char problem[JMSG_LENGTH_MAX];  // the first one
  bool created;
  uint8_t *memory;
  size_t size;
  uint8_t *rows;  // of CMYK, before it is made RGB
  size_t row_bytes;
};

// ---- libjpeg's errors

static struct ls_decoder *decoder_of(j_common_ptr info) { return info->client_data; }

static void on_error(j_common_ptr info) {
  struct ls_decoder *d = decoder_of(info);
  d->manager.format_message(info, d->problem);
  longjmp(d->back, 1);
}

static void on_message(j_common_ptr info, int level) {
  struct ls_decoder *d = decoder_of(info);
  if (level >= 0 || d->problem[0]) return;
  // Harmless: what a camera or an editor left between the parts, and unusual version numbers.
  int code = d->manager.msg_code;
  if (code == JWRN_EXTRANEOUS_DATA || code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM) return;
  d->manager.format_message(info, d->problem);
}

static void on_output(j_common_ptr info) { (void)info; }

ls_status ls_decoder_new(struct ls_decoder **decoder, struct ls_error *err) {
  struct ls_decoder *d = *decoder = calloc(1, sizeof *d);
  if (!d) return ls_fail(err, LS_NO_MEMORY, "no memory for a decoder");
  d->jpeg.err = jpeg_std_error(&d->manager);
  d->jpeg.client_data = d;
  d->manager.error_exit = on_error;
  d->manager.emit_message = on_message;
  d->manager.output_message = on_output;
  if (setjmp(d->back)) {
    ls_decoder_free(d);
    *decoder = NULL;
    return ls_fail(err, LS_NO_MEMORY, "no memory for a decoder");
  }
  jpeg_create_decompress(&d->jpeg);
  d->created = true;
  return LS_OK;
}

void ls_decoder_free(struct ls_decoder *d) {
  if (!d) return;
  if (d->created) jpeg_destroy_decompress(&d->jpeg);
  free(d->memory);
  free(d->rows);
  free(d);
}

static ls_status need(uint8_t **memory, size_t *has, size_t size, const char *name, struct ls_error *err) {
  if (*has >= size) return LS_OK;
  free(*memory);
  *memory = malloc(size);
  *has = *memory ? size : 0;
  return *memory ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory to decode '%s' (%zu bytes)", name, size);
}

static ls_status damaged(const struct ls_decoder *d, const char *name, struct ls_error *err) {
  return ls_fail(err, LS_CORRUPT, "'%s' is a damaged JPEG image: %s", name, d->problem);
}

static ls_status check_size(int64_t height, int64_t width, const char *name, struct ls_error *err) {
  if (ls_image_size_good(height, width, 1)) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s' is an image of %" PRId64 "x%" PRId64 " pixels; allowed are " LS_IMAGE_SIZES,
                 name, height, width);
}

static ls_status check_rect(const struct ls_rect *rect, int64_t height, int64_t width, const char *name,
                            struct ls_error *err) {
  if (!rect || (rect->top + rect->height <= height && rect->left + rect->width <= width)) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s' is an image of %" PRId64 "x%" PRId64 " pixels, smaller than it was said to be",
                 name, height, width);
}

// ---- JPEG

// Cyan, magenta, yellow and black to RGB; Adobe's files hold the inverse.
static void from_cmyk(const uint8_t *from, int64_t n, bool inverse, int64_t channels, uint8_t *to) {
  for (int64_t i = 0; i < n; i++, from += 4) {
    int rgb[3];
    for (int c = 0; c < 3; c++) {
      int ink = inverse ? from[c] : 255 - from[c], black = inverse ? from[3] : 255 - from[3];
      rgb[c] = (ink * black + 127) / 255;
    }
    if (channels == 1) {
      *to++ = (uint8_t)((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 0x8000) >> 16);
    } else {
      for (int c = 0; c < 3; c++) *to++ = (uint8_t)rgb[c];
    }
  }
}

static void read_rows(struct ls_decoder *d, bool cmyk, int64_t channels, uint8_t *to, size_t stride, int64_t count) {
  struct jpeg_decompress_struct *j = &d->jpeg;
  for (int64_t y = 0; y < count; y++) {
    JSAMPROW row = cmyk ? d->rows : to + (size_t)y * stride;
    jpeg_read_scanlines(j, &row, 1);
    if (cmyk) from_cmyk(d->rows, j->output_width, j->saw_Adobe_marker, channels, to + (size_t)y * stride);
  }
}

// Leaves only the columns of `rect` and one block on each side, whose values the interpolation of colours needs.
static int64_t crop_columns(struct jpeg_decompress_struct *j, const struct ls_rect *rect) {
  int64_t margin = (int64_t)j->max_h_samp_factor * DCTSIZE;
  int64_t left = rect->left > margin ? rect->left - margin : 0, right = rect->left + rect->width + margin;
  if (right > j->output_width) right = j->output_width;
  JDIMENSION offset = (JDIMENSION)left, width = (JDIMENSION)(right - left);
  if (width < j->output_width) {
    jpeg_crop_scanline(j, &offset, &width);
    return offset;
  }
  return 0;
}

static ls_status decode_jpeg(struct ls_decoder *d, const void *data, size_t size, const char *name, int64_t channels,
                             const struct ls_rect *rect, int shrink, struct ls_decoded *out, struct ls_error *err) {
  struct jpeg_decompress_struct *j = &d->jpeg;
  d->problem[0] = 0;
  if (setjmp(d->back)) {
    jpeg_abort_decompress(j);
    return damaged(d, name, err);
  }
  jpeg_mem_src(j, data, size);
  jpeg_read_header(j, TRUE);
  ls_status status = check_size(j->image_height, j->image_width, name, err);
  if (status == LS_OK) status = check_rect(rect, j->image_height, j->image_width, name, err);
  bool cmyk = j->jpeg_color_space == JCS_CMYK || j->jpeg_color_space == JCS_YCCK;
  j->out_color_space = cmyk ? JCS_CMYK : channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  j->scale_num = 1;
  j->scale_denom = (unsigned)shrink;
  if (status == LS_OK) {
    jpeg_start_decompress(j);
    int64_t offset = rect ? crop_columns(j, rect) : 0;
    out->height = rect ? rect->height : j->output_height;
    out->width = rect ? rect->width : j->output_width;
    out->stride_bytes = (size_t)(j->output_width * channels);
    status = need(&d->memory, &d->size, out->stride_bytes * (size_t)out->height, name, err);
    if (status == LS_OK && cmyk) status = need(&d->rows, &d->row_bytes, (size_t)j->output_width * 4, name, err);
    if (status == LS_OK) {
      if (rect && rect->top) jpeg_skip_scanlines(j, (JDIMENSION)rect->top);
      read_rows(d, cmyk, channels, d->memory, out->stride_bytes, out->height);
      out->pixels = d->memory + (rect ? (rect->left - offset) * channels : 0);
    }
    // The end is read too where it costs nothing, so that a file that is cut short is seen.
    if (status == LS_OK && j->output_scanline == j->output_height) jpeg_finish_decompress(j);
  }
  jpeg_abort_decompress(j);
  return status == LS_OK && d->problem[0] ? damaged(d, name, err) : status;
}

// ---- PNG

static ls_status decode_png(struct ls_decoder *d, const void *data, size_t size, const char *name, int64_t channels,
                            const struct ls_rect *rect, struct ls_decoded *out, struct ls_error *err) {
  png_image png = {.version = PNG_IMAGE_VERSION};
  if (!png_image_begin_read_from_memory(&png, data, size))
    return ls_fail(err, LS_CORRUPT, "'%s' is a damaged PNG image: %s", name, png.message);
  ls_status status = check_size(png.height, png.width, name, err);
  if (status == LS_OK) status = check_rect(rect, png.height, png.width, name, err);
  bool alpha = png.format & PNG_FORMAT_FLAG_ALPHA;
  png.format = (channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB) | (alpha ? PNG_FORMAT_FLAG_ALPHA : 0);
  png.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
  if (status == LS_OK) status = need(&d->memory, &d->size, PNG_IMAGE_SIZE(png), name, err);
  if (status != LS_OK) {
    png_image_free(&png);
    return status;
  }
  size_t pixels = (size_t)png.height * png.width, has = (size_t)channels + alpha;
  if (!png_image_finish_read(&png, NULL, d->memory, 0, NULL))
    return ls_fail(err, LS_CORRUPT, "'%s' is a damaged PNG image: %s", name, png.message);
  // Transparency is dropped, as most readers of training data do.
  for (size_t i = 1; alpha && i < pixels; i++) memmove(d->memory + i * (has - 1), d->memory + i * has, has - 1);
  out->stride_bytes = png.width * (size_t)channels;
  out->height = rect ? rect->height : png.height;
  out->width = rect ? rect->width : png.width;
  out->pixels = d->memory + (rect ? (size_t)rect->top * out->stride_bytes + (size_t)(rect->left * channels) : 0);
  return LS_OK;
}

// ---- either

enum kind { KIND_NONE, KIND_JPEG, KIND_PNG };

static enum kind kind_of(const void *data, size_t size) {
  if (size >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0) return KIND_JPEG;
  if (size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0) return KIND_PNG;
  return KIND_NONE;
}

static ls_status no_image(const void *data, size_t size, const char *name, struct ls_error *err) {
  if (size == 0) return ls_fail(err, LS_CORRUPT, "'%s' is empty", name);
  char text[16] = "";
  int at = 0;
  for (size_t i = 0; i < size && i < 4; i++)
    at += snprintf(text + at, sizeof text - (size_t)at, "%s%02x", i ? " " : "", ((const uint8_t *)data)[i]);
  return ls_fail(err, LS_CORRUPT, "'%s' is no JPEG or PNG image: it begins with %s", name, text);
}

static ls_status jpeg_size(struct ls_decoder *d, const void *data, size_t size, const char *name, int64_t *height,
                           int64_t *width, struct ls_error *err) {
  d->problem[0] = 0;
  if (setjmp(d->back)) {
    jpeg_abort_decompress(&d->jpeg);
    return damaged(d, name, err);
  }
  jpeg_mem_src(&d->jpeg, data, size);
  jpeg_read_header(&d->jpeg, TRUE);
  *height = d->jpeg.image_height;
  *width = d->jpeg.image_width;
  jpeg_abort_decompress(&d->jpeg);
  return check_size(*height, *width, name, err);
}

ls_status ls_decoder_size(struct ls_decoder *d, const void *data, size_t size, const char *name, int64_t *height,
                          int64_t *width, struct ls_error *err) {
  switch (kind_of(data, size)) {
    case KIND_JPEG: return jpeg_size(d, data, size, name, height, width, err);
    case KIND_PNG: {
      png_image png = {.version = PNG_IMAGE_VERSION};
      if (!png_image_begin_read_from_memory(&png, data, size))
        return ls_fail(err, LS_CORRUPT, "'%s' is a damaged PNG image: %s", name, png.message);
      *height = png.height;
      *width = png.width;
      png_image_free(&png);
      return check_size(*height, *width, name, err);
    }
    default: return no_image(data, size, name, err);
  }
}

ls_status ls_decoder_decode(struct ls_decoder *d, const void *data, size_t size, const char *name, int64_t channels,
                            const struct ls_rect *rect, int shrink, struct ls_decoded *decoded, struct ls_error *err) {
  switch (kind_of(data, size)) {
    case KIND_JPEG: return decode_jpeg(d, data, size, name, channels, rect, shrink, decoded, err);
    case KIND_PNG: return decode_png(d, data, size, name, channels, rect, decoded, err);
    default: return no_image(data, size, name, err);
  }
}
