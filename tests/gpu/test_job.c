// Whole jobs on GPUs: the same job gives the same digest from run to run and with 1, 2 and 4 workers, sharing one GPU or
// spread over as many as there are, stopped and resumed in between; in every precision. It learns what the CPU learns.
#include <math.h>

#include "support/gpu.h"
#include "support/small_job.h"
#include "worker/coordinator.h"

static int gpus;

struct watch {
  uint64_t stop_at;
  atomic_bool stop;
};

static void on_event(void *user, const Lockstep__V1__Event *event) {
  struct watch *watch = user;
  if (watch->stop_at && event->kind_case == LOCKSTEP__V1__EVENT__KIND_CHECKPOINT &&
      event->checkpoint->step >= watch->stop_at)
    atomic_store(&watch->stop, true);
}

static struct ls_train_result train(const char *folder, const char *setting, unsigned workers, unsigned devices,
                                    unsigned attempt, uint64_t stop_at) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  struct watch watch = {.stop_at = stop_at};
  Lockstep__V1__Job *job = small_job(setting);
  char *path = small_path(folder);
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = attempt,
                                     .devices = workers,
                                     .backend = ls_backend_cuda(),
                                     .backend_devices = devices,
                                     .stop = &watch.stop,
                                     .event = on_event,
                                     .user = &watch};
  if (ls_train(&options, &result, &err) != LS_OK) fail_msg("%s: %s", folder, err.text);
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
  return result;
}

static void check_precision(const char *precision) {
  char name[64], setting[64];
  snprintf(setting, sizeof setting, "precision=%s", precision);
  snprintf(name, sizeof name, "%s-first", precision);
  struct ls_train_result first = train(name, setting, 1, 1, 1, 0);
  assert_int_equal(first.exit, LS_EXIT_OK);
  assert_true(first.test_accuracy > 0.9);
  for (unsigned workers = 1; workers <= 4; workers *= 2) {  // 1: from run to run
    for (unsigned devices = 1; devices <= workers && devices <= (unsigned)gpus; devices *= 2) {
      snprintf(name, sizeof name, "%s-%u-on-%u", precision, workers, devices);
      struct ls_train_result result = train(name, setting, workers, devices, 1, 0);
      if (strcmp(result.parameters_sha256, first.parameters_sha256) != 0)
        fail_msg("%s: %u workers on %u GPUs: another digest", precision, workers, devices);
    }
  }
  snprintf(name, sizeof name, "%s-parts", precision);
  assert_int_equal(train(name, setting, 4, 1, 1, 9).exit, LS_EXIT_STOPPED);
  assert_string_equal(train(name, setting, 2, 1, 2, 0).parameters_sha256, first.parameters_sha256);
}

static void test_float32(void **state) {
  (void)state;
  check_precision("float32");
}

// Eight shards: up to a worker for each, all on one GPU.
static void test_eight_workers(void **state) {
  (void)state;
  struct ls_train_result first = train("eight", "shards=8", 1, 1, 1, 0);
  for (unsigned workers = 2; workers <= 8; workers *= 2) {
    char name[32];
    snprintf(name, sizeof name, "eight-%u", workers);
    assert_string_equal(train(name, "shards=8", workers, 1, 1, 0).parameters_sha256, first.parameters_sha256);
  }
}

static void test_tf32(void **state) {
  (void)state;
  check_precision("tf32");
}

static void test_bfloat16(void **state) {
  (void)state;
  check_precision("bfloat16");
}

static void test_float16(void **state) {
  (void)state;
  check_precision("float16");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_float32), cmocka_unit_test(test_eight_workers),
                                     cmocka_unit_test(test_tf32), cmocka_unit_test(test_bfloat16),
                                     cmocka_unit_test(test_float16)};
  gpus = gpu_count();
  if (gpus == 0) return GPU_SKIPPED;
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
