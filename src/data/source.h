// Where an import's samples come from: internal to src/data. To add a kind: a file import_KIND.c with one struct
// ls_source_kind, declared at the end of this file, and a line in the table of import.c.
//
// A source is opened by one thread, which finds out what there is; samples are then fetched by number from many threads.
#ifndef LS_DATA_SOURCE_H
#define LS_DATA_SOURCE_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/import.h"

enum { LS_MAX_PARTS = 3 };

enum ls_item_form {
  LS_ITEM_ROWS,     // pixels [H,W,C]
  LS_ITEM_PLANES,   // pixels [C,H,W]
  LS_ITEM_ENCODED,  // a JPEG or PNG file
};

// One sample. `data` points into `memory`, which the fetching thread keeps from one fetch to the next, or into the
// source.
struct ls_item {
  char name[512];  // for sentences
  enum ls_item_form form;
  int64_t height, width, channels;  // of pixels
  const uint8_t *data;
  size_t size;
  int64_t label;
  uint8_t *memory;
  size_t memory_size;
};

// Room for `size` bytes in item->memory; also sets data and size.
ls_status ls_item_need(struct ls_item *item, size_t size, struct ls_error *err);
// Reads them from a file, at an offset.
ls_status ls_item_read(struct ls_item *item, int fd, uint64_t offset, size_t size, const char *path,
                       struct ls_error *err);

struct ls_source_part {
  const char *group;       // "/train", "/validation", "/test"
  int64_t count;           // samples
  uint64_t encoded_bytes;  // at most so many in all, when they are encoded
  bool sorted;             // by class: they are put into a random order
};

struct ls_source {
  const struct ls_source_kind *kind;
  struct ls_source_part parts[LS_MAX_PARTS];
  int part_count;
  char **class_names;  // [class_count]; NULL: none are known
  size_t class_count;
};

struct ls_source_kind {
  const char *name;  // "IDX (MNIST)"
  const char *what;  // how it is recognised, for people
  bool (*is)(const char *path);
  // Opens; the result begins with a struct ls_source.
  ls_status (*open)(const struct ls_import_options *options, struct ls_source **source, struct ls_error *err);
  ls_status (*fetch)(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err);
  void (*close)(struct ls_source *source);  // also of one that was not opened whole
};

// Class names are added one by one; also frees them.
ls_status ls_source_add_class(struct ls_source *source, const char *name, struct ls_error *err);
void ls_source_free_classes(struct ls_source *source);
// One name a line.
ls_status ls_source_read_classes(struct ls_source *source, const char *path, struct ls_error *err);

// Whether PATH/NAME is there and readable.
bool ls_source_has(const char *path, const char *name);

// For scandir: names that do not begin with a dot, in the order of their bytes, which is the same everywhere.
int ls_source_visible(const struct dirent *entry);
int ls_source_by_name(const struct dirent **a, const struct dirent **b);

extern const struct ls_source_kind ls_source_idx, ls_source_cifar10, ls_source_cifar100, ls_source_npy, ls_source_hdf5,
    ls_source_folder, ls_source_list, ls_source_tar, ls_source_lmdb, ls_source_tfrecord;

#endif
