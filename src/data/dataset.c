// Data sets in HDF5 files: see dataset.h.
//
// The HDF5 library finds out where the bytes are and is then left alone: it holds one lock for all threads, and reading
// through it gets slower with a second thread. A file may name other files as its storage; such files are refused.
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

void ls_hdf5_quiet(void) {
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  H5PLset_loading_state(0);          // a file must not make us load a plug-in
  H5Lunregister(H5L_TYPE_EXTERNAL);  // nor open another file
}

static ls_status split_location(struct ls_dataset *d, const char *location, struct ls_error *err) {
  const char *colon = strrchr(location, ':');
  d->path = colon ? strndup(location, (size_t)(colon - location)) : strdup(location);
  d->group = strdup(colon && colon[1] ? colon + 1 : "/");
  if (!d->path || !d->group) return ls_fail(err, LS_NO_MEMORY, "no memory for a data set");
  return LS_OK;
}

// One dataset, checked: no other files, contiguous, all of it inside this file.
struct found {
  hid_t id;
  int rank;
  hsize_t dim[5];
  uint64_t offset;
  size_t element_bytes;
  H5T_class_t type_class;
  H5T_sign_t sign;
};

static ls_status check_storage(struct ls_dataset *d, const char *name, struct found *f, uint64_t file_bytes,
                               struct ls_error *err) {
  hid_t plist = H5Dget_create_plist(f->id);
  H5D_layout_t layout = H5Pget_layout(plist);
  int external = H5Pget_external_count(plist);
  H5Pclose(plist);
  if (external > 0) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' keeps its values in other files (external storage), which is not allowed",
                   d->path, name);
  }
  if (layout == H5D_VIRTUAL) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' is virtual, made of other datasets, which is not allowed",
                   d->path, name);
  }
  if (layout != H5D_CONTIGUOUS) {
    return ls_fail(err, LS_UNSUPPORTED,
                   "'%s': dataset '%s' is not contiguous; repack it: lockstep data import '%s' NEW.h5", d->path, name,
                   d->path);
  }
  haddr_t offset = H5Dget_offset(f->id);
  uint64_t bytes = f->element_bytes;
  for (int i = 0; i < f->rank; i++) {
    if (__builtin_mul_overflow(bytes, (uint64_t)f->dim[i], &bytes)) bytes = UINT64_MAX;
  }
  // Without space allocated the offset is undefined, or that of a user block minus one.
  if (bytes && (offset == HADDR_UNDEF || H5Dget_storage_size(f->id) < bytes)) {
    return ls_fail(err, LS_CORRUPT, "'%s': dataset '%s' was declared but never written", d->path, name);
  }
  f->offset = offset;
  if (f->offset > file_bytes || bytes > file_bytes - f->offset) {
    return ls_fail(err, LS_CORRUPT,
                   "'%s' is cut short: dataset '%s' needs %" PRIu64 " bytes from byte %" PRIu64
                   " on, but the file ends at %" PRIu64,
                   d->path, name, bytes, f->offset, file_bytes);
  }
  return LS_OK;
}

static ls_status find_dataset(struct ls_dataset *d, hid_t group, const char *name, uint64_t file_bytes, struct found *f,
                              struct ls_error *err) {
  H5L_info_t link;
  if (H5Lget_info(group, name, &link, H5P_DEFAULT) < 0) {
    return ls_fail(err, LS_NOT_FOUND, "'%s': group '%s' has no dataset '%s'; see: lockstep data inspect '%s'", d->path,
                   d->group, name, d->path);
  }
  if (link.type == H5L_TYPE_EXTERNAL) {
    return ls_fail(err, LS_INVALID, "'%s': '%s' is a link into another file, which is not allowed", d->path, name);
  }
  f->id = H5Dopen2(group, name, H5P_DEFAULT);
  if (f->id < 0) return ls_fail(err, LS_CORRUPT, "'%s': dataset '%s' cannot be opened", d->path, name);
  hid_t space = H5Dget_space(f->id), type = H5Dget_type(f->id);
  f->rank = H5Sget_simple_extent_ndims(space);
  if (f->rank >= 0 && f->rank <= 5) H5Sget_simple_extent_dims(space, f->dim, NULL);
  f->element_bytes = H5Tget_size(type);
  f->type_class = H5Tget_class(type);
  f->sign = f->type_class == H5T_INTEGER ? H5Tget_sign(type) : H5T_SGN_ERROR;
  bool swapped = f->type_class == H5T_INTEGER && f->element_bytes > 1 && H5Tget_order(type) != H5T_ORDER_LE;
  H5Sclose(space);
  H5Tclose(type);
  if (swapped)
    return ls_fail(err, LS_UNSUPPORTED, "'%s': dataset '%s' is big-endian; repack it: lockstep data import", d->path,
                   name);
  if (f->rank < 1 || f->rank > 5)
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' has %d axes", d->path, name, f->rank);
  return check_storage(d, name, f, file_bytes, err);
}

static ls_status take_images(struct ls_dataset *d, const char *name, const struct found *f, struct ls_error *err) {
  if (f->type_class != H5T_INTEGER || f->element_bytes != 1 || f->sign != H5T_SGN_NONE) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold uint8 values", d->path, name);
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
  if (d->info.count < 1) return ls_fail(err, LS_INVALID, "'%s': dataset '%s' is empty", d->path, name);
  if (d->info.height < 1 || d->info.width < 1 || d->info.height > 65536 || d->info.width > 65536 ||
      d->info.channels < 1 || d->info.channels > LS_MAX_CHANNELS) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' has images of %" PRId64 "x%" PRId64 "x%" PRId64
                   "; allowed are 1 to 65536 pixels a side and 1 to %d channels",
                   d->path, name, d->info.height, d->info.width, d->info.channels, LS_MAX_CHANNELS);
  }
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

static ls_status take_labels(struct ls_dataset *d, const char *name, const struct found *f, struct ls_error *err) {
  if (f->type_class != H5T_INTEGER || f->rank != 1 || f->element_bytes > 8) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' must hold one whole number a sample", d->path, name);
  }
  if ((int64_t)f->dim[0] != d->info.count) {
    return ls_fail(err, LS_INVALID, "'%s': %" PRId64 " images, but %" PRIu64 " labels in '%s'", d->path, d->info.count,
                   (uint64_t)f->dim[0], name);
  }
  d->labels_offset = f->offset;
  d->label_bytes = f->element_bytes;
  d->label_signed = f->sign == H5T_SGN_2;
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

// An attribute of the group, or of the file's root.
static hid_t open_attribute(hid_t file, hid_t group, const char *name) {
  if (H5Aexists(group, name) > 0) return H5Aopen(group, name, H5P_DEFAULT);
  return H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
}

static bool read_floats(hid_t file, hid_t group, const char *name, int64_t count, float *values) {
  hid_t attribute = open_attribute(file, group, name);
  if (attribute < 0) return false;
  hid_t space = H5Aget_space(attribute);
  bool good = H5Sget_simple_extent_npoints(space) == count && H5Aread(attribute, H5T_NATIVE_FLOAT, values) >= 0;
  H5Sclose(space);
  H5Aclose(attribute);
  return good;
}

static void read_class_names(struct ls_dataset *d, hid_t file, hid_t group) {
  hid_t attribute = open_attribute(file, group, "class_names");
  if (attribute < 0) return;
  hid_t space = H5Aget_space(attribute), type = H5Aget_type(attribute);
  hssize_t count = H5Sget_simple_extent_npoints(space);
  if (H5Tget_class(type) == H5T_STRING && count > 0 && count <= 1000000 &&
      (d->class_names = calloc((size_t)count + 1, sizeof *d->class_names))) {
    if (H5Tis_variable_str(type) > 0) {
      hid_t memory = H5Tcopy(H5T_C_S1);
      H5Tset_size(memory, H5T_VARIABLE);
      H5Tset_cset(memory, H5Tget_cset(type));
      char **texts = calloc((size_t)count, sizeof *texts);
      if (texts && H5Aread(attribute, memory, texts) >= 0) {
        for (hssize_t i = 0; i < count; i++) d->class_names[i] = strdup(texts[i] ? texts[i] : "");
        H5Dvlen_reclaim(memory, space, H5P_DEFAULT, texts);
      }
      free(texts);
      H5Tclose(memory);
    } else {
      size_t size = H5Tget_size(type);
      char *texts = calloc((size_t)count, size + 1);
      if (texts && H5Aread(attribute, type, texts) >= 0) {
        for (hssize_t i = 0; i < count; i++) d->class_names[i] = strndup(texts + (size_t)i * size, size);
      }
      free(texts);
    }
    if (d->info.classes < count) d->info.classes = count;
  }
  H5Tclose(type);
  H5Sclose(space);
  H5Aclose(attribute);
}

static ls_status read_file(struct ls_dataset *d, const char *images, const char *labels, struct ls_error *err) {
  struct stat info;
  d->fd = open(d->path, O_RDONLY | O_CLOEXEC);
  if (d->fd < 0) return ls_fail_errno(err, errno, "cannot open data set '%s'", d->path);
  if (fstat(d->fd, &info) != 0 || !S_ISREG(info.st_mode))
    return ls_fail(err, LS_INVALID, "data set '%s' is no ordinary file", d->path);
  hid_t file = H5Fopen(d->path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) return ls_fail(err, LS_CORRUPT, "'%s' is no HDF5 file, or a damaged or unfinished one", d->path);
  ls_status status = LS_OK;
  hid_t group = H5Gopen2(file, d->group, H5P_DEFAULT);
  if (group < 0)
    status = ls_fail(err, LS_NOT_FOUND, "'%s' has no group '%s'; see: lockstep data inspect '%s'", d->path, d->group,
                     d->path);
  struct found i = {.id = -1}, l = {.id = -1};
  if (status == LS_OK) status = find_dataset(d, group, images, (uint64_t)info.st_size, &i, err);
  if (status == LS_OK) status = take_images(d, images, &i, err);
  if (status == LS_OK) status = find_dataset(d, group, labels, (uint64_t)info.st_size, &l, err);
  if (status == LS_OK) status = take_labels(d, labels, &l, err);
  if (status == LS_OK) {
    d->info.has_statistics = read_floats(file, group, "mean", d->info.channels, d->info.mean) &&
                             read_floats(file, group, "deviation", d->info.channels, d->info.deviation);
    read_class_names(d, file, group);
  }
  if (i.id >= 0) H5Dclose(i.id);
  if (l.id >= 0) H5Dclose(l.id);
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
  ls_hdf5_quiet();
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

ls_status ls_dataset_check_fits(const struct ls_dataset *d, int64_t channels, int64_t height, int64_t width,
                                int64_t classes, struct ls_error *err) {
  const struct ls_dataset_info *i = &d->info;
  if (i->channels != channels) {
    return ls_fail(err, LS_INVALID, "'%s:%s' has images of %" PRId64 " channels, the network takes %" PRId64, i->path,
                   i->group, i->channels, channels);
  }
  if (i->height < height || i->width < width) {
    return ls_fail(err, LS_INVALID,
                   "'%s:%s' has images of %" PRId64 "x%" PRId64 ", the network takes %" PRId64 "x%" PRId64
                   " cut out of them",
                   i->path, i->group, i->height, i->width, height, width);
  }
  for (int64_t s = 0; d->labels && classes > 0 && s < i->count; s++) {
    if (d->labels[s] >= classes) {
      return ls_fail(err, LS_INVALID, "'%s:%s': sample %" PRId64 " has label %d, the network has classes 0 to %" PRId64,
                     i->path, i->group, s, d->labels[s], classes - 1);
    }
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
