// See shards.h.
#include "data/shards.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

struct shard {
  char *path;
  int fd;
};

struct records {
  struct ls_record *all;
  int64_t count, capacity;
};

struct ls_shards {
  struct ls_source source;
  struct shard *shards;
  int count;
  struct records parts[LS_MAX_PARTS];
};

int ls_source_part_of(struct ls_source *source, const char *name) {
  const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
  const char *group = strstr(base, "train")  ? "/train"
                      : strstr(base, "val")  ? "/validation"
                      : strstr(base, "test") ? "/test"
                                             : "/train";
  for (int i = 0; i < source->part_count; i++) {
    if (strcmp(source->parts[i].group, group) == 0) return i;
  }
  source->parts[source->part_count] = (struct ls_source_part){.group = group};
  return source->part_count++;
}

static bool is_file(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

// Ordinary files in a folder (or the file itself), in order of names; -1: out of memory or unreadable.
static int list_files(const char *path, char ***result) {
  *result = NULL;
  if (is_file(path)) {
    *result = calloc(1, sizeof **result);
    if (*result) (*result)[0] = strdup(path);
    return *result && (*result)[0] ? 1 : -1;
  }
  struct dirent **names;
  int found = scandir(path, &names, ls_source_visible, ls_source_by_name), count = 0;
  if (found < 0) return -1;
  *result = calloc((size_t)found + 1, sizeof **result);
  for (int i = 0; i < found; i++) {
    char *joined = *result ? ls_path_join(path, names[i]->d_name) : NULL;
    if (joined && is_file(joined))
      (*result)[count++] = joined;
    else
      free(joined);
    free(names[i]);
  }
  free(names);
  return *result ? count : -1;
}

static void free_list(char **files, int count) {
  for (int i = 0; i < count; i++) free(files[i]);
  free(files);
}

bool ls_shards_any(const char *path, bool (*is)(const char *path)) {
  char **files;
  int count = list_files(path, &files);
  bool found = false;
  // Beside the shards there may be a text file or two.
  for (int i = 0; i < count && i < 16 && !found; i++) found = is(files[i]);
  free_list(files, count);
  return found;
}

static ls_status open_shard(struct ls_shards *s, const char *path, ls_shards_scan *scan, struct ls_error *err) {
  struct shard *shard = &s->shards[s->count];
  struct stat info;
  shard->path = strdup(path);
  if (!shard->path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  shard->fd = open(path, O_RDONLY | O_CLOEXEC);
  s->count++;
  if (shard->fd < 0 || fstat(shard->fd, &info) != 0) return ls_fail_errno(err, errno, "cannot open '%s'", path);
  return scan(s, ls_source_part_of(&s->source, path), s->count - 1, shard->path, shard->fd, (uint64_t)info.st_size,
              err);
}

ls_status ls_shards_open(const struct ls_import_options *options, const struct ls_source_kind *kind,
                         bool (*is)(const char *path), ls_shards_scan *scan, struct ls_source **source,
                         struct ls_error *err) {
  struct ls_shards *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = kind;
  char **files;
  int count = list_files(options->source, &files);
  if (count < 0) return ls_fail_errno(err, errno, "cannot read folder '%s'", options->source);
  s->shards = calloc((size_t)count + 1, sizeof *s->shards);
  ls_status status = s->shards ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  for (int i = 0; i < count && status == LS_OK; i++) {
    if (is(files[i])) status = open_shard(s, files[i], scan, err);
  }
  free_list(files, count);
  for (int p = 0; p < s->source.part_count; p++) s->source.parts[p].count = s->parts[p].count;
  return status;
}

ls_status ls_shards_add(struct ls_shards *s, int part, const struct ls_record *record, struct ls_error *err) {
  struct records *r = &s->parts[part];
  if (r->count == r->capacity) {
    int64_t capacity = r->capacity ? 2 * r->capacity : 1024;
    struct ls_record *all = realloc(r->all, (size_t)capacity * sizeof *all);
    if (!all) return ls_fail(err, LS_NO_MEMORY, "no memory for the list of records");
    r->all = all;
    r->capacity = capacity;
  }
  r->all[r->count++] = *record;
  s->source.parts[part].encoded_bytes += record->size;
  return LS_OK;
}

ls_status ls_shards_fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item,
                          const struct ls_record **record, struct ls_error *err) {
  const struct ls_shards *s = (struct ls_shards *)source;
  const struct ls_record *r = *record = &s->parts[part].all[index];
  const struct shard *shard = &s->shards[r->shard];
  snprintf(item->name, sizeof item->name, "%.400s, byte %" PRIu64, shard->path, r->offset);
  return ls_item_read(item, shard->fd, r->offset, (size_t)r->size, shard->path, err);
}

void ls_shards_close(struct ls_source *source) {
  struct ls_shards *s = (struct ls_shards *)source;
  for (int i = 0; i < s->count; i++) {
    if (s->shards[i].fd >= 0) close(s->shards[i].fd);
    free(s->shards[i].path);
  }
  for (int p = 0; p < LS_MAX_PARTS; p++) free(s->parts[p].all);
  free(s->shards);
  free(s);
}
