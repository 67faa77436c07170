// Finding a dataset's bytes in an HDF5 file without trusting the file: internal to src/data.
//
// A file may name other files as its storage (external storage, external links, virtual datasets), claim more than it
// holds, or be cut short. All of that is refused here, by name. Call from one thread at a time (HDF5 library).
#ifndef LS_DATA_LOCATE_H
#define LS_DATA_LOCATE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { LS_MAX_AXES = 5 };

struct ls_located {
  int rank;
  hsize_t dim[LS_MAX_AXES];
  H5T_class_t type_class;
  size_t element_bytes;
  bool is_signed;
  char type_name[32];  // "uint8"
  // Where the bytes are, when they are contiguous. `storage.status` says what is wrong with that: told after what is
  // wrong with the shape.
  uint64_t offset, bytes;
  bool chunked;
  struct ls_error storage;
};

// Quiet HDF5 errors (they are told in our own sentences), no plug-ins, no links into other files, no work at exit. Call
// before the first HDF5 call of a thread.
void ls_hdf5_quiet(void);

// Opens for reading; *fd (may be NULL) and *file_bytes are of the same file.
ls_status ls_hdf5_open(const char *path, hid_t *file, int *fd, uint64_t *file_bytes, struct ls_error *err);
// A group by its path; says which link of the path leads into another file. `path`: of the file, for the sentences.
ls_status ls_hdf5_open_group(hid_t file, const char *path, const char *name, hid_t *group, struct ls_error *err);
// The dataset `name` of `group`. `group_name`: for the sentences.
ls_status ls_locate(hid_t group, const char *path, const char *group_name, const char *name, uint64_t file_bytes,
                    struct ls_located *located, struct ls_error *err);

// LS_OK, or located->storage copied into err.
ls_status ls_located_storage(const struct ls_located *located, struct ls_error *err);

// An attribute of the group, or of the file's root; negative when neither has it.
hid_t ls_hdf5_attribute(hid_t file, hid_t group, const char *name);
// Attribute class_names: a list that ends with NULL; the caller frees the names and the list. NULL: there are none.
char **ls_hdf5_class_names(hid_t file, hid_t group, size_t *count);

// "uint8", "float32", "string": into text.
void ls_hdf5_type_name(hid_t type, char *text, size_t size);

#endif
