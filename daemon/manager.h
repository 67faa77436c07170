// The daemon's heart: jobs, their states, the devices they hold, and who is told when something changes.
//
//           submit             devices free          first step
//   (none) --------> QUEUED -----------------> STARTING ------> RUNNING --> SUCCEEDED, FAILED, CANCELLED
//                      ^  ^--- crash, after a back-off ---------'   |
//                      '-- resume -- PAUSED <------ pause ----------'      (FAILED and CANCELLED can be resumed too)
//
// A change of state is in the store before anybody is told of it. Everything here belongs to the loop's thread.
#ifndef LS_DAEMON_MANAGER_H
#define LS_DAEMON_MANAGER_H

#include <uv.h>

#include "daemon/devices.h"

struct manager;

struct manager_options {
  uv_loop_t *loop;
  const char *state;        // folder
  const char *worker;       // program
  unsigned retry_delay_ms;  // before the first new start after a crash; doubles up to a minute
  unsigned stop_grace_ms;   // between SIGTERM and SIGKILL
  unsigned device_retry_s;  // how long a GPU rests after it failed in a job
  unsigned gpus_wanted;     // not ready with fewer healthy GPUs
  // A job's state, reason, or event log has changed.
  void (*changed)(void *user, struct job *job);
  // Twice a second.
  void (*tick)(void *user);
  void *user;
};

// Opens the store, finds running coordinators again, starts what may start. LS_UNAVAILABLE when another lockstepd
// works in the same state folder.
ls_status manager_new(const struct manager_options *options, struct manager **manager, struct ls_error *err);
// Forgets the coordinators, which go on. The loop must run once more to close handles, then manager_free.
void manager_close(struct manager *manager);
void manager_free(struct manager *manager);

// Newest last.
size_t manager_job_count(const struct manager *manager);
struct job *manager_job(const struct manager *manager, size_t index);
// LS_NOT_FOUND with a sentence.
ls_status manager_find(const struct manager *manager, const char *id, struct job **job, struct ls_error *err);

// Takes over `spec` in any case. On return the job is durable. A known request_key gives the job of the first time.
ls_status manager_submit(struct manager *manager, Lockstep__V1__Job *spec, const char *request_key, const char *user,
                         struct job **job, struct ls_error *err);
ls_status manager_cancel(struct manager *manager, struct job *job, struct ls_error *err);
ls_status manager_pause(struct manager *manager, struct job *job, struct ls_error *err);
ls_status manager_resume(struct manager *manager, struct job *job, uint32_t devices, struct ls_error *err);

const struct devices *manager_devices(const struct manager *manager);
// Is the store good, are the GPUs there that must be, and is the manager not closing?
bool manager_ready(const struct manager *manager);

#endif
