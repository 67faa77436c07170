// The random numbers that runs, files and devices depend on: known answers, and independence of purposes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/philox.h"

// From the authors' Random123 (kat_vectors, philox4x32 with 10 rounds).
static void test_known_answers(void **state) {
  (void)state;
  static const struct {
    uint32_t counter[4], key[2], expected[4];
  } vectors[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
    struct ls_philox4 found = ls_philox(vectors[i].counter, vectors[i].key);
    assert_memory_equal(found.v, vectors[i].expected, sizeof found.v);
  }
}

// How seed, purpose and the counters enter is part of what files and results depend on.
static void test_key_schedule(void **state) {
  (void)state;
  uint64_t seed = 0x0123456789abcdef, a = 0x1111222233334444, b = 0x5555666677778888;
  struct ls_philox4 found = ls_random(seed, LS_RANDOM_DROPOUT, a, b, 9);
  uint32_t key[2] = {0x89abcdef, 0x01234567 ^ (4u << 24) ^ 0x11112222},
           counter[4] = {0x33334444, 0x77778888, 0x55556666, 9};
  struct ls_philox4 expected = ls_philox(counter, key);
  assert_memory_equal(&found, &expected, sizeof found);
}

static void test_every_argument_counts(void **state) {
  (void)state;
  struct ls_philox4 all[] = {
      ls_random(1, LS_RANDOM_INIT, 0, 0, 0),          ls_random(2, LS_RANDOM_INIT, 0, 0, 0),
      ls_random(1ull << 32, LS_RANDOM_INIT, 0, 0, 0), ls_random(1, LS_RANDOM_SHUFFLE, 0, 0, 0),
      ls_random(1, LS_RANDOM_INIT, 1, 0, 0),          ls_random(1, LS_RANDOM_INIT, 1ull << 32, 0, 0),
      ls_random(1, LS_RANDOM_INIT, 0, 1, 0),          ls_random(1, LS_RANDOM_INIT, 0, 1ull << 32, 0),
      ls_random(1, LS_RANDOM_INIT, 0, 0, 1)};
  enum { COUNT = (int)(sizeof all / sizeof *all) };
  for (int i = 0; i < COUNT; i++) {
    for (int j = 0; j < i; j++) assert_memory_not_equal(&all[i], &all[j], sizeof *all);
  }
}

static void test_ranges(void **state) {
  (void)state;
  assert_true(ls_random_unit(0) == 0.0f);
  assert_true(ls_random_unit(UINT32_MAX) < 1.0f);
  assert_true(ls_random_unit(0x80000000) == 0.5f);
  assert_int_equal(ls_random_below(0, 10), 0);
  assert_int_equal(ls_random_below(UINT32_MAX, 10), 9);
  assert_int_equal(ls_random_below(UINT32_MAX, 1), 0);
  uint32_t histogram[7] = {0};
  for (uint32_t i = 0; i < 7000; i++) histogram[ls_random_below(ls_random(5, LS_RANDOM_TEST, 0, i, 0).v[i % 4], 7)]++;
  for (int i = 0; i < 7; i++) assert_in_range(histogram[i], 880, 1120);  // 1000 +- 4 standard deviations
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_known_answers), cmocka_unit_test(test_key_schedule),
                                     cmocka_unit_test(test_every_argument_counts), cmocka_unit_test(test_ranges)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
