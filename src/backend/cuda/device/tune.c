// Choosing an engine for a convolution by measuring: of the heuristics' candidates a dozen that can be made ready, different
// engines first, run on memory of their own, the one with the shortest time wins. See device.h; when it is done, and how
// often: backend/choices.h.
//
// What is fused - bias and ReLU, or statistics - is measured against the convolution alone with the own kernels behind it.
// Statistics, as nothing else says that their sums always meet in the same order, on values that would show it.
//
// What is measured is a recording of several executions, as a training step replays it: between single short kernels the
// host's part would count. A candidate that does not run is not chosen. Where the GPU has failed, or has no memory to
// measure with, there is no choice but an error: a choice is kept for good.
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "backend/cuda/device/device.h"

enum { CANDIDATES = 48, TRIALS = 12, RUNS = 3, MOST_EXECUTIONS = 20, SAME_BITS_RUNS = 8, DRAWN_VALUES = 65536 };
static const float run_ms = 1, hopeless = 4;  // length of a recording; times the best: not measured closely

static const char no_memory[] = "the GPU has no memory left to measure it with";

enum { X, W, Y, BIAS, SUM, SQUARES, MEAN, VARIANCE, INVERSE, PARTIALS, TENSORS };

struct trial {
  struct device_context *context;
  const struct cuda_convolution *convolution;
  void *memory[TENSORS], *workspace;
  int64_t workspace_bytes;
  bool no_memory;  // for a workspace
  cudaEvent_t begin, end;
  struct graph *graph;  // that is measured
  // With statistics.
  struct ls_reduce reduce;
  int64_t rows;  // of y [rows, k]
  int32_t k;
  enum ls_dtype dtype;
  float *sums[2];  // on the host: of the first run and of another, [2 k]
};

// Fills device memory of `bytes` with values in [-1, 1), the same ones again and again.
static ls_status draw(const struct trial *t, void *memory, size_t bytes, struct ls_error *err) {
  size_t size = ls_dtype_bytes(t->dtype), some = DRAWN_VALUES * size;
  uint32_t state = 1;
  char *values = malloc(some);
  if (!values) return ls_fail(err, LS_NO_MEMORY, "no memory for measuring a convolution");
  for (int i = 0; i < DRAWN_VALUES; i++) {
    state = state * 1664525 + 1013904223;
    ls_put(values, t->dtype, i, (float)state * 0x1p-31F - 1);
  }
  cudaError_t error = cudaSuccess;
  for (size_t at = 0; at < bytes && error == cudaSuccess; at += some) {
    size_t left = bytes - at;
    error = cudaMemcpyAsync((char *)memory + at, values, left < some ? left : some, cudaMemcpyHostToDevice,
                            t->context->stream);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(t->context->stream);
  free(values);
  return device_error(error, "measuring a convolution", err);
}

static ls_status make_sums(struct trial *t, int64_t x_bytes, int64_t w_bytes, struct ls_error *err) {
  size_t bytes = (size_t)t->k * 2 * sizeof(float);
  if (!(t->sums[0] = malloc(bytes)) || !(t->sums[1] = malloc(bytes)))
    return ls_fail(err, LS_NO_MEMORY, "no memory for measuring a convolution");
  LS_TRY(draw(t, t->memory[X], (size_t)x_bytes, err));
  return draw(t, t->memory[W], (size_t)w_bytes, err);
}

// Without statistics zeros: what is measured is the order of the candidates, not their speed on an image. The caller frees
// what was made, after an error too.
static ls_status make_trial(struct trial *t, const struct device_tuning *tuning, struct ls_error *err) {
  static const char what[] = "measuring a convolution";
  const struct cuda_convolution *c = tuning->convolution;
  struct device_context *context = tuning->context;
  int64_t size = (int64_t)ls_dtype_bytes(c->dtype), sums = c->statistics ? c->k * (int64_t)sizeof(float) : 0;
  *t = (struct trial){
      .context = context, .convolution = c, .rows = c->n * c->p * c->q, .k = (int32_t)c->k, .dtype = c->dtype};
  t->reduce = ls_reduce_of(t->rows, t->k);
  int64_t bytes[TENSORS] = {c->n * c->c * c->h * c->w * size,
                            c->k * c->c / c->groups * c->r * c->s * size,
                            t->rows * c->k * size,
                            c->bias ? c->k * size : 0,
                            sums,
                            sums,
                            sums,
                            sums,
                            sums,
                            c->statistics ? (int64_t)cuda_moments_scratch(&t->reduce, c->k) : 0};
  if (cudnnSetStream(context->cudnn, context->stream) != CUDNN_STATUS_SUCCESS)
    return ls_fail(err, LS_INTERNAL, "cuDNN does not take the stream");
  CUDA_TRY(what, cudaEventCreate(&t->begin));
  CUDA_TRY(what, cudaEventCreate(&t->end));
  for (int i = 0; i < TENSORS; i++) {
    if (bytes[i] == 0) continue;
    CUDA_TRY(what, cudaMalloc(&t->memory[i], (size_t)bytes[i]));
    CUDA_TRY(what, cudaMemsetAsync(t->memory[i], 0, (size_t)bytes[i], context->stream));
  }
  return c->statistics ? make_sums(t, bytes[X], bytes[W], err) : LS_OK;
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
  cudaError_t error = cudaMalloc(&t->workspace, (size_t)bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not to be blamed on the next candidate
    t->no_memory |= error == cudaErrorMemoryAllocation;
    t->workspace = NULL;
    return false;
  }
  t->workspace_bytes = bytes;
  return true;
}

// ---- the work that is measured

static ls_status run(struct trial *t, bool bias, bool statistics) {
  struct cuda_product_args args = {.x = t->memory[X],
                                   .w = t->memory[W],
                                   .y = t->memory[Y],
                                   .bias = bias ? t->memory[BIAS] : NULL,
                                   .sum = statistics ? t->memory[SUM] : NULL,
                                   .squares = statistics ? t->memory[SQUARES] : NULL,
                                   .scratch = t->workspace};
  return device_run_graph(t->graph, &args, NULL);
}

typedef ls_status work(struct trial *trial);

static ls_status run_alone(struct trial *t) { return run(t, false, false); }
static ls_status run_fused(struct trial *t) { return run(t, t->convolution->bias, false); }

static ls_status run_then_epilogue(struct trial *t) {
  struct ls_k_epilogue k = {.x = t->memory[Y],
                            .bias = t->convolution->bias ? t->memory[BIAS] : NULL,
                            .y = t->memory[Y],
                            .relu = t->convolution->relu,
                            .c = t->k,
                            .dtype = t->dtype,
                            .n = t->rows * t->k};
  LS_TRY(run_alone(t));
  return CUDA_LAUNCH(&t->context->base, NULL, epilogue, cuda_groups(k.n), &k, NULL);
}

static ls_status run_with_statistics(struct trial *t) {
  struct ls_k_statistics k = {.sum = t->memory[SUM],
                              .squares = t->memory[SQUARES],
                              .mean = t->memory[MEAN],
                              .variance = t->memory[VARIANCE],
                              .inverse = t->memory[INVERSE],
                              .rows = t->rows};
  LS_TRY(run(t, false, true));
  return CUDA_LAUNCH(&t->context->base, NULL, statistics, t->k, &k, NULL);
}

static ls_status run_then_moments(struct trial *t) {
  struct cuda_moments of = {.x = t->memory[Y],
                            .dtype = t->dtype,
                            .c = t->k,
                            .mean = t->memory[MEAN],
                            .variance = t->memory[VARIANCE],
                            .inverse = t->memory[INVERSE],
                            .scratch = t->memory[PARTIALS]};
  LS_TRY(run_alone(t));
  return cuda_moments(&t->context->base, NULL, &t->reduce, &of, NULL);
}

// ---- measuring

// The shortest of a few replays of `recording`, or of `times` executions; in ms, negative: it does not run.
static float shortest(struct trial *t, work *of, struct ls_backend *backend, struct ls_recording *recording, int times,
                      int runs) {
  cudaStream_t stream = t->context->stream;
  float best = -1, ms;
  for (int i = 0; i < runs; i++) {
    if (cudaEventRecord(t->begin, stream) != cudaSuccess) return -1;
    for (int j = 0; j < (recording ? 1 : times); j++) {
      if ((recording ? device_work.replay(backend, recording, NULL) : of(t)) != LS_OK) return -1;
    }
    if (cudaEventRecord(t->end, stream) != cudaSuccess || cudaEventSynchronize(t->end) != cudaSuccess ||
        cudaEventElapsedTime(&ms, t->begin, t->end) != cudaSuccess)
      return -1;
    if (best < 0 || ms < best) best = ms;
  }
  return best;
}

static struct ls_recording *record(struct trial *t, work *of, struct ls_backend *backend, int times) {
  struct ls_recording *recording = NULL;
  bool good = true;
  if (device_work.record_begin(backend, NULL) != LS_OK) return NULL;
  for (int i = 0; i < times && good; i++) good = of(t) == LS_OK;
  if (device_work.record_end(backend, &recording, NULL) != LS_OK) return NULL;
  if (good) return recording;
  device_work.recording_free(recording);
  return NULL;
}

// The time of one execution of `of` with the plan of `g`, in ms; negative: it does not run. What cannot be recorded is
// measured as it is. best_ms: of others, negative: there are none.
static float measure(struct trial *t, struct graph *g, work *of, float best_ms) {
  struct ls_backend backend = {ls_backend_cuda(), t->context};
  t->graph = g;
  // Once before: libraries load on a first run what a recording cannot hold.
  if (!make_workspace(t, g->workspace_bytes) || of(t) != LS_OK) return -1;
  float once_ms = shortest(t, of, NULL, NULL, 1, 1);
  if (once_ms < 0 || (best_ms >= 0 && once_ms > run_ms && once_ms > hopeless * best_ms)) return once_ms;
  int times = once_ms * MOST_EXECUTIONS > run_ms ? 1 + (int)(run_ms / once_ms) : MOST_EXECUTIONS;
  struct ls_recording *recording = record(t, of, &backend, times);
  if (!recording) {
    cudaGetLastError();
    g->status = CUDNN_STATUS_SUCCESS;
  }
  float ms = shortest(t, of, &backend, recording, times, 1 + RUNS);
  device_work.recording_free(recording);
  return ms / (float)times;
}

// Whether the sums have the same bits on every run.
static bool repeats(struct trial *t, struct graph *g) {
  cudaStream_t stream = t->context->stream;
  size_t bytes = (size_t)t->k * sizeof(float);
  t->graph = g;
  if (!make_workspace(t, g->workspace_bytes)) return false;
  for (int i = 0; i < SAME_BITS_RUNS; i++) {
    float *sums = t->sums[i > 0];
    if (run(t, false, true) != LS_OK ||
        cudaMemcpyAsync(sums, t->memory[SUM], bytes, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
        cudaMemcpyAsync(sums + t->k, t->memory[SQUARES], bytes, cudaMemcpyDeviceToHost, stream) != cudaSuccess ||
        cudaStreamSynchronize(stream) != cudaSuccess)
      return false;
    if (i > 0 && memcmp(t->sums[0], t->sums[1], 2 * bytes) != 0) return false;
  }
  return true;
}

// *best: the candidate that is faster than all others and than best_ms (negative: there is nothing else); -1: none is.
static ls_status fastest(struct trial *trial, const struct device_tuning *tuning, cudnnBackendDescriptor_t *configs,
                         int count, float best_ms, int *best, struct ls_error *err) {
  struct graph *g = tuning->graph;
  const struct graph_rules *rules = tuning->rules;
  bool statistics = tuning->convolution->statistics;
  int tried = 0, measured = 0;
  *best = -1;
  for (int i = 0; i < count && tried < TRIALS; i++) {
    if (!graph_take_within(g, configs[i], rules)) continue;
    tried++;
    bool good = !statistics || !rules->deterministic || repeats(trial, g);
    float ms = good ? measure(trial, g, statistics ? run_with_statistics : run_fused, best_ms) : -1;
    g->status = CUDNN_STATUS_SUCCESS;  // one that does not run is just not chosen
    if (ms < 0) LS_TRY(device_alive(trial->context, err));
    if (ms < 0) continue;
    measured++;
    if (best_ms >= 0 && ms >= best_ms) continue;
    *best = i;
    best_ms = ms;
  }
  graph_drop_plan(g);
  if (measured > 0) return LS_OK;
  LS_TRY(device_alive(trial->context, err));
  if (!trial->no_memory && !g->no_memory) return LS_OK;
  return ls_fail(err, LS_NO_MEMORY, no_memory);
}

static ls_status tune(struct trial *trial, const struct device_tuning *tuning, cudnnBackendDescriptor_t *configs,
                      int count, int *best, struct ls_error *err) {
  float separate_ms = -1;
  LS_TRY(make_trial(trial, tuning, err));
  if (tuning->separate) {
    work *separate = tuning->convolution->statistics ? run_then_moments : run_then_epilogue;
    separate_ms = measure(trial, tuning->separate, separate, -1);
    tuning->separate->status = CUDNN_STATUS_SUCCESS;
    if (separate_ms < 0) LS_TRY(device_alive(trial->context, err));
    if (trial->no_memory) return ls_fail(err, LS_NO_MEMORY, no_memory);
  }
  return fastest(trial, tuning, configs, count, separate_ms, best, err);
}

ls_status device_tune(const struct device_tuning *tuning, char *choice, struct ls_error *err) {
  cudnnBackendDescriptor_t configs[CANDIDATES];
  struct trial trial = {0};
  LS_TRY(graph_error(tuning->graph, err));
  int count = graph_candidates(tuning->graph, tuning->rules, configs, CANDIDATES), best = -1;
  graph_spread(configs, count);
  ls_status status = count > 0 ? tune(&trial, tuning, configs, count, &best, err) : device_alive(tuning->context, err);
  if (best < 0 || !graph_describe(configs[best], choice, LS_CHOICE_BYTES))
    strcpy(choice, count > 0 && tuning->separate ? DEVICE_SEPARATE : DEVICE_NO_ENGINE);
  for (int i = 0; i < count; i++) cudnnBackendDestroyDescriptor(configs[i]);
  free_trial(&trial);
  return status;
}
