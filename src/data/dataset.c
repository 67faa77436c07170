// Data sets in HDF5 files: see dataset.h.
//
// The HDF5 library finds out where the bytes are (locate.c) and is then left alone: it holds one lock for all threads,
// and reading through it gets slower with a second thread.
#include "data/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/data_internal.h"

static ls_status split_location(struct ls_dataset *d, const char *location, struct ls_error *err) {
  const char *colon = strrchr(location, ':');
  d->path = colon ? strndup(location, (size_t)(colon - location)) : strdup(location);
  d->group = strdup(colon && colon[1] ? colon + 1 : "/");
  if (!d->path || !d->group) return ls_fail(err, LS_NO_MEMORY, "no memory for a data set");
  return LS_OK;
}

bool ls_image_size_good(int64_t height, int64_t width, int64_t channels) {
  return height >= 1 && width >= 1 && height <= LS_MAX_SIDE && width <= LS_MAX_SIDE &&
         height * width <= LS_MAX_PIXELS && channels >= 1 && channels <= LS_MAX_CHANNELS;
}

static ls_status take_images(struct ls_dataset *d, const char *name, const struct ls_located *f, struct ls_error *err) {
  if (strcmp(f->type_name, "uint8") != 0) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold uint8 values, not %s", d->path, name, f->type_name);
  }
  if (f->rank != 3 && f->rank != 4) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' has %d axes; images are [N,height,width,channels] or [N,height,width]", d->path,
                   name, f->rank);
  }
  d->info.count = (int64_t)f->dim[0];
  d->info.height = (int64_t)f->dim[1];
  d->info.width = (int64_t)f->dim[2];
  d->info.channels = f->rank == 4 ? (int64_t)f->dim[3] : 1;
  d->info.smallest_height = d->info.height;
  d->info.smallest_width = d->info.width;
  if (d->info.count < 1) return ls_fail(err, LS_INVALID, "'%s': dataset '%s' is empty", d->path, name);
  if (!ls_image_size_good(d->info.height, d->info.width, d->info.channels)) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' has images of %" PRId64 "x%" PRId64 "x%" PRId64 "; allowed are " LS_IMAGE_SIZES,
                   d->path, name, d->info.height, d->info.width, d->info.channels);
  }
  LS_TRY(ls_located_storage(f, err));
  d->images_offset = f->offset;
  d->image_bytes = (uint64_t)(d->info.height * d->info.width * d->info.channels);
  return LS_OK;
}

ls_status ls_dataset_read_label(const struct ls_dataset *d, int64_t index, int32_t *label, struct ls_error *err) {
  if (d->labels) {
    *label = d->labels[index];
    return LS_OK;
  }
  uint8_t raw[8] = {0};
  if (pread(d->fd, raw, d->label_bytes, (off_t)(d->labels_offset + (uint64_t)index * d->label_bytes)) !=
      (ssize_t)d->label_bytes) {
    return ls_fail(err, LS_IO, "'%s': cannot read label %" PRId64, d->path, index);
  }
  int64_t value = 0;
  memcpy(&value, raw, sizeof value);
  int shift = 64 - 8 * (int)d->label_bytes;
  if (d->label_signed && shift) value = (int64_t)((uint64_t)value << shift) >> shift;
  if (value < 0 || value > INT32_MAX) {
    return ls_fail(err, LS_INVALID, "'%s': sample %" PRId64 " has label %" PRId64 "; labels begin at 0", d->path, index,
                   value);
  }
  *label = (int32_t)value;
  return LS_OK;
}

static ls_status take_labels(struct ls_dataset *d, const char *name, const struct ls_located *f, struct ls_error *err) {
  uint64_t a_sample = 1;
  for (int i = 1; i < f->rank; i++) a_sample *= f->dim[i];
  if (f->type_class != H5T_INTEGER || a_sample != 1 || f->element_bytes > 8) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold one whole number a sample", d->path, name);
  }
  if ((int64_t)f->dim[0] != d->info.count) {
    return ls_fail(err, LS_INVALID, "'%s': %" PRId64 " images, but %" PRIu64 " labels in '%s'", d->path, d->info.count,
                   (uint64_t)f->dim[0], name);
  }
  LS_TRY(ls_located_storage(f, err));
  d->labels_offset = f->offset;
  d->label_bytes = f->element_bytes;
  d->label_signed = f->is_signed;
  if (d->info.count > LS_LABELS_IN_MEMORY) return LS_OK;  // checked when they are read
  int32_t *labels = malloc((size_t)d->info.count * sizeof *labels);
  if (!labels) return ls_fail(err, LS_NO_MEMORY, "no memory for the labels of '%s'", d->path);
  int32_t largest = 0;
  for (int64_t i = 0; i < d->info.count; i++) {
    if (ls_dataset_read_label(d, i, &labels[i], err) != LS_OK) {
      free(labels);
      return err->status;
    }
    if (labels[i] > largest) largest = labels[i];
  }
  d->labels = labels;
  d->info.classes = largest + 1;
  return LS_OK;
}

static bool read_floats(hid_t file, hid_t group, const char *name, int64_t count, float *values) {
  hid_t attribute = ls_hdf5_attribute(file, group, name);
  if (attribute < 0) return false;
  hid_t space = H5Aget_space(attribute);
  bool good = H5Sget_simple_extent_npoints(space) == count && H5Aread(attribute, H5T_NATIVE_FLOAT, values) >= 0;
  H5Sclose(space);
  H5Aclose(attribute);
  return good;
}

static ls_status read_group(struct ls_dataset *d, hid_t file, hid_t group, uint64_t file_bytes, const char *images,
                            const char *labels, struct ls_error *err) {
  struct ls_located l;
  LS_TRY(ls_locate(group, d->path, d->group, images, file_bytes, &l, err));
  LS_TRY(take_images(d, images, &l, err));
  LS_TRY(ls_locate(group, d->path, d->group, labels, file_bytes, &l, err));
  LS_TRY(take_labels(d, labels, &l, err));
  d->info.has_statistics = read_floats(file, group, "mean", d->info.channels, d->info.mean) &&
                           read_floats(file, group, "deviation", d->info.channels, d->info.deviation);
  size_t names;
  d->class_names = ls_hdf5_class_names(file, group, &names);
  if (d->info.classes < (int64_t)names) d->info.classes = (int64_t)names;
  return LS_OK;
}

static ls_status read_file(struct ls_dataset *d, const char *images, const char *labels, struct ls_error *err) {
  uint64_t file_bytes;
  hid_t file, group = -1;
  LS_TRY(ls_hdf5_open(d->path, &file, &d->fd, &file_bytes, err));
  ls_status status = ls_hdf5_open_group(file, d->path, d->group, &group, err);
  if (status == LS_OK) status = read_group(d, file, group, file_bytes, images, labels, err);
  if (group >= 0) H5Gclose(group);
  H5Fclose(file);
  return status;
}

ls_status ls_dataset_open(const char *location, const char *images, const char *labels, struct ls_dataset **result,
                          struct ls_error *err) {
  *result = NULL;
  struct ls_error own = LS_ERROR_INIT;
  if (!err) err = &own;
  struct ls_dataset *d = calloc(1, sizeof *d);
  if (!d) return ls_fail(err, LS_NO_MEMORY, "no memory for a data set");
  d->fd = -1;
  ls_status status = split_location(d, location, err);
  if (status == LS_OK) status = read_file(d, images ? images : "images", labels ? labels : "labels", err);
  if (status != LS_OK) {
    ls_dataset_close(d);
    return status;
  }
  d->info.path = d->path;
  d->info.group = d->group;
  *result = d;
  return LS_OK;
}

void ls_dataset_close(struct ls_dataset *d) {
  if (!d) return;
  if (d->fd >= 0) close(d->fd);
  for (char **name = d->class_names; name && *name; name++) free(*name);
  free(d->class_names);
  free(d->labels);
  free(d->path);
  free(d->group);
  free(d);
}

const struct ls_dataset_info *ls_dataset_info(const struct ls_dataset *dataset) { return &dataset->info; }

const char *ls_dataset_class_name(const struct ls_dataset *d, int64_t label) {
  static _Thread_local char number[24];
  for (int64_t i = 0; d->class_names && d->class_names[i]; i++) {
    if (i == label) return d->class_names[i];
  }
  snprintf(number, sizeof number, "%" PRId64, label);
  return number;
}

ls_status ls_dataset_label_too_large(const struct ls_dataset *d, int64_t index, int32_t label, int64_t classes,
                                     struct ls_error *err) {
  return ls_fail(err, LS_INVALID,
                 "'%s:%s': sample %" PRId64 " has label %d, the network has %" PRId64 " classes, 0 to %" PRId64,
                 d->info.path, d->info.group, index, label, classes, classes - 1);
}

ls_status ls_dataset_check_fits(const struct ls_dataset *d, int64_t channels, int64_t height, int64_t width,
                                int64_t classes, struct ls_error *err) {
  const struct ls_dataset_info *i = &d->info;
  if (i->channels != channels) {
    return ls_fail(err, LS_INVALID, "'%s:%s' has images of %" PRId64 " channels, the network takes %" PRId64, i->path,
                   i->group, i->channels, channels);
  }
  if (i->smallest_height < height || i->smallest_width < width) {
    return ls_fail(err, LS_INVALID,
                   "'%s:%s' has images of %" PRId64 "x%" PRId64 ", the network takes %" PRId64 "x%" PRId64
                   " cut out of them",
                   i->path, i->group, i->smallest_height, i->smallest_width, height, width);
  }
  for (int64_t s = 0; d->labels && classes > 0 && s < i->count; s++) {
    if (d->labels[s] >= classes) return ls_dataset_label_too_large(d, s, d->labels[s], classes, err);
  }
  return LS_OK;
}

ls_status ls_dataset_read_image(const struct ls_dataset *d, int64_t index, uint8_t *pixels, struct ls_error *err) {
  uint64_t done = 0;
  while (done < d->image_bytes) {
    ssize_t got = pread(d->fd, pixels + done, d->image_bytes - done,
                        (off_t)(d->images_offset + (uint64_t)index * d->image_bytes + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ls_fail_errno(err, errno, "cannot read image %" PRId64 " of '%s'", index, d->path);
    if (got == 0)
      return ls_fail(err, LS_CORRUPT, "'%s' got shorter while it was read: image %" PRId64 " is gone", d->path, index);
    done += (uint64_t)got;
  }
  return LS_OK;
}

ls_status ls_dataset_image_size(const struct ls_dataset *d, int64_t index, int64_t *height, int64_t *width,
                                struct ls_error *err) {
  (void)index, (void)err;
  *height = d->info.height;
  *width = d->info.width;
  return LS_OK;
}
