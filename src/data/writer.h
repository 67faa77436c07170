// Writing a data set file: groups of images and labels, contiguous and 4096-aligned, with mean and deviation as
// attributes. The file stands under a temporary name until it is whole. One thread (ls_data_sum: any).
//
//   GROUP/images   uint8 [N,H,W,C]      or    GROUP/encoded  uint8 [bytes], one JPEG or PNG file after the other
//   GROUP/labels   int32 [N]                  GROUP/offsets  uint64 [N+1], where each begins and the last one ends
//                                             GROUP/sizes    int32 [N,2], height and width
//                                             GROUP/labels   int32 [N]; attribute `channels`
#ifndef LS_DATA_WRITER_H
#define LS_DATA_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/augment.h"

struct ls_data_writer;
struct ls_data_group;

struct ls_data_shape {
  int64_t count;  // samples, at most
  int64_t height, width, channels;
  bool encoded;
  uint64_t encoded_bytes;  // at most
};

// What mean and deviation are made of; whole numbers, so that no order matters.
struct ls_data_sums {
  uint64_t pixels, sum[LS_MAX_CHANNELS], squares[LS_MAX_CHANNELS];
};

struct ls_data_sample {
  const uint8_t *data;  // pixels [H,W,C], or the encoded file
  size_t size;
  int64_t height, width;  // of an encoded image
  int32_t label;
  struct ls_data_sums sums;
};

ls_status ls_data_writer_open(const char *path, struct ls_data_writer **writer, struct ls_error *err);
ls_status ls_data_writer_group(struct ls_data_writer *writer, const char *name, const struct ls_data_shape *shape,
                               struct ls_data_group **group, struct ls_error *err);
void ls_data_sum(const uint8_t *pixels, int64_t count, int64_t channels, struct ls_data_sums *sums);
// The next sample of the group.
ls_status ls_data_group_put(struct ls_data_group *group, const struct ls_data_sample *sample, struct ls_error *err);
// Writes what is left and the statistics, makes the datasets as small as what was put, and frees the group.
ls_status ls_data_group_finish(struct ls_data_group *group, struct ls_error *err);
ls_status ls_data_writer_class_names(struct ls_data_writer *writer, const char *const *names, size_t count,
                                     struct ls_error *err);
// `keep`: the file gets its name, durably; else it is removed. Frees the writer.
ls_status ls_data_writer_close(struct ls_data_writer *writer, bool keep, struct ls_error *err);

#endif
