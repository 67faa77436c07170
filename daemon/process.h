// Coordinator processes: started, watched through a pidfd, found again after a restart of the daemon.
//
// A coordinator is not tied to the daemon: it has its own session, and its way of telling is the event log. Only its
// death is learnt here.
#ifndef LS_DAEMON_PROCESS_H
#define LS_DAEMON_PROCESS_H

#include <uv.h>

#include "daemon/job.h"

struct process_options {
  uv_loop_t *loop;
  const char *program;  // lockstep-worker
  const char *nudge;    // socket
  // The coordinator is gone: job->pid is 0 and job->exit_status set (-1: unknown, not our child).
  void (*exited)(void *user, struct job *job);
  void *user;
};

// Starts the coordinator of job->attempt with `devices` workers; its output goes to FOLDER/worker.log. It is bound to the
// cores of job->device_mask; where that is empty it works on GPUs and sees those named in `gpus` ("UUID,UUID") alone.
ls_status process_start(const struct process_options *options, struct job *job, unsigned devices, const char *gpus,
                        struct ls_error *err);
// Finds a coordinator of this job that runs already and watches it. LS_NOT_FOUND when there is none.
ls_status process_adopt(const struct process_options *options, struct job *job, struct ls_error *err);
// SIGTERM, or SIGKILL.
void process_signal(const struct job *job, int signal);
// Stops watching; the coordinator goes on.
void process_forget(struct job *job);
// "killed by signal 9 (Killed)", "exit code 3".
void process_describe_exit(const struct job *job, char *text, size_t size);

#endif
