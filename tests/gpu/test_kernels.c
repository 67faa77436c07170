// The kernels on a GPU against the same bodies compiled for the host, bit for bit: sums, the optimizer, input, and what is
// done to overflowed gradients. And the CUDA graph: recorded work gives the bits of work done directly. Convolutions that sum
// their output for the batch norm behind them, against both apart.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "base/philox.h"
#include "support/gpu.h"
#include "support/statistics.h"

enum { FLOATS = 1 << 16, PARTS = 8, LINES = FLOATS / LS_DEVICE_LINE };

// One side: the GPU or the host.
struct side {
  struct ls_backend backend;
  float *part[PARTS], *out, *parameters, *momentum;
  uint32_t *overflow;
  struct ls_update_rule *rules;
  uint16_t *rule_of_line;
  struct ls_update_numbers *numbers;
};

static struct side gpu, host;

static void check(ls_status status, const struct ls_error *err) {
  if (status != LS_OK) fail_msg("%s", err->text);
}

static void *put(struct side *s, const void *values, size_t bytes) {
  struct ls_error err = LS_ERROR_INIT;
  void *memory;
  check(s->backend.ops->allocate(&s->backend, LS_MEMORY_DEVICE, bytes, &memory, &err), &err);
  check(s->backend.ops->upload(&s->backend, NULL, memory, values, bytes, &err), &err);
  return memory;
}

static void compare(const void *on_gpu, const void *on_host, size_t bytes, const char *what) {
  struct ls_error err = LS_ERROR_INIT;
  void *values = malloc(bytes);
  check(gpu.backend.ops->download(&gpu.backend, NULL, values, on_gpu, bytes, &err), &err);
  if (memcmp(values, on_host, bytes) != 0) fail_msg("%s: other bits than on the host", what);
  free(values);
}

static void fill(float *values, uint32_t sequence) {
  for (int i = 0; i < FLOATS; i++)
    values[i] = ls_random_unit(ls_random(5, LS_RANDOM_TEST, sequence, (uint64_t)i, 0).v[0]) * 4 - 2;
}

static void make(struct side *s, const struct ls_backend_ops *ops) {
  static float values[FLOATS];
  static uint16_t rule_of_line[LINES];
  struct ls_error err = LS_ERROR_INIT;
  check(ops->open(0, &s->backend, &err), &err);
  for (uint32_t i = 0; i < PARTS; i++) {
    fill(values, i);
    s->part[i] = put(s, values, sizeof values);
  }
  fill(values, 100);
  s->out = put(s, values, sizeof values);
  s->parameters = put(s, values, sizeof values);
  fill(values, 101);
  s->momentum = put(s, values, sizeof values);
  const struct ls_update_rule rules[] = {
      {.learned = 1, .decay = 1}, {.learned = 1, .decay = 0}, {.share = 0.1F, .scale = 1.25F}};
  for (int i = 0; i < LINES; i++) rule_of_line[i] = i % 7 == 6 ? UINT16_MAX : (uint16_t)(i % 3);
  const struct ls_update_numbers numbers = {0.1F, 0.9F, 1e-3F, 0.25F, 1, 0};
  uint32_t none = 0;
  s->rules = put(s, rules, sizeof rules);
  s->rule_of_line = put(s, rule_of_line, sizeof rule_of_line);
  s->numbers = put(s, &numbers, sizeof numbers);
  s->overflow = put(s, &none, sizeof none);
}

static void test_tree_sum(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct side *sides[] = {&gpu, &host};
  for (int parts = 1; parts <= PARTS; parts *= 2) {
    for (int i = 0; i < 2; i++) {
      const float *part[PARTS];
      for (int j = 0; j < PARTS; j++) part[j] = sides[i]->part[j];
      check(sides[i]->backend.ops->device->tree_sum(&sides[i]->backend, NULL, sides[i]->out, part, parts, FLOATS - 3,
                                                    &err),
            &err);
    }
    compare(gpu.out, host.out, FLOATS * sizeof(float), "a sum");
  }
}

static void update(struct side *s, int64_t begin, int64_t end) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_update u = {.parts = PARTS,
                        .parameters = s->parameters,
                        .momentum = s->momentum,
                        .rules = s->rules,
                        .rule_of_line = s->rule_of_line,
                        .numbers = s->numbers,
                        .begin = begin,
                        .end = end};
  for (int i = 0; i < PARTS; i++) u.part[i] = s->part[i];
  u.overflow[0] = s->overflow;
  check(s->backend.ops->device->update(&s->backend, NULL, &u, &err), &err);
}

static void test_update(void **state) {
  (void)state;
  const int64_t middle = LINES / 3 * LS_DEVICE_LINE;
  for (int step = 0; step < 3; step++) {
    update(&gpu, 0, middle);
    update(&gpu, middle, FLOATS);
    update(&host, 0, FLOATS);
  }
  compare(gpu.parameters, host.parameters, FLOATS * sizeof(float), "parameters");
  compare(gpu.momentum, host.momentum, FLOATS * sizeof(float), "momentum");
}

static void test_overflow(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  const struct ls_device_ops *ops = gpu.backend.ops->device;
  const float infinite = INFINITY;
  uint32_t yes = 1, no = 0;
  check(ops->check_finite(&gpu.backend, NULL, gpu.part[1], FLOATS, gpu.overflow, &err), &err);
  compare(gpu.overflow, &no, sizeof no, "the flag of finite gradients");
  check(gpu.backend.ops->upload(&gpu.backend, NULL, gpu.part[1] + 4711, &infinite, sizeof infinite, &err), &err);
  check(ops->check_finite(&gpu.backend, NULL, gpu.part[1], FLOATS, gpu.overflow, &err), &err);
  compare(gpu.overflow, &yes, sizeof yes, "the flag of an infinite gradient");
  update(&gpu, 0, FLOATS);
  compare(gpu.parameters, host.parameters, FLOATS * sizeof(float), "parameters of a step left out");
  check(ops->zero(&gpu.backend, NULL, gpu.overflow, sizeof *gpu.overflow, &err), &err);
  float before = host.part[1][4711];
  check(gpu.backend.ops->upload(&gpu.backend, NULL, gpu.part[1] + 4711, &before, sizeof before, &err), &err);
}

static void test_input(void **state) {
  (void)state;
  enum { IMAGES = 4, SIDE = 40, CROP = 32 };
  static uint8_t pixels[IMAGES * SIDE * SIDE * 3];
  enum { WORDS = 3 + 4 * LS_PIXEL_STEP_WORDS };
  static int32_t places[IMAGES][WORDS] = {{0, 0, 0}, {-3, 5, 1}, {8, 8, 0}, {11, -4, 1}};
  static const int32_t steps[4][LS_PIXEL_STEP_WORDS] = {{LS_PIXEL_SCALE, 80000},
                                                        {LS_PIXEL_ADD, 9, -30, 4},
                                                        {LS_PIXEL_SATURATE, 40000},
                                                        {LS_PIXEL_FILL, 3, 9, 12, 14, 0x302010}};
  for (int i = 0; i < IMAGES; i++) {
    for (int s = 0; s < 4; s++) memcpy(&places[i][3 + s * LS_PIXEL_STEP_WORDS], steps[(s + i) % 4], sizeof steps[0]);
  }
  struct ls_error err = LS_ERROR_INIT;
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)ls_random(7, LS_RANDOM_TEST, 1, i, 0).v[0];
  static const enum ls_dtype types[] = {LS_F32, LS_F16, LS_BF16};
  static const int32_t channels[] = {3, 4, 8};
  struct side *sides[] = {&gpu, &host};
  for (int t = 0; t < 3; t++) {
    for (int i = 0; i < 2; i++) {
      void *on_device = put(sides[i], pixels, sizeof pixels), *at = put(sides[i], places, sizeof places);
      struct ls_input in = {.pixels = on_device,
                            .places = at,
                            .place_words = WORDS,
                            .out = sides[i]->out,
                            .dtype = types[t],
                            .images = IMAGES,
                            .height = SIDE,
                            .width = SIDE,
                            .h = CROP,
                            .w = CROP,
                            .c = 3,
                            .out_c = channels[t],
                            .scale = {0.017F, 0.0175F, 0.0171F, 1},
                            .bias = {-2.1F, -2.03F, -1.8F, 0}};
      check(sides[i]->backend.ops->device->input(&sides[i]->backend, NULL, &in, &err), &err);
      check(sides[i]->backend.ops->stream_wait_idle(&sides[i]->backend, NULL, &err), &err);
      sides[i]->backend.ops->release(&sides[i]->backend, LS_MEMORY_DEVICE, on_device, sizeof pixels);
      sides[i]->backend.ops->release(&sides[i]->backend, LS_MEMORY_DEVICE, at, sizeof places);
    }
    compare(gpu.out, host.out, (size_t)(IMAGES * CROP * CROP * channels[t]) * ls_dtype_bytes(types[t]),
            ls_dtype_name(types[t]));
  }
}

// After test_update: both sides are alike.
static void test_recording(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  const struct ls_device_ops *ops = gpu.backend.ops->device;
  struct ls_recording *recording;
  check(ops->record_begin(&gpu.backend, &err), &err);
  update(&gpu, 0, FLOATS);
  check(ops->record_end(&gpu.backend, &recording, &err), &err);
  compare(gpu.parameters, host.parameters, FLOATS * sizeof(float), "parameters while it is recorded");
  for (int i = 0; i < 2; i++) {
    check(ops->replay(&gpu.backend, recording, &err), &err);
    update(&host, 0, FLOATS);
  }
  compare(gpu.parameters, host.parameters, FLOATS * sizeof(float), "parameters of a recording");
  ops->recording_free(recording);
}

// What cuDNN sums, where it has an engine for it: near float64, with the same bits on every run.
static void test_statistics(void **state) {
  (void)state;
  static const double ratios[] = {0, 1, 8, 64};
  for (size_t i = 0; i < sizeof ratios / sizeof *ratios; i++) {
    statistics_check(ls_backend_cuda(), &(struct statistics_case){8, 64, 64, 56, 1, 1, ratios[i]}, 10);
    statistics_check(ls_backend_cuda(), &(struct statistics_case){8, 64, 64, 56, 3, 1, ratios[i]}, 10);
  }
  statistics_check(ls_backend_cuda(), &(struct statistics_case){32, 64, 256, 56, 1, 1, 1}, 10);
  statistics_check(ls_backend_cuda(), &(struct statistics_case){32, 128, 128, 56, 3, 2, 1}, 10);
  statistics_check(ls_backend_cuda(), &(struct statistics_case){32, 1024, 2048, 14, 1, 2, 1}, 10);
  statistics_check(ls_backend_cuda(), &(struct statistics_case){32, 512, 512, 7, 3, 1, 1}, 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_tree_sum),  cmocka_unit_test(test_update),
                                     cmocka_unit_test(test_overflow),  cmocka_unit_test(test_input),
                                     cmocka_unit_test(test_recording), cmocka_unit_test(test_statistics)};
  if (gpu_count() == 0) return GPU_SKIPPED;
  make(&gpu, ls_backend_cuda());
  make(&host, ls_backend_cuda_twin());
  return cmocka_run_group_tests(tests, NULL, NULL);
}
