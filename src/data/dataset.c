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

#include "data/chunks.h"
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

// Where things are looked for.
struct place {
  hid_t file, group;
  uint64_t file_bytes;
};

static ls_status check_images(struct ls_dataset *d, const char *name, const struct ls_located *f,
                              struct ls_error *err) {
  if (strcmp(f->type_name, "uint8") != 0) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold uint8 values, not %s", d->path, name, f->type_name);
  }
  if (f->rank != 3 && f->rank != 4) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' has %d axes; images are [N,height,width,channels] or [N,height,width]", d->path,
                   name, f->rank);
  }
  d->info.count = (int64_t)f->dim[0];
  d->info.height = d->info.smallest_height = (int64_t)f->dim[1];
  d->info.width = d->info.smallest_width = (int64_t)f->dim[2];
  d->info.channels = f->rank == 4 ? (int64_t)f->dim[3] : 1;
  if (d->info.count < 1) return ls_fail(err, LS_INVALID, "'%s': dataset '%s' is empty", d->path, name);
  if (!ls_image_size_good(d->info.height, d->info.width, d->info.channels)) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' has images of %" PRId64 "x%" PRId64 "x%" PRId64 "; allowed are " LS_IMAGE_SIZES,
                   d->path, name, d->info.height, d->info.width, d->info.channels);
  }
  d->image_bytes = (uint64_t)(d->info.height * d->info.width * d->info.channels);
  return LS_OK;
}

static ls_status take_images(struct ls_dataset *d, const struct place *place, const char *name, struct ls_error *err) {
  struct ls_located f;
  LS_TRY(ls_locate(place->group, d->path, d->group, name, place->file_bytes, &f, err));
  LS_TRY(check_images(d, name, &f, err));
  if (!f.chunked) {
    LS_TRY(ls_located_storage(&f, err));
    d->images_offset = f.offset;
    return LS_OK;
  }
  d->stored = LS_STORED_CHUNKED;
  hid_t id = H5Dopen2(place->group, name, H5P_DEFAULT);
  ls_status status = ls_chunks_open(id, d->path, name, place->file_bytes, &d->chunks, err);
  H5Dclose(id);
  return status;
}

// One of the datasets that describe encoded images: contiguous, of this type and these lengths.
static ls_status take_table(struct ls_dataset *d, const struct place *place, const char *name, const char *type,
                            uint64_t rows, uint64_t columns, struct ls_located *f, struct ls_error *err) {
  LS_TRY(ls_locate(place->group, d->path, d->group, name, place->file_bytes, f, err));
  uint64_t found_columns = f->rank == 1 ? 1 : f->rank == 2 ? f->dim[1] : 0;
  if (strcmp(f->type_name, type) != 0 || (rows && f->dim[0] != rows) || found_columns != columns) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold %s values [%" PRIu64 ",%" PRIu64 "]", d->path, name,
                   type, rows, columns);
  }
  return ls_located_storage(f, err);
}

// Sizes of all images, piece by piece: the smallest and the largest are wanted.
static ls_status scan_sizes(struct ls_dataset *d, struct ls_error *err) {
  enum { PIECE = 4096 };
  int32_t sizes[PIECE][2];
  d->info.smallest_height = d->info.smallest_width = INT64_MAX;
  for (int64_t at = 0; at < d->info.count; at += PIECE) {
    int64_t count = d->info.count - at < PIECE ? d->info.count - at : PIECE;
    ssize_t bytes = (ssize_t)(count * (int64_t)sizeof sizes[0]);
    if (pread(d->fd, sizes, (size_t)bytes, (off_t)(d->sizes_offset + (uint64_t)at * sizeof sizes[0])) != bytes)
      return ls_fail_errno(err, errno, "cannot read the sizes of images in '%s'", d->path);
    for (int64_t i = 0; i < count; i++) {
      int64_t h = sizes[i][0], w = sizes[i][1];
      if (!ls_image_size_good(h, w, d->info.channels)) {
        return ls_fail(err, LS_INVALID,
                       "'%s': image %" PRId64 " has %" PRId64 "x%" PRId64 " pixels; allowed are " LS_IMAGE_SIZES,
                       d->path, at + i, h, w);
      }
      d->info.height = h > d->info.height ? h : d->info.height;
      d->info.width = w > d->info.width ? w : d->info.width;
      d->info.smallest_height = h < d->info.smallest_height ? h : d->info.smallest_height;
      d->info.smallest_width = w < d->info.smallest_width ? w : d->info.smallest_width;
    }
  }
  return LS_OK;
}

static ls_status take_encoded(struct ls_dataset *d, const struct place *place, struct ls_error *err) {
  struct ls_located f;
  LS_TRY(take_table(d, place, "encoded", "uint8", 0, 1, &f, err));
  d->stored = LS_STORED_ENCODED;
  d->info.encoded = true;
  d->images_offset = f.offset;
  d->encoded_bytes = f.bytes;
  LS_TRY(take_table(d, place, "offsets", "uint64", 0, 1, &f, err));
  d->offsets_offset = f.offset;
  d->info.count = (int64_t)f.dim[0] - 1;
  if (d->info.count < 1) return ls_fail(err, LS_INVALID, "'%s': group '%s' is empty", d->path, d->group);
  LS_TRY(take_table(d, place, "sizes", "int32", (uint64_t)d->info.count, 2, &f, err));
  d->sizes_offset = f.offset;
  hid_t attribute = ls_hdf5_attribute(place->file, place->group, "channels");
  int64_t channels = 0;
  if (attribute >= 0) {
    H5Aread(attribute, H5T_NATIVE_INT64, &channels);
    H5Aclose(attribute);
  }
  if (channels != 1 && channels != 3)
    return ls_fail(err, LS_INVALID, "'%s': group '%s' needs an attribute 'channels' of 1 or 3", d->path, d->group);
  d->info.channels = channels;
  return scan_sizes(d, err);
}

static ls_status check_label(const struct ls_dataset *d, int64_t index, int64_t value, struct ls_error *err) {
  if (value >= 0 && value < INT32_MAX) return LS_OK;
  return ls_fail(err, LS_INVALID, "'%s': sample %" PRId64 " has label %" PRId64 "; labels begin at 0", d->path, index,
                 value);
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
  *label = (int32_t)value;
  return check_label(d, index, value, err);
}

// All labels through the HDF5 library, whatever their type and layout.
static ls_status read_labels(struct ls_dataset *d, const struct place *place, const char *name, struct ls_error *err) {
  size_t count = (size_t)d->info.count;
  int64_t *values = malloc(count * sizeof *values);
  d->labels = malloc(count * sizeof *d->labels);
  ls_status status = LS_OK;
  if (!values || !d->labels) status = ls_fail(err, LS_NO_MEMORY, "no memory for the labels of '%s'", d->path);
  hid_t id = H5Dopen2(place->group, name, H5P_DEFAULT);
  if (status == LS_OK && H5Dread(id, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
    status = ls_fail(err, LS_CORRUPT, "'%s': dataset '%s' cannot be read", d->path, name);
  H5Dclose(id);
  for (size_t i = 0; i < count && status == LS_OK; i++) {
    status = check_label(d, (int64_t)i, values[i], err);
    d->labels[i] = (int32_t)values[i];
    if (values[i] >= d->info.classes) d->info.classes = values[i] + 1;
  }
  free(values);
  return status;
}

static ls_status take_labels(struct ls_dataset *d, const struct place *place, const char *name, struct ls_error *err) {
  struct ls_located f;
  LS_TRY(ls_locate(place->group, d->path, d->group, name, place->file_bytes, &f, err));
  uint64_t a_sample = 1;
  for (int i = 1; i < f.rank; i++) a_sample *= f.dim[i];
  if (f.type_class != H5T_INTEGER || a_sample != 1 || f.element_bytes > 8) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold one whole number a sample", d->path, name);
  }
  if ((int64_t)f.dim[0] != d->info.count) {
    return ls_fail(err, LS_INVALID, "'%s': %" PRId64 " images, but %" PRIu64 " labels in '%s'", d->path, d->info.count,
                   (uint64_t)f.dim[0], name);
  }
  // Few are read now; where they lie matters for many only.
  bool few = d->info.count <= LS_LABELS_IN_MEMORY;
  if (!few || f.storage.status == LS_CORRUPT) LS_TRY(ls_located_storage(&f, err));
  if (few) return read_labels(d, place, name, err);
  d->labels_offset = f.offset;
  d->label_bytes = f.element_bytes;
  d->label_signed = f.is_signed;
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

static bool has_link(hid_t group, const char *name) { return H5Lexists(group, name, H5P_DEFAULT) > 0; }

static ls_status read_group(struct ls_dataset *d, const struct place *place, const char *images, const char *labels,
                            struct ls_error *err) {
  if (!has_link(place->group, images) && has_link(place->group, "encoded"))
    LS_TRY(take_encoded(d, place, err));
  else
    LS_TRY(take_images(d, place, images, err));
  LS_TRY(take_labels(d, place, labels, err));
  d->info.has_statistics = read_floats(place->file, place->group, "mean", d->info.channels, d->info.mean) &&
                           read_floats(place->file, place->group, "deviation", d->info.channels, d->info.deviation);
  d->class_names = ls_hdf5_class_names(place->file, place->group, &d->class_name_count);
  if (d->info.classes < (int64_t)d->class_name_count) d->info.classes = (int64_t)d->class_name_count;
  return LS_OK;
}

static ls_status read_file(struct ls_dataset *d, const char *images, const char *labels, struct ls_error *err) {
  struct place place = {.file = -1, .group = -1};
  LS_TRY(ls_hdf5_open(d->path, &place.file, &d->fd, &place.file_bytes, err));
  ls_status status = ls_hdf5_open_group(place.file, d->path, d->group, &place.group, err);
  if (status == LS_OK) status = read_group(d, &place, images, labels, err);
  if (place.group >= 0) H5Gclose(place.group);
  H5Fclose(place.file);
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
  ls_chunks_free(d->chunks);
  free(d->labels);
  free(d->path);
  free(d->group);
  free(d);
}

const struct ls_dataset_info *ls_dataset_info(const struct ls_dataset *dataset) { return &dataset->info; }

const char *ls_dataset_class_name(const struct ls_dataset *d, int64_t label) {
  static _Thread_local char number[24];
  if (d->class_names && label >= 0 && (uint64_t)label < d->class_name_count) return d->class_names[label];
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

// `count` numbers of `bytes` each at element `index` of a table.
static ls_status read_table(const struct ls_dataset *d, uint64_t offset, int64_t index, size_t bytes, void *to,
                            size_t count, struct ls_error *err) {
  ssize_t size = (ssize_t)(bytes * count);
  if (pread(d->fd, to, (size_t)size, (off_t)(offset + (uint64_t)index * bytes)) == size) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s' got shorter while it was read: image %" PRId64 " is gone", d->path, index);
}

ls_status ls_dataset_image_size(const struct ls_dataset *d, int64_t index, int64_t *height, int64_t *width,
                                struct ls_error *err) {
  *height = d->info.height;
  *width = d->info.width;
  if (d->stored != LS_STORED_ENCODED ||
      (d->info.smallest_height == d->info.height && d->info.smallest_width == d->info.width))
    return LS_OK;
  int32_t size[2];
  LS_TRY(read_table(d, d->sizes_offset, index, sizeof size, size, 1, err));
  *height = size[0];
  *width = size[1];
  return LS_OK;
}

ls_status ls_dataset_encoded_place(const struct ls_dataset *d, int64_t index, uint64_t *offset, uint64_t *bytes,
                                   struct ls_error *err) {
  uint64_t ends[2];
  LS_TRY(read_table(d, d->offsets_offset, index, sizeof ends[0], ends, 2, err));
  if (ends[0] > ends[1] || ends[1] > d->encoded_bytes) {
    return ls_fail(err, LS_CORRUPT,
                   "'%s': image %" PRId64 " of '%s' lies at bytes %" PRIu64 " to %" PRIu64 " of %" PRIu64, d->path,
                   index, d->group, ends[0], ends[1], d->encoded_bytes);
  }
  *offset = d->images_offset + ends[0];
  *bytes = ends[1] - ends[0];
  return LS_OK;
}

uint64_t ls_dataset_sample_bytes(const struct ls_dataset *d) {
  return d->stored == LS_STORED_ENCODED ? d->encoded_bytes / (uint64_t)d->info.count : d->image_bytes;
}

void ls_dataset_will_read(const struct ls_dataset *d, int64_t first, int64_t count) {
  uint64_t begin = d->images_offset + (uint64_t)first * d->image_bytes, end = begin + (uint64_t)count * d->image_bytes;
  if (d->stored == LS_STORED_CHUNKED || count < 1) return;
  if (d->stored == LS_STORED_ENCODED) {
    uint64_t bytes;
    if (ls_dataset_encoded_place(d, first, &begin, &bytes, NULL) != LS_OK ||
        ls_dataset_encoded_place(d, first + count - 1, &end, &bytes, NULL) != LS_OK)
      return;
    end += bytes;
  }
  posix_fadvise(d->fd, (off_t)begin, (off_t)(end - begin), POSIX_FADV_WILLNEED);
}
