// One pass over a data set with the running statistics. The shards of a batch are dealt out to the workers as in training;
// every shard's sums are kept and added up in order at the end, so the result does not depend on the number of workers.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/trainer.h"

static const double view_unit = 0x1p40;
// What a view with a probability that is no number takes from the sum of class 0: below zero, however many views do.
static const int64_t bad_view = (int64_t)1 << 59;

// The shard's probabilities go to the sums of their samples, of which other workers may have views too.
void worker_add_views(const struct worker *w, const struct ls_batch *batch, int shard, const float *p) {
  struct trainer *t = w->trainer;
  int64_t classes = ls_graph_classes(t->graph);
  for (int64_t i = shard * t->shard_batch; i < (shard + 1) * t->shard_batch; i++, p += classes) {
    if (batch->labels[i] < 0) continue;
    int64_t sample = ((int64_t)batch->index * t->batch + i) / LS_TEN_CROP, *sums = t->view_sums + sample * classes;
    bool good = true;
    __atomic_store_n(&t->view_labels[sample], batch->labels[i], __ATOMIC_RELAXED);
    for (int64_t c = 0; c < classes; c++) good &= isfinite(p[c]) != 0;
    if (!good) __atomic_fetch_sub(sums, bad_view, __ATOMIC_RELAXED);
    for (int64_t c = 0; good && c < classes; c++)
      __atomic_fetch_add(&sums[c], llrint((double)p[c] * view_unit), __ATOMIC_RELAXED);
  }
}

// Metrics of the mean probabilities. As without views, the lower one of two equal classes comes first, and a sample whose
// probabilities are no numbers is wrong.
static void sum_views(struct trainer *t, int64_t samples) {
  int64_t classes = ls_graph_classes(t->graph);
  memset(t->evaluation, 0, sizeof t->evaluation);
  t->evaluation[LS_METRIC_IMAGES] = (double)samples;
  for (int64_t s = 0; s < samples; s++) {
    const int64_t *sums = t->view_sums + s * classes;
    int64_t label = t->view_labels[s], own = sums[label], better = 0;
    if (sums[0] < 0) {
      t->evaluation[LS_METRIC_LOSS] = NAN;
      continue;
    }
    for (int64_t c = 0; c < classes; c++) better += sums[c] > own || (sums[c] == own && c < label);
    t->evaluation[LS_METRIC_TOP1] += better < 1;
    t->evaluation[LS_METRIC_TOP5] += better < 5;
    t->evaluation[LS_METRIC_LOSS] -= log(fmax((double)own / (LS_TEN_CROP * view_unit), 1e-30));
  }
}

ls_status worker_evaluate(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  size_t shard_bytes = ls_plan_input_bytes(w->evaluation_plan);
  for (uint64_t b = 0; b < t->evaluation_batches; b++) {
    const struct ls_batch *batch;
    LS_TRY(trainer_batch(t, b, &batch, err));
    ls_status status = LS_OK;
    for (int i = 0; i < t->shards_each && status == LS_OK; i++) {
      int shard = w->index * t->shards_each + i;
      if (shard * t->shard_batch >= batch->valid) break;  // nothing but filler
      ls_binding_set_input(w->evaluation_binding, (char *)batch->images + (size_t)shard * shard_bytes,
                           batch->labels + shard * t->shard_batch);
      status = ls_binding_forward(w->evaluation_binding, NULL, err);
      double *sums = t->evaluation_parts + (b * (uint64_t)t->shards + (uint64_t)shard) * LS_METRICS;
      for (int m = 0; m < LS_METRICS; m++) sums[m] = w->evaluation_metrics[m];
      if (t->view_sums && status == LS_OK)
        worker_add_views(w, batch, shard, ls_binding_probabilities(w->evaluation_binding));
    }
    if (t->loader) ls_loader_done(t->loader, batch);
    if (status != LS_OK) return status;
  }
  return LS_OK;
}

static ls_status allocate_pinned(void *user, size_t bytes, void **memory, struct ls_error *err) {
  struct worker *w = user;
  return w->backend.ops->allocate(&w->backend, LS_MEMORY_PINNED, bytes, memory, err);
}

static void release_pinned(void *user, void *memory, size_t bytes) {
  struct worker *w = user;
  w->backend.ops->release(&w->backend, LS_MEMORY_PINNED, memory, bytes);
}

ls_status trainer_loader_new(struct trainer *t, const struct ls_loader_options *options, struct ls_loader **loader,
                             struct ls_error *err) {
  struct ls_loader_options o = *options;
  ls_loader_normalisation(&o, ls_graph_input_shape(t->graph).dim[0], t->normalisation.scale, t->normalisation.bias);
  if (t->devices) {
    o.output = LS_U8;
    o.channels_last = true;
    o.whole = true;
    o.allocate = allocate_pinned;
    o.release = release_pinned;
    o.user = &t->worker[0];
  }
  return ls_loader_new(&o, loader, err);
}

static ls_status check_numbers(const char *key, size_t numbers, int64_t channels, struct ls_error *err) {
  if (numbers == 0 || (int64_t)numbers == channels) return LS_OK;
  return ls_fail(err, LS_INVALID, "key 'data.%s' has %zu numbers, the images have %" PRId64 " channels", key, numbers,
                 channels);
}

ls_status trainer_loader_options(const struct trainer *t, const Lockstep__V1__Job *job,
                                 const struct ls_dataset_info *info, struct ls_loader_options *options,
                                 struct ls_error *err) {
  struct ls_shape in = ls_graph_input_shape(t->graph);
  enum { MAX_CHANNELS = sizeof t->normalisation.scale / sizeof *t->normalisation.scale };
  if (in.dim[0] > MAX_CHANNELS) {
    return ls_fail(err, LS_INVALID, "the network takes images of %" PRId64 " channels; allowed are 1 to %d", in.dim[0],
                   MAX_CHANNELS);
  }
  LS_TRY(check_numbers("mean", job->data->n_mean, in.dim[0], err));
  LS_TRY(check_numbers("deviation", job->data->n_deviation, in.dim[0], err));
  *options = (struct ls_loader_options){.training = true,
                                        .batch = t->batch,
                                        .crop_height = in.dim[1],
                                        .crop_width = in.dim[2],
                                        .augment = (const Lockstep__V1__Augmentation *const *)job->augment,
                                        .augment_count = job->n_augment,
                                        .seed = job->seed,
                                        .shuffle = job->data->shuffle,
                                        .output = LS_F32,
                                        .readers = job->prefetch->has_readers ? (int)job->prefetch->readers : 0,
                                        .depth = (int)job->prefetch->depth,
                                        .direct = job->prefetch->direct,
                                        .consumers = t->workers,
                                        .classes = ls_graph_classes(t->graph)};
  bool known = info && info->has_statistics;
  options->mean = job->data->n_mean ? job->data->mean : known ? info->mean : NULL;
  options->deviation = job->data->n_deviation ? job->data->deviation : known ? info->deviation : NULL;
  return LS_OK;
}

ls_status trainer_refresh(struct trainer *t, struct ls_error *err) { return trainer_run(t, COMMAND_REFRESH, err); }

// Sums of the evaluation's parts, or of the views'.
static void sum_parts(struct trainer *t, int64_t samples) {
  size_t parts = (size_t)t->evaluation_batches * (size_t)t->shards * LS_METRICS;
  memset(t->evaluation, 0, sizeof t->evaluation);
  for (size_t i = 0; i < parts; i++) t->evaluation[i % LS_METRICS] += t->evaluation_parts[i];
  if (t->view_sums) sum_views(t, samples);
}

static ls_status allocate_sums(struct trainer *t, int64_t samples, bool views, struct ls_error *err) {
  free(t->evaluation_parts);
  t->evaluation_parts = calloc((size_t)t->evaluation_batches * (size_t)t->shards, LS_METRICS * sizeof(double));
  if (views) {
    t->view_sums = calloc((size_t)(samples * ls_graph_classes(t->graph)), sizeof *t->view_sums);
    t->view_labels = calloc((size_t)samples, sizeof *t->view_labels);
  }
  if (t->evaluation_parts && (!views || (t->view_sums && t->view_labels))) return LS_OK;
  return ls_fail(err, LS_NO_MEMORY, "no memory for an evaluation");
}

ls_status trainer_evaluate(struct trainer *t, struct ls_dataset *dataset, const struct ls_loader_options *base,
                           struct ls_error *err) {
  struct ls_loader_options options = *base;
  struct ls_loader *training = t->loader, *evaluation = NULL;
  const struct normalisation normalisation = t->normalisation;
  options.dataset = dataset;
  options.training = false;
  options.first_batch = 0;
  options.batch = t->batch;
  options.consumers = t->workers;
  int64_t samples = ls_dataset_info(dataset)->count, images = samples * (options.ten_crop ? LS_TEN_CROP : 1);
  t->evaluation_batches = (uint64_t)((images + t->batch - 1) / t->batch);
  ls_status status = allocate_sums(t, samples, options.ten_crop, err);
  if (status == LS_OK) status = trainer_refresh(t, err);
  if (status == LS_OK) status = trainer_loader_new(t, &options, &evaluation, err);
  if (status == LS_OK) {
    t->loader = evaluation;
    status = trainer_run(t, COMMAND_EVALUATE, err);
    t->loader = training;
  }
  if (status == LS_OK) sum_parts(t, samples);
  ls_loader_free(evaluation);
  t->normalisation = normalisation;
  free(t->view_sums);
  free(t->view_labels);
  t->view_sums = NULL;
  t->view_labels = NULL;
  return status;
}
