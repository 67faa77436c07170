// One step after another of SGD against the recurrence written out in float64, and the bits of slices.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/philox.h"
#include "optim/optim.h"

enum { N = 1003, STEPS = 25 };

static float draw(uint32_t sequence, uint32_t i) {
  return 2 * ls_random_unit(ls_random(1, LS_RANDOM_TEST, sequence, i, 0).v[0]) - 1;
}

// PyTorch's torch.optim.SGD, from its documentation.
static void recurrence(const struct ls_sgd *s, bool first, double *w, double *v, double g) {
  g += s->weight_decay * *w;
  *v = first ? g : s->momentum * *v + g;
  *w -= s->learning_rate * (s->nesterov ? g + s->momentum * *v : *v);
}

static void check(float momentum, float decay, bool nesterov) {
  float w[N], v[N] = {0}, g[N];
  double ew[N], ev[N] = {0}, worst = 0;
  for (uint32_t i = 0; i < N; i++) ew[i] = w[i] = draw(0, i);
  for (uint32_t step = 0; step < STEPS; step++) {
    struct ls_sgd sgd = {
        .learning_rate = step < 10 ? 0.1f : 0.05f, .momentum = momentum, .weight_decay = decay, .nesterov = nesterov};
    for (uint32_t i = 0; i < N; i++) g[i] = draw(1 + step, i);
    ls_sgd_update(&sgd, N, w, v, g);
    for (uint32_t i = 0; i < N; i++) recurrence(&sgd, step == 0, &ew[i], &ev[i], g[i]);
  }
  for (uint32_t i = 0; i < N; i++) worst = fmax(worst, fmax(fabs(w[i] - ew[i]), fabs(v[i] - ev[i])));
  assert_true(worst < 1e-5);  // 25 steps, each with a few roundings of values below 8
}

static void test_forms(void **state) {
  (void)state;
  check(0, 0, false);
  check(0.9f, 0, false);
  check(0.9f, 5e-4f, false);
  check(0.9f, 0, true);
  check(0.9f, 0.01f, true);
}

// The forms are told apart: each gives other weights.
static void test_forms_differ(void **state) {
  (void)state;
  static const struct ls_sgd forms[] = {
      {0.1f, 0, 0, false}, {0.1f, 0.9f, 0, false}, {0.1f, 0.9f, 0.1f, false}, {0.1f, 0.9f, 0, true}};
  float w[4];
  for (int i = 0; i < 4; i++) {
    float v = 0.5f, g = 0.25f;
    w[i] = 1;
    ls_sgd_update(&forms[i], 1, &w[i], &v, &g);
    for (int j = 0; j < i; j++) assert_true(w[i] != w[j]);
  }
  assert_true(fabsf(w[0] - (1 - 0.1f * 0.25f)) < 1e-6f);
  assert_true(fabsf(w[1] - (1 - 0.1f * (0.45f + 0.25f))) < 1e-6f);
  assert_true(fabsf(w[2] - (1 - 0.1f * (0.45f + 0.35f))) < 1e-6f);
  assert_true(fabsf(w[3] - (1 - 0.1f * (0.25f + 0.9f * 0.7f))) < 1e-6f);
}

// However the slab is cut into slices, wherever they begin, the bits are those of one pass.
static void test_slices(void **state) {
  (void)state;
  struct ls_sgd sgd = {.learning_rate = 0.37f, .momentum = 0.9f, .weight_decay = 3e-3f};
  for (int nesterov = 0; nesterov < 2; nesterov++) {
    sgd.nesterov = nesterov;
    float w[2][N], v[2][N], g[N];
    for (uint32_t i = 0; i < N; i++) {
      w[0][i] = w[1][i] = draw(90, i);
      v[0][i] = v[1][i] = draw(91, i);
      g[i] = draw(92, i);
    }
    ls_sgd_update(&sgd, N, w[0], v[0], g);
    for (int64_t i = 0, n = 1; i < N; i += n, n = 2 * n + 1) {
      int64_t size = n < N - i ? n : N - i;
      ls_sgd_update(&sgd, size, w[1] + i, v[1] + i, g + i);
    }
    assert_memory_equal(w[0], w[1], sizeof w[0]);
    assert_memory_equal(v[0], v[1], sizeof v[0]);
  }
}

// PyTorch: running = (1 - momentum) * running + momentum * n/(n-1) * batch.
static void test_running(void **state) {
  (void)state;
  float running[N], batch[N];
  double expected[N];
  for (uint32_t i = 0; i < N; i++) expected[i] = running[i] = draw(4, i);
  for (uint32_t step = 0; step < 10; step++) {
    for (uint32_t i = 0; i < N; i++) {
      batch[i] = draw(10 + step, i);
      expected[i] = 0.9 * expected[i] + 0.1 * (9.0 / 8) * batch[i];
    }
    ls_running_update(0.1f, 9.0f / 8, N, running, batch);
  }
  for (uint32_t i = 0; i < N; i++) assert_true(fabs(running[i] - expected[i]) < 1e-6);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_forms_differ),
                                     cmocka_unit_test(test_slices), cmocka_unit_test(test_running)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
