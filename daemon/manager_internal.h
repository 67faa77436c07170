// What the manager's two files share. manager.c: the jobs, their store, signs of life, what users ask for. schedule.c: which
// job gets which devices, when it starts, and what becomes of it when its coordinator is gone.
#ifndef LS_DAEMON_MANAGER_INTERNAL_H
#define LS_DAEMON_MANAGER_INTERNAL_H

#include "daemon/manager.h"
#include "daemon/process.h"
#include "daemon/store.h"

struct manager {
  struct manager_options options;
  struct process_options processes;
  struct store *store;
  struct job **jobs;
  size_t job_count;
  char *folder_of_jobs, *nudge_path;
  int lock_fd, nudge_fd;
  uv_poll_t nudge;
  uv_timer_t timer;
  struct devices *devices;
  bool store_failed, closing;
};

static inline unsigned manager_bits(uint64_t mask) { return (unsigned)__builtin_popcountll(mask); }

// manager.c
void manager_changed(struct manager *manager, struct job *job);
void manager_save(struct manager *manager, const struct job *job);
void manager_set_state(struct manager *manager, struct job *job, Lockstep__V1__JobState state);
// Takes in what is new in the job's event log, and logs what is wrong with it; true when there was something.
bool manager_read_log(struct job *job);

// schedule.c. Can it ever run here? `override`: another number of devices than the job's; 0: none.
ls_status manager_check_devices(const struct manager *manager, const Lockstep__V1__Job *spec, uint32_t override,
                                struct ls_error *err);
// Starts what may start.
void manager_schedule(struct manager *manager);
// The coordinator is gone. What its log says is the truth; without an outcome there it crashed.
void manager_settle(struct manager *manager, struct job *job);

#endif
