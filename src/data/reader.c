// See reader.h.
#include "data/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/chunks.h"
#include "data/codec.h"

enum { BLOCK = 4096 };  // what O_DIRECT is aligned to

struct room {
  uint8_t *buffer;
  size_t capacity;
};

struct place {
  int64_t sample;
  uint64_t offset;  // in the file, of the first byte wanted
  size_t bytes;     // wanted
  uint64_t from;    // what is read: [from, from + size), blocks when direct
  size_t size, done;
  struct room own, *room;  // its own where reads are in flight together, else the reader's
  size_t stride_bytes;
  struct ls_rect rect;
  bool in_flight;
  int error_number;
};

struct ls_reader {
  const struct ls_dataset *dataset;
  int fd;  // own when direct
  bool direct, has_ring;
  bool missed;  // a read had to wait for the disk lately: hints are worth their time
  struct io_uring ring;
  int depth, unsubmitted;
  struct place *places;
  struct room room;  // of images that are read when they are taken: one that stays in the core's cache
  uint64_t bytes_read;
  struct ls_decoder *decoder;    // of encoded images
  struct ls_chunk_cache *cache;  // of chunked ones
};

ls_status ls_reader_new(const struct ls_dataset *dataset, bool direct, int depth, struct ls_reader **result,
                        struct ls_error *err) {
  *result = NULL;
  struct ls_reader *r = calloc(1, sizeof *r);
  if (!r) return ls_fail(err, LS_NO_MEMORY, "no memory for a reader");
  r->dataset = dataset;
  r->direct = direct;
  r->depth = depth;
  r->fd = dataset->fd;
  ls_status status = LS_OK;
  r->places = calloc((size_t)depth, sizeof *r->places);
  if (!r->places) status = ls_fail(err, LS_NO_MEMORY, "no memory for a reader");
  if (status == LS_OK && dataset->stored == LS_STORED_ENCODED) status = ls_decoder_new(&r->decoder, err);
  if (status == LS_OK && dataset->stored == LS_STORED_CHUNKED && !(r->cache = ls_chunk_cache_new(dataset->chunks)))
    status = ls_fail(err, LS_NO_MEMORY, "no memory for a reader");
  if (status == LS_OK && direct && dataset->stored == LS_STORED_CHUNKED) {
    status =
        ls_fail(err, LS_UNSUPPORTED,
                "'%s' is chunked and cannot be read past the page cache (prefetch.direct); repack it: lockstep data "
                "import '%s' NEW.h5",
                dataset->path, dataset->path);
  }
  if (status == LS_OK && direct) {
    r->fd = open(dataset->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (r->fd < 0)
      status = ls_fail_errno(err, errno, "'%s' cannot be read past the page cache (prefetch.direct)", dataset->path);
  }
  // Through the page cache a ring costs more than it brings: a hint and pread are faster (hot) or as fast (cold).
  if (status == LS_OK && direct) r->has_ring = io_uring_queue_init((unsigned)depth, &r->ring, 0) == 0;
  if (status != LS_OK) {
    ls_reader_free(r);
    return status;
  }
  for (int i = 0; i < depth; i++) r->places[i].room = r->has_ring ? &r->places[i].own : &r->room;
  *result = r;
  return LS_OK;
}

static void drain(struct ls_reader *r) {
  struct io_uring_cqe *cqe;
  if (r->unsubmitted) io_uring_submit(&r->ring);
  for (int i = 0; i < r->depth; i++) {
    while (r->places[i].in_flight && io_uring_wait_cqe(&r->ring, &cqe) == 0) {
      ((struct place *)io_uring_cqe_get_data(cqe))->in_flight = false;
      io_uring_cqe_seen(&r->ring, cqe);
    }
  }
}

void ls_reader_free(struct ls_reader *r) {
  if (!r) return;
  if (r->has_ring) {
    drain(r);  // the kernel writes into our buffers until then
    io_uring_queue_exit(&r->ring);
  }
  if (r->direct && r->fd >= 0) close(r->fd);
  for (int i = 0; r->places && i < r->depth; i++) free(r->places[i].own.buffer);
  free(r->room.buffer);
  free(r->places);
  ls_decoder_free(r->decoder);
  ls_chunk_cache_free(r->cache);
  free(r);
}

static ls_status make_room(struct room *room, size_t size, struct ls_error *err) {
  if (room->capacity >= size) return LS_OK;
  free(room->buffer);
  size = (size + BLOCK - 1) / BLOCK * BLOCK;
  room->buffer = aligned_alloc(BLOCK, size);
  room->capacity = room->buffer ? size : 0;
  return room->buffer ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory to read an image (%zu bytes)", size);
}

static void prepare_read(struct ls_reader *r, struct place *p) {
  struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
  io_uring_prep_read(sqe, r->fd, p->room->buffer + p->done, (unsigned)(p->size - p->done), p->from + p->done);
  io_uring_sqe_set_data(sqe, p);
  p->in_flight = true;
  r->unsubmitted++;
}

// What of the file holds the pixels.
static ls_status find_bytes(struct ls_reader *r, struct place *p, struct ls_error *err) {
  const struct ls_dataset *d = r->dataset;
  const struct ls_rect *rect = &p->rect;
  bool none = !rect->height || !rect->width;
  if (d->stored == LS_STORED_ENCODED) {
    enum { LARGEST = 1 << 30 };
    uint64_t bytes;
    LS_TRY(ls_dataset_encoded_place(d, p->sample, &p->offset, &bytes, err));
    if (bytes > LARGEST)
      return ls_fail(err, LS_CORRUPT, "'%s': image %" PRId64 " has more than 1 GiB", d->path, p->sample);
    p->bytes = none ? 0 : (size_t)bytes;
    return LS_OK;
  }
  int64_t channels = d->info.channels;
  p->stride_bytes = (size_t)(d->info.width * channels);
  p->offset = d->images_offset + (uint64_t)p->sample * d->image_bytes + (uint64_t)rect->top * p->stride_bytes +
              (uint64_t)(rect->left * channels);
  p->bytes = none ? 0 : (size_t)(rect->height - 1) * p->stride_bytes + (size_t)(rect->width * channels);
  return LS_OK;
}

ls_status ls_reader_queue(struct ls_reader *r, int place, int64_t sample, const struct ls_rect *rect,
                          struct ls_error *err) {
  struct place *p = &r->places[place];
  p->sample = sample;
  p->rect = *rect;
  p->done = 0;
  p->error_number = 0;
  if (r->cache) {
    p->stride_bytes = (size_t)(rect->width * r->dataset->info.channels);
    return make_room(p->room, p->stride_bytes * (size_t)rect->height, err);
  }
  LS_TRY(find_bytes(r, p, err));
  p->from = r->direct ? p->offset / BLOCK * BLOCK : p->offset;
  p->size = (size_t)(p->offset - p->from) + p->bytes;
  if (r->direct) p->size = (p->size + BLOCK - 1) / BLOCK * BLOCK;
  LS_TRY(make_room(p->room, p->size, err));
  if (!p->bytes) return LS_OK;
  if (r->has_ring)
    prepare_read(r, p);
  else if (!r->direct && r->missed)
    posix_fadvise(r->fd, (off_t)p->from, (off_t)p->size, POSIX_FADV_WILLNEED);  // the disk can begin
  return LS_OK;
}

static size_t wanted(const struct place *p) { return (size_t)(p->offset - p->from) + p->bytes; }

// One completion: a short read is gone on with, from a block's beginning when direct.
static void complete(struct ls_reader *r, struct io_uring_cqe *cqe) {
  struct place *p = io_uring_cqe_get_data(cqe);
  int got = cqe->res;
  io_uring_cqe_seen(&r->ring, cqe);
  p->in_flight = false;
  if (got == -EINTR || got == -EAGAIN)
    got = 0;
  else if (got < 0)
    p->error_number = -got;
  else if (got == 0)
    p->error_number = ENODATA;  // the file has ended
  if (got > 0) {
    r->bytes_read += (uint64_t)got;
    p->done += (size_t)got;
  }
  if (p->done >= wanted(p) || p->error_number) return;
  if (r->direct) p->done = p->done / BLOCK * BLOCK;
  prepare_read(r, p);
}

static ls_status wait_ring(struct ls_reader *r, struct place *p, struct ls_error *err) {
  while (p->in_flight) {
    struct io_uring_cqe *cqe;
    int failed = r->unsubmitted ? io_uring_submit(&r->ring) : 0;
    r->unsubmitted = 0;
    if (failed >= 0) failed = io_uring_wait_cqe(&r->ring, &cqe);
    if (failed == -EINTR) continue;
    if (failed < 0) return ls_fail_errno(err, -failed, "cannot read '%s' with io_uring", r->dataset->path);
    complete(r, cqe);
  }
  return LS_OK;
}

// preadv that remembers whether the page cache had it. A file system that cannot tell (EOPNOTSUPP) counts as one that had not.
static ssize_t read_some(struct ls_reader *r, const struct iovec *parts, int count, uint64_t from) {
  ssize_t got = r->direct ? -1 : preadv2(r->fd, parts, count, (off_t)from, RWF_NOWAIT);
  if (got > 0) return got;
  r->missed = true;
  return preadv(r->fd, parts, count, (off_t)from);
}

static void read_now(struct ls_reader *r, struct place *p) {
  while (p->done < wanted(p) && !p->error_number) {
    struct iovec part = {p->room->buffer + p->done, p->size - p->done};
    ssize_t got = read_some(r, &part, 1, p->from + p->done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      p->error_number = got < 0 ? errno : ENODATA;
      return;
    }
    r->bytes_read += (uint64_t)got;
    p->done += (size_t)got;
    if (r->direct && p->done < wanted(p)) p->done = p->done / BLOCK * BLOCK;
  }
}

static ls_status check_read(const struct ls_reader *r, const struct place *p, struct ls_error *err) {
  if (p->error_number == ENODATA) {
    return ls_fail(err, LS_CORRUPT, "'%s' got shorter while it was read: image %" PRId64 " is gone", r->dataset->path,
                   p->sample);
  }
  if (p->error_number)
    return ls_fail_errno(err, p->error_number, "cannot read image %" PRId64 " of '%s'", p->sample, r->dataset->path);
  return LS_OK;
}

// The bytes of the place are in its buffer.
static ls_status fetch(struct ls_reader *r, struct place *p, struct ls_error *err) {
  if (r->has_ring)
    LS_TRY(wait_ring(r, p, err));
  else
    read_now(r, p);
  return check_read(r, p, err);
}

static ls_status decode(struct ls_reader *r, const struct place *p, struct ls_pixels *pixels, struct ls_error *err) {
  const struct ls_dataset *d = r->dataset;
  char name[512];
  struct ls_decoded decoded;
  int64_t start = ls_clock_ns();
  snprintf(name, sizeof name, "%.400s:%.60s, image %" PRId64, d->path, d->group, p->sample);
  LS_TRY(ls_decoder_decode(r->decoder, p->room->buffer + (p->offset - p->from), p->bytes, name, d->info.channels,
                           &p->rect, 1, &decoded, err));
  pixels->data = decoded.pixels;
  pixels->stride_bytes = decoded.stride_bytes;
  pixels->decode_ns = ls_clock_ns() - start;
  return LS_OK;
}

ls_status ls_reader_take(struct ls_reader *r, int place, struct ls_pixels *pixels, struct ls_error *err) {
  struct place *p = &r->places[place];
  *pixels = (struct ls_pixels){p->room->buffer, p->stride_bytes, 0};
  if (r->cache) {
    return ls_chunk_cache_read(r->cache, r->fd, r->dataset->path, p->sample, &p->rect, p->room->buffer, &r->bytes_read,
                               &pixels->decode_ns, err);
  }
  LS_TRY(fetch(r, p, err));
  if (!p->bytes) return LS_OK;
  if (r->decoder) return decode(r, p, pixels, err);
  pixels->data = p->room->buffer + (p->offset - p->from);
  return LS_OK;
}

bool ls_reader_has_rows(const struct ls_reader *r) { return !r->direct && !r->cache && !r->decoder; }

// What is left of the place's rows, as pieces of `out` with the gaps between the rows between them.
static int list_rows(const struct place *p, size_t row_bytes, uint8_t *gap, uint8_t *out, struct iovec *pieces,
                     int most) {
  int count = 0;
  if (row_bytes == p->stride_bytes) {  // whole rows lie one behind the other
    pieces[0] = (struct iovec){out + p->done, p->bytes - p->done};
    return 1;
  }
  size_t skip = p->stride_bytes - row_bytes, row = p->done / p->stride_bytes, within = p->done % p->stride_bytes;
  for (size_t at = p->done; at < p->bytes && count + 2 <= most; row++, within = 0) {
    size_t in_row = within < row_bytes ? row_bytes - within : 0, in_gap = in_row ? skip : p->stride_bytes - within;
    if (in_row) pieces[count++] = (struct iovec){out + row * row_bytes + within, in_row};
    at += in_row + in_gap;
    if (in_gap && at < p->bytes) pieces[count++] = (struct iovec){gap, in_gap};
  }
  return count;
}

ls_status ls_reader_take_rows(struct ls_reader *r, int place, uint8_t *out, struct ls_error *err) {
  enum { MOST_PIECES = 1024 };  // IOV_MAX
  struct iovec pieces[MOST_PIECES];
  struct place *p = &r->places[place];
  size_t row_bytes = (size_t)(p->rect.width * r->dataset->info.channels);
  while (p->done < p->bytes && !p->error_number) {
    int count = list_rows(p, row_bytes, p->room->buffer, out, pieces, MOST_PIECES);
    ssize_t got = read_some(r, pieces, count, p->from + p->done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      p->error_number = got < 0 ? errno : ENODATA;
    else
      p->done += (size_t)got;
  }
  r->bytes_read += p->done;
  return check_read(r, p, err);
}

uint64_t ls_reader_bytes(const struct ls_reader *reader) { return reader->bytes_read; }
