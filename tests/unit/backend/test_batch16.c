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

// --- pooling

struct expected_pool {
  double *y, *dx;
  uint8_t *where;
};

// Index of the value of window p, q at row r, column s of plane and lane; -1: outside the image.
static int64_t pool_at(const struct ls_b16_pool *v, int64_t i, int64_t t) {
  int64_t lane = i % 16, q = i / 16 % v->q, p = i / 16 / v->q % v->p, plane = i / 16 / v->q / v->p;
  int64_t row = p * v->stride_h - v->pad_h + t / v->s, col = q * v->stride_w - v->pad_w + t % v->s;
  if (row < 0 || col < 0 || row >= v->h || col >= v->w) return -1;
  return ((plane * v->h + row) * v->w + col) * 16 + lane;
}

static int64_t pool_divisor(const struct ls_b16_pool *v, int64_t i, int64_t inside) {
  if (!v->count_pad) return inside;
  int64_t q = i / 16 % v->q, p = i / 16 / v->q % v->p, bottom = p * v->stride_h - v->pad_h + v->r,
          right = q * v->stride_w - v->pad_w + v->s, over_h = bottom - v->h - v->pad_end_h,
          over_w = right - v->w - v->pad_end_w;
  return (v->r - (over_h > 0 ? over_h : 0)) * (v->s - (over_w > 0 ? over_w : 0));
}

// The first of equal maxima wins, and the first NaN over all.
static void reference_pool(const struct ls_b16_pool *v, const float *x, const float *dy, struct expected_pool *e) {
  for (int64_t i = 0; i < v->planes * v->p * v->q * 16; i++) {
    int64_t inside = 0, best = -1;
    double sum = 0;
    for (int64_t t = 0; t < v->r * v->s; t++) {
      int64_t at = pool_at(v, i, t);
      if (at < 0) continue;
      inside++;
      sum += x[at];
      if (best < 0 || x[at] > x[best] || (isnan(x[at]) && !isnan(x[best]))) best = at, e->where[i] = (uint8_t)t;
    }
    double share = v->max ? 0 : 1 / (double)pool_divisor(v, i, inside);
    e->y[i] = v->max ? x[best] : sum * share;
    for (int64_t t = 0; t < v->r * v->s; t++) {
      int64_t at = pool_at(v, i, t);
      if (at >= 0) e->dx[at] += v->max ? (at == best ? dy[i] : 0) : dy[i] * share;
    }
  }
}

// `nan`: one value of every window that holds it, at this place counted through each plane's first window, is none; -1:
// all are numbers.
static void check_pool(const struct ls_b16_kernels *kernels, const struct ls_b16_pool *v, int64_t nan) {
  int64_t xs = v->planes * v->h * v->w * 16, ys = v->planes * v->p * v->q * 16;
  float *x = values(xs), *dy = values(ys), *y = values(ys), *dx = values(xs);
  uint8_t *where = malloc((size_t)ys);
  struct expected_pool e = {calloc((size_t)ys, sizeof(double)), calloc((size_t)xs, sizeof(double)), malloc((size_t)ys)};
  for (int64_t i = 0; i < xs; i += 3) x[i] = roundf(2 * x[i]) / 2;  // so that there are equal ones
  for (int64_t i = 0; nan >= 0 && i < ys; i++) {
    int64_t at = pool_at(v, i, nan);
    if (at >= 0 && i % 5 < 3) x[at] = NAN;  // not in all lanes
  }
  reference_pool(v, x, dy, &e);
  kernels->pool_forward(v, x, y, v->max ? where : NULL);
  kernels->pool_backward(v, dy, where, dx);
  for (int64_t i = 0; v->max && i < ys; i++) {
    if (isnan(e.y[i]) ? !isnan(y[i]) : y[i] != (float)e.y[i])
      fail_msg("%ldx%ld, NaN at %ld: value %ld is %g, not %g", (long)v->r, (long)v->s, (long)nan, (long)i, (double)y[i],
               e.y[i]);
    assert_int_equal(where[i], e.where[i]);
  }
  if (v->max && nan < 0) {  // without a backward pass to come
    float *again = values(ys);
    kernels->pool_forward(v, x, again, NULL);
    assert_memory_equal(again, y, (size_t)ys * sizeof *y);
    free(again);
  }
  if (!v->max) assert_close(y, e.y, ys);
  assert_close(dx, e.dx, xs);
  float *buffers[] = {x, dy, y, dx};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]);
  free(where);
  free(e.y);
  free(e.dx);
  free(e.where);
}

// Height, width, output, window, strides, padding before and after.
static const int64_t pool_shapes[][12] = {
    {5, 5, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1},      // overlapping and clipped on all sides
    {8, 6, 4, 3, 2, 2, 2, 2, 0, 0, 0, 0},      // tiles, the 2x2 case
    {9, 7, 3, 3, 3, 2, 3, 2, 0, 0, 0, 1},      // nearly tiles
    {9, 6, 3, 2, 3, 3, 3, 3, 0, 0, 0, 0},      // tiles of 3x3
    {9, 7, 4, 3, 3, 3, 2, 2, 0, 0, 0, 0},      // overlapping, whole
    {9, 8, 3, 3, 2, 2, 3, 3, 0, 0, 0, 0},      // apart: rows and columns between windows
    {7, 7, 3, 3, 2, 2, 2, 2, 0, 0, 0, 0},      // a row and a column are in no window
    {7, 5, 4, 3, 2, 2, 2, 2, 0, 0, 1, 1},      // 2x2, clipped behind the end
    {6, 6, 5, 5, 2, 2, 1, 1, 0, 0, 0, 0},      // 2x2, overlapping
    {4, 5, 1, 1, 4, 5, 4, 5, 0, 0, 0, 0},      // the whole image
    {6, 9, 3, 2, 1, 4, 2, 5, 0, 1, 0, 0},      // flat
    {15, 15, 1, 1, 15, 15, 1, 1, 0, 0, 0, 0},  // the largest place that a byte holds
};

static void check_pools(const struct ls_b16_kernels *kernels) {
  for (size_t i = 0; i < sizeof pool_shapes / sizeof *pool_shapes; i++) {
    const int64_t *s = pool_shapes[i];
    struct ls_b16_pool v = {.planes = 2,
                            .h = s[0],
                            .w = s[1],
                            .p = s[2],
                            .q = s[3],
                            .r = s[4],
                            .s = s[5],
                            .stride_h = s[6],
                            .stride_w = s[7],
                            .pad_h = s[8],
                            .pad_w = s[9],
                            .pad_end_h = s[10],
                            .pad_end_w = s[11]};
    check_pool(kernels, &v, -1);
    v.count_pad = true;
    check_pool(kernels, &v, -1);
    v.count_pad = false;
    v.max = true;
    for (int64_t nan = -1; nan < v.r * v.s; nan++) check_pool(kernels, &v, nan);
  }
}

static void test_pooling_avx512(void **state) {
  (void)state;
  if (ls_b16_kernels() != &ls_b16_kernels_avx512) skip();
  check_pools(&ls_b16_kernels_avx512);
}

static void test_pooling_avx2(void **state) {
  (void)state;
  if (!ls_b16_kernels()) skip();
  check_pools(&ls_b16_kernels_avx2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_avx512), cmocka_unit_test(test_avx2),
                                     cmocka_unit_test(test_plain_and_back), cmocka_unit_test(test_pooling_avx512),
                                     cmocka_unit_test(test_pooling_avx2)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
