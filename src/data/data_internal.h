// Shared by the files of src/data.
#ifndef LS_DATA_DATA_INTERNAL_H
#define LS_DATA_DATA_INTERNAL_H

#include <hdf5.h>

#include "data/augment.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/locate.h"

enum { LS_MAX_SIDE = 65536, LS_MAX_PIXELS = 1 << 28, LS_LABELS_IN_MEMORY = 4 << 20 };

// Whether an image of this size can be one: 1 to LS_MAX_SIDE a side, at most LS_MAX_PIXELS, 1 to LS_MAX_CHANNELS.
bool ls_image_size_good(int64_t height, int64_t width, int64_t channels);
#define LS_IMAGE_SIZES "1 to 65536 pixels a side, 268435456 in all, and 1 to 4 channels"

struct ls_chunks;

struct ls_dataset {
  struct ls_dataset_info info;
  char *path, *group;
  int fd;
  enum { LS_STORED_RAW, LS_STORED_CHUNKED, LS_STORED_ENCODED } stored;
  uint64_t images_offset, image_bytes;  // raw pixels; of the first encoded file
  struct ls_chunks *chunks;
  uint64_t encoded_bytes, offsets_offset, sizes_offset;  // encoded: bytes in all, uint64 [N+1], int32 [N,2]
  // Labels: all of them when there are few, else read when needed.
  int32_t *labels;
  uint64_t labels_offset;
  size_t label_bytes;  // of one stored label: 1, 2, 4, 8
  bool label_signed;
  size_t class_name_count;
  char **class_names;
};

// Bytes of image `index`, stored raw, into `pixels` [H,W,C]. Any thread. (Other ways of storing: reader.h.)
ls_status ls_dataset_read_image(const struct ls_dataset *dataset, int64_t index, uint8_t *pixels, struct ls_error *err);
// Where the encoded image `index` is in the file. Any thread.
ls_status ls_dataset_encoded_place(const struct ls_dataset *dataset, int64_t index, uint64_t *offset, uint64_t *bytes,
                                   struct ls_error *err);
ls_status ls_dataset_image_size(const struct ls_dataset *dataset, int64_t index, int64_t *height, int64_t *width,
                                struct ls_error *err);
// About the bytes of one sample in the file.
uint64_t ls_dataset_sample_bytes(const struct ls_dataset *dataset);
// Samples [first, first + count) will be read soon. Any thread.
void ls_dataset_will_read(const struct ls_dataset *dataset, int64_t first, int64_t count);
ls_status ls_dataset_read_label(const struct ls_dataset *dataset, int64_t index, int32_t *label, struct ls_error *err);
// The error of a label that is not below `classes`.
ls_status ls_dataset_label_too_large(const struct ls_dataset *dataset, int64_t index, int32_t label, int64_t classes,
                                     struct ls_error *err);

#endif
