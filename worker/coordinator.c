// A job from start to end: see coordinator.h for the contract, trainer.h for the parts.
//
//   open log, data, network ─ newest good checkpoint, or initial values ─┐
//   ┌────────────────────────────────────────────────────────────────────┘
//   └▶ train up to the next stop (epoch's end, checkpoint, request) ─▶ evaluate ─▶ snapshot ─▶ writer thread ─┐
//   ▲                                                                                                        │
//   └────────────────────────────────────────────────────────────────────────────────────────────────────────┘
// Threads: the caller's (all of this file but after_step), the workers (after_step runs in worker 0), the checkpoint
// writer (saving.c), the loader's readers.
#include "worker/coordinator.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "spec/spec.h"
#include "worker/device.h"
#include "worker/run.h"

enum { REPORT_NS = 1000000000, LEAVE_AFTER_S = 10 };

double run_epoch_of(const struct run *r, uint64_t step) { return (double)step / r->steps_per_epoch; }

// The first step at whose end `count` epochs' samples were seen.
static uint64_t step_of_epoch(const struct run *r, double count) {
  return (uint64_t)ceil(count * r->steps_per_epoch - 1e-9);
}

// The next step after `step` at which something that happens `every` so often is due.
static uint64_t next_due(const struct run *r, const struct ls_every *every, uint64_t step) {
  if (every->unit == LS_EVERY_STEPS) return (step / (uint64_t)every->count + 1) * (uint64_t)every->count;
  if (every->unit != LS_EVERY_EPOCHS) return UINT64_MAX;
  for (uint64_t n = (uint64_t)floor(run_epoch_of(r, step) / every->count);; n++) {
    uint64_t due = step_of_epoch(r, (double)n * every->count);
    if (due > step) return due;
  }
}

static void set_learning_rate(struct run *r) {
  const Lockstep__V1__Sgd *sgd = r->job->optimizer->sgd;
  double factor =
      ls_schedule_factor(r->job->schedule, &r->schedule, r->trainer->step, r->total_steps, r->steps_per_epoch);
  r->trainer->sgd = (struct ls_sgd){(float)(sgd->learning_rate * factor), (float)sgd->momentum,
                                    (float)sgd->weight_decay, sgd->nesterov};
}

// Says once what holds the job up, when it is its input over ten seconds.
static void explain_input(struct run *r, int64_t now, double wait_s) {
  enum { OVER_S = 10 };
  struct ls_loader_stats stats;
  char text[320];
  if (r->input_told) return;
  r->input_wait_s += wait_s;
  if (!r->input_since_ns) r->input_since_ns = r->report_ns;
  double seconds = (double)(now - r->input_since_ns) * 1e-9;
  if (seconds < OVER_S) return;
  ls_loader_stats(r->trainer->loader, &stats);
  if (ls_loader_explain(&r->input_stats, &stats, r->input_wait_s / (seconds * r->trainer->workers), text,
                        sizeof text)) {
    report_note(&r->report, LOCKSTEP__V1__NOTE__LEVEL__WARNING, "%s", text);
    r->input_told = true;
  }
  r->input_stats = stats;
  r->input_since_ns = now;
  r->input_wait_s = 0;
}

// Since the last report. A wait counts when it ends, so a reader that still waits makes it too small, never too large.
static double reader_wait(struct run *r) {
  struct ls_loader_stats stats, *before = &r->report_stats;
  ls_loader_stats(r->trainer->loader, &stats);
  double wait_s = stats.reader_wait_s - before->reader_wait_s;
  double busy_s = stats.reader_busy_s - before->reader_busy_s;
  *before = stats;
  return wait_s + busy_s > 0 ? wait_s / (wait_s + busy_s) : 0;
}

static void report_step(struct run *r, int64_t now) {
  struct trainer *t = r->trainer;
  uint64_t steps = t->step - r->report_step;
  double seconds = (double)(now - r->report_ns) * 1e-9;
  if (steps == 0 || seconds <= 0) return;
  int64_t wait_ns = 0;
  for (int i = 0; i < t->workers; i++) wait_ns += __atomic_exchange_n(&t->worker[i].wait_ns, 0, __ATOMIC_RELAXED);
  Lockstep__V1__StepReport step = LOCKSTEP__V1__STEP_REPORT__INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  step.step = t->step;
  step.epoch = run_epoch_of(r, t->step);
  step.loss = r->sums[LS_METRIC_LOSS] / r->sums[LS_METRIC_IMAGES];
  step.accuracy = r->sums[LS_METRIC_TOP1] / r->sums[LS_METRIC_IMAGES];
  step.learning_rate = t->sgd.learning_rate;
  step.images_per_s = (double)steps * (double)t->batch / seconds;
  step.step_ms = seconds * 1000 / (double)steps;
  step.input_wait = fmin(1, (double)wait_ns * 1e-9 / (seconds * t->workers));
  step.reader_wait = reader_wait(r);
  step.eta_s = (double)(r->total_steps - t->step) * seconds / (double)steps;
  step.peak_rss_bytes = peak_rss_bytes();
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_STEP;
  event.step = &step;
  report_event(&r->report, &event, false);
  explain_input(r, now, (double)wait_ns * 1e-9);
  memset(r->sums, 0, sizeof r->sums);
  r->report_step = t->step;
  r->report_ns = now;
}

// In worker 0, alone, between the barriers of every step.
static bool after_step(void *user, struct trainer *t) {
  struct run *r = user;
  for (int i = 0; i < LS_METRICS; i++) r->sums[i] += t->metrics[i];
  r->schedule.epoch_loss += t->metrics[LS_METRIC_LOSS];
  r->schedule.epoch_images += t->metrics[LS_METRIC_IMAGES];
  t->step++;
  if (!isfinite(t->metrics[LS_METRIC_LOSS])) {
    r->diverged = t->metrics[LS_METRIC_LOSS];
    return false;
  }
  int64_t now = ls_clock_ns();
  bool due =
      t->step >= t->target_step || (r->options->stop && atomic_load_explicit(r->options->stop, memory_order_relaxed));
  bool timed = r->checkpoint_every.unit == LS_EVERY_SECONDS &&
               (double)(now - r->last_checkpoint_ns) * 1e-9 >= r->checkpoint_every.count;
  if (now - r->report_ns >= REPORT_NS || due || timed) report_step(r, now);
  set_learning_rate(r);
  return !due && !timed && report_status(&r->report, NULL) == LS_OK;
}

// --- set-up -------------------------------------------------------------------------------------------------------------

static ls_status open_data(struct run *r, struct ls_error *err) {
  const Lockstep__V1__Data *d = r->job->data;
  struct ls_shape in = ls_graph_input_shape(r->trainer->graph);
  int64_t classes = ls_graph_classes(r->trainer->graph);
  LS_TRY(ls_dataset_open(d->train, d->images, d->labels, &r->training_data, err));
  int64_t pad = 0;
  for (size_t i = 0; i < r->job->n_augment; i++) {
    if (r->job->augment[i]->kind_case == LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP)
      pad = r->job->augment[i]->random_crop->pad;
  }
  LS_TRY(ls_dataset_check_fits(r->training_data, in.dim[0], in.dim[1] - 2 * pad, in.dim[2] - 2 * pad, classes, err));
  if (d->validation && *d->validation) {
    LS_TRY(ls_dataset_open(d->validation, d->images, d->labels, &r->validation_data, err));
    LS_TRY(ls_dataset_check_fits(r->validation_data, in.dim[0], in.dim[1], in.dim[2], classes, err));
  }
  const struct ls_dataset_info *info = ls_dataset_info(r->training_data);
  r->samples = (uint64_t)info->count;
  r->steps_per_epoch = (double)r->samples / (double)r->job->batch_size;
  r->total_steps = r->job->has_steps ? r->job->steps : step_of_epoch(r, r->job->epochs);
  LS_TRY(trainer_loader_options(r->trainer, r->job, info, &r->loader_options, err));
  r->loader_options.dataset = r->training_data;
  return LS_OK;
}

// The job as checkpoints carry it: with the mean and deviation that were used, so that a model can be applied where its
// training data are not.
static char *job_text(const struct run *r) {
  Lockstep__V1__Job job = *r->job;
  Lockstep__V1__Data data = *r->job->data;
  size_t channels = (size_t)ls_graph_input_shape(r->trainer->graph).dim[0];
  job.data = &data;
  if (r->loader_options.mean && data.n_mean == 0) {
    data.n_mean = channels;
    data.mean = (float *)(uintptr_t)r->loader_options.mean;
  }
  if (r->loader_options.deviation && data.n_deviation == 0) {
    data.n_deviation = channels;
    data.deviation = (float *)(uintptr_t)r->loader_options.deviation;
  }
  struct ls_string json = LS_STRING_INIT;
  if (ls_spec_write_json(&job.base, 2, &json) == LS_OK) return ls_string_take(&json);
  ls_string_release(&json);
  return NULL;
}

static ls_status prepare(struct run *r, struct ls_error *err) {
  struct trainer_options options = {.ops = r->options->backend,
                                    .devices = (int)r->options->backend_devices,
                                    .transport = r->options->transport,
                                    .patience_ns = r->options->patience_ns,
                                    .buckets = r->options->buckets};
  int workers;
  Lockstep__V1__DeviceKind kind = r->options->kind ? r->options->kind : r->job->devices->kind;
  if (!options.ops) LS_TRY(trainer_backend(kind, &options.ops, &options.devices, err));
  LS_TRY(trainer_check_precision(r->job->precision, options.devices, err));
  options.precision = r->job->precision;
  unsigned wanted = r->options->devices ? r->options->devices : r->job->devices->has_count ? r->job->devices->count : 0;
  LS_TRY(trainer_worker_count(wanted, r->job->devices->oversubscribe, (int)r->job->shards, options.devices, &workers,
                              err));
  options.network = r->job->network;
  options.batch = r->job->batch_size;
  options.shards = (int)r->job->shards;
  options.workers = workers;
  options.training = true;
  options.evaluation = r->job->data->validation && *r->job->data->validation;
  options.fast = r->job->reduce == LOCKSTEP__V1__REDUCE__REDUCE_FAST;
  LS_TRY(trainer_check_memory(&options, err));
  char *record = ls_path_join(r->options->folder, "choices"), *cache = options.devices ? trainer_choice_cache() : NULL;
  options.record = record;
  options.cache = cache;
  ls_status status = trainer_new(&options, r->job, &r->trainer, err);
  free(record);
  free(cache);
  if (status != LS_OK) {
    trainer_explain_memory(&options, err);
    return status;
  }
  r->trainer->after_step = after_step;
  r->trainer->user = r;
  LS_TRY(open_data(r, err));
  LS_TRY(ls_spec_parse_every(r->job->checkpoint->every, &r->checkpoint_every, err));
  LS_TRY(ls_spec_parse_every(r->job->evaluation->every, &r->evaluation_every, err));
  r->checkpoints = ls_path_join(r->options->folder, "checkpoints");
  r->job_json = job_text(r);
  if (!r->checkpoints || !r->job_json) return ls_fail(err, LS_NO_MEMORY, "no memory to start");
  LS_TRY(ls_folder_make(r->checkpoints, 0750, err));
  // Better to learn now than after an hour that nothing can be saved here.
  if (access(r->checkpoints, W_OK) != 0)
    return ls_fail(err, LS_IO, "folder '%s' may not be written, so no checkpoint could be saved", r->checkpoints);
  return ls_snapshot_new(r->trainer->graph, &r->snapshot, err);
}

static void report_started(struct run *r, const char *checkpoint) {
  Lockstep__V1__Started started = LOCKSTEP__V1__STARTED__INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  struct ls_device_info info[LS_MAX_WORKERS];
  char *names[LS_MAX_WORKERS];
  int count = 0;
  r->trainer->ops->devices(info, LS_MAX_WORKERS, &count, NULL);
  started.n_devices = (size_t)(count < r->trainer->workers ? count : r->trainer->workers);
  for (size_t i = 0; i < started.n_devices; i++) names[i] = info[i].name;
  started.devices = names;
  started.step = r->trainer->step;
  started.checkpoint = (char *)(uintptr_t)(checkpoint ? checkpoint : "");
  started.total_steps = r->total_steps;
  started.workers = (uint32_t)r->trainer->workers;
  started.shards = (uint32_t)r->trainer->shards;
  started.samples_per_epoch = r->samples;
  for (int i = 0; i < ls_graph_layer_count(r->trainer->graph); i++) {
    struct ls_layer_summary summary;
    ls_graph_layer_summary(r->trainer->graph, i, &summary);
    started.parameters += (uint64_t)summary.parameters;
  }
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_STARTED;
  event.started = &started;
  report_event(&r->report, &event, true);
}

// --- the loop -----------------------------------------------------------------------------------------------------------

static ls_status evaluate(struct run *r, struct ls_error *err) {
  struct trainer *t = r->trainer;
  int64_t start = ls_clock_ns();
  LS_TRY(trainer_evaluate(t, r->validation_data, &r->loader_options, err));
  double images = t->evaluation[LS_METRIC_IMAGES];
  Lockstep__V1__EvaluationReport report = LOCKSTEP__V1__EVALUATION_REPORT__INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  report.step = t->step;
  report.epoch = run_epoch_of(r, t->step);
  report.loss = t->evaluation[LS_METRIC_LOSS] / images;
  report.accuracy = r->last_accuracy = t->evaluation[LS_METRIC_TOP1] / images;
  report.top5 = t->evaluation[LS_METRIC_TOP5] / images;
  report.images = (uint64_t)images;
  report.images_per_s = images / ((double)(ls_clock_ns() - start) * 1e-9);
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_EVALUATION;
  event.evaluation = &report;
  report_event(&r->report, &event, false);
  return LS_OK;
}

static ls_status diverged(struct run *r, struct ls_error *err) {
  return ls_fail(err, LS_DIVERGED,
                 "the loss became %s at step %" PRIu64
                 " (epoch %.2f), with learning rate %g; a lower one, or a longer warm-up, usually helps",
                 isnan(r->diverged) ? "NaN" : "infinite", r->trainer->step, run_epoch_of(r, r->trainer->step),
                 (double)r->trainer->sgd.learning_rate);
}

// Trains up to the next thing that is due.
static ls_status train_on(struct run *r, struct ls_error *err) {
  struct trainer *t = r->trainer;
  uint64_t next_epoch = step_of_epoch(r, floor(run_epoch_of(r, t->step) + 1e-9) + 1);
  if (next_epoch <= t->step) next_epoch++;
  r->next_evaluation = r->validation_data ? next_due(r, &r->evaluation_every, t->step) : UINT64_MAX;
  r->next_checkpoint = next_due(r, &r->checkpoint_every, t->step);
  t->target_step = r->total_steps;
  uint64_t due[] = {next_epoch, r->next_evaluation, r->next_checkpoint};
  for (int i = 0; i < 3; i++) t->target_step = due[i] < t->target_step ? due[i] : t->target_step;
  r->report_ns = ls_clock_ns();
  r->report_step = t->step;
  set_learning_rate(r);
  LS_TRY(trainer_run(t, COMMAND_TRAIN, err));
  if (r->diverged != 0 || isnan(r->diverged)) return diverged(r, err);
  LS_TRY(report_status(&r->report, err));
  if (t->step >= r->next_evaluation || (t->step >= r->total_steps && r->validation_data)) LS_TRY(evaluate(r, err));
  if (t->step >= next_epoch) {
    double error = r->validation_data && isfinite(r->last_accuracy) ? 1 - r->last_accuracy
                                                                    : r->schedule.epoch_loss / r->schedule.epoch_images;
    if (ls_schedule_epoch(r->job->schedule, &r->schedule, error)) {
      report_note(&r->report, LOCKSTEP__V1__NOTE__LEVEL__INFO,
                  "no improvement: the learning rate is now %g times the first", r->schedule.factor);
    }
    r->schedule.epoch_loss = r->schedule.epoch_images = 0;
  }
  return LS_OK;
}

static bool stop_requested(const struct run *r) { return r->options->stop && atomic_load(r->options->stop); }

static ls_status train_all(struct run *r, bool *was_stopped, struct ls_error *err) {
  struct trainer *t = r->trainer;
  r->loader_options.first_batch = t->step;
  r->last_checkpoint_ns = ls_clock_ns();
  LS_TRY(trainer_loader_new(t, &r->loader_options, &t->loader, err));
  while (t->step < r->total_steps && !stop_requested(r)) {
    LS_TRY(train_on(r, err));
    bool timed = r->checkpoint_every.unit == LS_EVERY_SECONDS &&
                 (double)(ls_clock_ns() - r->last_checkpoint_ns) * 1e-9 >= r->checkpoint_every.count;
    if (t->step >= r->next_checkpoint || timed) LS_TRY(run_start_checkpoint(r, err));
  }
  *was_stopped = t->step < r->total_steps;
  // The last state is always saved: to go on from, or as the result.
  if (!r->writing || r->snapshot->step != t->step) LS_TRY(run_start_checkpoint(r, err));
  return run_finish_writing(r, err);
}

static enum ls_worker_exit exit_of(ls_status status) {
  switch (status) {
    case LS_OK: return LS_EXIT_OK;
    case LS_IO:
    case LS_NO_MEMORY:
    case LS_UNAVAILABLE:
    case LS_TIMEOUT:
    case LS_CANCELLED: return LS_EXIT_INTERRUPTED;
    default: return LS_EXIT_FAILED;
  }
}

// The device that failed; -1: it was something else. The host's cores do not fail alone.
static int failed_device(const struct trainer *t, const struct ls_error *error) {
  if (!t || t->devices == 0 || error->status != LS_UNAVAILABLE) return -1;
  int blamed = atomic_load(&t->watch.blamed);
  if (blamed >= 0) return device_of(t, blamed);
  for (int i = 0; i < t->workers; i++) {
    if (t->worker[i].error.status == LS_UNAVAILABLE) return device_of(t, i);
  }
  return -1;
}

static void report_outcome(struct run *r, struct ls_train_result *result, const struct ls_error *error) {
  static const Lockstep__V1__Outcome__Kind kinds[] = {LOCKSTEP__V1__OUTCOME__KIND__SUCCEEDED,
                                                      LOCKSTEP__V1__OUTCOME__KIND__FAILED};
  Lockstep__V1__Outcome outcome = LOCKSTEP__V1__OUTCOME__INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  bool interrupted = result->exit == LS_EXIT_INTERRUPTED || result->exit == LS_EXIT_DEVICE;
  outcome.kind = result->exit == LS_EXIT_STOPPED ? LOCKSTEP__V1__OUTCOME__KIND__STOPPED
                 : interrupted                   ? LOCKSTEP__V1__OUTCOME__KIND__INTERRUPTED
                                                 : kinds[result->exit == LS_EXIT_FAILED];
  outcome.has_failed_device = result->exit == LS_EXIT_DEVICE;
  outcome.failed_device = outcome.has_failed_device ? (uint32_t)failed_device(r->trainer, error) : 0;
  outcome.reason = (char *)(uintptr_t)(result->exit == LS_EXIT_STOPPED ? "stopped on request" : error->text);
  outcome.step = result->step;
  outcome.parameters_sha256 = result->parameters_sha256;
  outcome.has_test_accuracy = isfinite(result->test_accuracy);
  outcome.test_accuracy = outcome.has_test_accuracy ? result->test_accuracy : 0;
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_OUTCOME;
  event.outcome = &outcome;
  report_event(&r->report, &event, true);
}

static ls_status run_job(struct run *r, bool *was_stopped, struct ls_train_result *result, struct ls_error *err) {
  char *used = NULL;
  LS_TRY(prepare(r, err));
  ls_status status = run_resume(r, &used, err);
  if (status == LS_OK) report_started(r, used);
  free(used);
  if (status != LS_OK) return status;
  if (r->options->profile) LS_TRY(profile_new(r->options->profile, r->trainer->workers, &r->trainer->profile, err));
  for (int i = 0; r->trainer->profile && i < r->trainer->workers; i++) {
    struct worker *w = &r->trainer->worker[i];
    for (int j = 0; j < r->trainer->shards_each; j++) profile_attach(r->trainer->profile, w, w->bindings[j]);
  }
  LS_TRY(train_all(r, was_stopped, err));
  LS_TRY(ls_snapshot_sha256(r->snapshot, result->parameters_sha256, err));
  if (!*was_stopped) LS_TRY(run_save_final(r, err));
  return r->trainer->profile ? profile_finish(r->trainer->profile, err) : LS_OK;
}

// A device that failed may keep those waiting for good who give its memory back. The outcome is in the log by then: the
// process goes without.
struct guard {
  pthread_t thread;
  sem_t cleared;
  bool started;
};

static void *leave(void *argument) {
  struct guard *guard = argument;
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += LEAVE_AFTER_S;
  int failed;
  while ((failed = sem_timedwait(&guard->cleared, &end)) != 0 && errno == EINTR) continue;
  if (failed) _exit(LS_EXIT_DEVICE);
  return NULL;
}

static void guard_begin(struct guard *guard) {
  sem_init(&guard->cleared, 0, 0);
  guard->started = pthread_create(&guard->thread, NULL, leave, guard) == 0;
}

static void guard_end(struct guard *guard) {
  sem_post(&guard->cleared);
  if (guard->started) pthread_join(guard->thread, NULL);
  sem_destroy(&guard->cleared);
}

enum ls_worker_exit ls_train_refused(const struct ls_train_options *options, const struct ls_error *why) {
  struct run r = {.options = options};
  struct ls_train_result result = {.exit = exit_of(why->status), .test_accuracy = NAN};
  if (report_open(&r.report, options, NULL) != LS_OK) return result.exit;
  report_outcome(&r, &result, why);
  report_close(&r.report);
  return result.exit;
}

ls_status ls_train(const struct ls_train_options *options, struct ls_train_result *result, struct ls_error *err) {
  struct ls_error own = LS_ERROR_INIT;
  if (!err) err = &own;
  *result = (struct ls_train_result){.exit = LS_EXIT_FAILED, .test_accuracy = NAN};
  struct run r = {.options = options, .job = options->job, .last_accuracy = NAN};
  ls_schedule_begin(&r.schedule);
  ls_status status = report_open(&r.report, options, err);
  if (status != LS_OK) {
    result->exit = exit_of(status);
    return status;
  }
  bool was_stopped = false;
  status = run_job(&r, &was_stopped, result, err);
  run_finish_writing(&r, NULL);
  result->exit = status == LS_OK && was_stopped                          ? LS_EXIT_STOPPED
                 : status != LS_OK && failed_device(r.trainer, err) >= 0 ? LS_EXIT_DEVICE
                                                                         : exit_of(status);
  result->step = r.trainer ? r.trainer->step : 0;
  result->test_accuracy = r.last_accuracy;
  report_outcome(&r, result, err);
  struct guard guard;
  if (result->exit == LS_EXIT_DEVICE) guard_begin(&guard);
  ls_snapshot_free(r.snapshot);  // speaks of the trainer's graph
  if (r.trainer) ls_loader_free(r.trainer->loader);
  trainer_free(r.trainer);
  ls_dataset_close(r.training_data);
  ls_dataset_close(r.validation_data);
  free(r.checkpoints);
  free(r.job_json);
  report_close(&r.report);
  if (result->exit == LS_EXIT_DEVICE) guard_end(&guard);
  return status;
}
