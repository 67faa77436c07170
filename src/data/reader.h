// Fetching stored pixels: internal to src/data. A reader belongs to one thread; many readers share a data set.
//
// Up to `depth` images are asked for first (ls_reader_queue) and then taken one by one (ls_reader_take), so that all of
// them can be in flight at once. With io_uring they are; without it (an old kernel, a container that forbids it) each is
// read with pread when it is taken. Reading past the page cache (O_DIRECT) needs aligned pieces: what is read is widened
// to whole blocks and the pixels lie somewhere inside.
#ifndef LS_DATA_READER_H
#define LS_DATA_READER_H

#include "data/data_internal.h"

struct ls_reader;

ls_status ls_reader_new(const struct ls_dataset *dataset, bool direct, int depth, struct ls_reader **reader,
                        struct ls_error *err);
void ls_reader_free(struct ls_reader *reader);

// Asks for the pixels of `rect` of image `sample` as number `place` (below depth).
ls_status ls_reader_queue(struct ls_reader *reader, int place, int64_t sample, const struct ls_rect *rect,
                          struct ls_error *err);

struct ls_pixels {
  const uint8_t *data;  // the pixel (rect.top, rect.left)
  size_t stride_bytes;
  int64_t decode_ns;  // of the time taken: undoing compression
};
// Valid until the next queue or take. Each queued place is taken once, in any order, before it is queued again.
ls_status ls_reader_take(struct ls_reader *reader, int place, struct ls_pixels *pixels, struct ls_error *err);

// In place of ls_reader_take, where ls_reader_has_rows: the rows of the rectangle, one behind the other, to `out`. The
// kernel writes them there itself; the copy through a buffer is the dearer half of reading from the page cache.
bool ls_reader_has_rows(const struct ls_reader *reader);
ls_status ls_reader_take_rows(struct ls_reader *reader, int place, uint8_t *out, struct ls_error *err);

uint64_t ls_reader_bytes(const struct ls_reader *reader);  // read so far

#endif
