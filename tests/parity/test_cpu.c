// The CPU backend against the reference backend.
#include "support/compare.h"

static const struct ls_backend_ops *tested(void) { return ls_backend_cpu(); }

static double tolerated(const struct compare *compare) {
  (void)compare;
  return 1e-5;
}

#include "support/parity_cases.h"

int main(void) {
  const struct CMUnitTest tests[] = {PARITY_TESTS};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
