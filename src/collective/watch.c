// Who is behind: see watch.h.
#include "collective/watch.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

enum { FIRST_STEPS = 6, STEPS = 4 };

void ls_watch_init(struct ls_watch *w, int ranks, int64_t patience_ns, int64_t now_ns) {
  w->ranks = ranks;
  w->places = 1;
  w->patience_ns = patience_ns;
  atomic_store(&w->limit_ns, FIRST_STEPS * patience_ns);
  atomic_store(&w->blamed, -1);
  for (int i = 0; i < ranks; i++) {
    ls_watch_set(w, i, 0, LS_WATCH_INPUT, now_ns);
    snprintf(w->rank[i].device, sizeof w->rank[i].device, "gpu%d", i);
  }
}

void ls_watch_set(struct ls_watch *w, int rank, uint64_t step, enum ls_watch_phase phase, int64_t now_ns) {
  atomic_store(&w->rank[rank].since_ns, now_ns);
  if (phase != LS_WATCH_EXCHANGES) atomic_store(&w->rank[rank].passed, 0);
  atomic_store(&w->rank[rank].step, step);
  atomic_store(&w->rank[rank].phase, (int)phase);
}

void ls_watch_learn(struct ls_watch *w, int64_t step_ns) {
  int64_t limit_ns = w->patience_ns + STEPS * step_ns, now_ns = atomic_load(&w->limit_ns);
  if (now_ns == FIRST_STEPS * w->patience_ns || limit_ns > now_ns) atomic_store(&w->limit_ns, limit_ns);
}

// A number that grows as the rank goes on.
static uint64_t progress(const struct ls_watch *w, int rank) {
  return atomic_load(&w->rank[rank].step) * 3 + (uint64_t)atomic_load(&w->rank[rank].phase);
}

// ", in PLACE": where a rank that computes is, as far as its device let it be known.
static void put_place(const struct ls_watch *w, int rank, char *text, size_t size) {
  int passed = atomic_load(&w->rank[rank].passed);
  *text = 0;
  if (w->places > 1 && passed < w->places) snprintf(text, size, ", in %s", w->place[passed]);
}

void ls_watch_failed(struct ls_watch *w, int rank) {
  int expected = -1;
  atomic_compare_exchange_strong(&w->blamed, &expected, rank);
}

int ls_watch_blame(struct ls_watch *w, int rank, uint64_t step, int64_t now_ns, char *text, size_t size) {
  int64_t waited_ns = now_ns - atomic_load(&w->rank[rank].since_ns), limit_ns = atomic_load(&w->limit_ns);
  if (waited_ns < limit_ns) return -1;
  int last = 0;
  for (int i = 1; i < w->ranks; i++) {
    if (progress(w, i) < progress(w, last)) last = i;
  }
  bool behind = progress(w, last) < step * 3 + LS_WATCH_EXCHANGES;
  if (behind && atomic_load(&w->rank[last].phase) == LS_WATCH_INPUT) return -1;
  int64_t since_ns = now_ns - atomic_load(&w->rank[last].since_ns);
  if (behind && since_ns < limit_ns) return -1;  // it is late, but has just come on
  if (!behind) last = rank;
  ls_watch_failed(w, last);
  double seconds = (double)(behind ? since_ns : waited_ns) * 1e-9;
  if (behind) {
    char place[128];
    put_place(w, last, place, sizeof place);
    snprintf(text, size, "rank %d (%s) is stuck: it has been computing step %" PRIu64 " for %.1f s while others wait%s",
             last, w->rank[last].device, atomic_load(&w->rank[last].step), seconds, place);
  } else {
    snprintf(text, size,
             "the exchange of step %" PRIu64 " is stuck: rank %d (%s) has waited %.1f s for the others' data", step,
             rank, w->rank[rank].device, seconds);
  }
  return last;
}

// Nobody else can tell when all compute, or when there is only one.
static ls_status check_itself(struct ls_watch *w, int rank, uint64_t step, int64_t now_ns, struct ls_error *err) {
  int64_t since_ns = now_ns - atomic_load(&w->rank[rank].since_ns);
  if (since_ns < atomic_load(&w->limit_ns)) return LS_OK;
  char place[128];
  put_place(w, rank, place, sizeof place);
  ls_watch_failed(w, rank);
  return ls_fail(err, LS_UNAVAILABLE, "rank %d (%s) is stuck: it has been computing step %" PRIu64 " for %.1f s%s",
                 rank, w->rank[rank].device, step, (double)since_ns * 1e-9, place);
}

ls_status ls_watch_check(struct ls_watch *w, int rank, uint64_t step, int passed, int64_t now_ns,
                         struct ls_error *err) {
  char why[384], place[128];
  atomic_store(&w->rank[rank].passed, passed);
  int blamed = atomic_load(&w->blamed);
  if (blamed >= 0 && blamed != rank) return ls_fail(err, LS_CANCELLED, "another worker failed");
  if (blamed == rank) {
    put_place(w, rank, place, sizeof place);
    return ls_fail(err, LS_UNAVAILABLE, "rank %d (%s) is stuck at step %" PRIu64 "%s: the others gave it up", rank,
                   w->rank[rank].device, step, place);
  }
  if (passed < w->places) return check_itself(w, rank, step, now_ns, err);
  if (atomic_load(&w->rank[rank].phase) != LS_WATCH_EXCHANGES) ls_watch_set(w, rank, step, LS_WATCH_EXCHANGES, now_ns);
  if (ls_watch_blame(w, rank, step, now_ns, why, sizeof why) < 0) return LS_OK;
  return ls_fail(err, LS_UNAVAILABLE, "%s", why);
}
