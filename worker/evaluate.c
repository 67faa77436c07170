// One pass over a data set with the running statistics. The shards of a batch are dealt out to the workers as in training;
// every shard's sums are kept and added up in order at the end, so the result does not depend on the number of workers.
#include <stdlib.h>
#include <string.h>

#include "worker/trainer.h"

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
    }
    if (t->loader) ls_loader_done(t->loader, batch);
    if (status != LS_OK) return status;
  }
  return LS_OK;
}

void trainer_loader_options(const struct trainer *t, const Lockstep__V1__Job *job, const struct ls_dataset_info *info,
                            struct ls_loader_options *options) {
  struct ls_shape in = ls_graph_input_shape(t->graph);
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
}

ls_status trainer_refresh(struct trainer *t, struct ls_error *err) { return trainer_run(t, COMMAND_REFRESH, err); }

ls_status trainer_evaluate(struct trainer *t, struct ls_dataset *dataset, const struct ls_loader_options *base,
                           struct ls_error *err) {
  struct ls_loader_options options = *base;
  struct ls_loader *training = t->loader;
  options.dataset = dataset;
  options.training = false;
  options.first_batch = 0;
  options.batch = t->batch;
  options.consumers = t->workers;
  t->evaluation_batches = (uint64_t)((ls_dataset_info(dataset)->count + t->batch - 1) / t->batch);
  size_t parts = (size_t)t->evaluation_batches * (size_t)t->shards * LS_METRICS;
  free(t->evaluation_parts);
  t->evaluation_parts = calloc(parts, sizeof *t->evaluation_parts);
  if (!t->evaluation_parts) return ls_fail(err, LS_NO_MEMORY, "no memory for an evaluation");
  LS_TRY(trainer_refresh(t, err));
  LS_TRY(ls_loader_new(&options, &t->loader, err));
  ls_status status = trainer_run(t, COMMAND_EVALUATE, err);
  ls_loader_free(t->loader);
  t->loader = training;
  memset(t->evaluation, 0, sizeof t->evaluation);
  for (size_t i = 0; i < parts; i++) t->evaluation[i % LS_METRICS] += t->evaluation_parts[i];
  return status;
}
