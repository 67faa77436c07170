// The work of an import: samples fetched, decoded and changed by threads, written in order. Internal to src/data.
#ifndef LS_DATA_IMPORT_WORK_H
#define LS_DATA_IMPORT_WORK_H

#include "data/source.h"
#include "data/writer.h"

struct ls_import_work {
  const struct ls_import_options *options;
  struct ls_source *source;
  int part;
  int64_t first, count;  // positions of the part's (permuted) order
  bool permuted;
  const char *group_name;
  struct ls_data_writer *writer;
  // Results.
  struct ls_data_shape shape;
  int64_t written, skipped, largest_label;
};

// Makes the group and writes its samples. Called from the thread that uses HDF5.
ls_status ls_import_work(struct ls_import_work *work, struct ls_error *err);

#endif
