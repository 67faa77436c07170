// The coordinator: trains one job in this process, with N worker threads, prefetch readers and a checkpoint writer.
// `lockstep-worker run FOLDER` and `lockstep train` both end here.
//
// The job's folder:
//   job.json                 the resolved job specification (written by whoever makes the folder)
//   choices                  which kernels devices use, where that was measured: src/backend/choices.h
//   events.log               src/spec/event_log.h; the truth about progress and outcome
//   checkpoints/step-*.h5    src/checkpoint
//   worker.log               what the coordinator printed (the daemon redirects it there)
//   final.h5                 the parameters at the end, a checkpoint too
//
// Exit codes of lockstep-worker: 0 the job succeeded; 1 it failed for good (Outcome FAILED); 2 usage; 75 stopped on
// request after a checkpoint (Outcome STOPPED; SIGTERM or SIGINT ask for it, between two steps); 74 could not go on for
// an outside reason (Outcome INTERRUPTED, worth another attempt); 76 the same because of a device, which the Outcome names:
// worth another attempt on others; anything else, and death by a signal, is a crash. The
// daemon believes the log's last Outcome of this attempt, not the exit code: without one the run crashed. A log that is
// damaged is as good as FAILED; one that cannot be written at all leaves no Outcome.
#ifndef LS_WORKER_COORDINATOR_H
#define LS_WORKER_COORDINATOR_H

#include <stdatomic.h>
#include <stdbool.h>

#include "backend/backend.h"
#include "base/error.h"
#include "lockstep/v1/event.pb-c.h"
#include "lockstep/v1/job.pb-c.h"

enum ls_worker_exit {
  LS_EXIT_OK = 0,
  LS_EXIT_FAILED = 1,
  LS_EXIT_USAGE = 2,
  LS_EXIT_INTERRUPTED = 74,
  LS_EXIT_STOPPED = 75,
  LS_EXIT_DEVICE = 76
};

struct ls_train_options {
  const Lockstep__V1__Job *job;   // complete (ls_spec_complete_job)
  const char *folder;             // job folder, exists
  unsigned attempt;               // from 1
  unsigned devices;               // 0: as the job says; else this many (resume on another number)
  Lockstep__V1__DeviceKind kind;  // CPU or GPU; 0: as the job says
  const char *nudge;              // Unix datagram socket told (job folder's name) after each event; NULL: nobody
  atomic_bool *stop;              // set by a signal handler; read between steps
  // Told of every event after it is in the log, from any of the coordinator's threads, one at a time; may be NULL.
  void (*event)(void *user, const Lockstep__V1__Event *event);
  void *user;
  // For tests: this backend with so many devices, whatever the job says. NULL: by the job.
  const struct ls_backend_ops *backend;
  unsigned backend_devices;
  int64_t patience_ns;                       // before a device that stands still is given up; 0: 10 s
  int buckets;                               // of gradients on devices: at most so many; 0: as is best
  const struct ls_transport_ops *transport;  // between devices that cannot reach each other; NULL: NCCL
  const char *profile;                       // Chrome trace file to write; NULL: none
};

struct ls_train_result {
  enum ls_worker_exit exit;
  char parameters_sha256[65];
  uint64_t step;
  double test_accuracy;  // of the last evaluation; NaN without validation data
};

// Goes on from the newest good checkpoint in the folder, if there is one. Every failure is also written to the log as
// the Outcome, other than that the log cannot be written. Blocking; one call at a time in a process.
ls_status ls_train(const struct ls_train_options *options, struct ls_train_result *result, struct ls_error *err);
// Where there is not even a job to train (options->job is not looked at): writes the Outcome that `why` comes to, and
// returns its exit code.
enum ls_worker_exit ls_train_refused(const struct ls_train_options *options, const struct ls_error *why);

#endif
