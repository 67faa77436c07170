// What every float32 backend is held to, against the reference backend: every layer type, odd sizes, batches that fit
// sixteen-image kernels and batches that do not, both input layouts, fused and not; and the same bits every time.
//
// A test defines first, and lists PARITY_TESTS among its own:
//   static const struct ls_backend_ops *tested(void);          the backend
//   static double tolerated(const struct compare *compare);    how far it may be off (compare.tolerance)
#ifndef LS_TESTS_SUPPORT_PARITY_CASES_H
#define LS_TESTS_SUPPORT_PARITY_CASES_H

#include "support/compare.h"

static void check(const struct compare *like) {
  for (int i = 0; i < NET_CASES; i++) {
    struct compare c = *like;
    c.name = net_cases[i].name;
    c.ops = tested();
    c.tolerance = tolerated(&c);
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

// Two contexts, and one of them twice: the same bits of every gradient and every metric. Each value is written anew in
// each run, so what the memory held before cannot show.
static void check_bits(const struct ls_graph *graph, const char *name) {
  struct ls_plan_options options = {.batch = 16, .training = true, .dtype = LS_F32, .loss_images = 16};
  struct engine engine[2];
  struct ls_shape shape = ls_graph_input_shape(graph);
  double *images = compare_fill(options.batch * ls_shape_elements(&shape), 1);
  int32_t labels[16] = {0, 1, 2, 3, 4, 5, 6};
  for (int e = 0; e < 2; e++) {
    engine_open(&engine[e], graph, tested(), &options);
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

#define PARITY_TESTS                                                                                            \
  cmocka_unit_test(test_one_image), cmocka_unit_test(test_three_images), cmocka_unit_test(test_sixteen_images), \
      cmocka_unit_test(test_sixteen_images_whole_blocks), cmocka_unit_test(test_seventeen_images),              \
      cmocka_unit_test(test_thirty_two_images), cmocka_unit_test(test_padded_blocks),                           \
      cmocka_unit_test(test_without_fusion), cmocka_unit_test(test_same_bits)

#endif
