// Importing IDX files (MNIST and its kin, http://yann.lecun.com/exdb/mnist): a folder with the four files, gzipped or not.
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "data/data_internal.h"
#include "data/import.h"
#include "data/writer.h"

enum { IDX_UINT8 = 0x08, MAX_IDX_AXES = 4 };

static const char *const fashion_classes[] = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                              "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};

struct idx {
  char *path;
  gzFile file;
  int axes;
  uint32_t dim[MAX_IDX_AXES];
};

static void idx_close(struct idx *idx) {
  if (idx->file) gzclose(idx->file);
  free(idx->path);
  *idx = (struct idx){0};
}

static ls_status idx_open(struct idx *idx, const char *folder, const char *name, struct ls_error *err) {
  char gz[256];
  snprintf(gz, sizeof gz, "%s.gz", name);
  idx->path = ls_path_join(folder, name);
  if (idx->path && access(idx->path, F_OK) != 0) {
    free(idx->path);
    idx->path = ls_path_join(folder, gz);
  }
  if (!idx->path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  idx->file = gzopen(idx->path, "rb");
  if (!idx->file) return ls_fail_errno(err, errno ? errno : ENOMEM, "cannot open '%s'", idx->path);
  uint8_t head[4], dim[4];
  if (gzread(idx->file, head, 4) != 4 || head[0] || head[1] || head[3] < 1 || head[3] > MAX_IDX_AXES) {
    return ls_fail(err, LS_CORRUPT,
                   "'%s' is no IDX file: it does not begin with two zero bytes, a type and 1 to %d axes", idx->path,
                   MAX_IDX_AXES);
  }
  if (head[2] != IDX_UINT8)
    return ls_fail(err, LS_UNSUPPORTED,
                   "'%s' holds values of type 0x%02x; only unsigned bytes (0x08) can be images or labels", idx->path,
                   head[2]);
  idx->axes = head[3];
  for (int i = 0; i < idx->axes; i++) {
    if (gzread(idx->file, dim, 4) != 4) return ls_fail(err, LS_CORRUPT, "'%s' ends inside its header", idx->path);
    idx->dim[i] = (uint32_t)dim[0] << 24 | (uint32_t)dim[1] << 16 | (uint32_t)dim[2] << 8 | dim[3];
  }
  return LS_OK;
}

static ls_status idx_read(struct idx *idx, uint8_t *to, size_t size, struct ls_error *err) {
  size_t done = 0;
  while (done < size) {
    int got = gzread(idx->file, to + done, size - done > 1 << 20 ? 1 << 20 : (unsigned)(size - done));
    if (got <= 0)
      return ls_fail(err, LS_CORRUPT, "'%s' is cut short or damaged: %zu bytes were expected here, %zu came", idx->path,
                     size, done);
    done += (size_t)got;
  }
  return LS_OK;
}

// After the last value: the gzip checksum is seen here, and what the header did not announce.
static ls_status idx_end(struct idx *idx, struct ls_error *err) {
  uint8_t more;
  int got = gzread(idx->file, &more, 1);
  if (got < 0) return ls_fail(err, LS_CORRUPT, "'%s' is damaged: its checksum is wrong", idx->path);
  if (got > 0) return ls_fail(err, LS_CORRUPT, "'%s' has more bytes than its header says", idx->path);
  return LS_OK;
}

static ls_status check_pair(const struct idx *images, const struct idx *labels, struct ls_error *err) {
  if (images->axes != 3 && images->axes != 4)
    return ls_fail(err, LS_INVALID, "'%s' has %d axes; images have 3 or 4", images->path, images->axes);
  if (labels->axes != 1) return ls_fail(err, LS_INVALID, "'%s' has %d axes; labels have 1", labels->path, labels->axes);
  if (images->dim[0] != labels->dim[0]) {
    return ls_fail(err, LS_INVALID, "'%s' has %u images, but '%s' has %u labels", images->path, images->dim[0],
                   labels->path, labels->dim[0]);
  }
  int64_t channels = images->axes == 4 ? images->dim[3] : 1;
  if (!images->dim[0] || !ls_image_size_good(images->dim[1], images->dim[2], channels)) {
    return ls_fail(err, LS_INVALID,
                   "'%s' has %u images of %ux%ux%" PRId64 "; allowed are at least one image of " LS_IMAGE_SIZES,
                   images->path, images->dim[0], images->dim[1], images->dim[2], channels);
  }
  return LS_OK;
}

static ls_status import_part(const struct ls_import_options *options, struct ls_data_writer *writer, const char *group,
                             const char *prefix, uint64_t *count, struct ls_import_result *result,
                             struct ls_error *err) {
  char image_name[64], label_name[64];
  snprintf(image_name, sizeof image_name, "%s-images-idx3-ubyte", prefix);
  snprintf(label_name, sizeof label_name, "%s-labels-idx1-ubyte", prefix);
  struct idx images = {0}, labels = {0};
  ls_status status = idx_open(&images, options->source, image_name, err);
  if (status == LS_OK) status = idx_open(&labels, options->source, label_name, err);
  if (status == LS_OK) status = check_pair(&images, &labels, err);
  uint8_t *pixels = NULL;
  struct ls_data_group *out = NULL;
  if (status == LS_OK) {
    struct ls_data_shape shape = {images.dim[0], images.dim[1], images.dim[2], images.axes == 4 ? images.dim[3] : 1};
    result->height = shape.height, result->width = shape.width, result->channels = shape.channels;
    status = ls_data_writer_group(writer, group, &shape, &out, err);
    pixels = malloc((size_t)(shape.height * shape.width * shape.channels));
    if (status == LS_OK && !pixels) status = ls_fail(err, LS_NO_MEMORY, "no memory for an image");
    for (uint32_t i = 0; i < images.dim[0] && status == LS_OK; i++) {
      uint8_t label = 0;
      status = idx_read(&images, pixels, (size_t)(shape.height * shape.width * shape.channels), err);
      if (status == LS_OK) status = idx_read(&labels, &label, 1, err);
      if (status == LS_OK) status = ls_data_group_put(out, i, pixels, label, err);
      if (label >= result->classes) result->classes = label + 1;
      if (options->progress && (i % 1024 == 0 || i + 1 == images.dim[0]))
        options->progress(options->user, group, i + 1, images.dim[0]);
    }
    if (status == LS_OK) status = idx_end(&images, err);
    if (status == LS_OK) status = idx_end(&labels, err);
    *count = images.dim[0];
  }
  if (out) {
    ls_status closed = ls_data_group_finish(out, status == LS_OK ? err : NULL);
    if (status == LS_OK) status = closed;
  }
  free(pixels);
  idx_close(&images);
  idx_close(&labels);
  return status;
}

bool ls_import_is_idx(const char *source) {
  static const char *const names[] = {"train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"};
  for (int i = 0; i < 2; i++) {
    char *path = ls_path_join(source, names[i]);
    bool there = path && access(path, R_OK) == 0;
    free(path);
    if (there) return true;
  }
  return false;
}

ls_status ls_import_idx(const struct ls_import_options *options, struct ls_data_writer *writer,
                        struct ls_import_result *result, struct ls_error *err) {
  snprintf(result->kind, sizeof result->kind, "IDX");
  LS_TRY(import_part(options, writer, "/train", "train", &result->train, result, err));
  LS_TRY(import_part(options, writer, "/test", "t10k", &result->test, result, err));
  bool fashion = result->classes == 10 && result->height == 28 && strcasestr(options->source, "fashion");
  return fashion ? ls_data_writer_class_names(writer, fashion_classes, 10, err) : LS_OK;
}
