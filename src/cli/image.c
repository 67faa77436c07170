// PNG by libpng's simplified interface, JPEG by libjpeg with its error exit turned into a return.
#include "cli/image.h"

#include <stdio.h>
// jpeglib.h wants size_t and FILE first.
#include <jpeglib.h>
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { FILE_LIMIT_BYTES = 64 << 20, SIDE_LIMIT = 32768 };

static ls_status read_png(const char *path, const char *data, size_t size, struct ls_predict_image *image,
                          struct ls_error *err) {
  png_image png = {.version = PNG_IMAGE_VERSION};
  if (!png_image_begin_read_from_memory(&png, data, size)) {
    return ls_fail(err, LS_INVALID, "'%s' is a damaged PNG file: %s", path, png.message);
  }
  if (png.width > SIDE_LIMIT || png.height > SIDE_LIMIT) {
    unsigned width = png.width, height = png.height;
    png_image_free(&png);
    return ls_fail(err, LS_INVALID, "'%s' has %u x %u pixels, allowed are %d a side", path, width, height, SIDE_LIMIT);
  }
  bool colour = png.format & PNG_FORMAT_FLAG_COLOR;
  png.format = colour ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  uint8_t *pixels = malloc(PNG_IMAGE_SIZE(png));
  png_color background = {0, 0, 0};
  if (!pixels) {
    png_image_free(&png);
    return ls_fail(err, LS_NO_MEMORY, "memory ran out while reading '%s'", path);
  }
  if (!png_image_finish_read(&png, &background, pixels, 0, NULL)) {
    free(pixels);
    return ls_fail(err, LS_INVALID, "'%s' is a damaged PNG file: %s", path, png.message);
  }
  *image = (struct ls_predict_image){pixels, png.height, png.width, colour ? 3 : 1};
  return LS_OK;
}

struct jpeg_failure {
  struct jpeg_error_mgr manager;
  jmp_buf back;
  char text[JMSG_LENGTH_MAX];
};

static void jpeg_exit(j_common_ptr info) {
  struct jpeg_failure *failure = (struct jpeg_failure *)info->err;
  failure->manager.format_message(info, failure->text);
  longjmp(failure->back, 1);
}

static void jpeg_quiet(j_common_ptr info) { (void)info; }

static ls_status read_jpeg(const char *path, const char *data, size_t size, struct ls_predict_image *image,
                           struct ls_error *err) {
  struct jpeg_decompress_struct jpeg;
  struct jpeg_failure failure;
  uint8_t *volatile pixels = NULL;
  jpeg.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = jpeg_exit;
  failure.manager.output_message = jpeg_quiet;
  jpeg_create_decompress(&jpeg);
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&jpeg);
    free(pixels);
    return ls_fail(err, LS_INVALID, "'%s' is a damaged JPEG file: %s", path, failure.text);
  }
  jpeg_mem_src(&jpeg, (const unsigned char *)data, size);
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_start_decompress(&jpeg);
  size_t row_bytes = (size_t)jpeg.output_width * (size_t)jpeg.output_components;
  if (jpeg.output_width <= SIDE_LIMIT && jpeg.output_height <= SIDE_LIMIT)
    pixels = malloc(row_bytes * jpeg.output_height);
  if (!pixels) {
    jpeg_destroy_decompress(&jpeg);
    return ls_fail(err, LS_NO_MEMORY, "memory ran out while reading '%s'", path);
  }
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = pixels + row_bytes * jpeg.output_scanline;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  *image = (struct ls_predict_image){pixels, jpeg.output_height, jpeg.output_width, jpeg.output_components};
  jpeg_finish_decompress(&jpeg);
  jpeg_destroy_decompress(&jpeg);
  return LS_OK;
}

ls_status ls_image_read(const char *path, struct ls_predict_image *image, struct ls_error *err) {
  char *data;
  size_t size;
  LS_TRY(ls_file_read(path, FILE_LIMIT_BYTES, &data, &size, err));
  ls_status status;
  if (size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0) {
    status = read_png(path, data, size, image, err);
  } else if (size >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0) {
    status = read_jpeg(path, data, size, image, err);
  } else {
    status = ls_fail(err, LS_INVALID, "'%s' is neither a PNG nor a JPEG file", path);
  }
  free(data);
  return status;
}
