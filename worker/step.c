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

// Forward and backward of this worker's i-th shard into gradient buffer ls_tree_buffer(i) and factor slab i.
static ls_status compute_shard(struct worker *w, const struct ls_batch *batch, int i, struct ls_error *err) {
  struct trainer *t = w->trainer;
  size_t shard_bytes = ls_plan_input_bytes(w->plan);
  int shard = w->index * t->shards_each + i;
  struct ls_binding *binding = w->bindings[i];
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
    LS_TRY(compute_shard(w, batch, i, err));
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
    ls_sgd_update(&sgd, n, t->parameters + begin, t->momentum + s->momentum + (begin - s->begin), sum);
  } else {
    ls_running_update(s->share, s->statistic_scale / (float)t->shards, n, t->parameters + begin, sum);
  }
}

// This worker's slice of the slab: whole cache lines, so that no line is written by two.
static void update_slice(struct worker *w, const struct ls_sgd *rule, const float *const *parts) {
  struct trainer *t = w->trainer;
  int64_t lines = t->summed_floats / 16;
  int64_t first = lines * w->index / t->workers * 16, last = lines * (w->index + 1) / t->workers * 16;
  for (int i = 0; i < t->segment_count; i++) {
    const struct segment *s = &t->segments[i];
    if (s->factored) continue;
    int64_t begin = s->begin > first ? s->begin : first, end = s->end < last ? s->end : last;
    for (; begin < end; begin += UPDATE_BLOCK) {
      update_block(t, rule, s, parts, begin, end - begin > UPDATE_BLOCK ? begin + UPDATE_BLOCK : end);
    }
  }
}

// --- gradients left as factors (graph/plan.h) -----------------------------------------------------------------------------

// Sums a tile of the gradient over all shards in the tree's order, from the factors that their workers left; tiles[0] gets
// the sum. x NULL: of the bias, whose "input" is 1 for every image.
static void sum_tile(struct worker *w, const struct ls_plan_factors *f, int64_t row, int64_t rows, int64_t column,
                     int64_t columns, bool bias) {
  struct trainer *t = w->trainer;
  const size_t tile = LS_TILE_ROWS * LS_TILE_COLUMNS;
  static const float one = 1;
  for (int shard = 0; shard < t->shards; shard++) {
    const struct worker *owner = &t->worker[shard / t->shards_each];
    const char *factors = owner->factors + (size_t)(shard % t->shards_each) * t->factor_bytes;
    const float *dy = (const float *)(factors + f->dy_offset_bytes) + row;
    const float *x = (const float *)(factors + f->x_offset_bytes) + column;
    int buffer = ls_tree_buffer(shard);
    t->ops->outer_sum(t->shard_batch, rows, columns, dy, f->k, bias ? &one : x, bias ? 0 : f->c,
                      w->tiles + (size_t)buffer * tile);
    for (int merge = ls_tree_merges(shard); merge > 0 && buffer > 0; merge--, buffer--)
      ls_tree_merge(w->tiles + (size_t)(buffer - 1) * tile, w->tiles + (size_t)buffer * tile, rows * columns);
  }
}

static void update_rows(struct worker *w, const struct ls_sgd *rule, int parameter, int64_t row, int64_t rows,
                        int64_t row_floats, int64_t column, int64_t columns) {
  struct trainer *t = w->trainer;
  const struct segment *s = &t->segments[parameter];
  struct ls_sgd sgd = *rule;
  if (!s->decays) sgd.weight_decay = 0;
  for (int64_t r = 0; r < rows; r++) {
    int64_t at = (row + r) * row_floats + column;
    ls_sgd_update(&sgd, columns, t->parameters + s->begin + at, t->momentum + s->momentum + at, w->tiles + r * columns);
  }
}

// This worker's share of the tiles. Tiles are the same whoever has them. Columns outside, so that a block of the inputs
// stays in the second-level cache while the rows go by.
static void update_factored(struct worker *w, const struct ls_sgd *rule, const struct ls_plan_factors *f) {
  const struct trainer *t = w->trainer;
  int64_t down = (f->k + LS_TILE_ROWS - 1) / LS_TILE_ROWS, across = (f->c + LS_TILE_COLUMNS - 1) / LS_TILE_COLUMNS;
  int64_t tiles = down * (across + (f->bias >= 0));
  for (int64_t i = tiles * w->index / t->workers; i < tiles * (w->index + 1) / t->workers; i++) {
    int64_t row = i % down * LS_TILE_ROWS, column = i / down * LS_TILE_COLUMNS;
    int64_t rows = f->k - row < LS_TILE_ROWS ? f->k - row : LS_TILE_ROWS;
    int64_t columns = f->c - column < LS_TILE_COLUMNS ? f->c - column : LS_TILE_COLUMNS;
    bool bias = i / down == across;
    if (bias) {
      sum_tile(w, f, row, rows, 0, 1, true);
      update_rows(w, rule, f->bias, row, rows, 1, 0, 1);
    } else {
      sum_tile(w, f, row, rows, column, columns, false);
      update_rows(w, rule, f->weight, row, rows, f->c, column, columns);
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
  while (t->share_cores && sem_wait(&t->cores) != 0) {  // EINTR: a signal
  }
  ls_status status = compute_gradients(w, batch, err);
  if (t->share_cores) sem_post(&t->cores);
  if (t->loader) ls_loader_done(t->loader, batch);
  if (status != LS_OK) return status;

  int64_t start = ls_clock_ns();
  if (!ls_barrier_wait(&t->barrier)) return stopped(err);  // all gradients are there
  int64_t summed = ls_clock_ns();
  profile_add(t->profile, w->index, "wait for workers", "wait", start, summed);
  const float *parts[LS_MAX_WORKERS];
  for (int i = 0; i < t->workers; i++) parts[i] = t->worker[i].gradients[0];
  update_slice(w, &rule, parts);
  for (int i = 0; i < ls_plan_factors_count(w->plan); i++) update_factored(w, &rule, ls_plan_factors(w->plan, i));
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
