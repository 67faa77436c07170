// Making data sets: from what people have to one HDF5 file of raw, contiguous images.
// Blocking; one call at a time in a process (the HDF5 library is used from the calling thread).
#ifndef LS_DATA_IMPORT_H
#define LS_DATA_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ls_import_options {
  const char *source;       // file or folder; its kind is recognised
  const char *destination;  // FILE.h5; written under a temporary name and renamed when it is whole
  bool replace;             // a file that is there already may be replaced
  // Told now and then; may be NULL.
  void (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
  void *user;
};

struct ls_import_result {
  char kind[32];  // "IDX (MNIST)"
  uint64_t train, test;
  int64_t height, width, channels, classes;
  bool unchanged;  // the destination was there and `replace` was not set: nothing was done
};

ls_status ls_import(const struct ls_import_options *options, struct ls_import_result *result, struct ls_error *err);

#endif
