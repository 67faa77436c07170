// The dynamic loss scale: halved by an overflow, doubled by 2000 good steps, within its bounds, resumable in between.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>

#include "optim/loss_scale.h"

static void test_course(void **state) {
  (void)state;
  struct ls_loss_scale s;
  ls_loss_scale_begin(&s);
  assert_true(s.scale == 65536);
  assert_true(ls_loss_scale_step(&s, true));
  assert_true(s.scale == 32768 && s.skipped == 1);
  for (int i = 0; i < 1999; i++) assert_true(ls_loss_scale_step(&s, false));
  struct ls_loss_scale resumed = s;
  assert_true(s.scale == 32768);
  assert_true(ls_loss_scale_step(&s, false) && ls_loss_scale_step(&resumed, false));
  assert_true(s.scale == 65536 && resumed.scale == 65536 && s.good_steps == 0);
}

static void test_bounds(void **state) {
  (void)state;
  struct ls_loss_scale s;
  ls_loss_scale_begin(&s);
  for (int i = 0; i < 16; i++) assert_true(ls_loss_scale_step(&s, true));
  assert_true(s.scale == 1);
  assert_false(ls_loss_scale_step(&s, true));
  assert_true(s.scale == 1);
  for (int i = 0; i < 2000 * 40; i++) ls_loss_scale_step(&s, false);
  assert_true(s.scale == 16777216);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_course), cmocka_unit_test(test_bounds)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
