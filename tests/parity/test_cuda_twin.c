// The CUDA backend's kernels and lowering, compiled for the host (its twin), against the reference backend: every layer
// type, odd sizes, both input layouts, fused and not.
#include "backend/cuda/cuda_internal.h"
#include "support/compare.h"

static void check(const struct compare *like) {
  for (int i = 0; i < NET_CASES; i++) {
    struct compare c = *like;
    c.name = net_cases[i].name;
    c.ops = ls_backend_cuda_twin();
    c.tolerance = c.tf32 ? 0.02 : c.dtype == LS_F32 ? 1e-5 : c.dtype == LS_F16 ? 0.02 : 0.03;
    net *network = net_cases[i].make(c.channels, c.height, c.width);
    compare_network(&c, network);
    lockstep__v1__network__free_unpacked(network, NULL);
  }
}

static void test_one_image(void **state) {
  (void)state;
  check(&(struct compare){.batch = 1, .channels = 5, .height = 9, .width = 8});
}

static void test_three_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 14, .channels_last = true});
}

static void test_sixteen_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 16, .channels = 5, .height = 9, .width = 8});
}

static void test_sixteen_images_whole_blocks(void **state) {
  (void)state;
  check(&(struct compare){.batch = 16, .channels = 16, .height = 8, .width = 9});
}

static void test_seventeen_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 17, .channels = 3, .height = 12, .width = 10});
}

static void test_thirty_two_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 32, .channels = 3, .height = 8, .width = 9, .channels_last = true});
}

// Blocks of channels that are not full.
static void test_padded_blocks(void **state) {
  (void)state;
  check(&(struct compare){.batch = 2, .channels = 20, .height = 9, .width = 8});
}

static void test_without_fusion(void **state) {
  (void)state;
  check(&(struct compare){.batch = 2, .channels = 20, .height = 9, .width = 8, .no_fusion = true});
  check(&(struct compare){.batch = 16, .channels = 4, .height = 8, .width = 8, .no_fusion = true});
}

// Mixed precision: 16-bit activations and products, float32 parameters, statistics, loss.
static void test_bfloat16(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .dtype = LS_BF16});
  check(&(struct compare){.batch = 16, .channels = 5, .height = 8, .width = 9, .dtype = LS_BF16, .no_fusion = true});
}

static void test_tf32(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .tf32 = true});
}

static void test_float16(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .dtype = LS_F16, .loss_scale = 1024});
  check(&(struct compare){
      .batch = 16, .channels = 5, .height = 8, .width = 9, .dtype = LS_F16, .loss_scale = 64, .no_fusion = true});
}

// Two contexts, and one of them twice: the same bits of every gradient and every metric. Each value is written anew in
// each run, so what the memory held before cannot show.
static void check_bits(const struct ls_graph *graph, const char *name) {
  struct ls_plan_options options = {.batch = 16, .training = true, .dtype = LS_F32, .loss_images = 16};
  struct engine engine[2];
  struct ls_shape shape = ls_graph_input_shape(graph);
  double *images = compare_fill(options.batch * ls_shape_elements(&shape), 1);
  int32_t labels[16] = {0, 1, 2, 3, 4, 5, 6};
  for (int e = 0; e < 2; e++) {
    engine_open(&engine[e], graph, ls_backend_cuda_twin(), &options);
    for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
      double *values = malloc((size_t)engine_parameter_size(&engine[e], i) * sizeof *values);
      engine_random_parameter(&engine[e], i, values);
      engine_set_parameter(&engine[e], i, values);
      free(values);
    }
    engine_set_input(&engine[e], images, labels);
    for (int run = 0; run <= e; run++) {
      engine_forward(&engine[e]);
      engine_backward(&engine[e]);
    }
  }
  for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
    size_t bytes = (size_t)engine_parameter_size(&engine[0], i) * sizeof(double);
    double *a = malloc(bytes), *b = malloc(bytes);
    engine_gradient(&engine[0], i, a);
    engine_gradient(&engine[1], i, b);
    if (memcmp(a, b, bytes) != 0) fail_msg("%s: %s has other bits", name, ls_graph_parameter(graph, i)->name);
    free(a);
    free(b);
  }
  assert_memory_equal(engine_metrics(&engine[0]), engine_metrics(&engine[1]), LS_METRICS * sizeof(float));
  engine_close(&engine[0]);
  engine_close(&engine[1]);
  free(images);
}

static void test_same_bits(void **state) {
  (void)state;
  for (int i = 0; i < NET_CASES; i++) {
    net *network = net_cases[i].make(i % 2 ? 5 : 16, 9, 8);
    struct ls_graph *graph;
    ENGINE_TRY(ls_graph_build(network, &graph, err));
    check_bits(graph, net_cases[i].name);
    ls_graph_free(graph);
    lockstep__v1__network__free_unpacked(network, NULL);
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

// Training: a residual block's sum and ReLU are part of its batch norm, gradients are summed where the ReLU is undone.
static void test_fusion(void **state) {
  (void)state;
  struct ls_backend backend;
  struct ls_graph *graph;
  struct ls_plan *plan;
  char *text = NULL;
  size_t size = 0;
  for (int i = 0; i < NET_CASES; i++) {
    if (strcmp(net_cases[i].name, "residual") != 0) continue;
    net *network = net_cases[i].make(8, 8, 8);
    struct ls_plan_options options = {.batch = 2, .training = true, .dtype = LS_BF16, .loss_images = 2};
    ENGINE_TRY(ls_graph_build(network, &graph, err));
    ENGINE_TRY(ls_backend_cuda_twin()->open(0, &backend, err));
    ENGINE_TRY(ls_plan_build(graph, &backend, &options, &plan, err));
    FILE *out = open_memstream(&text, &size);
    ls_plan_print(plan, out);
    fclose(out);
    assert_int_equal(count_lines(text, "forward", " add "), 0);
    assert_int_equal(count_lines(text, "forward", " relu_forward "), 0);
    assert_int_equal(count_lines(text, "forward", " bn_forward "), 5);
    assert_int_equal(count_lines(text, "backward", " add "), 1);  // before the first batch norm, which has its own ReLU
    assert_int_equal(count_lines(text, "backward", " relu_backward "), 2);
    ls_plan_free(plan);
    backend.ops->close(&backend);
    ls_graph_free(graph);
    lockstep__v1__network__free_unpacked(network, NULL);
  }
  assert_non_null(text);
  free(text);
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_image),
                                     cmocka_unit_test(test_three_images),
                                     cmocka_unit_test(test_sixteen_images),
                                     cmocka_unit_test(test_sixteen_images_whole_blocks),
                                     cmocka_unit_test(test_seventeen_images),
                                     cmocka_unit_test(test_thirty_two_images),
                                     cmocka_unit_test(test_padded_blocks),
                                     cmocka_unit_test(test_without_fusion),
                                     cmocka_unit_test(test_bfloat16),
                                     cmocka_unit_test(test_float16),
                                     cmocka_unit_test(test_tf32),
                                     cmocka_unit_test(test_same_bits),
                                     cmocka_unit_test(test_fusion),
                                     cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
