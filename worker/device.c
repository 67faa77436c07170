// See device.h.
#include "worker/device.h"

#include <stdlib.h>
#include <string.h>

int device_of(const struct trainer *t, int index) { return (int)((int64_t)index * t->devices / t->workers); }

bool device_leads(const struct worker *w) {
  return w->index == 0 || device_of(w->trainer, w->index) != device_of(w->trainer, w->index - 1);
}

static ls_status allocate(struct worker *w, enum ls_memory kind, size_t bytes, void *memory, struct ls_error *err) {
  void *got = NULL;
  LS_TRY(w->backend.ops->allocate(&w->backend, kind, bytes, &got, err));
  memcpy(memory, &got, sizeof got);
  if (kind == LS_MEMORY_DEVICE) atomic_fetch_add(&w->trainer->device_bytes, bytes);
  return LS_OK;
}

static ls_status allocate_zeros(struct worker *w, size_t bytes, void *memory, struct ls_error *err) {
  void *got = NULL;
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, bytes, &got, err));
  memcpy(memory, &got, sizeof got);
  return w->backend.ops->device->zero(&w->backend, NULL, got, bytes, err);
}

// The optimizer's table: a rule for each parameter, and which one each line of the slab follows.
static ls_status make_rules(struct worker *w, struct device_slabs *slabs, struct ls_error *err) {
  const struct trainer *t = w->trainer;
  size_t lines = (size_t)t->parameter_floats / LS_DEVICE_LINE + 1, count = (size_t)t->segment_count;
  if (t->segment_count >= UINT16_MAX)
    return ls_fail(err, LS_UNSUPPORTED, "a network of %d parameters: devices go up to %d", t->segment_count,
                   UINT16_MAX - 1);
  struct ls_update_rule *rules = calloc(count + 1, sizeof *rules);
  uint16_t *rule_of_line = malloc(lines * sizeof *rule_of_line);
  ls_status status = rules && rule_of_line ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for the parameters' table");
  if (status == LS_OK) memset(rule_of_line, 0xff, lines * sizeof *rule_of_line);
  for (int i = 0; i < t->segment_count && status == LS_OK; i++) {
    const struct segment *s = &t->segments[i];
    rules[i] = (struct ls_update_rule){.momentum = s->momentum - s->begin,
                                       .learned = s->learned,
                                       .decay = s->decays ? 1 : 0,
                                       .share = s->share,
                                       .scale = s->statistic_scale / (float)t->shards};
    for (int64_t l = s->begin / LS_DEVICE_LINE; l * LS_DEVICE_LINE < s->end; l++) rule_of_line[l] = (uint16_t)i;
  }
  const struct ls_backend_ops *ops = w->backend.ops;
  if (status == LS_OK) status = allocate(w, LS_MEMORY_DEVICE, (count + 1) * sizeof *rules, &slabs->rules, err);
  if (status == LS_OK) status = ops->upload(&w->backend, NULL, slabs->rules, rules, (count + 1) * sizeof *rules, err);
  size_t bytes = lines * sizeof *rule_of_line;
  if (status == LS_OK) status = allocate(w, LS_MEMORY_DEVICE, bytes, &slabs->rule_of_line, err);
  if (status == LS_OK) status = ops->upload(&w->backend, NULL, slabs->rule_of_line, rule_of_line, bytes, err);
  free(rules);
  free(rule_of_line);
  return status;
}

static ls_status make_slabs(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_slabs *slabs = &t->slabs[device_of(t, w->index)];
  slabs->owner = &w->backend;
  LS_TRY(allocate_zeros(w, (size_t)t->parameter_floats * sizeof(float), &slabs->parameters, err));
  if (w->evaluation_plan)
    LS_TRY(allocate(w, LS_MEMORY_DEVICE, ls_plan_folded_bytes(w->evaluation_plan), &slabs->folded, err));
  if (w->plan) LS_TRY(make_rules(w, slabs, err));
  if (w->index == 0) t->parameters = slabs->parameters;
  return LS_OK;
}

int64_t device_momentum(const struct ls_exchange *x, int devices, int64_t learned, bool whole, int device, int bucket,
                        int64_t *begin, int64_t *end) {
  int64_t at = 0;
  for (int b = 0; b < x->buckets; b++) {
    *begin = *end = -1;
    for (int i = 0; i < x->ranks; i++) {
      int64_t first, last;
      if (!whole && (int)((int64_t)i * devices / x->ranks) != device) continue;
      ls_exchange_slice(x, b, i, &first, &last);
      if (*begin < 0) *begin = first;
      *end = last;  // slices of consecutive workers lie one behind another
    }
    // Devices leave no gradients as factors, so learned parameters come first in the slab.
    if (*end > learned) *end = learned;
    if (*begin > *end) *begin = *end;
    if (b == bucket) return at;
    at += *end - *begin;
  }
  return at;
}

static bool momentum_is_whole(const struct trainer *t) { return t->devices == 1 || t->apart.way == WAY_SUMS; }

// Of this trainer; `memory`: where the stretch lies on the device.
static void momentum_stretch(const struct trainer *t, int device, int bucket, int64_t *begin, int64_t *end,
                             float **memory) {
  int64_t at =
      device_momentum(&t->exchange, t->devices, t->learned_floats, momentum_is_whole(t), device, bucket, begin, end);
  *memory = t->slabs[device].momentum + at;
}

float *device_momentum_base(const struct worker *w, int bucket) {
  int64_t begin, end;
  float *memory;
  momentum_stretch(w->trainer, device_of(w->trainer, w->index), bucket, &begin, &end, &memory);
  // As if the whole slab were here: of it only this device's stretch is touched.
  return (float *)((uintptr_t)memory - (uintptr_t)begin * sizeof(float));
}

// Behind device_separate, which cuts the slabs.
static ls_status make_momentum(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_slabs *slabs = w->device->slabs;
  int64_t begin, end;
  int64_t floats = device_momentum(&t->exchange, t->devices, t->learned_floats, momentum_is_whole(t),
                                   device_of(t, w->index), t->exchange.buckets, &begin, &end);
  LS_TRY(allocate_zeros(w, (size_t)floats * sizeof(float), &slabs->momentum, err));
  if (w->index == 0) t->momentum = momentum_is_whole(t) ? slabs->momentum : w->gradients[0];
  return w->backend.ops->stream_wait_idle(&w->backend, NULL, err);
}

static ls_status make_streams(struct worker *w, struct device_worker *d, struct ls_error *err) {
  const struct ls_backend_ops *ops = w->backend.ops;
  LS_TRY(ops->stream_new(&w->backend, &d->copy, err));
  LS_TRY(ops->event_new(&w->backend, &d->uploaded, err));
  LS_TRY(ops->event_new(&w->backend, &d->consumed, err));
  for (int b = 0; b < LS_EXCHANGE_BUCKETS; b++) LS_TRY(ops->event_new(&w->backend, &d->computed[b], err));
  return ops->event_new(&w->backend, &d->ended, err);
}

size_t device_input_bytes(const struct worker *w) {
  return ls_device_align(ls_plan_input_bytes(w->plan ? w->plan : w->evaluation_plan));
}

ls_status device_make(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device = calloc(1, sizeof *d);
  if (!d) return ls_fail(err, LS_NO_MEMORY, "no memory for a worker");
  d->slabs = &t->slabs[device_of(t, w->index)];
  if (device_leads(w)) LS_TRY(make_slabs(w, err));
  LS_TRY(make_streams(w, d, err));
  struct ls_shape in = ls_graph_input_shape(t->graph);
  size_t images = (size_t)(t->shard_batch * t->shards_each), shards = (size_t)t->shards_each;
  size_t pixels = images * (size_t)ls_shape_elements(&in) * LS_WHOLE_FACTOR;
  size_t travels = images * (1 + LS_PLACE_WORDS) * sizeof(int32_t);
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, pixels, &d->pixels, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, images * sizeof *d->labels, &d->labels, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, travels, &d->next_labels, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, shards * device_input_bytes(w), &d->input, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, shards * sizeof *d->steps, &d->steps, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, sizeof *d->numbers, &d->numbers, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, sizeof *d->overflow, &d->overflow, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, LS_METRICS * sizeof(float), &d->metrics, err));
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, shards * LS_METRICS * sizeof(float), &d->shard_metrics, err));
  LS_TRY(allocate(w, LS_MEMORY_PINNED, sizeof *d->host + travels, &d->host, err));
  size_t training = w->plan ? ls_plan_activation_bytes(w->plan) : 0;
  size_t evaluation = w->evaluation_plan ? ls_plan_activation_bytes(w->evaluation_plan) : 0;
  w->activation_bytes = training > evaluation ? training : evaluation;
  LS_TRY(allocate(w, LS_MEMORY_DEVICE, w->activation_bytes, &w->activations, err));
  for (int i = 0; w->plan && i < ls_tree_buffers(t->shards_each); i++)
    LS_TRY(allocate_zeros(w, ls_plan_gradient_bytes(w->plan), &w->gradients[i], err));
  return w->backend.ops->stream_wait_idle(&w->backend, NULL, err);
}

ls_status device_bind(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct device_worker *d = w->device;
  for (int i = 0; i < t->devices; i++) {
    struct ls_error error = LS_ERROR_INIT;
    ls_status status = w->backend.ops->device->reach(&w->backend, i, &error);
    if (status == LS_UNSUPPORTED)
      atomic_store(&t->apart.needed, true);
    else if (status != LS_OK)
      return ls_fail(err, status, "%s", error.text);
  }
  if (w->plan) LS_TRY(device_separate(w, err));
  if (w->plan && device_leads(w)) LS_TRY(make_momentum(w, err));
  struct ls_plan_memory memory = {
      .parameters = d->slabs->parameters, .activations = w->activations, .folded = d->slabs->folded};
  size_t input_bytes = device_input_bytes(w);
  for (int i = 0; i < t->shards_each; i++) {
    memory.input = (char *)d->input + (size_t)i * input_bytes;
    memory.labels = d->labels + i * t->shard_batch;
    memory.step = d->steps + i;
    memory.metrics = d->shard_metrics + i * LS_METRICS;
    memory.gradients = w->gradients[ls_tree_buffer(i)];
    if (w->plan) LS_TRY(ls_plan_bind(w->plan, &memory, &w->bindings[i], err));
    memory.gradients = NULL;
    if (w->evaluation_plan) LS_TRY(ls_plan_bind(w->evaluation_plan, &memory, &d->evaluation[i], err));
  }
  return LS_OK;
}

static void release_slabs(struct worker *w, struct device_slabs *slabs) {
  void *memory[] = {slabs->parameters, slabs->momentum, slabs->folded, slabs->rules, slabs->rule_of_line};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
    w->backend.ops->release(&w->backend, LS_MEMORY_DEVICE, memory[i], 0);
  *slabs = (struct device_slabs){0};
}

void device_release(struct worker *w) {
  struct device_worker *d = w->device;
  if (!d) return;
  const struct ls_backend_ops *ops = w->backend.ops;
  for (int b = 0; b < LS_EXCHANGE_BUCKETS; b++) {
    if (d->training[b].made) ops->device->recording_free(d->training[b].made);
    if (d->computed[b]) ops->event_free(&w->backend, d->computed[b]);
  }
  if (d->evaluating.made) ops->device->recording_free(d->evaluating.made);
  for (int i = 0; i < LS_MAX_WORKERS; i++) ls_binding_free(d->evaluation[i]);
  device_separate_release(w);
  void *memory[] = {d->pixels,  d->labels,  d->next_labels, d->input,        d->steps,
                    d->numbers, d->metrics, d->overflow,    d->shard_metrics};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) ops->release(&w->backend, LS_MEMORY_DEVICE, memory[i], 0);
  ops->release(&w->backend, LS_MEMORY_PINNED, d->host, 0);
  struct ls_event *events[] = {d->uploaded, d->consumed, d->ended};
  for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
    if (events[i]) ops->event_free(&w->backend, events[i]);
  }
  if (d->copy) ops->stream_free(&w->backend, d->copy);
  if (d->communication) ops->stream_free(&w->backend, d->communication);
  if (device_leads(w)) release_slabs(w, d->slabs);
  free(d);
  w->device = NULL;
}

// Between trainer->momentum and where the devices hold it.
static ls_status move_momentum(struct trainer *t, bool gather, struct ls_error *err) {
  struct ls_backend *backend = &t->worker[0].backend;
  for (int i = 0; i < t->devices * t->exchange.buckets && t->momentum; i++) {
    int64_t begin, end;
    float *memory;
    momentum_stretch(t, i % t->devices, i / t->devices, &begin, &end, &memory);
    float *together = t->momentum + begin;
    // Where every device holds all of it, device 0's is the one that is asked.
    if (begin >= end || memory == together || (gather && momentum_is_whole(t))) continue;
    LS_TRY(t->ops->device->copy(backend, NULL, gather ? together : memory, gather ? memory : together,
                                (size_t)(end - begin) * sizeof(float), err));
  }
  return LS_OK;
}

ls_status device_gather(struct trainer *t, struct ls_error *err) {
  LS_TRY(move_momentum(t, true, err));
  return t->ops->stream_wait_idle(&t->worker[0].backend, NULL, err);
}

ls_status device_forget(struct trainer *t, struct ls_error *err) {
  struct ls_backend *backend = &t->worker[0].backend;
  size_t bytes = (size_t)t->learned_floats * sizeof(float);
  if (t->momentum && !momentum_is_whole(t)) LS_TRY(t->ops->device->zero(backend, NULL, t->momentum, bytes, err));
  return t->ops->stream_wait_idle(backend, NULL, err);
}

ls_status device_spread(struct trainer *t, struct ls_error *err) {
  struct ls_backend *backend = &t->worker[0].backend;
  size_t bytes = (size_t)t->parameter_floats * sizeof(float);
  for (int i = 1; i < t->devices; i++)
    LS_TRY(t->ops->device->copy(backend, NULL, t->slabs[i].parameters, t->parameters, bytes, err));
  LS_TRY(move_momentum(t, false, err));
  return device_forget(t, err);
}
