// The order of samples in an epoch: a keyed permutation that needs no table.
//
// A Feistel network over the smallest even number of bits that holds n - 1, walked again while the result lies outside
// [0, n) ("cycle walking", Black and Rogaway, "Ciphers with arbitrary finite domains", 2002); the round function is
// Philox. At most four steps are expected, as the domain is less than four times n.
#include "data/sampler.h"

#include "base/philox.h"

enum { ROUNDS = 6 };

int64_t ls_sampler_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i) {
  if (n <= 1) return 0;
  int half = 1;
  while ((int64_t)1 << (2 * half) < n) half++;
  uint32_t mask = (uint32_t)((1ull << half) - 1);
  uint64_t value = (uint64_t)i;
  do {
    uint32_t left = (uint32_t)(value >> half), right = (uint32_t)value & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
      uint32_t mixed = ls_random(seed, LS_RANDOM_SHUFFLE, epoch, right, round).v[0] & mask;
      uint32_t next = left ^ mixed;
      left = right;
      right = next;
    }
    value = (uint64_t)left << half | right;
  } while (value >= (uint64_t)n);
  return (int64_t)value;
}

void ls_sampler_init(struct ls_sampler *s, uint64_t seed, int64_t count, Lockstep__V1__Shuffle shuffle) {
  *s = (struct ls_sampler){.seed = seed, .count = count, .shuffle = shuffle};
}

int64_t ls_sampler_at(const struct ls_sampler *s, uint64_t epoch, int64_t i) {
  if (s->shuffle == LOCKSTEP__V1__SHUFFLE__SHUFFLE_NONE) return i;
  return ls_sampler_permute(s->seed, epoch, s->count, i);
}
