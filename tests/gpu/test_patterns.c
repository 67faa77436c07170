// Fusions of convolution and batch norm that cuDNN has beside the one that is used (sums of the output): found out with the
// properties of an H200, so that whoever builds on them knows that they are there. Each drops a pass over a tensor in a
// chain of convolution, batch norm, ReLU, convolution without a branch:
//
//   prologue     relu(scale x + bias) while the next convolution loads x, with the sums of its output as now: the
//                normalised tensor is never written
//   weights      the same in the weights' gradient, which reads the normalised tensor again
//   data         the gradient of x, the ReLU undone, and the sums that batch norm's backward pass begins with
//
// cuDNN 9.19: all three exist in float16 alone, for every convolution of ResNet-50 whose channels are divisible by 8 (so
// not for the first), with strides, at 32 and at 256 images, on an A100, an L40 and an H200; on a B200 too, on compute
// capability 12.0 without the prologue. None of the engines bears the note that it is not deterministic; none bears any
// note, so that their bits are to be compared on a GPU before `exact` relies on them, as the tuning does with the sums. No
// bfloat16, no float32. And scale and bias must be float16 themselves (a B200 takes float32): gamma / deviation then has
// eleven bits, where our own kernel normalises in float32, and the backward pass, which asks the same formula again where
// the ReLU let values through, would have to ask it in float16.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "support/h200.h"

enum pattern { PROLOGUE, WEIGHTS, DATA, PATTERNS };

struct names {  // tensors are numbered as they come
  struct graph *graph;
  const struct cuda_convolution *c;
  int64_t next;
};

static cudnnBackendDescriptor_t tensor(struct names *n, enum ls_dtype dtype, const int64_t dims[4], bool is_virtual) {
  return graph_tensor(n->graph, n->next++, dtype, dims, is_virtual);
}

static cudnnBackendDescriptor_t made(struct graph *g, cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t d = NULL;
  assert_int_equal(cudnnBackendCreateDescriptor(type, &d), CUDNN_STATUS_SUCCESS);
  return g->made[g->count++] = d;
}

static void set_tensor(cudnnBackendDescriptor_t to, cudnnBackendAttributeName_t name,
                       cudnnBackendDescriptor_t tensor_is) {
  assert_int_equal(cudnnBackendSetAttribute(to, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &tensor_is),
                   CUDNN_STATUS_SUCCESS);
}

static void finish(struct graph *g, cudnnBackendDescriptor_t operation) {
  assert_int_equal(cudnnBackendFinalize(operation), CUDNN_STATUS_SUCCESS);
  g->operation[g->operations++] = operation;
}

// relu(scale * x + bias) of x [n,c,h,w], scale and bias [1,c,1,1] of `dtype`.
static cudnnBackendDescriptor_t normalised(struct names *n, cudnnBackendDescriptor_t x, const int64_t dims[4],
                                           enum ls_dtype dtype) {
  const int64_t channels[4] = {1, dims[1], 1, 1};
  cudnnBackendDescriptor_t scale = tensor(n, dtype, channels, false), bias = tensor(n, dtype, channels, false);
  cudnnBackendDescriptor_t scaled = tensor(n, LS_F32, dims, true), moved = tensor(n, LS_F32, dims, true);
  cudnnBackendDescriptor_t y = tensor(n, LS_F32, dims, true);
  graph_pointwise(n->graph, CUDNN_POINTWISE_MUL, x, scale, scaled);
  graph_pointwise(n->graph, CUDNN_POINTWISE_ADD, scaled, bias, moved);
  graph_pointwise(n->graph, CUDNN_POINTWISE_RELU_FWD, moved, NULL, y);
  return y;
}

// dx = dy where y > 0.
static void relu_backward(struct graph *g, cudnnBackendDescriptor_t dy, cudnnBackendDescriptor_t y,
                          cudnnBackendDescriptor_t dx) {
  cudnnPointwiseMode_t mode = CUDNN_POINTWISE_RELU_BWD;
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t d = made(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  cudnnBackendSetAttribute(d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  cudnnBackendSetAttribute(d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  assert_int_equal(cudnnBackendFinalize(d), CUDNN_STATUS_SUCCESS);
  cudnnBackendDescriptor_t o = made(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_tensor(o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
  set_tensor(o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, y);
  set_tensor(o, CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, dy);
  set_tensor(o, CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, dx);
  finish(g, o);
}

// dx of the convolution, through the ReLU behind batch norm, into memory; dgamma, dbeta and the three numbers a channel that
// make batch norm's own dx of it.
static void describe_data(struct names *n, cudnnBackendDescriptor_t w, cudnnBackendDescriptor_t dy,
                          const int64_t dims[4]) {
  const int64_t channels[4] = {1, dims[1], 1, 1};
  struct graph *g = n->graph;
  cudnnBackendDescriptor_t dx = tensor(n, LS_F32, dims, true), x = tensor(n, n->c->dtype, dims, false);
  cudnnBackendDescriptor_t mean = tensor(n, LS_F32, channels, false), inverse = tensor(n, LS_F32, channels, false);
  cudnnBackendDescriptor_t gamma = tensor(n, LS_F32, channels, false), beta = tensor(n, LS_F32, channels, false);
  cudnnBackendDescriptor_t steps[4], slope = tensor(n, n->c->dtype, dims, false);
  for (int i = 0; i < 4; i++) steps[i] = tensor(n, LS_F32, dims, true);
  graph_convolution(g, n->c, dx, w, dy);
  graph_pointwise(g, CUDNN_POINTWISE_SUB, x, mean, steps[0]);
  graph_pointwise(g, CUDNN_POINTWISE_MUL, steps[0], inverse, steps[1]);
  graph_pointwise(g, CUDNN_POINTWISE_MUL, steps[1], gamma, steps[2]);
  graph_pointwise(g, CUDNN_POINTWISE_ADD, steps[2], beta, steps[3]);
  relu_backward(g, dx, steps[3], slope);
  static const cudnnBackendAttributeName_t outputs[] = {
      CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_SCALE_DESC, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_BIAS_DESC,
      CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_X_SCALE_DESC,
      CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_BIAS};
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t o = made(g, CUDNN_BACKEND_OPERATION_BN_BWD_WEIGHTS_DESCRIPTOR);
  cudnnBackendSetAttribute(o, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  set_tensor(o, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MEAN_DESC, mean);
  set_tensor(o, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_INVSTD_DESC, inverse);
  set_tensor(o, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_BN_SCALE_DESC, gamma);
  set_tensor(o, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_X_DESC, x);
  set_tensor(o, CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DY_DESC, slope);
  for (int i = 0; i < 5; i++) set_tensor(o, outputs[i], tensor(n, LS_F32, channels, false));
  finish(g, o);
}

static void describe(struct graph *g, const struct cuda_convolution *c, enum pattern pattern, enum ls_dtype scale) {
  const int64_t x[4] = {c->n, c->c, c->h, c->w}, w[4] = {c->k, c->c, c->r, c->s}, y[4] = {c->n, c->k, c->p, c->q};
  const int64_t sums[4] = {1, c->k, 1, 1};
  struct names n = {g, c, 1};
  cudnnBackendDescriptor_t wt = tensor(&n, c->dtype, w, false), yt = tensor(&n, c->dtype, y, false);
  if (pattern == DATA) {
    describe_data(&n, wt, yt, x);
  } else {
    graph_convolution(g, c, normalised(&n, tensor(&n, c->dtype, x, false), x, scale), wt, yt);
    if (pattern == PROLOGUE) graph_statistics(g, yt, tensor(&n, LS_F32, sums, false), tensor(&n, LS_F32, sums, false));
  }
  graph_finish(g);
}

static ls_status plan(struct cuda_convolution c, enum pattern pattern, enum ls_dtype scale, struct ls_error *err) {
  static const enum cuda_direction directions[] = {CUDA_FORWARD, CUDA_BACKWARD_WEIGHTS, CUDA_BACKWARD_DATA};
  struct graph_rules rules = {.deterministic = true, .most_workspace_bytes = (int64_t)cuda_workspace_limit(&c)};
  struct graph graph;
  c.direction = directions[pattern];
  graph_init_for(&graph, h200);
  describe(&graph, &c, pattern, scale);
  ls_status status = graph_plan(&graph, &rules, err);
  graph_release(&graph);
  return status;
}

static void test_patterns(void **state) {
  (void)state;
  static const char *const names[] = {"relu(scale x + bias), convolution, sums",
                                      "relu(scale x + bias), weights' gradient",
                                      "data's gradient, ReLU, batch norm's sums"};
  static const int64_t layers[][5] = {// channels, filters, size, kernel, stride
                                      {64, 64, 56, 3, 1},
                                      {64, 256, 56, 1, 1},
                                      {128, 128, 56, 3, 2},
                                      {512, 2048, 7, 1, 1}};
  for (size_t i = 0; i < 2 * PATTERNS * sizeof layers / sizeof *layers; i++) {
    const int64_t *l = layers[i / PATTERNS / 2];
    int64_t pad = l[3] / 2, out = (l[2] + 2 * pad - l[3]) / l[4] + 1;
    enum pattern pattern = (enum pattern)(i % PATTERNS);
    struct ls_error err = LS_ERROR_INIT;
    struct cuda_convolution c = {.n = i / PATTERNS % 2 ? 256 : 32,
                                 .c = l[0],
                                 .h = l[2],
                                 .w = l[2],
                                 .k = l[1],
                                 .r = l[3],
                                 .s = l[3],
                                 .p = out,
                                 .q = out,
                                 .groups = 1,
                                 .dtype = LS_F16,
                                 .stride = {l[4], l[4]},
                                 .dilation = {1, 1},
                                 .before = {pad, pad},
                                 .after = {pad, pad}};
    if (plan(c, pattern, LS_F16, &err) != LS_OK)
      fail_msg("%s, %d -> %d: %s", names[pattern], (int)c.c, (int)c.k, err.text);
    if (i >= PATTERNS) continue;  // what else there is, for the record
    bool wide = plan(c, pattern, LS_F32, &err) == LS_OK;
    c.dtype = LS_BF16;
    bool brain = plan(c, pattern, LS_BF16, &err) == LS_OK;
    printf("%s: float16 yes, scale and bias in float32 %s, bfloat16 %s\n", names[pattern],
           pattern == DATA ? "always"
           : wide          ? "yes"
                           : "no",
           brain ? "yes" : "no");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_patterns)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
