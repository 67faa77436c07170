// Who is to blame when ranks wait: the one furthest behind, after the limit, and not one that waits for its images.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdio.h>

#include "collective/watch.h"

static const int64_t second = 1000000000, limit = 10000000000;

static void test_stuck_rank(void **state) {
  (void)state;
  struct ls_watch w;
  char text[200] = "";
  ls_watch_init(&w, 4, limit, 0);
  ls_watch_learn(&w, 0);
  for (int i = 0; i < 4; i++) ls_watch_set(&w, i, 120, LS_WATCH_COMPUTES, second);
  for (int i = 0; i < 4; i++) {
    if (i != 2) ls_watch_set(&w, i, 120, LS_WATCH_EXCHANGES, 2 * second);
  }
  assert_int_equal(ls_watch_blame(&w, 0, 120, 11 * second, text, sizeof text), -1);  // 9 s
  assert_int_equal(atomic_load(&w.blamed), -1);
  assert_int_equal(ls_watch_blame(&w, 0, 120, 12 * second, text, sizeof text), 2);
  assert_string_equal(text, "rank 2 (gpu2) is stuck: it has been computing step 120 for 11.0 s while others wait");
  assert_int_equal(atomic_load(&w.blamed), 2);
}

// Nobody waits for the only one, or when all compute: then a rank says it of itself.
static void test_all_compute(void **state) {
  (void)state;
  struct ls_watch w;
  struct ls_error err = LS_ERROR_INIT;
  ls_watch_init(&w, 2, limit, 0);
  ls_watch_learn(&w, 0);
  for (int i = 0; i < 2; i++) ls_watch_set(&w, i, 5, LS_WATCH_COMPUTES, second);
  assert_int_equal(ls_watch_check(&w, 1, 5, 0, 10 * second, &err), LS_OK);
  assert_int_equal(ls_watch_check(&w, 1, 5, 0, 12 * second, &err), LS_UNAVAILABLE);
  assert_string_equal(err.text, "rank 1 (gpu1) is stuck: it has been computing step 5 for 11.0 s");
  assert_int_equal(ls_watch_check(&w, 0, 5, 0, 12 * second, &err), LS_CANCELLED);
}

// Who has failed is waited for no longer, whatever it was about: nobody is blamed for it.
static void test_one_that_failed(void **state) {
  (void)state;
  struct ls_watch w;
  struct ls_error err = LS_ERROR_INIT;
  ls_watch_init(&w, 2, limit, 0);
  ls_watch_set(&w, 0, 3, LS_WATCH_EXCHANGES, second);
  ls_watch_set(&w, 1, 3, LS_WATCH_INPUT, second);
  assert_int_equal(ls_watch_check(&w, 0, 3, 1, second, &err), LS_OK);
  ls_watch_failed(&w, 1);
  ls_watch_failed(&w, 0);  // too late to count
  assert_int_equal(ls_watch_check(&w, 0, 3, 1, second, &err), LS_CANCELLED);
  assert_string_equal(err.text, "another worker failed");
}

static void test_one_that_comes_on(void **state) {
  (void)state;
  struct ls_watch w;
  char text[200];
  ls_watch_init(&w, 2, limit, 0);
  ls_watch_learn(&w, 0);
  ls_watch_set(&w, 0, 7, LS_WATCH_EXCHANGES, second);
  ls_watch_set(&w, 1, 7, LS_WATCH_INPUT, second);  // its images take a minute: no fault of the device
  assert_int_equal(ls_watch_blame(&w, 0, 7, 60 * second, text, sizeof text), -1);
  ls_watch_set(&w, 1, 7, LS_WATCH_COMPUTES, 61 * second);
  assert_int_equal(ls_watch_blame(&w, 0, 7, 62 * second, text, sizeof text), -1);
  assert_int_equal(ls_watch_blame(&w, 0, 7, 72 * second, text, sizeof text), 1);
}

static void test_further_behind(void **state) {
  (void)state;
  struct ls_watch w;
  char text[200];
  ls_watch_init(&w, 3, limit, 0);
  ls_watch_learn(&w, 0);
  ls_watch_set(&w, 0, 9, LS_WATCH_EXCHANGES, second);
  ls_watch_set(&w, 1, 9, LS_WATCH_COMPUTES, second);
  ls_watch_set(&w, 2, 8, LS_WATCH_COMPUTES, second);
  assert_int_equal(ls_watch_blame(&w, 0, 9, 20 * second, text, sizeof text), 2);
  assert_int_equal(ls_watch_blame(&w, 0, 9, 21 * second, text, sizeof text), 2);
}

static void test_stuck_exchange(void **state) {
  (void)state;
  struct ls_watch w;
  char text[200];
  ls_watch_init(&w, 2, limit, 0);
  ls_watch_learn(&w, 0);
  ls_watch_set(&w, 0, 3, LS_WATCH_EXCHANGES, second);
  ls_watch_set(&w, 1, 3, LS_WATCH_EXCHANGES, second);
  assert_int_equal(ls_watch_blame(&w, 1, 3, 12 * second, text, sizeof text), 1);
  assert_string_equal(text, "the exchange of step 3 is stuck: rank 1 (gpu1) has waited 11.0 s for the others' data");
  // One that is ahead is not behind.
  ls_watch_set(&w, 0, 4, LS_WATCH_COMPUTES, 12 * second);
  assert_int_equal(ls_watch_blame(&w, 1, 3, 12 * second, text, sizeof text), 1);
}

// The limit grows with the steps; the first ones have six times the patience.
static void test_limit(void **state) {
  (void)state;
  struct ls_watch w;
  ls_watch_init(&w, 2, limit, 0);
  assert_int_equal(atomic_load(&w.limit_ns), 6 * limit);
  ls_watch_learn(&w, second);
  assert_int_equal(atomic_load(&w.limit_ns), limit + 4 * second);
  ls_watch_learn(&w, second / 10);
  assert_int_equal(atomic_load(&w.limit_ns), limit + 4 * second);
  ls_watch_learn(&w, 7 * second);
  assert_int_equal(atomic_load(&w.limit_ns), limit + 28 * second);
}

// What the ranks are told: who waits in vain the reason, the others that it was said, the stuck one that it is meant.
static void test_check(void **state) {
  (void)state;
  struct ls_watch w;
  struct ls_error err = LS_ERROR_INIT;
  ls_watch_init(&w, 3, limit, 0);
  ls_watch_learn(&w, 0);
  for (int i = 0; i < 3; i++) ls_watch_set(&w, i, 5, LS_WATCH_COMPUTES, second);
  assert_int_equal(ls_watch_check(&w, 0, 5, 0, 10 * second, &err), LS_OK);
  assert_int_equal(ls_watch_check(&w, 0, 5, 1, 2 * second, &err), LS_OK);
  assert_int_equal(ls_watch_check(&w, 2, 5, 1, 3 * second, &err), LS_OK);
  assert_int_equal(ls_watch_check(&w, 0, 5, 1, 13 * second, &err), LS_UNAVAILABLE);
  assert_string_equal(err.text, "rank 1 (gpu1) is stuck: it has been computing step 5 for 12.0 s while others wait");
  assert_int_equal(ls_watch_check(&w, 2, 5, 1, 13 * second, &err), LS_CANCELLED);
  assert_int_equal(ls_watch_check(&w, 1, 5, 0, 13 * second, &err), LS_UNAVAILABLE);
  assert_string_equal(err.text, "rank 1 (gpu1) is stuck at step 5: the others gave it up");
}

// Where it is, as far as its events say; nothing of it where the pass is in one piece.
static void test_place(void **state) {
  (void)state;
  struct ls_watch w;
  struct ls_error err = LS_ERROR_INIT;
  ls_watch_init(&w, 2, limit, 0);
  ls_watch_learn(&w, 0);
  w.places = 3;
  snprintf(w.place[0], sizeof w.place[0], "the forward pass or the backward pass from 'fc8' to 'fc6'");
  snprintf(w.place[1], sizeof w.place[1], "the backward pass from 'conv5' to 'conv3'");
  for (int i = 0; i < 2; i++) ls_watch_set(&w, i, 5, LS_WATCH_COMPUTES, second);
  assert_int_equal(ls_watch_check(&w, 1, 5, 1, 2 * second, &err), LS_OK);
  assert_int_equal(ls_watch_check(&w, 0, 5, 2, 2 * second, &err), LS_OK);  // computes itself
  assert_int_equal(ls_watch_check(&w, 0, 5, 3, 2 * second, &err), LS_OK);
  assert_int_equal(ls_watch_check(&w, 0, 5, 3, 13 * second, &err), LS_UNAVAILABLE);
  assert_string_equal(err.text,
                      "rank 1 (gpu1) is stuck: it has been computing step 5 for 12.0 s while others wait, in the "
                      "backward pass from 'conv5' to 'conv3'");
  assert_int_equal(ls_watch_check(&w, 1, 5, 1, 13 * second, &err), LS_UNAVAILABLE);
  assert_string_equal(
      err.text,
      "rank 1 (gpu1) is stuck at step 5, in the backward pass from 'conv5' to 'conv3': the others gave it up");
  ls_watch_set(&w, 1, 6, LS_WATCH_INPUT, 14 * second);  // the next step begins at its front
  assert_int_equal(atomic_load(&w.rank[1].passed), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_stuck_rank),
                                     cmocka_unit_test(test_all_compute),
                                     cmocka_unit_test(test_one_that_failed),
                                     cmocka_unit_test(test_one_that_comes_on),
                                     cmocka_unit_test(test_further_behind),
                                     cmocka_unit_test(test_stuck_exchange),
                                     cmocka_unit_test(test_limit),
                                     cmocka_unit_test(test_check),
                                     cmocka_unit_test(test_place)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
