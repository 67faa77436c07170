// Checkpoints: HDF5 files that h5py opens, with a digest in front.
//
// File: a user block of 512 bytes (8 bytes "LOCKSTEP", u32 little-endian format version, 16 bytes XXH3-128 of everything
// after the user block), then HDF5: /parameters/NAME and /momentum/NAME float32 in canonical order and shape, /job the
// resolved job as JSON, and the state as attributes of the root. The data cursor is the step: the order of samples is a
// function of seed and step alone, and so is every other random draw.
//
// Two phases: the step loop copies into a snapshot (ls_snapshot), a thread of the caller's writes it: temporary file,
// digest, fsync, rename, fsync of the folder; only then is it announced. One thread at a time per snapshot.
#ifndef LS_CHECKPOINT_CHECKPOINT_H
#define LS_CHECKPOINT_CHECKPOINT_H

#include <stdint.h>

#include "base/error.h"
#include "graph/graph.h"
#include "lockstep/v1/job.pb-c.h"
#include "optim/loss_scale.h"
#include "optim/schedule.h"

// Canonical values of everything, on the host. The arrays have ls_graph_parameter_count entries.
struct ls_snapshot {
  const struct ls_graph *graph;
  float **parameters;  // learned ones and running statistics
  float **momentum;    // learned ones; NULL entries for others
  uint64_t step;       // steps done
  double epoch;
  uint64_t seed;
  struct ls_schedule_state schedule;
  struct ls_loss_scale loss_scale;
  double last_accuracy;  // of the last evaluation; NaN before the first
};

ls_status ls_snapshot_new(const struct ls_graph *graph, struct ls_snapshot **snapshot, struct ls_error *err);
void ls_snapshot_free(struct ls_snapshot *snapshot);
// SHA-256 over all parameters and running statistics in network order; 64 hexadecimal digits.
ls_status ls_snapshot_sha256(const struct ls_snapshot *snapshot, char hex[65], struct ls_error *err);

// LS_DIVERGED when a parameter is no number any more. The loss need not show it: oneDNN's ReLU makes 0 out of NaN.
ls_status ls_snapshot_check(const struct ls_snapshot *snapshot, struct ls_error *err);

// Writes `path` durably. *bytes: its size.
ls_status ls_checkpoint_write(const struct ls_snapshot *snapshot, const char *job_json, const char *path,
                              uint64_t *bytes, struct ls_error *err);
// Checks the digest and reads everything; shapes must be the graph's.
ls_status ls_checkpoint_read(const char *path, struct ls_snapshot *snapshot, struct ls_error *err);
// The job that a checkpoint was made by; the caller frees it.
ls_status ls_checkpoint_read_job(const char *path, Lockstep__V1__Job **job, struct ls_error *err);

// FOLDER/step-000000001234.h5; the caller frees it.
char *ls_checkpoint_path(const char *folder, uint64_t step);
// Steps of the checkpoints in a folder, newest first; the caller frees *steps. A missing folder has none.
ls_status ls_checkpoint_list(const char *folder, uint64_t **steps, int *count, struct ls_error *err);
// Removes all but the newest `keep`, and temporary files of writers that died.
void ls_checkpoint_prune(const char *folder, int keep);

#endif
