// Learning-rate schedules: see schedule.h.
#include "optim/schedule.h"

#include <math.h>

void ls_schedule_begin(struct ls_schedule_state *state) {
  *state = (struct ls_schedule_state){.factor = 1, .best = INFINITY};
}

static double proper_factor(const Lockstep__V1__Schedule *s, const struct ls_schedule_state *state, double step,
                            double total_steps, double warm_up_steps, double steps_per_epoch) {
  double factor = 1;
  switch (s->kind_case) {
    case LOCKSTEP__V1__SCHEDULE__KIND_STEP:
      for (size_t i = 0; i < s->step->n_epochs; i++) {
        if (step >= s->step->epochs[i] * steps_per_epoch) factor *= s->step->factor;
      }
      return factor;
    case LOCKSTEP__V1__SCHEDULE__KIND_COSINE: {
      double length = total_steps - warm_up_steps, share = length > 0 ? (step - warm_up_steps) / length : 1;
      return s->cosine->final + (1 - s->cosine->final) * 0.5 * (1 + cos(3.141592653589793 * fmin(share, 1)));
    }
    case LOCKSTEP__V1__SCHEDULE__KIND_PLATEAU: return state->factor;
    default: return 1;
  }
}

double ls_schedule_factor(const Lockstep__V1__Schedule *s, const struct ls_schedule_state *state, uint64_t step,
                          uint64_t total_steps, double steps_per_epoch) {
  double warm_up_steps = s->warm_up_epochs * steps_per_epoch;
  if ((double)step < warm_up_steps)
    return ((double)step + 1) / warm_up_steps < 1 ? ((double)step + 1) / warm_up_steps : 1;
  return proper_factor(s, state, (double)step, (double)total_steps, warm_up_steps, steps_per_epoch);
}

bool ls_schedule_epoch(const Lockstep__V1__Schedule *s, struct ls_schedule_state *state, double error) {
  if (s->kind_case != LOCKSTEP__V1__SCHEDULE__KIND_PLATEAU) return false;
  if (error < state->best * (1 - s->plateau->threshold) || isinf(state->best)) {
    state->best = error;
    state->bad_epochs = 0;
    return false;
  }
  if (++state->bad_epochs < s->plateau->patience) return false;
  state->bad_epochs = 0;
  double lower = fmax(state->factor * s->plateau->factor, s->plateau->minimum);
  bool lowered = lower < state->factor;
  state->factor = lower;
  return lowered;
}
