// Sources that are one or several files of records (TAR, TFRecord): internal to src/data. The files are scanned once for
// the places of their records, which are then read in any order.
#ifndef LS_DATA_SHARDS_H
#define LS_DATA_SHARDS_H

#include "data/source.h"

struct ls_record {
  int32_t shard;
  uint64_t offset, size;
  int64_t label;  // when the scan finds it
};

struct ls_shards;

// Which group a file or folder belongs to, by its name: "/validation" with "val", "/test" with "test" in it, else
// "/train". Its part of the source is made when it is the first.
int ls_source_part_of(struct ls_source *source, const char *name);

// Whether `path` is such a file, or a folder that holds one (the first ordinary file in order of names counts).
bool ls_shards_any(const char *path, bool (*is)(const char *path));

typedef ls_status ls_shards_scan(struct ls_shards *shards, int part, int shard, const char *path, int fd, uint64_t size,
                                 struct ls_error *err);
ls_status ls_shards_open(const struct ls_import_options *options, const struct ls_source_kind *kind,
                         bool (*is)(const char *path), ls_shards_scan *scan, struct ls_source **source,
                         struct ls_error *err);
ls_status ls_shards_add(struct ls_shards *shards, int part, const struct ls_record *record, struct ls_error *err);
// Reads the record's bytes into the item and names it.
ls_status ls_shards_fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item,
                          const struct ls_record **record, struct ls_error *err);
void ls_shards_close(struct ls_source *source);

#endif
