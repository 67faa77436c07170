// What the coordinator tells the world: events into the job's log, then a nudge to the daemon and the caller's callback.
// Any thread of the coordinator; one event after the other, the callback as well.
#ifndef LS_WORKER_REPORT_H
#define LS_WORKER_REPORT_H

#include <pthread.h>

#include "spec/event_log.h"
#include "worker/coordinator.h"

struct report {
  struct ls_event_log *log;
  const struct ls_train_options *options;
  int nudge_fd;
  const char *job_name;  // last part of the folder
  pthread_mutex_t lock;
  struct ls_error error;  // the first failure to write the log; the run cannot go on without it
};

// After a failure there is nothing to close.
ls_status report_open(struct report *report, const struct ls_train_options *options, struct ls_error *err);
void report_close(struct report *report);
void report_event(struct report *report, Lockstep__V1__Event *event, bool durable);
// The first failure to write the log, if any.
ls_status report_status(struct report *report, struct ls_error *err);
void report_note(struct report *report, Lockstep__V1__Note__Level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
