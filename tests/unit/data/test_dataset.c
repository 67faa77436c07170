// Opening data sets: what is right is read right; what is wrong is refused with one clear sentence.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/data_internal.h"
#include "support/data_files.h"

static struct ls_dataset *open_good(const char *name, const char *group) {
  char location[320];
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset;
  snprintf(location, sizeof location, "%s:%s", test_path(name), group);
  if (ls_dataset_open(location, NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  return dataset;
}

// Opening must fail with `status` and a sentence holding all of the texts up to NULL.
static void refuse(const char *name, const char *group, ls_status status, ...) {
  char location[320];
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset = (void *)1;
  snprintf(location, sizeof location, "%s:%s", test_path(name), group);
  assert_int_not_equal(ls_dataset_open(location, NULL, NULL, &dataset, &err), LS_OK);
  assert_null(dataset);
  va_list texts;
  va_start(texts, status);
  for (const char *text = va_arg(texts, const char *); text; text = va_arg(texts, const char *)) {
    if (!strstr(err.text, text)) fail_msg("no '%s' in: %s", text, err.text);
  }
  va_end(texts);
  if (!strstr(err.text, name)) fail_msg("the file is not named: %s", err.text);
  if (strchr(err.text, '\n') || err.text[strlen(err.text) - 1] == '.') fail_msg("no single sentence: %s", err.text);
  if (err.status != status) fail_msg("status %s: %s", ls_status_name(err.status), err.text);
}

static void check_pixels(const struct ls_dataset *dataset) {
  const struct ls_dataset_info *info = ls_dataset_info(dataset);
  uint8_t *pixels = malloc((size_t)(info->height * info->width * info->channels));
  for (int64_t i = 0; i < info->count; i++) {
    struct ls_error err = LS_ERROR_INIT;
    if (ls_dataset_read_image(dataset, i, pixels, &err) != LS_OK) fail_msg("%s", err.text);
    for (int64_t y = 0, at = 0; y < info->height; y++) {
      for (int64_t x = 0; x < info->width; x++) {
        for (int64_t c = 0; c < info->channels; c++) assert_int_equal(pixels[at++], test_pixel(i, y, x, c));
      }
    }
  }
  free(pixels);
}

static void test_good(void **state) {
  (void)state;
  hid_t file = test_h5("good.h5"), group = H5Gcreate2(file, "train", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  test_h5_images(group, 20, 6, 5, 3, 7, H5P_DEFAULT);
  H5Gclose(group);
  H5Fclose(file);
  struct ls_dataset *dataset = open_good("good.h5", "/train");
  const struct ls_dataset_info *info = ls_dataset_info(dataset);
  assert_int_equal(info->count, 20);
  assert_int_equal(info->height, 6);
  assert_int_equal(info->width, 5);
  assert_int_equal(info->channels, 3);
  assert_int_equal(info->classes, 7);
  assert_false(info->has_statistics);
  assert_string_equal(info->group, "/train");
  check_pixels(dataset);
  for (int64_t i = 0; i < 20; i++) {
    int32_t label;
    assert_int_equal(ls_dataset_read_label(dataset, i, &label, NULL), LS_OK);
    assert_int_equal(label, i % 7);
  }
  assert_string_equal(ls_dataset_class_name(dataset, 3), "3");
  ls_dataset_close(dataset);
}

// Labels of every width, a single channel without its axis, labels [N,1], a user block in front of the file.
static void test_variants(void **state) {
  (void)state;
  const hid_t types[] = {H5T_STD_U8LE, H5T_STD_I8LE, H5T_STD_U16LE, H5T_STD_I32LE, H5T_STD_U64LE, H5T_STD_I64LE};
  for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
    hid_t plist = H5Pcreate(H5P_FILE_CREATE);
    if (t % 2) H5Pset_userblock(plist, 1024);
    hid_t file = H5Fcreate(test_path("variant.h5"), H5F_ACC_TRUNC, plist, H5P_DEFAULT);
    hsize_t dim[3] = {9, 4, 3}, label_dim[2] = {9, 1};
    uint8_t *pixels = test_pixels(9, 4, 3, 1);
    // Narrow to the stored type's width, little-endian.
    uint8_t labels[9 * 8] = {0};
    size_t width = H5Tget_size(types[t]);
    for (int i = 0; i < 9; i++) labels[(size_t)i * width] = (uint8_t)i;
    test_h5_dataset(file, "images", H5T_STD_U8LE, 3, dim, H5P_DEFAULT, pixels);
    test_h5_dataset(file, "labels", types[t], t < 2 ? 2 : 1, label_dim, H5P_DEFAULT, labels);
    free(pixels);
    H5Fclose(file);
    H5Pclose(plist);
    struct ls_dataset *dataset = open_good("variant.h5", "/");
    assert_int_equal(ls_dataset_info(dataset)->channels, 1);
    check_pixels(dataset);
    int32_t label;
    assert_int_equal(ls_dataset_read_label(dataset, 8, &label, NULL), LS_OK);
    assert_int_equal(label, 8);
    ls_dataset_close(dataset);
  }
}

static void test_attributes(void **state) {
  (void)state;
  hid_t file = test_h5("named.h5");
  test_h5_images(file, 4, 2, 2, 3, 2, H5P_DEFAULT);
  hsize_t three = 3;
  float mean[3] = {1, 2, 3}, deviation[3] = {4, 5, 6};
  char names[3][8] = {"cat", "dog", "unicorn"};  // fixed length, the last without a zero byte
  hid_t space = H5Screate_simple(1, &three, NULL), text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, 8);
  const struct {
    const char *name;
    hid_t type;
    const void *data;
  } attributes[] = {
      {"mean", H5T_NATIVE_FLOAT, mean}, {"deviation", H5T_NATIVE_FLOAT, deviation}, {"class_names", text, names}};
  for (int i = 0; i < 3; i++) {
    hid_t attribute = H5Acreate2(file, attributes[i].name, attributes[i].type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, attributes[i].type, attributes[i].data);
    H5Aclose(attribute);
  }
  H5Tclose(text);
  H5Sclose(space);
  H5Fclose(file);
  struct ls_dataset *dataset = open_good("named.h5", "/");
  assert_true(ls_dataset_info(dataset)->has_statistics);
  assert_true(ls_dataset_info(dataset)->mean[1] == 2 && ls_dataset_info(dataset)->deviation[2] == 6);
  assert_int_equal(ls_dataset_info(dataset)->classes, 3);
  assert_string_equal(ls_dataset_class_name(dataset, 1), "dog");
  assert_string_equal(ls_dataset_class_name(dataset, 2), "unicorn");
  assert_string_equal(ls_dataset_class_name(dataset, 3), "3");
  ls_dataset_close(dataset);
}

// ---- what is refused

static void test_no_file(void **state) {
  (void)state;
  refuse("nothing.h5", "/", LS_NOT_FOUND, "No such file", NULL);
  test_write("text.h5", "this is no HDF5 file", 20);
  refuse("text.h5", "/", LS_CORRUPT, "no HDF5 file", NULL);
  test_write("empty.h5", "", 0);
  refuse("empty.h5", "/", LS_CORRUPT, "no HDF5 file", NULL);
  mkdir(test_path("folder.h5"), 0700);
  refuse("folder.h5", "/", LS_INVALID, "no ordinary file", NULL);
}

static void test_missing(void **state) {
  (void)state;
  hid_t file = test_h5("missing.h5");
  hsize_t dim[4] = {2, 2, 2, 1};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, H5P_DEFAULT, "12345678");
  H5Fclose(file);
  refuse("missing.h5", "/train", LS_NOT_FOUND, "no group '/train'", "lockstep data inspect", NULL);
  refuse("missing.h5", "/", LS_NOT_FOUND, "no dataset 'labels'", "lockstep data inspect", NULL);
  refuse("missing.h5", "/images", LS_NOT_FOUND, "no group '/images'", NULL);
}

// One file with the given images and labels, and what is said about it.
static void refuse_images(hid_t type, int rank, const hsize_t *dim, ls_status status, const char *says) {
  hid_t file = test_h5("wrong.h5");
  hsize_t count = 2;
  int64_t labels[2] = {0, 1};
  char *data = calloc(1, 4096);
  test_h5_dataset(file, "images", type, rank, dim, H5P_DEFAULT, H5Tget_class(type) == H5T_COMPOUND ? NULL : data);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, &count, H5P_DEFAULT, labels);
  free(data);
  H5Fclose(file);
  refuse("wrong.h5", "/", status, "'images'", says, NULL);
}

static void test_wrong_images(void **state) {
  (void)state;
  hsize_t good[4] = {2, 4, 4, 3}, flat[2] = {2, 48}, deep[5] = {2, 2, 2, 2, 2}, many[4] = {2, 3, 4, 4 + 1},
          none[4] = {0, 4, 4, 3}, thin[4] = {2, 0, 4, 3};
  refuse_images(H5T_IEEE_F32LE, 4, good, LS_INVALID, "must hold uint8 values, not float32");
  refuse_images(H5T_STD_I16LE, 4, good, LS_INVALID, "must hold uint8 values, not int16");
  refuse_images(H5T_STD_I8LE, 4, good, LS_INVALID, "must hold uint8 values, not int8");
  refuse_images(H5T_STD_U8LE, 2, flat, LS_INVALID, "has 2 axes");
  refuse_images(H5T_STD_U8LE, 5, deep, LS_INVALID, "has 5 axes");
  refuse_images(H5T_STD_U8LE, 4, many, LS_INVALID, "1 to 4 channels");
  refuse_images(H5T_STD_U8LE, 4, none, LS_INVALID, "is empty");
  refuse_images(H5T_STD_U8LE, 4, thin, LS_INVALID, "0x4x3");
  hid_t compound = H5Tcreate(H5T_COMPOUND, 2);
  H5Tinsert(compound, "a", 0, H5T_STD_U8LE);
  refuse_images(compound, 4, good, LS_INVALID, "must hold uint8 values");
  H5Tclose(compound);
}

// 10^9 pixels: declared in three numbers, never there.
static void test_giant_image(void **state) {
  (void)state;
  hid_t file = test_h5("giant.h5");
  hsize_t dim[4] = {1, 1000000, 1000, 1};
  int64_t label = 0;
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, H5P_DEFAULT, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, &label);
  H5Fclose(file);
  refuse("giant.h5", "/", LS_INVALID, "1000000x1000x1", "1 to 65536 pixels a side, 268435456 in all", NULL);
  file = test_h5("giant.h5");
  hsize_t large[4] = {1, 40000, 40000, 1};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, large, H5P_DEFAULT, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, large, H5P_DEFAULT, &label);
  H5Fclose(file);
  refuse("giant.h5", "/", LS_INVALID, "40000x40000x1", NULL);
}

static void refuse_labels(hid_t type, int rank, const hsize_t *dim, const void *data, const char *says) {
  hid_t file = test_h5("labels.h5");
  hsize_t images[4] = {4, 2, 2, 1};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, images, H5P_DEFAULT, "0123456789abcdef");
  test_h5_dataset(file, "labels", type, rank, dim, H5P_DEFAULT, data);
  H5Fclose(file);
  refuse("labels.h5", "/", LS_INVALID, says, NULL);
}

static void test_wrong_labels(void **state) {
  (void)state;
  hsize_t three = 3, four = 4, one_hot[2] = {4, 10};
  int64_t negative[4] = {0, 1, -5, 2}, huge[4] = {0, 1, 2, 1ll << 40};
  refuse_labels(H5T_STD_I64LE, 1, &three, negative, "4 images, but 3 labels");
  refuse_labels(H5T_STD_I64LE, 1, &four, negative, "sample 2 has label -5");
  refuse_labels(H5T_STD_I64LE, 1, &four, huge, "sample 3 has label 1099511627776");
  refuse_labels(H5T_IEEE_F32LE, 1, &four, NULL, "one whole number a sample");
  refuse_labels(H5T_STD_U8LE, 2, one_hot, NULL, "one whole number a sample");
}

static void test_fits(void **state) {
  (void)state;
  hid_t file = test_h5("fits.h5");
  test_h5_images(file, 8, 6, 6, 3, 5, H5P_DEFAULT);
  H5Fclose(file);
  struct ls_dataset *dataset = open_good("fits.h5", "/");
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_dataset_check_fits(dataset, 3, 6, 6, 5, &err), LS_OK);
  assert_int_equal(ls_dataset_check_fits(dataset, 3, 4, 4, 10, &err), LS_OK);
  assert_int_equal(ls_dataset_check_fits(dataset, 1, 6, 6, 5, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "images of 3 channels, the network takes 1"));
  assert_int_equal(ls_dataset_check_fits(dataset, 3, 8, 6, 5, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "images of 6x6, the network takes 8x6"));
  assert_int_equal(ls_dataset_check_fits(dataset, 3, 6, 6, 4, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "sample 4 has label 4, the network has 4 classes, 0 to 3"));
  ls_dataset_close(dataset);
}

static void test_never_written(void **state) {
  (void)state;
  hid_t file = test_h5("unwritten.h5");
  hsize_t dim[4] = {2, 2, 2, 1};
  int64_t labels[2] = {0, 1};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, H5P_DEFAULT, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  H5Fclose(file);
  refuse("unwritten.h5", "/", LS_CORRUPT, "'images'", "never written", NULL);
}

static void test_cut_short(void **state) {
  (void)state;
  hid_t file = test_h5("short.h5");
  test_h5_images(file, 50, 8, 8, 3, 5, H5P_DEFAULT);
  H5Fclose(file);
  assert_int_equal(truncate(test_path("short.h5"), 6000), 0);
  refuse("short.h5", "/", LS_CORRUPT, "cut short", "6000 bytes", NULL);
}

// The same file with a larger N in its header: the shape claims more than the file holds.
static void test_claims_more(void **state) {
  (void)state;
  hid_t file = test_h5("claims.h5");
  test_h5_images(file, 51, 8, 8, 3, 5, H5P_DEFAULT);
  H5Fclose(file);
  size_t size;
  uint8_t *data = test_read("claims.h5", &size);
  const uint64_t is = 51, becomes = 51000000, dims[2] = {51, 8};
  int changed = 0;
  for (size_t i = 0; i + 16 <= size; i++) {
    if (memcmp(data + i, dims, 16) == 0) {
      memcpy(data + i, &becomes, sizeof is);
      changed++;
    }
  }
  assert_true(changed >= 1);
  test_write("claims.h5", data, size);
  free(data);
  refuse("claims.h5", "/", LS_CORRUPT, "'images'", NULL);
}

static void test_shrinks_later(void **state) {
  (void)state;
  hid_t file = test_h5("shrinks.h5");
  test_h5_images(file, 50, 8, 8, 3, 5, H5P_DEFAULT);
  H5Fclose(file);
  struct ls_dataset *dataset = open_good("shrinks.h5", "/");
  assert_int_equal(truncate(test_path("shrinks.h5"), 4096), 0);
  uint8_t pixels[8 * 8 * 3];
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_dataset_read_image(dataset, 49, pixels, &err), LS_CORRUPT);
  assert_non_null(strstr(err.text, "image 49"));
  ls_dataset_close(dataset);
}

// Files that would make us read other files.
static void test_refers_outside(void **state) {
  (void)state;
  hsize_t dim[4] = {2, 2, 2, 1};
  int64_t labels[2] = {0, 1};
  test_write("secret.bin", "01234567", 8);
  hid_t file = test_h5("external.h5"), plist = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(plist, test_path("secret.bin"), 0, 8);
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, plist, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  H5Pclose(plist);
  H5Fclose(file);
  refuse("external.h5", "/", LS_INVALID, "'images'", "external storage", NULL);

  file = test_h5("virtual.h5");
  plist = H5Pcreate(H5P_DATASET_CREATE);
  hid_t space = H5Screate_simple(4, dim, NULL);
  H5Pset_virtual(plist, space, test_path("external.h5"), "images", space);
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, plist, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  H5Sclose(space);
  H5Pclose(plist);
  H5Fclose(file);
  refuse("virtual.h5", "/", LS_INVALID, "'images'", "virtual", NULL);
}

// Links into another file: of a dataset, of a group, and of something on the way to the group. They are made before the
// first data set is opened, as opening one takes the ability to follow them from the process.
static int make_links(void **state) {
  if (test_folder_make(state) != 0) return -1;
  hid_t file = test_h5("target.h5"), group = H5Gcreate2(file, "train", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  test_h5_images(group, 4, 2, 2, 1, 2, H5P_DEFAULT);
  H5Gclose(group);
  H5Fclose(file);
  file = test_h5("links.h5");
  int64_t labels[4] = {0, 1, 0, 1};
  hsize_t four = 4;
  H5Lcreate_external("target.h5", "/train/images", file, "images", H5P_DEFAULT, H5P_DEFAULT);
  test_h5_dataset(file, "labels", H5T_STD_I64LE, 1, &four, H5P_DEFAULT, labels);
  H5Lcreate_external("target.h5", "/train", file, "train", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("target.h5", "/", file, "other", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/other/train", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  return 0;
}

static void test_links(void **state) {
  (void)state;
  refuse("links.h5", "/", LS_INVALID, "'images' is a link into another file", NULL);
  refuse("links.h5", "/train", LS_INVALID, "'/train' is a link into another file", NULL);
  refuse("links.h5", "/other/train", LS_INVALID, "'/other' is a link into another file", NULL);
  refuse("links.h5", "/soft", LS_NOT_FOUND, "no group '/soft'", NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),          cmocka_unit_test(test_variants),       cmocka_unit_test(test_attributes),
      cmocka_unit_test(test_no_file),       cmocka_unit_test(test_missing),        cmocka_unit_test(test_wrong_images),
      cmocka_unit_test(test_giant_image),   cmocka_unit_test(test_wrong_labels),   cmocka_unit_test(test_fits),
      cmocka_unit_test(test_never_written), cmocka_unit_test(test_cut_short),      cmocka_unit_test(test_claims_more),
      cmocka_unit_test(test_shrinks_later), cmocka_unit_test(test_refers_outside), cmocka_unit_test(test_links),
  };
  return cmocka_run_group_tests(tests, make_links, test_folder_remove);
}
