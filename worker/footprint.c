// Memory of a training, predicted: see footprint.h. The sums mirror what worker_thread.c and device.c allocate.
#include "worker/footprint.h"

#include <stdio.h>
#include <string.h>

#include "worker/device.h"

enum { RING_BATCHES = 3, MOST_SHARD_IMAGES = 1 << 20 };

static const char *const names[LS_FOOTPRINT_KINDS][2] = {
    [LS_FOOTPRINT_WEIGHTS] = {"weights and running statistics", "weights"},
    [LS_FOOTPRINT_MOMENTUM] = {"momentum and its rules", "optimizer_state"},
    [LS_FOOTPRINT_GRADIENTS] = {"gradients", "gradients"},
    [LS_FOOTPRINT_FACTORS] = {"gradients kept as factors", "gradient_factors"},
    [LS_FOOTPRINT_ACTIVATIONS] = {"activations and workspaces", "activations"},
    [LS_FOOTPRINT_SCRATCH] = {"scratch", "scratch"},
    [LS_FOOTPRINT_EVALUATION] = {"evaluation, beyond training's", "evaluation"},
    [LS_FOOTPRINT_INPUT] = {"images on their way", "input"},
};

const char *ls_footprint_name(enum ls_footprint_kind kind) { return names[kind][0]; }
const char *ls_footprint_key(enum ls_footprint_kind kind) { return names[kind][1]; }

static void take_largest(const struct ls_plan *plan, struct ls_footprint *f) {
  struct ls_plan_buffer buffers[LS_FOOTPRINT_LARGEST];
  f->largest_count = ls_plan_largest_buffers(plan, buffers, LS_FOOTPRINT_LARGEST);
  for (int i = 0; i < f->largest_count; i++) {
    struct ls_footprint_buffer *to = &f->largest[i];
    to->what = buffers[i].what;
    to->bytes = buffers[i].bytes;
    snprintf(to->layer, sizeof to->layer, "%s", buffers[i].layer);
    snprintf(to->operation, sizeof to->operation, "%s", buffers[i].operation);
  }
}

// What one worker has for itself. `folded`: of the evaluation's folded weights, what lies over the activations.
static void add_worker(const struct ls_plan *plan, const struct ls_plan *evaluation, unsigned shards_each,
                       unsigned shards, uint64_t folded, struct ls_footprint *f) {
  uint64_t training = ls_plan_activation_bytes(plan), other = ls_plan_activation_bytes(evaluation);
  if (folded) other = (other + 63) / 64 * 64 + folded;
  f->bytes[LS_FOOTPRINT_ACTIVATIONS] += training - ls_plan_scratch_bytes(plan);
  f->bytes[LS_FOOTPRINT_SCRATCH] += ls_plan_scratch_bytes(plan);
  f->bytes[LS_FOOTPRINT_EVALUATION] += other > training ? other - training : 0;
  f->bytes[LS_FOOTPRINT_GRADIENTS] += ls_plan_gradient_bytes(plan) * (uint64_t)ls_tree_buffers((int)shards_each);
  if (ls_plan_factor_bytes(plan)) {
    f->bytes[LS_FOOTPRINT_FACTORS] +=
        ls_plan_factor_bytes(plan) * shards_each +
        (uint64_t)ls_tree_buffers((int)shards) * LS_TILE_ROWS * LS_TILE_COLUMNS * sizeof(float);
  }
}

static unsigned workers_each(const struct ls_footprint_options *o) { return o->workers_each ? o->workers_each : 1; }

// The optimizer's state on the GPU that holds most of it.
static ls_status momentum_bytes(const struct ls_footprint_options *o, const struct ls_plan *plan, uint64_t *bytes,
                                struct ls_error *err) {
  struct ls_exchange exchange;
  int operations[LS_EXCHANGE_BUCKETS], devices = (int)o->devices;
  bool hides = devices > 1 && trainer_dtype(o->precision) != LS_F16, whole = o->fast && workers_each(o) == 1;
  int64_t learned = (int64_t)(ls_plan_learned_bytes(plan) / sizeof(float)), begin, end;
  LS_TRY(device_cut(plan, (int)(o->devices * workers_each(o)), hides, 0, &exchange, operations, err));
  for (int i = 0; i < devices; i++) {
    int64_t floats = device_momentum(&exchange, devices, learned, whole, i, exchange.buckets, &begin, &end);
    if ((uint64_t)floats * sizeof(float) > *bytes) *bytes = (uint64_t)floats * sizeof(float);
  }
  return LS_OK;
}

static ls_status add_up(const struct ls_graph *graph, const struct ls_footprint_options *o, const struct ls_plan *plan,
                        const struct ls_plan *evaluation, struct ls_footprint *f, struct ls_error *err) {
  struct ls_shape image = ls_graph_input_shape(graph);
  uint64_t images_bytes = (uint64_t)ls_shape_elements(&image), device_images = o->batch / o->devices;
  f->bytes[LS_FOOTPRINT_WEIGHTS] = ls_plan_parameter_bytes(plan);
  if (o->gpu)
    LS_TRY(momentum_bytes(o, plan, &f->bytes[LS_FOOTPRINT_MOMENTUM], err));
  else
    f->bytes[LS_FOOTPRINT_MOMENTUM] = ls_plan_learned_bytes(plan);
  unsigned workers = o->gpu ? workers_each(o) : o->devices;
  uint64_t shards_each = o->shards / o->devices / workers_each(o);
  for (unsigned i = 0; i < workers; i++) {
    uint64_t folded = i == 0 && !o->gpu ? ls_plan_folded_bytes(evaluation) : 0;
    add_worker(plan, evaluation, (unsigned)shards_each, o->shards, folded, f);
  }
  if (o->gpu) {
    f->bytes[LS_FOOTPRINT_MOMENTUM] +=
        ls_plan_parameter_bytes(plan) / sizeof(float) / LS_DEVICE_LINE * sizeof(uint16_t) +
        (uint64_t)ls_plan_parameter_count(plan) * sizeof(struct ls_update_rule);
    f->bytes[LS_FOOTPRINT_EVALUATION] += ls_plan_folded_bytes(evaluation);
    // As stored and as the first layer wants them; labels of this batch and the next, with the next one's places.
    f->bytes[LS_FOOTPRINT_INPUT] =
        device_images * (LS_WHOLE_FACTOR * images_bytes + (2 + LS_PLACE_WORDS) * sizeof(int32_t)) +
        o->shards / o->devices * ls_device_align(ls_plan_input_bytes(plan));
  } else {
    f->bytes[LS_FOOTPRINT_INPUT] = RING_BATCHES * o->batch * (images_bytes * sizeof(float) + sizeof(int32_t));
  }
  for (int i = 0; i < LS_FOOTPRINT_KINDS; i++) f->total_bytes += f->bytes[i];
  f->unshared_bytes = ls_plan_unshared_bytes(plan);
  take_largest(plan, f);
  return LS_OK;
}

static ls_status check(const struct ls_footprint_options *o, struct ls_error *err) {
  if (o->devices < 1 || o->shards < 1 || o->shards % (o->devices * workers_each(o)))
    return ls_fail(err, LS_INVALID, "%u shards cannot be split over %u devices", o->shards, o->devices);
  if (o->shards > LS_MAX_WORKERS)
    return ls_fail(err, LS_INVALID, "%u shards: allowed are at most %d", o->shards, LS_MAX_WORKERS);
  if (o->batch < 1 || o->batch % o->shards) {
    return ls_fail(err, LS_INVALID, "a batch of %llu images cannot be split into %u equal shards",
                   (unsigned long long)o->batch, o->shards);
  }
  if (!o->gpu && o->precision != LOCKSTEP__V1__PRECISION__PRECISION_FLOAT32)
    return ls_fail(err, LS_UNSUPPORTED, "the cpu trains in float32 only; other precisions need a GPU");
  return LS_OK;
}

ls_status ls_footprint_predict(const struct ls_graph *graph, const struct ls_footprint_options *o,
                               struct ls_footprint *f, struct ls_error *err) {
  *f = (struct ls_footprint){.total_bytes = 0};
  LS_TRY(check(o, err));
  const struct ls_backend_ops *ops = o->gpu ? ls_backend_cuda_planner() : ls_backend_cpu();
  struct ls_backend backend = {.ops = NULL, .state = NULL};
  struct ls_plan *plan = NULL, *evaluation = NULL;
  struct ls_plan_options options = {.batch = (int64_t)(o->batch / o->shards),
                                    .training = true,
                                    .dtype = trainer_dtype(o->precision),
                                    .loss_images = (int64_t)o->batch,
                                    .tf32 = o->precision == LOCKSTEP__V1__PRECISION__PRECISION_TF32,
                                    .input_channels_last = o->gpu,
                                    .input_padded = o->gpu,
                                    .factors = !o->gpu && ops->outer_sum != NULL};
  ls_status status = ops->open(0, &backend, err);
  if (status == LS_OK) status = ls_plan_build(graph, &backend, &options, &plan, err);
  options.training = false;
  options.parameters_of = plan;
  if (status == LS_OK) status = ls_plan_build(graph, &backend, &options, &evaluation, err);
  if (status == LS_OK) status = add_up(graph, o, plan, evaluation, f, err);
  ls_plan_free(evaluation);
  ls_plan_free(plan);
  if (backend.state) ops->close(&backend);
  return status;
}

// Does a batch of so many images a shard fit? One that the backend cannot compute at all does not.
static ls_status try_batch(const struct ls_graph *graph, const struct ls_footprint_options *options,
                           uint64_t shard_images, uint64_t memory_bytes, bool *fits, struct ls_error *err) {
  struct ls_footprint_options o = *options;
  struct ls_footprint f;
  struct ls_error error = LS_ERROR_INIT;
  o.batch = shard_images * o.shards;
  ls_status status = ls_footprint_predict(graph, &o, &f, &error);
  *fits = status == LS_OK && f.total_bytes <= memory_bytes;
  if (status == LS_OK || shard_images > 1) return LS_OK;
  return ls_fail(err, status, "%s", error.text);
}

ls_status ls_footprint_largest_batch(const struct ls_graph *graph, const struct ls_footprint_options *options,
                                     uint64_t memory_bytes, uint64_t *batch, struct ls_error *err) {
  uint64_t good = 0, bad = 1;
  bool fits = true;
  *batch = 0;
  while (fits && bad <= MOST_SHARD_IMAGES) {  // doubling, then halving the gap between what fits and what does not
    LS_TRY(try_batch(graph, options, bad, memory_bytes, &fits, err));
    if (fits) good = bad;
    if (fits) bad *= 2;
  }
  while (bad - good > 1) {
    uint64_t middle = good + (bad - good) / 2;
    LS_TRY(try_batch(graph, options, middle, memory_bytes, &fits, err));
    *(fits ? &good : &bad) = middle;
  }
  *batch = good * options->shards;
  return LS_OK;
}

static double gib(uint64_t bytes) { return (double)bytes / (1 << 30); }

static ls_status explain(const struct ls_graph *graph, const struct ls_footprint_options *options,
                         const struct ls_footprint *f, uint64_t memory_bytes, char *text, size_t size,
                         struct ls_error *err) {
  uint64_t batch = 0;
  LS_TRY(ls_footprint_largest_batch(graph, options, memory_bytes, &batch, err));
  char fits[96] = "not even one image a shard fits";
  const struct ls_footprint_buffer *largest = &f->largest[strcmp(f->largest[0].what, "scratch") == 0];
  if (batch) snprintf(fits, sizeof fits, "the largest batch that fits is %llu", (unsigned long long)batch);
  snprintf(text, size,
           "%llu images in %u shards take up to %.1f GiB on each GPU, which has %.1f: %.1f for activations and "
           "workspaces, up to %.1f for scratch, %.1f for gradients, %.1f for weights and momentum, %.1f for images; "
           "the largest is %s of %s, layer '%s', with %.1f; %s",
           (unsigned long long)options->batch, options->shards, gib(f->total_bytes), gib(memory_bytes),
           gib(f->bytes[LS_FOOTPRINT_ACTIVATIONS]), gib(f->bytes[LS_FOOTPRINT_SCRATCH]),
           gib(f->bytes[LS_FOOTPRINT_GRADIENTS]), gib(f->bytes[LS_FOOTPRINT_WEIGHTS] + f->bytes[LS_FOOTPRINT_MOMENTUM]),
           gib(f->bytes[LS_FOOTPRINT_INPUT]), largest->what, largest->operation, largest->layer, gib(largest->bytes),
           fits);
  return LS_OK;
}

ls_status ls_footprint_explain(const struct ls_graph *graph, const struct ls_footprint_options *options,
                               uint64_t memory_bytes, char *text, size_t size, struct ls_error *err) {
  struct ls_footprint f;
  LS_TRY(ls_footprint_predict(graph, options, &f, err));
  return explain(graph, options, &f, memory_bytes, text, size, err);
}

ls_status ls_footprint_check(const struct ls_graph *graph, const struct ls_footprint_options *options,
                             uint64_t memory_bytes, struct ls_error *err) {
  struct ls_footprint f;
  char text[LS_ERROR_TEXT_BYTES];
  LS_TRY(ls_footprint_predict(graph, options, &f, err));
  if (f.total_bytes - f.bytes[LS_FOOTPRINT_SCRATCH] <= memory_bytes) return LS_OK;
  LS_TRY(explain(graph, options, &f, memory_bytes, text, sizeof text, err));
  return ls_fail(err, LS_INVALID, "key 'batch_size': %s", text);
}
