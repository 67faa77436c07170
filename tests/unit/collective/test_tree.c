// The sum over shards is one tree, bit by bit, whoever computes it: the written-out tree for every power of two of shards
// against what W workers do, each with its own subtree in few buffers and one slice of the upper part.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/philox.h"
#include "collective/collective.h"

enum { MAX_SHARDS = 64, N = 2600 };  // more than two of the sum's blocks, and no multiple of one

static float shard[MAX_SHARDS][N];

static int fill(void **state) {
  (void)state;
  for (int s = 0; s < MAX_SHARDS; s++) {
    for (int i = 0; i < N; i++) {
      struct ls_philox4 r = ls_random(1, LS_RANDOM_TEST, (uint64_t)s, (uint64_t)i, 0);
      // Many orders of magnitude, so that every other order of summing shows.
      shard[s][i] = (2 * ls_random_unit(r.v[0]) - 1) * (float)(1 << ls_random_below(r.v[1], 24));
    }
  }
  return 0;
}

static float tree(int first, int count, int i) {
  if (count == 1) return shard[first][i];
  float left = tree(first, count / 2, i), right = tree(first + count / 2, count / 2, i);
  return left + right;
}

// What a worker does (worker/step.c): its shards one after another, merged as soon as a subtree is whole.
static void own_shards(float (*buffer)[N], int first, int count) {
  for (int i = 0; i < count; i++) {
    int b = ls_tree_buffer(i);
    assert_in_range(b, 0, ls_tree_buffers(count) - 1);
    memcpy(buffer[b], shard[first + i], sizeof *buffer);
    for (int merges = ls_tree_merges(i); merges > 0; merges--, b--) ls_tree_merge(buffer[b - 1], buffer[b], N);
  }
}

static void check(int shards, int workers) {
  static float out[N];
  float(*buffers[MAX_SHARDS])[N];
  const float *parts[MAX_SHARDS];
  int each = shards / workers;
  for (int w = 0; w < workers; w++) {
    buffers[w] = malloc((size_t)ls_tree_buffers(each) * sizeof *buffers[w]);
    own_shards(buffers[w], w * each, each);
    parts[w] = buffers[w][0];
  }
  for (int w = 0; w < workers; w++) {  // slices of unequal size
    int64_t begin = N * w / workers, end = N * (w + 1) / workers;
    ls_tree_sum(out + begin, parts, workers, begin, end - begin);
  }
  for (int i = 0; i < N; i++) {
    float expected = tree(0, shards, i);
    if (out[i] != expected) {
      fail_msg("%d shards, %d workers: [%d] is %a instead of %a", shards, workers, i, (double)out[i], (double)expected);
    }
  }
  for (int w = 0; w < workers; w++) free(buffers[w]);
}

static void test_any_workers(void **state) {
  (void)state;
  for (int shards = 1; shards <= MAX_SHARDS; shards *= 2) {
    for (int workers = 1; workers <= shards; workers *= 2) check(shards, workers);
  }
}

// The tree is not the plain sum from left to right: this test could see a difference.
static void test_order_matters(void **state) {
  (void)state;
  int different = 0;
  for (int i = 0; i < N; i++) {
    float sum = 0;
    for (int s = 0; s < 8; s++) sum += shard[s][i];
    different += sum != tree(0, 8, i);
  }
  assert_true(different > N / 10);
}

// The sum may be written over one of its parts, whole blocks and tails alike.
static void test_in_place(void **state) {
  (void)state;
  for (int over = 0; over < 8; over++) {
    float(*copy)[N] = malloc(8 * sizeof *copy);
    memcpy(copy, shard, 8 * sizeof *copy);
    const float *parts[8];
    for (int s = 0; s < 8; s++) parts[s] = copy[s];
    ls_tree_sum(copy[over], parts, 8, 0, N);
    for (int i = 0; i < N; i++) assert_true(copy[over][i] == tree(0, 8, i));
    free(copy);
  }
}

// Few buffers: one more than the height of the subtree.
static void test_buffers(void **state) {
  (void)state;
  for (int height = 0; height <= 6; height++) assert_int_equal(ls_tree_buffers(1 << height), height + 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_any_workers), cmocka_unit_test(test_order_matters),
                                     cmocka_unit_test(test_in_place), cmocka_unit_test(test_buffers)};
  return cmocka_run_group_tests(tests, fill, NULL);
}
