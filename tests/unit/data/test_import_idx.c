// Importing IDX files and NumPy arrays: what comes out is what went in; what is wrong is named, and leaves no file behind.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>

#include "data/data_internal.h"
#include "data/import.h"
#include "support/data_files.h"

static void put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

// An IDX file of n images [h,w], or labels when h is 0; gzipped when the name ends so.
static void write_idx(const char *name, uint32_t n, uint32_t h, uint32_t w, size_t cut) {
  size_t head = h ? 16 : 8, body = h ? (size_t)n * h * w : n;
  uint8_t *data = calloc(1, head + body);
  data[2] = 0x08;
  data[3] = h ? 3 : 1;
  put32(data + 4, n);
  if (h) {
    put32(data + 8, h);
    put32(data + 12, w);
    uint8_t *pixels = test_pixels(n, h, w, 1);
    memcpy(data + head, pixels, body);
    free(pixels);
  }
  for (uint32_t i = 0; !h && i < n; i++) data[head + i] = (uint8_t)(i % 10);
  size_t size = head + body - cut;
  if (strstr(name, ".gz")) {
    gzFile file = gzopen(test_path(name), "wb");
    assert_int_equal(gzwrite(file, data, (unsigned)size), size);
    gzclose(file);
  } else {
    test_write(name, data, size);
  }
  free(data);
}

static void write_all(const char *folder, uint32_t train, uint32_t test, bool gz) {
  char name[128];
  mkdir(test_path(folder), 0700);
  const char *const prefix[] = {"train", "t10k"};
  for (int i = 0; i < 2; i++) {
    uint32_t n = i ? test : train;
    snprintf(name, sizeof name, "%s/%s-images-idx3-ubyte%s", folder, prefix[i], gz ? ".gz" : "");
    write_idx(name, n, 6, 5, 0);
    snprintf(name, sizeof name, "%s/%s-labels-idx1-ubyte%s", folder, prefix[i], gz ? ".gz" : "");
    write_idx(name, n, 0, 0, 0);
  }
}

static ls_status import(const char *source, const char *destination, bool replace, struct ls_import_result *result,
                        struct ls_error *err) {
  struct ls_import_options options = {
      .source = test_path(source), .destination = test_path(destination), .replace = replace};
  *err = (struct ls_error)LS_ERROR_INIT;
  return ls_import(&options, result, err);
}

static void check_group(const char *name, const char *group, int64_t count) {
  char location[320];
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset;
  snprintf(location, sizeof location, "%s:%s", test_path(name), group);
  if (ls_dataset_open(location, NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  const struct ls_dataset_info *info = ls_dataset_info(dataset);
  assert_int_equal(info->count, count);
  assert_int_equal(info->height, 6);
  assert_int_equal(info->width, 5);
  assert_int_equal(info->channels, 1);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < count; i++) {
    uint8_t pixels[30];
    int32_t label;
    assert_int_equal(ls_dataset_read_image(dataset, i, pixels, &err), LS_OK);
    assert_int_equal(ls_dataset_read_label(dataset, i, &label, &err), LS_OK);
    assert_int_equal(label, i % 10);
    for (int at = 0; at < 30; at++) {
      assert_int_equal(pixels[at], test_pixel(i, at / 5, at % 5, 0));
      sum += pixels[at];
      squares += pixels[at] * pixels[at];
    }
  }
  double mean = sum / (30.0 * (double)count), variance = squares / (30.0 * (double)count) - mean * mean;
  assert_true(info->has_statistics);
  assert_true(info->mean[0] > mean - 1e-3 && info->mean[0] < mean + 1e-3);
  double deviation = info->deviation[0];
  assert_true(deviation * deviation > variance * 0.9999 && deviation * deviation < variance * 1.0001);
  ls_dataset_close(dataset);
}

static void test_import(void **state) {
  (void)state;
  struct ls_import_result result;
  struct ls_error err;
  for (int gz = 0; gz < 2; gz++) {
    const char *source = gz ? "idx-gz" : "idx", *to = gz ? "gz.h5" : "plain.h5";
    write_all(source, 70, 30, gz);
    if (import(source, to, false, &result, &err) != LS_OK) fail_msg("%s", err.text);
    assert_int_equal(result.train, 70);
    assert_int_equal(result.test, 30);
    assert_int_equal(result.classes, 10);
    check_group(to, "/train", 70);
    check_group(to, "/test", 30);
  }
}

static void test_existing(void **state) {
  (void)state;
  struct ls_import_result result;
  struct ls_error err;
  write_all("again", 20, 10, false);
  assert_int_equal(import("again", "again.h5", false, &result, &err), LS_OK);
  assert_int_equal(import("again", "again.h5", false, &result, &err), LS_OK);
  assert_true(result.unchanged);
  assert_int_equal(result.train, 20);
  assert_int_equal(import("again", "again.h5", true, &result, &err), LS_OK);
  assert_false(result.unchanged);
  test_write("other.h5", "somebody's text", 15);
  assert_int_equal(import("again", "other.h5", false, &result, &err), LS_EXISTS);
  assert_non_null(strstr(err.text, "--replace"));
}

// Fails with a sentence, and neither the destination nor its temporary file is there.
static void refuse(const char *source, ls_status status, const char *says) {
  struct ls_import_result result;
  struct ls_error err;
  assert_int_equal(import(source, "refused.h5", false, &result, &err), status);
  if (!strstr(err.text, says)) fail_msg("no '%s' in: %s", says, err.text);
  assert_int_not_equal(access(test_path("refused.h5"), F_OK), 0);
  assert_int_not_equal(access(test_path("refused.h5.part"), F_OK), 0);
}

static void test_refused(void **state) {
  (void)state;
  size_t size;
  refuse("nothing", LS_NOT_FOUND, "no source");
  mkdir(test_path("empty"), 0700);
  refuse("empty", LS_UNSUPPORTED, "nothing that can be imported");

  write_all("short", 20, 10, false);
  write_idx("short/train-images-idx3-ubyte", 20, 6, 5, 7);
  refuse("short", LS_CORRUPT, "train-images-idx3-ubyte' is cut short");

  write_all("long", 20, 10, false);
  write_idx("long/train-images-idx3-ubyte", 21, 6, 5, 0);
  uint8_t *pixels = test_read("long/train-images-idx3-ubyte", &size);
  put32(pixels + 4, 20);
  test_write("long/train-images-idx3-ubyte", pixels, size);
  free(pixels);
  refuse("long", LS_CORRUPT, "more bytes than its header says");

  write_all("mismatch", 20, 10, false);
  write_idx("mismatch/t10k-labels-idx1-ubyte", 11, 0, 0, 0);
  refuse("mismatch", LS_INVALID, "10 images, but");

  write_all("type", 20, 10, false);
  test_write("type/train-images-idx3-ubyte", "\0\0\x0d\3\0\0\0\1\0\0\0\1\0\0\0\1", 16);
  refuse("type", LS_UNSUPPORTED, "type 0x0d");

  write_all("magic", 20, 10, false);
  test_write("magic/train-images-idx3-ubyte", "PK\3\4", 4);
  refuse("magic", LS_CORRUPT, "no IDX file");

  write_all("giant", 20, 10, false);
  test_write("giant/train-images-idx3-ubyte", "\0\0\x08\3\0\0\0\x14\0\0\x7f\xff\0\0\x7f\xff", 16);
  refuse("giant", LS_INVALID, "20 images of 32767x32767x1");

  write_all("zero", 20, 10, false);
  test_write("zero/train-images-idx3-ubyte", "\0\0\x08\3\0\0\0\x14\0\0\0\0\0\0\0\1", 16);
  refuse("zero", LS_INVALID, "20 images of 0x1x1");

  write_all("damaged", 3000, 10, true);
  uint8_t *data = test_read("damaged/train-images-idx3-ubyte.gz", &size);
  data[size - 6] ^= 0x55;  // of the checksum
  test_write("damaged/train-images-idx3-ubyte.gz", data, size);
  free(data);
  refuse("damaged", LS_CORRUPT, "damaged");
}

// ---- NumPy arrays

static void write_npy(const char *name, const char *type, const char *shape, const void *data, size_t size) {
  uint8_t file[2048] = "\x93NUMPY\1";
  int length =
      snprintf((char *)file + 10, 200, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }\n", type, shape);
  assert_true(length < 200 && 10 + (size_t)length + size <= sizeof file);
  file[8] = (uint8_t)length;
  memcpy(file + 10 + length, data, size);
  test_write(name, file, 10 + (size_t)length + size);
}

// Labels of every whole type that NumPy has, and none that it has not: so many bytes are no number.
static void test_npy(void **state) {
  (void)state;
  static const char *const good[] = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"};
  static const char *const bad[] = {"|i0", "<i3", "|u0", "<u5", "<i7", "<i9", "<f4", "|b1"};
  enum { COUNT = 20 };
  struct ls_import_result result;
  struct ls_error err;
  mkdir(test_path("npy"), 0700);
  uint8_t *pixels = test_pixels(COUNT, 6, 5, 1), labels[COUNT * 9] = {0};
  write_npy("npy/x_train.npy", "|u1", "20, 6, 5", pixels, COUNT * 30);
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    size_t bytes = (size_t)(good[i][2] - '0');
    memset(labels, 0, sizeof labels);
    for (size_t at = 0; at < COUNT; at++) labels[at * bytes] = (uint8_t)(at % 10);
    write_npy("npy/y_train.npy", good[i], "20,", labels, COUNT * bytes);
    if (import("npy", "npy.h5", true, &result, &err) != LS_OK) fail_msg("%s: %s", good[i], err.text);
    check_group("npy.h5", "/train", COUNT);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    write_npy("npy/y_train.npy", bad[i], "20,", labels, sizeof labels);
    refuse("npy", LS_INVALID, "y_train.npy' must hold one whole number of 1, 2, 4 or 8 bytes");
  }
  write_npy("npy/y_train.npy", "<i-1", "20,", labels, sizeof labels);
  refuse("npy", LS_CORRUPT, "y_train.npy'");
  static const char *const bad_images[] = {"|u0", "<u2", "|i1"};
  write_npy("npy/y_train.npy", "|u1", "20,", labels, COUNT);
  for (size_t i = 0; i < sizeof bad_images / sizeof *bad_images; i++) {
    write_npy("npy/x_train.npy", bad_images[i], "20, 6, 5", pixels, COUNT * 30);
    refuse("npy", i == 1 ? LS_CORRUPT : LS_INVALID, "x_train.npy'");
  }
  free(pixels);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_import),
      cmocka_unit_test(test_existing),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_npy),
  };
  return cmocka_run_group_tests(tests, test_folder_make, test_folder_remove);
}
