// The exchange between ranks, carried out by copies: every message has its counterpart, staging areas are filled without
// overlap, and the sums have the bits of the tree over all shards, as the collective in shared memory makes them, whatever
// the number of ranks and buckets.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "collective/collective.h"
#include "collective/exchange.h"

enum { MOST = 64, TAIL = 4 };

static float *numbers(int64_t count, uint64_t seed) {
  float *values = malloc((size_t)count * sizeof *values);
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (int64_t i = 0; i < count; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    // Of very different sizes, so that another order of summation is another sum.
    values[i] = (float)((double)(int64_t)(state >> 11) / 1e15 * (double)(1 << (state >> 3 & 15)) - 40);
  }
  return values;
}

struct ranks {
  struct ls_exchange x;
  float *slab[MOST], *staging[MOST];
  bool *written[MOST];  // staging
};

typedef int (*schedule)(const struct ls_exchange *x, int bucket, int rank, struct ls_transfer *transfers);

static int tails(const struct ls_exchange *x, int bucket, int rank, struct ls_transfer *transfers) {
  (void)bucket;
  return ls_exchange_tails(x, rank, transfers);
}

// The k-th message from `from` to `to`, as one of them lists it; NULL: there is none.
static const struct ls_transfer *find(const struct ls_transfer *list, int count, int peer, bool send, int k) {
  for (int i = 0; i < count; i++) {
    if (list[i].peer == peer && list[i].send == send && k-- == 0) return &list[i];
  }
  return NULL;
}

// All messages of one group between all ranks.
static void carry_out(struct ranks *r, schedule which, int bucket) {
  static struct ls_transfer lists[MOST][LS_EXCHANGE_TRANSFERS];
  int counts[MOST], sends = 0, receives = 0;
  for (int rank = 0; rank < r->x.ranks; rank++) {
    counts[rank] = which(&r->x, bucket, rank, lists[rank]);
    assert_true(counts[rank] <= LS_EXCHANGE_TRANSFERS);
    for (int i = 0; i < counts[rank]; i++) *(lists[rank][i].send ? &sends : &receives) += 1;
  }
  assert_int_equal(sends, receives);
  for (int from = 0; from < r->x.ranks; from++) {
    for (int to = 0; to < r->x.ranks; to++) {
      for (int k = 0;; k++) {
        const struct ls_transfer *s = find(lists[from], counts[from], to, true, k);
        const struct ls_transfer *d = find(lists[to], counts[to], from, false, k);
        assert_int_equal(s != NULL, d != NULL);
        if (!s) break;
        assert_int_equal(s->count, d->count);
        assert_false(s->staging);
        assert_true(from != to && s->count > 0);
        memcpy((d->staging ? r->staging[to] : r->slab[to]) + d->at, r->slab[from] + s->at,
               (size_t)s->count * sizeof(float));
        for (int64_t i = 0; d->staging && i < d->count; i++) {
          assert_false(r->written[to][d->at + i]);
          r->written[to][d->at + i] = true;
        }
      }
    }
  }
}

// What rank `rank` makes of its slice of a bucket.
static void sum_slice(struct ranks *r, int bucket, int rank) {
  const float *parts[MOST];
  int64_t begin, end;
  ls_exchange_slice(&r->x, bucket, rank, &begin, &end);
  for (int of = 0; of < r->x.ranks; of++) {
    int64_t at = ls_exchange_part(&r->x, bucket, rank, of);
    parts[of] = at < 0 ? r->slab[rank] + begin : r->staging[rank] + at;
  }
  ls_tree_sum(r->slab[rank] + begin, parts, r->x.ranks, 0, end - begin);
}

// One rank's gradients: the sum over its shards, as a worker makes it.
static float *sum_of_shards(float *const *shard, int first, int count, int64_t floats) {
  float *buffers[MOST];
  for (int i = 0; i < ls_tree_buffers(count); i++) buffers[i] = malloc((size_t)floats * sizeof(float));
  for (int i = 0; i < count; i++) {
    int b = ls_tree_buffer(i);
    memcpy(buffers[b], shard[first + i], (size_t)floats * sizeof(float));
    for (int merge = ls_tree_merges(i); merge > 0 && b > 0; merge--, b--)
      ls_tree_merge(buffers[b - 1], buffers[b], floats);
  }
  for (int i = 1; i < ls_tree_buffers(count); i++) free(buffers[i]);
  return buffers[0];
}

// Buckets of unequal size, as a network gives them; some empty.
static struct ls_exchange cut(int ranks, int buckets, int64_t floats) {
  struct ls_exchange x = {.ranks = ranks, .buckets = buckets, .tail = TAIL};
  for (int b = 1; b <= buckets; b++)
    x.cut[b] = b == buckets ? floats : floats * b * b / (buckets * buckets) / LS_EXCHANGE_LINE * LS_EXCHANGE_LINE;
  return x;
}

static void one(int ranks, int shards, int buckets, int64_t floats) {
  struct ranks r = {.x = cut(ranks, buckets, floats)};
  float *shard[MOST], *expected = malloc((size_t)(floats + TAIL) * sizeof *expected);
  for (int i = 0; i < shards; i++) shard[i] = numbers(floats + TAIL, (uint64_t)i + 1);
  ls_tree_sum(expected, (const float *const *)shard, shards, 0, floats + TAIL);
  for (int i = 0; i < ranks; i++) {
    r.slab[i] = sum_of_shards(shard, i * shards / ranks, shards / ranks, floats + TAIL);
    size_t staging = (size_t)ls_exchange_staging(&r.x, i);
    r.staging[i] = calloc(staging + 1, sizeof(float));
    r.written[i] = calloc(staging + 1, sizeof(bool));
  }
  for (int b = buckets - 1; b >= 0; b--) {
    carry_out(&r, ls_exchange_scatter, b);
    for (int i = 0; i < ranks; i++) sum_slice(&r, b, i);
  }
  carry_out(&r, tails, 0);
  for (int b = buckets - 1; b >= 0; b--) carry_out(&r, ls_exchange_gather, b);
  for (int i = 0; i < ranks; i++) {
    assert_memory_equal(r.slab[i], expected, (size_t)floats * sizeof(float));
    for (int64_t s = 0; s < ls_exchange_staging(&r.x, i); s++) assert_true(r.written[i][s]);
  }
  for (int i = 0; i < ranks; i++) {
    const float *parts[MOST];
    float sum[TAIL];
    for (int of = 0; of < ranks; of++) {
      int64_t at = ls_exchange_tail(&r.x, i, of);
      assert_int_equal(at < 0, of == i);
      parts[of] = at < 0 ? r.slab[i] + floats : r.staging[i] + at;
    }
    ls_tree_sum(sum, parts, ranks, 0, TAIL);
    assert_memory_equal(sum, expected + floats, sizeof sum);
  }
  for (int i = 0; i < ranks; i++) free(r.slab[i]), free(r.staging[i]), free(r.written[i]);
  for (int i = 0; i < shards; i++) free(shard[i]);
  free(expected);
}

static void test_bits(void **state) {
  (void)state;
  static const int64_t sizes[] = {16, 48, 1024, 16 * 1001};
  for (int ranks = 1; ranks <= 8; ranks *= 2) {
    for (int shards = ranks; shards <= 8; shards *= 2) {
      for (int buckets = 1; buckets <= 3; buckets++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) one(ranks, shards, buckets, sizes[i]);
      }
    }
  }
  one(64, 64, LS_EXCHANGE_BUCKETS, 16 * 777);
}

// Another order would give other bits: else the test above would see nothing.
static void test_order_matters(void **state) {
  (void)state;
  enum { N = 1024 };
  float *shard[8], tree[N];
  int different = 0;
  for (int i = 0; i < 8; i++) shard[i] = numbers(N, (uint64_t)i + 1);
  ls_tree_sum(tree, (const float *const *)shard, 8, 0, N);
  for (int i = 0; i < N; i++) {
    volatile float sum = 0;
    for (int s = 0; s < 8; s++) sum += shard[s][i];
    different += sum != tree[i];
  }
  assert_true(different > N / 10);
  for (int i = 0; i < 8; i++) free(shard[i]);
}

// All ranks together own every float once.
static void test_slices(void **state) {
  (void)state;
  struct ls_exchange x = cut(8, 3, 16 * 1003);
  int64_t at = 0;
  for (int b = 0; b < x.buckets; b++) {
    for (int rank = 0; rank < x.ranks; rank++) {
      int64_t begin, end;
      ls_exchange_slice(&x, b, rank, &begin, &end);
      assert_int_equal(begin, at);
      assert_int_equal(begin % LS_EXCHANGE_LINE, 0);
      at = end;
    }
  }
  assert_int_equal(at, 16 * 1003);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits), cmocka_unit_test(test_order_matters),
                                     cmocka_unit_test(test_slices)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
