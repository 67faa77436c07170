// The CUDA backend on a GPU against the reference backend: every network of the gradient tests, in every precision, training
// and inference, both input layouts, fused and not; and the same bits on every run and in every context.
#include "support/compare.h"
#include "support/gpu.h"

static void check(const struct compare *like, double tolerance) {
  for (int i = 0; i < NET_CASES; i++) {
    struct compare c = *like;
    c.name = net_cases[i].name;
    c.ops = ls_backend_cuda();
    c.tolerance = tolerance;
    net *network = net_cases[i].make(c.channels, c.height, c.width);
    compare_network(&c, network);
    lockstep__v1__network__free_unpacked(network, NULL);
  }
}

static void test_float32(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 14, .channels_last = true}, 2e-5);
  check(&(struct compare){.batch = 17, .channels = 5, .height = 12, .width = 10}, 2e-5);
  check(&(struct compare){.batch = 16, .channels = 4, .height = 8, .width = 8, .no_fusion = true}, 2e-5);
}

static void test_tf32(void **state) {
  (void)state;
  check(&(struct compare){.batch = 8, .channels = 16, .height = 9, .width = 8, .tf32 = true}, 0.02);
  check(&(struct compare){.batch = 8, .channels = 3, .height = 9, .width = 8, .tf32 = true, .channels_last = true},
        0.02);
}

// As for the backend's twin: test_cuda_twin.c.
static void test_bfloat16(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 8, .dtype = LS_BF16}, 0.03);
  check(&(struct compare){.batch = 3, .channels = 3, .height = 9, .width = 8, .dtype = LS_BF16, .channels_last = true},
        0.03);
  check(&(struct compare){.batch = 16, .channels = 5, .height = 8, .width = 9, .dtype = LS_BF16, .no_fusion = true},
        0.03);
}

static void test_float16(void **state) {
  (void)state;
  struct compare c = {.batch = 3, .channels = 16, .height = 9, .width = 8, .dtype = LS_F16, .loss_scale = 1024};
  check(&c, 0.02);
  c.no_fusion = true;
  c.loss_scale = 64;
  check(&c, 0.02);
  c.channels = 3, c.channels_last = true;
  check(&c, 0.02);
}

struct outcome {
  void *gradients;
  size_t bytes;
};

// Runs the network `runs` times in a context of its own; the last run's gradients.
static struct outcome run(const struct ls_graph *graph, enum ls_dtype dtype, int runs) {
  struct ls_plan_options options = {.batch = 16, .training = true, .dtype = dtype, .loss_images = 16};
  struct engine engine;
  struct ls_shape shape = ls_graph_input_shape(graph);
  double *images = compare_fill(options.batch * ls_shape_elements(&shape), 1);
  int32_t labels[16] = {0, 1, 2, 3, 4, 5, 6};
  engine_open(&engine, graph, ls_backend_cuda(), &options);
  for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
    double *values = malloc((size_t)engine_parameter_size(&engine, i) * sizeof *values);
    engine_random_parameter(&engine, i, values);
    engine_set_parameter(&engine, i, values);
    free(values);
  }
  // What lies between parameters stays as it is.
  struct outcome outcome = {.bytes = ls_plan_gradient_bytes(engine.plan)};
  outcome.gradients = calloc(1, outcome.bytes);
  engine_upload(&engine, engine.memory.gradients, outcome.gradients, outcome.bytes);
  engine_set_input(&engine, images, labels);
  for (int i = 0; i < runs; i++) {
    engine_forward(&engine);
    engine_backward(&engine);
  }
  engine_download(&engine, outcome.gradients, engine.memory.gradients, outcome.bytes);
  engine_close(&engine);
  free(images);
  return outcome;
}

static void test_same_bits(void **state) {
  (void)state;
  static const enum ls_dtype types[] = {LS_F32, LS_BF16, LS_F16};
  for (int i = 0; i < NET_CASES * 3; i++) {
    net *network = net_cases[i / 3].make(i % 2 ? 5 : 16, 9, 8);
    struct ls_graph *graph;
    ENGINE_TRY(ls_graph_build(network, &graph, err));
    struct outcome once = run(graph, types[i % 3], 1), again = run(graph, types[i % 3], 3);
    assert_int_equal(once.bytes, again.bytes);
    if (memcmp(once.gradients, again.gradients, once.bytes) != 0)
      fail_msg("%s in %s: other bits on another run", net_cases[i / 3].name, ls_dtype_name(types[i % 3]));
    free(once.gradients);
    free(again.gradients);
    ls_graph_free(graph);
    lockstep__v1__network__free_unpacked(network, NULL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_float32), cmocka_unit_test(test_tf32),
                                     cmocka_unit_test(test_bfloat16), cmocka_unit_test(test_float16),
                                     cmocka_unit_test(test_same_bits)};
  if (gpu_count() == 0) return GPU_SKIPPED;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
