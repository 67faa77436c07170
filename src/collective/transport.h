// A way between devices that cannot reach each other's memory: carries out the messages of exchange.h. nccl.c is the one for
// GPUs; tests bring their own. Where results may differ from run to run it also sums (ncclAllReduce).
//
// NCCL is loaded when its first communicator is made (libnccl.so.2; LOCKSTEP_NCCL names another file): a build with CUDA
// needs its header only, and a machine where GPUs reach each other needs no NCCL at all. Nothing blocks for good: whoever
// waits looks after errors of the transport and after the other ranks (watch.h).
//
// Threads: each rank's end belongs to the thread of its backend context.
#ifndef LS_COLLECTIVE_TRANSPORT_H
#define LS_COLLECTIVE_TRANSPORT_H

#include "backend/backend.h"
#include "collective/exchange.h"
#include "collective/watch.h"

struct ls_transport;

struct ls_transport_id {
  char bytes[128];
};

struct ls_transport_options {
  struct ls_backend *backend;  // context of this rank
  struct ls_watch *watch;      // of all ranks of this process
  int rank, ranks;
};

struct ls_transport_ops {
  // Made once, given to all ranks. LS_UNSUPPORTED where the machine lacks what it needs.
  ls_status (*id_new)(struct ls_transport_id *id, struct ls_error *err);
  // All ranks at the same time, each in its thread.
  ls_status (*open)(const struct ls_transport_id *id, const struct ls_transport_options *options,
                    struct ls_transport **transport, struct ls_error *err);
  // NULL-safe. After an error it is cut off, and the other ranks get theirs.
  void (*close)(struct ls_transport *transport);
  // Enqueues messages as one group, so that their order cannot lock anything up; `staging` may be NULL where none goes there.
  ls_status (*exchange)(struct ls_transport *transport, struct ls_stream *stream, const struct ls_transfer *transfers,
                        int count, float *slab, float *staging, struct ls_error *err);
  // Enqueues: each of `count` values becomes their sum over all ranks, the same on all, in an order that is the transport's own
  // (`reduce: fast`). NULL: it has no such sums.
  ls_status (*sum)(struct ls_transport *transport, struct ls_stream *stream, float *values, int64_t count,
                   struct ls_error *err);
  // Waits until all that was enqueued on the stream is done. `computed`: the events behind the places of the pass (watch.h), as
  // many as there are, the last one first: the exchange of `step` waits for that. An error names the rank that is stuck or
  // lost, its device and the step.
  ls_status (*wait)(struct ls_transport *transport, struct ls_stream *stream, struct ls_event *const *computed,
                    uint64_t step, struct ls_error *err);
};

// NULL in a build without CUDA.
const struct ls_transport_ops *ls_transport_nccl(void);

#endif
