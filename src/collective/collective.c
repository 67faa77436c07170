// Sums in fixed order and the barrier: see collective.h.
#include "collective/collective.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fast_loop.h"

enum { SPINS = 2000, BLOCK = 1024 };

int ls_tree_buffer(int i) { return __builtin_popcount((unsigned)i); }
int ls_tree_merges(int i) { return __builtin_ctz(~(unsigned)i); }

int ls_tree_buffers(int count) {
  int most = 0;
  for (int i = 0; i < count; i++) most = ls_tree_buffer(i) > most ? ls_tree_buffer(i) : most;
  return most + 1;
}

LS_FAST_LOOP void ls_tree_merge(float *a, const float *b, int64_t n) {
  for (int64_t i = 0; i < n; i++) a[i] = a[i] + b[i];
}

LS_FAST_LOOP static void add(float *out, const float *a, const float *b, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

// Blocks small enough for the first-level cache; `out` is written only when all parts of the block were read.
static void sum_block(float *out, const float *const *parts, int count, int64_t offset, int64_t n) {
  if (count == 1) {
    for (int64_t i = 0; i < n; i++) out[i] = parts[0][offset + i];
  } else if (count == 2) {
    add(out, parts[0] + offset, parts[1] + offset, n);
  } else {
    float left[BLOCK], right[BLOCK];
    sum_block(left, parts, count / 2, offset, n);
    sum_block(right, parts + count / 2, count / 2, offset, n);
    add(out, left, right, n);
  }
}

void ls_tree_sum(float *out, const float *const *parts, int count, int64_t offset, int64_t n) {
  for (int64_t i = 0; i < n; i += BLOCK) {
    int64_t size = n - i < BLOCK ? n - i : BLOCK;
    sum_block(out + i, parts, count, offset + i, size);
  }
}

void ls_barrier_init(struct ls_barrier *b, int threads, bool spin) {
  b->threads = threads;
  atomic_init(&b->arrived, 0);
  atomic_init(&b->generation, 0);
  atomic_init(&b->broken, false);
  b->spin = spin;
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value) {
  syscall(SYS_futex, (uint32_t *)word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

bool ls_barrier_wait(struct ls_barrier *b) {
  uint32_t generation = atomic_load(&b->generation);
  if (atomic_load(&b->broken)) return false;
  if (atomic_fetch_add(&b->arrived, 1) + 1 == (uint32_t)b->threads) {
    atomic_store(&b->arrived, 0);
    atomic_fetch_add(&b->generation, 1);
    futex(&b->generation, FUTEX_WAKE, INT_MAX);
    return !atomic_load(&b->broken);
  }
  for (int i = 0; b->spin && i < SPINS && atomic_load_explicit(&b->generation, memory_order_acquire) == generation;
       i++) {
    __builtin_ia32_pause();
  }
  while (atomic_load(&b->generation) == generation && !atomic_load(&b->broken))
    futex(&b->generation, FUTEX_WAIT, generation);
  return !atomic_load(&b->broken);
}

void ls_barrier_break(struct ls_barrier *b) {
  atomic_store(&b->broken, true);
  atomic_fetch_add(&b->generation, 1);  // so that nobody falls asleep on the old one
  futex(&b->generation, FUTEX_WAKE, INT_MAX);
}
