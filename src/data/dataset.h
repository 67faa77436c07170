// A data set in an HDF5 file: images and labels of one group, found by the HDF5 library and read past its lock.
// Open and close from one thread; reading (internal to src/data) from any.
#ifndef LS_DATA_DATASET_H
#define LS_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct ls_dataset;

struct ls_dataset_info {
  const char *path;                 // file
  const char *group;                // "/train"
  int64_t count;                    // N
  int64_t height, width, channels;  // of the stored images; of the largest where they differ (encoded ones)
  int64_t smallest_height, smallest_width;
  int64_t classes;              // from class_names, else 1 + the largest label
  float mean[4], deviation[4];  // per channel, 0-255 scale; has_statistics says whether the file gave them
  bool has_statistics;
  bool encoded;  // JPEG and PNG files, decoded when they are read
};

// `location`: "FILE.h5:/group". `images`, `labels`: names inside the group. A group that has no `images`, but `encoded`,
// holds encoded images. Labels are read and checked (0 <= label) here, unless there are millions of them: then when they
// are needed.
ls_status ls_dataset_open(const char *location, const char *images, const char *labels, struct ls_dataset **dataset,
                          struct ls_error *err);
void ls_dataset_close(struct ls_dataset *dataset);
const struct ls_dataset_info *ls_dataset_info(const struct ls_dataset *dataset);
const char *ls_dataset_class_name(const struct ls_dataset *dataset, int64_t label);  // "3" when the file has no names
// Fails when the data do not fit: channels, images smaller than the network's input, a label >= classes (names the
// sample).
ls_status ls_dataset_check_fits(const struct ls_dataset *dataset, int64_t channels, int64_t height, int64_t width,
                                int64_t classes, struct ls_error *err);

#endif
