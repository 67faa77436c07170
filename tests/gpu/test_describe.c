// What can be checked of the device's half without a device: cuDNN takes the description of every kind of convolution, in
// every direction and type, and a missing GPU is said in a sentence.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "backend/cuda/device/device.h"
#include "support/h200.h"

static struct cuda_convolution convolution(int64_t c, int64_t k, int64_t size, int64_t r, int64_t stride,
                                           int64_t groups) {
  int64_t pad = r / 2, out = (size + 2 * pad - r) / stride + 1;
  return (struct cuda_convolution){.n = 8,
                                   .c = c,
                                   .h = size,
                                   .w = size,
                                   .k = k,
                                   .r = r,
                                   .s = r,
                                   .p = out,
                                   .q = out,
                                   .groups = groups,
                                   .stride = {stride, stride},
                                   .dilation = {1, 1},
                                   .before = {pad, pad},
                                   .after = {pad, pad}};
}

static void describe(struct cuda_convolution c) {
  static const enum ls_dtype types[] = {LS_F32, LS_F16, LS_BF16};
  for (int direction = CUDA_FORWARD; direction <= CUDA_BACKWARD_WEIGHTS; direction++) {
    for (int i = 0; i < 15; i++) {
      struct graph graph;
      struct ls_error err = LS_ERROR_INIT;
      c.direction = (enum cuda_direction)direction;
      c.dtype = types[i / 5];
      c.bias = i % 5 & 1, c.relu = i % 5 & 2, c.statistics = i % 5 == 4;
      if (direction != CUDA_FORWARD && i % 5) continue;
      graph_init_for(&graph, NULL);
      device_describe_product(&graph, &c, true);
      if (graph_error(&graph, &err) != LS_OK) fail_msg("direction %d: %s", direction, err.text);
      assert_int_equal(graph.operations, 1 + c.bias + c.relu + c.statistics);
      graph_release(&graph);
    }
  }
}

static void test_descriptions(void **state) {
  (void)state;
  describe(convolution(3, 64, 224, 7, 2, 1));
  describe(convolution(64, 256, 56, 1, 1, 1));
  describe(convolution(512, 512, 7, 3, 2, 1));
  describe(convolution(96, 256, 27, 5, 1, 2));
  describe(convolution(9216, 4096, 1, 1, 1, 1));
}

// A description that cannot be: the error is kept and named, and what follows does nothing.
static void test_wrong_description(void **state) {
  (void)state;
  struct graph graph;
  struct ls_error err = LS_ERROR_INIT;
  struct cuda_convolution c = convolution(64, 64, 14, 3, 1, 1);
  c.p = 99;  // not what the window gives
  graph_init_for(&graph, NULL);
  device_describe_product(&graph, &c, true);
  assert_int_not_equal(graph_error(&graph, &err), LS_OK);
  assert_non_null(strstr(err.text, "describing a convolution"));
  assert_int_equal(graph.operations, 0);
  graph_release(&graph);
}

static ls_status plan_by(const struct cuda_convolution *c, bool fused, const struct graph_rules *rules,
                         struct graph *graph, struct ls_error *err) {
  graph_init_for(graph, h200);
  device_describe_product(graph, c, fused);
  graph_finish(graph);
  return graph_plan(graph, rules, err);
}

static ls_status plan_for(const struct cuda_convolution *c, bool fused, struct graph *graph, struct ls_error *err) {
  struct graph_rules rules = {.deterministic = true,
                              .no_tensor_core = c->dtype == LS_F32,
                              .most_workspace_bytes = (int64_t)cuda_workspace_limit(c)};
  return plan_by(c, fused, &rules, graph, err);
}

// Every convolution of the networks has a deterministic engine, float32 without TF32.
static void test_plans(void **state) {
  (void)state;
  static const char *const names[] = {"forward", "backward data", "backward weights"};
  struct cuda_convolution all[] = {convolution(3, 64, 224, 7, 2, 1),    convolution(64, 256, 56, 1, 1, 1),
                                   convolution(512, 512, 7, 3, 2, 1),   convolution(96, 256, 27, 5, 1, 2),
                                   convolution(9216, 4096, 1, 1, 1, 1), convolution(1, 6, 28, 5, 1, 1),
                                   convolution(16, 16, 32, 3, 1, 1),    convolution(4, 64, 224, 7, 2, 1),
                                   convolution(8, 64, 224, 7, 2, 1)};  // padded inputs: layout.c
  static const enum ls_dtype types[] = {LS_F32, LS_BF16, LS_F16};
  int missing = 0;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    for (int j = 0; j < 12; j++) {
      struct cuda_convolution c = all[i];
      struct graph graph;
      struct ls_error err = LS_ERROR_INIT;
      c.direction = j % 4 == 3 ? CUDA_FORWARD : (enum cuda_direction)(j % 4);
      c.dtype = types[j / 4];
      c.bias = c.relu = j % 4 == 3;
      ls_status status = plan_for(&c, c.bias, &graph, &err);
      printf("%5d -> %4d, %dx%d at %3d, %-8s %s%s: ", (int)c.c, (int)c.k, (int)c.r, (int)c.s, (int)c.h,
             ls_dtype_name(c.dtype), names[c.direction], c.bias ? " + bias + relu" : "");
      if (status == LS_OK)
        printf("engine %d, %.1f MiB\n", (int)graph.engine, (double)graph.workspace_bytes / 1048576);
      else
        printf("%s\n", err.text);
      missing += status != LS_OK && !c.bias;
      if (status != LS_OK) assert_int_equal(status, LS_UNSUPPORTED);  // anything else ends a job
      graph_release(&graph);
    }
  }
  assert_int_equal(missing, 0);
}

static int64_t first_workspace(const struct cuda_convolution *c) {
  struct graph_rules rules = {
      .deterministic = true, .no_tensor_core = c->dtype == LS_F32, .most_workspace_bytes = INT64_MAX};
  struct graph graph;
  struct ls_error err = LS_ERROR_INIT;
  graph_init_for(&graph, h200);
  device_describe_product(&graph, c, false);
  graph_finish(&graph);
  if (graph_plan(&graph, &rules, &err) != LS_OK) fail_msg("%s", err.text);
  int64_t bytes = graph.workspace_bytes;
  graph_release(&graph);
  return bytes;
}

// The scratch memory that the plan of a network counts on: what the heuristics like best fits into it, whatever the batch.
// What wants more than the rules allow is not taken.
static void test_workspace(void **state) {
  (void)state;
  struct cuda_convolution all[] = {convolution(3, 64, 224, 3, 1, 1),  convolution(64, 64, 224, 3, 1, 1),
                                   convolution(3, 64, 224, 7, 2, 1),  convolution(256, 512, 56, 1, 2, 1),
                                   convolution(96, 256, 27, 5, 1, 2), convolution(384, 384, 13, 3, 1, 2),
                                   convolution(16, 32, 32, 3, 2, 1),  convolution(6, 16, 14, 5, 1, 1)};
  static const enum ls_dtype types[] = {LS_F32, LS_BF16, LS_F16};
  for (size_t i = 0; i < 9 * sizeof all / sizeof *all; i++) {
    struct cuda_convolution c = all[i / 9];
    c.direction = (enum cuda_direction)(i % 3);
    c.dtype = types[i / 3 % 3];
    for (c.n = 4; c.n <= 256; c.n *= 8) {
      struct graph graph;
      struct ls_error err = LS_ERROR_INIT;
      assert_in_range(first_workspace(&c), 0, cuda_workspace_limit(&c));
      if (c.n > 4) continue;
      struct graph_rules none = {.deterministic = true, .no_tensor_core = c.dtype == LS_F32};
      graph_init_for(&graph, h200);
      device_describe_product(&graph, &c, false);
      graph_finish(&graph);
      if (graph_plan(&graph, &none, &err) == LS_OK)
        assert_int_equal(graph.workspace_bytes, 0);
      else
        assert_int_equal(err.status, LS_UNSUPPORTED);
      graph_release(&graph);
    }
  }
}

// A convolution that sums its output: for float16 there is a deterministic engine for every convolution of ResNet-50 that a
// batch norm follows, but the first, at the batch of one GPU and at one GPU's share of it over eight.
static void test_statistics(void **state) {
  (void)state;
  static const int64_t layers[][5] = {
      // channels, filters, size, kernel, stride
      {64, 64, 56, 1, 1},   {64, 64, 56, 3, 1},    {64, 256, 56, 1, 1},   {256, 64, 56, 1, 1},   {256, 128, 56, 1, 1},
      {128, 128, 56, 3, 2}, {128, 512, 28, 1, 1},  {256, 512, 56, 1, 2},  {512, 128, 28, 1, 1},  {128, 128, 28, 3, 1},
      {512, 256, 28, 1, 1}, {256, 256, 28, 3, 2},  {256, 1024, 14, 1, 1}, {512, 1024, 28, 1, 2}, {1024, 256, 14, 1, 1},
      {256, 256, 14, 3, 1}, {1024, 512, 14, 1, 1}, {512, 512, 14, 3, 2},  {512, 2048, 7, 1, 1},  {1024, 2048, 14, 1, 2},
      {2048, 512, 7, 1, 1}, {512, 512, 7, 3, 1},   {16, 16, 32, 3, 1}};
  static const enum ls_dtype others[] = {LS_BF16, LS_F32};
  for (size_t i = 0; i < 2 * sizeof layers / sizeof *layers; i++) {
    const int64_t *l = layers[i / 2];
    struct cuda_convolution c = convolution(l[0], l[1], l[2], l[3], l[4], 1);
    struct graph graph;
    struct ls_error err = LS_ERROR_INIT;
    c.n = i % 2 ? 256 : 32;
    c.dtype = LS_F16;
    c.statistics = true;
    if (plan_for(&c, false, &graph, &err) != LS_OK)
      fail_msg("%d x %d -> %d, %dx%d at %d: %s", (int)c.n, (int)c.c, (int)c.k, (int)c.r, (int)c.s, (int)c.h, err.text);
    assert_true(graph.workspace_bytes < 16 << 20);
    graph_release(&graph);
  }
  // What is not there is refused, and the planner does without.
  for (int i = 0; i < 3; i++) {
    struct cuda_convolution c = i < 2 ? convolution(64, 64, 56, 3, 1, 1) : convolution(3, 64, 224, 7, 2, 1);
    struct graph graph;
    struct ls_error err = LS_ERROR_INIT;
    c.dtype = i < 2 ? others[i] : LS_F16;
    c.statistics = true;
    ls_status status = plan_for(&c, false, &graph, &err);
    printf("statistics, %d channels in %s: %s\n", (int)c.c, ls_dtype_name(c.dtype), status == LS_OK ? "yes" : err.text);
    if (status != LS_OK) assert_int_equal(status, LS_UNSUPPORTED);
    graph_release(&graph);
  }
}

// Every candidate, written down and made again from its text, is the same plan; other texts are refused.
static void test_described_engines(void **state) {
  (void)state;
  enum { MOST = 16 };
  struct cuda_convolution all[] = {convolution(64, 256, 56, 1, 1, 1), convolution(16, 16, 32, 3, 1, 1)};
  static const enum ls_dtype types[] = {LS_F32, LS_BF16};
  int checked = 0;
  for (int i = 0; i < 13; i++) {
    struct cuda_convolution c = all[i % 2];
    struct graph_rules rules = {.deterministic = true, .no_tensor_core = i / 6 == 0};
    cudnnBackendDescriptor_t configs[MOST];
    struct graph graph;
    c.direction = (enum cuda_direction)(i / 2 % 3);
    c.statistics = i == 12;
    c.dtype = c.statistics ? LS_F16 : types[i / 6];
    graph_init_for(&graph, h200);
    device_describe_product(&graph, &c, false);
    graph_finish(&graph);
    int count = graph_candidates(&graph, &rules, configs, MOST);
    assert_true(count > 0);
    for (int j = 0; j < count; j++) {
      char text[256];
      struct graph other;
      struct ls_error err = LS_ERROR_INIT;
      assert_true(graph_describe(configs[j], text, sizeof text));
      bool good = graph_take(&graph, configs[j]);
      graph_init_for(&other, h200);
      device_describe_product(&other, &c, false);
      graph_finish(&other);
      ls_status status = graph_take_described(&other, text, &err);
      if (good && status != LS_OK) fail_msg("%s: %s", text, err.text);
      if (good) {
        assert_int_equal(other.engine, graph.engine);
        assert_int_equal(other.workspace_bytes, graph.workspace_bytes);
        checked++;
      }
      graph_release(&other);
      cudnnBackendDestroyDescriptor(configs[j]);
    }
    struct ls_error err = LS_ERROR_INIT;
    assert_int_equal(graph_take_described(&graph, "engine x", &err), LS_CORRUPT);
    assert_int_equal(graph_take_described(&graph, "engine 1, knobs 2=", &err), LS_CORRUPT);
    assert_int_not_equal(graph_take_described(&graph, "engine 99999, knobs", &err), LS_OK);
    graph_release(&graph);
  }
  printf("%d candidates written down and made again\n", checked);
  assert_true(checked > 12);
}

static int64_t engine_of(cudnnBackendDescriptor_t config) {
  char text[256];
  long long engine = -1;
  assert_true(graph_describe(config, text, sizeof text));
  assert_int_equal(sscanf(text, "engine %lld", &engine), 1);
  return engine;
}

static int index_of(int64_t engine, const int64_t *engines, int count) {
  for (int i = 0; i < count; i++) {
    if (engines[i] == engine) return i;
  }
  return -1;
}

// The plan is the first candidate that can be made ready, though fewer heuristics are asked for it. What is measured of the
// candidates is one of every engine before a second of any.
static void test_candidates(void **state) {
  (void)state;
  enum { MOST = 48 };
  for (int i = 0; i < 6; i++) {
    struct cuda_convolution c = convolution(64, 64, 56, 3, 1, 1);
    struct graph_rules rules = {.deterministic = true, .most_workspace_bytes = (int64_t)1 << 24};
    cudnnBackendDescriptor_t configs[MOST];
    int64_t engines[MOST];
    struct graph graph, planned;
    struct ls_error err = LS_ERROR_INIT;
    c.direction = (enum cuda_direction)(i % 3);
    c.dtype = i / 3 ? LS_BF16 : LS_F32;
    assert_int_equal(plan_by(&c, false, &rules, &planned, &err), LS_OK);
    graph_init_for(&graph, h200);
    device_describe_product(&graph, &c, false);
    graph_finish(&graph);
    int count = graph_candidates(&graph, &rules, configs, MOST), different = 0;
    assert_true(count > 1);
    cudnnBackendDescriptor_t first = configs[0];
    for (int j = 0; j < count; j++) {
      engines[j] = engine_of(configs[j]);
      different += index_of(engines[j], engines, j) < 0;
      if (graph.plan || !graph_take_within(&graph, configs[j], &rules)) continue;
      assert_int_equal(graph.engine, planned.engine);
      assert_int_equal(graph.workspace_bytes, planned.workspace_bytes);
    }
    assert_non_null(graph.plan);
    graph_spread(configs, count);
    assert_ptr_equal(configs[0], first);
    for (int j = 0; j < count; j++) {
      engines[j] = engine_of(configs[j]);
      assert_int_equal(index_of(engines[j], engines, j) < 0, j < different);
      cudnnBackendDestroyDescriptor(configs[j]);
    }
    printf("%d candidates of %d engines\n", count, different);
    graph_release(&graph);
    graph_release(&planned);
  }
}

// A part of cuDNN that is not there is named before anything is done with it.
static void test_parts(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_backend_cuda_check(&err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(device_check_library("nothing", &err), LS_UNSUPPORTED);
  assert_non_null(strstr(err.text, "its library libcudnn_nothing.so.9 cannot be loaded"));
}

static void test_no_gpu(void **state) {
  (void)state;
  const struct ls_backend_ops *cuda = ls_backend_cuda();
  struct ls_device_info info[1];
  struct ls_error err = LS_ERROR_INIT;
  struct ls_backend backend;
  int count = -1;
  assert_int_equal(cuda->devices(info, 1, &count, &err), LS_OK);
  if (count > 0) skip();
  assert_int_equal(count, 0);
  assert_int_not_equal(cuda->open(0, &backend, &err), LS_OK);
  assert_non_null(strstr(err.text, "GPU"));
  cuda->close(&backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_descriptions), cmocka_unit_test(test_wrong_description),
                                     cmocka_unit_test(test_plans),        cmocka_unit_test(test_workspace),
                                     cmocka_unit_test(test_statistics),   cmocka_unit_test(test_described_engines),
                                     cmocka_unit_test(test_candidates),   cmocka_unit_test(test_parts),
                                     cmocka_unit_test(test_no_gpu)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
