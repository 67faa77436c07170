// A job on its way, as the coordinator's two files share it: coordinator.c (from start to end) and saving.c (checkpoints).
#ifndef LS_WORKER_RUN_H
#define LS_WORKER_RUN_H

#include "spec/spec.h"
#include "worker/coordinator.h"
#include "worker/report.h"
#include "worker/trainer.h"

struct run {
  const struct ls_train_options *options;
  const Lockstep__V1__Job *job;
  struct report report;
  struct trainer *trainer;
  struct ls_dataset *training_data, *validation_data;
  struct ls_loader_options loader_options;
  // Of what is watched to say that the input holds the job up.
  struct ls_loader_stats input_stats, report_stats;
  int64_t input_since_ns;
  double input_wait_s;
  bool input_told;
  char *checkpoints;  // folder
  char *job_json;

  uint64_t total_steps, samples;
  double steps_per_epoch;
  struct ls_every checkpoint_every, evaluation_every;
  struct ls_schedule_state schedule;
  double last_accuracy;
  uint64_t next_evaluation, next_checkpoint;  // steps; UINT64_MAX: never
  int64_t last_checkpoint_ns;

  // Since the last report; worker 0 only while a command runs.
  double sums[LS_METRICS];
  uint64_t report_step;
  int64_t report_ns;
  double diverged;  // the loss that is no number; 0: none

  // The checkpoint writer.
  pthread_t writer;
  bool writing;
  struct ls_snapshot *snapshot;
  struct ls_error write_error;
  Lockstep__V1__CheckpointReport written;
};

double run_epoch_of(const struct run *run, uint64_t step);

// saving.c. A snapshot of the trainer between two commands; a thread writes it while training goes on. It waits for the
// one before, whose failure it gives.
ls_status run_start_checkpoint(struct run *run, struct ls_error *err);
ls_status run_finish_writing(struct run *run, struct ls_error *err);
// final.h5 is the last checkpoint under a name that stays.
ls_status run_save_final(struct run *run, struct ls_error *err);
// Goes on from the newest checkpoint that is whole; damaged ones are named and skipped. *used: its path, which the caller
// frees; NULL: there was none, and the parameters have their initial values.
ls_status run_resume(struct run *run, char **used, struct ls_error *err);

#endif
