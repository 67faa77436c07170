// Importing TAR, TFRecord, LMDB and HDF5: right ones, and everything that can be wrong with them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <lmdb.h>

#include "data/data_internal.h"
#include "data/import.h"
#include "support/data_files.h"
#include "support/image_files.h"

enum { SIDE = 24 };

// ---- what is common

static ls_status import(const char *source, struct ls_import_options options, struct ls_import_result *result,
                        struct ls_error *err) {
  options.source = test_path(source);
  options.destination = test_path("out.h5");
  options.replace = true;
  *err = (struct ls_error)LS_ERROR_INIT;
  return ls_import(&options, result, err);
}

static void refuse(const char *source, struct ls_import_options options, const char *says) {
  struct ls_import_result result;
  struct ls_error err;
  unlink(test_path("out.h5"));
  assert_int_not_equal(import(source, options, &result, &err), LS_OK);
  if (!strstr(err.text, says)) fail_msg("no '%s' in: %s", says, err.text);
  if (strchr(err.text, '\n')) fail_msg("more than a line: %s", err.text);
  assert_int_not_equal(access(test_path("out.h5"), F_OK), 0);
  assert_int_not_equal(access(test_path("out.h5.part"), F_OK), 0);
}

// Images `count` of test_smooth with labels i % 3, each byte within `tolerance`.
static void check(const char *group, int64_t count, int64_t channels, int tolerance) {
  char location[320];
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset;
  snprintf(location, sizeof location, "%s:%s", test_path("out.h5"), group);
  if (ls_dataset_open(location, NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(ls_dataset_info(dataset)->count, count);
  assert_int_equal(ls_dataset_info(dataset)->channels, channels);
  uint8_t *stored = malloc((size_t)(SIDE * SIDE * channels));
  for (int64_t i = 0; i < count; i++) {
    int32_t label;
    uint8_t *pixels = test_smooth(i, SIDE, SIDE, channels);
    assert_int_equal(ls_dataset_read_label(dataset, i, &label, &err), LS_OK);
    assert_int_equal(label, i % 3);
    assert_int_equal(ls_dataset_read_image(dataset, i, stored, &err), LS_OK);
    for (int64_t at = 0; at < SIDE * SIDE * channels; at++) assert_true(abs(stored[at] - pixels[at]) <= tolerance);
    free(pixels);
  }
  free(stored);
  ls_dataset_close(dataset);
}

struct bytes {
  uint8_t *data;
  size_t size;
};

static void append(struct bytes *b, const void *data, size_t size) {
  b->data = realloc(b->data, b->size + size + 1);
  if (data)
    memcpy(b->data + b->size, data, size);
  else
    memset(b->data + b->size, 0, size);
  b->size += size;
}

static void put(const char *name, struct bytes *b) {
  test_write(name, b->data, b->size);
  free(b->data);
  *b = (struct bytes){NULL, 0};
}

// The image i as a file: JPEG and PNG in turn.
static uint8_t *image_file(int64_t i, size_t *size) {
  uint8_t *pixels = test_smooth(i, SIDE, SIDE, 3);
  uint8_t *data = i % 2 ? test_png(pixels, SIDE, SIDE, 3, size) : test_jpeg(pixels, SIDE, SIDE, 3, 97, size);
  free(pixels);
  return data;
}

// ---- TAR

static void tar_header(struct bytes *b, const char *name, size_t size, char type) {
  char header[512] = "";
  memcpy(header, name, strnlen(name, 100));
  snprintf(header + 100, 8, "0000644");
  snprintf(header + 124, 12, "%011o", (unsigned)size);
  header[156] = type;
  strcpy(header + 257, "ustar");
  header[263] = header[264] = '0';
  memset(header + 148, ' ', 8);
  unsigned sum = 0;
  for (int i = 0; i < 512; i++) sum += (uint8_t)header[i];
  snprintf(header + 148, 8, "%06o", sum);
  append(b, header, 512);
}

static void tar_file(struct bytes *b, const char *name, const void *data, size_t size) {
  tar_header(b, name, size, '0');
  append(b, data, size);
  append(b, NULL, (512 - size % 512) % 512);
}

// Sample i under a name in one of three forms: plain, GNU long name, pax.
static void tar_sample(struct bytes *b, int64_t i) {
  char name[300], text[400];
  size_t size;
  uint8_t *image = image_file(i, &size);
  for (int file = 0; file < 2; file++) {
    const char *ending = !file ? "cls" : i % 2 ? "png" : "jpg";
    if (i % 3 == 0) {
      snprintf(name, sizeof name, "folder.with.dots/%06d.%s", (int)i, ending);
    } else {
      snprintf(name, sizeof name, "%0150d/%06d.%s", 7, (int)i, ending);
      if (i % 3 == 1) {
        tar_header(b, "././@LongLink", strlen(name) + 1, 'L');
        append(b, name, strlen(name) + 1);
        append(b, NULL, 512 - strlen(name) - 1);
      } else {
        int length = (int)strlen(name) + 10;
        snprintf(text, sizeof text, "%d path=%s\n", length, name);
        assert_int_equal(strlen(text), length);
        tar_header(b, "PaxHeader", strlen(text), 'x');
        append(b, text, strlen(text));
        append(b, NULL, 512 - strlen(text));
      }
    }
    if (file) {
      tar_file(b, name, image, size);
    } else {
      snprintf(text, sizeof text, "%d\n", (int)(i % 3));
      tar_file(b, name, text, strlen(text));
    }
  }
  free(image);
}

static void test_tar(void **state) {
  (void)state;
  struct bytes b = {NULL, 0};
  mkdir(test_path("tars"), 0700);
  tar_header(&b, "folder.with.dots/", 0, '5');
  for (int64_t i = 0; i < 12; i++) tar_sample(&b, i);
  append(&b, NULL, 1024);
  put("tars/set-train-0.tar", &b);
  for (int64_t i = 0; i < 5; i++) tar_sample(&b, i);  // without the zero blocks at the end
  put("tars/set-val-0.tar", &b);
  test_write("tars/README", "not a shard", 11);
  struct ls_import_result result;
  struct ls_error err;
  if (import("tars", (struct ls_import_options){0}, &result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(result.train == 12 && result.validation == 5 && result.classes == 3);
  check("/train", 12, 3, 6);
  check("/validation", 5, 3, 6);
}

// An archive with one good sample and one entry of the given name.
static void bad_tar(const char *name, const char *text) {
  struct bytes b = {NULL, 0};
  tar_sample(&b, 0);
  tar_file(&b, name, text, strlen(text));
  put("bad.tar", &b);
}

static void test_bad_tar(void **state) {
  (void)state;
  struct ls_import_options none = {0};
  bad_tar("/etc/passwd.jpg", "x");
  refuse("bad.tar", none, "named '/etc/passwd.jpg': names may not be absolute or hold '..'");
  bad_tar("a/../../b.jpg", "x");
  refuse("bad.tar", none, "named 'a/../../b.jpg'");
  bad_tar("..", "x");
  refuse("bad.tar", none, "named '..'");
  bad_tar("000009.jpg", "x");
  refuse("bad.tar", none, "'000009' has an image, but no .cls beside it");
  bad_tar("000009.cls", "3");
  refuse("bad.tar", none, "'000009' has a label, but no image beside it");
  bad_tar("000009.cls", "three");
  refuse("bad.tar", none, "holds 'three', not a whole number");
  bad_tar("000009.cls", "123456789012345678901234567890123456");
  refuse("bad.tar", none, "no label of at most 32 bytes");
  struct bytes b = {NULL, 0};
  tar_sample(&b, 0);
  b.size -= 700;
  put("bad.tar", &b);
  refuse("bad.tar", none, "cut short");
  tar_sample(&b, 0);
  b.data[512 * 2 + 10] ^= 1;  // in the second header
  put("bad.tar", &b);
  refuse("bad.tar", none, "no header at byte 1024");
  // A record of a pax header that is shorter than its own beginning names nothing.
  const char *const records[] = {"5 path=foo\n", "7 path=\n", "2 path=foo\n", "8 path=", "9 path=b\n"};
  for (size_t i = 0; i < sizeof records / sizeof *records; i++) {
    tar_header(&b, "PaxHeader", strlen(records[i]), 'x');
    append(&b, records[i], strlen(records[i]));
    append(&b, NULL, 512 - strlen(records[i]));
    tar_file(&b, "a.cls", "3", 1);
    put("bad.tar", &b);
    refuse("bad.tar", none, i < 4 ? "'a' has a label, but no image beside it" : "has no image");
  }
  // A size that goes far beyond the file, also one of 2^63.
  tar_sample(&b, 0);
  tar_header(&b, "a.jpg", 077777777, '0');
  put("bad.tar", &b);
  refuse("bad.tar", none, "cut short");
}

// ---- TFRecord

static uint32_t masked_crc(const uint8_t *data, size_t size) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; i++) {
    crc ^= data[i];
    for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void field(struct bytes *b, int number, const void *data, size_t size) {
  uint8_t head[12] = {(uint8_t)(number << 3 | 2)};
  int at = 1;
  for (size_t left = size; at == 1 || left; left >>= 7)
    head[at++] = (uint8_t)((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
  append(b, head, (size_t)at);
  append(b, data, size);
}

// Adds map entry `name` -> feature with list `kind` holding `value`; frees value.
static void feature(struct bytes *features, const char *name, int kind, struct bytes *value) {
  struct bytes f = {NULL, 0}, entry = {NULL, 0};
  field(&f, kind, value->data, value->size);
  field(&entry, 1, name, strlen(name));
  field(&entry, 2, f.data, f.size);
  field(features, 1, entry.data, entry.size);
  free(f.data), free(entry.data), free(value->data);
  *value = (struct bytes){NULL, 0};
}

static void record(struct bytes *b, const void *data, size_t size) {
  uint64_t length = size;
  uint32_t crc = masked_crc((uint8_t *)&length, 8);
  append(b, &length, 8);
  append(b, &crc, 4);
  append(b, data, size);
  crc = masked_crc(data, size);
  append(b, &crc, 4);
}

static void tf_sample(struct bytes *b, int64_t i, bool with_label, bool packed) {
  struct bytes features = {NULL, 0}, value = {NULL, 0}, example = {NULL, 0};
  size_t size;
  uint8_t *image = image_file(i, &size), label[3] = {packed ? 0x0a : 0x08, 1, (uint8_t)(i % 3 + 1)};
  field(&value, 1, "ignored", 7);
  feature(&features, "image/filename", 1, &value);
  field(&value, 1, image, size);
  feature(&features, "image/encoded", 1, &value);
  if (packed)
    append(&value, label, 3);
  else
    append(&value, label, 1), append(&value, label + 2, 1);
  if (with_label)
    feature(&features, "image/class/label", 3, &value);
  else
    free(value.data);
  field(&example, 1, features.data, features.size);
  record(b, example.data, example.size);
  free(features.data), free(example.data), free(image);
}

static void test_tfrecord(void **state) {
  (void)state;
  struct bytes b = {NULL, 0};
  mkdir(test_path("tf"), 0700);
  for (int64_t i = 0; i < 9; i++) tf_sample(&b, i, true, i % 2);
  put("tf/train-00000-of-00001", &b);
  for (int64_t i = 0; i < 4; i++) tf_sample(&b, i, true, true);
  put("tf/validation-00000-of-00001", &b);
  struct ls_import_result result;
  struct ls_error err;
  if (import("tf", (struct ls_import_options){.first_label = 1}, &result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(result.train == 9 && result.validation == 4);
  check("/train", 9, 3, 6);
  check("/validation", 4, 3, 6);
}

static void test_bad_tfrecord(void **state) {
  (void)state;
  struct ls_import_options none = {0};
  struct bytes b = {NULL, 0};
  tf_sample(&b, 0, true, true);
  tf_sample(&b, 1, false, true);
  put("bad.tf", &b);
  refuse("bad.tf", none, "no 'image/class/label' or 'label'");
  tf_sample(&b, 0, true, true);
  b.data[b.size / 2] ^= 1;
  put("bad.tf", &b);
  refuse("bad.tf", none, "its check fails");
  tf_sample(&b, 0, true, true);
  size_t first = b.size;
  tf_sample(&b, 1, true, true);
  b.data[first + 2] ^= 1;
  put("bad.tf", &b);
  refuse("bad.tf", none, "length of the record");
  tf_sample(&b, 0, true, true);
  b.size -= 5;
  put("bad.tf", &b);
  refuse("bad.tf", none, "cut short");
  record(&b, "\x0a\xff\xff\xff", 4);
  put("bad.tf", &b);
  refuse("bad.tf", none, "no tensorflow.Example");
  tf_sample(&b, 0, true, true);
  put("bad.tf", &b);
  refuse("bad.tf", (struct ls_import_options){.first_label = 2}, "has label 1; labels begin at 2");
}

// ---- LMDB

static void varint_field(struct bytes *b, int number, uint32_t value) {
  uint8_t head[8] = {(uint8_t)(number << 3)};
  int at = 1;
  do {
    head[at++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
  } while (value >>= 7);
  append(b, head, (size_t)at);
}

// Sample i as Datum: raw planes, or an image file.
static void datum(struct bytes *b, int64_t i, bool encoded) {
  size_t size;
  uint8_t *pixels = test_smooth(i, SIDE, SIDE, 3), *planes = malloc(SIDE * SIDE * 3);
  for (int at = 0; at < SIDE * SIDE * 3; at++) planes[at % 3 * SIDE * SIDE + at / 3] = pixels[at];
  if (!encoded) {
    varint_field(b, 1, 3);
    varint_field(b, 2, SIDE);
    varint_field(b, 3, SIDE);
    field(b, 4, planes, SIDE * SIDE * 3);
  }
  varint_field(b, 5, (uint32_t)(i % 3));
  if (encoded) {
    uint8_t *file = image_file(i, &size);
    field(b, 4, file, size);
    varint_field(b, 7, 1);
    free(file);
  }
  free(pixels);
  free(planes);
}

static void write_lmdb(const char *name, int64_t count, const struct bytes *last) {
  MDB_env *env;
  MDB_txn *txn;
  MDB_dbi dbi;
  mkdir(test_path(name), 0700);
  unlink(test_path("bad_lmdb/data.mdb"));
  mdb_env_create(&env);
  mdb_env_set_mapsize(env, 16 << 20);
  assert_int_equal(mdb_env_open(env, test_path(name), MDB_NOLOCK, 0600), 0);
  mdb_txn_begin(env, NULL, 0, &txn);
  mdb_dbi_open(txn, NULL, 0, &dbi);
  for (int64_t i = 0; i < count + (last != NULL); i++) {
    char text[16];
    struct bytes b = {NULL, 0};
    snprintf(text, sizeof text, "%08d", (int)i);
    if (i < count) datum(&b, i, i % 4 == 2);
    const struct bytes *from = i < count ? &b : last;
    MDB_val key = {8, text}, value = {from->size, from->data};
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    free(b.data);
  }
  assert_int_equal(mdb_txn_commit(txn), 0);
  mdb_env_close(env);
}

static void test_lmdb(void **state) {
  (void)state;
  mkdir(test_path("caffe"), 0700);
  write_lmdb("caffe/x_train_lmdb", 14, NULL);
  write_lmdb("caffe/x_val_lmdb", 3, NULL);
  struct ls_import_result result;
  struct ls_error err;
  if (import("caffe", (struct ls_import_options){0}, &result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(result.train == 14 && result.validation == 3);
  check("/train", 14, 3, 6);
  if (import("caffe/x_val_lmdb", (struct ls_import_options){.bgr = true}, &result, &err) != LS_OK)
    fail_msg("%s", err.text);
  struct ls_dataset *dataset;
  char location[320];
  snprintf(location, sizeof location, "%s:/validation", test_path("out.h5"));
  assert_int_equal(ls_dataset_open(location, NULL, NULL, &dataset, &err), LS_OK);
  uint8_t stored[SIDE * SIDE * 3], *pixels = test_smooth(1, SIDE, SIDE, 3);
  assert_int_equal(ls_dataset_read_image(dataset, 1, stored, &err), LS_OK);
  assert_true(stored[300] == pixels[302] && stored[301] == pixels[301] && stored[302] == pixels[300]);
  free(pixels);
  ls_dataset_close(dataset);
}

static void test_bad_lmdb(void **state) {
  (void)state;
  struct ls_import_options none = {0};
  write_lmdb("bad_lmdb", 2, &(struct bytes){(uint8_t *)"\x22\xff\xff\xff\xff", 5});
  refuse("bad_lmdb", none, "is no Datum");
  write_lmdb("bad_lmdb", 2, &(struct bytes){(uint8_t *)"\x08\x03", 2});
  refuse("bad_lmdb", none, "has no bytes");
  write_lmdb("bad_lmdb", 2, &(struct bytes){(uint8_t *)"\x08\x03\x10\x18\x18\x18\x22\x02xx", 10});
  refuse("bad_lmdb", none, "has 2 bytes, its shape 24x24x3");
  write_lmdb("bad_lmdb", 2,
             &(struct bytes){(uint8_t *)"\x08\x03\x10\xff\xff\xff\x7f\x18\xff\xff\xff\x7f\x22\x02xx", 16});
  refuse("bad_lmdb", none, "image of 268435455x268435455x3");
  write_lmdb("bad_lmdb", 40, NULL);
  assert_int_equal(truncate(test_path("bad_lmdb/data.mdb"), 3 * 4096), 0);
  refuse("bad_lmdb", none, "cut short");
  test_write("bad_lmdb/data.mdb", "nothing of the kind", 19);
  refuse("bad_lmdb", none, "cannot be opened as LMDB");
}

// ---- HDF5

static void test_hdf5(void **state) {
  (void)state;
  hid_t file = test_h5("in.h5");
  hsize_t dim[4] = {10, SIDE, SIDE, 3}, turned[4] = {10, 3, SIDE, SIDE}, chunk[4] = {4, 7, SIDE, 2};
  int64_t labels[10];
  uint8_t *rows = malloc(10 * SIDE * SIDE * 3), *planes = malloc(10 * SIDE * SIDE * 3);
  for (int64_t i = 0; i < 10; i++) {
    uint8_t *pixels = test_smooth(i, SIDE, SIDE, 3);
    memcpy(rows + i * SIDE * SIDE * 3, pixels, SIDE * SIDE * 3);
    for (int at = 0; at < SIDE * SIDE * 3; at++)
      planes[i * SIDE * SIDE * 3 + at % 3 * SIDE * SIDE + at / 3] = pixels[at];
    free(pixels);
    labels[i] = i % 3;
  }
  hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(plist, 4, chunk);
  H5Pset_deflate(plist, 3);
  hid_t train = H5Gcreate2(file, "train", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  test_h5_dataset(train, "X", H5T_STD_U8LE, 4, dim, plist, rows);
  test_h5_dataset(train, "y", H5T_STD_I64BE, 1, dim, H5P_DEFAULT, labels);
  H5Gclose(train);
  hid_t test = H5Gcreate2(file, "test", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  test_h5_dataset(test, "X", H5T_STD_U8LE, 4, turned, H5P_DEFAULT, planes);
  test_h5_dataset(test, "y", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  H5Gclose(test);
  H5Pclose(plist);
  H5Fclose(file);
  free(rows);
  free(planes);
  struct ls_import_result result;
  struct ls_error err;
  if (import("in.h5", (struct ls_import_options){.images = "X", .labels = "y"}, &result, &err) != LS_OK)
    fail_msg("%s", err.text);
  assert_true(result.train == 10 && result.test == 10);
  check("/train", 10, 3, 0);
  check("/test", 10, 3, 0);
  refuse("in.h5", (struct ls_import_options){0}, "no group with datasets 'images' and 'labels'");
  refuse("in.h5", (struct ls_import_options){.images = "y", .labels = "y"}, "must hold uint8 values, not int64");
}

// ---- whatever the bytes are: an answer, never a crash

static void mutate(const char *name, const char *target, int rounds) {
  size_t size;
  uint8_t *good = test_read(name, &size), *bad = malloc(size);
  uint32_t seed = 7;
  for (int round = 0; round < rounds; round++) {
    memcpy(bad, good, size);
    int changes = 1 + round % 5;
    for (int i = 0; i < changes; i++) {
      seed = seed * 1664525 + 1013904223;
      size_t at = (size_t)((uint64_t)(seed >> 4) * size >> 28);
      seed = seed * 1664525 + 1013904223;
      bad[at] = seed & 1 << 30 ? (uint8_t)(seed >> 16) : bad[at] ^ (uint8_t)(1 << (seed >> 20) % 8);
    }
    seed = seed * 1664525 + 1013904223;
    size_t kept = round % 7 == 0 ? (size_t)((uint64_t)(seed >> 4) * size >> 28) : size;
    test_write(target, bad, kept);
    struct ls_import_result result;
    struct ls_error err;
    ls_status status = import(target, (struct ls_import_options){.skip_damaged = true}, &result, &err);
    if (status != LS_OK && (!err.text[0] || strchr(err.text, '\n'))) fail_msg("no sentence: %s", err.text);
  }
  free(good);
  free(bad);
}

static void test_mutations(void **state) {
  (void)state;
  struct bytes b = {NULL, 0};
  for (int64_t i = 0; i < 4; i++) tar_sample(&b, i);
  put("good.tar", &b);
  mutate("good.tar", "mutant.tar", 150);
  for (int64_t i = 0; i < 4; i++) tf_sample(&b, i, true, i % 2);
  put("good.tf", &b);
  mutate("good.tf", "mutant.tf", 150);
  size_t size;
  uint8_t *image = image_file(0, &size);
  test_write("good.jpg", image, size);
  free(image);
  test_write("mutants.txt", "mutant.jpg 0\n", 13);
  // A list of one image, of which the bytes change.
  uint8_t *good = test_read("good.jpg", &size), *bad = malloc(size);
  for (size_t at = 0; at < size; at += 11) {
    memcpy(bad, good, size);
    bad[at] ^= (uint8_t)(1 + at * 37);
    test_write("mutant.jpg", bad, size);
    struct ls_import_result result;
    struct ls_error err;
    if (import("mutants.txt", (struct ls_import_options){.resize = 8, .crop = 8}, &result, &err) != LS_OK)
      assert_true(err.text[0] != 0);
  }
  free(good);
  free(bad);
}

static void test_stop(void **state) {
  (void)state;
  atomic_bool stop = true;
  struct ls_import_result result;
  struct ls_error err;
  assert_int_equal(import("good.tar", (struct ls_import_options){.stop = &stop}, &result, &err), LS_CANCELLED);
  assert_int_not_equal(access(test_path("out.h5.part"), F_OK), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tar),          cmocka_unit_test(test_bad_tar),   cmocka_unit_test(test_tfrecord),
      cmocka_unit_test(test_bad_tfrecord), cmocka_unit_test(test_lmdb),      cmocka_unit_test(test_bad_lmdb),
      cmocka_unit_test(test_hdf5),         cmocka_unit_test(test_mutations), cmocka_unit_test(test_stop),
  };
  return cmocka_run_group_tests(tests, test_folder_make, test_folder_remove);
}
