// One job: see job.h.
#include "daemon/job.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "spec/event_log.h"

struct job *job_new(uint64_t id, const char *folder_of_jobs, Lockstep__V1__Job *spec) {
  struct job *job = calloc(1, sizeof *job);
  if (!job) return NULL;
  job->id = id;
  snprintf(job->id_text, sizeof job->id_text, "%" PRIu64, id);
  job->spec = spec;
  job->name = strdup(spec->name ? spec->name : "");
  job->user = strdup("");
  job->reason = strdup("");
  job->outcome_reason = strdup("");
  job->folder = ls_path_join(folder_of_jobs, job->id_text);
  job->log = job->folder ? ls_path_join(job->folder, "events.log") : NULL;
  job->validation_accuracy = NAN;
  job->exit_status = job->failed_device = -1;
  job->history_stride = 1;
  lockstep__v1__step_report__init(&job->last);
  if (job->name && job->user && job->reason && job->outcome_reason && job->log) return job;
  job->spec = NULL;
  job_free(job);
  return NULL;
}

void job_free(struct job *job) {
  if (!job) return;
  for (size_t i = 0; i < job->checkpoint_count; i++)
    lockstep__v1__checkpoint_report__free_unpacked(job->checkpoints[i], NULL);
  if (job->spec) lockstep__v1__job__free_unpacked(job->spec, NULL);
  free(job->checkpoints);
  free(job->history);
  free(job->evaluations);
  free(job->name);
  free(job->user);
  free(job->request_key);
  free(job->reason);
  free(job->outcome_reason);
  free(job->folder);
  free(job->log);
  free(job);
}

bool job_ended(const struct job *job) {
  return job->state == LOCKSTEP__V1__JOB_STATE__SUCCEEDED || job->state == LOCKSTEP__V1__JOB_STATE__FAILED ||
         job->state == LOCKSTEP__V1__JOB_STATE__CANCELLED;
}

bool job_running(const struct job *job) {
  return job->state == LOCKSTEP__V1__JOB_STATE__STARTING || job->state == LOCKSTEP__V1__JOB_STATE__RUNNING;
}

static void replace(char **text, const char *with) {
  char *copy = strdup(with ? with : "");
  if (!copy) return;
  free(*text);
  *text = copy;
}

unsigned job_device_count(const struct job *job) {
  return (unsigned)(__builtin_popcountll(job->device_mask) + __builtin_popcountll(job->gpu_mask));
}

void job_set_reason(struct job *job, const char *format, ...) {
  char text[LS_ERROR_TEXT_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  replace(&job->reason, text);
}

const char *job_state_name(Lockstep__V1__JobState state) {
  switch (state) {
    case LOCKSTEP__V1__JOB_STATE__QUEUED: return "queued";
    case LOCKSTEP__V1__JOB_STATE__STARTING: return "starting";
    case LOCKSTEP__V1__JOB_STATE__RUNNING: return "running";
    case LOCKSTEP__V1__JOB_STATE__PAUSED: return "paused";
    case LOCKSTEP__V1__JOB_STATE__SUCCEEDED: return "succeeded";
    case LOCKSTEP__V1__JOB_STATE__FAILED: return "failed";
    case LOCKSTEP__V1__JOB_STATE__CANCELLED: return "cancelled";
    default: return "unknown";
  }
}

void job_begin_attempt(struct job *job) {
  job->outcome = LOCKSTEP__V1__OUTCOME__KIND__KIND_UNSPECIFIED;
  replace(&job->outcome_reason, "");
  job->checkpointed = job->log_damaged = false;
  job->exit_status = job->failed_device = -1;
  job->kill_at_us = 0;
  lockstep__v1__step_report__init(&job->last);
}

// --- the event log ------------------------------------------------------------------------------------------------------

static void add_history(struct job *job, int64_t time_us, const Lockstep__V1__StepReport *step) {
  if (job->history_seen++ % job->history_stride != 0) return;
  if (!job->history) job->history = calloc(LS_JOB_HISTORY, sizeof *job->history);
  if (!job->history) return;
  if (job->history_count == LS_JOB_HISTORY) {
    for (size_t i = 0; i < LS_JOB_HISTORY / 2; i++) job->history[i] = job->history[2 * i];
    job->history_count = LS_JOB_HISTORY / 2;
    job->history_stride *= 2;
  }
  job->history[job->history_count++] = (struct history_point){time_us, *step};
}

static void add_evaluation(struct job *job, int64_t time_us, const Lockstep__V1__EvaluationReport *evaluation) {
  struct evaluation_point *grown = realloc(job->evaluations, (job->evaluation_count + 1) * sizeof *job->evaluations);
  if (!grown) return;
  job->evaluations = grown;
  job->evaluations[job->evaluation_count++] = (struct evaluation_point){time_us, *evaluation};
}

static void forget_checkpoint(struct job *job, size_t index) {
  lockstep__v1__checkpoint_report__free_unpacked(job->checkpoints[index], NULL);
  job->checkpoint_count--;
  memmove(&job->checkpoints[index], &job->checkpoints[index + 1],
          (job->checkpoint_count - index) * sizeof *job->checkpoints);
}

static void add_checkpoint(struct job *job, const Lockstep__V1__CheckpointReport *checkpoint) {
  Lockstep__V1__CheckpointReport **grown =
      realloc(job->checkpoints, (job->checkpoint_count + 1) * sizeof *job->checkpoints);
  Lockstep__V1__CheckpointReport *copy = malloc(sizeof *copy);
  if (grown) job->checkpoints = grown;
  if (copy) {
    *copy = *checkpoint;
    copy->file = strdup(checkpoint->file);
  }
  if (!grown || !copy || !copy->file) {
    free(copy);
    return;
  }
  // After a resume the same step can be written again.
  for (size_t i = 0; i < job->checkpoint_count; i++) {
    if (strcmp(job->checkpoints[i]->file, copy->file) == 0) forget_checkpoint(job, i--);
  }
  job->checkpoints[job->checkpoint_count++] = copy;
  while (job->checkpoint_count > job->spec->checkpoint->keep) forget_checkpoint(job, 0);  // as the coordinator does
}

static void on_outcome(struct job *job, const Lockstep__V1__Outcome *outcome) {
  job->outcome = outcome->kind;
  replace(&job->outcome_reason, outcome->reason);
  job->step = outcome->step;
  snprintf(job->sha256, sizeof job->sha256, "%s", outcome->parameters_sha256);
  if (outcome->has_test_accuracy) job->validation_accuracy = outcome->test_accuracy;
  if (outcome->has_failed_device && outcome->failed_device < LS_MAX_DEVICES)
    job->failed_device = (int)outcome->failed_device;
}

static bool on_event(void *user, const Lockstep__V1__Event *event) {
  struct job *job = user;
  bool current = event->attempt == job->attempt;
  switch (event->kind_case) {
    case LOCKSTEP__V1__EVENT__KIND_STARTED:
      job->step = event->started->step;
      job->total_steps = event->started->total_steps;
      job->workers = event->started->workers;
      job->shards = event->started->shards;
      if (current && job->state == LOCKSTEP__V1__JOB_STATE__STARTING) {
        job->state = LOCKSTEP__V1__JOB_STATE__RUNNING;
        replace(&job->reason, "");
      }
      break;
    case LOCKSTEP__V1__EVENT__KIND_STEP:
      job->step = event->step->step;
      job->last = *event->step;
      add_history(job, event->time_us, event->step);
      break;
    case LOCKSTEP__V1__EVENT__KIND_EVALUATION:
      job->validation_accuracy = event->evaluation->accuracy;
      add_evaluation(job, event->time_us, event->evaluation);
      break;
    case LOCKSTEP__V1__EVENT__KIND_CHECKPOINT:
      if (current) job->checkpointed = true;
      add_checkpoint(job, event->checkpoint);
      break;
    case LOCKSTEP__V1__EVENT__KIND_OUTCOME:
      if (current) on_outcome(job, event->outcome);
      break;
    default: break;
  }
  return true;
}

bool job_read_log(struct job *job, struct ls_error *err) {
  if (job->log_damaged) return false;
  uint64_t before = job->log_offset;
  struct ls_error own = LS_ERROR_INIT;
  if (ls_event_log_read(job->log, &job->log_offset, on_event, job, &own) == LS_CORRUPT) {
    // No attempt could go on from it, and nothing that happened since is known.
    job->log_damaged = true;
    job->outcome = LOCKSTEP__V1__OUTCOME__KIND__FAILED;
    replace(&job->outcome_reason, own.text);
  }
  if (own.status != LS_OK && err) *err = own;
  return job->log_offset != before;
}

// --- as a message -------------------------------------------------------------------------------------------------------

static void fill_checkpoints(const struct job *job, struct job_info *info) {
  info->checkpoints = calloc(job->checkpoint_count + 1, sizeof *info->checkpoints);
  for (size_t i = 0; info->checkpoints && i < job->checkpoint_count; i++) {
    if (access(job->checkpoints[i]->file, F_OK) == 0)
      info->checkpoints[info->message.n_checkpoints++] = job->checkpoints[i];
  }
  info->message.checkpoints = info->checkpoints;
}

static void add_devices(struct job_info *info, const char *kind, uint64_t mask) {
  for (unsigned i = 0; i < LS_MAX_DEVICES; i++) {
    if (!(mask >> i & 1)) continue;
    size_t at = info->message.n_devices++;
    snprintf(info->device_names[at], sizeof info->device_names[at], "%s%u", kind, i);
    info->devices[at] = info->device_names[at];
  }
}

void job_info_fill(const struct job *job, bool include_job, struct job_info *info) {
  memset(info, 0, sizeof *info);
  Lockstep__V1__JobInfo *m = &info->message;
  lockstep__v1__job_info__init(m);
  m->id = (char *)(uintptr_t)job->id_text;
  m->name = job->name;
  m->state = job->state;
  m->reason = job->reason;
  m->submitted_us = job->submitted_us;
  m->started_us = job->started_us;
  m->ended_us = job->ended_us;
  m->attempt = job->attempt;
  m->max_attempts = job->spec->retry ? job->spec->retry->attempts + 1 : 1;
  m->step = job->step;
  m->total_steps = job->total_steps;
  m->epoch = job->last.epoch;
  m->loss = job->last.loss;
  m->accuracy = job->last.accuracy;
  m->has_validation_accuracy = isfinite(job->validation_accuracy);
  m->validation_accuracy = m->has_validation_accuracy ? job->validation_accuracy : 0;
  m->learning_rate = job->last.learning_rate;
  if (job_running(job)) {
    m->images_per_s = job->last.images_per_s;
    m->input_wait = job->last.input_wait;
    m->eta_s = job->last.eta_s;
  }
  add_devices(info, "gpu", job->gpu_mask);
  add_devices(info, "cpu", job->device_mask);
  m->devices = info->devices;
  m->workers = job->workers;
  m->shards = job->shards ? job->shards : job->spec->shards;
  m->parameters_sha256 = (char *)(uintptr_t)job->sha256;
  m->folder = job->folder;
  m->pid = job->pid;
  m->user = job->user;
  if (include_job) m->job = job->spec;
  fill_checkpoints(job, info);
}

void job_info_release(struct job_info *info) { free(info->checkpoints); }
