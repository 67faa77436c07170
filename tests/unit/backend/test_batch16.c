// The sixteen-image kernels of the CPU backend against plain float64 loops.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/batch16_internal.h"
#include "base/philox.h"

static uint32_t draws;

static float draw(void) { return 2 * ls_random_unit(ls_random(7, LS_RANDOM_TEST, 0, draws++, 0).v[0]) - 1; }

static float *values(int64_t n) {
  float *v = aligned_alloc(64, ((size_t)n * sizeof *v + 63) / 64 * 64);
  for (int64_t i = 0; i < n; i++) v[i] = draw();
  return v;
}

static void assert_close(const float *found, const double *expected, int64_t n) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < n; i++) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  assert_true(size > 0);
  assert_true(sqrt(difference / size) < 3e-6);  // false for NaN too
}

struct expected {
  double *y, *dx, *dw, *db;
};

// Loops over everything, lanes innermost; y without ReLU.
static void reference(const struct ls_b16_conv *v, const float *x, const float *w, const float *b, const float *dy,
                      struct expected *e) {
  for (int64_t g = 0; g < v->groups16; g++) {
    for (int64_t i = 0; i < v->k * v->p * v->q * 16; i++) {
      int64_t lane = i % 16, q = i / 16 % v->q, p = i / 16 / v->q % v->p, k = i / 16 / v->q / v->p;
      int64_t at = g * v->k * v->p * v->q * 16 + i;
      e->y[at] = b[k];
      e->db[k] += dy[at];
      for (int64_t j = 0; j < v->c * v->r * v->s; j++) {
        int64_t s = j % v->s, r = j / v->s % v->r, c = j / v->s / v->r;
        int64_t row = p + r - v->pad_h, col = q + s - v->pad_w, wi = k * v->c * v->r * v->s + j;
        if (row < 0 || col < 0 || row >= v->h || col >= v->w) continue;
        int64_t xi = (((g * v->c + c) * v->h + row) * v->w + col) * 16 + lane;
        e->y[at] += (double)x[xi] * w[wi];
        e->dx[xi] += (double)dy[at] * w[wi];
        e->dw[wi] += (double)dy[at] * x[xi];
      }
    }
  }
}

static void check_shape(const struct ls_b16_kernels *kernels, const struct ls_b16_conv *v) {
  int64_t n = v->groups16 * 16, xs = n * v->c * v->h * v->w, ys = n * v->k * v->p * v->q,
          ws = v->k * v->c * v->r * v->s;
  float *x = values(xs), *w = values(ws), *b = values(v->k), *dy = values(ys);
  float *y = values(ys), *dx = values(xs), *dw = values(ws), *db = values(v->k);
  void *scratch = aligned_alloc(64, ls_b16_scratch_bytes(v) + 64);
  struct expected e = {calloc((size_t)ys, sizeof(double)), calloc((size_t)xs, sizeof(double)),
                       calloc((size_t)ws, sizeof(double)), calloc((size_t)v->k, sizeof(double))};
  reference(v, x, w, b, dy, &e);
  bool fc = v->h == 1 && v->w == 1;
  (fc ? kernels->fc_forward : kernels->conv_forward)(v, x, w, b, y, scratch);
  (fc ? kernels->fc_backward_data : kernels->conv_backward_data)(v, dy, w, dx, scratch);
  (fc ? kernels->fc_backward_weights : kernels->conv_backward_weights)(v, x, dy, dw, db, scratch);
  if (v->relu) {
    for (int64_t i = 0; i < ys; i++) e.y[i] = e.y[i] > 0 ? e.y[i] : 0;
  }
  assert_close(y, e.y, ys);
  assert_close(dx, e.dx, xs);
  assert_close(dw, e.dw, ws);
  assert_close(db, e.db, v->k);
  float *buffers[] = {x, w, b, dy, y, dx, dw, db};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]);
  double *references[] = {e.y, e.dx, e.dw, e.db};
  for (size_t i = 0; i < sizeof references / sizeof *references; i++) free(references[i]);
  free(scratch);
}

static void check_all(const struct ls_b16_kernels *kernels) {
  static const struct ls_b16_conv shapes[] = {
      {2, 1, 12, 12, 20, 8, 8, 5, 5, 0, 0, false}, {1, 20, 9, 7, 13, 5, 3, 5, 5, 0, 0, true},
      {2, 3, 9, 7, 7, 9, 7, 3, 3, 1, 1, true},     {1, 4, 6, 11, 5, 6, 11, 5, 5, 2, 2, false},
      {1, 2, 5, 9, 3, 5, 5, 3, 5, 1, 0, false},    {1, 3, 8, 8, 2, 8, 8, 7, 7, 3, 3, true},
      {3, 37, 1, 1, 10, 1, 1, 1, 1, 0, 0, true},   {2, 80, 1, 1, 50, 1, 1, 1, 1, 0, 0, false},
      {5, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, false},
  };
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(kernels, &shapes[i]);
}

static void test_avx512(void **state) {
  (void)state;
  if (ls_b16_kernels() != &ls_b16_kernels_avx512) skip();
  check_all(&ls_b16_kernels_avx512);
}

static void test_avx2(void **state) {
  (void)state;
  if (!ls_b16_kernels()) skip();
  check_all(&ls_b16_kernels_avx2);
}

static void test_plain_and_back(void **state) {
  (void)state;
  enum { G = 2, C = 3, HW = 5, N = G * 16 * C * HW };
  for (int last = 0; last < 2; last++) {
    float *plain = values(N), *b16 = values(N), *back = values(N);
    ls_b16_from_plain(G, C, HW, last, plain, b16);
    // image 17, channel 2, pixel 3
    float expected = last ? plain[(17 * HW + 3) * C + 2] : plain[(17 * C + 2) * HW + 3];
    assert_true(b16[((1 * C + 2) * HW + 3) * 16 + 1] == expected);
    ls_b16_to_plain(G, C, HW, last, b16, back);
    assert_memory_equal(plain, back, N * sizeof *plain);
    free(plain);
    free(b16);
    free(back);
  }
}

// 5x5 image, 3x3 windows, stride 2, pad 1: overlapping and clipped windows.
static void check_pool(bool max, bool count_pad) {
  struct ls_b16_pool v = {.planes = 2,
                          .h = 5,
                          .w = 5,
                          .p = 3,
                          .q = 3,
                          .r = 3,
                          .s = 3,
                          .stride_h = 2,
                          .stride_w = 2,
                          .pad_h = 1,
                          .pad_w = 1,
                          .pad_end_h = 1,
                          .pad_end_w = 1,
                          .max = max,
                          .count_pad = count_pad};
  float *x = values(2 * 25 * 16), *dy = values(2 * 9 * 16), *y = values(2 * 9 * 16), *dx = values(2 * 25 * 16);
  uint8_t where[2 * 9 * 16];
  ls_b16_kernels()->pool_forward(&v, x, y, max ? where : NULL);
  ls_b16_kernels()->pool_backward(&v, dy, where, dx);
  double ey[2 * 9 * 16], edx[2 * 25 * 16] = {0};
  for (int i = 0; i < 2 * 9 * 16; i++) {
    int lane = i % 16, q = i / 16 % 3, p = i / 48 % 3, plane = i / 144, inside = 0, best = -1;
    double sum = 0;
    for (int t = 0; t < 9; t++) {
      int row = p * 2 - 1 + t / 3, col = q * 2 - 1 + t % 3, at = ((plane * 5 + row) * 5 + col) * 16 + lane;
      if (row < 0 || col < 0 || row > 4 || col > 4) continue;
      inside++;
      sum += x[at];
      if (best < 0 || x[at] > x[best]) best = at;
    }
    double divisor = count_pad ? 9 : inside;
    ey[i] = max ? x[best] : sum / divisor;
    for (int t = 0; t < 9; t++) {
      int row = p * 2 - 1 + t / 3, col = q * 2 - 1 + t % 3, at = ((plane * 5 + row) * 5 + col) * 16 + lane;
      if (row < 0 || col < 0 || row > 4 || col > 4) continue;
      edx[at] += max ? (at == best ? dy[i] : 0) : dy[i] / divisor;
    }
  }
  assert_close(y, ey, 2 * 9 * 16);
  assert_close(dx, edx, 2 * 25 * 16);
  free(x);
  free(dy);
  free(y);
  free(dx);
}

static void test_pooling(void **state) {
  (void)state;
  check_pool(true, false);
  check_pool(false, false);
  check_pool(false, true);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_avx512), cmocka_unit_test(test_avx2),
                                     cmocka_unit_test(test_plain_and_back), cmocka_unit_test(test_pooling)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
