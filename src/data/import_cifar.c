// Importing CIFAR-10 and CIFAR-100, binary version (https://www.cs.toronto.edu/~kriz/cifar.html): records of one label
// (CIFAR-100: coarse and fine) and 3072 bytes, red, green and blue planes of 32x32.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "data/source.h"

enum { SIDE = 32, PIXELS = 3 * SIDE * SIDE, MAX_FILES = 5 };

struct cifar_file {
  char *path;
  int fd;
  int64_t records;
};

struct cifar_source {
  struct ls_source source;
  int label_bytes;                        // 1 or 2; the last one is the class
  struct cifar_file files[2][MAX_FILES];  // of /train, of /test
  int file_count[2];
};

static ls_status add_file(struct cifar_source *s, int part, const char *folder, const char *name,
                          struct ls_error *err) {
  struct cifar_file *file = &s->files[part][s->file_count[part]++];
  struct stat info;
  file->fd = -1;
  file->path = ls_path_join(folder, name);
  if (!file->path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  file->fd = open(file->path, O_RDONLY | O_CLOEXEC);
  if (file->fd < 0 || fstat(file->fd, &info) != 0) return ls_fail_errno(err, errno, "cannot open '%s'", file->path);
  int64_t record = s->label_bytes + PIXELS;
  if (info.st_size == 0 || info.st_size % record != 0) {
    return ls_fail(err, LS_CORRUPT, "'%s' has %" PRId64 " bytes, which is no multiple of a record's %" PRId64,
                   file->path, (int64_t)info.st_size, record);
  }
  file->records = info.st_size / record;
  s->source.parts[part].count += file->records;
  return LS_OK;
}

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct cifar_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  bool ten = ls_source_has(o->source, "data_batch_1.bin");
  s->source.kind = ten ? &ls_source_cifar10 : &ls_source_cifar100;
  s->label_bytes = ten ? 1 : 2;
  s->source.part_count = 2;
  s->source.parts[0].group = "/train";
  s->source.parts[1].group = "/test";
  for (int i = 1; i <= MAX_FILES && ten; i++) {
    char name[32];
    snprintf(name, sizeof name, "data_batch_%d.bin", i);
    LS_TRY(add_file(s, 0, o->source, name, err));
  }
  if (!ten) LS_TRY(add_file(s, 0, o->source, "train.bin", err));
  LS_TRY(add_file(s, 1, o->source, ten ? "test_batch.bin" : "test.bin", err));
  const char *names = ten ? "batches.meta.txt" : "fine_label_names.txt";
  if (!ls_source_has(o->source, names)) return LS_OK;
  char *path = ls_path_join(o->source, names);
  ls_status status =
      path ? ls_source_read_classes(&s->source, path, err) : ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  free(path);
  return status;
}

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  const struct cifar_source *s = (struct cifar_source *)source;
  const struct cifar_file *file = s->files[part];
  while (index >= file->records) index -= file++->records;
  size_t record = (size_t)s->label_bytes + PIXELS;
  snprintf(item->name, sizeof item->name, "%s, image %" PRId64, file->path, index);
  LS_TRY(ls_item_read(item, file->fd, (uint64_t)index * record, record, file->path, err));
  item->form = LS_ITEM_PLANES;
  item->height = item->width = SIDE;
  item->channels = 3;
  item->label = item->memory[s->label_bytes - 1];
  item->data = item->memory + s->label_bytes;
  item->size = PIXELS;
  return LS_OK;
}

static void close_source(struct ls_source *source) {
  struct cifar_source *s = (struct cifar_source *)source;
  for (int part = 0; part < 2; part++) {
    for (int i = 0; i < s->file_count[part]; i++) {
      if (s->files[part][i].fd >= 0) close(s->files[part][i].fd);
      free(s->files[part][i].path);
    }
  }
  free(s);
}

static bool is_ten(const char *path) { return ls_source_has(path, "data_batch_1.bin"); }

static bool is_hundred(const char *path) {
  return ls_source_has(path, "train.bin") && ls_source_has(path, "test.bin") &&
         ls_source_has(path, "fine_label_names.txt");
}

const struct ls_source_kind ls_source_cifar10 = {
    .name = "CIFAR-10",
    .what = "a folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin (CIFAR-10, binary version)",
    .is = is_ten,
    .open = open_source,
    .fetch = fetch,
    .close = close_source,
};

const struct ls_source_kind ls_source_cifar100 = {
    .name = "CIFAR-100",
    .what = "a folder with train.bin, test.bin and fine_label_names.txt (CIFAR-100, binary version)",
    .is = is_hundred,
    .open = open_source,
    .fetch = fetch,
    .close = close_source,
};
