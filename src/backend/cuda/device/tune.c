// Choosing an engine for a convolution by measuring: the heuristics' first few that can be made ready run a few times on
// memory of their own, the one with the shortest time wins. See device.h; when it is done, and how often:
// backend/choices.h.
//
// A convolution with statistics is measured against the convolution alone and the moments of its output, each with what
// makes mean and variance of them, as a recording: between so short pieces of work the host's part would count. And, as
// nothing else says that its sums always meet in the same order, on values that would show it.
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "backend/cuda/device/device.h"

enum { CANDIDATES = 24, TRIALS = 6, WARM_UPS = 2, RUNS = 5, SAME_BITS_RUNS = 8, DRAWN_VALUES = 65536 };

enum { X, W, Y, BIAS, SUM, SQUARES, MEAN, VARIANCE, INVERSE, PARTIALS, TENSORS };

struct trial {
  struct device_context *context;
  void *memory[TENSORS], *workspace;
  int64_t workspace_bytes;
  cudaEvent_t begin, end;
  // With statistics.
  struct graph *graph;
  struct ls_reduce reduce;
  int64_t rows;  // of y [rows, k]
  int32_t k;
  enum ls_dtype dtype;
  float *sums[2];  // on the host: of the first run and of another, [2 k]
};

// Zeros: what is measured is the order of the candidates, not their speed on an image.
static bool make_trial(struct trial *t, struct device_context *context, const struct cuda_convolution *c, bool bias) {
  int64_t size = (int64_t)ls_dtype_bytes(c->dtype), sums = c->statistics ? c->k * (int64_t)sizeof(float) : 0;
  *t = (struct trial){.context = context, .rows = c->n * c->p * c->q, .k = (int32_t)c->k, .dtype = c->dtype};
  t->reduce = ls_reduce_of(t->rows, t->k);
  int64_t bytes[TENSORS] = {c->n * c->c * c->h * c->w * size,
                            c->k * c->c / c->groups * c->r * c->s * size,
                            t->rows * c->k * size,
                            bias ? c->k * size : 0,
                            sums,
                            sums,
                            sums,
                            sums,
                            sums,
                            c->statistics ? (int64_t)cuda_moments_scratch(&t->reduce, c->k) : 0};
  bool good = cudaEventCreate(&t->begin) == cudaSuccess && cudaEventCreate(&t->end) == cudaSuccess;
  for (int i = 0; i < TENSORS && good; i++) {
    good = bytes[i] == 0 || (cudaMalloc(&t->memory[i], (size_t)bytes[i]) == cudaSuccess &&
                             cudaMemsetAsync(t->memory[i], 0, (size_t)bytes[i], context->stream) == cudaSuccess);
  }
  return good;
}

static void free_trial(struct trial *t) {
  for (int i = 0; i < TENSORS; i++) cudaFree(t->memory[i]);
  cudaFree(t->workspace);
  if (t->begin) cudaEventDestroy(t->begin);
  if (t->end) cudaEventDestroy(t->end);
  free(t->sums[0]);
  free(t->sums[1]);
  cudaGetLastError();  // memory that was not there is no error of the job
}

static bool make_workspace(struct trial *t, int64_t bytes) {
  if (bytes <= t->workspace_bytes) return true;
  cudaFree(t->workspace);
  t->workspace = NULL;
  t->workspace_bytes = 0;
  if (cudaMalloc(&t->workspace, (size_t)bytes) != cudaSuccess) return false;
  t->workspace_bytes = bytes;
  return true;
}

static ls_status run(struct trial *t, struct graph *g, bool statistics) {
  struct cuda_product_args args = {.x = t->memory[X],
                                   .w = t->memory[W],
                                   .y = t->memory[Y],
                                   .bias = t->memory[BIAS],
                                   .sum = statistics ? t->memory[SUM] : NULL,
                                   .squares = statistics ? t->memory[SQUARES] : NULL,
                                   .scratch = t->workspace};
  return device_run_graph(g, &args, NULL);
}

static ls_status run_plain(struct trial *t) { return run(t, t->graph, false); }

static ls_status run_with_statistics(struct trial *t) {
  struct ls_k_statistics k = {.sum = t->memory[SUM],
                              .squares = t->memory[SQUARES],
                              .mean = t->memory[MEAN],
                              .variance = t->memory[VARIANCE],
                              .inverse = t->memory[INVERSE],
                              .rows = t->rows};
  LS_TRY(run(t, t->graph, true));
  return CUDA_LAUNCH(&t->context->base, NULL, statistics, t->k, &k, NULL);
}

static ls_status run_separate(struct trial *t) {
  struct cuda_moments of = {.x = t->memory[Y],
                            .dtype = t->dtype,
                            .c = t->k,
                            .mean = t->memory[MEAN],
                            .variance = t->memory[VARIANCE],
                            .inverse = t->memory[INVERSE],
                            .scratch = t->memory[PARTIALS]};
  LS_TRY(run(t, t->graph, false));
  return cuda_moments(&t->context->base, NULL, &t->reduce, &of, NULL);
}

typedef ls_status work(struct trial *trial);

// The shortest of a few runs, in ms; negative: it does not run. `recording` NULL: of the work itself.
static float shortest(struct trial *t, work *of, struct ls_backend *backend, struct ls_recording *recording) {
  cudaStream_t stream = t->context->stream;
  float best = -1, ms;
  for (int i = 0; i < WARM_UPS + RUNS; i++) {
    if (cudaEventRecord(t->begin, stream) != cudaSuccess) return -1;
    if ((recording ? device_work.replay(backend, recording, NULL) : of(t)) != LS_OK) return -1;
    if (cudaEventRecord(t->end, stream) != cudaSuccess || cudaEventSynchronize(t->end) != cudaSuccess ||
        cudaEventElapsedTime(&ms, t->begin, t->end) != cudaSuccess)
      return -1;
    if (i >= WARM_UPS && (best < 0 || ms < best)) best = ms;
  }
  return best;
}

static float measure(struct trial *t, struct graph *g) {
  t->graph = g;
  return make_workspace(t, g->workspace_bytes) ? shortest(t, run_plain, NULL, NULL) : -1;
}

// As `measure`, of work that is recorded. It ran once before: libraries load on a first run what a recording cannot hold.
static float measure_recorded(struct trial *t, struct graph *g, work *of) {
  struct ls_backend backend = {ls_backend_cuda(), t->context};
  struct ls_recording *recording = NULL;
  t->graph = g;
  if (!make_workspace(t, g->workspace_bytes) || of(t) != LS_OK) return -1;
  if (device_work.record_begin(&backend, NULL) != LS_OK) return -1;
  bool good = of(t) == LS_OK;
  if (device_work.record_end(&backend, &recording, NULL) != LS_OK) return -1;
  float ms = good ? shortest(t, NULL, &backend, recording) : -1;
  device_work.recording_free(recording);
  return ms;
}

// Index of the fastest of the first TRIALS that can be made ready within the rules; the first of them where nothing can be
// measured; -1: there is none.
static int fastest(struct trial *trial, struct graph *g, cudnnBackendDescriptor_t *configs, int count,
                   const struct graph_rules *rules, bool measurable) {
  int best = -1, tried = 0;
  float best_ms = -1;
  for (int i = 0; i < count && tried < TRIALS; i++) {
    if (!graph_take_within(g, configs[i], rules)) continue;
    tried++;
    if (best < 0) best = i;
    if (!measurable) break;
    float ms = measure(trial, g);
    g->status = CUDNN_STATUS_SUCCESS;  // one that does not run is just not chosen
    if (ms < 0 || (best_ms >= 0 && ms >= best_ms)) continue;
    best = i;
    best_ms = ms;
  }
  graph_drop_plan(g);
  return best;
}

ls_status device_tune(const struct device_tuning *tuning, char *choice, struct ls_error *err) {
  cudnnBackendDescriptor_t configs[CANDIDATES];
  struct graph *g = tuning->graph;
  struct trial trial;
  LS_TRY(graph_error(g, err));
  int count = graph_candidates(g, tuning->rules, configs, CANDIDATES);
  bool measurable = make_trial(&trial, tuning->context, tuning->convolution, tuning->bias);
  int best = fastest(&trial, g, configs, count, tuning->rules, measurable);
  if (best < 0 || !graph_describe(configs[best], choice, LS_CHOICE_BYTES)) strcpy(choice, DEVICE_NO_ENGINE);
  for (int i = 0; i < count; i++) cudnnBackendDestroyDescriptor(configs[i]);
  free_trial(&trial);
  return LS_OK;
}

// ---- with statistics

// Fills device memory of `bytes` with values in [-1, 1), the same ones again and again.
static bool draw(const struct trial *t, void *memory, size_t bytes) {
  size_t size = ls_dtype_bytes(t->dtype), some = DRAWN_VALUES * size;
  uint32_t state = 1;
  char *values = malloc(some);
  if (!values) return false;
  for (int i = 0; i < DRAWN_VALUES; i++) {
    state = state * 1664525 + 1013904223;
    ls_put(values, t->dtype, i, (float)state * 0x1p-31F - 1);
  }
  bool good = true;
  for (size_t at = 0; at < bytes && good; at += some) {
    size_t left = bytes - at;
    good = cudaMemcpyAsync((char *)memory + at, values, left < some ? left : some, cudaMemcpyHostToDevice,
                           t->context->stream) == cudaSuccess;
  }
  good = cudaStreamSynchronize(t->context->stream) == cudaSuccess && good;
  free(values);
  return good;
}

static bool make_statistics_trial(struct trial *t, const struct device_tuning *tuning) {
  const struct cuda_convolution *c = tuning->convolution;
  size_t size = ls_dtype_bytes(c->dtype), sums = (size_t)c->k * 2 * sizeof(float);
  return make_trial(t, tuning->context, c, false) && (t->sums[0] = malloc(sums)) && (t->sums[1] = malloc(sums)) &&
         draw(t, t->memory[X], (size_t)(c->n * c->c * c->h * c->w) * size) &&
         draw(t, t->memory[W], (size_t)(c->k * c->c / c->groups * c->r * c->s) * size);
}

// Whether the sums have the same bits on every run.
static bool repeats(struct trial *t, struct graph *g) {
  cudaStream_t stream = t->context->stream;
  size_t bytes = (size_t)t->k * sizeof(float);
  if (!make_workspace(t, g->workspace_bytes)) return false;
  for (int i = 0; i < SAME_BITS_RUNS; i++) {
    float *sums = t->sums[i > 0];
    if (run(t, g, true) != LS_OK ||
        cudaMemcpyAsync(sums, t->memory[SUM], bytes, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
        cudaMemcpyAsync(sums + t->k, t->memory[SQUARES], bytes, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
        cudaStreamSynchronize(stream) != cudaSuccess)
      return false;
    if (i > 0 && memcmp(t->sums[0], t->sums[1], 2 * bytes) != 0) return false;
  }
  return true;
}

// Index of the candidate that is faster than all others and than `best_ms`; -1: none is.
static int fastest_with_statistics(struct trial *trial, const struct device_tuning *tuning,
                                   cudnnBackendDescriptor_t *configs, int count, float best_ms) {
  struct graph *g = tuning->graph;
  int best = -1, tried = 0;
  for (int i = 0; i < count && tried < TRIALS; i++) {
    if (!graph_take_within(g, configs[i], tuning->rules)) continue;
    tried++;
    bool good = !tuning->rules->deterministic || repeats(trial, g);
    float ms = good ? measure_recorded(trial, g, run_with_statistics) : -1;
    g->status = CUDNN_STATUS_SUCCESS;
    if (ms < 0 || ms >= best_ms) continue;
    best = i;
    best_ms = ms;
  }
  graph_drop_plan(g);
  return best;
}

ls_status device_tune_statistics(const struct device_tuning *tuning, char *choice, struct ls_error *err) {
  cudnnBackendDescriptor_t configs[CANDIDATES];
  struct graph *g = tuning->graph;
  struct trial trial = {0};
  LS_TRY(graph_error(g, err));
  int count = graph_candidates(g, tuning->rules, configs, CANDIDATES), best = -1;
  if (count > 0 && make_statistics_trial(&trial, tuning)) {
    float separate_ms = measure_recorded(&trial, tuning->separate, run_separate);
    if (separate_ms >= 0) best = fastest_with_statistics(&trial, tuning, configs, count, separate_ms);
  }
  if (best < 0 || !graph_describe(configs[best], choice, LS_CHOICE_BYTES))
    strcpy(choice, count > 0 ? DEVICE_SEPARATE : DEVICE_NO_ENGINE);
  for (int i = 0; i < count; i++) cudnnBackendDestroyDescriptor(configs[i]);
  free_trial(&trial);
  return LS_OK;
}
