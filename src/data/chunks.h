// Chunked datasets: where the chunks are (by the HDF5 library, when a data set is opened), and reading them without it.
// Internal to src/data. A chunk is undone by the reader that needs it; filters other than deflate and shuffle are refused.
#ifndef LS_DATA_CHUNKS_H
#define LS_DATA_CHUNKS_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/augment.h"

struct ls_chunk_place {
  uint64_t offset;  // in the file
  uint32_t bytes;   // stored
  uint32_t skipped_filters;
};

// A uint8 dataset [N,H,W,C] or [N,H,W] in chunks.
struct ls_chunks {
  int64_t dim[4], chunk[4], grid[4];  // sizes of the dataset, of a chunk, and in chunks
  int64_t count;
  struct ls_chunk_place *places;  // [grid], row-major
  bool deflated;
  int deflate_filter;  // its place among the filters
  size_t chunk_bytes;
};

// `id`: the dataset. Fails when a chunk is missing, lies outside of the file, or has another filter.
ls_status ls_chunks_open(hid_t id, const char *path, const char *name, uint64_t file_bytes, struct ls_chunks **chunks,
                         struct ls_error *err);
void ls_chunks_free(struct ls_chunks *chunks);

// Undone chunks that one thread keeps.
struct ls_chunk_cache;

struct ls_chunk_cache *ls_chunk_cache_new(const struct ls_chunks *chunks);  // NULL when memory runs out
void ls_chunk_cache_free(struct ls_chunk_cache *cache);
// Pixels of `rect` of image `index` into `to` [height, width, C]. Adds to *bytes_read and *decode_ns.
ls_status ls_chunk_cache_read(struct ls_chunk_cache *cache, int fd, const char *path, int64_t index,
                              const struct ls_rect *rect, uint8_t *to, uint64_t *bytes_read, int64_t *decode_ns,
                              struct ls_error *err);

#endif
