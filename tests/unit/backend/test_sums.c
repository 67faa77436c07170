// The CUDA backend's sums over rows, on its twin: column sums, moments and batch norm's backward sums against float64, for
// shapes of one part and many, of one tile and several, of whole groups of channels and odd ones.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
//
#include <cmocka.h>

#include "backend/cuda/cuda_internal.h"

static const struct {
  int64_t rows, c;
  bool parts, tiles;  // several of them
} shapes[] = {{1, 1, false, false},       {7, 3, false, false},    {1023, 8, false, false}, {5000, 64, true, false},
              {70000, 24, true, false},   {3000, 257, true, true}, {300, 2056, true, true}, {40, 4104, true, true},
              {20000, 2048, true, false}, {9, 512, false, false}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

// Far from 0 in some channels, so that sums of squares alone would lose the variance.
static float *make(int64_t rows, int64_t c, unsigned seed) {
  float *x = malloc((size_t)(rows * c) * sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < rows * c; i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(seed >> 8) * 0x1p-24f - 0.5f + (float)(i % c % 5) * 100;
  }
  return x;
}

static void expect(float got, double wanted, double allowed, const char *what, int shape, int64_t c) {
  if (!(fabs((double)got - wanted) <= allowed))
    fail_msg("%s of channel %lld of %lldx%lld: %.9g, expected %.9g", what, (long long)c, (long long)shapes[shape].rows,
             (long long)shapes[shape].c, (double)got, wanted);
}

static void check_shape(struct ls_backend *twin, int s) {
  struct ls_error err = LS_ERROR_INIT;
  int64_t rows = shapes[s].rows, c = shapes[s].c;
  struct ls_reduce r = ls_reduce_of(rows, c);
  assert_int_equal(r.parts > 1, shapes[s].parts);
  assert_int_equal(r.across > 1, shapes[s].tiles);
  float *x = make(rows, c, 1), *scratch = malloc(cuda_moments_scratch(&r, c)),
        *out = malloc((size_t)(4 * c) * sizeof *out);
  assert_true(scratch && out);
  assert_int_equal(cuda_column_sum(twin->state, NULL, &r, x, LS_F32, c, scratch, out, &err), LS_OK);
  struct cuda_moments of = {x, LS_F32, (int32_t)c, 1e-5f, out + c, out + 2 * c, out + 3 * c, scratch};
  assert_int_equal(cuda_moments(twin->state, NULL, &r, &of, &err), LS_OK);
  for (int64_t i = 0; i < c; i++) {
    double sum = 0, absolute = 0, squares = 0;
    for (int64_t row = 0; row < rows; row++) sum += (double)x[row * c + i], absolute += fabs((double)x[row * c + i]);
    for (int64_t row = 0; row < rows; row++) squares += pow((double)x[row * c + i] - sum / (double)rows, 2);
    double variance = squares / (double)rows;
    expect(out[i], sum, 1e-6 * absolute, "sum", s, i);
    expect(out[c + i], sum / (double)rows, 3e-7 * absolute / (double)rows, "mean", s, i);
    // The means of the parts are rounded to float32.
    double allowed = 1e-5 * variance + 0x1p-23 * fabs(sum / (double)rows) * sqrt(variance) + 1e-12,
           all = variance + 1e-5;
    expect(out[2 * c + i], variance, allowed, "variance", s, i);
    expect(out[3 * c + i], 1 / sqrt(all), allowed / (all * sqrt(all)) + 1e-6 / sqrt(all), "inverse deviation", s, i);
  }
  free(x);
  free(scratch);
  free(out);
}

static void test_sums(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_backend twin;
  assert_int_equal(ls_backend_cuda_twin()->open(0, &twin, &err), LS_OK);
  for (int s = 0; s < SHAPES; s++) check_shape(&twin, s);
  twin.ops->close(&twin);
}

static struct ls_tensor_desc tensor(int rank, int64_t n, int64_t c) {
  struct ls_tensor_desc t = {.dtype = LS_F32, .shape = {.rank = rank}};
  if (rank == 4) memcpy(t.shape.dim, (int64_t[]){n, c, 1, 1}, 4 * sizeof(int64_t));
  if (rank == 1) t.shape.dim[0] = c;
  return t;
}

// The whole backward pass: dgamma, dbeta, dx.
static void check_backward(struct ls_backend *twin, int s) {
  struct ls_error err = LS_ERROR_INIT;
  int64_t rows = shapes[s].rows, c = shapes[s].c;
  struct ls_op forward = {0}, backward = {0};
  struct ls_op_desc desc = {.kind = LS_OP_BN_FORWARD_TRAIN, .layer_name = "norm", .inputs = 3, .outputs = 3};
  desc.attributes.epsilon = 1e-5f;
  for (int i = 0; i < 6; i++) desc.tensor[i] = tensor(i == 0 || i == 3 ? 4 : 1, rows, c);
  assert_int_equal(twin->ops->prepare(twin, &desc, &forward, &err), LS_OK);
  desc = (struct ls_op_desc){
      .kind = LS_OP_BN_BACKWARD, .layer_name = "norm", .inputs = 6, .outputs = 3, .forward = &forward};
  desc.attributes.epsilon = 1e-5f;
  for (int i = 0; i < 9; i++) desc.tensor[i] = tensor(i < 2 || i == 6 ? 4 : 1, rows, c);
  assert_int_equal(twin->ops->prepare(twin, &desc, &backward, &err), LS_OK);
  size_t scratch_bytes =
      forward.scratch_bytes > backward.scratch_bytes ? forward.scratch_bytes : backward.scratch_bytes;
  float *x = make(rows, c, 1), *dy = make(rows, c, 2), *y = make(rows, c, 3), *dx = make(rows, c, 4),
        *numbers = make(6, c, 5);
  void *workspace = malloc(forward.workspace_bytes + 1), *scratch = malloc(scratch_bytes + 1);
  float *gamma = numbers, *beta = numbers + c, *mean = beta + c, *variance = mean + c, *dgamma = variance + c,
        *dbeta = dgamma + c;
  struct ls_op_args args = {{x, gamma, beta, y, mean, variance}, workspace, scratch};
  assert_int_equal(twin->ops->run(twin, &forward, NULL, &args, &err), LS_OK);
  args = (struct ls_op_args){{x, dy, gamma, beta, mean, variance, dx, dgamma, dbeta}, workspace, scratch};
  assert_int_equal(twin->ops->run(twin, &backward, NULL, &args, &err), LS_OK);
  for (int64_t i = 0; i < c; i++) {
    double inverse = 1 / sqrt((double)variance[i] + 1e-5), products = 0, slopes = 0, most = 0;
    for (int64_t row = 0; row < rows; row++) {
      double h = ((double)x[row * c + i] - (double)mean[i]) * inverse, slope = (double)dy[row * c + i];
      expect(y[row * c + i], (double)gamma[i] * h + (double)beta[i],
             1e-4 * (fabs((double)gamma[i]) + fabs((double)beta[i]) + 1), "output", s, i);
      products += slope * h;
      slopes += slope;
      most += fabs(slope) * (fabs(h) + 1);
    }
    expect(dgamma[i], products, 1e-4 * most, "dgamma", s, i);
    expect(dbeta[i], slopes, 1e-5 * most, "dbeta", s, i);
    for (int64_t row = 0; row < rows; row++) {
      double h = ((double)x[row * c + i] - (double)mean[i]) * inverse, scale = (double)gamma[i] * inverse;
      double wanted = scale * ((double)dy[row * c + i] - slopes / (double)rows - h * products / (double)rows);
      expect(dx[row * c + i], wanted, 1e-4 * fabs(scale) * (most / (double)rows) + 1e-6, "dx", s, i);
    }
  }
  void *memory[] = {x, dy, y, dx, numbers, workspace, scratch};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) free(memory[i]);
  twin->ops->op_release(twin, &backward);
  twin->ops->op_release(twin, &forward);
}

static void test_batch_norm(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_backend twin;
  assert_int_equal(ls_backend_cuda_twin()->open(0, &twin, &err), LS_OK);
  for (int s = 1; s < SHAPES; s++) {
    if (shapes[s].rows * shapes[s].c < 2000000) check_backward(&twin, s);
  }
  twin.ops->close(&twin);
}

// A stride keeps an index on the same channels, and all indices together take each group once.
static void test_stride(void **state) {
  (void)state;
  static const int64_t ns[] = {8, 24, 1000, 524288, 100000000}, cs[] = {1, 8, 24, 64, 100, 2048};
  for (size_t i = 0; i < sizeof ns / sizeof *ns; i++) {
    for (size_t j = 0; j < sizeof cs / sizeof *cs; j++) {
      int64_t stride = ls_stride_of(ns[i], cs[j]), groups = cuda_groups(ns[i]);
      assert_true(stride > 0 && stride * 16 >= groups);
      if (cs[j] % LS_GROUP != 0) assert_int_equal(stride, groups);
      if (cs[j] % LS_GROUP == 0) assert_int_equal(stride * LS_GROUP % cs[j], 0);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums), cmocka_unit_test(test_batch_norm),
                                     cmocka_unit_test(test_stride)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
