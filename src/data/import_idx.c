// Importing IDX files (MNIST and its kin, http://yann.lecun.com/exdb/mnist): a folder with the four files, gzipped or not.
// They are read into memory whole: the largest of their kind have some hundred megabytes.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "data/data_internal.h"
#include "data/source.h"

enum { IDX_UINT8 = 0x08, MAX_IDX_AXES = 4 };

static const char *const fashion_classes[] = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                              "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};

struct idx {
  char *path;
  gzFile file;
  int axes;
  uint32_t dim[MAX_IDX_AXES];
  uint8_t *values;
  int64_t image_bytes;
};

struct idx_source {
  struct ls_source source;
  struct idx images[2], labels[2];
};

static ls_status read_header(struct idx *idx, struct ls_error *err) {
  uint8_t head[4], dim[4];
  if (gzread(idx->file, head, 4) != 4 || head[0] || head[1] || head[3] < 1 || head[3] > MAX_IDX_AXES) {
    return ls_fail(err, LS_CORRUPT,
                   "'%s' is no IDX file: it does not begin with two zero bytes, a type and 1 to %d axes", idx->path,
                   MAX_IDX_AXES);
  }
  if (head[2] != IDX_UINT8)
    return ls_fail(err, LS_UNSUPPORTED,
                   "'%s' holds values of type 0x%02x; only unsigned bytes (0x08) can be images or labels", idx->path,
                   head[2]);
  idx->axes = head[3];
  for (int i = 0; i < idx->axes; i++) {
    if (gzread(idx->file, dim, 4) != 4) return ls_fail(err, LS_CORRUPT, "'%s' ends inside its header", idx->path);
    idx->dim[i] = (uint32_t)dim[0] << 24 | (uint32_t)dim[1] << 16 | (uint32_t)dim[2] << 8 | dim[3];
  }
  return LS_OK;
}

static ls_status open_idx(struct idx *idx, const char *folder, const char *name, struct ls_error *err) {
  char gz[256];
  snprintf(gz, sizeof gz, "%s.gz", name);
  idx->path = ls_path_join(folder, name);
  if (idx->path && access(idx->path, F_OK) != 0) {
    free(idx->path);
    idx->path = ls_path_join(folder, gz);
  }
  if (!idx->path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  idx->file = gzopen(idx->path, "rbe");
  if (!idx->file) return ls_fail_errno(err, errno ? errno : ENOMEM, "cannot open '%s'", idx->path);
  return read_header(idx, err);
}

// All values, grown piece by piece: a header may claim what it likes.
static ls_status read_values(struct idx *idx, uint64_t size, struct ls_error *err) {
  uint64_t done = 0, capacity = 0;
  while (done < size) {
    if (done == capacity) {
      capacity = capacity ? 2 * capacity : 1 << 20;
      if (capacity > size) capacity = size;
      uint8_t *values = realloc(idx->values, capacity);
      if (!values) return ls_fail(err, LS_NO_MEMORY, "no memory for '%s'", idx->path);
      idx->values = values;
    }
    uint64_t left = capacity - done;
    int got = gzread(idx->file, idx->values + done, left > 1 << 24 ? 1 << 24 : (unsigned)left);
    if (got <= 0) {
      return ls_fail(err, LS_CORRUPT, "'%s' is cut short or damaged: %" PRIu64 " bytes were expected, %" PRIu64 " came",
                     idx->path, size, done);
    }
    done += (uint64_t)got;
  }
  // The gzip checksum is seen here, and what the header did not announce.
  uint8_t more;
  int got = gzread(idx->file, &more, 1);
  if (got < 0) return ls_fail(err, LS_CORRUPT, "'%s' is damaged: its checksum is wrong", idx->path);
  if (got > 0) return ls_fail(err, LS_CORRUPT, "'%s' has more bytes than its header says", idx->path);
  return LS_OK;
}

static ls_status check_pair(const struct idx *images, const struct idx *labels, struct ls_error *err) {
  if (images->axes != 3 && images->axes != 4)
    return ls_fail(err, LS_INVALID, "'%s' has %d axes; images have 3 or 4", images->path, images->axes);
  if (labels->axes != 1) return ls_fail(err, LS_INVALID, "'%s' has %d axes; labels have 1", labels->path, labels->axes);
  if (images->dim[0] != labels->dim[0]) {
    return ls_fail(err, LS_INVALID, "'%s' has %u images, but '%s' has %u labels", images->path, images->dim[0],
                   labels->path, labels->dim[0]);
  }
  int64_t channels = images->axes == 4 ? images->dim[3] : 1;
  if (!images->dim[0] || !ls_image_size_good(images->dim[1], images->dim[2], channels)) {
    return ls_fail(err, LS_INVALID,
                   "'%s' has %u images of %ux%ux%" PRId64 "; allowed are at least one image of " LS_IMAGE_SIZES,
                   images->path, images->dim[0], images->dim[1], images->dim[2], channels);
  }
  return LS_OK;
}

static ls_status open_part(struct idx_source *s, const char *folder, int part, struct ls_error *err) {
  static const char *const prefix[] = {"train", "t10k"}, *const group[] = {"/train", "/test"};
  char name[64];
  struct idx *images = &s->images[part], *labels = &s->labels[part];
  snprintf(name, sizeof name, "%s-images-idx3-ubyte", prefix[part]);
  LS_TRY(open_idx(images, folder, name, err));
  snprintf(name, sizeof name, "%s-labels-idx1-ubyte", prefix[part]);
  LS_TRY(open_idx(labels, folder, name, err));
  LS_TRY(check_pair(images, labels, err));
  images->image_bytes = (int64_t)images->dim[1] * images->dim[2] * (images->axes == 4 ? images->dim[3] : 1);
  LS_TRY(read_values(images, (uint64_t)images->image_bytes * images->dim[0], err));
  LS_TRY(read_values(labels, labels->dim[0], err));
  s->source.parts[part] = (struct ls_source_part){.group = group[part], .count = images->dim[0]};
  s->source.part_count = part + 1;
  return LS_OK;
}

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct idx_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = &ls_source_idx;
  for (int part = 0; part < 2; part++) LS_TRY(open_part(s, o->source, part, err));
  const struct idx *labels = &s->labels[0];
  uint8_t largest = 0;
  for (uint32_t i = 0; i < labels->dim[0]; i++) largest = labels->values[i] > largest ? labels->values[i] : largest;
  bool fashion = largest == 9 && s->images[0].dim[1] == 28 && strcasestr(o->source, "fashion");
  for (int i = 0; fashion && i < 10; i++) LS_TRY(ls_source_add_class(&s->source, fashion_classes[i], err));
  return LS_OK;
}

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  (void)err;
  const struct idx_source *s = (struct idx_source *)source;
  const struct idx *images = &s->images[part];
  snprintf(item->name, sizeof item->name, "%s, image %" PRId64, images->path, index);
  item->form = LS_ITEM_ROWS;
  item->height = images->dim[1];
  item->width = images->dim[2];
  item->channels = images->axes == 4 ? images->dim[3] : 1;
  item->data = images->values + index * images->image_bytes;
  item->size = (size_t)images->image_bytes;
  item->label = s->labels[part].values[index];
  return LS_OK;
}

static void close_idx(struct idx *idx) {
  if (idx->file) gzclose(idx->file);
  free(idx->values);
  free(idx->path);
}

static void close_source(struct ls_source *source) {
  struct idx_source *s = (struct idx_source *)source;
  for (int part = 0; part < 2; part++) {
    close_idx(&s->images[part]);
    close_idx(&s->labels[part]);
  }
  free(s);
}

static bool is(const char *path) {
  return ls_source_has(path, "train-images-idx3-ubyte") || ls_source_has(path, "train-images-idx3-ubyte.gz");
}

const struct ls_source_kind ls_source_idx = {
    .name = "IDX (MNIST)",
    .what = "a folder with train-images-idx3-ubyte[.gz] and its three companions (MNIST, Fashion-MNIST)",
    .is = is,
    .open = open_source,
    .fetch = fetch,
    .close = close_source,
};
