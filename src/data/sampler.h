// The order of samples in an epoch: internal to src/data. Any thread may call; a function of its arguments alone.
//
// SHUFFLE_FULL is one random permutation. SHUFFLE_BLOCKS is for disks that dislike random reads: the data set is cut into
// blocks of neighbours, the blocks are put into a random order, and samples are shuffled within windows of WINDOW_BLOCKS
// blocks. A window is read block by block before its samples are needed (ls_sampler_window).
#ifndef LS_DATA_SAMPLER_H
#define LS_DATA_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "lockstep/v1/job.pb-c.h"

enum { LS_WINDOW_BLOCKS = 32 };

struct ls_sampler {
  uint64_t seed;
  int64_t count;  // samples
  Lockstep__V1__Shuffle shuffle;
  int64_t block;  // samples of a block
};

// `sample_bytes`: about what a sample takes in the file; blocks have some megabytes.
void ls_sampler_init(struct ls_sampler *sampler, uint64_t seed, int64_t count, uint64_t sample_bytes,
                     Lockstep__V1__Shuffle shuffle);
// The sample at position `i` of epoch `epoch`'s order: each of [0, count) once.
int64_t ls_sampler_at(const struct ls_sampler *sampler, uint64_t epoch, int64_t i);

// SHUFFLE_BLOCKS: the window that position `i` lies in, and the runs of neighbours [first, first + count) it is made of:
// `run` from 0 on; false behind the last one.
int64_t ls_sampler_window(const struct ls_sampler *sampler, int64_t i);
bool ls_sampler_run(const struct ls_sampler *sampler, uint64_t epoch, int64_t window, int run, int64_t *first,
                    int64_t *count);

// Position `i` of a random permutation of n things: a bijection of [0, n).
int64_t ls_sampler_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i);

#endif
