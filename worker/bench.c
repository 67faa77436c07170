// Throughput on generated images: bench.h. The workers and their step are those of training; only the batch is one fixed
// piece of memory instead of the loader's ring.
#include "worker/bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/philox.h"
#include "worker/trainer.h"

enum { WARM_UP_STEPS = 2 };

struct bench {
  struct trainer *trainer;
  struct ls_batch batch;
  double *step_ms;
  unsigned steps, done;
  int64_t begun_ns;
};

// After every training step, in worker 0 alone.
static bool after_step(void *user, struct trainer *t) {
  struct bench *b = user;
  int64_t now = ls_clock_ns();
  t->step++;
  if (t->step == WARM_UP_STEPS) {
    for (int i = 0; i < t->workers; i++) __atomic_store_n(&t->worker[i].wait_ns, 0, __ATOMIC_RELAXED);
  }
  if (t->step > WARM_UP_STEPS) b->step_ms[b->done++] = (double)(now - b->begun_ns) * 1e-6;
  b->begun_ns = now;
  return b->done < b->steps;
}

static ls_status generate(struct bench *b, struct ls_error *err) {
  struct trainer *t = b->trainer;
  struct ls_shape in = ls_graph_input_shape(t->graph);
  int64_t classes = ls_graph_classes(t->graph), values = t->batch * in.dim[0] * in.dim[1] * in.dim[2];
  // Devices take them as a data set would have them; noise of 8 bits, normalised by them.
  size_t bytes = (size_t)values * (t->devices ? 1 : sizeof(float));
  if (t->devices)
    LS_TRY(t->ops->allocate(&t->worker[0].backend, LS_MEMORY_PINNED, bytes, &b->batch.images, err));
  else
    b->batch.images = aligned_alloc(64, (bytes + 63) / 64 * 64);
  b->batch.labels = malloc((size_t)t->batch * sizeof *b->batch.labels);
  b->batch.valid = t->batch;
  b->batch.height = in.dim[1], b->batch.width = in.dim[2];
  if (!b->batch.images || !b->batch.labels)
    return ls_fail(err, LS_NO_MEMORY, "no memory for %" PRId64 " images", t->batch);
  for (int64_t i = 0; i < values; i += 4) {
    struct ls_philox4 r = ls_random(1, LS_RANDOM_SYNTHETIC, 0, (uint64_t)i, 0);
    for (int64_t k = 0; k < 4 && i + k < values; k++) {
      // Uniform in [-sqrt 3, sqrt 3): mean 0 and variance 1, as normalised images have.
      if (t->devices)
        ((uint8_t *)b->batch.images)[i + k] = (uint8_t)(r.v[k] >> 24);
      else
        ((float *)b->batch.images)[i + k] = (ls_random_unit(r.v[k]) - 0.5F) * 2 * sqrtf(3);
    }
  }
  for (int c = 0; c < 4; c++) {
    t->normalisation.scale[c] = 2 * sqrtf(3) / 256;
    t->normalisation.bias[c] = -sqrtf(3);
  }
  for (int64_t i = 0; i < t->batch; i++) {
    struct ls_philox4 r = ls_random(1, LS_RANDOM_SYNTHETIC, 1, (uint64_t)i, 0);
    b->batch.labels[i] = (int32_t)ls_random_below(r.v[0], (uint32_t)classes);
  }
  t->generated = &b->batch;
  return LS_OK;
}

static ls_status measure_training(struct bench *b, struct ls_error *err) {
  struct trainer *t = b->trainer;
  t->after_step = after_step;
  t->user = b;
  t->target_step = UINT64_MAX;
  t->sgd = (struct ls_sgd){.learning_rate = 1e-4F, .momentum = 0.9F, .weight_decay = 5e-4F};
  b->begun_ns = ls_clock_ns();
  return trainer_run(t, COMMAND_TRAIN, err);
}

static ls_status measure_inference(struct bench *b, struct ls_error *err) {
  struct trainer *t = b->trainer;
  t->evaluation_batches = 1;
  t->evaluation_parts = calloc((size_t)t->shards * LS_METRICS, sizeof *t->evaluation_parts);
  if (!t->evaluation_parts) return ls_fail(err, LS_NO_MEMORY, "no memory for the results");
  LS_TRY(trainer_refresh(t, err));
  for (unsigned i = 0; i < WARM_UP_STEPS + b->steps; i++) {
    int64_t start = ls_clock_ns();
    LS_TRY(trainer_run(t, COMMAND_EVALUATE, err));
    if (i >= WARM_UP_STEPS) b->step_ms[b->done++] = (double)(ls_clock_ns() - start) * 1e-6;
  }
  return LS_OK;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void summarise(const struct bench *b, struct ls_bench_result *result) {
  const struct trainer *t = b->trainer;
  double total_ms = 0;
  int64_t wait_ns = 0;
  for (unsigned i = 0; i < b->done; i++) total_ms += b->step_ms[i];
  for (int i = 0; i < t->workers; i++) wait_ns += t->worker[i].wait_ns;
  qsort(b->step_ms, b->done, sizeof *b->step_ms, compare);
  result->step_ms = b->step_ms[b->done / 2];
  result->step_ms_low = b->step_ms[b->done / 10];
  result->step_ms_high = b->step_ms[b->done - 1 - b->done / 10];
  result->images_per_s = (double)t->batch * b->done / total_ms * 1000;  // slow steps count too
  result->input_wait = (double)wait_ns * 1e-6 / (total_ms * t->workers);
  result->peak_rss_bytes = peak_rss_bytes();
  if (t->devices) result->device_memory_bytes = atomic_load(&t->device_bytes) / (unsigned)t->devices;
  struct ls_device_info info = {.description = "cpu"};
  int devices = 0;
  if (t->devices) t->ops->devices(&info, 1, &devices, NULL);
  snprintf(result->device, sizeof result->device, "%s", t->devices ? info.description : "cpu");
  result->workers = (unsigned)t->workers;
  result->shards = (unsigned)t->shards;
}

static ls_status digest(struct trainer *t, char hex[65], struct ls_error *err) {
  struct ls_snapshot *snapshot = NULL;
  LS_TRY(ls_snapshot_new(t->graph, &snapshot, err));
  ls_status status = model_save(t, snapshot, err);
  if (status == LS_OK) status = ls_snapshot_sha256(snapshot, hex, err);
  ls_snapshot_free(snapshot);
  return status;
}

// Devices and shards that divide the batch: powers of two, shards a multiple of the workers.
static ls_status divide(const struct ls_bench_options *o, int devices, int *workers, int *shards,
                        struct ls_error *err) {
  int most = 1;
  while (most < LS_MAX_WORKERS && o->batch % ((unsigned)most * 2) == 0) most *= 2;
  if (o->shards && (o->shards & (o->shards - 1) || o->batch % o->shards)) {
    return ls_fail(err, LS_INVALID, "%u shards: must be a power of two that divides the batch of %u", o->shards,
                   o->batch);
  }
  LS_TRY(trainer_worker_count(o->devices, true, o->shards ? (int)o->shards : most, devices, workers, err));
  *shards = o->shards ? (int)o->shards : *workers;
  return LS_OK;
}

// On what, and in what.
static ls_status choose(const struct ls_bench_options *o, struct trainer_options *options, struct ls_error *err) {
  options->ops = o->backend;
  options->devices = (int)o->backend_devices;
  options->precision = o->precision;
  Lockstep__V1__DeviceKind kind = o->kind ? o->kind : LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_AUTO;
  if (!o->backend) LS_TRY(trainer_backend(kind, &options->ops, &options->devices, err));
  LS_TRY(trainer_check_precision(o->precision, options->devices, err));
  return divide(o, options->devices, &options->workers, &options->shards, err);
}

ls_status ls_bench(const struct ls_bench_options *o, struct ls_bench_result *result, struct ls_error *err) {
  memset(result, 0, sizeof *result);
  struct bench b = {.steps = o->steps ? o->steps : 20};
  struct trainer_options options = {.network = o->network,
                                    .batch = o->batch,
                                    .training = !o->inference,
                                    .evaluation = o->inference,
                                    .fast = o->fast,
                                    .use_all_cores = o->inference};
  LS_TRY(choose(o, &options, err));
  char *cache = options.devices ? trainer_choice_cache() : NULL;
  options.cache = cache;
  b.step_ms = calloc(b.steps, sizeof *b.step_ms);
  ls_status status = b.step_ms ? trainer_new(&options, NULL, &b.trainer, err)
                               : ls_fail(err, LS_NO_MEMORY, "no memory for %u steps", b.steps);
  if (status == LS_OK && ls_graph_classes(b.trainer->graph) <= 0)
    status = ls_fail(err, LS_INVALID, "network '%s' ends in no loss, so it cannot be measured", o->network->name);
  if (status == LS_OK) status = model_initialise(b.trainer, 1, err);
  if (status == LS_OK) status = generate(&b, err);
  if (status == LS_OK) status = o->inference ? measure_inference(&b, err) : measure_training(&b, err);
  if (status == LS_OK) summarise(&b, result);
  if (status == LS_OK && !o->inference) status = digest(b.trainer, result->parameters_sha256, err);
  if (b.trainer && b.trainer->devices)
    b.trainer->ops->release(&b.trainer->worker[0].backend, LS_MEMORY_PINNED, b.batch.images, 0);
  else
    free(b.batch.images);
  trainer_free(b.trainer);
  free(b.batch.labels);
  free(b.step_ms);
  free(cache);
  return status;
}
