// Importing TAR shards as WebDataset's: KEY.jpg (or .jpeg, .png) and KEY.cls with the label as text, beside each other.
// One .tar, or a folder of them; those with "val" or "test" in their names make /validation and /test.
//
// The headers are read once (ustar, GNU long names, pax paths); images are then read by their place in the file. Nothing
// is unpacked, but an absolute name or one with ".." is a sign that something is wrong, and is refused.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "data/shards.h"

enum { BLOCK = 512, MAX_NAME = 4096, MAX_LABEL_TEXT = 32 };

struct reading {
  struct ls_shards *shards;
  int part, shard;
  const char *path;
  int fd;
  uint64_t at, size;
  char name[MAX_NAME];  // of the entry; from a header before it when `given`
  bool given;
  // The sample that is being put together.
  char key[MAX_NAME];
  bool has_image, has_label;
  struct ls_record record;
};

static ls_status read_bytes(const struct reading *r, void *to, size_t size, uint64_t offset, struct ls_error *err) {
  if (offset + size > r->size || pread(r->fd, to, size, (off_t)offset) != (ssize_t)size)
    return ls_fail(err, LS_CORRUPT, "'%s' is cut short inside '%s'", r->path, r->name);
  return LS_OK;
}

static bool safe_name(const char *name) {
  if (name[0] == '/') return false;
  for (const char *at = name; (at = strstr(at, "..")); at += 2) {
    if ((at == name || at[-1] == '/') && (at[2] == '/' || at[2] == 0)) return false;
  }
  return true;
}

static ls_status end_sample(struct reading *r, struct ls_error *err) {
  if (!r->key[0] || (!r->has_image && !r->has_label)) return LS_OK;
  if (!r->has_image || !r->has_label) {
    return ls_fail(err, LS_INVALID, "'%s': '%s' has %s, but no %s beside it", r->path, r->key,
                   r->has_image ? "an image" : "a label", r->has_image ? ".cls" : "image");
  }
  return ls_shards_add(r->shards, r->part, &r->record, err);
}

static ls_status read_label(struct reading *r, uint64_t size, struct ls_error *err) {
  char text[MAX_LABEL_TEXT + 1] = "", *end;
  if (size > MAX_LABEL_TEXT)
    return ls_fail(err, LS_CORRUPT, "'%s': '%s' is no label of at most %d bytes", r->path, r->name, MAX_LABEL_TEXT);
  LS_TRY(read_bytes(r, text, (size_t)size, r->at, err));
  errno = 0;
  r->record.label = strtoll(text, &end, 10);
  if (end == text || errno || end[strspn(end, " \r\n\t")])
    return ls_fail(err, LS_CORRUPT, "'%s': '%s' holds '%s', not a whole number", r->path, r->name, text);
  r->has_label = true;
  return LS_OK;
}

// One file of the archive, its bytes at r->at.
static ls_status take_file(struct reading *r, uint64_t size, struct ls_error *err) {
  if (!safe_name(r->name)) {
    return ls_fail(err, LS_INVALID, "'%s' has an entry named '%.200s': names may not be absolute or hold '..'", r->path,
                   r->name);
  }
  const char *slash = strrchr(r->name, '/'), *base = slash ? slash + 1 : r->name, *dot = strchr(base, '.');
  if (!dot || base[0] == '.') return LS_OK;
  size_t length = (size_t)(dot - r->name);
  if (strlen(r->key) != length || strncmp(r->key, r->name, length) != 0) {
    LS_TRY(end_sample(r, err));
    memcpy(r->key, r->name, length);
    r->key[length] = 0;
    r->has_image = r->has_label = false;
  }
  bool image = strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0 || strcasecmp(dot, ".png") == 0;
  if (strcasecmp(dot, ".cls") == 0) return read_label(r, size, err);
  if (!image) return LS_OK;
  if (r->has_image) return ls_fail(err, LS_INVALID, "'%s': '%s' has two images", r->path, r->key);
  r->has_image = true;
  r->record.shard = r->shard;
  r->record.offset = r->at;
  r->record.size = size;
  return LS_OK;
}

// Numbers are octal text, or binary when the first bit is set.
static bool number(const uint8_t *field, size_t size, uint64_t *value) {
  *value = 0;
  if (field[0] & 0x80) {
    for (size_t i = 1; i < size; i++) {
      if (*value >> 55) return false;
      *value = *value << 8 | field[i];
    }
    return true;
  }
  for (size_t i = 0; i < size && field[i] && field[i] != ' '; i++) {
    if (field[i] < '0' || field[i] > '7') return false;
    *value = *value << 3 | (uint64_t)(field[i] - '0');
  }
  return true;
}

static bool checksum_good(const uint8_t *header) {
  uint64_t expected, sum = 0;
  for (int i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? ' ' : header[i];
  const uint8_t *field = header + 148;
  size_t size = 8;
  while (size && *field == ' ') field++, size--;
  return number(field, size, &expected) && expected == sum;
}

// "30 path=some/name\n": records of a pax header.
static void take_pax(struct reading *r, char *text, size_t size) {
  for (size_t at = 0; at < size;) {
    char *end;
    unsigned long length = strtoul(text + at, &end, 10);
    if (length == 0 || length > size - at || *end != ' ') return;
    char *value = end + 1, *last = text + at + length - 1;
    // A record may also claim to be shorter than what introduces it.
    if (last - value >= 5 && strncmp(value, "path=", 5) == 0 && last - value - 5 < MAX_NAME) {
      memcpy(r->name, value + 5, (size_t)(last - value - 5));
      r->name[last - value - 5] = 0;
      r->given = true;
    }
    at += length;
  }
}

// The name of the entry after this one.
static ls_status take_long_name(struct reading *r, uint8_t type, uint64_t size, struct ls_error *err) {
  enum { LIMIT = 1 << 20 };
  if (size > LIMIT) return ls_fail(err, LS_CORRUPT, "'%s' has a name of %" PRIu64 " bytes", r->path, size);
  char *text = calloc(1, (size_t)size + 1);
  if (!text) return ls_fail(err, LS_NO_MEMORY, "no memory for a name");
  ls_status status = read_bytes(r, text, (size_t)size, r->at, err);
  if (status == LS_OK && type == 'x') {
    take_pax(r, text, (size_t)size);
  } else if (status == LS_OK && strlen(text) >= MAX_NAME) {
    status = ls_fail(err, LS_CORRUPT, "'%s' has a name of %" PRIu64 " bytes", r->path, size);
  } else if (status == LS_OK) {
    strcpy(r->name, text);
    r->given = true;
  }
  free(text);
  return status;
}

static ls_status take_entry(struct reading *r, const uint8_t *header, struct ls_error *err) {
  uint64_t size;
  uint8_t type = header[156];
  if (!checksum_good(header) || !number(header + 124, 12, &size)) {
    return ls_fail(err, LS_CORRUPT, "'%s' is damaged, or no TAR archive: there is no header at byte %" PRIu64, r->path,
                   r->at);
  }
  r->at += BLOCK;
  if (!r->given) {
    int prefix = memcmp(header + 257, "ustar", 6) == 0 ? (int)strnlen((const char *)header + 345, 155) : 0;
    snprintf(r->name, sizeof r->name, "%.*s%s%.100s", prefix, (const char *)header + 345, prefix ? "/" : "",
             (const char *)header);
  }
  if (size > r->size - r->at) return ls_fail(err, LS_CORRUPT, "'%s' is cut short inside '%.200s'", r->path, r->name);
  bool named = false;
  if (type == '0' || type == 0 || type == '7') {
    LS_TRY(take_file(r, size, err));
  } else if (type == 'L' || type == 'x') {
    LS_TRY(take_long_name(r, type, size, err));
    named = r->given;
  } else if (!safe_name(r->name)) {
    return ls_fail(err, LS_INVALID, "'%s' has an entry named '%.200s': names may not be absolute or hold '..'", r->path,
                   r->name);
  }
  r->given = named;
  r->at += (size + BLOCK - 1) / BLOCK * BLOCK;
  return LS_OK;
}

static ls_status scan(struct ls_shards *shards, int part, int shard, const char *path, int fd, uint64_t size,
                      struct ls_error *err) {
  struct reading *r = calloc(1, sizeof *r);
  if (!r) return ls_fail(err, LS_NO_MEMORY, "no memory to read '%s'", path);
  *r = (struct reading){.shards = shards, .part = part, .shard = shard, .path = path, .fd = fd, .size = size};
  ls_status status = LS_OK;
  while (status == LS_OK && r->at < size) {
    uint8_t header[BLOCK];
    static const uint8_t zeros[BLOCK];
    r->name[0] = r->given ? r->name[0] : 0;
    status = read_bytes(r, header, BLOCK, r->at, err);
    if (status == LS_OK && memcmp(header, zeros, BLOCK) == 0) break;
    if (status == LS_OK) status = take_entry(r, header, err);
  }
  if (status == LS_OK) status = end_sample(r, err);
  free(r);
  return status;
}

static bool is_tar(const char *path) {
  uint8_t header[BLOCK];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool good = fd >= 0 && pread(fd, header, BLOCK, 0) == BLOCK && checksum_good(header);
  if (fd >= 0) close(fd);
  return good;
}

static bool is(const char *path) { return ls_shards_any(path, is_tar); }

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  return ls_shards_open(o, &ls_source_tar, is_tar, scan, source, err);
}

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  const struct ls_record *record;
  LS_TRY(ls_shards_fetch(source, part, index, item, &record, err));
  item->form = LS_ITEM_ENCODED;
  item->label = record->label;
  return LS_OK;
}

const struct ls_source_kind ls_source_tar = {
    .name = "TAR shards (WebDataset)",
    .what = "a TAR archive, or a folder of them, with KEY.jpg (or .png) and KEY.cls beside each other (WebDataset)",
    .is = is,
    .open = open_source,
    .fetch = fetch,
    .close = ls_shards_close,
};
