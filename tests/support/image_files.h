// JPEG and PNG files for tests, made by libjpeg and libpng. Link with both.
#ifndef LS_TESTS_SUPPORT_IMAGE_FILES_H
#define LS_TESTS_SUPPORT_IMAGE_FILES_H

#include <stdint.h>
#include <stdio.h>
// jpeglib.h wants size_t and FILE first.
#include <jpeglib.h>
#include <png.h>
#include <stdlib.h>

// Smooth pixels [h,w,c], which JPEG keeps well; image i differs from the others.
static inline uint8_t *test_smooth(int64_t i, int64_t h, int64_t w, int64_t c) {
  uint8_t *pixels = malloc((size_t)(h * w * c)), *p = pixels;
  for (int64_t y = 0; y < h; y++) {
    for (int64_t x = 0; x < w; x++) {
      for (int64_t k = 0; k < c; k++) *p++ = (uint8_t)(40 + 25 * (i % 4) + (y * 60) / h + (x * (20 + 20 * k)) / w);
    }
  }
  return pixels;
}

// The caller frees the bytes.
static inline uint8_t *test_jpeg(const uint8_t *pixels, int64_t h, int64_t w, int64_t c, int quality, size_t *size) {
  struct jpeg_compress_struct jpeg;
  struct jpeg_error_mgr manager;
  unsigned char *data = NULL;
  unsigned long bytes = 0;
  jpeg.err = jpeg_std_error(&manager);
  jpeg_create_compress(&jpeg);
  jpeg_mem_dest(&jpeg, &data, &bytes);
  jpeg.image_height = (JDIMENSION)h;
  jpeg.image_width = (JDIMENSION)w;
  jpeg.input_components = (int)c;
  jpeg.in_color_space = c == 1 ? JCS_GRAYSCALE : c == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)jpeg.next_scanline * (size_t)(w * c));
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  *size = bytes;
  return data;
}

// c: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
static inline uint8_t *test_png(const uint8_t *pixels, int64_t h, int64_t w, int64_t c, size_t *size) {
  static const png_uint_32 formats[] = {PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB, PNG_FORMAT_RGBA};
  png_image png = {.version = PNG_IMAGE_VERSION, .width = (png_uint_32)w, .height = (png_uint_32)h};
  png.format = formats[c - 1];
  png_alloc_size_t bytes = 0;
  if (!png_image_write_to_memory(&png, NULL, &bytes, 0, pixels, 0, NULL)) abort();
  uint8_t *data = malloc(bytes);
  if (!png_image_write_to_memory(&png, data, &bytes, 0, pixels, 0, NULL)) abort();
  *size = bytes;
  return data;
}

#endif
