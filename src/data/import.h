// Making data sets: from what people have to one HDF5 file of raw, contiguous images (or of whole JPEG and PNG files).
// Blocking; one call at a time in a process (the HDF5 library is used from the calling thread). Samples are decoded by
// threads of its own; what is written does not depend on their number.
#ifndef LS_DATA_IMPORT_H
#define LS_DATA_IMPORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ls_import_options {
  const char *source;           // file or folder; its kind is recognised
  const char *destination;      // FILE.h5; written under a temporary name and renamed when it is whole
  bool replace;                 // a file that is there already may be replaced
  int64_t resize;               // pixels of the shorter side; 0: as they are
  int64_t crop;                 // side of the square cut out of the centre; 0: none
  bool grey;                    // one channel instead of three, for JPEG and PNG
  bool encoded;                 // keep the bytes of JPEG and PNG files instead of pixels
  double validation;            // share of /train that becomes /validation
  bool skip_damaged;            // go on without samples that cannot be read; else the first one ends the import
  const char *class_names;      // file with one name a line; NULL: the source's own
  bool bgr;                     // raw images of an LMDB have blue first
  int64_t first_label;          // the source's smallest label, which becomes 0
  const char *images, *labels;  // names of the datasets, in sources that are HDF5 files
  int threads;                  // 0: one a core
  const atomic_bool *stop;      // set (by a signal): give up, LS_CANCELLED; may be NULL
  // Told now and then, from the calling thread; may be NULL.
  void (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
  // Told of each sample that is skipped; may be NULL.
  void (*skipped)(void *user, const char *why);
  void *user;
};

struct ls_import_result {
  char kind[64];  // "IDX (MNIST)"
  uint64_t train, validation, test, skipped;
  int64_t height, width, channels, classes;
  bool encoded;
  bool unchanged;  // the destination was there and `replace` was not set: nothing was done
};

ls_status ls_import(const struct ls_import_options *options, struct ls_import_result *result, struct ls_error *err);
// Line `i` of the list of what can be imported; NULL behind the last.
const char *ls_import_kind(int i);

#endif
