// Files for the tests of src/data: a folder of one's own, HDF5 files, bytes.
#ifndef LS_TESTS_SUPPORT_DATA_FILES_H
#define LS_TESTS_SUPPORT_DATA_FILES_H

#include <ftw.h>
#include <hdf5.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char test_folder[64];

static inline int test_folder_make(void **state) {
  (void)state;
  strcpy(test_folder, "/tmp/lockstep-test-XXXXXX");
  return mkdtemp(test_folder) ? 0 : -1;
}

static inline int test_folder_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw) {
  (void)info, (void)flag, (void)ftw;
  return remove(path);
}

static inline int test_folder_remove(void **state) {
  (void)state;
  nftw(test_folder, test_folder_entry, 16, FTW_DEPTH | FTW_PHYS);
  return 0;
}

// A path in the folder; one of eight buffers in turn.
static inline const char *test_path(const char *name) {
  static char paths[8][256];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
  return path;
}

static inline void test_write(const char *name, const void *data, size_t size) {
  FILE *file = fopen(test_path(name), "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

static inline void *test_read(const char *name, size_t *size) {
  FILE *file = fopen(test_path(name), "rb");
  if (!file) abort();
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *data = malloc(*size + 1);
  if (!data || fread(data, 1, *size, file) != *size) abort();
  fclose(file);
  return data;
}

static inline hid_t test_h5(const char *name) {
  hid_t file = H5Fcreate(test_path(name), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  if (file < 0) abort();
  return file;
}

// A dataset of any type and shape; `plist` may be H5P_DEFAULT; `data` NULL writes nothing.
static inline void test_h5_dataset(hid_t where, const char *name, hid_t type, int rank, const hsize_t *dim, hid_t plist,
                                   const void *data) {
  hid_t space = H5Screate_simple(rank, dim, NULL);
  hid_t id = H5Dcreate2(where, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
  if (id < 0) abort();
  // In memory: the host's form of what is stored.
  if (data) {
    hid_t memory = H5Tget_native_type(type, H5T_DIR_ASCEND);
    if (H5Dwrite(id, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) abort();
    H5Tclose(memory);
  }
  H5Dclose(id);
  H5Sclose(space);
}

// What pixel (y, x, c) of image i holds in test files: every image and place differs.
static inline uint8_t test_pixel(int64_t i, int64_t y, int64_t x, int64_t c) {
  return (uint8_t)(i * 37 + y * 11 + x * 5 + c * 71 + (i >> 3));
}

static inline uint8_t *test_pixels(int64_t n, int64_t h, int64_t w, int64_t c) {
  uint8_t *pixels = malloc((size_t)(n * h * w * c));
  uint8_t *p = pixels;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t y = 0; y < h; y++) {
      for (int64_t x = 0; x < w; x++) {
        for (int64_t k = 0; k < c; k++) *p++ = test_pixel(i, y, x, k);
      }
    }
  }
  return pixels;
}

// images [n,h,w,c] of test_pixel and labels i % classes (int64, as numpy's) into `where`. `images_plist` as above.
static inline void test_h5_images(hid_t where, int64_t n, int64_t h, int64_t w, int64_t c, int64_t classes,
                                  hid_t images_plist) {
  uint8_t *pixels = test_pixels(n, h, w, c);
  int64_t *labels = malloc((size_t)n * sizeof *labels);
  for (int64_t i = 0; i < n; i++) labels[i] = i % classes;
  hsize_t dim[4] = {(hsize_t)n, (hsize_t)h, (hsize_t)w, (hsize_t)c};
  test_h5_dataset(where, "images", H5T_STD_U8LE, 4, dim, images_plist, pixels);
  test_h5_dataset(where, "labels", H5T_STD_I64LE, 1, dim, H5P_DEFAULT, labels);
  free(pixels);
  free(labels);
}

#endif
