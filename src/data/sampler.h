// The order of samples in an epoch: internal to src/data. Any thread may call; a function of its arguments alone.
#ifndef LS_DATA_SAMPLER_H
#define LS_DATA_SAMPLER_H

#include <stdint.h>

#include "lockstep/v1/job.pb-c.h"

struct ls_sampler {
  uint64_t seed;
  int64_t count;  // samples
  Lockstep__V1__Shuffle shuffle;
};

void ls_sampler_init(struct ls_sampler *sampler, uint64_t seed, int64_t count, Lockstep__V1__Shuffle shuffle);
// The sample at position `i` of epoch `epoch`'s order: each of [0, count) once.
int64_t ls_sampler_at(const struct ls_sampler *sampler, uint64_t epoch, int64_t i);

// Position `i` of a random permutation of n things: a bijection of [0, n).
int64_t ls_sampler_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i);

#endif
