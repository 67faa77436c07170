// Optimizers: see optim.h. Written without contraction (C17), so every instruction set gives the same bits.
#include "optim/optim.h"

#include "base/fast_loop.h"

LS_FAST_LOOP static void plain(float rate, float momentum, float decay, int64_t n, float *restrict w, float *restrict v,
                               const float *restrict g) {
  for (int64_t i = 0; i < n; i++) {
    float step = momentum * v[i] + (g[i] + decay * w[i]);
    v[i] = step;
    w[i] = w[i] - rate * step;
  }
}

LS_FAST_LOOP static void nesterov(float rate, float momentum, float decay, int64_t n, float *restrict w,
                                  float *restrict v, const float *restrict g) {
  for (int64_t i = 0; i < n; i++) {
    float gradient = g[i] + decay * w[i], step = momentum * v[i] + gradient;
    v[i] = step;
    w[i] = w[i] - rate * (gradient + momentum * step);
  }
}

void ls_sgd_update(const struct ls_sgd *s, int64_t n, float *w, float *v, const float *g) {
  (s->nesterov ? nesterov : plain)(s->learning_rate, s->momentum, s->weight_decay, n, w, v, g);
}

void ls_running_update(float share, float scale, int64_t n, float *running, const float *batch) {
  for (int64_t i = 0; i < n; i++) running[i] = running[i] + share * (scale * batch[i] - running[i]);
}
