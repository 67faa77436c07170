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

enum { BLOCK_BYTES = 8 << 20 };

void ls_sampler_init(struct ls_sampler *s, uint64_t seed, int64_t count, uint64_t sample_bytes,
                     Lockstep__V1__Shuffle shuffle) {
  uint64_t block = BLOCK_BYTES / (sample_bytes ? sample_bytes : 1);
  // At least four windows, so that small data sets are mixed too.
  uint64_t most = (uint64_t)count / (4 * LS_WINDOW_BLOCKS);
  if (block > most) block = most;
  *s = (struct ls_sampler){.seed = seed, .count = count, .shuffle = shuffle, .block = block < 1 ? 1 : (int64_t)block};
}

// ---- blocks
//
// Positions before shuffling: blocks in a random order, of which all have `block` samples but the one at the data set's
// end, which stands at a random place between the others. Then windows of them are permuted.

enum { KEY_BLOCKS = 1 << 30, KEY_TAIL, KEY_WINDOW };  // numbers of draws that the permutation's rounds do not use

static uint64_t derived_seed(const struct ls_sampler *s, uint64_t epoch, uint64_t which, uint32_t key) {
  struct ls_philox4 r = ls_random(s->seed, LS_RANDOM_SHUFFLE, epoch, which, key);
  return (uint64_t)r.v[0] << 32 | r.v[1];
}

// The sample at unshuffled position p, and how many of its neighbours follow it there (itself included).
static int64_t block_sample(const struct ls_sampler *s, uint64_t epoch, int64_t p, int64_t *run) {
  int64_t blocks = s->count / s->block, tail = s->count % s->block;
  if (tail) {
    int64_t before = (int64_t)(derived_seed(s, epoch, 0, KEY_TAIL) % (uint64_t)(blocks + 1)) * s->block;
    if (p >= before && p < before + tail) {
      *run = before + tail - p;
      return blocks * s->block + (p - before);
    }
    if (p >= before) p -= tail;
  }
  *run = s->block - p % s->block;
  uint64_t seed = derived_seed(s, epoch, 0, KEY_BLOCKS);
  return ls_sampler_permute(seed, epoch, blocks, p / s->block) * s->block + p % s->block;
}

static int64_t window_size(const struct ls_sampler *s) { return s->block * LS_WINDOW_BLOCKS; }

int64_t ls_sampler_window(const struct ls_sampler *s, int64_t i) { return i / window_size(s); }

static int64_t window_end(const struct ls_sampler *s, int64_t window) {
  int64_t end = (window + 1) * window_size(s);
  return end < s->count ? end : s->count;
}

bool ls_sampler_run(const struct ls_sampler *s, uint64_t epoch, int64_t window, int run, int64_t *first,
                    int64_t *count) {
  int64_t p = window * window_size(s), end = window_end(s, window);
  while (p < end) {
    *first = block_sample(s, epoch, p, count);
    if (*count > end - p) *count = end - p;
    if (run-- == 0) return true;
    p += *count;
  }
  return false;
}

int64_t ls_sampler_at(const struct ls_sampler *s, uint64_t epoch, int64_t i) {
  if (s->shuffle == LOCKSTEP__V1__SHUFFLE__SHUFFLE_NONE) return i;
  if (s->shuffle == LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL) return ls_sampler_permute(s->seed, epoch, s->count, i);
  int64_t window = ls_sampler_window(s, i), begin = window * window_size(s), run;
  uint64_t seed = derived_seed(s, epoch, (uint64_t)window, KEY_WINDOW);
  int64_t p = begin + ls_sampler_permute(seed, epoch, window_end(s, window) - begin, i - begin);
  return block_sample(s, epoch, p, &run);
}
