// How work over the rows of [rows, c] is dealt out to blocks and threads: pure functions of the shape, so that the same rows
// meet in the same order on every run.
#ifndef LS_BACKEND_CUDA_REDUCE_H
#define LS_BACKEND_CUDA_REDUCE_H

#include "backend/cuda/kernel_basics.h"

// A sum over the rows: blocks sum runs of rows of a tile of channels side by side, then one more kernel joins the parts.
struct ls_reduce {
  int64_t rows, run, parts;  // parts = ceil(rows / run)
  int32_t tile, across;      // stretches of channels in a block; blocks side by side
};

// Twice as many blocks as the largest GPU runs at a time where there are rows enough, with four rows at least for each lane.
static inline struct ls_reduce ls_reduce_of(int64_t rows, int64_t c) {
  enum { MOST_BLOCKS = 528, LEAST_ROWS = 4 };
  int64_t stretches = c % LS_GROUP == 0 ? c / LS_GROUP : c;
  struct ls_reduce r = {.rows = rows, .tile = (int32_t)(stretches < LS_BLOCK_LANES ? stretches : LS_BLOCK_LANES)};
  int64_t deep = LS_BLOCK_LANES / r.tile, least = LEAST_ROWS * deep;
  r.across = (int32_t)((stretches + r.tile - 1) / r.tile);
  int64_t most = MOST_BLOCKS / r.across < 1 ? 1 : MOST_BLOCKS / r.across, parts = (rows + least - 1) / least;
  if (parts > most) parts = most;
  r.run = (rows + parts - 1) / parts;
  r.parts = (rows + r.run - 1) / r.run;
  return r;
}

// How many blocks join the parts of [parts, c]: one for each stretch.
static inline int64_t ls_joining_blocks(int64_t c) { return c % LS_GROUP == 0 ? c / LS_GROUP : c; }

// For kernels that work on n values by groups, with numbers of each channel: an index takes every so-many-th group. Where
// channels are whole groups it meets the same ones each time, and reads their numbers once; else it takes one group.
static inline int64_t ls_stride_of(int64_t n, int64_t c) {
  enum { INDICES = 262144, EACH = 8 };  // threads that fill the largest GPU; groups of one where there are enough
  int64_t groups = (n + LS_GROUP - 1) / LS_GROUP, around = c / LS_GROUP, stride = (groups + EACH - 1) / EACH;
  if (c % LS_GROUP != 0) return groups;
  if (stride < INDICES) stride = groups < INDICES ? groups : INDICES;
  return (stride + around - 1) / around * around;
}

#endif
