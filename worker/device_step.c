// The training step of a worker on a device: see step.c for the same step on the host's cores, and device.h.
//
//   copy stream      ... upload of batch k ─┐         upload of batch k+1 ...
//                                           ▼         ▲ consumed
//   compute stream                        input kernel┘─ forward ─ backward ───────────┬─ backward ────────────┐ computed[0]
//                                                        (all shards; merges of bucket 1)│computed[1]            │
//                                                                                       ▼                       ▼
//   communication stream   waits for all workers' ──────── exchange, sum, update of my slice of bucket 1 ─ of bucket 0 ─ ended
//   host                   enqueues ─ barrier ─ enqueues ─ fetches batch k+1 ─ waits for `ended` ─ barrier ─ next step
//
// The backward pass is cut behind each bucket of the gradient slab (ls_plan_buckets), last bucket first, each stretch a
// recording of its own, an event behind it. With one bucket there is nothing to overlap: communication is then enqueued on
// the compute stream itself. Why nobody reads what another still writes:
//
// - Gradients of a bucket are read (by this worker's kernels, by those of all others, or by messages) behind computed[bucket]
//   of the worker they belong to, and not written any more behind it: its last operation, and the merges of its range of the
//   tree, stand before the event. Of several shards only the last one's pass is cut; its own buffer is merged into others'
//   and is never written itself, so batch norms still find their statistics there.
// - Parameters of a bucket are written, on whatever device, behind computed[bucket] of all workers that read that device's:
//   no operation behind the event reads one. Devices that are apart write their own, behind their own event. Slices of
//   different workers do not overlap, and a worker's buckets follow each other on its communication stream.
// - An event is recorded before another worker's stream waits for it: the barrier between the two (devices that are apart wait
//   for their own only; messages pair by themselves).
// - Staging, tails and flags are written and read on the communication stream, at places of their own for each bucket.
// - Nothing of the next step begins before the host has seen `ended`, which stands behind all the rest (the last bucket waits
//   for the whole pass), and has met the others, who have seen theirs: parameters are new, gradients, staging and the numbers
//   of the step are free. Only the upload of the next batch runs ahead: into memory that the input kernel has done with.
// - `reduce: fast` sums a bucket's gradients where they lie, behind this worker's own computed[bucket]: nobody reads learned
//   ones but updates. Statistics, which the pass still reads, are summed and updated behind all of it (device_apart.c).
// - With float16's loss scale nothing may change if anybody's gradients are out of range, which is known at the end of the
//   pass: messages go off bucket by bucket, updates all come behind the last.
//
// tests/races holds the order of events to this, access by access. Nothing is allocated on this path, and the host waits for
// the device once a step, at its end.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "worker/device.h"

enum { LOOK_NS = 100000 };  // how often a worker looks for a late batch

static ls_status stopped(struct ls_error *err) { return ls_fail(err, LS_CANCELLED, "another worker failed"); }

// Waits for batch `index`. Only what the device waits too is time lost to input: while it computes, nothing is.
static ls_status await_batch(struct worker *w, uint64_t index, bool computes, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_device_ops *device = w->backend.ops->device;
  while (computes && device->event_done && t->loader && !ls_loader_ready(t->loader, index)) {
    bool done = false;
    LS_TRY(device->event_done(&w->backend, d->computed[0], &done, err));
    computes = !done;
    if (computes) nanosleep(&(struct timespec){0, LOOK_NS}, NULL);
  }
  int64_t start = ls_clock_ns();
  LS_TRY(trainer_batch(t, index, &d->batch, err));
  __atomic_fetch_add(&w->wait_ns, ls_clock_ns() - start, __ATOMIC_RELAXED);  // worker 0 may report already
  d->batch_step = index;
  return LS_OK;
}

// Waits for batch `index` and starts the upload of this worker's part, behind the input kernel of the one before.
static ls_status fetch(struct worker *w, uint64_t index, bool computes, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_backend_ops *ops = w->backend.ops;
  LS_TRY(await_batch(w, index, computes, err));
  const struct ls_batch *batch = d->batch;
  int64_t images = t->shard_batch * t->shards_each, first = w->index * images, words = batch->place_words;
  int64_t bytes = batch->height * batch->width * ls_graph_input_shape(t->graph).dim[0];
  memcpy(d->host->labels, batch->labels + first, (size_t)images * sizeof(int32_t));
  if (words)
    memcpy(d->host->labels + images, batch->places + first * words, (size_t)(images * words) * sizeof(int32_t));
  LS_TRY(ops->stream_wait_event(&w->backend, d->copy, d->consumed, err));
  LS_TRY(ops->upload(&w->backend, d->copy, d->next_labels, d->host->labels,
                     (size_t)(images * (1 + words)) * sizeof(int32_t), err));
  LS_TRY(ops->upload(&w->backend, d->copy, d->pixels, (const uint8_t *)batch->images + first * bytes,
                     (size_t)(images * bytes), err));
  return ops->event_record(&w->backend, d->uploaded, d->copy, err);
}

// The batch's memory goes back to the loader once it is on the device.
static ls_status let_go(struct worker *w, struct ls_error *err) {
  struct device_worker *d = w->device;
  const struct ls_batch *batch = d->batch;
  if (!batch) return LS_OK;
  ls_status status = w->backend.ops->stream_wait_idle(&w->backend, d->copy, err);
  if (w->trainer->loader) ls_loader_done(w->trainer->loader, batch);
  d->batch = NULL;
  return status;
}

// Uploaded pixels to the network's input; behind it the upload's memory is free again.
static ls_status make_input(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_backend_ops *ops = w->backend.ops;
  struct ls_shape in = ls_graph_input_shape(t->graph);
  struct ls_input input = {.pixels = d->pixels,
                           .out = d->input,
                           .dtype = t->dtype,
                           .images = (int32_t)(t->shard_batch * t->shards_each),
                           .height = (int32_t)d->batch->height,
                           .width = (int32_t)d->batch->width,
                           .h = (int32_t)in.dim[1],
                           .w = (int32_t)in.dim[2],
                           .c = (int32_t)in.dim[0],
                           .out_c = (int32_t)ls_plan_input_channels(w->plan ? w->plan : w->evaluation_plan)};
  input.place_words = d->batch->place_words;
  if (d->batch->places) input.places = d->next_labels + input.images;
  for (int c = 0; c < 4; c++) {
    input.scale[c] = t->normalisation.scale[c];
    input.bias[c] = t->normalisation.bias[c];
  }
  LS_TRY(ops->stream_wait_event(&w->backend, NULL, d->uploaded, err));
  size_t labels = (size_t)input.images * sizeof *d->labels;
  LS_TRY(ops->device->copy(&w->backend, NULL, d->labels, d->next_labels, labels, err));
  // In one go where the shards' inputs follow each other without a gap.
  size_t apart = device_input_bytes(w), images = (size_t)input.images * (size_t)(input.height * input.width * input.c);
  int goes = apart == ls_plan_input_bytes(w->plan ? w->plan : w->evaluation_plan) ? 1 : t->shards_each;
  input.images /= goes;
  for (int i = 0; i < goes; i++) {
    LS_TRY(ops->device->input(&w->backend, NULL, &input, err));
    input.pixels += images / (size_t)goes;
    if (input.places) input.places += input.images * input.place_words;
    input.out = (char *)input.out + apart;
  }
  return ops->event_record(&w->backend, d->consumed, NULL, err);
}

// The tree's merges behind shard `i` of this worker, of [begin, end) of the slab.
static ls_status merge(struct worker *w, int i, int64_t begin, int64_t end, struct ls_error *err) {
  int buffer = ls_tree_buffer(i);
  for (int left = ls_tree_merges(i); left > 0 && buffer > 0; left--, buffer--) {
    const float *parts[] = {w->gradients[buffer - 1] + begin, w->gradients[buffer] + begin};
    LS_TRY(w->backend.ops->device->tree_sum(&w->backend, NULL, w->gradients[buffer - 1] + begin, parts, 2, end - begin,
                                            err));
  }
  return LS_OK;
}

// Enqueues this worker's shards up to where a bucket is complete: for the last bucket, which comes first, all of them but for
// the rest of the last one's backward pass; for the others a stretch of that. Their sum ends in gradient buffer 0.
static ls_status enqueue_shards(struct worker *w, int bucket, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct ls_exchange *x = &t->exchange;
  int last = t->shards_each - 1;
  bool first_part = bucket == x->buckets - 1;
  for (int i = 0; i < t->shards_each && first_part; i++) {
    LS_TRY(ls_binding_forward(w->bindings[i], NULL, err));
    if (i == last) break;
    LS_TRY(ls_binding_backward(w->bindings[i], NULL, err));
    LS_TRY(merge(w, i, 0, t->gradient_floats, err));
  }
  int done = first_part ? 0 : t->bucket_operations[bucket + 1];
  LS_TRY(ls_binding_backward_part(w->bindings[last], done, t->bucket_operations[bucket], NULL, err));
  // What lies behind the slab is of the forward pass.
  LS_TRY(merge(w, last, x->cut[bucket], first_part ? t->gradient_floats : x->cut[bucket + 1], err));
  if (t->dtype != LS_F16 || bucket > 0 || device_way(t) == WAY_SUMS) return LS_OK;
  // What is out of range in one of the workers' sums is so in every sum of them, however many there are.
  return w->backend.ops->device->check_finite(&w->backend, NULL, w->gradients[0], t->summed_floats, w->device->overflow,
                                              err);
}

// The first time runs directly: libraries load their kernels then. The second is recorded. Where recording fails it goes on
// directly, with the same results.
static ls_status run_recorded(struct worker *w, struct device_recording *r,
                              ls_status (*enqueue)(struct worker *w, int part, struct ls_error *err), int part,
                              struct ls_error *err) {
  const struct ls_device_ops *ops = w->backend.ops->device;
  if (r->made) return ops->replay(&w->backend, r->made, err);
  bool record = ops->record_begin && r->runs++ > 0 && !r->never && !w->trainer->profile;
  if (!record || ops->record_begin(&w->backend, NULL) != LS_OK) return enqueue(w, part, err);
  ls_status status = enqueue(w, part, NULL);
  if (ops->record_end(&w->backend, &r->made, NULL) == LS_OK && status == LS_OK)
    return ops->replay(&w->backend, r->made, err);
  if (r->made) ops->recording_free(r->made);
  r->made = NULL;
  r->never = true;
  return enqueue(w, part, err);
}

// Forward and backward of all shards, an event behind each bucket.
static ls_status compute(struct worker *w, struct ls_error *err) {
  struct device_worker *d = w->device;
  for (int b = w->trainer->exchange.buckets - 1; b >= 0; b--) {
    LS_TRY(run_recorded(w, &d->training[b], enqueue_shards, b, err));
    LS_TRY(w->backend.ops->event_record(&w->backend, d->computed[b], NULL, err));
  }
  return LS_OK;
}

// How many tails make the whole: where the transport sums, worker 0's is everybody's.
static int tail_count(const struct trainer *t) { return device_way(t) == WAY_SUMS ? 1 : t->workers; }

// Worker 0: the metrics of all shards and whether any gradient is out of range, on their way to the host.
static ls_status ask_for_metrics(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_backend_ops *ops = w->backend.ops;
  struct ls_stream *on = d->communication;
  int parts = tail_count(t);
  const float *metrics[LS_MAX_WORKERS] = {NULL};
  for (int i = 0; i < parts; i++) metrics[i] = device_tail(w, i);
  LS_TRY(ops->device->tree_sum(&w->backend, on, d->metrics, metrics, parts, LS_METRICS, err));
  for (int i = 0; i < parts && t->dtype == LS_F16; i++) {
    LS_TRY(ops->download(&w->backend, on, &d->host->overflow[i], device_overflow(w, i), sizeof(uint32_t), err));
  }
  return ops->download(&w->backend, on, d->host->metrics, d->metrics, sizeof d->host->metrics, err);
}

// The communication stream waits until the gradients of a bucket are there: everybody's, or this worker's own and then by
// messages the others'.
static ls_status await_bucket(struct worker *w, int bucket, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct ls_stream *on = w->device->communication;
  for (int i = 0; i < t->workers; i++) {
    if (i == w->index ? !on : device_way(t) != WAY_REACH) continue;
    LS_TRY(w->backend.ops->stream_wait_event(&w->backend, on, t->worker[i].device->computed[bucket], err));
  }
  return device_way(t) != WAY_REACH ? device_send_gradients(w, bucket, err) : LS_OK;
}

// [begin, end) of the slab, updated from one part, the sum over all workers. The same on every device.
static ls_status update_summed(struct worker *w, int64_t begin, int64_t end, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  struct ls_update update = {.part = {w->gradients[0]},
                             .overflow = {t->dtype == LS_F16 ? d->overflow : NULL},
                             .parts = 1,
                             .parameters = d->slabs->parameters,
                             .momentum = d->slabs->momentum,
                             .rules = d->slabs->rules,
                             .rule_of_line = d->slabs->rule_of_line,
                             .numbers = d->numbers,
                             .begin = begin,
                             .end = end};
  return begin < end ? w->backend.ops->device->update(&w->backend, d->communication, &update, err) : LS_OK;
}

// Sums this worker's slice of a bucket over all workers and updates it, on all devices.
static ls_status update_slice(struct worker *w, int bucket, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  struct ls_update update = {.parts = t->workers,
                             .parameters = d->slabs->parameters,
                             .momentum = device_momentum_base(w, bucket),
                             .rules = d->slabs->rules,
                             .rule_of_line = d->slabs->rule_of_line,
                             .numbers = d->numbers};
  for (int i = 0; i < t->workers; i++) {
    update.part[i] = device_part(w, bucket, i);
    if (t->dtype == LS_F16) update.overflow[i] = device_overflow(w, i);
  }
  for (int i = 0; i < t->devices && device_way(t) == WAY_REACH; i++) {
    if (&t->slabs[i] != d->slabs) update.copy[update.copies++] = t->slabs[i].parameters;
  }
  ls_exchange_slice(&t->exchange, bucket, w->index, &update.begin, &update.end);
  if (update.begin < update.end) LS_TRY(w->backend.ops->device->update(&w->backend, d->communication, &update, err));
  return device_way(t) == WAY_MESSAGES ? device_send_parameters(w, bucket, err) : LS_OK;
}

static ls_status update_bucket(struct worker *w, int bucket, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  int64_t end = t->exchange.cut[bucket + 1], learned = t->learned_floats;
  if (device_way(t) != WAY_SUMS) return update_slice(w, bucket, err);
  return update_summed(w, t->exchange.cut[bucket], end < learned ? end : learned, err);
}

// What is exchanged behind the whole pass: metrics, flags; sums of statistics.
static ls_status exchange_tails(struct worker *w, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  LS_TRY(device_send_tails(w, err));
  if (device_way(t) != WAY_SUMS) return LS_OK;
  // What is out of range on one device is so in the sum, and that is the same on all of them.
  if (t->dtype == LS_F16)
    LS_TRY(w->backend.ops->device->check_finite(&w->backend, d->communication, w->gradients[0], t->summed_floats,
                                                d->overflow, err));
  return update_summed(w, t->learned_floats, t->summed_floats, err);
}

// Everything behind the gradients, enqueued: see the top.
static ls_status communicate(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_backend_ops *ops = w->backend.ops;
  bool late = t->dtype == LS_F16;
  LS_TRY(ops->upload(&w->backend, d->communication, d->numbers, &d->host->numbers, sizeof *d->numbers, err));
  for (int b = t->exchange.buckets - 1; b >= 0; b--) {
    LS_TRY(await_bucket(w, b, err));
    if (!late) LS_TRY(update_bucket(w, b, err));
  }
  if (device_way(t) != WAY_REACH) LS_TRY(exchange_tails(w, err));
  for (int b = t->exchange.buckets - 1; b >= 0 && late; b--) LS_TRY(update_bucket(w, b, err));
  return w->index == 0 ? ask_for_metrics(w, err) : LS_OK;
}

static void set_numbers(struct worker *w) {
  struct trainer *t = w->trainer;
  struct device_host *host = w->device->host;
  float scale = t->dtype == LS_F16 ? (float)t->loss_scale.scale : 1;
  host->numbers = (struct ls_update_numbers){.learning_rate = t->sgd.learning_rate,
                                             .momentum = t->sgd.momentum,
                                             .weight_decay = t->sgd.weight_decay,
                                             .gradient_scale = 1 / scale,
                                             .nesterov = t->sgd.nesterov};
  for (int i = 0; i < t->shards_each; i++) {
    int shard = w->index * t->shards_each + i;
    host->steps[i] = (struct ls_step_parameters){.seed = t->job ? t->job->seed : 1,
                                                 .step = t->step,
                                                 .first_image = (uint64_t)(shard * t->shard_batch),
                                                 .loss_scale = scale};
  }
}

// Worker 0, alone: what the step gave, and what the next one is done with.
static ls_status end_step(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct device_host *host = w->device->host;
  for (int i = 0; i < LS_METRICS; i++) t->metrics[i] = host->metrics[i];
  bool overflow = false;
  for (int i = 0; i < tail_count(t) && t->dtype == LS_F16; i++) overflow |= host->overflow[i] != 0;
  if (t->dtype == LS_F16 && !ls_loss_scale_step(&t->loss_scale, overflow)) {
    return ls_fail(err, LS_DIVERGED,
                   "the gradients of step %" PRIu64
                   " are beyond float16's range even without a loss scale; bfloat16 "
                   "has the range of float32",
                   t->step);
  }
  t->go_on = t->after_step(t->user, t);  // counts the step
  return LS_OK;
}

static ls_status one_step(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_backend_ops *ops = w->backend.ops;
  d->step = t->step;
  device_says(w, LS_WATCH_INPUT);
  if (!d->batch || d->batch_step != t->step) LS_TRY(fetch(w, t->step, false, err));
  device_says(w, LS_WATCH_COMPUTES);
  set_numbers(w);
  size_t bytes = (size_t)t->shards_each * sizeof *d->steps;
  LS_TRY(ops->upload(&w->backend, NULL, d->steps, d->host->steps, bytes, err));
  LS_TRY(make_input(w, err));
  LS_TRY(compute(w, err));
  if (device_way(t) == WAY_REACH && !ls_barrier_wait(&t->barrier)) return stopped(err);  // all are enqueued
  LS_TRY(communicate(w, err));
  LS_TRY(let_go(w, err));
  device_says(w, LS_WATCH_INPUT);
  // By its own count: worker 0 may have ended the step already.
  if (d->step + 1 < t->target_step) LS_TRY(fetch(w, d->step + 1, true, err));
  device_says(w, LS_WATCH_COMPUTES);
  LS_TRY(device_wait(w, err));
  if (w->index == 0) LS_TRY(end_step(w, err));
  return ls_barrier_wait(&t->barrier) ? LS_OK : stopped(err);  // all parameters are new
}

ls_status device_train(struct worker *w, struct ls_error *err) {
  do {
    LS_TRY(one_step(w, err));
  } while (w->trainer->go_on);
  return LS_OK;
}

static ls_status enqueue_evaluation(struct worker *w, int part, struct ls_error *err) {
  (void)part;
  for (int i = 0; i < w->trainer->shards_each; i++) LS_TRY(ls_binding_forward(w->device->evaluation[i], NULL, err));
  return LS_OK;
}

// Several images a sample: the shards' probabilities, to the sums of their samples.
static ls_status add_views(struct worker *w, int shards, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct device_worker *d = w->device;
  size_t bytes = (size_t)(t->shard_batch * ls_graph_classes(t->graph)) * sizeof(float);
  float *p = malloc(bytes);
  ls_status status = p ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for probabilities");
  for (int i = 0; i < shards && status == LS_OK; i++) {
    // Each shard's pass overwrites what the one before it left, so it runs once more, alone.
    status = ls_binding_forward(d->evaluation[i], NULL, err);
    if (status == LS_OK)
      status = t->ops->download(&w->backend, NULL, p, ls_binding_probabilities(d->evaluation[i]), bytes, err);
    if (status == LS_OK) worker_add_views(w, d->batch, w->index * t->shards_each + i, p);
  }
  free(p);
  return status;
}

// One batch: the sums of this worker's shards go to where all workers' lie. The next one is uploaded meanwhile, unless this
// one is needed to its end (add_views).
static ls_status evaluate_batch(struct worker *w, uint64_t index, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  const struct ls_backend_ops *ops = w->backend.ops;
  if (!d->batch) LS_TRY(fetch(w, index, false, err));
  int64_t valid = d->batch->valid;
  LS_TRY(make_input(w, err));
  int shards = 0;
  while (shards < t->shards_each && (w->index * t->shards_each + shards) * t->shard_batch < valid) shards++;
  if (shards == t->shards_each) {
    LS_TRY(run_recorded(w, &d->evaluating, enqueue_evaluation, 0, err));
  } else {  // the last batch: nothing but filler behind
    for (int i = 0; i < shards; i++) LS_TRY(ls_binding_forward(d->evaluation[i], NULL, err));
  }
  size_t bytes = (size_t)t->shards_each * LS_METRICS * sizeof(float);
  LS_TRY(ops->download(&w->backend, NULL, d->host->shard_metrics, d->shard_metrics, bytes, err));
  if (!t->view_sums) LS_TRY(let_go(w, err));
  if (!t->view_sums && index + 1 < t->evaluation_batches) LS_TRY(fetch(w, index + 1, false, err));
  LS_TRY(ops->stream_wait_idle(&w->backend, NULL, err));
  for (int i = 0; i < shards; i++) {
    int shard = w->index * t->shards_each + i;
    double *sums = t->evaluation_parts + (index * (uint64_t)t->shards + (uint64_t)shard) * LS_METRICS;
    for (int m = 0; m < LS_METRICS; m++) sums[m] = d->host->shard_metrics[i][m];
  }
  return t->view_sums ? add_views(w, shards, err) : LS_OK;
}

ls_status device_evaluate(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  // Training fetches no batch beyond the step where its command ends at the latest, and evaluations come only there.
  if (w->device->batch) return ls_fail(err, LS_INTERNAL, "an evaluation while a training batch waits");
  int64_t wait_ns = w->wait_ns;
  ls_status status = LS_OK;
  for (uint64_t b = 0; b < t->evaluation_batches && status == LS_OK; b++) {
    status = evaluate_batch(w, b, err);
    if (status == LS_OK && !t->view_sums) continue;
    ls_status freed = let_go(w, status == LS_OK ? err : NULL);
    if (status == LS_OK) status = freed;
  }
  w->wait_ns = wait_ns;  // it is training's share that is reported
  return status;
}

ls_status device_refresh(struct worker *w, struct ls_error *err) {
  if (!device_leads(w)) return LS_OK;
  LS_TRY(ls_binding_refresh(w->device->evaluation[0], NULL, err));
  return w->backend.ops->stream_wait_idle(&w->backend, NULL, err);
}
