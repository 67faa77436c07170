// Importing TFRecord files of image classification examples: one file, or a folder of shards.
//
// A record: length (u64 little-endian), masked CRC-32C of it, the bytes, masked CRC-32C of them. The bytes are a
// tensorflow.Example { features { feature { key: "image/encoded", value { bytes_list } } ... } }. The image is looked for
// under image/encoded and image, the label under image/class/label and label.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/shards.h"
#include "data/wire.h"

enum { HEAD = 12, TAIL = 4 };
#define LARGEST_RECORD (UINT64_C(1) << 30)

// CRC-32C (Castagnoli), as TensorFlow masks it. `table` is made once a thread.
static uint32_t masked_crc(const uint8_t *data, size_t size) {
  static _Thread_local uint32_t table[256];
  if (!table[1]) {
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
      table[i] = c;
    }
  }
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; i++) crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static uint32_t get32(const uint8_t *p) {
  return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }

static ls_status scan(struct ls_shards *shards, int part, int shard, const char *path, int fd, uint64_t size,
                      struct ls_error *err) {
  uint64_t at = 0;
  while (at < size) {
    uint8_t head[HEAD];
    if (size - at < HEAD + TAIL || pread(fd, head, HEAD, (off_t)at) != HEAD)
      return ls_fail(err, LS_CORRUPT, "'%s' is cut short at byte %" PRIu64, path, at);
    uint64_t length = get64(head);
    if (masked_crc(head, 8) != get32(head + 8))
      return ls_fail(err, LS_CORRUPT, "'%s' is damaged: the length of the record at byte %" PRIu64 " fails its check",
                     path, at);
    if (length > size - at - HEAD - TAIL)
      return ls_fail(err, LS_CORRUPT, "'%s' is cut short at byte %" PRIu64, path, at);
    if (length > LARGEST_RECORD)
      return ls_fail(err, LS_INVALID, "'%s' has a record of more than 1 GiB at byte %" PRIu64, path, at);
    struct ls_record record = {.shard = shard, .offset = at + HEAD, .size = length + TAIL};
    LS_TRY(ls_shards_add(shards, part, &record, err));
    at += HEAD + length + TAIL;
  }
  return LS_OK;
}

// ---- the example

struct example {
  struct ls_wire_field image;
  bool has_image, has_label;
  int64_t label;
};

// Feature { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }, of which the first
// value is taken.
static void take_feature(struct example *e, const struct ls_wire_field *name, const struct ls_wire_field *feature) {
  bool image = ls_wire_equals(name, "image/encoded") || ls_wire_equals(name, "image");
  bool label = ls_wire_equals(name, "image/class/label") || ls_wire_equals(name, "label");
  if (!image && !label) return;
  struct ls_wire wire = ls_wire_of(feature->data, feature->size);
  struct ls_wire_field list, value;
  while (ls_wire_next(&wire, &list)) {
    struct ls_wire values = ls_wire_of(list.data, list.is_bytes ? list.size : 0);
    if (image && list.number == 1 && ls_wire_next(&values, &value) && value.number == 1 && value.is_bytes) {
      e->image = value;
      e->has_image = true;
    }
    if (label && list.number == 3 && ls_wire_next(&values, &value) && value.number == 1) {
      uint64_t number = value.value;
      struct ls_wire packed = ls_wire_of(value.data, value.size);
      if (value.is_bytes && !ls_wire_varint(&packed, &number)) return;
      e->label = (int64_t)number;
      e->has_label = true;
    }
  }
}

// Example { Features features = 1; }; Features { map<string, Feature> feature = 1; }
static bool parse(const uint8_t *data, size_t size, struct example *e) {
  struct ls_wire example = ls_wire_of(data, size);
  struct ls_wire_field features, entry, part;
  while (ls_wire_next(&example, &features)) {
    if (features.number != 1 || !features.is_bytes) continue;
    struct ls_wire map = ls_wire_of(features.data, features.size);
    while (ls_wire_next(&map, &entry)) {
      struct ls_wire_field key = {0}, value = {0};
      struct ls_wire pair = ls_wire_of(entry.data, entry.is_bytes ? entry.size : 0);
      while (ls_wire_next(&pair, &part)) {
        if (part.number == 1) key = part;
        if (part.number == 2) value = part;
      }
      if (pair.damaged) return false;
      if (key.is_bytes && value.is_bytes) take_feature(e, &key, &value);
    }
    if (map.damaged) return false;
  }
  return !example.damaged;
}

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  const struct ls_record *record;
  LS_TRY(ls_shards_fetch(source, part, index, item, &record, err));
  size_t size = item->size - TAIL;
  if (masked_crc(item->data, size) != get32(item->data + size))
    return ls_fail(err, LS_CORRUPT, "'%s': the record is damaged, its check fails", item->name);
  struct example e = {.has_image = false};
  if (!parse(item->data, size, &e))
    return ls_fail(err, LS_CORRUPT, "'%s': the record is no tensorflow.Example", item->name);
  if (!e.has_image || !e.has_label) {
    return ls_fail(err, LS_CORRUPT, "'%s': the example has no %s", item->name,
                   e.has_image ? "'image/class/label' or 'label'" : "'image/encoded' or 'image'");
  }
  item->form = LS_ITEM_ENCODED;
  item->data = e.image.data;
  item->size = e.image.size;
  item->label = e.label;
  return LS_OK;
}

static bool is_tfrecord(const char *path) {
  uint8_t head[HEAD];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool good = fd >= 0 && pread(fd, head, HEAD, 0) == HEAD && masked_crc(head, 8) == get32(head + 8);
  if (fd >= 0) close(fd);
  return good;
}

static bool is(const char *path) { return ls_shards_any(path, is_tfrecord); }

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  return ls_shards_open(o, &ls_source_tfrecord, is_tfrecord, scan, source, err);
}

const struct ls_source_kind ls_source_tfrecord = {
    .name = "TFRecord",
    .what = "a TFRecord file, or a folder of them, of examples with image/encoded and image/class/label",
    .is = is,
    .open = open_source,
    .fetch = fetch,
    .close = ls_shards_close,
};
