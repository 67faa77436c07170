// The kernels behind backend/device.h, compiled for the host, against the loops that the CPU's worker uses: the same bits.
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
#include "collective/collective.h"
#include "data/augment.h"
#include "optim/optim.h"

enum { LINES = 40, FLOATS = LINES * LS_DEVICE_LINE };

static struct ls_backend backend;

static void fill(float *values, int64_t n, uint32_t sequence) {
  for (int64_t i = 0; i < n; i++)
    values[i] = ls_random_unit(ls_random(5, LS_RANDOM_TEST, sequence, (uint64_t)i, 0).v[0]) * 4 - 2;
}

static void test_tree_sum(void **state) {
  (void)state;
  enum { N = 1003 };
  static float memory[64][N], expected[N], found[N];
  const float *parts[64];
  for (uint32_t i = 0; i < 64; i++) {
    fill(memory[i], N, i);
    parts[i] = memory[i];
  }
  for (int count = 1; count <= 64; count *= 2) {
    ls_tree_sum(expected, parts, count, 0, N);
    assert_int_equal(backend.ops->device->tree_sum(&backend, NULL, found, parts, count, N, NULL), LS_OK);
    assert_memory_equal(found, expected, sizeof found);
  }
  assert_int_equal(backend.ops->device->tree_sum(&backend, NULL, memory[0], parts, 64, N, NULL), LS_OK);
  assert_memory_equal(memory[0], expected, sizeof expected);
}

// A slab of three parameters and a line that is nobody's: weights with decay, biases without, running statistics.
struct slabs {
  float parameters[FLOATS], momentum[FLOATS], part[4][FLOATS], other[FLOATS];
  uint32_t overflow[4];
  uint16_t rule_of_line[LINES];
};

static const struct ls_update_rule rules[] = {
    {.learned = 1, .decay = 1}, {.learned = 1, .decay = 0}, {.share = 0.1F, .scale = 1.25F}};

static struct slabs *make_slabs(void) {
  struct slabs *s = calloc(1, sizeof *s);
  fill(s->parameters, FLOATS, 100);
  fill(s->momentum, FLOATS, 101);
  for (uint32_t i = 0; i < 4; i++) fill(s->part[i], FLOATS, i);
  for (int i = 0; i < LINES; i++) s->rule_of_line[i] = i == 20 ? UINT16_MAX : i < 20 ? 0 : i < 25 ? 1 : 2;
  return s;
}

static struct ls_update update_of(struct slabs *s, const struct ls_update_numbers *numbers) {
  struct ls_update u = {.parts = 4,
                        .copies = 1,
                        .parameters = s->parameters,
                        .momentum = s->momentum,
                        .copy = {s->other},
                        .rules = rules,
                        .rule_of_line = s->rule_of_line,
                        .numbers = numbers};
  for (int i = 0; i < 4; i++) u.part[i] = s->part[i];
  return u;
}

// The worker's way on the CPU, worker/step.c.
static void update_on_cpu(struct slabs *s, const struct ls_sgd *rule) {
  const float *parts[4] = {s->part[0], s->part[1], s->part[2], s->part[3]};
  for (int64_t i = 0; i < LINES; i++) {
    float sum[LS_DEVICE_LINE];
    int64_t at = i * LS_DEVICE_LINE;
    if (s->rule_of_line[i] == UINT16_MAX) continue;
    const struct ls_update_rule *r = &rules[s->rule_of_line[i]];
    struct ls_sgd sgd = *rule;
    if (r->decay == 0) sgd.weight_decay = 0;
    ls_tree_sum(sum, parts, 4, at, LS_DEVICE_LINE);
    if (r->learned)
      ls_sgd_update(&sgd, LS_DEVICE_LINE, s->parameters + at, s->momentum + at, sum);
    else
      ls_running_update(r->share, r->scale, LS_DEVICE_LINE, s->parameters + at, sum);
  }
}

static void test_update(void **state) {
  (void)state;
  for (int nesterov = 0; nesterov < 2; nesterov++) {
    struct slabs *found = make_slabs(), *expected = make_slabs();
    struct ls_update_numbers numbers = {0.1F, 0.9F, 1e-3F, 1, nesterov, 0};
    const struct ls_sgd sgd = {0.1F, 0.9F, 1e-3F, nesterov};
    for (int step = 0; step < 3; step++) {
      struct ls_update u = update_of(found, &numbers);
      u.begin = 0, u.end = 17 * LS_DEVICE_LINE;  // two slices
      assert_int_equal(backend.ops->device->update(&backend, NULL, &u, NULL), LS_OK);
      u.begin = u.end, u.end = FLOATS;
      assert_int_equal(backend.ops->device->update(&backend, NULL, &u, NULL), LS_OK);
      update_on_cpu(expected, &sgd);
    }
    assert_memory_equal(found->parameters, expected->parameters, sizeof found->parameters);
    assert_memory_equal(found->momentum, expected->momentum, sizeof found->momentum);
    for (int i = 0; i < FLOATS; i++) assert_true(i / LS_DEVICE_LINE == 20 || found->other[i] == found->parameters[i]);
    free(found);
    free(expected);
  }
}

// A gradient that overflowed in any worker leaves everything as it was; a scaled one is scaled back.
static void test_overflow(void **state) {
  (void)state;
  struct slabs *found = make_slabs(), *before = make_slabs();
  struct ls_update_numbers numbers = {0.1F, 0.9F, 1e-3F, 1, 0, 0};
  struct ls_update u = update_of(found, &numbers);
  u.end = FLOATS;
  for (int i = 0; i < 4; i++) u.overflow[i] = &found->overflow[i];
  found->part[2][77] = INFINITY;
  for (int i = 0; i < 4; i++) {
    assert_int_equal(
        backend.ops->device->check_finite(&backend, NULL, found->part[i], FLOATS, &found->overflow[i], NULL), LS_OK);
    assert_int_equal(found->overflow[i], i == 2);
  }
  assert_int_equal(backend.ops->device->update(&backend, NULL, &u, NULL), LS_OK);
  assert_memory_equal(found->parameters, before->parameters, sizeof found->parameters);
  assert_memory_equal(found->momentum, before->momentum, sizeof found->momentum);
  found->part[2][77] = NAN;
  assert_int_equal(backend.ops->device->check_finite(&backend, NULL, found->part[2], FLOATS, &found->overflow[2], NULL),
                   LS_OK);
  assert_int_equal(found->overflow[2], 1);
  free(found);
  free(before);
}

static void test_scaled(void **state) {
  (void)state;
  struct slabs *found = make_slabs(), *expected = make_slabs();
  struct ls_update_numbers numbers = {0.1F, 0.9F, 1e-3F, 0x1p-10F, 0, 0};
  const struct ls_sgd sgd = {0.1F, 0.9F, 1e-3F, false};
  for (int line = 0; line < 25; line++) {  // statistics are not scaled
    for (int i = 0; i < 4 * LS_DEVICE_LINE; i++) found->part[i % 4][line * LS_DEVICE_LINE + i / 4] *= 0x1p10F;
  }
  struct ls_update u = update_of(found, &numbers);
  u.end = FLOATS;
  assert_int_equal(backend.ops->device->update(&backend, NULL, &u, NULL), LS_OK);
  update_on_cpu(expected, &sgd);
  assert_memory_equal(found->parameters, expected->parameters, sizeof found->parameters);
  free(found);
  free(expected);
}

static void test_bad_slice(void **state) {
  (void)state;
  struct slabs *s = make_slabs();
  struct ls_update_numbers numbers = {0};
  struct ls_error err = LS_ERROR_INIT;
  struct ls_update u = update_of(s, &numbers);
  u.end = 5;
  assert_int_equal(backend.ops->device->update(&backend, NULL, &u, &err), LS_INTERNAL);
  free(s);
}

// Windows that the augmenter drew, cut and normalised by it and by the kernel.
enum { IMAGES = 24, HEIGHT = 19, WIDTH = 23 };

static void check_input(int64_t channels, int64_t out_channels, int64_t crop, int64_t pad, enum ls_dtype dtype) {
  struct ls_augmenter a = {.training = true,
                           .seed = 9,
                           .channels = channels,
                           .crop_height = crop,
                           .crop_width = crop + 2,
                           .window = LS_WINDOW_RANDOM,
                           .pad = pad,
                           .flip_probability = 0.5F,
                           .scale = {0.017F, 0.0175F, 0.0171F, 1},
                           .bias = {-2.1F, -2.03F, -1.8F, 0},
                           .channels_last = true,
                           .output = LS_F32};
  static uint8_t pixels[IMAGES][HEIGHT * WIDTH * 4];
  static float expected[IMAGES * HEIGHT * WIDTH * 4], found[IMAGES * HEIGHT * WIDTH * 8];
  int32_t places[IMAGES][3];
  struct ls_augment_scratch scratch = {0};
  int64_t values = crop * (crop + 2) * channels;
  int padded = 0, flipped = 0;
  for (int64_t i = 0; i < IMAGES; i++) {
    uint8_t *image = &pixels[0][0] + i * HEIGHT * WIDTH * channels;
    for (int64_t j = 0; j < HEIGHT * WIDTH * channels; j++)
      image[j] = (uint8_t)ls_random(7, LS_RANDOM_TEST, 1, (uint64_t)(i * 4096 + j), 0).v[0];
    struct ls_view view;
    ls_augmenter_view(&a, HEIGHT, WIDTH, 3, i, -1, &view);
    places[i][0] = (int32_t)(view.y.first - view.y.begin);
    places[i][1] = (int32_t)(view.x.first - view.x.begin);
    places[i][2] = view.flip;
    padded += view.y.begin > 0 || view.y.count < crop;
    flipped += view.flip;
    const uint8_t *from = image + (view.source.top * WIDTH + view.source.left) * channels;
    assert_int_equal(
        ls_augmenter_apply(&a, &view, from, (size_t)(WIDTH * channels), &scratch, expected + i * values, NULL), LS_OK);
  }
  assert_true(flipped > 0 && flipped < IMAGES && (pad == 0 || padded > 0));
  struct ls_input in = {.pixels = &pixels[0][0],
                        .places = &places[0][0],
                        .place_words = 3,
                        .out = found,
                        .dtype = dtype,
                        .images = IMAGES,
                        .height = HEIGHT,
                        .width = WIDTH,
                        .h = (int32_t)crop,
                        .w = (int32_t)crop + 2,
                        .c = (int32_t)channels,
                        .out_c = (int32_t)out_channels};
  memcpy(in.scale, a.scale, sizeof in.scale);
  memcpy(in.bias, a.bias, sizeof in.bias);
  memset(found, 0xff, sizeof found);
  assert_int_equal(backend.ops->device->input(&backend, NULL, &in, NULL), LS_OK);
  for (int64_t i = 0; i < IMAGES * values / channels * out_channels; i++) {
    double rounded = 0;  // room for a value of any type
    int64_t c = i % out_channels;
    if (c < channels) ls_put(&rounded, dtype, 0, expected[i / out_channels * channels + c]);
    assert_true(ls_get(&rounded, dtype, 0) == ls_get(found, dtype, i));
  }
  ls_augment_scratch_release(&scratch);
}

static void test_input(void **state) {
  (void)state;
  check_input(3, 3, 16, 4, LS_F32);
  check_input(1, 1, 17, 0, LS_F32);
  check_input(4, 4, 8, 2, LS_BF16);
  check_input(3, 3, 16, 4, LS_F16);
  check_input(3, 4, 16, 4, LS_F32);
  check_input(1, 4, 16, 4, LS_F16);
  check_input(3, 8, 16, 4, LS_BF16);
}

static int open_twin(void **state) {
  (void)state;
  return ls_backend_cuda_twin()->open(0, &backend, NULL) == LS_OK ? 0 : -1;
}

static int close_twin(void **state) {
  (void)state;
  backend.ops->close(&backend);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_tree_sum),  cmocka_unit_test(test_update),
                                     cmocka_unit_test(test_overflow),  cmocka_unit_test(test_scaled),
                                     cmocka_unit_test(test_bad_slice), cmocka_unit_test(test_input)};
  return cmocka_run_group_tests(tests, open_twin, close_twin);
}
