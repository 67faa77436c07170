// Importing NumPy arrays: a folder with PREFIX_images.npy and PREFIX_labels.npy, for the prefixes train, validation and
// test (also x_PREFIX.npy with y_PREFIX.npy). Images are uint8 [N,H,W,C] or [N,H,W], labels whole numbers [N] or [N,1].
//
// The format (numpy.lib.format): "\x93NUMPY", version, length of the header, the header as the text of a Python
// dictionary, the values.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "data/data_internal.h"
#include "data/source.h"

enum { MAX_AXES = 4, MAX_HEADER = 65536 };

struct npy {
  char *path;
  int fd;
  char type;  // 'u', 'i', 'b'
  int bytes;  // of an element
  int axes;
  int64_t dim[MAX_AXES];
  uint64_t offset;
};

struct npy_source {
  struct ls_source source;
  struct npy images[LS_MAX_PARTS], labels[LS_MAX_PARTS];
};

// "'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), "
static ls_status parse_header(struct npy *n, const char *header, struct ls_error *err) {
  const char *descr = strstr(header, "'descr':"), *order = strstr(header, "'fortran_order':"),
             *shape = strstr(header, "'shape':");
  char byte_order = 0;
  if (!descr || !order || !shape || sscanf(descr + 8, " '%c%c%d'", &byte_order, &n->type, &n->bytes) != 3)
    return ls_fail(err, LS_CORRUPT, "'%s' has a header that is not understood: %.80s", n->path, header);
  if (byte_order == '>' && n->bytes > 1)
    return ls_fail(err, LS_UNSUPPORTED, "'%s' is big-endian; save it anew with astype", n->path);
  if (strncmp(order + 16 + strspn(order + 16, " "), "False", 5) != 0) {
    return ls_fail(err, LS_UNSUPPORTED, "'%s' is in Fortran order; save numpy.ascontiguousarray of it", n->path);
  }
  const char *at = strchr(shape, '(');
  while (at && n->axes < MAX_AXES) {
    char *end;
    at += 1 + strspn(at + 1, " ");
    long long value = strtoll(at, &end, 10);
    if (end == at) break;
    if (value < 0) return ls_fail(err, LS_CORRUPT, "'%s' has a negative length", n->path);
    n->dim[n->axes++] = value;
    at = *end == ',' ? end : NULL;
  }
  if (at && n->axes == MAX_AXES && at[1 + strspn(at + 1, " ")] != ')')
    return ls_fail(err, LS_INVALID, "'%s' has more than %d axes", n->path, MAX_AXES);
  return LS_OK;
}

static ls_status check_file_size(const struct npy *n, struct ls_error *err) {
  struct stat info;
  if (fstat(n->fd, &info) != 0) return ls_fail_errno(err, errno, "cannot read '%s'", n->path);
  uint64_t bytes = (uint64_t)n->bytes;
  for (int i = 0; i < n->axes; i++) {
    if (__builtin_mul_overflow(bytes, (uint64_t)n->dim[i], &bytes)) bytes = UINT64_MAX;
  }
  if ((uint64_t)info.st_size >= n->offset && bytes <= (uint64_t)info.st_size - n->offset) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s' is cut short: its shape needs %" PRIu64 " bytes, the file has %" PRIu64,
                 n->path, bytes, (uint64_t)info.st_size - n->offset);
}

static ls_status open_npy(struct npy *n, const char *folder, const char *name, struct ls_error *err) {
  n->fd = -1;
  n->path = ls_path_join(folder, name);
  if (!n->path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  n->fd = open(n->path, O_RDONLY | O_CLOEXEC);
  if (n->fd < 0) return ls_fail_errno(err, errno, "cannot open '%s'", n->path);
  uint8_t head[12] = {0};
  ssize_t got = pread(n->fd, head, sizeof head, 0);
  if (got < 10 || memcmp(head, "\x93NUMPY", 6) != 0) return ls_fail(err, LS_CORRUPT, "'%s' is no .npy file", n->path);
  uint32_t length = head[8] | (uint32_t)head[9] << 8, begin = 10;
  if (head[6] >= 2) {
    length |= (uint32_t)head[10] << 16 | (uint32_t)head[11] << 24;
    begin = 12;
  }
  char header[MAX_HEADER + 1];
  if (length > MAX_HEADER || pread(n->fd, header, length, begin) != (ssize_t)length)
    return ls_fail(err, LS_CORRUPT, "'%s' ends inside its header, or has one of more than %d bytes", n->path,
                   MAX_HEADER);
  header[length] = 0;
  n->offset = begin + length;
  LS_TRY(parse_header(n, header, err));
  return check_file_size(n, err);
}

static ls_status check_pair(const struct npy *images, const struct npy *labels, struct ls_error *err) {
  if (images->type != 'u' || images->bytes != 1)
    return ls_fail(err, LS_INVALID, "'%s' must hold uint8 values, not '%c%d'", images->path, images->type,
                   images->bytes);
  if (images->axes < 3) {
    return ls_fail(err, LS_INVALID, "'%s' has %d axes; images are [N,height,width,channels] or [N,height,width]",
                   images->path, images->axes);
  }
  int64_t channels = images->axes == 4 ? images->dim[3] : 1;
  if (!ls_image_size_good(images->dim[1], images->dim[2], channels)) {
    return ls_fail(err, LS_INVALID,
                   "'%s' has images of %" PRId64 "x%" PRId64 "x%" PRId64 "; allowed are " LS_IMAGE_SIZES, images->path,
                   images->dim[1], images->dim[2], channels);
  }
  int bytes = labels->bytes;
  bool whole = (labels->type == 'u' || labels->type == 'i') && (bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8);
  bool one = labels->axes == 1 || (labels->axes == 2 && labels->dim[1] == 1);
  if (!whole || !one) {
    return ls_fail(err, LS_INVALID,
                   "'%s' must hold one whole number of 1, 2, 4 or 8 bytes a sample, not %d axes of '%c%d'",
                   labels->path, labels->axes, labels->type, bytes);
  }
  if (images->dim[0] == labels->dim[0]) return LS_OK;
  return ls_fail(err, LS_INVALID, "'%s' has %" PRId64 " images, but '%s' has %" PRId64 " labels", images->path,
                 images->dim[0], labels->path, labels->dim[0]);
}

static const char *const prefixes[][2] = {
    {"train", "/train"}, {"validation", "/validation"}, {"val", "/validation"}, {"test", "/test"}};
// How the two files of a prefix are named.
static const char *const patterns[][2] = {
    {"%s_images.npy", "%s_labels.npy"}, {"x_%s.npy", "y_%s.npy"}, {"X_%s.npy", "y_%s.npy"}};

static bool find_names(const char *folder, const char *prefix, char images[64], char labels[64]) {
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    const char *at = strstr(patterns[i][0], "%s"), *rest = at + 2;
    snprintf(images, 64, "%.*s%s%s", (int)(at - patterns[i][0]), patterns[i][0], prefix, rest);
    at = strstr(patterns[i][1], "%s"), rest = at + 2;
    snprintf(labels, 64, "%.*s%s%s", (int)(at - patterns[i][1]), patterns[i][1], prefix, rest);
    if (ls_source_has(folder, images) && ls_source_has(folder, labels)) return true;
  }
  return false;
}

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct npy_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = &ls_source_npy;
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes && s->source.part_count < LS_MAX_PARTS; i++) {
    char images[64], labels[64];
    if (!find_names(o->source, prefixes[i][0], images, labels)) continue;
    int part = s->source.part_count++;
    LS_TRY(open_npy(&s->images[part], o->source, images, err));
    LS_TRY(open_npy(&s->labels[part], o->source, labels, err));
    LS_TRY(check_pair(&s->images[part], &s->labels[part], err));
    s->source.parts[part] = (struct ls_source_part){.group = prefixes[i][1], .count = s->images[part].dim[0]};
  }
  return LS_OK;
}

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  const struct npy_source *s = (struct npy_source *)source;
  const struct npy *images = &s->images[part], *labels = &s->labels[part];
  snprintf(item->name, sizeof item->name, "%s, image %" PRId64, images->path, index);
  item->form = LS_ITEM_ROWS;
  item->height = images->dim[1];
  item->width = images->dim[2];
  item->channels = images->axes == 4 ? images->dim[3] : 1;
  uint8_t raw[8] = {0};
  if (pread(labels->fd, raw, (size_t)labels->bytes, (off_t)(labels->offset + (uint64_t)(index * labels->bytes))) !=
      labels->bytes)
    return ls_fail(err, LS_CORRUPT, "'%s' is cut short", labels->path);
  int64_t value;
  memcpy(&value, raw, sizeof value);
  int shift = 64 - 8 * labels->bytes;
  if (labels->type == 'i' && shift) value = (int64_t)((uint64_t)value << shift) >> shift;
  item->label = value;
  uint64_t bytes = (uint64_t)(item->height * item->width * item->channels);
  return ls_item_read(item, images->fd, images->offset + (uint64_t)index * bytes, bytes, images->path, err);
}

static void close_npy(struct npy *n) {
  if (n->path && n->fd >= 0) close(n->fd);
  free(n->path);
}

static void close_source(struct ls_source *source) {
  struct npy_source *s = (struct npy_source *)source;
  for (int i = 0; i < LS_MAX_PARTS; i++) {
    close_npy(&s->images[i]);
    close_npy(&s->labels[i]);
  }
  free(s);
}

static bool is(const char *path) {
  char images[64], labels[64];
  return find_names(path, "train", images, labels);
}

const struct ls_source_kind ls_source_npy = {
    .name = "NumPy arrays",
    .what = "a folder with train_images.npy and train_labels.npy (or x_train.npy, y_train.npy; also validation, test)",
    .is = is,
    .open = open_source,
    .fetch = fetch,
    .close = close_source,
};
