// Optimizers: one fused elementwise pass over a slice of the flat parameter slab. Elementwise, so that slicing among
// workers cannot change a bit. Pure functions; any thread.
#ifndef LS_OPTIM_OPTIM_H
#define LS_OPTIM_OPTIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "lockstep/v1/job.pb-c.h"

// Numbers of one step.
struct ls_sgd {
  float learning_rate, momentum, weight_decay;
  bool nesterov;
};

// v = momentum * v + (g + weight_decay * w); w = w - learning_rate * v, or (nesterov) w - learning_rate * (g' + momentum
// * v). PyTorch's form (Sutskever et al., 2013, with the learning rate outside). v begins as zeros.
void ls_sgd_update(const struct ls_sgd *sgd, int64_t n, float *w, float *v, const float *g);

// running = running + share * (scale * batch - running)
void ls_running_update(float share, float scale, int64_t n, float *running, const float *batch);

#endif
