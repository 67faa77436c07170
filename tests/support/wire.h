// Devices that see nothing but themselves, and a transport that copies between threads (transport.h): for tests of workers
// whose devices are apart, without any device.
#ifndef LS_TESTS_SUPPORT_WIRE_H
#define LS_TESTS_SUPPORT_WIRE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "backend/device.h"
#include "collective/collective.h"
#include "collective/transport.h"

// --- the twin, whose devices see nothing but themselves

static struct ls_backend_ops lonely;
static _Thread_local int opened;

static inline ls_status reach_nobody(struct ls_backend *backend, int index, struct ls_error *err) {
  (void)backend;
  return index == opened ? LS_OK : ls_fail(err, LS_UNSUPPORTED, "no way to %d", index);
}

static inline ls_status open_lonely(int index, struct ls_backend *backend, struct ls_error *err) {
  ls_status status = ls_backend_cuda_twin()->open(index, backend, err);
  backend->ops = &lonely;
  opened = index;
  return status;
}

static inline const struct ls_backend_ops *lonely_twin(void) {
  static struct ls_device_ops device;
  device = *ls_backend_cuda_twin()->device;
  device.reach = reach_nobody;
  lonely = *ls_backend_cuda_twin();
  lonely.device = &device;
  lonely.open = open_lonely;
  return &lonely;
}

// --- a transport between threads: each message is copied by who receives it

enum { RANKS = 8 };

struct ls_transport {
  struct ls_transport_options options;
};

static struct {
  struct ls_barrier barrier;
  const struct ls_transfer *transfers[RANKS];
  const float *slab[RANKS];
  int counts[RANKS];
  atomic_int messages, sums;
  uint64_t stuck_step;  // at which rank 2 is; 0: never
  bool refuses;         // rank 1
} wire;

static inline ls_status wire_id(struct ls_transport_id *id, struct ls_error *err) {
  (void)err;
  snprintf(id->bytes, sizeof id->bytes, "wire");
  return LS_OK;
}

static inline ls_status wire_open(const struct ls_transport_id *id, const struct ls_transport_options *options,
                                  struct ls_transport **transport, struct ls_error *err) {
  assert_string_equal(id->bytes, "wire");
  if (wire.refuses && options->rank == 1) return ls_fail(err, LS_UNAVAILABLE, "no way in");
  *transport = malloc(sizeof **transport);
  (*transport)->options = *options;
  return LS_OK;
}

static inline void wire_close(struct ls_transport *transport) {
  ls_barrier_break(&wire.barrier);
  free(transport);
}

// The k-th message that `peer` sends to `rank`.
static inline const struct ls_transfer *sent(int peer, int rank, int k) {
  for (int i = 0; i < wire.counts[peer]; i++) {
    const struct ls_transfer *t = &wire.transfers[peer][i];
    if (t->send && t->peer == rank && k-- == 0) return t;
  }
  return NULL;
}

static inline ls_status wire_exchange(struct ls_transport *transport, struct ls_stream *stream,
                                      const struct ls_transfer *transfers, int count, float *slab, float *staging,
                                      struct ls_error *err) {
  (void)stream;
  int rank = transport->options.rank, seen[RANKS] = {0};
  wire.transfers[rank] = transfers;
  wire.counts[rank] = count;
  wire.slab[rank] = slab;
  if (!ls_barrier_wait(&wire.barrier)) return ls_fail(err, LS_CANCELLED, "another worker failed");
  for (int i = 0; i < count; i++) {
    const struct ls_transfer *to = &transfers[i], *from = to->send ? NULL : sent(to->peer, rank, seen[to->peer]++);
    if (!from) continue;
    memcpy((to->staging ? staging : slab) + to->at, wire.slab[to->peer] + from->at, (size_t)to->count * sizeof(float));
    atomic_fetch_add(&wire.messages, 1);
  }
  if (!ls_barrier_wait(&wire.barrier)) return ls_fail(err, LS_CANCELLED, "another worker failed");
  return LS_OK;
}

static inline ls_status wire_wait(struct ls_transport *transport, struct ls_stream *stream,
                                  struct ls_event *const *computed, uint64_t step, struct ls_error *err) {
  (void)stream;
  (void)computed;
  struct ls_watch *watch = transport->options.watch;
  ls_watch_set(watch, transport->options.rank, step, LS_WATCH_EXCHANGES, 0);
  if (step != wire.stuck_step || step == 0) return LS_OK;
  atomic_store(&watch->blamed, 2);
  if (transport->options.rank != 0) return ls_fail(err, LS_CANCELLED, "another worker failed");
  return ls_fail(err, LS_UNAVAILABLE, "rank 2 (gpu2) is stuck");
}

// In the order of the ranks, so that it gives the same bits however the slab is cut, but not those of the tree.
static inline ls_status wire_sum(struct ls_transport *transport, struct ls_stream *stream, float *values, int64_t count,
                                 struct ls_error *err) {
  (void)stream;
  int rank = transport->options.rank, ranks = transport->options.ranks;
  float *sum = malloc((size_t)count * sizeof *sum);
  assert_non_null(sum);
  wire.slab[rank] = values;
  bool whole = ls_barrier_wait(&wire.barrier);
  for (int64_t i = 0; i < count && whole; i++) {
    sum[i] = wire.slab[0][i];
    for (int r = 1; r < ranks; r++) sum[i] += wire.slab[r][i];
  }
  whole = whole && ls_barrier_wait(&wire.barrier);
  if (whole) memcpy(values, sum, (size_t)count * sizeof *sum);
  free(sum);
  atomic_fetch_add(&wire.sums, 1);
  return whole ? LS_OK : ls_fail(err, LS_CANCELLED, "another worker failed");
}

static const struct ls_transport_ops wire_ops = {.id_new = wire_id,
                                                 .open = wire_open,
                                                 .close = wire_close,
                                                 .exchange = wire_exchange,
                                                 .sum = wire_sum,
                                                 .wait = wire_wait};

#endif
