// What the importers share. See source.h.
#include "data/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

ls_status ls_item_need(struct ls_item *item, size_t size, struct ls_error *err) {
  if (item->memory_size < size || !item->memory) {
    free(item->memory);
    item->memory = malloc(size ? size : 1);
    item->memory_size = item->memory ? size : 0;
    if (!item->memory) return ls_fail(err, LS_NO_MEMORY, "no memory for '%s' (%zu bytes)", item->name, size);
  }
  item->data = item->memory;
  item->size = size;
  return LS_OK;
}

ls_status ls_item_read(struct ls_item *item, int fd, uint64_t offset, size_t size, const char *path,
                       struct ls_error *err) {
  LS_TRY(ls_item_need(item, size, err));
  size_t done = 0;
  while (done < size) {
    ssize_t got = pread(fd, item->memory + done, size - done, (off_t)(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ls_fail_errno(err, errno, "cannot read '%s'", path);
    if (got == 0) return ls_fail(err, LS_CORRUPT, "'%s' is cut short", path);
    done += (size_t)got;
  }
  return LS_OK;
}

ls_status ls_source_add_class(struct ls_source *source, const char *name, struct ls_error *err) {
  enum { MAX_CLASSES = 1 << 20 };
  if (source->class_count >= MAX_CLASSES) return ls_fail(err, LS_INVALID, "more than %d classes", MAX_CLASSES);
  if ((source->class_count & (source->class_count - 1)) == 0) {  // full at powers of two
    size_t capacity = source->class_count ? 2 * source->class_count : 1;
    char **names = realloc(source->class_names, capacity * sizeof *names);
    if (!names) return ls_fail(err, LS_NO_MEMORY, "no memory for class names");
    source->class_names = names;
  }
  char *copy = strdup(name);
  if (!copy) return ls_fail(err, LS_NO_MEMORY, "no memory for class names");
  source->class_names[source->class_count++] = copy;
  return LS_OK;
}

void ls_source_free_classes(struct ls_source *source) {
  for (size_t i = 0; i < source->class_count; i++) free(source->class_names[i]);
  free(source->class_names);
  source->class_names = NULL;
  source->class_count = 0;
}

ls_status ls_source_read_classes(struct ls_source *source, const char *path, struct ls_error *err) {
  char *text, *rest;
  size_t size;
  LS_TRY(ls_file_read(path, 16 << 20, &text, &size, err));
  ls_status status = LS_OK;
  rest = text;
  for (char *line; status == LS_OK && (line = strsep(&rest, "\n"));) {
    size_t length = strlen(line);
    if (length && line[length - 1] == '\r') line[--length] = 0;
    if (length) status = ls_source_add_class(source, line, err);
  }
  free(text);
  return status;
}

bool ls_source_has(const char *path, const char *name) {
  char *joined = ls_path_join(path, name);
  bool there = joined && access(joined, R_OK) == 0;
  free(joined);
  return there;
}

int ls_source_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

int ls_source_by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }
