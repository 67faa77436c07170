// The order of samples: a permutation for every (seed, epoch, size), and different ones.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/sampler.h"

static void test_is_permutation(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4097, 60000};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    int64_t n = sizes[s];
    uint8_t *seen = calloc((size_t)n, 1);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
      for (int64_t i = 0; i < n; i++) {
        int64_t at = ls_sampler_permute(42, epoch, n, i);
        assert_in_range(at, 0, n - 1);
        assert_int_equal(seen[at], epoch);
        seen[at]++;
      }
    }
    free(seen);
  }
}

// Far into a data set of ten thousand million samples the bijection still holds: distinct, in range.
static void test_large(void **state) {
  (void)state;
  int64_t n = 10000000000, last = -1;
  for (int64_t i = 0; i < 1000; i++) {
    int64_t at = ls_sampler_permute(1, 5, n, n - 1 - i);
    assert_true(at >= 0 && at < n && at != last);
    last = at;
  }
}

static int64_t equal_places(uint64_t seed_a, uint64_t epoch_a, uint64_t seed_b, uint64_t epoch_b, int64_t n) {
  int64_t equal = 0;
  for (int64_t i = 0; i < n; i++)
    equal += ls_sampler_permute(seed_a, epoch_a, n, i) == ls_sampler_permute(seed_b, epoch_b, n, i);
  return equal;
}

// One place in n agrees by chance: about 1 is expected, 10 practically never happens.
static void test_differs(void **state) {
  (void)state;
  int64_t n = 10000;
  assert_in_range(equal_places(1, 0, 1, 1, n), 0, 10);
  assert_in_range(equal_places(1, 0, 2, 0, n), 0, 10);
  assert_in_range(equal_places(1, 0, 1ull << 40, 0, n), 0, 10);
  assert_int_equal(equal_places(7, 3, 7, 3, n), n);
}

// A good shuffle spreads: the mean distance of neighbours is n/3, and each quarter of the order holds a quarter of the
// samples of each quarter (within five deviations).
static void test_spreads(void **state) {
  (void)state;
  int64_t n = 40000, counts[4][4] = {{0}};
  double distance = 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t at = ls_sampler_permute(9, 1, n, i);
    counts[i * 4 / n][at * 4 / n]++;
    if (i) distance += llabs(at - ls_sampler_permute(9, 1, n, i - 1));
  }
  for (int a = 0; a < 4; a++) {
    for (int b = 0; b < 4; b++) assert_in_range(counts[a][b], 2500 - 220, 2500 + 220);
  }
  assert_true(distance / (double)n > 0.32 * (double)n && distance / (double)n < 0.347 * (double)n);
}

// ---- blocks

static struct ls_sampler blocks(int64_t n, uint64_t sample_bytes) {
  struct ls_sampler s;
  ls_sampler_init(&s, 5, n, sample_bytes, LOCKSTEP__V1__SHUFFLE__SHUFFLE_BLOCKS);
  return s;
}

static void test_blocks_once(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 2, 31, 127, 128, 129, 1000, 4096, 10007, 100003};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    int64_t n = sizes[k];
    struct ls_sampler s = blocks(n, 1 << 18);
    uint8_t *seen = calloc((size_t)n, 1), *in_runs = calloc((size_t)n, 1);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
      for (int64_t i = 0; i < n; i++) {
        int64_t at = ls_sampler_at(&s, epoch, i);
        assert_in_range(at, 0, n - 1);
        assert_int_equal(seen[at], epoch);
        seen[at]++;
      }
      int64_t first, count;
      for (int64_t w = 0; w <= ls_sampler_window(&s, n - 1); w++) {
        for (int run = 0; ls_sampler_run(&s, epoch, w, run, &first, &count); run++) {
          for (int64_t i = first; i < first + count; i++) assert_int_equal(in_runs[i]++, epoch);
        }
      }
      for (int64_t i = 0; i < n; i++) assert_int_equal(in_runs[i], epoch + 1);
    }
    free(seen);
    free(in_runs);
  }
}

// The samples of a window are those of its runs, which are few and long; orders differ from epoch to epoch.
static void test_blocks_are_near(void **state) {
  (void)state;
  int64_t n = 100003, equal = 0;
  struct ls_sampler s = blocks(n, 1 << 18);
  assert_int_equal(s.block, 32);
  for (int64_t w = 0; w < 3; w++) {
    uint8_t *expected = calloc((size_t)n, 1);
    int64_t first, count;
    int run = 0;
    for (; ls_sampler_run(&s, 1, w, run, &first, &count); run++) memset(expected + first, 1, (size_t)count);
    assert_in_range(run, 32, 34);
    for (int64_t i = w * 1024; i < (w + 1) * 1024; i++) assert_int_equal(expected[ls_sampler_at(&s, 1, i)], 1);
    free(expected);
  }
  for (int64_t i = 0; i < n; i++) equal += ls_sampler_at(&s, 0, i) == ls_sampler_at(&s, 1, i);
  assert_in_range(equal, 0, 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_is_permutation), cmocka_unit_test(test_large),       cmocka_unit_test(test_differs),
      cmocka_unit_test(test_spreads),        cmocka_unit_test(test_blocks_once), cmocka_unit_test(test_blocks_are_near),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
