// One job as the daemon knows it: what the store keeps, what its event log has told so far, and who runs it now.
// Everything in daemon/ belongs to the thread of the libuv loop.
#ifndef LS_DAEMON_JOB_H
#define LS_DAEMON_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "lockstep/v1/service.pb-c.h"

enum { LS_MAX_DEVICES = 64, LS_JOB_HISTORY = 2048 };

// What a running coordinator was asked for by SIGTERM. In the store: the numbers stay.
enum stop_request { STOP_NONE = 0, STOP_PAUSE = 1, STOP_CANCEL = 2 };

// One point of the metric history.
struct history_point {
  int64_t time_us;
  Lockstep__V1__StepReport step;
};
struct evaluation_point {
  int64_t time_us;
  Lockstep__V1__EvaluationReport evaluation;
};

struct job {
  // In the store.
  uint64_t id;
  char id_text[24];
  char *name, *user, *request_key, *reason;
  Lockstep__V1__Job *spec;  // as submitted, complete
  Lockstep__V1__JobState state;
  int64_t submitted_us, started_us, ended_us;
  uint32_t attempt;   // starts of the coordinator so far
  uint32_t failures;  // in a row, without a new checkpoint in between
  int64_t not_before_us;
  uint32_t devices_wanted;  // by Resume; 0: as the job says
  enum stop_request stop;

  // From the event log.
  char *folder, *log;
  uint64_t log_offset;
  bool log_damaged;
  uint64_t step, total_steps;
  uint32_t workers, shards;
  Lockstep__V1__StepReport last;  // of this attempt
  double validation_accuracy;     // NaN before the first evaluation
  char sha256[65];
  Lockstep__V1__Outcome__Kind outcome;  // of this attempt; UNSPECIFIED: none so far
  char *outcome_reason;
  int failed_device;                             // that the outcome blames, among those held; -1: none
  bool checkpointed;                             // in this attempt
  Lockstep__V1__CheckpointReport **checkpoints;  // the newest, as many as the job keeps
  size_t checkpoint_count;
  // Every `history_stride`-th step report; when full, every second point goes and the stride doubles.
  struct history_point *history;
  size_t history_count, history_stride, history_seen;
  struct evaluation_point *evaluations;
  size_t evaluation_count;

  // The coordinator that runs it.
  pid_t pid;             // 0: none
  int exit_status;       // as of waitpid; -1: unknown, it was not our child
  void *process;         // process.c
  int64_t kill_at_us;    // when a stopping one is killed; 0: never
  uint64_t device_mask;  // CPU cores held
  uint64_t gpu_mask;     // GPUs held
};

// Takes over `spec`. NULL when memory ran out.
struct job *job_new(uint64_t id, const char *folder_of_jobs, Lockstep__V1__Job *spec);
void job_free(struct job *job);

bool job_ended(const struct job *job);    // SUCCEEDED, FAILED, CANCELLED
bool job_running(const struct job *job);  // STARTING, RUNNING
// Devices held, of both kinds.
unsigned job_device_count(const struct job *job);
void job_set_reason(struct job *job, const char *format, ...) __attribute__((format(printf, 2, 3)));
// "queued", for people and for metrics.
const char *job_state_name(Lockstep__V1__JobState state);

// A new attempt begins: forgets what the last one told.
void job_begin_attempt(struct job *job);
// Reads what is new in the event log. True when there was something. A damaged log is reported once an attempt in *err,
// and counts as the attempt's outcome: it failed.
bool job_read_log(struct job *job, struct ls_error *err);

// The job as a message. Strings are the job's own: valid until the job changes.
struct job_info {
  Lockstep__V1__JobInfo message;
  char *devices[2 * LS_MAX_DEVICES];
  char device_names[2 * LS_MAX_DEVICES][8];
  Lockstep__V1__CheckpointReport **checkpoints;  // those whose file is still there
};
void job_info_fill(const struct job *job, bool include_job, struct job_info *info);
void job_info_release(struct job_info *info);

#endif
