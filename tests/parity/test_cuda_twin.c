// The CUDA backend's kernels and lowering, compiled for the host (its twin), against the reference backend.
#include "backend/cuda/cuda_internal.h"
#include "support/compare.h"
#include "support/statistics.h"

static const struct ls_backend_ops *tested(void) { return ls_backend_cuda_twin(); }

static double tolerated(const struct compare *c) {
  return c->tf32 ? 0.02 : c->dtype == LS_F32 ? 1e-5 : c->dtype == LS_F16 ? 0.02 : 0.03;
}

#include "support/parity_cases.h"

// Mixed precision: 16-bit activations and products, float32 parameters, statistics, loss.
static void test_bfloat16(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .dtype = LS_BF16});
  check(&(struct compare){.batch = 3, .channels = 3, .height = 9, .width = 8, .dtype = LS_BF16, .channels_last = true});
  check(&(struct compare){.batch = 16, .channels = 5, .height = 8, .width = 9, .dtype = LS_BF16, .no_fusion = true});
}

static void test_tf32(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .tf32 = true});
  check(&(struct compare){.batch = 3, .channels = 1, .height = 9, .width = 8, .tf32 = true, .channels_last = true});
}

static void test_float16(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .dtype = LS_F16, .loss_scale = 1024});
  check(&(struct compare){
      .batch = 3, .channels = 3, .height = 9, .width = 8, .dtype = LS_F16, .loss_scale = 1024, .channels_last = true});
  check(&(struct compare){
      .batch = 16, .channels = 5, .height = 8, .width = 9, .dtype = LS_F16, .loss_scale = 64, .no_fusion = true});
}

// What the gradient's memory holds of the first convolution's weight beside the gradient: zeros.
static void check_zeros(struct engine *e, int index, int64_t channels) {
  const struct ls_plan_parameter *p = ls_plan_parameter(e->plan, index);
  const float *gradient = (const float *)(const void *)((const char *)e->memory.gradients + p->offset_bytes);
  const int64_t *d = p->tensor.shape.dim, values = d[0] * d[2] * d[3] * channels;
  assert_int_equal(p->bytes, (size_t)values * sizeof(float));
  int64_t others = 0;
  for (int64_t i = 0; i < values; i++) {
    if (i % channels >= d[1]) assert_true(gradient[i] == 0);
    others += i % channels < d[1] && gradient[i] != 0;
  }
  assert_true(others > 0);
}

// The input with more channels than it has: every gradient and probability has the bits that it has without, in training
// and inference; what is more of the weight's gradient is zero.
static void check_padding(const net *network, const char *name, enum ls_dtype dtype, bool tf32, int64_t multiple) {
  struct ls_graph *graph;
  struct engine train[2], infer[2];
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  struct ls_plan_options options = {
      .batch = 4, .dtype = dtype, .tf32 = tf32, .loss_images = 4, .input_channels_last = true};
  struct ls_shape shape = ls_graph_input_shape(graph);
  int64_t padded = (shape.dim[0] + multiple - 1) / multiple * multiple;
  double *images = compare_fill(options.batch * ls_shape_elements(&shape), 1), *v[2];
  const int32_t labels[4] = {0, 1, 2, 1};
  int64_t classes = ls_graph_classes(graph) * options.batch, n = classes;
  for (int e = 0; e < 2; e++) {
    options.input_padded = e;
    options.training = true;
    options.parameters_of = NULL;
    engine_open(&train[e], graph, tested(), &options);
    options.training = false;
    options.parameters_of = train[e].plan;
    engine_open_on(&infer[e], graph, &train[e], &options);
    int64_t channels = ls_plan_input_channels(train[e].plan);
    if (channels != (e ? padded : shape.dim[0])) fail_msg("%s: %d channels", name, (int)channels);
    assert_int_equal(ls_plan_input_channels(infer[e].plan), channels);
    for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
      double *values = malloc((size_t)engine_parameter_size(&train[e], i) * sizeof *values);
      engine_random_parameter(&train[e], i, values);
      engine_set_parameter(&train[e], i, values);
      free(values);
    }
    engine_set_input(&train[e], images, labels);
    engine_set_input(&infer[e], images, labels);
    engine_forward(&train[e]);
    engine_backward(&train[e]);
    engine_forward(&infer[e]);
    if (e && tf32 && padded > shape.dim[0]) check_zeros(&train[e], 0, padded);
  }
  for (int i = -1; i < ls_graph_parameter_count(graph); i++) {
    if (i >= 0) n = engine_parameter_size(&train[0], i);
    for (int e = 0; e < 2; e++) {
      v[e] = malloc((size_t)n * sizeof(double));
      if (i < 0)
        engine_probabilities(&infer[e], v[e], n);
      else
        engine_gradient(&train[e], i, v[e]);
    }
    if (memcmp(v[0], v[1], (size_t)n * sizeof(double)) != 0) fail_msg("%s: %d has other bits", name, i);
    free(v[0]);
    free(v[1]);
  }
  for (int e = 0; e < 2; e++) {
    engine_close(&infer[e]);
    engine_close(&train[e]);
  }
  free(images);
  ls_graph_free(graph);
}

static void test_padding(void **state) {
  (void)state;
  static const struct {
    enum ls_dtype dtype;
    bool tf32;
    int64_t multiple;
  } types[] = {{LS_F32, false, 1}, {LS_F32, true, 4}, {LS_F16, false, 4}, {LS_BF16, false, 8}};
  for (int i = 0; i < NET_CASES; i++) {
    for (size_t t = 0; t < 4; t++) {
      net *network = net_cases[i].make(i % 2 ? 3 : 1, 9, 8);
      bool first = network->layers[0]->type_case == LOCKSTEP__V1__LAYER__TYPE_CONVOLUTION;
      check_padding(network, net_cases[i].name, types[t].dtype, types[t].tf32, first ? types[t].multiple : 1);
      lockstep__v1__network__free_unpacked(network, NULL);
    }
  }
}

static int count_lines(const char *text, const char *begin, const char *with) {
  int count = 0;
  for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
    const char *found = strstr(line, with);
    count += strncmp(line, begin, strlen(begin)) == 0 && found && found < strchr(line, '\n');
  }
  return count;
}

// The plan of the residual network in training, as it is printed.
static char *residual_plan(uint32_t channels, enum ls_dtype dtype, bool no_fusion) {
  struct ls_backend backend;
  struct ls_graph *graph;
  struct ls_plan *plan;
  char *text = NULL;
  size_t size = 0;
  net *network = case_residual(channels, 8, 8);
  struct ls_plan_options options = {
      .batch = 2, .training = true, .dtype = dtype, .loss_images = 2, .no_fusion = no_fusion};
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  ENGINE_TRY(ls_backend_cuda_twin()->open(0, &backend, err));
  ENGINE_TRY(ls_plan_build(graph, &backend, &options, &plan, err));
  FILE *out = open_memstream(&text, &size);
  ls_plan_print(plan, out);
  fclose(out);
  ls_plan_free(plan);
  backend.ops->close(&backend);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
  return text;
}

// Training: a residual block's sum and ReLU are part of its batch norm, gradients are summed where the ReLU is undone.
static void test_fusion(void **state) {
  (void)state;
  char *text = residual_plan(8, LS_BF16, false);
  assert_int_equal(count_lines(text, "forward", " add "), 0);
  assert_int_equal(count_lines(text, "forward", " relu_forward "), 0);
  assert_int_equal(count_lines(text, "forward", " bn_forward "), 5);
  assert_int_equal(count_lines(text, "backward", " add "), 1);  // before the first batch norm, which has its own ReLU
  assert_int_equal(count_lines(text, "backward", " relu_backward "), 2);
  free(text);
}

// float16: convolutions without a bias sum their output for the batch norm behind them, where their channels allow it; else
// the same plan is made without.
static void test_statistics_fusion(void **state) {
  (void)state;
  static const struct {
    uint32_t channels;
    enum ls_dtype dtype;
    bool no_fusion;
    int expected;
  } cases[] = {{8, LS_F16, false, 4}, {12, LS_F16, false, 1}, {6, LS_F16, false, 0}, {4, LS_F16, false, 1},
               {8, LS_F16, true, 0},  {8, LS_BF16, false, 0}, {8, LS_F32, false, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *text = residual_plan(cases[i].channels, cases[i].dtype, cases[i].no_fusion);
    assert_int_equal(count_lines(text, "forward", " conv_forward "), 5);
    assert_int_equal(count_lines(text, "forward", " bn_forward "), 5);
    assert_int_equal(count_lines(text, "forward", " loop + statistics "), cases[i].expected);
    free(text);
  }
}

// Mean and variance from sums of float32: as good as they can be where the mean is many deviations away.
static void test_statistics(void **state) {
  (void)state;
  static const double ratios[] = {0, 1, 8, 64};
  for (size_t i = 0; i < sizeof ratios / sizeof *ratios; i++) {
    statistics_check(tested(), &(struct statistics_case){8, 16, 16, 16, 1, 1, ratios[i]}, 2);
    statistics_check(tested(), &(struct statistics_case){3, 8, 24, 9, 3, 2, ratios[i]}, 2);
  }
}

static void refuses(struct ls_backend *backend, struct ls_op_desc desc, const char *says) {
  struct ls_op op;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(backend->ops->prepare(backend, &desc, &op, &err), LS_UNSUPPORTED);
  if (!strstr(err.text, says)) fail_msg("'%s' instead of '%s'", err.text, says);
  assert_null(op.state);
}

// What it does not do is said when the operation is prepared.
static void test_refusals(void **state) {
  (void)state;
  struct ls_backend backend;
  ENGINE_TRY(ls_backend_cuda_twin()->open(0, &backend, err));
  struct ls_op_desc relu = {.kind = LS_OP_RELU_FORWARD, .inputs = 1, .outputs = 1};
  for (int i = 0; i < 2; i++) relu.tensor[i] = (struct ls_tensor_desc){LS_F64, LS_SHAPE(2, 3, 4, 4), NULL};
  refuses(&backend, relu, "does not compute in float64");
  for (int i = 0; i < 2; i++) relu.tensor[i] = (struct ls_tensor_desc){LS_F32, LS_SHAPE(1024, 2048, 32, 64), NULL};
  refuses(&backend, relu, "a tensor of 1024x2048x32x64 has more than 2147483647 values; use more shards");
  for (int i = 0; i < 2; i++) relu.tensor[i] = (struct ls_tensor_desc){LS_F32, LS_SHAPE(2, 3, 4, 4), NULL};
  relu.kind = LS_OP_COUNT;
  refuses(&backend, relu, "the CUDA backend has no operation");
  struct ls_op_desc pool = {.kind = LS_OP_POOL_FORWARD,
                            .inputs = 1,
                            .outputs = 1,
                            .tensor = {{LS_F32, LS_SHAPE(1, 1, 300, 300), NULL}, {LS_F32, LS_SHAPE(1, 1, 1, 1), NULL}},
                            .attributes = {.kernel = {300, 300}, .stride = {1, 1}, .dilation = {1, 1}}};
  refuses(&backend, pool, "a maximum over windows of 90000 positions: the CUDA backend goes up to 65535");
  backend.ops->close(&backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {PARITY_TESTS,
                                     cmocka_unit_test(test_bfloat16),
                                     cmocka_unit_test(test_tf32),
                                     cmocka_unit_test(test_float16),
                                     cmocka_unit_test(test_padding),
                                     cmocka_unit_test(test_fusion),
                                     cmocka_unit_test(test_statistics_fusion),
                                     cmocka_unit_test(test_statistics),
                                     cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
