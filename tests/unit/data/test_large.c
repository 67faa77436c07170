// A data set of a hundred million samples (a sparse file of 100 GB): it is open at once, and memory does not depend on
// its size.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>

#include "base/clock.h"
#include "data/data_internal.h"
#include "support/data_files.h"

enum { SIDE = 32 };
#define SAMPLES INT64_C(100000000)

static int64_t resident_bytes(void) {
  long pages = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%ld %ld", &pages, &resident) != 2) abort();
  fclose(file);
  return resident * sysconf(_SC_PAGESIZE);
}

// Space is allocated but never filled in: holes.
static bool make_file(void) {
  hid_t file = test_h5("large.h5"), plist = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
  hsize_t dim[4] = {SAMPLES, SIDE, SIDE, 1};
  test_h5_dataset(file, "images", H5T_STD_U8LE, 4, dim, plist, NULL);
  test_h5_dataset(file, "labels", H5T_STD_I32LE, 1, dim, plist, NULL);
  H5Pclose(plist);
  return H5Fclose(file) >= 0;
}

static void run(Lockstep__V1__Shuffle shuffle) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset;
  struct ls_loader *loader;
  int64_t before = resident_bytes(), start = ls_clock_ns();
  if (ls_dataset_open(test_path("large.h5"), NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  struct ls_loader_options options = {.dataset = dataset,
                                      .training = true,
                                      .batch = 256,
                                      .crop_height = 28,
                                      .crop_width = 28,
                                      .seed = 1,
                                      .shuffle = shuffle,
                                      .output = LS_F32,
                                      .readers = 2,
                                      .classes = 10};
  if (ls_loader_new(&options, &loader, &err) != LS_OK) fail_msg("%s", err.text);
  const struct ls_batch *batch;
  for (uint64_t k = 0; k < 40; k++) {
    if (ls_loader_wait(loader, k, &batch, &err) != LS_OK) fail_msg("%s", err.text);
    if (k == 0) assert_true(ls_clock_ns() - start < INT64_C(2000000000));
    ls_loader_done(loader, batch);
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  assert_true(resident_bytes() - before < 64 << 20);
#else
  (void)before;
#endif
  ls_loader_free(loader);
  ls_dataset_close(dataset);
}

static void test_full(void **state) {
  (void)state;
  run(LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL);
}

static void test_blocks(void **state) {
  (void)state;
  run(LOCKSTEP__V1__SHUFFLE__SHUFFLE_BLOCKS);
}

// With so many, labels are looked at when they are needed.
static void test_late_label(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_dataset *dataset;
  struct ls_loader *loader;
  if (ls_dataset_open(test_path("large.h5"), NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  int fd = open(test_path("large.h5"), O_WRONLY);
  int32_t label = 11;
  assert_int_equal(pwrite(fd, &label, sizeof label, (off_t)(dataset->labels_offset + 4 * 300)), sizeof label);
  close(fd);
  struct ls_loader_options options = {.dataset = dataset,
                                      .training = true,
                                      .batch = 256,
                                      .crop_height = 28,
                                      .crop_width = 28,
                                      .shuffle = LOCKSTEP__V1__SHUFFLE__SHUFFLE_NONE,
                                      .output = LS_U8,
                                      .classes = 10};
  assert_int_equal(ls_loader_new(&options, &loader, &err), LS_OK);
  const struct ls_batch *batch;
  assert_int_equal(ls_loader_wait(loader, 0, &batch, &err), LS_OK);
  ls_loader_done(loader, batch);
  assert_int_equal(ls_loader_wait(loader, 1, &batch, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "sample 300 has label 11, the network has 10 classes"));
  ls_loader_free(loader);
  ls_dataset_close(dataset);
}

int main(void) {
  if (test_folder_make(NULL) != 0) return 1;
  if (!make_file()) {
    fputs("this file system has no sparse files of 100 GB\n", stderr);
    test_folder_remove(NULL);
    return 77;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_full),
      cmocka_unit_test(test_blocks),
      cmocka_unit_test(test_late_label),
  };
  return cmocka_run_group_tests(tests, NULL, test_folder_remove);
}
