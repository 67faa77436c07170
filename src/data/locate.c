// See locate.h.
#include "data/locate.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

void ls_hdf5_quiet(void) {
  // At exit the library would write once more what could not be written, and crash. We close what we open.
  H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  H5PLset_loading_state(0);
  H5Lunregister(H5L_TYPE_EXTERNAL);
}

// HDF5 says "truncated file: eof = A, sblock->base_addr = B, stored_eof = C" somewhere in its stack of errors.
static herr_t find_truncation(unsigned n, const H5E_error2_t *error, void *user) {
  (void)n;
  uint64_t *expected = user;
  const char *stored = error->desc ? strstr(error->desc, "stored_eof = ") : NULL;
  if (stored && strstr(error->desc, "truncated")) *expected = strtoull(stored + strlen("stored_eof = "), NULL, 10);
  return 0;
}

ls_status ls_hdf5_open(const char *path, hid_t *file, int *fd, uint64_t *file_bytes, struct ls_error *err) {
  struct stat info;
  *file = -1;
  int own = open(path, O_RDONLY | O_CLOEXEC);
  if (fd) *fd = own;
  if (own < 0) {
    int why = errno;
    char *whole = ls_path_whole(path);
    ls_status status = ls_fail_errno(err, why, "cannot open data set '%s'", whole ? whole : path);
    free(whole);
    return status;
  }
  bool ordinary = fstat(own, &info) == 0 && S_ISREG(info.st_mode);
  if (!fd) close(own);
  if (!ordinary) return ls_fail(err, LS_INVALID, "data set '%s' is no ordinary file", path);
  *file_bytes = (uint64_t)info.st_size;
  ls_hdf5_quiet();
  *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (*file >= 0) return LS_OK;
  uint64_t expected = 0;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, find_truncation, &expected);
  if (expected > *file_bytes) {
    return ls_fail(err, LS_CORRUPT, "'%s' is cut short: it has %" PRIu64 " bytes of %" PRIu64, path, *file_bytes,
                   expected);
  }
  return ls_fail(err, LS_CORRUPT, "'%s' is no HDF5 file, or a damaged or unfinished one", path);
}

ls_status ls_hdf5_open_group(hid_t file, const char *path, const char *name, hid_t *group, struct ls_error *err) {
  *group = H5Gopen2(file, name, H5P_DEFAULT);
  if (*group >= 0) return LS_OK;
  char *part = strdup(name);
  if (!part) return ls_fail(err, LS_NO_MEMORY, "no memory to open '%s'", path);
  for (char *end = part; *end;) {
    end = strchrnul(end + 1, '/');
    char kept = *end;
    *end = 0;
    H5L_info_t link;
    bool there = H5Lget_info(file, part, &link, H5P_DEFAULT) >= 0;
    if (there && link.type == H5L_TYPE_EXTERNAL) {
      ls_fail(err, LS_INVALID, "'%s': '%s' is a link into another file, which is not allowed", path, part);
      free(part);
      return LS_INVALID;
    }
    *end = kept;
  }
  free(part);
  return ls_fail(err, LS_NOT_FOUND, "'%s' has no group '%s'; see: lockstep data inspect '%s'", path, name, path);
}

void ls_hdf5_type_name(hid_t type, char *text, size_t size) {
  size_t bits = 8 * H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_INTEGER: snprintf(text, size, "%sint%zu", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits); break;
    case H5T_FLOAT: snprintf(text, size, "float%zu", bits); break;
    case H5T_STRING: snprintf(text, size, "string"); break;
    case H5T_COMPOUND: snprintf(text, size, "compound"); break;
    case H5T_VLEN: snprintf(text, size, "variable length"); break;
    case H5T_ENUM: snprintf(text, size, "enum%zu", bits); break;
    default: snprintf(text, size, "other"); break;
  }
}

static ls_status check_contiguous(hid_t id, const char *path, const char *name, uint64_t file_bytes,
                                  struct ls_located *l, struct ls_error *err) {
  haddr_t offset = H5Dget_offset(id);
  uint64_t bytes = l->element_bytes;
  for (int i = 0; i < l->rank; i++) {
    if (__builtin_mul_overflow(bytes, (uint64_t)l->dim[i], &bytes)) bytes = UINT64_MAX;
  }
  // Without space allocated the offset is undefined, or that of a user block minus one.
  if (bytes && (offset == HADDR_UNDEF || H5Dget_storage_size(id) == 0))
    return ls_fail(err, LS_CORRUPT, "'%s': dataset '%s' was declared but never written", path, name);
  if (H5Dget_storage_size(id) < bytes) {
    return ls_fail(err, LS_CORRUPT,
                   "'%s': dataset '%s' has the shape of %" PRIu64 " bytes, but storage for %" PRIu64 " only", path,
                   name, bytes, (uint64_t)H5Dget_storage_size(id));
  }
  l->offset = offset;
  l->bytes = bytes;
  if (bytes && (offset > file_bytes || bytes > file_bytes - offset)) {
    return ls_fail(err, LS_CORRUPT,
                   "'%s' is cut short: dataset '%s' needs %" PRIu64 " bytes from byte %" PRIu64
                   " on, but the file ends at %" PRIu64,
                   path, name, bytes, (uint64_t)offset, file_bytes);
  }
  return LS_OK;
}

static ls_status check_storage(hid_t id, const char *path, const char *name, uint64_t file_bytes, struct ls_located *l,
                               struct ls_error *err) {
  hid_t plist = H5Dget_create_plist(id);
  H5D_layout_t layout = H5Pget_layout(plist);
  int external = H5Pget_external_count(plist);
  H5Pclose(plist);
  if (external > 0) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' keeps its values in other files (external storage), which is not allowed", path,
                   name);
  }
  if (layout == H5D_VIRTUAL) {
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' is virtual, made of other datasets, which is not allowed", path,
                   name);
  }
  l->chunked = layout == H5D_CHUNKED;
  if (layout != H5D_CONTIGUOUS) {
    ls_fail(&l->storage, LS_UNSUPPORTED,
            "'%s': dataset '%s' is not contiguous; repack it: lockstep data import '%s' NEW.h5", path, name, path);
  }
  if (layout == H5D_CONTIGUOUS) check_contiguous(id, path, name, file_bytes, l, &l->storage);
  return LS_OK;
}

static ls_status locate_open(hid_t id, const char *path, const char *name, uint64_t file_bytes, struct ls_located *l,
                             struct ls_error *err) {
  hid_t space = H5Dget_space(id), type = H5Dget_type(id);
  l->rank = H5Sget_simple_extent_ndims(space);
  if (l->rank >= 0 && l->rank <= LS_MAX_AXES) H5Sget_simple_extent_dims(space, l->dim, NULL);
  l->element_bytes = H5Tget_size(type);
  l->type_class = H5Tget_class(type);
  l->is_signed = l->type_class == H5T_INTEGER && H5Tget_sign(type) != H5T_SGN_NONE;
  ls_hdf5_type_name(type, l->type_name, sizeof l->type_name);
  bool number = l->type_class == H5T_INTEGER || l->type_class == H5T_FLOAT;
  bool swapped = number && l->element_bytes > 1 && H5Tget_order(type) != H5T_ORDER_LE;
  H5Sclose(space);
  H5Tclose(type);
  if (l->rank < 1 || l->rank > LS_MAX_AXES)
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' has %d axes; allowed are 1 to %d", path, name, l->rank,
                   LS_MAX_AXES);
  LS_TRY(check_storage(id, path, name, file_bytes, l, err));
  if (swapped) {
    ls_fail(&l->storage, LS_UNSUPPORTED,
            "'%s': dataset '%s' is big-endian; repack it: lockstep data import '%s' NEW.h5", path, name, path);
  }
  return LS_OK;
}

ls_status ls_locate(hid_t group, const char *path, const char *group_name, const char *name, uint64_t file_bytes,
                    struct ls_located *located, struct ls_error *err) {
  *located = (struct ls_located){.rank = 0};
  H5L_info_t link;
  if (H5Lget_info(group, name, &link, H5P_DEFAULT) < 0) {
    return ls_fail(err, LS_NOT_FOUND, "'%s': group '%s' has no dataset '%s'; see: lockstep data inspect '%s'", path,
                   group_name, name, path);
  }
  if (link.type == H5L_TYPE_EXTERNAL)
    return ls_fail(err, LS_INVALID, "'%s': '%s' is a link into another file, which is not allowed", path, name);
  hid_t id = H5Dopen2(group, name, H5P_DEFAULT);
  if (id < 0) return ls_fail(err, LS_CORRUPT, "'%s': '%s' is no dataset, or a damaged one", path, name);
  ls_status status = locate_open(id, path, name, file_bytes, located, err);
  H5Dclose(id);
  return status;
}

ls_status ls_located_storage(const struct ls_located *located, struct ls_error *err) {
  if (located->storage.status != LS_OK && err) *err = located->storage;
  return located->storage.status;
}

hid_t ls_hdf5_attribute(hid_t file, hid_t group, const char *name) {
  if (H5Aexists(group, name) > 0) return H5Aopen(group, name, H5P_DEFAULT);
  return H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
}

static void read_variable(hid_t attribute, hid_t type, hid_t space, size_t count, char **names) {
  hid_t memory = H5Tcopy(H5T_C_S1);
  H5Tset_size(memory, H5T_VARIABLE);
  H5Tset_cset(memory, H5Tget_cset(type));
  char **texts = calloc(count, sizeof *texts);
  if (texts && H5Aread(attribute, memory, texts) >= 0) {
    for (size_t i = 0; i < count; i++) names[i] = strdup(texts[i] ? texts[i] : "");
    H5Dvlen_reclaim(memory, space, H5P_DEFAULT, texts);
  }
  free(texts);
  H5Tclose(memory);
}

static void read_fixed(hid_t attribute, hid_t type, size_t count, char **names) {
  size_t size = H5Tget_size(type);
  char *texts = calloc(count, size + 1);
  if (texts && H5Aread(attribute, type, texts) >= 0) {
    for (size_t i = 0; i < count; i++) names[i] = strndup(texts + i * size, size);
  }
  free(texts);
}

char **ls_hdf5_class_names(hid_t file, hid_t group, size_t *result) {
  enum { MOST = 1 << 20 };
  *result = 0;
  hid_t attribute = ls_hdf5_attribute(file, group, "class_names");
  if (attribute < 0) return NULL;
  hid_t space = H5Aget_space(attribute), type = H5Aget_type(attribute);
  hssize_t count = H5Sget_simple_extent_npoints(space);
  char **names = NULL;
  if (H5Tget_class(type) == H5T_STRING && count > 0 && count <= MOST &&
      (names = calloc((size_t)count + 1, sizeof *names))) {
    if (H5Tis_variable_str(type) > 0)
      read_variable(attribute, type, space, (size_t)count, names);
    else
      read_fixed(attribute, type, (size_t)count, names);
    while (names[*result]) ++*result;
  }
  H5Tclose(type);
  H5Sclose(space);
  H5Aclose(attribute);
  return names;
}
