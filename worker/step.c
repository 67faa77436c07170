// The training step: one worker's part of synchronous data-parallel SGD. Read this first.
//
// A worker owns the contiguous shards [index * shards_each, ...) of every batch. It computes their gradients one after
// another through the same plan and sums them as a subtree of the fixed tree; then, behind a barrier, it sums its slice of
// the slab over all workers, in the tree's upper part, and updates that slice of the shared parameters. Nobody's result
// depends on how many workers there are.
#include <math.h>

#include "base/clock.h"
#include "worker/trainer.h"

enum { UPDATE_BLOCK = 4096 };

// Forward and backward of one shard into gradient buffer `buffer`.
static ls_status compute_shard(struct worker *w, const struct ls_batch *batch, int shard, int buffer,
                               struct ls_error *err) {
  struct trainer *t = w->trainer;
  size_t shard_bytes = ls_plan_input_bytes(w->plan);
  struct ls_binding *binding = w->bindings[buffer];
  w->step_parameters->step = t->step;
  w->step_parameters->first_image = (uint64_t)(shard * t->shard_batch);
  ls_binding_set_input(binding, (char *)batch->images + (size_t)shard * shard_bytes,
                       batch->labels + shard * t->shard_batch);
  LS_TRY(ls_binding_forward(binding, NULL, err));
  return ls_binding_backward(binding, NULL, err);
}

// All of this worker's shards; their sum ends in gradient buffer 0.
static ls_status compute_gradients(struct worker *w, const struct ls_batch *batch, struct ls_error *err) {
  struct trainer *t = w->trainer;
  for (int i = 0; i < t->shards_each; i++) {
    int buffer = ls_tree_buffer(i);
    LS_TRY(compute_shard(w, batch, w->index * t->shards_each + i, buffer, err));
    int64_t start = ls_clock_ns();
    for (int merge = ls_tree_merges(i); merge > 0 && buffer > 0; merge--, buffer--) {
      ls_tree_merge(w->gradients[buffer - 1], w->gradients[buffer], t->gradient_floats);
    }
    profile_add(t->profile, w->index, "sum of shards", "reduction", start, ls_clock_ns());
  }
  return LS_OK;
}

// Sums block [begin, end) of one segment over the workers and applies it.
static void update_block(struct trainer *t, const struct ls_sgd *rule, const struct segment *s,
                         const float *const *parts, int64_t begin, int64_t end) {
  float sum[UPDATE_BLOCK];
  int64_t n = end - begin;
  ls_tree_sum(sum, parts, t->workers, begin, n);
  if (s->learned) {
    struct ls_sgd sgd = *rule;
    if (!s->decays) sgd.weight_decay = 0;
    ls_sgd_update(&sgd, n, t->parameters + begin, t->momentum + begin, sum);
  } else {
    ls_running_update(s->share, s->statistic_scale / (float)t->shards, n, t->parameters + begin, sum);
  }
}

// This worker's slice of the slab: whole cache lines, so that no line is written by two.
static void update_slice(struct worker *w, const struct ls_sgd *rule, const float *const *parts) {
  struct trainer *t = w->trainer;
  int64_t lines = t->parameter_floats / 16;
  int64_t first = lines * w->index / t->workers * 16, last = lines * (w->index + 1) / t->workers * 16;
  for (int i = 0; i < t->segment_count; i++) {
    const struct segment *s = &t->segments[i];
    int64_t begin = s->begin > first ? s->begin : first, end = s->end < last ? s->end : last;
    for (; begin < end; begin += UPDATE_BLOCK) {
      update_block(t, rule, s, parts, begin, end - begin > UPDATE_BLOCK ? begin + UPDATE_BLOCK : end);
    }
  }
}

static ls_status stopped(struct ls_error *err) { return ls_fail(err, LS_CANCELLED, "another worker failed"); }

static ls_status wait_for_batch(struct worker *w, const struct ls_batch **batch, struct ls_error *err) {
  int64_t start = ls_clock_ns();
  ls_status status = trainer_batch(w->trainer, w->trainer->step, batch, err);
  int64_t end = ls_clock_ns();
  w->wait_ns += end - start;
  profile_add(w->trainer->profile, w->index, "wait for data", "wait", start, end);
  return status;
}

static ls_status one_step(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct ls_batch *batch;
  // Worker 0 sets the next step's numbers while others still update by these.
  const struct ls_sgd rule = t->sgd;
  LS_TRY(wait_for_batch(w, &batch, err));
  ls_status status = compute_gradients(w, batch, err);
  if (t->loader) ls_loader_done(t->loader, batch);
  if (status != LS_OK) return status;

  int64_t start = ls_clock_ns();
  if (!ls_barrier_wait(&t->barrier)) return stopped(err);  // all gradients are there
  int64_t summed = ls_clock_ns();
  profile_add(t->profile, w->index, "wait for workers", "wait", start, summed);
  const float *parts[LS_MAX_WORKERS];
  for (int i = 0; i < t->workers; i++) parts[i] = t->worker[i].gradients[0];
  update_slice(w, &rule, parts);
  if (w->index == 0) {
    ls_tree_sum(t->metrics, parts, t->workers, t->gradient_floats - 16, LS_METRICS);
    t->go_on = t->after_step(t->user, t);  // counts the step
  }
  int64_t updated = ls_clock_ns();
  profile_add(t->profile, w->index, "sum and update", "optimizer", summed, updated);
  if (!ls_barrier_wait(&t->barrier)) return stopped(err);  // all parameters are new
  profile_add(t->profile, w->index, "wait for workers", "wait", updated, ls_clock_ns());
  return LS_OK;
}

ls_status worker_train(struct worker *w, struct ls_error *err) {
  do {
    LS_TRY(one_step(w, err));
  } while (w->trainer->go_on);
  return LS_OK;
}
