// Writing a data set file: see writer.h.
//
// HDF5 lays the file out (space allocated early, nothing filled in); the values are written with pwrite at the offsets it
// names, and the file is complete when the library closes it.
#include "data/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/data_internal.h"

enum { ALIGNMENT = 4096 };

struct ls_data_writer {
  char *path, *temporary;
  hid_t file;
  int fd;
};

// A dataset that is written with pwrite, one element a sample (or bytes) after the other.
struct part {
  const char *name;
  int rank;
  hsize_t dim[4];
  hid_t type;
  uint64_t offset;       // in the file
  size_t element_bytes;  // of dim[1..]
};

struct ls_data_group {
  struct ls_data_writer *writer;
  struct ls_data_shape shape;
  hid_t group;
  struct part images, labels, offsets, sizes;  // images: the pixels, or the encoded bytes
  int64_t count;                               // put so far
  uint64_t bytes;                              // of `images`, put so far
  struct ls_data_sums sums;
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
  if (status == LS_OK && (w->fd = open(w->temporary, O_RDWR | O_CLOEXEC)) < 0)
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

static ls_status make_dataset(hid_t group, struct part *p, struct ls_error *err) {
  hid_t space = H5Screate_simple(p->rank, p->dim, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
  hid_t id = H5Dcreate2(group, p->name, p->type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
  haddr_t at = id >= 0 ? H5Dget_offset(id) : HADDR_UNDEF;
  if (id >= 0) H5Dclose(id);
  H5Pclose(plist);
  H5Sclose(space);
  p->offset = at;
  return at != HADDR_UNDEF ? LS_OK : ls_fail(err, LS_IO, "cannot make dataset '%s': no space left?", p->name);
}

static ls_status make_part(struct ls_data_group *g, struct part *p, struct part what, struct ls_error *err) {
  *p = what;
  LS_TRY(make_dataset(g->group, p, err));
  return reserve(g->writer, p->offset, p->dim[0] * p->element_bytes, err);
}

static ls_status make_parts(struct ls_data_group *g, struct ls_error *err) {
  const struct ls_data_shape *s = &g->shape;
  hsize_t n = (hsize_t)s->count;
  if (s->encoded) {
    struct part encoded = {"encoded", 1, {s->encoded_bytes}, H5T_STD_U8LE, 0, 1};
    struct part offsets = {"offsets", 1, {n + 1}, H5T_STD_U64LE, 0, 8},
                sizes = {"sizes", 2, {n, 2}, H5T_STD_I32LE, 0, 8};
    LS_TRY(make_part(g, &g->offsets, offsets, err));
    LS_TRY(make_part(g, &g->sizes, sizes, err));
    LS_TRY(make_part(g, &g->images, encoded, err));
  } else {
    struct part images = {"images",     4, {n, (hsize_t)s->height, (hsize_t)s->width, (hsize_t)s->channels},
                          H5T_STD_U8LE, 0, (size_t)(s->height * s->width * s->channels)};
    LS_TRY(make_part(g, &g->images, images, err));
  }
  struct part labels = {"labels", 1, {n}, H5T_STD_I32LE, 0, 4};
  return make_part(g, &g->labels, labels, err);
}

static ls_status write_channels(hid_t group, int64_t channels, struct ls_error *err) {
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate2(group, "channels", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  herr_t failed = attribute >= 0 ? H5Awrite(attribute, H5T_NATIVE_INT64, &channels) : -1;
  if (attribute >= 0) H5Aclose(attribute);
  H5Sclose(space);
  return failed < 0 ? ls_fail(err, LS_IO, "cannot write an attribute: no space left?") : LS_OK;
}

ls_status ls_data_writer_group(struct ls_data_writer *w, const char *name, const struct ls_data_shape *shape,
                               struct ls_data_group **result, struct ls_error *err) {
  *result = NULL;
  struct ls_data_group *g = calloc(1, sizeof *g);
  if (!g) return ls_fail(err, LS_NO_MEMORY, "no memory for a group");
  g->writer = w;
  g->shape = *shape;
  g->group = H5Gcreate2(w->file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  ls_status status = g->group >= 0 ? LS_OK : ls_fail(err, LS_IO, "cannot make group '%s'", name);
  if (status == LS_OK) status = make_parts(g, err);
  if (status == LS_OK && shape->encoded) status = write_channels(g->group, shape->channels, err);
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

void ls_data_sum(const uint8_t *pixels, int64_t count, int64_t channels, struct ls_data_sums *sums) {
  *sums = (struct ls_data_sums){.pixels = (uint64_t)count};
  for (int64_t k = 0; k < channels; k++) {
    uint64_t sum = 0, squares = 0;
    for (int64_t i = 0; i < count;) {  // in pieces whose sums fit 32 bits
      int64_t end = i + 65536 < count ? i + 65536 : count;
      uint32_t s = 0, q = 0;
      for (; i < end; i++) {
        uint32_t v = pixels[i * channels + k];
        s += v;
        q += v * v;
      }
      sum += s;
      squares += q;
    }
    sums->sum[k] = sum;
    sums->squares[k] = squares;
  }
}

ls_status ls_data_group_put(struct ls_data_group *g, const struct ls_data_sample *s, struct ls_error *err) {
  struct ls_data_writer *w = g->writer;
  uint64_t n = (uint64_t)g->count;
  if (g->count >= g->shape.count || g->bytes + s->size > g->images.dim[0] * g->images.element_bytes ||
      (!g->shape.encoded && s->size != g->images.element_bytes)) {
    return ls_fail(err, LS_INTERNAL, "sample %" PRIu64 " does not fit into its group", n);
  }
  if (g->shape.encoded) {
    int32_t size[2] = {(int32_t)s->height, (int32_t)s->width};
    LS_TRY(write_at(w, &g->bytes, sizeof g->bytes, g->offsets.offset + 8 * n, err));
    LS_TRY(write_at(w, size, sizeof size, g->sizes.offset + 8 * n, err));
  }
  LS_TRY(write_at(w, s->data, s->size, g->images.offset + g->bytes, err));
  LS_TRY(write_at(w, &s->label, sizeof s->label, g->labels.offset + 4 * n, err));
  g->sums.pixels += s->sums.pixels;
  for (int k = 0; k < LS_MAX_CHANNELS; k++) {
    g->sums.sum[k] += s->sums.sum[k];
    g->sums.squares[k] += s->sums.squares[k];
  }
  g->bytes += s->size;
  g->count++;
  return LS_OK;
}

// As memmove, in the file.
static ls_status move_bytes(const struct ls_data_writer *w, uint64_t from, uint64_t to, uint64_t bytes,
                            struct ls_error *err) {
  enum { PIECE = 1 << 20 };
  uint8_t *piece = malloc(PIECE);
  if (!piece) return ls_fail(err, LS_NO_MEMORY, "no memory to move data");
  ls_status status = LS_OK;
  for (uint64_t done = 0; done < bytes && status == LS_OK;) {
    size_t size = bytes - done < PIECE ? (size_t)(bytes - done) : PIECE;
    uint64_t at = to < from ? done : bytes - done - size;
    if (pread(w->fd, piece, size, (off_t)(from + at)) != (ssize_t)size)
      status = ls_fail(err, LS_IO, "cannot read '%s' again", w->temporary);
    else
      status = write_at(w, piece, size, to + at, err);
    done += size;
  }
  free(piece);
  return status;
}

// The dataset becomes one of `count` elements: made anew, which as a rule gives it the same place.
static ls_status shrink(struct ls_data_group *g, struct part *p, uint64_t count, struct ls_error *err) {
  if (p->rank == 0 || p->dim[0] == count) return LS_OK;
  uint64_t was = p->offset;
  p->dim[0] = count;
  if (H5Ldelete(g->group, p->name, H5P_DEFAULT) < 0) return ls_fail(err, LS_IO, "cannot shorten dataset '%s'", p->name);
  LS_TRY(make_dataset(g->group, p, err));
  return p->offset == was ? LS_OK : move_bytes(g->writer, was, p->offset, count * p->element_bytes, err);
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

static ls_status finish(struct ls_data_group *g, struct ls_error *err) {
  uint64_t n = (uint64_t)g->count;
  if (g->shape.encoded) LS_TRY(write_at(g->writer, &g->bytes, sizeof g->bytes, g->offsets.offset + 8 * n, err));
  LS_TRY(shrink(g, &g->images, g->shape.encoded ? g->bytes : n, err));
  LS_TRY(shrink(g, &g->labels, n, err));
  LS_TRY(shrink(g, &g->offsets, n + 1, err));
  LS_TRY(shrink(g, &g->sizes, n, err));
  float mean[LS_MAX_CHANNELS], deviation[LS_MAX_CHANNELS];
  double pixels = (double)g->sums.pixels;
  if (!g->sums.pixels) return LS_OK;
  for (int64_t c = 0; c < g->shape.channels; c++) {
    double m = (double)g->sums.sum[c] / pixels, v = (double)g->sums.squares[c] / pixels - m * m;
    mean[c] = (float)m;
    deviation[c] = (float)sqrt(v > 0 ? v : 1);
  }
  write_floats(g->group, "mean", mean, g->shape.channels);
  write_floats(g->group, "deviation", deviation, g->shape.channels);
  return LS_OK;
}

ls_status ls_data_group_finish(struct ls_data_group *g, struct ls_error *err) {
  ls_status status = finish(g, err);
  H5Gclose(g->group);
  free(g);
  return status;
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
