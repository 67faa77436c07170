// Learning-rate schedules: constant, step, cosine, plateau, and the warm-up before each.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "optim/schedule.h"

enum { TOTAL = 1000 };
static const double per_epoch = 12.5;  // an epoch need not be whole steps: 80 epochs

static double factor(const Lockstep__V1__Schedule *s, uint64_t step) {
  struct ls_schedule_state state;
  ls_schedule_begin(&state);
  return ls_schedule_factor(s, &state, step, TOTAL, per_epoch);
}

static void assert_near(double found, double expected) {
  if (!(fabs(found - expected) < 1e-12)) fail_msg("%.15g instead of %.15g", found, expected);
}

static void test_constant(void **state) {
  (void)state;
  Lockstep__V1__Schedule s = LOCKSTEP__V1__SCHEDULE__INIT;
  Lockstep__V1__ConstantSchedule constant = LOCKSTEP__V1__CONSTANT_SCHEDULE__INIT;
  s.kind_case = LOCKSTEP__V1__SCHEDULE__KIND_CONSTANT;
  s.constant = &constant;
  for (uint64_t step = 0; step < TOTAL; step += 99) assert_near(factor(&s, step), 1);
}

static void test_step(void **state) {
  (void)state;
  Lockstep__V1__Schedule s = LOCKSTEP__V1__SCHEDULE__INIT;
  Lockstep__V1__StepSchedule steps = LOCKSTEP__V1__STEP_SCHEDULE__INIT;
  double epochs[] = {30, 60, 60.04};
  steps.epochs = epochs;
  steps.n_epochs = 3;
  s.kind_case = LOCKSTEP__V1__SCHEDULE__KIND_STEP;
  s.step = &steps;
  assert_near(factor(&s, 0), 1);
  assert_near(factor(&s, 374), 1);  // 30 epochs are 375 steps
  assert_near(factor(&s, 375), 0.1);
  assert_near(factor(&s, 749), 0.1);
  assert_near(factor(&s, 750), 0.01);
  assert_near(factor(&s, 751), 0.001);  // 60.04 epochs are 750.5 steps: the first step at or after
  steps.factor = 0.5;
  assert_near(factor(&s, 999), 0.125);
}

static void test_cosine(void **state) {
  (void)state;
  Lockstep__V1__Schedule s = LOCKSTEP__V1__SCHEDULE__INIT;
  Lockstep__V1__CosineSchedule cosine = LOCKSTEP__V1__COSINE_SCHEDULE__INIT;
  s.kind_case = LOCKSTEP__V1__SCHEDULE__KIND_COSINE;
  s.cosine = &cosine;
  assert_near(factor(&s, 0), 1);
  assert_near(factor(&s, 250), 0.5 + sqrt(0.125));
  assert_near(factor(&s, 500), 0.5);
  assert_near(factor(&s, 1000), 0);
  cosine.final = 0.2;
  assert_near(factor(&s, 500), 0.6);
  assert_near(factor(&s, 1000), 0.2);
  assert_near(factor(&s, 5000), 0.2);  // and stays there
  for (uint64_t step = 0; step < TOTAL; step++) assert_true(factor(&s, step + 1) < factor(&s, step));
}

// Linear over whole steps, never 0, full at the end; then the cosine runs from there to the last step.
static void test_warm_up(void **state) {
  (void)state;
  Lockstep__V1__Schedule s = LOCKSTEP__V1__SCHEDULE__INIT;
  Lockstep__V1__CosineSchedule cosine = LOCKSTEP__V1__COSINE_SCHEDULE__INIT;
  s.kind_case = LOCKSTEP__V1__SCHEDULE__KIND_COSINE;
  s.cosine = &cosine;
  s.warm_up_epochs = 8;  // 100 steps
  assert_near(factor(&s, 0), 0.01);
  assert_near(factor(&s, 49), 0.5);
  assert_near(factor(&s, 99), 1);
  assert_near(factor(&s, 100), 1);
  assert_near(factor(&s, 550), 0.5);
  assert_near(factor(&s, 1000), 0);
  s.warm_up_epochs = 0.12;  // one and a half steps
  assert_near(factor(&s, 0), 1 / 1.5);
  assert_near(factor(&s, 1), 1);
}

static void plateau_init(Lockstep__V1__Schedule *s, Lockstep__V1__PlateauSchedule *plateau) {
  lockstep__v1__schedule__init(s);
  lockstep__v1__plateau_schedule__init(plateau);
  s->kind_case = LOCKSTEP__V1__SCHEDULE__KIND_PLATEAU;
  s->plateau = plateau;
}

static void test_plateau(void **state) {
  (void)state;
  Lockstep__V1__Schedule s;
  Lockstep__V1__PlateauSchedule plateau;
  plateau_init(&s, &plateau);
  plateau.patience = 3;
  plateau.minimum = 0.005;
  struct ls_schedule_state past;
  ls_schedule_begin(&past);
  static const struct {
    double error;
    bool lowered;
    double factor;
  } epochs[] = {
      {0.9, false, 1},     {0.5, false, 1},     {0.6, false, 1},
      {0.55, false, 1},    {0.4, false, 1},                            // better: counting begins again
      {0.4, false, 1},     {0.41, false, 1},    {0.39999, true, 0.1},  // less than the threshold of 1e-4 better
      {0.4, false, 0.1},   {0.4, false, 0.1},   {0.3, false, 0.1},
      {0.3, false, 0.1},   {0.3, false, 0.1},   {0.3, true, 0.01},
      {0.3, false, 0.01},  {0.3, false, 0.01},  {0.3, true, 0.005},   // not below the minimum
      {0.3, false, 0.005}, {0.3, false, 0.005}, {0.3, false, 0.005},  // and then it is lowered no more
  };
  for (size_t i = 0; i < sizeof epochs / sizeof *epochs; i++) {
    if (ls_schedule_epoch(&s, &past, epochs[i].error) != epochs[i].lowered) fail_msg("epoch %zu", i);
    assert_near(ls_schedule_factor(&s, &past, 10 * i, TOTAL, per_epoch), epochs[i].factor);
  }
}

// The past is all in the state: a copy of it, as a checkpoint keeps one, goes on alike.
static void test_plateau_resumes(void **state) {
  (void)state;
  Lockstep__V1__Schedule s;
  Lockstep__V1__PlateauSchedule plateau;
  plateau_init(&s, &plateau);
  plateau.patience = 2;
  struct ls_schedule_state past;
  ls_schedule_begin(&past);
  ls_schedule_epoch(&s, &past, 0.5);
  ls_schedule_epoch(&s, &past, 0.5);
  struct ls_schedule_state copy = past;
  assert_true(ls_schedule_epoch(&s, &copy, 0.5));
  assert_true(ls_schedule_epoch(&s, &past, 0.5));
  assert_memory_equal(&past, &copy, sizeof past);
}

// Other schedules have no past.
static void test_only_plateau_looks_back(void **state) {
  (void)state;
  Lockstep__V1__Schedule s = LOCKSTEP__V1__SCHEDULE__INIT;
  Lockstep__V1__ConstantSchedule constant = LOCKSTEP__V1__CONSTANT_SCHEDULE__INIT;
  s.kind_case = LOCKSTEP__V1__SCHEDULE__KIND_CONSTANT;
  s.constant = &constant;
  struct ls_schedule_state past;
  ls_schedule_begin(&past);
  for (int i = 0; i < 20; i++) assert_false(ls_schedule_epoch(&s, &past, 1));
  assert_near(ls_schedule_factor(&s, &past, 0, TOTAL, per_epoch), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_constant),
                                     cmocka_unit_test(test_step),
                                     cmocka_unit_test(test_cosine),
                                     cmocka_unit_test(test_warm_up),
                                     cmocka_unit_test(test_plateau),
                                     cmocka_unit_test(test_plateau_resumes),
                                     cmocka_unit_test(test_only_plateau_looks_back)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
