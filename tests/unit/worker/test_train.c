// The coordinator as a library: a small job on several workers with checkpoints and evaluations, its events in order, one
// at a time; stopped and resumed to the same digest; evaluation, prediction and the benchmark afterwards. Also run under
// ThreadSanitizer.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spec/event_log.h"
#include "support/small_job.h"
#include "worker/bench.h"
#include "worker/coordinator.h"
#include "worker/inference.h"

struct seen {
  atomic_int inside;  // callers of the callback at the same time
  int kinds[32];
  int events, overlaps;
  uint64_t stop_at;
  atomic_bool *stop;
};

static void on_event(void *user, const Lockstep__V1__Event *event) {
  struct seen *seen = user;
  if (atomic_fetch_add(&seen->inside, 1) != 0) seen->overlaps++;
  seen->events++;
  seen->kinds[event->kind_case]++;
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_CHECKPOINT && seen->stop &&
      event->checkpoint->step >= seen->stop_at)
    atomic_store(seen->stop, true);
  atomic_fetch_sub(&seen->inside, 1);
}

static enum ls_worker_exit train(const char *name, unsigned devices, unsigned attempt, struct seen *seen,
                                 struct ls_train_result *result) {
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = small_job(NULL);
  char *path = small_path(name);
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = attempt,
                                     .devices = devices,
                                     .stop = seen->stop,
                                     .event = on_event,
                                     .user = seen};
  if (ls_train(&options, result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(seen->overlaps, 0);
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
  return result->exit;
}

static void test_training(void **state) {
  (void)state;
  struct seen seen = {0};
  struct ls_train_result one, four;
  assert_int_equal(train("one", 1, 1, &seen, &one), LS_EXIT_OK);
  assert_int_equal(one.step, 24);
  assert_true(one.test_accuracy > 0.9);
  assert_int_equal(seen.kinds[LOCKSTEP__V1__EVENT__KIND_STARTED], 1);
  assert_int_equal(seen.kinds[LOCKSTEP__V1__EVENT__KIND_EVALUATION], 4);
  assert_int_equal(seen.kinds[LOCKSTEP__V1__EVENT__KIND_CHECKPOINT], 8);
  assert_int_equal(seen.kinds[LOCKSTEP__V1__EVENT__KIND_OUTCOME], 1);
  struct seen other = {0};
  assert_int_equal(train("four", 4, 1, &other, &four), LS_EXIT_OK);
  assert_string_equal(one.parameters_sha256, four.parameters_sha256);
}

static void test_stop_and_resume(void **state) {
  (void)state;
  atomic_bool stop = false;
  struct seen seen = {.stop = &stop, .stop_at = 6};
  struct ls_train_result part, rest, whole;
  assert_int_equal(train("parts", 4, 1, &seen, &part), LS_EXIT_STOPPED);
  assert_in_range(part.step, 6, 23);
  struct seen again = {0};
  assert_int_equal(train("parts", 2, 2, &again, &rest), LS_EXIT_OK);
  struct seen third = {0};
  assert_int_equal(train("whole", 2, 1, &third, &whole), LS_EXIT_OK);
  assert_string_equal(rest.parameters_sha256, whole.parameters_sha256);
  assert_true(rest.test_accuracy == whole.test_accuracy);
}

static void test_model_at_work(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  char *model = small_path("one/final.h5");
  struct ls_evaluate_options options = {.model = model, .devices = 2};
  struct ls_evaluate_result result;
  if (ls_evaluate(&options, &result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(result.images, TEST);
  assert_int_equal(result.step, 24);
  assert_true(result.accuracy > 0.9 && result.top5 == 1);
  uint8_t pixels[SIDE * SIDE];
  for (int p = 0; p < SIDE * SIDE; p++) pixels[p] = p / SIDE / 3 == 2 ? 210 : 40;
  struct ls_predict_image image = {pixels, SIDE, SIDE, 1};
  struct ls_prediction prediction;
  if (ls_predict(&(struct ls_predict_options){.model = model}, &image, 1, &prediction, &err) != LS_OK)
    fail_msg("%s", err.text);
  assert_int_equal(prediction.count, CLASSES);
  assert_int_equal(prediction.top[0].class, 2);
  float sum = 0;
  for (int i = 0; i < prediction.count; i++) sum += prediction.top[i].probability;
  assert_true(fabsf(sum - 1) < 1e-5F);
  free(model);
}

static int open_files(void) {
  int count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (folder && readdir(folder)) count++;
  closedir(folder);
  return count;
}

static bool keep_outcome(void *user, const Lockstep__V1__Event *event) {
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_OUTCOME) *(int *)user = (int)event->outcome->kind;
  return true;
}

// A log that another coordinator holds: worth another attempt, and nothing stays open. A job that cannot be read: said in
// the log, failed for good.
static void test_no_start(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = small_job(NULL);
  char *path = small_path("no-start"), *log_path = small_path("no-start/events.log");
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  struct ls_event_log *log;
  struct ls_train_options options = {.job = job, .folder = path, .attempt = 1, .nudge = "/nowhere"};
  struct ls_train_result result;
  assert_int_equal(ls_event_log_open(log_path, &log, &err), LS_OK);
  int files = open_files();
  assert_int_equal(ls_train(&options, &result, &err), LS_UNAVAILABLE);
  assert_int_equal(result.exit, LS_EXIT_INTERRUPTED);
  assert_int_equal(open_files(), files);
  ls_event_log_close(log);
  int outcome = -1;
  uint64_t offset = 0;
  ls_fail(&err, LS_INVALID, "job.json is no job");
  options.job = NULL;
  assert_int_equal(ls_train_refused(&options, &err), LS_EXIT_FAILED);
  assert_int_equal(ls_event_log_read(log_path, &offset, keep_outcome, &outcome, &err), LS_OK);
  assert_int_equal(outcome, LOCKSTEP__V1__OUTCOME__KIND__FAILED);
  lockstep__v1__job__free_unpacked(job, NULL);
  free(log_path);
  free(path);
}

static void test_bench(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = small_job(NULL);
  struct ls_bench_options options = {.network = job->network, .batch = 16, .steps = 3, .devices = 2, .shards = 4};
  struct ls_bench_result two, one, inference;
  if (ls_bench(&options, &two, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(two.workers, 2);
  assert_int_equal(two.shards, 4);
  assert_true(two.images_per_s > 0 && two.step_ms >= two.step_ms_low && two.step_ms <= two.step_ms_high);
  options.devices = 1;
  assert_int_equal(ls_bench(&options, &one, &err), LS_OK);
  assert_string_equal(one.parameters_sha256, two.parameters_sha256);
  options.inference = true;
  assert_int_equal(ls_bench(&options, &inference, &err), LS_OK);
  assert_string_equal(inference.parameters_sha256, "");
  options.shards = 3;
  assert_int_equal(ls_bench(&options, &one, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "3 shards"));
  lockstep__v1__job__free_unpacked(job, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_training), cmocka_unit_test(test_stop_and_resume),
                                     cmocka_unit_test(test_model_at_work), cmocka_unit_test(test_bench),
                                     cmocka_unit_test(test_no_start)};
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
