// Readers: the pixels asked for, from raw, chunked and encoded data sets, through and past the page cache; and what is
// wrong with chunks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "data/codec.h"
#include "data/import.h"
#include "data/reader.h"
#include "support/data_files.h"
#include "support/image_files.h"

enum { COUNT = 23, HEIGHT = 19, WIDTH = 17, DEPTH = 4 };

static uint32_t seed = 1;

static int64_t below(int64_t n) {
  seed = seed * 1664525 + 1013904223;
  return (int64_t)((uint64_t)(seed >> 8) * (uint64_t)n >> 24);
}

static struct ls_dataset *open_dataset(const char *location) {
  struct ls_dataset *dataset;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_dataset_open(test_path(location), NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  return dataset;
}

static void refuse(const char *name, ls_status status, const char *says) {
  struct ls_dataset *dataset;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_dataset_open(test_path(name), NULL, NULL, &dataset, &err), status);
  if (!strstr(err.text, says)) fail_msg("no '%s' in: %s", says, err.text);
}

// Random parts of random images, DEPTH at a time, taken in another order than they were asked for.
static void read_parts(const struct ls_dataset *dataset, bool direct, const uint8_t *whole) {
  struct ls_reader *reader;
  struct ls_error err = LS_ERROR_INIT;
  int64_t channels = dataset->info.channels;
  if (ls_reader_new(dataset, direct, DEPTH, &reader, &err) != LS_OK) fail_msg("%s", err.text);
  for (int round = 0; round < 200; round++) {
    struct ls_rect rect[DEPTH];
    int64_t sample[DEPTH];
    for (int i = 0; i < DEPTH; i++) {
      int64_t height, width;
      sample[i] = below(dataset->info.count);
      assert_int_equal(ls_dataset_image_size(dataset, sample[i], &height, &width, &err), LS_OK);
      rect[i] = (struct ls_rect){below(height), below(width), 1, 1};
      rect[i].height += below(height - rect[i].top);
      rect[i].width += below(width - rect[i].left);
      if (round % 10 == 0) rect[i] = (struct ls_rect){0, 0, height, width};
      if (round % 17 == 0) rect[i] = (struct ls_rect){0, 0, 0, 0};  // all padding
      if (ls_reader_queue(reader, i, sample[i], &rect[i], &err) != LS_OK) fail_msg("%s", err.text);
    }
    for (int i = DEPTH - 1; i >= 0; i--) {
      struct ls_pixels pixels;
      uint8_t rows[HEIGHT * WIDTH * 3];
      if (round % 2 && ls_reader_has_rows(reader)) {
        if (ls_reader_take_rows(reader, i, rows, &err) != LS_OK) fail_msg("%s", err.text);
        pixels = (struct ls_pixels){rows, (size_t)(rect[i].width * channels), 0};
      } else if (ls_reader_take(reader, i, &pixels, &err) != LS_OK) {
        fail_msg("%s", err.text);
      }
      for (int64_t y = 0; y < rect[i].height; y++) {
        const uint8_t *row =
            whole +
            ((sample[i] * dataset->info.height + rect[i].top + y) * dataset->info.width + rect[i].left) * channels;
        assert_memory_equal(pixels.data + (size_t)y * pixels.stride_bytes, row, (size_t)(rect[i].width * channels));
      }
    }
  }
  // Freed with something still asked for.
  struct ls_rect all = {0, 0, dataset->info.smallest_height, dataset->info.smallest_width};
  assert_int_equal(ls_reader_queue(reader, 0, 0, &all, &err), LS_OK);
  ls_reader_free(reader);
}

static void test_raw(void **state) {
  (void)state;
  hid_t file = test_h5("raw.h5");
  test_h5_images(file, COUNT, HEIGHT, WIDTH, 3, 5, H5P_DEFAULT);
  H5Fclose(file);
  struct ls_dataset *dataset = open_dataset("raw.h5");
  uint8_t *whole = test_pixels(COUNT, HEIGHT, WIDTH, 3);
  read_parts(dataset, false, whole);
  // Not every file system reads past the page cache (tmpfs does not).
  struct ls_reader *reader;
  if (ls_reader_new(dataset, true, 1, &reader, NULL) == LS_OK) {
    ls_reader_free(reader);
    read_parts(dataset, true, whole);
  }
  free(whole);
  ls_dataset_close(dataset);
}

// More rows than one call to the kernel takes pieces.
static void test_tall(void **state) {
  (void)state;
  enum { ROWS = 1700, COLUMNS = 5, WANTED = ROWS - 3 };
  hid_t file = test_h5("tall.h5");
  test_h5_images(file, 2, ROWS, COLUMNS, 3, 5, H5P_DEFAULT);
  H5Fclose(file);
  struct ls_dataset *dataset = open_dataset("tall.h5");
  struct ls_reader *reader;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_reader_new(dataset, false, 1, &reader, &err), LS_OK);
  assert_true(ls_reader_has_rows(reader));
  const struct ls_rect rect = {2, 1, WANTED, 3};
  uint8_t *whole = test_pixels(2, ROWS, COLUMNS, 3), *rows = malloc((size_t)WANTED * 9);
  assert_int_equal(ls_reader_queue(reader, 0, 1, &rect, &err), LS_OK);
  assert_int_equal(ls_reader_take_rows(reader, 0, rows, &err), LS_OK);
  assert_int_equal(ls_reader_bytes(reader), ((size_t)WANTED - 1) * COLUMNS * 3 + 9);
  for (size_t y = 0; y < WANTED; y++)
    assert_memory_equal(rows + y * 9, whole + (((size_t)ROWS + y + 2) * COLUMNS + 1) * 3, 9);
  // A file that got shorter since it was opened.
  assert_int_equal(ls_reader_queue(reader, 0, 1, &rect, &err), LS_OK);
  assert_int_equal(truncate(test_path("tall.h5"), (off_t)dataset->images_offset + (ROWS + 100) * COLUMNS * 3), 0);
  assert_int_equal(ls_reader_take_rows(reader, 0, rows, &err), LS_CORRUPT);
  assert_non_null(strstr(err.text, "got shorter"));
  ls_reader_free(reader);
  free(rows);
  free(whole);
  ls_dataset_close(dataset);
}

static hid_t chunked(int64_t n, int64_t h, int64_t w, int64_t c) {
  hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
  hsize_t chunk[4] = {(hsize_t)n, (hsize_t)h, (hsize_t)w, (hsize_t)c};
  H5Pset_chunk(plist, 4, chunk);
  return plist;
}

static void test_chunked(void **state) {
  (void)state;
  static const int64_t shapes[][4] = {{1, HEIGHT, WIDTH, 3}, {4, 5, 6, 2}, {COUNT, 3, WIDTH, 1}, {5, HEIGHT, 4, 3}};
  uint8_t *whole = test_pixels(COUNT, HEIGHT, WIDTH, 3);
  for (int i = 0; i < 8; i++) {
    const int64_t *shape = shapes[i / 2];
    hid_t file = test_h5("chunked.h5"), plist = chunked(shape[0], shape[1], shape[2], shape[3]);
    if (i % 2) {
      H5Pset_shuffle(plist);
      H5Pset_deflate(plist, 4);
    }
    test_h5_images(file, COUNT, HEIGHT, WIDTH, 3, 5, plist);
    H5Pclose(plist);
    H5Fclose(file);
    struct ls_dataset *dataset = open_dataset("chunked.h5");
    read_parts(dataset, false, whole);
    struct ls_reader *reader;
    struct ls_error err = LS_ERROR_INIT;
    assert_int_equal(ls_reader_new(dataset, true, 1, &reader, &err), LS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "lockstep data import"));
    ls_dataset_close(dataset);
  }
  free(whole);
}

// Three axes, chunked and compressed labels.
static void test_chunked_grey(void **state) {
  (void)state;
  hid_t file = test_h5("grey.h5"), images = H5Pcreate(H5P_DATASET_CREATE), labels = H5Pcreate(H5P_DATASET_CREATE);
  hsize_t dim[3] = {COUNT, HEIGHT, WIDTH}, chunk[3] = {7, 10, 10};
  H5Pset_chunk(images, 3, chunk);
  H5Pset_chunk(labels, 1, chunk);
  H5Pset_deflate(labels, 1);
  uint8_t *whole = test_pixels(COUNT, HEIGHT, WIDTH, 1);
  int64_t values[COUNT];
  for (int i = 0; i < COUNT; i++) values[i] = i;
  test_h5_dataset(file, "images", H5T_STD_U8LE, 3, dim, images, whole);
  test_h5_dataset(file, "labels", H5T_STD_I64BE, 1, dim, labels, values);
  H5Pclose(images);
  H5Pclose(labels);
  H5Fclose(file);
  struct ls_dataset *dataset = open_dataset("grey.h5");
  int32_t label;
  assert_int_equal(ls_dataset_read_label(dataset, COUNT - 1, &label, NULL), LS_OK);
  assert_int_equal(label, COUNT - 1);
  read_parts(dataset, false, whole);
  free(whole);
  ls_dataset_close(dataset);
}

static void test_bad_chunks(void **state) {
  (void)state;
  hid_t file = test_h5("filter.h5"), plist = chunked(1, HEIGHT, WIDTH, 3);
  H5Pset_fletcher32(plist);
  test_h5_images(file, COUNT, HEIGHT, WIDTH, 3, 5, plist);
  H5Pclose(plist);
  H5Fclose(file);
  refuse("filter.h5", LS_UNSUPPORTED, "compressed with 'fletcher32'; deflate and shuffle can be read");

  file = test_h5("missing.h5");
  plist = chunked(1, HEIGHT, WIDTH, 3);
  hsize_t dim[4] = {COUNT, HEIGHT, WIDTH, 3};
  int64_t labels[COUNT] = {0};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, plist, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  H5Fclose(file);
  refuse("missing.h5", LS_CORRUPT, "only 0 of 23 chunks were ever written");

  file = test_h5("claims.h5");
  hsize_t giant[4] = {1ull << 40, HEIGHT, WIDTH, 3};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, giant, plist, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  H5Fclose(file);
  refuse("claims.h5", LS_CORRUPT, "more than the file can hold");
  H5Pclose(plist);
}

// Bytes of a compressed chunk are changed: the image is named.
static void test_damaged_chunk(void **state) {
  (void)state;
  hid_t file = test_h5("damaged.h5"), plist = chunked(1, HEIGHT, WIDTH, 3);
  H5Pset_deflate(plist, 4);
  test_h5_images(file, COUNT, HEIGHT, WIDTH, 3, 5, plist);
  H5Pclose(plist);
  H5Fclose(file);
  struct ls_dataset *dataset = open_dataset("damaged.h5");
  size_t size;
  uint8_t *data = test_read("damaged.h5", &size);
  // Zlib's streams begin with 78; all of them are spoilt.
  for (size_t i = 2048; i + 40 < size; i++) {
    if (data[i] == 0x78 && (data[i + 1] == 0x5e || data[i + 1] == 0x01)) data[i + 20] ^= 0xff;
  }
  test_write("damaged.h5", data, size);
  free(data);
  struct ls_reader *reader;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_reader_new(dataset, false, 1, &reader, &err), LS_OK);
  struct ls_rect all = {0, 0, HEIGHT, WIDTH};
  struct ls_pixels pixels;
  assert_int_equal(ls_reader_queue(reader, 0, 4, &all, &err), LS_OK);
  assert_int_equal(ls_reader_take(reader, 0, &pixels, &err), LS_CORRUPT);
  assert_non_null(strstr(err.text, "damaged.h5"));
  assert_non_null(strstr(err.text, "cannot be decompressed"));
  ls_reader_free(reader);
  ls_dataset_close(dataset);
}

// ---- encoded

// A list of images of different sizes, JPEG and PNG, imported encoded. `whole`: their pixels, in the rows and columns of
// the largest one.
static uint8_t *make_encoded(void) {
  char list[4096] = "";
  uint8_t *whole = calloc(COUNT, 3 * 60 * 60);
  struct ls_decoder *decoder;
  ls_decoder_new(&decoder, NULL);
  for (int64_t i = 0; i < COUNT; i++) {
    int64_t h = 37 + i, w = 60 - i;
    char name[32];
    size_t size;
    snprintf(name, sizeof name, "%02d.%s", (int)i, i % 3 ? "jpg" : "png");
    snprintf(list + strlen(list), 64, "%s %d\n", name, (int)(i % 4));
    uint8_t *pixels = test_smooth(i, h, w, 3);
    uint8_t *data = i % 3 ? test_jpeg(pixels, h, w, 3, 80, &size) : test_png(pixels, h, w, 3, &size);
    test_write(name, data, size);
    struct ls_decoded decoded;
    assert_int_equal(ls_decoder_decode(decoder, data, size, name, 3, NULL, 1, &decoded, NULL), LS_OK);
    for (int64_t y = 0; y < h; y++)
      memcpy(whole + ((i * 59 + y) * 60) * 3, decoded.pixels + (size_t)y * decoded.stride_bytes, (size_t)w * 3);
    free(pixels);
    free(data);
  }
  ls_decoder_free(decoder);
  test_write("list.txt", list, strlen(list));
  return whole;
}

static void test_encoded(void **state) {
  (void)state;
  uint8_t *whole = make_encoded();
  struct ls_import_options options = {.encoded = true, .replace = true};
  char source[256], location[280];
  strcpy(source, test_path("list.txt"));
  options.source = source;
  options.destination = test_path("encoded.h5");
  struct ls_import_result result;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_import(&options, &result, &err) != LS_OK) fail_msg("%s", err.text);
  snprintf(location, sizeof location, "%s", "encoded.h5:/train");
  struct ls_dataset *dataset = open_dataset(location);
  const struct ls_dataset_info *info = ls_dataset_info(dataset);
  assert_true(info->encoded && info->count == COUNT && info->channels == 3 && info->classes == 4);
  assert_true(info->height == 59 && info->width == 60 && info->smallest_height == 37 && info->smallest_width == 38);
  assert_true(info->has_statistics);
  read_parts(dataset, false, whole);
  struct ls_reader *reader;
  if (ls_reader_new(dataset, true, 1, &reader, NULL) == LS_OK) {
    ls_reader_free(reader);
    read_parts(dataset, true, whole);
  }
  // Skipped ones leave no gap, and the table of places ends where the bytes end.
  ls_dataset_close(dataset);
  test_write("05.jpg", "no image", 8);
  options.skip_damaged = true;
  if (ls_import(&options, &result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(result.skipped == 1 && result.train == COUNT - 1);
  dataset = open_dataset(location);
  uint64_t offset, bytes;
  assert_int_equal(ls_dataset_encoded_place(dataset, COUNT - 2, &offset, &bytes, &err), LS_OK);
  assert_int_equal(offset + bytes, dataset->images_offset + dataset->encoded_bytes);
  memmove(whole + 5 * 59 * 60 * 3, whole + 6 * 59 * 60 * 3, (COUNT - 6) * 59 * 60 * 3);
  read_parts(dataset, false, whole);
  ls_dataset_close(dataset);
  free(whole);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_raw),          cmocka_unit_test(test_tall),       cmocka_unit_test(test_chunked),
      cmocka_unit_test(test_chunked_grey), cmocka_unit_test(test_bad_chunks), cmocka_unit_test(test_damaged_chunk),
      cmocka_unit_test(test_encoded),
  };
  return cmocka_run_group_tests(tests, test_folder_make, test_folder_remove);
}
