// Importing Caffe's LMDB of Datum messages: a folder with data.mdb, or one with such folders (train_lmdb, val_lmdb).
//
// The data base is mapped into memory, and values are pointers into the map; one read transaction keeps them valid.
// A raw Datum is [C,H,W]; Caffe's convert_imageset stores blue first (--bgr).
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "data/shards.h"
#include "data/wire.h"

enum { MAX_BASES = 16 };

struct base {
  char *path;
  MDB_env *env;
  MDB_txn *txn;
};

struct value {
  const uint8_t *data;
  uint32_t size;
  int32_t base;
};

struct lmdb_source {
  struct ls_source source;
  struct base bases[MAX_BASES];
  int base_count;
  bool bgr;
  struct {
    struct value *all;
    int64_t count, capacity;
  } parts[LS_MAX_PARTS];
};

static ls_status add_value(struct lmdb_source *s, int part, const MDB_val *value, struct ls_error *err) {
  if (s->parts[part].count == s->parts[part].capacity) {
    int64_t capacity = s->parts[part].capacity ? 2 * s->parts[part].capacity : 1024;
    struct value *all = realloc(s->parts[part].all, (size_t)capacity * sizeof *all);
    if (!all) return ls_fail(err, LS_NO_MEMORY, "no memory for the list of images");
    s->parts[part].all = all;
    s->parts[part].capacity = capacity;
  }
  s->parts[part].all[s->parts[part].count++] =
      (struct value){value->mv_data, (uint32_t)value->mv_size, s->base_count - 1};
  s->source.parts[part].encoded_bytes += value->mv_size;
  return LS_OK;
}

// The map would reach beyond the end of a file that is cut short: reading there kills the process.
static ls_status check_length(const struct base *b, struct ls_error *err) {
  MDB_envinfo info;
  MDB_stat stat_of;
  struct stat file;
  char *path = ls_path_join(b->path, "data.mdb");
  int failed = !path || stat(path, &file) != 0;
  free(path);
  if (failed) return ls_fail_errno(err, errno, "cannot read '%s/data.mdb'", b->path);
  mdb_env_info(b->env, &info);
  mdb_env_stat(b->env, &stat_of);
  uint64_t needed = ((uint64_t)info.me_last_pgno + 1) * stat_of.ms_psize;
  if ((uint64_t)file.st_size >= needed) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s/data.mdb' is cut short: it has %" PRIu64 " bytes of %" PRIu64, b->path,
                 (uint64_t)file.st_size, needed);
}

static ls_status scan(struct lmdb_source *s, struct base *b, int part, struct ls_error *err) {
  MDB_dbi dbi;
  MDB_cursor *cursor = NULL;
  MDB_val key, value;
  int failed = mdb_dbi_open(b->txn, NULL, 0, &dbi);
  if (!failed) failed = mdb_cursor_open(b->txn, dbi, &cursor);
  if (failed) return ls_fail(err, LS_CORRUPT, "'%s' cannot be read: %s", b->path, mdb_strerror(failed));
  ls_status status = LS_OK;
  while (status == LS_OK && (failed = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
    status = value.mv_size <= 1u << 30 ? add_value(s, part, &value, err)
                                       : ls_fail(err, LS_INVALID, "'%s' has a value of more than 1 GiB", b->path);
  mdb_cursor_close(cursor);
  if (status == LS_OK && failed != MDB_NOTFOUND)
    return ls_fail(err, LS_CORRUPT, "'%s' cannot be read: %s", b->path, mdb_strerror(failed));
  return status;
}

static ls_status open_base(struct lmdb_source *s, const char *path, struct ls_error *err) {
  if (s->base_count == MAX_BASES) return ls_fail(err, LS_INVALID, "more than %d LMDB data bases", MAX_BASES);
  struct base *b = &s->bases[s->base_count++];
  b->path = strdup(path);
  if (!b->path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  int failed = mdb_env_create(&b->env);
  if (!failed) failed = mdb_env_open(b->env, path, MDB_RDONLY | MDB_NOLOCK | MDB_NORDAHEAD, 0);
  if (failed) return ls_fail(err, LS_CORRUPT, "'%s' cannot be opened as LMDB: %s", path, mdb_strerror(failed));
  LS_TRY(check_length(b, err));
  failed = mdb_txn_begin(b->env, NULL, MDB_RDONLY, &b->txn);
  if (failed) return ls_fail(err, LS_CORRUPT, "'%s' cannot be read: %s", path, mdb_strerror(failed));
  int part = ls_source_part_of(&s->source, path);
  LS_TRY(scan(s, b, part, err));
  s->source.parts[part].count = s->parts[part].count;
  return LS_OK;
}

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct lmdb_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = &ls_source_lmdb;
  s->bgr = o->bgr;
  if (ls_source_has(o->source, "data.mdb")) return open_base(s, o->source, err);
  struct dirent **names;
  int count = scandir(o->source, &names, ls_source_visible, ls_source_by_name);
  if (count < 0) return ls_fail_errno(err, errno, "cannot read folder '%s'", o->source);
  ls_status status = LS_OK;
  for (int i = 0; i < count; i++) {
    char *path = status == LS_OK ? ls_path_join(o->source, names[i]->d_name) : NULL;
    if (path && ls_source_has(path, "data.mdb")) status = open_base(s, path, err);
    free(path);
    free(names[i]);
  }
  free(names);
  return status;
}

static void swap_red_and_blue(struct ls_item *item) {
  size_t plane = item->size / 3;
  for (size_t i = 0; i < plane; i++) {
    uint8_t kept = item->memory[i];
    item->memory[i] = item->memory[2 * plane + i];
    item->memory[2 * plane + i] = kept;
  }
}

// Datum { int32 channels = 1, height = 2, width = 3; bytes data = 4; int32 label = 5; repeated float float_data = 6;
//         bool encoded = 7; }
static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  const struct lmdb_source *s = (struct lmdb_source *)source;
  const struct value *v = &s->parts[part].all[index];
  snprintf(item->name, sizeof item->name, "%.400s, value %" PRId64, s->bases[v->base].path, index);
  struct ls_wire wire = ls_wire_of(v->data, v->size);
  struct ls_wire_field f, data = {0};
  int64_t number[8] = {0};
  while (ls_wire_next(&wire, &f)) {
    if (f.number == 4 && f.is_bytes)
      data = f;
    else if (f.number < 8 && !f.is_bytes)
      number[f.number] = (int64_t)f.value;
  }
  if (wire.damaged) return ls_fail(err, LS_CORRUPT, "'%s' is no Datum", item->name);
  if (!data.is_bytes || !data.size)
    return ls_fail(err, LS_CORRUPT, "'%s' has no bytes; floating-point values are not images", item->name);
  item->form = number[7] ? LS_ITEM_ENCODED : LS_ITEM_PLANES;
  item->channels = number[1];
  item->height = number[2];
  item->width = number[3];
  item->label = (int32_t)number[5];
  item->data = data.data;
  item->size = data.size;
  if (!s->bgr || number[7] || item->channels != 3) return LS_OK;
  LS_TRY(ls_item_need(item, data.size, err));
  memcpy(item->memory, data.data, data.size);
  swap_red_and_blue(item);
  return LS_OK;
}

static void close_source(struct ls_source *source) {
  struct lmdb_source *s = (struct lmdb_source *)source;
  for (int i = 0; i < s->base_count; i++) {
    if (s->bases[i].txn) mdb_txn_abort(s->bases[i].txn);
    if (s->bases[i].env) mdb_env_close(s->bases[i].env);
    free(s->bases[i].path);
  }
  for (int p = 0; p < LS_MAX_PARTS; p++) free(s->parts[p].all);
  free(s);
}

static bool is(const char *path) {
  if (ls_source_has(path, "data.mdb")) return true;
  DIR *folder = opendir(path);
  bool found = false;
  for (struct dirent *entry; folder && !found && (entry = readdir(folder));) {
    char *below = ls_source_visible(entry) ? ls_path_join(path, entry->d_name) : NULL;
    found = below && ls_source_has(below, "data.mdb");
    free(below);
  }
  if (folder) closedir(folder);
  return found;
}

const struct ls_source_kind ls_source_lmdb = {
    .name = "LMDB of Datum (Caffe)",
    .what = "a folder with data.mdb, or with such folders (train_lmdb, val_lmdb), of Caffe's Datum messages",
    .is = is,
    .open = open_source,
    .fetch = fetch,
    .close = close_source,
};
