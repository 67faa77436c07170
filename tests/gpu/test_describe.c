// What can be checked of the device's half without a device: cuDNN takes the description of every kind of convolution, in
// every direction and type, and a missing GPU is said in a sentence.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/device/cudnn_graph.h"

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
    for (int i = 0; i < 12; i++) {
      struct graph graph;
      struct ls_error err = LS_ERROR_INIT;
      c.direction = (enum cuda_direction)direction;
      c.dtype = types[i / 4];
      c.bias = i & 1, c.relu = i & 2;
      if (direction != CUDA_FORWARD && (i & 3)) continue;
      graph_init(&graph, NULL);
      device_describe_product(&graph, &c, true);
      if (graph_error(&graph, &err) != LS_OK) fail_msg("direction %d: %s", direction, err.text);
      assert_int_equal(graph.operations, 1 + c.bias + c.relu);
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
  graph_init(&graph, NULL);
  device_describe_product(&graph, &c, true);
  assert_int_not_equal(graph_error(&graph, &err), LS_OK);
  assert_non_null(strstr(err.text, "describing a convolution"));
  assert_int_equal(graph.operations, 0);
  graph_release(&graph);
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
                                     cmocka_unit_test(test_no_gpu)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
