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
#include "worker/trainer.h"

struct seen {
  atomic_int inside;  // callers of the callback at the same time
  int kinds[32];
  int events, overlaps;
  uint64_t stop_at;
  atomic_bool *stop;
  uint64_t started_at;  // step
  char note[600];       // the last warning
  char reason[600];     // of the outcome
};

static void on_event(void *user, const Lockstep__V1__Event *event) {
  struct seen *seen = user;
  if (atomic_fetch_add(&seen->inside, 1) != 0) seen->overlaps++;
  seen->events++;
  seen->kinds[event->kind_case]++;
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_CHECKPOINT && seen->stop &&
      event->checkpoint->step >= seen->stop_at)
    atomic_store(seen->stop, true);
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_STARTED) seen->started_at = event->started->step;
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_NOTE && event->note->level == LOCKSTEP__V1__NOTE__LEVEL__WARNING)
    snprintf(seen->note, sizeof seen->note, "%s", event->note->text);
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_OUTCOME)
    snprintf(seen->reason, sizeof seen->reason, "%s", event->outcome->reason);
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

// Flips a byte in the middle of checkpoint `which` of a folder, newest first; false: there is none.
static bool damage(const char *name, int which) {
  struct ls_error err = LS_ERROR_INIT;
  uint64_t *steps;
  int count;
  char *folder = small_path(name), *text;
  size_t size;
  assert_int_equal(ls_checkpoint_list(folder, &steps, &count, &err), LS_OK);
  bool there = which < count;
  if (there) {
    char *path = ls_checkpoint_path(folder, steps[which]);
    assert_int_equal(ls_file_read(path, 1 << 24, &text, &size, &err), LS_OK);
    text[size / 2] ^= 1;
    assert_int_equal(ls_file_write_atomic(path, text, size, &err), LS_OK);
    free(text);
    free(path);
  }
  free(steps);
  free(folder);
  return there;
}

// The newest checkpoint that is whole is used, whatever else lies in the folder; without any, training starts anew and says so.
static void test_damaged_checkpoints(void **state) {
  (void)state;
  struct ls_train_result whole, rest;
  struct seen nothing = {0};
  assert_int_equal(train("undamaged", 2, 1, &nothing, &whole), LS_EXIT_OK);
  for (int all = 0; all < 2; all++) {
    const char *folder = all ? "all-damaged" : "one-damaged",
               *checkpoints = all ? "all-damaged/checkpoints" : "one-damaged/checkpoints";
    atomic_bool stop = false;
    struct seen first = {.stop = &stop, .stop_at = 6}, again = {0};
    assert_int_equal(train(folder, 2, 1, &first, &rest), LS_EXIT_STOPPED);
    char stray[64], *path;
    snprintf(stray, sizeof stray, "%s/step-99.h5", checkpoints);
    path = small_path(stray);
    assert_int_equal(ls_file_write_atomic(path, "x", 1, NULL), LS_OK);
    free(path);
    int damaged = 0;
    while (damaged < (all ? 9 : 1) && damage(checkpoints, damaged)) damaged++;
    assert_int_equal(damaged, all ? 2 : 1);
    assert_int_equal(train(folder, 2, 2, &again, &rest), LS_EXIT_OK);
    assert_int_equal(again.started_at > 0, !all);
    if (!strstr(again.note, all ? "there is no other: training starts anew, at step 0" : "the one before it is used"))
      fail_msg("%s", again.note);
    assert_string_equal(again.reason, "");
    assert_string_equal(rest.parameters_sha256, whole.parameters_sha256);
  }
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

// The small job's network in a checkpoint of its own: all parameters `value`, except that running variances are 1; with so
// many numbers in data.mean and data.deviation.
static char *constant_model(const char *name, float value, size_t numbers) {
  static float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = small_job(NULL);
  struct ls_graph *graph;
  struct ls_snapshot *snapshot;
  if (ls_graph_build(job->network, &graph, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(ls_snapshot_new(graph, &snapshot, &err), LS_OK);
  for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
    const struct ls_parameter *p = ls_graph_parameter(graph, i);
    for (int64_t j = 0; j < ls_shape_elements(&p->shape); j++)
      snapshot->parameters[i][j] = p->kind == LS_PARAMETER_RUNNING_VARIANCE ? 1 : value;
  }
  job->data->mean = job->data->deviation = ones;
  job->data->n_mean = job->data->n_deviation = numbers;
  struct ls_string json = LS_STRING_INIT;
  assert_int_equal(ls_spec_write_json(&job->base, 2, &json), LS_OK);
  job->data->mean = job->data->deviation = NULL;  // the job's own has none
  job->data->n_mean = job->data->n_deviation = 0;
  char *text = ls_string_take(&json), *path = small_path(name);
  uint64_t bytes;
  if (ls_checkpoint_write(snapshot, text, path, &bytes, &err) != LS_OK) fail_msg("%s", err.text);
  free(text);
  ls_snapshot_free(snapshot);
  ls_graph_free(graph);
  lockstep__v1__job__free_unpacked(job, NULL);
  return path;
}

// Where all classes are equal, the lowest one wins, with one view of a sample as with ten; where probabilities are no
// numbers, all is wrong.
static void test_equal_classes(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  char *zero = constant_model("zero.h5", 0, 0), *nothing = constant_model("nan.h5", NAN, 0);
  for (int ten = 0; ten < 2; ten++) {
    struct ls_evaluate_result result;
    struct ls_evaluate_options options = {.model = zero, .devices = 2, .ten_crop = ten};
    if (ls_evaluate(&options, &result, &err) != LS_OK) fail_msg("%s", err.text);
    assert_int_equal(result.images, TEST);
    assert_true(result.accuracy == 1.0 / CLASSES && result.top5 == 1);
    assert_true(fabs(result.loss - log(CLASSES)) < 1e-6);
    options.model = nothing;
    if (ls_evaluate(&options, &result, &err) != LS_OK) fail_msg("%s", err.text);
    if (result.accuracy != 0 || !isnan(result.loss)) fail_msg("%g %g", result.accuracy, result.loss);
  }
  free(zero);
  free(nothing);
}

// A checkpoint whose job does not fit its network is refused, not read beyond its numbers.
static void test_crafted_job(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  char *model = constant_model("crafted.h5", 0, 3);
  struct ls_evaluate_result result;
  assert_int_equal(ls_evaluate(&(struct ls_evaluate_options){.model = model}, &result, &err), LS_INVALID);
  if (!strstr(err.text, "has 3 numbers, the images have 1 channels")) fail_msg("%s", err.text);
  uint8_t pixels[SIDE * SIDE] = {0};
  struct ls_predict_image image = {pixels, SIDE, SIDE, 1};
  struct ls_prediction prediction;
  err = (struct ls_error)LS_ERROR_INIT;
  assert_int_equal(ls_predict(&(struct ls_predict_options){.model = model}, &image, 1, &prediction, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "'data.mean' has 3 numbers"));
  free(model);
}

// An evaluation that cannot begin leaves the training as it was: its loader, and what it makes of pixels.
static void test_failed_evaluation(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = small_job(NULL);
  struct trainer_options options = {
      .network = job->network, .batch = 16, .shards = 4, .workers = 2, .evaluation = true};
  struct trainer *t;
  struct ls_dataset *dataset;
  struct ls_loader_options loader;
  if (trainer_new(&options, job, &t, &err) != LS_OK) fail_msg("%s", err.text);
  if (model_initialise(t, 1, &err) != LS_OK) fail_msg("%s", err.text);
  if (ls_dataset_open(job->data->validation, NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(trainer_loader_options(t, job, ls_dataset_info(dataset), &loader, &err), LS_OK);
  loader.dataset = dataset;
  assert_int_equal(trainer_loader_new(t, &loader, &t->loader, &err), LS_OK);
  struct ls_loader *training = t->loader;
  const struct normalisation before = t->normalisation;
  struct ls_loader_options too_large = loader;
  const float mean[] = {77};
  too_large.crop_height = SIDE + 1;
  too_large.ten_crop = true;
  too_large.mean = mean;
  assert_int_equal(trainer_evaluate(t, dataset, &too_large, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "does not fit"));
  assert_ptr_equal(t->loader, training);
  assert_null(t->view_sums);
  assert_null(t->view_labels);
  assert_memory_equal(&t->normalisation, &before, sizeof before);
  loader.training = false;
  if (trainer_evaluate(t, dataset, &loader, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(t->evaluation[LS_METRIC_IMAGES] == TEST);
  assert_ptr_equal(t->loader, training);
  ls_loader_free(t->loader);
  trainer_free(t);
  ls_dataset_close(dataset);
  lockstep__v1__job__free_unpacked(job, NULL);
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_training),
                                     cmocka_unit_test(test_stop_and_resume),
                                     cmocka_unit_test(test_model_at_work),
                                     cmocka_unit_test(test_no_start),
                                     cmocka_unit_test(test_damaged_checkpoints),
                                     cmocka_unit_test(test_equal_classes),
                                     cmocka_unit_test(test_crafted_job),
                                     cmocka_unit_test(test_failed_evaluation),
                                     cmocka_unit_test(test_bench)};
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
