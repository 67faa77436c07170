// Writing a data set file: see writer.h.
//
// HDF5 lays the file out (space allocated early, nothing filled in); the values are written with pwrite at the offsets it
// names, and the file is complete when the library closes it.
#include "data/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/data_internal.h"

enum { ALIGNMENT = 4096, BUFFER_IMAGES = 256 };

struct ls_data_writer {
  char *path, *temporary;
  hid_t file;
  int fd;
};

struct ls_data_group {
  struct ls_data_writer *writer;
  struct ls_data_shape shape;
  hid_t group;
  uint64_t images_offset, labels_offset;
  size_t image_bytes;
  double sum[LS_MAX_CHANNELS], squares[LS_MAX_CHANNELS];
  int64_t seen;
};

ls_status ls_data_writer_open(const char *path, struct ls_data_writer **result, struct ls_error *err) {
  *result = NULL;
  struct ls_data_writer *w = calloc(1, sizeof *w);
  if (!w) return ls_fail(err, LS_NO_MEMORY, "no memory for a data set file");
  w->file = w->fd = -1;
  w->path = strdup(path);
  if (asprintf(&w->temporary, "%s.part", path) < 0) w->temporary = NULL;
  ls_status status = w->path && w->temporary ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for a data set file");
  ls_hdf5_quiet();
  if (status == LS_OK) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_alignment(access, ALIGNMENT, ALIGNMENT);  // for O_DIRECT
    w->file = H5Fcreate(w->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    if (w->file < 0)
      status = ls_fail(err, LS_IO, "cannot create '%s': is the folder there and writable, and is there space?",
                       w->temporary);
  }
  if (status == LS_OK && (w->fd = open(w->temporary, O_WRONLY | O_CLOEXEC)) < 0)
    status = ls_fail_errno(err, errno, "cannot open '%s'", w->temporary);
  if (status != LS_OK) {
    ls_data_writer_close(w, false, NULL);
    return status;
  }
  *result = w;
  return LS_OK;
}

// Takes the space now: a disk that is too small is told of before the work, not after.
static ls_status reserve(const struct ls_data_writer *w, uint64_t offset, uint64_t bytes, struct ls_error *err) {
  if (!bytes || fallocate(w->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes) == 0) return LS_OK;
  if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG) return LS_OK;  // not on this file system
  return ls_fail_errno(err, errno, "cannot write '%s', which needs %.1f MiB", w->temporary, (double)bytes / 1048576);
}

static ls_status make_dataset(hid_t group, const char *name, int rank, const hsize_t *dim, hid_t type, uint64_t *offset,
                              struct ls_error *err) {
  hid_t space = H5Screate_simple(rank, dim, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
  hid_t id = H5Dcreate2(group, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
  haddr_t at = id >= 0 ? H5Dget_offset(id) : HADDR_UNDEF;
  if (id >= 0) H5Dclose(id);
  H5Pclose(plist);
  H5Sclose(space);
  *offset = at;
  return at != HADDR_UNDEF ? LS_OK : ls_fail(err, LS_IO, "cannot make dataset '%s': no space left?", name);
}

ls_status ls_data_writer_group(struct ls_data_writer *w, const char *name, const struct ls_data_shape *shape,
                               struct ls_data_group **result, struct ls_error *err) {
  *result = NULL;
  struct ls_data_group *g = calloc(1, sizeof *g);
  if (!g) return ls_fail(err, LS_NO_MEMORY, "no memory for a group");
  g->writer = w;
  g->shape = *shape;
  g->image_bytes = (size_t)(shape->height * shape->width * shape->channels);
  g->group = H5Gcreate2(w->file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  hsize_t dim[4] = {(hsize_t)shape->count, (hsize_t)shape->height, (hsize_t)shape->width, (hsize_t)shape->channels};
  ls_status status = g->group >= 0 ? LS_OK : ls_fail(err, LS_IO, "cannot make group '%s'", name);
  if (status == LS_OK) status = make_dataset(g->group, "images", 4, dim, H5T_STD_U8LE, &g->images_offset, err);
  uint64_t bytes = g->image_bytes * (uint64_t)shape->count;
  if (status == LS_OK) status = reserve(w, g->images_offset, bytes, err);
  if (status == LS_OK) status = make_dataset(g->group, "labels", 1, dim, H5T_STD_I32LE, &g->labels_offset, err);
  if (status != LS_OK) {
    if (g->group >= 0) H5Gclose(g->group);
    free(g);
    return status;
  }
  *result = g;
  return LS_OK;
}

static ls_status write_at(const struct ls_data_writer *w, const void *data, size_t size, uint64_t offset,
                          struct ls_error *err) {
  const char *from = data;
  while (size) {
    ssize_t written = pwrite(w->fd, from, size, (off_t)offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ls_fail_errno(err, written < 0 ? errno : ENOSPC, "cannot write '%s'", w->temporary);
    from += written;
    offset += (uint64_t)written;
    size -= (size_t)written;
  }
  return LS_OK;
}

ls_status ls_data_group_put(struct ls_data_group *g, int64_t index, const uint8_t *pixels, int64_t label,
                            struct ls_error *err) {
  int32_t stored = (int32_t)label;
  LS_TRY(write_at(g->writer, pixels, g->image_bytes, g->images_offset + (uint64_t)index * g->image_bytes, err));
  LS_TRY(write_at(g->writer, &stored, sizeof stored, g->labels_offset + (uint64_t)index * sizeof stored, err));
  int64_t c = g->shape.channels;
  uint64_t sum[LS_MAX_CHANNELS] = {0}, squares[LS_MAX_CHANNELS] = {0};
  for (size_t i = 0; i < g->image_bytes; i++) {
    sum[i % (size_t)c] += pixels[i];
    squares[i % (size_t)c] += (uint64_t)pixels[i] * pixels[i];
  }
  for (int64_t k = 0; k < c; k++) {
    g->sum[k] += (double)sum[k];
    g->squares[k] += (double)squares[k];
  }
  g->seen++;
  return LS_OK;
}

static void write_floats(hid_t where, const char *name, const float *values, int64_t count) {
  hsize_t dim = (hsize_t)count;
  hid_t space = H5Screate_simple(1, &dim, NULL);
  hid_t attribute = H5Acreate2(where, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute >= 0) {
    H5Awrite(attribute, H5T_NATIVE_FLOAT, values);
    H5Aclose(attribute);
  }
  H5Sclose(space);
}

ls_status ls_data_group_finish(struct ls_data_group *g, struct ls_error *err) {
  (void)err;
  float mean[LS_MAX_CHANNELS], deviation[LS_MAX_CHANNELS];
  double n = (double)g->seen * (double)(g->shape.height * g->shape.width);
  for (int64_t c = 0; c < g->shape.channels && n > 0; c++) {
    double m = g->sum[c] / n, v = g->squares[c] / n - m * m;
    mean[c] = (float)m;
    deviation[c] = (float)sqrt(v > 0 ? v : 1);
  }
  if (n > 0) {
    write_floats(g->group, "mean", mean, g->shape.channels);
    write_floats(g->group, "deviation", deviation, g->shape.channels);
  }
  H5Gclose(g->group);
  free(g);
  return LS_OK;
}

ls_status ls_data_writer_class_names(struct ls_data_writer *w, const char *const *names, size_t count,
                                     struct ls_error *err) {
  hsize_t dim = count;
  hid_t space = H5Screate_simple(1, &dim, NULL), type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  hid_t attribute = H5Acreate2(w->file, "class_names", type, space, H5P_DEFAULT, H5P_DEFAULT);
  herr_t failed = attribute >= 0 ? H5Awrite(attribute, type, names) : -1;
  if (attribute >= 0) H5Aclose(attribute);
  H5Tclose(type);
  H5Sclose(space);
  return failed < 0 ? ls_fail(err, LS_IO, "cannot write the class names into '%s'", w->temporary) : LS_OK;
}

ls_status ls_data_writer_close(struct ls_data_writer *w, bool keep, struct ls_error *err) {
  if (!w) return LS_OK;
  ls_status status = LS_OK;
  if (w->fd >= 0) close(w->fd);
  if (w->file >= 0 && H5Fclose(w->file) < 0 && keep)
    status = ls_fail(err, LS_IO, "cannot write '%s': no space left?", w->temporary);
  if (keep && status == LS_OK)
    status = ls_file_commit(w->temporary, w->path, err);
  else if (w->temporary)
    unlink(w->temporary);
  free(w->path);
  free(w->temporary);
  free(w);
  return status;
}
