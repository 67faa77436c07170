// The dynamic loss scale of float16: gradients are multiplied by it, so that small ones do not vanish, and divided again by
// the optimizer. A step whose gradients overflow is left out and halves it; many good ones in a row double it. Always a
// power of two, so that scaling costs no digits. Pure functions; the state goes into checkpoints.
#ifndef LS_OPTIM_LOSS_SCALE_H
#define LS_OPTIM_LOSS_SCALE_H

#include <stdbool.h>
#include <stdint.h>

struct ls_loss_scale {
  double scale;
  uint64_t good_steps;  // since it changed
  uint64_t skipped;     // steps left out so far
};

void ls_loss_scale_begin(struct ls_loss_scale *state);
// After a step. False: its gradients overflow even without a scale, so halving leads nowhere.
bool ls_loss_scale_step(struct ls_loss_scale *state, bool overflow);

#endif
