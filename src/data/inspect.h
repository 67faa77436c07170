// What an HDF5 file holds, and what of it a job can use. Blocking; one call at a time in a process (HDF5 library).
#ifndef LS_DATA_INSPECT_H
#define LS_DATA_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/dataset.h"

struct ls_inspected_dataset {
  char *name;         // inside its group
  char shape[128];    // "60000x28x28x1"
  char type[64];      // "uint8"
  char storage[128];  // "contiguous", "chunked 64x28x28x1, deflate", "virtual", "external", "link to another file"
  uint64_t bytes;     // stored
};

struct ls_inspected_group {
  char *name;  // "/train"
  struct ls_inspected_dataset *datasets;
  size_t dataset_count;
  bool usable;                  // a job can take it as it is
  char *reason;                 // why not
  struct ls_dataset_info info;  // when usable; path and group are NULL
  uint64_t *histogram;          // [classes]
  char **class_names;           // [classes]
};

struct ls_inspection {
  uint64_t file_bytes;
  struct ls_inspected_group *groups;  // those that hold datasets
  size_t group_count;
};

// `group`: only this one and what is below it; NULL for all.
ls_status ls_inspect(const char *path, const char *group, struct ls_inspection **inspection, struct ls_error *err);
void ls_inspection_free(struct ls_inspection *inspection);

#endif
