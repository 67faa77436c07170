// The end of a step on a device, with an eye on the others: a device that stands still is named within seconds, instead of
// everybody waiting for it for good. See collective/watch.h.
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "worker/device.h"

enum { SPIN_NS = 50000000, REST_NS = 100000 };  // short waits are not slept through

void device_says(const struct worker *w, enum ls_watch_phase phase) {
  ls_watch_set(&w->trainer->watch, w->index, w->device->step, phase, ls_clock_ns());
}

// How many of the pass's events are behind this device, beginning with what is known.
static ls_status look_further(struct worker *w, int *passed, struct ls_error *err) {
  const struct ls_device_ops *device = w->backend.ops->device;
  int buckets = w->trainer->exchange.buckets;
  bool done = true;
  while (*passed < buckets && done) {
    LS_TRY(device->event_done(&w->backend, w->device->computed[buckets - 1 - *passed], &done, err));
    *passed += done;
  }
  return LS_OK;
}

void device_name_places(struct trainer *t, const struct ls_plan *plan) {
  struct ls_watch *watch = &t->watch;
  watch->places = t->exchange.buckets;
  for (int i = 0, first = 0; i < watch->places; i++) {
    int end = t->bucket_operations[watch->places - 1 - i];
    const char *from = ls_plan_backward_layer(plan, first), *to = ls_plan_backward_layer(plan, end - 1);
    snprintf(watch->place[i], sizeof watch->place[i], "%sthe backward pass from '%.28s' to '%.28s'",
             i == 0 ? "the forward pass or " : "", from, to);
    first = end;
  }
}

// Until everything is done on this worker's device: the last thing on the communication stream waits for all the rest.
static ls_status wait_for_end(struct worker *w, struct ls_error *err) {
  const struct ls_backend_ops *ops = w->backend.ops;
  const struct ls_device_ops *device = ops->device;
  struct device_worker *d = w->device;
  bool ended = false;
  int passed = 0;
  int64_t begin_ns = ls_clock_ns(), now_ns = begin_ns;
  if (!device->event_done) return ops->stream_wait_idle(&w->backend, d->communication, err);
  LS_TRY(ops->event_record(&w->backend, d->ended, d->communication, err));
  for (;; now_ns = ls_clock_ns()) {
    ls_status status = device->event_done(&w->backend, d->ended, &ended, err);
    if (status == LS_OK && ended) return LS_OK;
    if (status == LS_OK) status = look_further(w, &passed, err);
    if (status != LS_OK) {
      const char *name = w->trainer->watch.rank[w->index].device;
      return ls_error_prefix(err, "%s, step %llu", name, (unsigned long long)d->step);
    }
    LS_TRY(ls_watch_check(&w->trainer->watch, w->index, d->step, passed, now_ns, err));
    if (now_ns - begin_ns > SPIN_NS) nanosleep(&(struct timespec){0, REST_NS}, NULL);
  }
}

ls_status device_wait(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct device_worker *d = w->device;
  int64_t begin_ns = ls_clock_ns();
  if (d->transport)
    LS_TRY(t->apart.ops->wait(d->transport, d->communication, d->computed, d->step, err));
  else
    LS_TRY(wait_for_end(w, err));
  ls_watch_learn(&t->watch, ls_clock_ns() - begin_ns);
  return LS_OK;
}
