// The slabs' buckets, and devices that cannot reach each other's memory: their gradients and parameters travel through a
// transport (NCCL), in the schedule of collective/exchange.h. The sums are those of devices that reach each other, bit for
// bit: only where the parts lie differs (device_part, device_tail, device_overflow).
//
//   communication stream   for each bucket: gradients are there ─ exchange of slices into staging ─ sum and update of the own
//                          slice ─ exchange of parameters; then of the tails
//   host                   enqueues, then waits with an eye on the other ranks (collective/watch.h)
//
// A rank is a worker, alone on its device. With float16's loss scale the tails, which say whose gradients are out of range,
// go before all updates (device_step.c).
//
// With `reduce: fast` the transport sums instead (WAY_SUMS), also where devices reach each other: NCCL's all-reduce uses what
// the links and switches can do by themselves. It sums in place, bucket by bucket, but the batch norms' statistics, which the
// backward pass still reads, only behind the pass, with the tails. Then every rank updates everything itself: that is less
// than what the messages of an all-gather would cost. Where NCCL cannot be had or workers share a GPU all is as in `exact`.
#include <stdlib.h>

#include "base/clock.h"
#include "worker/device.h"

enum {
  TAIL = 16,
  FLAG = 8
};  // floats behind the gradients: metrics, and at FLAG whether one is beyond float16's range

// More buckets than these hide nothing more: the first two go off while most of the pass is still to come. A bucket costs
// some 20 us of its own (a recording's launch, an update's, a round of messages), 8 MiB at 100 GB/s take four times that;
// where links are faster, hiding gains little, as the record holders found (8 GPUs, 51 MB: 0.2 ms).
enum { MOST_BUCKETS = 3, LEAST_BUCKET_BYTES = 8 << 20 };

static ls_status meet(struct worker *w, struct ls_error *err) {
  return ls_barrier_wait(&w->trainer->barrier) ? LS_OK : ls_fail(err, LS_CANCELLED, "another worker failed");
}

ls_status device_cut(const struct ls_plan *plan, int workers, bool hides, int wanted, struct ls_exchange *exchange,
                     int *operations, struct ls_error *err) {
  struct ls_plan_bucket buckets[LS_PLAN_BUCKETS];
  int count = 0, most = wanted ? wanted : hides ? MOST_BUCKETS : 1;
  LS_TRY(ls_plan_buckets(plan, most, wanted ? 0 : LEAST_BUCKET_BYTES, buckets, &count, err));
  *exchange = (struct ls_exchange){.ranks = workers, .buckets = count, .tail = TAIL};
  for (int b = 0; b < count; b++) {
    exchange->cut[b + 1] = buckets[b].end;
    operations[b] = buckets[b].operations;
  }
  return LS_OK;
}

// Worker 0, for all: one bucket where no exchange between devices is to be hidden. With float16's loss scale nothing may be
// updated before everybody's gradients are known to be in range: only an exchange by a transport can begin earlier.
static ls_status cut(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  bool hides = t->devices > 1 && (t->dtype != LS_F16 || t->apart.way != WAY_REACH);
  LS_TRY(device_cut(w->plan, t->workers, hides, t->wanted_buckets, &t->exchange, t->bucket_operations, err));
  device_name_places(t, w->plan);
  return LS_OK;
}

// Worker 0, for all: devices that do not reach each other.
static ls_status begin_messages(struct trainer *t, struct ls_error *err) {
  struct apart *a = &t->apart;
  if (!a->ops) {
    return ls_fail(err, LS_UNSUPPORTED,
                   "the GPUs of this machine cannot reach each other's memory, and this build has no "
                   "NCCL; use one GPU");
  }
  if (t->workers != t->devices) {
    return ls_fail(err, LS_UNSUPPORTED,
                   "%d workers cannot share %d GPUs that do not reach each other's memory; use as many workers as GPUs",
                   t->workers, t->devices);
  }
  a->transfers = calloc((size_t)t->workers * LS_EXCHANGE_TRANSFERS, sizeof *a->transfers);
  if (!a->transfers) return ls_fail(err, LS_NO_MEMORY, "no memory for the exchange");
  a->way = WAY_MESSAGES;
  return a->ops->id_new(&a->id, err);
}

// Worker 0, for all.
static ls_status choose_way(struct trainer *t, struct ls_error *err) {
  struct apart *a = &t->apart;
  struct ls_error error = LS_ERROR_INIT;
  ls_status status = LS_UNSUPPORTED;
  if (t->fast && t->devices > 1 && t->workers == t->devices && a->ops && a->ops->sum)
    status = a->ops->id_new(&a->id, &error);
  if (status == LS_OK) a->way = WAY_SUMS;
  if (status != LS_UNSUPPORTED) return status == LS_OK ? LS_OK : ls_fail(err, status, "%s", error.text);
  return atomic_load(&a->needed) ? begin_messages(t, err) : LS_OK;
}

// Sums are a favour where devices reach each other: if one rank did not get its end, all go on without.
static ls_status keep_transport(struct worker *w, ls_status status, struct ls_error *err) {
  struct trainer *t = w->trainer;
  if (status != LS_OK) atomic_store(&t->apart.refused, true);
  LS_TRY(meet(w, err));
  if (!atomic_load(&t->apart.refused)) return LS_OK;
  if (status == LS_OK) t->apart.ops->close(w->device->transport);
  w->device->transport = NULL;
  if (w->index == 0) t->apart.way = WAY_REACH;
  return meet(w, err);
}

ls_status device_separate(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  LS_TRY(meet(w, err));  // all know whether they reach all others
  if (w->index == 0) LS_TRY(choose_way(t, err));
  if (w->index == 0) LS_TRY(cut(w, err));
  LS_TRY(meet(w, err));
  if (t->exchange.buckets > 1) LS_TRY(w->backend.ops->stream_new(&w->backend, &d->communication, err));
  if (t->apart.way == WAY_REACH) return LS_OK;
  size_t bytes = (size_t)ls_exchange_staging(&t->exchange, w->index) * sizeof(float);
  void *staging = NULL;
  if (t->apart.way == WAY_MESSAGES)
    LS_TRY(w->backend.ops->allocate(&w->backend, LS_MEMORY_DEVICE, bytes, &staging, err));
  d->staging = staging;
  struct ls_transport_options options = {
      .backend = &w->backend, .watch = &t->watch, .rank = w->index, .ranks = t->workers};
  if (t->apart.way == WAY_MESSAGES || atomic_load(&t->apart.needed))
    return t->apart.ops->open(&t->apart.id, &options, &d->transport, err);
  return keep_transport(w, t->apart.ops->open(&t->apart.id, &options, &d->transport, NULL), err);
}

void device_separate_release(struct worker *w) {
  struct device_worker *d = w->device;
  if (d->transport) w->trainer->apart.ops->close(d->transport);
  w->backend.ops->release(&w->backend, LS_MEMORY_DEVICE, d->staging, 0);
}

const float *device_tail(const struct worker *w, int of) {
  const struct trainer *t = w->trainer;
  const float *tail = t->worker[of].gradients[0] + t->summed_floats;
  int64_t at = t->apart.way == WAY_MESSAGES ? ls_exchange_tail(&t->exchange, w->index, of) : -1;
  return at < 0 ? tail : w->device->staging + at;
}

const float *device_part(const struct worker *w, int bucket, int of) {
  const struct trainer *t = w->trainer;
  int64_t at = t->apart.way == WAY_MESSAGES ? ls_exchange_part(&t->exchange, bucket, w->index, of) : -1, first, last;
  if (at < 0) return t->worker[of].gradients[0];
  ls_exchange_slice(&t->exchange, bucket, w->index, &first, &last);
  // As if the whole slab of the other were here: of it only the slice is read.
  return (const float *)((uintptr_t)(w->device->staging + at) - (uintptr_t)first * sizeof(float));
}

const uint32_t *device_overflow(const struct worker *w, int of) {
  const struct trainer *t = w->trainer;
  if (t->apart.way != WAY_MESSAGES || of == w->index) return t->worker[of].device->overflow;
  return (const uint32_t *)(const void *)(device_tail(w, of) + FLAG);
}

static struct ls_transfer *own_transfers(struct worker *w) {
  return w->trainer->apart.transfers + (size_t)w->index * LS_EXCHANGE_TRANSFERS;
}

ls_status device_send_gradients(struct worker *w, int bucket, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  int64_t begin = t->exchange.cut[bucket], end = t->exchange.cut[bucket + 1];
  if (end > t->learned_floats) end = t->learned_floats;
  if (t->apart.way == WAY_SUMS)
    return begin < end ? t->apart.ops->sum(d->transport, d->communication, w->gradients[0] + begin, end - begin, err)
                       : LS_OK;
  struct ls_transfer *transfers = own_transfers(w);
  int count = ls_exchange_scatter(&t->exchange, bucket, w->index, transfers);
  return t->apart.ops->exchange(d->transport, d->communication, transfers, count, w->gradients[0], d->staging, err);
}

ls_status device_send_tails(struct worker *w, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  float *slab = w->gradients[0], *flag = slab + t->summed_floats + FLAG;
  if (t->apart.way == WAY_SUMS)
    return t->apart.ops->sum(d->transport, d->communication, slab + t->learned_floats,
                             t->summed_floats + LS_METRICS - t->learned_floats, err);
  struct ls_transfer *transfers = own_transfers(w);
  if (t->dtype == LS_F16)
    LS_TRY(w->backend.ops->device->copy(&w->backend, d->communication, flag, d->overflow, sizeof *d->overflow, err));
  int count = ls_exchange_tails(&t->exchange, w->index, transfers);
  return t->apart.ops->exchange(d->transport, d->communication, transfers, count, slab, d->staging, err);
}

ls_status device_send_parameters(struct worker *w, int bucket, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  struct ls_transfer *transfers = own_transfers(w);
  int count = ls_exchange_gather(&t->exchange, bucket, w->index, transfers);
  return t->apart.ops->exchange(d->transport, d->communication, transfers, count, d->slabs->parameters, NULL, err);
}
