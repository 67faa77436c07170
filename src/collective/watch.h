// How far each rank is, so that whoever waits in vain can say for whom. Written by every rank for itself, read by all: no
// locks. Times are of ls_clock_ns.
#ifndef LS_COLLECTIVE_WATCH_H
#define LS_COLLECTIVE_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { LS_WATCH_RANKS = 64, LS_WATCH_PLACES = 8 };

enum ls_watch_phase {
  LS_WATCH_INPUT,      // waits for its images
  LS_WATCH_COMPUTES,   // forward and backward
  LS_WATCH_EXCHANGES,  // has its gradients, waits for the others'
};

struct ls_watch {
  int ranks;
  struct {
    _Atomic uint64_t step;
    _Atomic int phase;
    _Atomic int64_t since_ns;
    _Atomic int passed;  // places of the step's pass that its device is known to be done with
    char device[16];     // "gpu3"; set before the ranks start
  } rank[LS_WATCH_RANKS];
  // The stretches that the pass has an event behind, in their order, in words: "the backward pass from 'conv3' to 'conv1'".
  // Set before the ranks start. With one place nothing is said of it.
  int places;
  char place[LS_WATCH_PLACES][112];
  _Atomic int blamed;  // the first rank that failed or that somebody gave up on; -1: none
  int64_t patience_ns;
  _Atomic int64_t limit_ns;  // how long a rank may stand still: the patience and four times the longest step
};

// The first steps, in which libraries load their kernels, may take six times `patience_ns`.
void ls_watch_init(struct ls_watch *watch, int ranks, int64_t patience_ns, int64_t now_ns);
// A step took so long on its device.
void ls_watch_learn(struct ls_watch *watch, int64_t step_ns);
void ls_watch_set(struct ls_watch *watch, int rank, uint64_t step, enum ls_watch_phase phase, int64_t now_ns);
// A rank has failed, for a reason that it says itself: whoever waits for it stops waiting. Only the first counts.
void ls_watch_failed(struct ls_watch *watch, int rank);
// What a rank asks while it waits for the end of `step`; `passed`: places that its device is done with, at their number its
// own gradients are there. LS_UNAVAILABLE with a sentence: somebody is stuck (ls_watch_blame), or its own device is.
// LS_CANCELLED: another rank has failed or been blamed.
ls_status ls_watch_check(struct ls_watch *watch, int rank, uint64_t step, int passed, int64_t now_ns,
                         struct ls_error *err);
// Called by `rank`, which exchanges at `step`. After the limit of that, with another rank that is behind: blames the one
// that is furthest behind (of equals the first), writes a sentence and returns the rank. The same when all exchange and
// nothing moves, for the caller itself. Waiting for images is no fault. -1: go on waiting.
int ls_watch_blame(struct ls_watch *watch, int rank, uint64_t step, int64_t now_ns, char *text, size_t size);

#endif
