// The job store, with what is known of failed devices: SQLite, `synchronous=FULL`. What it has acknowledged survives a power cut.
#ifndef LS_DAEMON_STORE_H
#define LS_DAEMON_STORE_H

#include "daemon/devices.h"
#include "daemon/job.h"

struct store;

// Opens or makes the file. A store of a newer format is refused.
ls_status store_open(const char *path, struct store **store, struct ls_error *err);
void store_close(struct store *store);

// Every job, oldest first: `each` takes the job over. LS_CORRUPT when a row makes no job.
ls_status store_load(struct store *store, const char *folder_of_jobs,
                     ls_status (*each)(void *user, struct job *job, struct ls_error *err), void *user,
                     struct ls_error *err);

// A new job in three moves, so that its folder can be made under its number before anybody knows of it:
// begin -> number; then commit (durable on return) or roll back.
ls_status store_begin(struct store *store, const char *request_key, const Lockstep__V1__Job *spec, const char *user,
                      int64_t submitted_us, uint64_t *id, struct ls_error *err);
ls_status store_commit(struct store *store, struct ls_error *err);
void store_roll_back(struct store *store);

// Saves what changes in a job's life. Durable on return.
ls_status store_save(struct store *store, const struct job *job, struct ls_error *err);

// GPUs that failed in jobs. Durable on return.
ls_status store_save_rest(struct store *store, const struct device_rest *rest, struct ls_error *err);
ls_status store_load_rests(struct store *store, void (*each)(void *user, const struct device_rest *rest), void *user,
                           struct ls_error *err);

#endif
