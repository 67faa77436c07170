// JPEG and PNG: right pixels, parts equal to the whole, and one sentence for what is damaged.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/codec.h"
#include "support/image_files.h"

static struct ls_decoder *decoder;

static int set_up(void **state) {
  (void)state;
  return ls_decoder_new(&decoder, NULL) == LS_OK ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  ls_decoder_free(decoder);
  return 0;
}

static struct ls_decoded decode(const uint8_t *data, size_t size, int64_t channels, const struct ls_rect *rect,
                                int shrink) {
  struct ls_decoded decoded;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_decoder_decode(decoder, data, size, "test", channels, rect, shrink, &decoded, &err) != LS_OK)
    fail_msg("%s", err.text);
  return decoded;
}

static void refuse(const uint8_t *data, size_t size, const char *says) {
  struct ls_decoded decoded;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_decoder_decode(decoder, data, size, "some.jpg", 3, NULL, 1, &decoded, &err), LS_CORRUPT);
  if (!strstr(err.text, says) || !strstr(err.text, "some.jpg")) fail_msg("no '%s' in: %s", says, err.text);
}

static void near(const struct ls_decoded *decoded, const uint8_t *pixels, int64_t c, int tolerance) {
  for (int64_t y = 0; y < decoded->height; y++) {
    for (int64_t i = 0; i < decoded->width * c; i++) {
      int difference = decoded->pixels[(size_t)y * decoded->stride_bytes + (size_t)i] - *pixels++;
      if (abs(difference) > tolerance) fail_msg("row %d, byte %d differs by %d", (int)y, (int)i, difference);
    }
  }
}

static void test_jpeg_pixels(void **state) {
  (void)state;
  for (int64_t c = 1; c <= 3; c += 2) {
    uint8_t *pixels = test_smooth(1, 61, 83, c);
    size_t size;
    uint8_t *data = test_jpeg(pixels, 61, 83, c, 95, &size);
    int64_t height, width;
    assert_int_equal(ls_decoder_size(decoder, data, size, "test", &height, &width, NULL), LS_OK);
    assert_true(height == 61 && width == 83);
    struct ls_decoded decoded = decode(data, size, c, NULL, 1);
    near(&decoded, pixels, c, 6);
    decoded = decode(data, size, c, NULL, 4);
    assert_true(decoded.height == 16 && decoded.width == 21);
    free(pixels);
    free(data);
  }
}

// A grey file asked for as RGB, and RGB as grey.
static void test_channels(void **state) {
  (void)state;
  uint8_t *grey = test_smooth(2, 20, 30, 1);
  size_t size;
  uint8_t *data = test_jpeg(grey, 20, 30, 1, 95, &size);
  struct ls_decoded decoded = decode(data, size, 3, NULL, 1);
  for (int i = 0; i < 20 * 30; i++) {
    assert_true(abs(decoded.pixels[3 * i] - grey[i]) <= 4);
    assert_true(decoded.pixels[3 * i] == decoded.pixels[3 * i + 2]);
  }
  free(data);
  data = test_png(grey, 20, 30, 1, &size);
  decoded = decode(data, size, 3, NULL, 1);
  for (int i = 0; i < 20 * 30 * 3; i++) assert_int_equal(decoded.pixels[i], grey[i / 3]);
  free(data);
  free(grey);
}

// Ink: no cyan, magenta and yellow but black alone is grey.
static void test_cmyk(void **state) {
  (void)state;
  uint8_t ink[16 * 16 * 4] = {0};
  for (int i = 0; i < 256; i++) ink[4 * i] = ink[4 * i + 1] = ink[4 * i + 2] = 255, ink[4 * i + 3] = 100;
  size_t size;
  uint8_t *data = test_jpeg(ink, 16, 16, 4, 95, &size);  // libjpeg marks it as Adobe's: inverse
  struct ls_decoded decoded = decode(data, size, 3, NULL, 1);
  for (int i = 0; i < 256 * 3; i++) assert_in_range(decoded.pixels[i], 97, 103);
  free(data);
}

static void test_png_pixels(void **state) {
  (void)state;
  for (int64_t c = 1; c <= 4; c++) {
    uint8_t *pixels = test_smooth(3, 17, 23, c), *expected = malloc(17 * 23 * 3);
    int64_t colours = c < 3 ? 1 : 3;
    for (int64_t i = 0; i < 17 * 23; i++) {
      for (int64_t k = 0; k < colours; k++) expected[i * colours + k] = pixels[i * c + k];
    }
    size_t size;
    uint8_t *data = test_png(pixels, 17, 23, c, &size);
    struct ls_decoded decoded = decode(data, size, colours, NULL, 1);
    near(&decoded, expected, colours, c % 2 ? 0 : 1);
    free(pixels);
    free(expected);
    free(data);
  }
}

// Every part has the values of the whole: block edges, odd places, single pixels; both colour samplings.
static void test_parts(void **state) {
  (void)state;
  for (int quality = 60; quality <= 95; quality += 35) {
    uint8_t *noise = malloc(70 * 90 * 3);
    uint32_t seed = 1;
    for (int i = 0; i < 70 * 90 * 3; i++) noise[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
    size_t size;
    for (int kind = 0; kind < 2; kind++) {
      uint8_t *data = kind ? test_png(noise, 70, 90, 3, &size) : test_jpeg(noise, 70, 90, 3, quality, &size);
      uint8_t *whole = malloc(70 * 90 * 3);
      memcpy(whole, decode(data, size, 3, NULL, 1).pixels, 70 * 90 * 3);
      for (int i = 0; i < 300; i++) {
        seed = seed * 1664525 + 1013904223;
        struct ls_rect rect = {(seed >> 4) % 70, (seed >> 12) % 90, 1, 1};
        seed = seed * 1664525 + 1013904223;
        rect.height += (seed >> 4) % (uint32_t)(70 - rect.top);
        rect.width += (seed >> 12) % (uint32_t)(90 - rect.left);
        struct ls_decoded part = decode(data, size, 3, &rect, 1);
        assert_true(part.height == rect.height && part.width == rect.width);
        for (int64_t y = 0; y < rect.height; y++) {
          if (memcmp(part.pixels + (size_t)y * part.stride_bytes, whole + ((rect.top + y) * 90 + rect.left) * 3,
                     (size_t)rect.width * 3) != 0)
            fail_msg("part %ldx%ld at %ld,%ld differs in row %ld", (long)rect.height, (long)rect.width, (long)rect.top,
                     (long)rect.left, (long)y);
        }
      }
      free(whole);
      free(data);
    }
    free(noise);
  }
}

static void test_damaged(void **state) {
  (void)state;
  size_t size;
  uint8_t *pixels = test_smooth(0, 64, 64, 3);
  uint8_t *jpeg = test_jpeg(pixels, 64, 64, 3, 90, &size);
  refuse(jpeg, size / 2, "damaged JPEG");
  refuse(jpeg, 200, "damaged JPEG");
  // The decoder works again afterwards.
  struct ls_decoded decoded = decode(jpeg, size, 3, NULL, 1);
  near(&decoded, pixels, 3, 8);
  // What a camera appends does no harm.
  uint8_t *longer = calloc(1, size + 100);
  memcpy(longer, jpeg, size);
  decode(longer, size + 100, 3, NULL, 1);
  free(longer);
  free(jpeg);
  uint8_t *png = test_png(pixels, 64, 64, 3, &size);
  refuse(png, size / 2, "damaged PNG");
  png[size / 2] ^= 0x10;
  refuse(png, size, "damaged PNG");
  free(png);
  free(pixels);
  refuse((const uint8_t *)"GIF89a..........", 16, "begins with 47 49 46 38");
  refuse((const uint8_t *)"", 0, "is empty");
  refuse((const uint8_t *)"\xff\xd8\xff", 3, "damaged JPEG");
}

// Headers that claim 65,500 x 65,500 pixels and 2^31 x 2^31: refused before memory is asked for.
static void test_giant(void **state) {
  (void)state;
  size_t size;
  uint8_t *pixels = test_smooth(0, 16, 16, 1);
  uint8_t *jpeg = test_jpeg(pixels, 16, 16, 1, 90, &size);
  for (size_t i = 0; i + 9 < size; i++) {
    if (jpeg[i] == 0xff && jpeg[i + 1] == 0xc0) {
      jpeg[i + 5] = jpeg[i + 7] = 0xff;
      jpeg[i + 6] = jpeg[i + 8] = 0xdc;
    }
  }
  refuse(jpeg, size, "65500x65500 pixels");
  free(jpeg);
  uint8_t *png = test_png(pixels, 16, 16, 1, &size);
  // Width and height are not under the checksum that libpng insists on before it tells them; the whole is refused anyhow.
  png[16] = png[20] = 0x7f;
  refuse(png, size, "some.jpg");
  free(png);
  free(pixels);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_jpeg_pixels), cmocka_unit_test(test_channels), cmocka_unit_test(test_cmyk),
      cmocka_unit_test(test_png_pixels),  cmocka_unit_test(test_parts),    cmocka_unit_test(test_damaged),
      cmocka_unit_test(test_giant),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
