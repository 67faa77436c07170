// Which engine the tuning chooses (backend/cuda/device/tune.c), without a GPU: CUDA, cuDNN and the engines are pretended
// here, with a clock of their own. An engine is a descriptor: what it takes, and how it fails.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "backend/cuda/device/device.h"

struct engine {
  float ms;
  bool not_ready, no_run, no_recording, breaks_gpu, other_bits;
  int64_t workspace_bytes;
};

static struct engine *offered;
static int offers;
static float clock_ms, recorded_ms, own_ms;  // own_ms: what a kernel of ours takes
static int64_t memory_left;
static bool in_recording, recording_broken, gpu_broken;
static cudaError_t last_error;
static int allocations, executions;

enum { LAUNCH_US = 8 };  // the host's part

// ---- CUDA and cuDNN

static cudaError_t fake_malloc(void **memory, size_t bytes) {
  if ((int64_t)bytes > memory_left) return last_error = cudaErrorMemoryAllocation;
  *memory = calloc(1, bytes);
  allocations++;
  return cudaSuccess;
}

static cudaError_t fake_free(void *memory) {
  allocations -= memory != NULL;
  free(memory);
  return cudaSuccess;
}

static cudaError_t fake_event(cudaEvent_t *event) { return fake_malloc((void **)event, sizeof(float)); }
static cudaError_t fake_event_free(cudaEvent_t event) { return fake_free(event); }
static cudaError_t fake_sync(void) { return gpu_broken ? cudaErrorIllegalAddress : cudaSuccess; }

static cudaError_t fake_record(cudaEvent_t event) {
  *(float *)(void *)event = clock_ms;
  return fake_sync();
}

static cudaError_t fake_elapsed(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  *ms = *(float *)(void *)end - *(float *)(void *)begin;
  return cudaSuccess;
}

static cudaError_t fake_last_error(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

static cudaError_t fake_copy(void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  return fake_sync();
}

#define cudaMalloc(memory, bytes) fake_malloc((void **)(memory), bytes)
#define cudaFree fake_free
#define cudaEventCreate fake_event
#define cudaEventDestroy fake_event_free
#define cudaEventRecord(event, stream) ((void)(stream), fake_record(event))
#define cudaEventSynchronize(event) fake_sync()
#define cudaStreamSynchronize(stream) ((void)(stream), fake_sync())
#define cudaEventElapsedTime fake_elapsed
#define cudaGetLastError fake_last_error
#define cudaMemsetAsync(memory, value, bytes, stream) (memset(memory, value, bytes), fake_sync())
#define cudaMemcpyAsync(to, from, bytes, kind, stream) ((void)(stream), fake_copy(to, from, bytes))
#define cudnnSetStream(handle, stream) CUDNN_STATUS_SUCCESS
#define cudnnBackendDestroyDescriptor(config) ((void)(config))

#include "backend/cuda/device/tune.c"  // NOLINT(bugprone-suspicious-include): with the pretended calls above

// ---- the rest of the device's part

ls_status device_error(cudaError_t error, const char *what, struct ls_error *err) {
  if (error == cudaSuccess) return LS_OK;
  return ls_fail(err, error == cudaErrorMemoryAllocation ? LS_NO_MEMORY : LS_UNAVAILABLE, "%s: %d", what, (int)error);
}

ls_status device_alive(struct device_context *context, struct ls_error *err) {
  (void)context;
  fake_last_error();
  return device_error(fake_sync(), "the GPU has failed", err);
}

static void take_time(float ms) {
  if (in_recording)
    recorded_ms += ms;
  else
    clock_ms += ms + LAUNCH_US / 1000.0F;
}

ls_status device_run_graph(struct graph *g, const struct cuda_product_args *args, struct ls_error *err) {
  struct engine *e = g->plan;
  (void)err;
  assert_true(e->workspace_bytes == 0 || args->scratch);
  assert_int_equal(last_error, cudaSuccess);  // nobody else's
  executions++;
  gpu_broken |= e->breaks_gpu;
  recording_broken |= in_recording && e->no_recording;
  if (e->no_run || gpu_broken || recording_broken) return LS_INTERNAL;
  if (e->other_bits) *(float *)args->sum = (float)executions;
  take_time(e->ms);
  return LS_OK;
}

static ls_status launch(struct cuda_context *context, struct ls_stream *stream, enum ls_kernel kernel,
                        const void *arguments, int64_t n, struct ls_error *err) {
  (void)context, (void)stream, (void)kernel, (void)arguments, (void)n, (void)err;
  take_time(own_ms);
  return LS_OK;
}

ls_status cuda_moments(struct cuda_context *context, struct ls_stream *stream, const struct ls_reduce *reduce,
                       const struct cuda_moments *moments, struct ls_error *err) {
  (void)context, (void)stream, (void)reduce, (void)moments, (void)err;
  take_time(own_ms);
  return LS_OK;
}

static ls_status record_begin(struct ls_backend *backend, struct ls_error *err) {
  (void)backend, (void)err;
  in_recording = true;
  recorded_ms = 0;
  return LS_OK;
}

static ls_status record_end(struct ls_backend *backend, struct ls_recording **result, struct ls_error *err) {
  (void)backend;
  in_recording = false;
  *result = NULL;
  if (recording_broken) {
    recording_broken = false;
    return ls_fail(err, LS_UNAVAILABLE, "not recorded");
  }
  float *made = malloc(sizeof *made);
  *made = recorded_ms;
  *result = (struct ls_recording *)(void *)made;
  return LS_OK;
}

static ls_status replay(struct ls_backend *backend, struct ls_recording *made, struct ls_error *err) {
  (void)backend, (void)err;
  clock_ms += *(float *)(void *)made + LAUNCH_US / 1000.0F;
  return LS_OK;
}

static void recording_free(struct ls_recording *made) { free(made); }

const struct ls_device_ops device_work = {
    .record_begin = record_begin, .record_end = record_end, .replay = replay, .recording_free = recording_free};

const struct ls_backend_ops *ls_backend_cuda(void) { return NULL; }

ls_status graph_error(const struct graph *g, struct ls_error *err) {
  (void)g, (void)err;
  return LS_OK;
}

int graph_candidates(struct graph *g, const struct graph_rules *rules, cudnnBackendDescriptor_t *configs, int most) {
  (void)g, (void)rules;
  for (int i = 0; i < offers && i < most; i++) configs[i] = &offered[i];
  return offers;
}

void graph_spread(cudnnBackendDescriptor_t *configs, int count) { (void)configs, (void)count; }
void graph_drop_plan(struct graph *g) { g->plan = NULL; }

bool graph_take_within(struct graph *g, cudnnBackendDescriptor_t config, const struct graph_rules *rules) {
  struct engine *e = config;
  (void)rules;
  if (e->not_ready) return false;
  g->plan = config;
  g->workspace_bytes = e->workspace_bytes;
  return true;
}

bool graph_describe(cudnnBackendDescriptor_t config, char *text, size_t size) {
  snprintf(text, size, "%d", (int)((struct engine *)config - offered));
  return true;
}

// ---- the tests

static const struct cuda_machine machine = {.launch = launch};
static struct engine separate_engine;

enum with { ALONE, FUSED, STATISTICS };

static ls_status tune_among(enum with with, struct engine *engines, int count, char *choice) {
  struct device_context context = {.base.machine = &machine};
  struct cuda_convolution c = {.n = 2, .c = 4, .h = 4, .w = 4, .k = 4, .r = 1, .s = 1, .p = 4, .q = 4, .groups = 1};
  struct graph_rules rules = {.deterministic = true};
  struct graph graph = {0}, separate = {.plan = &separate_engine, .workspace_bytes = separate_engine.workspace_bytes};
  struct ls_error err = LS_ERROR_INIT;
  struct device_tuning tuning = {&context, &graph, with == ALONE ? NULL : &separate, &c, &rules};
  c.dtype = LS_F16;
  c.bias = c.relu = with == FUSED;
  c.statistics = with == STATISTICS;
  offered = engines;
  offers = count;
  clock_ms = 0;
  executions = 0;
  gpu_broken = recording_broken = false;
  strcpy(choice, "?");
  ls_status status = device_tune(&tuning, choice, &err);
  assert_int_equal(allocations, 0);
  assert_int_equal(last_error, cudaSuccess);
  return status;
}

static void expect(enum with with, struct engine *engines, int count, const char *expected) {
  char choice[LS_CHOICE_BYTES];
  assert_int_equal(tune_among(with, engines, count, choice), LS_OK);
  assert_string_equal(choice, expected);
}

static void expect_error(enum with with, struct engine *engines, int count, ls_status expected) {
  char choice[LS_CHOICE_BYTES];
  assert_int_equal(tune_among(with, engines, count, choice), expected);
}

static int begin(void **state) {
  (void)state;
  memory_left = 1 << 20;
  own_ms = 0.002F;
  separate_engine = (struct engine){.ms = 0.01F};
  return 0;
}

static void test_fastest(void **state) {
  (void)state;
  struct engine engines[] = {{.ms = 0.02F},  {.ms = 0.001F, .not_ready = true},
                             {.ms = 0.005F}, {.ms = 0.001F, .no_run = true},
                             {.ms = 0.004F}, {.ms = 100}};
  expect(ALONE, engines, 6, "4");
  assert_true(executions < 200);  // what takes 100 ms runs twice
  assert_true(clock_ms < 250);
  // One that cannot be recorded counts with the host's part.
  engines[4].no_recording = true;
  expect(ALONE, engines, 6, "2");
  expect(ALONE, engines, 1, "0");
}

static void test_none(void **state) {
  (void)state;
  struct engine engines[] = {{.no_run = true}, {.not_ready = true}, {.no_run = true}};
  expect(ALONE, engines, 3, DEVICE_NO_ENGINE);
  expect(ALONE, engines, 0, DEVICE_NO_ENGINE);
  expect(FUSED, engines, 0, DEVICE_NO_ENGINE);
}

// No choice is made, and so none kept.
static void test_failures(void **state) {
  (void)state;
  struct engine engines[] = {{.ms = 1}, {.ms = 0.5F, .breaks_gpu = true}, {.ms = 0.1F}};
  expect_error(ALONE, engines, 3, LS_UNAVAILABLE);
  engines[1] = (struct engine){.ms = 0.5F, .workspace_bytes = 2 << 20};
  expect(ALONE, engines, 3, "2");  // the one without memory is left out, and nobody else is blamed for it
  expect_error(ALONE, engines + 1, 1, LS_NO_MEMORY);
  memory_left = 64;
  expect_error(ALONE, engines, 3, LS_NO_MEMORY);
  begin(NULL);
  separate_engine.workspace_bytes = 2 << 20;
  expect_error(FUSED, engines, 3, LS_NO_MEMORY);
  separate_engine = (struct engine){.breaks_gpu = true};
  expect_error(FUSED, engines, 3, LS_UNAVAILABLE);
}

// Against the convolution alone and an own kernel behind it.
static void test_separate(void **state) {
  (void)state;
  struct engine engines[] = {{.ms = 0.02F}, {.ms = 0.011F}, {.ms = 0.0125F}};
  expect(FUSED, engines, 3, "1");  // 11 us against 10 + 2
  own_ms = 0.0005F;
  expect(FUSED, engines, 3, DEVICE_SEPARATE);
  own_ms = 0.002F;
  expect(STATISTICS, engines, 3, DEVICE_SEPARATE);  // 11 + 2 against 10 + 2
  separate_engine.ms = 0.012F;
  expect(STATISTICS, engines, 3, "1");
  separate_engine.no_run = true;
  expect(FUSED, engines, 3, "1");
}

// Statistics that are not the same on every run are not chosen.
static void test_bits(void **state) {
  (void)state;
  struct engine engines[] = {{.ms = 0.005F}, {.ms = 0.001F, .other_bits = true}};
  expect(STATISTICS, engines, 2, "0");
  expect(STATISTICS, engines + 1, 1, DEVICE_SEPARATE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_fastest, begin), cmocka_unit_test_setup(test_none, begin),
      cmocka_unit_test_setup(test_failures, begin), cmocka_unit_test_setup(test_separate, begin),
      cmocka_unit_test_setup(test_bits, begin)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
