// Workers on devices that cannot reach each other's memory, with the CUDA backend's twin as the device and a transport that
// copies between threads: the digest is that of devices that do, in all precisions; what stands in the way is said; a rank
// that is stuck is the one that is blamed.
#include <stdatomic.h>

#include "support/small_job.h"
#include "support/wire.h"
#include "worker/coordinator.h"
#include "worker/trainer.h"

// --- the tests

struct how {
  const char *folder, *precision;
  unsigned workers, devices;
  const struct ls_backend_ops *backend;
  int buckets;
  bool fast;
};

static void on_event(void *user, const Lockstep__V1__Event *event) {
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_OUTCOME && event->outcome->has_failed_device)
    *(int *)user = (int)event->outcome->failed_device;
}

static ls_status train(const struct how *how, struct ls_train_result *result, int *failed, struct ls_error *err) {
  char precision[48];
  snprintf(precision, sizeof precision, "precision=%s", how->precision ? how->precision : "float32");
  Lockstep__V1__Job *job = small_job(precision);
  if (how->fast) job->reduce = LOCKSTEP__V1__REDUCE__REDUCE_FAST;
  char *path = small_path(how->folder);
  assert_int_equal(ls_folder_make(path, 0700, err), LS_OK);
  ls_barrier_init(&wire.barrier, (int)how->workers, false);
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = 1,
                                     .devices = how->workers,
                                     .backend = how->backend,
                                     .backend_devices = how->devices,
                                     .buckets = how->buckets,
                                     .transport = &wire_ops,
                                     .event = on_event,
                                     .user = failed};
  ls_status status = ls_train(&options, result, err);
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
  return status;
}

static void test_same_bits(void **state) {
  (void)state;
  static const char *const settings[] = {"float32", "bfloat16", "float16"};
  struct ls_error err = LS_ERROR_INIT;
  int failed = -1;
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i += SMALL_JOB_ALL ? 1 : 2) {
    char expected[65] = "";
    for (unsigned run = SMALL_JOB_ALL ? 0 : 6; run < 9; run++) {  // on 1, 2 and 4 workers, in 1 to 3 buckets
      char folder[32];
      struct ls_train_result result;
      unsigned workers = 1u << run / 3;
      snprintf(folder, sizeof folder, "apart-%zu-%u", i, run);
      struct how how = {folder,
                        settings[i],
                        workers,
                        workers,
                        workers == 1 ? ls_backend_cuda_twin() : lonely_twin(),
                        (int)(run % 3) + 1,
                        false};
      int before = atomic_load(&wire.messages);
      if (train(&how, &result, &failed, &err) != LS_OK) fail_msg("%s", err.text);
      assert_int_equal(atomic_load(&wire.messages) > before, workers > 1);
      assert_int_equal(atomic_load(&wire.sums), 0);  // exact
      if (!*expected) memcpy(expected, result.parameters_sha256, sizeof expected);
      assert_string_equal(result.parameters_sha256, expected);
    }
  }
}

// `reduce: fast`: the transport sums, whether devices reach each other or not; the result is the same in any number of
// buckets, and on all devices, since each evaluates with its own parameters. Workers that share a device do without.
static void test_fast(void **state) {
  (void)state;
  static const char *const precisions[] = {"float32", "float16"};
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  int failed = -1;
  for (size_t p = SMALL_JOB_ALL ? 0 : 1; p < 2; p++) {
    char expected[65] = "";
    for (int run = 0; run < 4; run++) {
      char folder[32];
      snprintf(folder, sizeof folder, "fast-%zu-%d", p, run);
      struct how how = {folder,      precisions[p], 4, 4, run == 3 ? lonely_twin() : ls_backend_cuda_twin(),
                        run % 3 + 1, true};
      int sums = atomic_load(&wire.sums), messages = atomic_load(&wire.messages);
      if (train(&how, &result, &failed, &err) != LS_OK) fail_msg("%s", err.text);
      // Each rank's buckets and what lies behind, each step.
      assert_int_equal(atomic_load(&wire.sums) - sums, 24 * 4 * (how.buckets + 1));
      assert_int_equal(atomic_load(&wire.messages), messages);
      assert_true(result.test_accuracy > 0.9);
      if (!*expected) memcpy(expected, result.parameters_sha256, sizeof expected);
      assert_string_equal(result.parameters_sha256, expected);
    }
  }
  struct how refused = {"fast-refused", NULL, 4, 4, ls_backend_cuda_twin(), 2, true}, exact = refused;
  wire.refuses = true;
  assert_int_equal(train(&refused, &result, &failed, &err), LS_OK);
  wire.refuses = false;
  exact.fast = false, exact.folder = "fast-not";
  struct ls_train_result other;
  assert_int_equal(train(&exact, &other, &failed, &err), LS_OK);
  assert_string_equal(result.parameters_sha256, other.parameters_sha256);
  struct how shared = {"fast-shared", NULL, 4, 2, ls_backend_cuda_twin(), 0, true};
  int sums = atomic_load(&wire.sums);
  assert_int_equal(train(&shared, &result, &failed, &err), LS_OK);
  assert_int_equal(atomic_load(&wire.sums), sums);
}

static void test_shared_devices(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  int failed = -1;
  struct how how = {"shared", NULL, 4, 2, lonely_twin(), 0, false};
  assert_int_equal(train(&how, &result, &failed, &err), LS_UNSUPPORTED);
  assert_string_equal(
      err.text, "4 workers cannot share 2 GPUs that do not reach each other's memory; use as many workers as GPUs");
  assert_int_equal(result.exit, LS_EXIT_FAILED);
}

static void test_stuck_rank(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  int failed = -1;
  wire.stuck_step = 5;
  struct how how = {"stuck", NULL, 4, 4, lonely_twin(), 0, false};
  assert_int_equal(train(&how, &result, &failed, &err), LS_UNAVAILABLE);
  wire.stuck_step = 0;
  assert_string_equal(err.text, "rank 2 (gpu2) is stuck");
  assert_int_equal(result.exit, LS_EXIT_DEVICE);
  assert_int_equal(failed, 2);
}

// A job that is too large for the device ends before it has taken anything.
static ls_status small_devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  (void)err;
  *count = 1;
  if (capacity > 0) *info = (struct ls_device_info){.name = "gpu0", .memory_bytes = 64 << 10};
  return LS_OK;
}

static void test_too_large(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  struct ls_backend_ops small = *ls_backend_cuda_twin();
  int failed = -1;
  small.devices = small_devices;
  struct how how = {"large", NULL, 2, 1, &small, 0, false};
  assert_int_equal(train(&how, &result, &failed, &err), LS_INVALID);
  assert_int_equal(result.exit, LS_EXIT_FAILED);
  if (!strstr(err.text, "16 images in 4 shards take up to 0.1 GiB on each GPU")) fail_msg("%s", err.text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_fast),
                                     cmocka_unit_test(test_shared_devices), cmocka_unit_test(test_stuck_rank),
                                     cmocka_unit_test(test_too_large)};
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
