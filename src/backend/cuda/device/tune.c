// Choosing an engine for a convolution by measuring: the heuristics' first few that can be made ready run a few times on
// memory of their own, the one with the shortest time wins. See device.h; when it is done, and how often:
// backend/choices.h.
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "backend/cuda/device/device.h"

enum { CANDIDATES = 24, TRIALS = 6, WARM_UPS = 2, RUNS = 5, TENSORS = 4 };

struct trial {
  struct device_context *context;
  void *memory[TENSORS], *workspace;
  int64_t workspace_bytes;
  cudaEvent_t begin, end;
};

// Zeros: what is measured is the order of the candidates, not their speed on an image.
static bool make_trial(struct trial *t, struct device_context *context, const struct cuda_convolution *c) {
  size_t size = ls_dtype_bytes(c->dtype);
  int64_t values[TENSORS] = {c->n * c->c * c->h * c->w, c->k * c->c / c->groups * c->r * c->s,
                             c->n * c->k * c->p * c->q, c->k};
  *t = (struct trial){.context = context};
  bool good = cudaEventCreate(&t->begin) == cudaSuccess && cudaEventCreate(&t->end) == cudaSuccess;
  for (int i = 0; i < TENSORS && good; i++) {
    size_t bytes = (size_t)values[i] * size;
    good = cudaMalloc(&t->memory[i], bytes) == cudaSuccess &&
           cudaMemsetAsync(t->memory[i], 0, bytes, context->stream) == cudaSuccess;
  }
  return good;
}

static void free_trial(struct trial *t) {
  for (int i = 0; i < TENSORS; i++) cudaFree(t->memory[i]);
  cudaFree(t->workspace);
  if (t->begin) cudaEventDestroy(t->begin);
  if (t->end) cudaEventDestroy(t->end);
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

// The shortest of a few runs, in ms; negative: it does not run.
static float measure(struct trial *t, struct graph *g, bool bias) {
  static const int64_t uids[TENSORS] = {UID_X, UID_W, UID_Y, UID_BIAS};
  cudaStream_t stream = t->context->stream;
  float best = -1, ms;
  if (!make_workspace(t, g->workspace_bytes)) return -1;
  for (int i = 0; i < WARM_UPS + RUNS; i++) {
    if (cudaEventRecord(t->begin, stream) != cudaSuccess) return -1;
    if (graph_run(g, bias ? TENSORS : TENSORS - 1, uids, t->memory, t->workspace, NULL) != LS_OK) return -1;
    if (cudaEventRecord(t->end, stream) != cudaSuccess || cudaEventSynchronize(t->end) != cudaSuccess ||
        cudaEventElapsedTime(&ms, t->begin, t->end) != cudaSuccess)
      return -1;
    if (i >= WARM_UPS && (best < 0 || ms < best)) best = ms;
  }
  return best;
}

// Index of the fastest of the first TRIALS that can be made ready within the rules; the first of them where nothing can be
// measured; -1: there is none.
static int fastest(struct trial *trial, struct graph *g, cudnnBackendDescriptor_t *configs, int count,
                   const struct graph_rules *rules, bool bias, bool measurable) {
  int best = -1, tried = 0;
  float best_ms = -1;
  for (int i = 0; i < count && tried < TRIALS; i++) {
    if (!graph_take_within(g, configs[i], rules)) continue;
    tried++;
    if (best < 0) best = i;
    if (!measurable) break;
    float ms = measure(trial, g, bias);
    g->status = CUDNN_STATUS_SUCCESS;  // one that does not run is just not chosen
    if (ms < 0 || (best_ms >= 0 && ms >= best_ms)) continue;
    best = i;
    best_ms = ms;
  }
  graph_drop_plan(g);
  return best;
}

ls_status device_tune(struct device_context *context, struct graph *g, const struct cuda_convolution *c, bool bias,
                      const struct graph_rules *rules, char *choice, struct ls_error *err) {
  cudnnBackendDescriptor_t configs[CANDIDATES];
  struct trial trial;
  LS_TRY(graph_error(g, err));
  int count = graph_candidates(g, rules, configs, CANDIDATES);
  bool measurable = make_trial(&trial, context, c);
  int best = fastest(&trial, g, configs, count, rules, bias, measurable);
  if (best < 0 || !graph_describe(configs[best], choice, LS_CHOICE_BYTES)) strcpy(choice, DEVICE_NO_ENGINE);
  for (int i = 0; i < count; i++) cudnnBackendDestroyDescriptor(configs[i]);
  free_trial(&trial);
  return LS_OK;
}
