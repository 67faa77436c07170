// Learning-rate schedules: a pure function of the job, the step and a small state that goes into checkpoints.
#ifndef LS_OPTIM_SCHEDULE_H
#define LS_OPTIM_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "lockstep/v1/job.pb-c.h"

// Only the plateau schedule has a past. It is saved whole, so that a resume in mid-epoch decides alike.
struct ls_schedule_state {
  double factor;        // of the learning rate; begins at 1
  double best;          // best error so far; infinity at first
  uint32_t bad_epochs;  // since then
  double epoch_loss;    // sum over the images of the epoch so far, kept by the caller
  double epoch_images;
};

void ls_schedule_begin(struct ls_schedule_state *state);

// Factor of the learning rate at `step` of `total_steps`, an epoch being `steps_per_epoch` (need not be whole).
double ls_schedule_factor(const Lockstep__V1__Schedule *schedule, const struct ls_schedule_state *state, uint64_t step,
                          uint64_t total_steps, double steps_per_epoch);

// At the end of an epoch: `error` is 1 - validation accuracy, or the mean training loss without validation data.
// True when the learning rate was lowered.
bool ls_schedule_epoch(const Lockstep__V1__Schedule *schedule, struct ls_schedule_state *state, double error);

#endif
