// Checkpoints of a job: taken between two commands, written by a thread of their own (one at a time), and found again by the
// next attempt. See run.h.
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "worker/run.h"

static void *write_checkpoint(void *argument) {
  struct run *r = argument;
  int64_t start = ls_clock_ns();
  uint64_t bytes = 0;
  char *path = ls_checkpoint_path(r->checkpoints, r->snapshot->step);
  if (!path) {
    ls_fail(&r->write_error, LS_NO_MEMORY, "no memory for a path");
    return NULL;
  }
  if (ls_checkpoint_write(r->snapshot, r->job_json, path, &bytes, &r->write_error) == LS_OK) {
    Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
    r->written.step = r->snapshot->step;
    r->written.epoch = r->snapshot->epoch;
    r->written.file = path;
    r->written.bytes = bytes;
    r->written.write_ms = (double)(ls_clock_ns() - start) * 1e-6;
    event.kind_case = LOCKSTEP__V1__EVENT__KIND_CHECKPOINT;
    event.checkpoint = &r->written;
    report_event(&r->report, &event, true);
    ls_checkpoint_prune(r->checkpoints, (int)r->job->checkpoint->keep);
  }
  free(path);
  return NULL;
}

ls_status run_finish_writing(struct run *r, struct ls_error *err) {
  if (!r->writing) return LS_OK;
  pthread_join(r->writer, NULL);
  r->writing = false;
  if (r->write_error.status == LS_OK) return LS_OK;
  if (err) *err = r->write_error;
  return r->write_error.status;
}

static ls_status take_snapshot(struct run *r, struct ls_error *err) {
  r->snapshot->step = r->trainer->step;
  r->snapshot->epoch = run_epoch_of(r, r->trainer->step);
  r->snapshot->seed = r->job->seed;
  r->snapshot->schedule = r->schedule;
  r->snapshot->loss_scale = r->trainer->loss_scale;
  r->snapshot->last_accuracy = r->last_accuracy;
  LS_TRY(model_save(r->trainer, r->snapshot, err));
  return ls_snapshot_check(r->snapshot, err);
}

ls_status run_start_checkpoint(struct run *r, struct ls_error *err) {
  LS_TRY(run_finish_writing(r, err));
  int64_t start = ls_clock_ns();
  LS_TRY(take_snapshot(r, err));
  r->written = (Lockstep__V1__CheckpointReport)LOCKSTEP__V1__CHECKPOINT_REPORT__INIT;
  r->written.stall_ms = (double)(ls_clock_ns() - start) * 1e-6;
  r->last_checkpoint_ns = ls_clock_ns();
  int failed = pthread_create(&r->writer, NULL, write_checkpoint, r);
  if (failed) return ls_fail_errno(err, failed, "cannot start the checkpoint writer");
  r->writing = true;
  return LS_OK;
}

ls_status run_resume(struct run *r, char **used, struct ls_error *err) {
  uint64_t *steps;
  int count;
  LS_TRY(ls_checkpoint_list(r->checkpoints, &steps, &count, err));
  ls_status status = LS_NOT_FOUND;
  for (int i = 0; i < count && status != LS_OK; i++) {
    struct ls_error error = LS_ERROR_INIT;
    char *path = ls_checkpoint_path(r->checkpoints, steps[i]);
    status =
        path ? ls_checkpoint_read(path, r->snapshot, &error) : ls_fail(&error, LS_NO_MEMORY, "no memory for a path");
    if (status == LS_OK) {
      *used = path;
      break;
    }
    free(path);
    if (status != LS_CORRUPT && status != LS_NOT_FOUND) {  // not damage: the checkpoint does not belong to this job
      if (err) *err = error;
      break;
    }
    report_note(&r->report, LOCKSTEP__V1__NOTE__LEVEL__WARNING, "%s; %s", error.text,
                i + 1 < count ? "the one before it is used" : "there is no other: training starts anew, at step 0");
    status = LS_NOT_FOUND;
  }
  free(steps);
  if (status == LS_NOT_FOUND) return model_initialise(r->trainer, r->job->seed, err);
  if (status != LS_OK) return status;
  if (r->snapshot->seed != r->job->seed) {
    return ls_fail(err, LS_INVALID, "checkpoint '%s' was made with seed %" PRIu64 ", the job has %" PRIu64, *used,
                   r->snapshot->seed, r->job->seed);
  }
  r->trainer->step = r->snapshot->step;
  r->schedule = r->snapshot->schedule;
  if (r->snapshot->loss_scale.scale > 0) r->trainer->loss_scale = r->snapshot->loss_scale;
  r->last_accuracy = r->snapshot->last_accuracy;
  return model_load(r->trainer, r->snapshot, err);
}

ls_status run_save_final(struct run *r, struct ls_error *err) {
  char *path = ls_path_join(r->options->folder, "final.h5");
  uint64_t bytes;
  ls_status status = path ? ls_checkpoint_write(r->snapshot, r->job_json, path, &bytes, err)
                          : ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  free(path);
  return status;
}
