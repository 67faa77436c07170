// See chunks.h.
#include "data/chunks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/clock.h"

enum {
  MAX_CHUNK_BYTES = 1 << 28,
  // Without H5Dchunk_iter finding all chunks takes time with the square of their number.
  MAX_SLOW_CHUNKS = 20000,
  CACHE_BYTES = 32 << 20,
  MAX_CACHED = 64,
};

#if H5_VERSION_GE(1, 14, 0) || (H5_VERSION_GE(1, 12, 3) && !H5_VERSION_GE(1, 13, 0)) || \
    (H5_VERSION_GE(1, 10, 10) && !H5_VERSION_GE(1, 11, 0))
#define HAS_CHUNK_ITER 1
#endif

// ---- finding

static ls_status check_filters(hid_t plist, const char *path, const char *name, struct ls_chunks *c,
                               struct ls_error *err) {
  int count = H5Pget_nfilters(plist);
  for (int i = 0; i < count; i++) {
    char filter[64] = "";
    size_t values = 0;
    H5Z_filter_t id = H5Pget_filter2(plist, (unsigned)i, NULL, &values, NULL, sizeof filter, filter, NULL);
    // Shuffle puts the bytes of an element apart: with elements of one byte it does nothing.
    if (id == H5Z_FILTER_SHUFFLE) continue;
    if (id == H5Z_FILTER_DEFLATE && !c->deflated) {
      c->deflated = true;
      c->deflate_filter = i;
      continue;
    }
    filter[sizeof filter - 1] = 0;
    return ls_fail(
        err, LS_UNSUPPORTED,
        "'%s': dataset '%s' is compressed with '%s'; deflate and shuffle can be read, or repack it: lockstep "
        "data import '%s' NEW.h5",
        path, name, filter, path);
  }
  return LS_OK;
}

static ls_status read_shape(hid_t id, hid_t plist, const char *path, const char *name, struct ls_chunks *c,
                            struct ls_error *err) {
  hsize_t dim[4] = {1, 1, 1, 1}, chunk[4] = {1, 1, 1, 1};
  hid_t space = H5Dget_space(id);
  int rank = H5Sget_simple_extent_ndims(space);
  if (rank == 3 || rank == 4) {
    H5Sget_simple_extent_dims(space, dim, NULL);
    H5Pget_chunk(plist, rank, chunk);
  }
  H5Sclose(space);
  c->chunk_bytes = c->count = 1;
  bool good = rank == 3 || rank == 4;
  for (int i = 0; i < 4 && good; i++) {
    c->dim[i] = (int64_t)dim[i];
    c->chunk[i] = (int64_t)chunk[i];
    good = dim[i] >= 1 && chunk[i] >= 1 && chunk[i] <= MAX_CHUNK_BYTES / c->chunk_bytes;
    if (!good) break;
    c->chunk_bytes *= (size_t)chunk[i];
    c->grid[i] = (c->dim[i] - 1) / c->chunk[i] + 1;
    good = !__builtin_mul_overflow(c->count, c->grid[i], &c->count) && c->count <= INT64_MAX / 64;
  }
  if (good) return LS_OK;
  return ls_fail(err, LS_UNSUPPORTED,
                 "'%s': dataset '%s' has chunks of a shape that is not read; repack it: lockstep data "
                 "import '%s' NEW.h5",
                 path, name, path);
}

struct finding {
  struct ls_chunks *chunks;
  uint64_t file_bytes;
  int64_t found;
  bool outside;
};

static void take_chunk(struct finding *f, const hsize_t *offset, unsigned mask, haddr_t address, hsize_t bytes) {
  struct ls_chunks *c = f->chunks;
  int64_t at = 0;
  int rank = c->dim[3] == 1 && c->chunk[3] == 1 ? 3 : 4;
  for (int i = 0; i < 4; i++) {
    int64_t place = i < rank ? (int64_t)offset[i] / c->chunk[i] : 0;
    if (place >= c->grid[i]) return;  // left over from a larger shape
    at = at * c->grid[i] + place;
  }
  if (address == HADDR_UNDEF || address > f->file_bytes || bytes > f->file_bytes - address || bytes > UINT32_MAX) {
    f->outside = true;
    return;
  }
  if (!c->places[at].bytes && bytes) f->found++;
  c->places[at] = (struct ls_chunk_place){address, (uint32_t)bytes, mask};
}

#if HAS_CHUNK_ITER
static int on_chunk(const hsize_t *offset, unsigned mask, haddr_t address, hsize_t bytes, void *user) {
  take_chunk(user, offset, mask, address, bytes);
  return 0;
}
#endif

static ls_status find_all(hid_t id, const char *path, const char *name, struct finding *f, struct ls_error *err) {
#if HAS_CHUNK_ITER
  (void)path, (void)name, (void)err;
  H5Dchunk_iter(id, H5P_DEFAULT, on_chunk, f);
#else
  if (f->chunks->count > MAX_SLOW_CHUNKS) {
    return ls_fail(err, LS_UNSUPPORTED,
                   "'%s': dataset '%s' has %" PRId64
                   " chunks, more than %d take too long to find; repack it: lockstep data import '%s' NEW.h5",
                   path, name, f->chunks->count, MAX_SLOW_CHUNKS, path);
  }
  hid_t space = H5Dget_space(id);  // H5S_ALL is not understood here
  hsize_t count = 0;
  H5Dget_num_chunks(id, space, &count);
  for (hsize_t i = 0; i < count && i <= MAX_SLOW_CHUNKS; i++) {
    hsize_t offset[5] = {0}, bytes = 0;
    unsigned mask = 0;
    haddr_t address = HADDR_UNDEF;
    if (H5Dget_chunk_info(id, space, i, offset, &mask, &address, &bytes) >= 0)
      take_chunk(f, offset, mask, address, bytes);
  }
  H5Sclose(space);
#endif
  return LS_OK;
}

ls_status ls_chunks_open(hid_t id, const char *path, const char *name, uint64_t file_bytes, struct ls_chunks **result,
                         struct ls_error *err) {
  *result = NULL;
  struct ls_chunks *c = calloc(1, sizeof *c);
  if (!c) return ls_fail(err, LS_NO_MEMORY, "no memory for the chunks of '%s'", path);
  hid_t plist = H5Dget_create_plist(id);
  ls_status status = check_filters(plist, path, name, c, err);
  if (status == LS_OK) status = read_shape(id, plist, path, name, c, err);
  H5Pclose(plist);
  // More chunks than bytes in the file cannot all be there.
  if (status == LS_OK && (uint64_t)c->count > file_bytes)
    status = ls_fail(err, LS_CORRUPT, "'%s': dataset '%s' claims %" PRId64 " chunks, more than the file can hold", path,
                     name, c->count);
  if (status == LS_OK && !(c->places = calloc((size_t)c->count, sizeof *c->places)))
    status = ls_fail(err, LS_NO_MEMORY, "no memory for the chunks of '%s'", path);
  struct finding f = {.chunks = c, .file_bytes = file_bytes};
  if (status == LS_OK) status = find_all(id, path, name, &f, err);
  if (status == LS_OK && f.outside)
    status = ls_fail(err, LS_CORRUPT, "'%s' is cut short: chunks of dataset '%s' lie beyond its end", path, name);
  if (status == LS_OK && f.found < c->count)
    status = ls_fail(err, LS_CORRUPT, "'%s': of dataset '%s' only %" PRId64 " of %" PRId64 " chunks were ever written",
                     path, name, f.found, c->count);
  if (status != LS_OK) {
    ls_chunks_free(c);
    return status;
  }
  *result = c;
  return LS_OK;
}

void ls_chunks_free(struct ls_chunks *c) {
  if (!c) return;
  free(c->places);
  free(c);
}

// ---- reading

struct cached {
  int64_t chunk;  // -1: none
  uint64_t used;  // when, last
  uint8_t *data;
};

struct ls_chunk_cache {
  const struct ls_chunks *chunks;
  int count;
  struct cached slots[MAX_CACHED];
  uint64_t clock;
  uint8_t *raw;
  size_t raw_size;
};

struct ls_chunk_cache *ls_chunk_cache_new(const struct ls_chunks *chunks) {
  struct ls_chunk_cache *cache = calloc(1, sizeof *cache);
  if (!cache) return NULL;
  cache->chunks = chunks;
  size_t fit = CACHE_BYTES / chunks->chunk_bytes;
  cache->count = fit < 2 ? 2 : fit > MAX_CACHED ? MAX_CACHED : (int)fit;
  for (int i = 0; i < cache->count; i++) cache->slots[i].chunk = -1;
  return cache;
}

void ls_chunk_cache_free(struct ls_chunk_cache *cache) {
  if (!cache) return;
  for (int i = 0; i < cache->count; i++) free(cache->slots[i].data);
  free(cache->raw);
  free(cache);
}

static ls_status read_raw(int fd, const char *path, const struct ls_chunk_place *place, uint8_t *to,
                          struct ls_error *err) {
  size_t done = 0;
  while (done < place->bytes) {
    ssize_t got = pread(fd, to + done, place->bytes - done, (off_t)(place->offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ls_fail_errno(err, errno, "cannot read '%s'", path);
    if (got == 0) return ls_fail(err, LS_CORRUPT, "'%s' got shorter while it was read", path);
    done += (size_t)got;
  }
  return LS_OK;
}

static ls_status undo(struct ls_chunk_cache *cache, int fd, const char *path, int64_t number, uint8_t *to,
                      int64_t *decode_ns, struct ls_error *err) {
  const struct ls_chunks *c = cache->chunks;
  const struct ls_chunk_place *place = &c->places[number];
  bool deflated = c->deflated && !(place->skipped_filters >> c->deflate_filter & 1);
  if (!deflated) {
    if (place->bytes != c->chunk_bytes)
      return ls_fail(err, LS_CORRUPT, "'%s': chunk %" PRId64 " has %u bytes, not %zu", path, number, place->bytes,
                     c->chunk_bytes);
    return read_raw(fd, path, place, to, err);
  }
  if (cache->raw_size < place->bytes) {
    free(cache->raw);
    cache->raw = malloc(place->bytes);
    cache->raw_size = cache->raw ? place->bytes : 0;
    if (!cache->raw) return ls_fail(err, LS_NO_MEMORY, "no memory for a chunk of '%s'", path);
  }
  LS_TRY(read_raw(fd, path, place, cache->raw, err));
  int64_t start = ls_clock_ns();
  uLongf size = c->chunk_bytes;
  int result = uncompress(to, &size, cache->raw, place->bytes);
  *decode_ns += ls_clock_ns() - start;
  if (result == Z_OK && size == c->chunk_bytes) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s' is damaged: chunk %" PRId64 " cannot be decompressed", path, number);
}

// The chunk's bytes, from the cache or the file.
static ls_status get_chunk(struct ls_chunk_cache *cache, int fd, const char *path, int64_t number, const uint8_t **data,
                           uint64_t *bytes_read, int64_t *decode_ns, struct ls_error *err) {
  struct cached *oldest = &cache->slots[0];
  for (int i = 0; i < cache->count; i++) {
    struct cached *slot = &cache->slots[i];
    if (slot->chunk == number) {
      slot->used = ++cache->clock;
      *data = slot->data;
      return LS_OK;
    }
    if (slot->used < oldest->used) oldest = slot;
  }
  if (!oldest->data) oldest->data = malloc(cache->chunks->chunk_bytes);
  if (!oldest->data) return ls_fail(err, LS_NO_MEMORY, "no memory for a chunk of '%s'", path);
  oldest->chunk = -1;
  LS_TRY(undo(cache, fd, path, number, oldest->data, decode_ns, err));
  *bytes_read += cache->chunks->places[number].bytes;
  oldest->chunk = number;
  oldest->used = ++cache->clock;
  *data = oldest->data;
  return LS_OK;
}

// What chunk (n, y, x, k) of the grid has of the image goes to its place.
static void copy_part(const struct ls_chunks *c, const uint8_t *data, int64_t index, const int64_t at[4],
                      const struct ls_rect *rect, uint8_t *to) {
  int64_t top = at[1] * c->chunk[1], left = at[2] * c->chunk[2], first = at[3] * c->chunk[3];
  int64_t y0 = rect->top > top ? rect->top : top, y1 = rect->top + rect->height;
  int64_t x0 = rect->left > left ? rect->left : left, x1 = rect->left + rect->width;
  int64_t channels = c->dim[3] - first < c->chunk[3] ? c->dim[3] - first : c->chunk[3];
  if (y1 > top + c->chunk[1]) y1 = top + c->chunk[1];
  if (x1 > left + c->chunk[2]) x1 = left + c->chunk[2];
  const uint8_t *image = data + (index % c->chunk[0]) * c->chunk[1] * c->chunk[2] * c->chunk[3];
  for (int64_t y = y0; y < y1; y++) {
    const uint8_t *from = image + ((y - top) * c->chunk[2] + (x0 - left)) * c->chunk[3];
    uint8_t *row = to + ((y - rect->top) * rect->width + (x0 - rect->left)) * c->dim[3] + first;
    if (channels == c->dim[3] && c->chunk[3] == c->dim[3]) {
      memcpy(row, from, (size_t)((x1 - x0) * channels));
      continue;
    }
    for (int64_t x = x0; x < x1; x++, from += c->chunk[3], row += c->dim[3]) memcpy(row, from, (size_t)channels);
  }
}

ls_status ls_chunk_cache_read(struct ls_chunk_cache *cache, int fd, const char *path, int64_t index,
                              const struct ls_rect *rect, uint8_t *to, uint64_t *bytes_read, int64_t *decode_ns,
                              struct ls_error *err) {
  const struct ls_chunks *c = cache->chunks;
  int64_t at[4] = {index / c->chunk[0]};
  if (!rect->height || !rect->width) return LS_OK;
  for (at[1] = rect->top / c->chunk[1]; at[1] <= (rect->top + rect->height - 1) / c->chunk[1]; at[1]++) {
    for (at[2] = rect->left / c->chunk[2]; at[2] <= (rect->left + rect->width - 1) / c->chunk[2]; at[2]++) {
      for (at[3] = 0; at[3] < c->grid[3]; at[3]++) {
        int64_t number = ((at[0] * c->grid[1] + at[1]) * c->grid[2] + at[2]) * c->grid[3] + at[3];
        const uint8_t *data = NULL;
        LS_TRY(get_chunk(cache, fd, path, number, &data, bytes_read, decode_ns, err));
        copy_part(c, data, index, at, rect, to);
      }
    }
  }
  return LS_OK;
}
