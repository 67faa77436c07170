// Every network in configs/models loads, and has the parameters and multiply-adds of its paper (the table
// below: convolutions and fully connected layers, learned parameters only).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/graph.h"
#include "spec/spec.h"

static const struct {
  const char *name;
  int64_t parameters, multiply_adds, classes;  // multiply_adds 0: not in the table
} expected[] = {
    {"alexnet", 60965224, 724406816, 1000},
    {"alexnet-slide", 62378344, 1135256096, 1000},
    {"alexnet-torchvision", 61100840, 0, 1000},
    {"convnetjs-cifar10", 0, 0, 10},
    {"darknet-cifar", 0, 0, 10},
    {"lenet-caffe", 431080, 2293000, 10},
    {"lenet5", 61706, 0, 10},
    {"resnet18", 11689512, 1814073344, 1000},
    {"resnet20", 269722, 40551040, 10},
    {"resnet50", 25557032, 4089184256, 1000},
    {"vgg16", 138357544, 15470264320, 1000},
};

static void test_counts(void **state) {
  (void)state;
  char **names;
  size_t count;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_spec_list_networks(&names, &count, &err), LS_OK);
  assert_int_equal(count, sizeof expected / sizeof *expected);  // a new network needs a line above
  for (size_t i = 0; i < count; i++) {
    assert_string_equal(names[i], expected[i].name);
    Lockstep__V1__Network *network;
    if (ls_spec_load_network(names[i], NULL, &network, &err) != LS_OK) fail_msg("%s", err.text);
    struct ls_graph *graph;
    if (ls_graph_build(network, &graph, &err) != LS_OK) fail_msg("%s", err.text);
    int64_t parameters = 0, multiply_adds = 0;
    for (int j = 0; j < ls_graph_layer_count(graph); j++) {
      struct ls_layer_summary summary;
      ls_graph_layer_summary(graph, j, &summary);
      parameters += summary.parameters;
      multiply_adds += summary.multiply_adds;
    }
    if (expected[i].parameters) assert_int_equal(parameters, expected[i].parameters);
    if (expected[i].multiply_adds) assert_int_equal(multiply_adds, expected[i].multiply_adds);
    assert_int_equal(ls_graph_classes(graph), expected[i].classes);
    ls_graph_free(graph);
    lockstep__v1__network__free_unpacked(network, NULL);
    free(names[i]);
  }
  free(names);
}

// The lecture's VGG-16 slide, layer by layer.
static void test_vgg_slide(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Network *network;
  struct ls_graph *graph;
  assert_int_equal(ls_spec_load_network("vgg16", NULL, &network, &err), LS_OK);
  assert_int_equal(ls_graph_build(network, &graph, &err), LS_OK);
  static const struct {
    int64_t activations, parameters;
  } slide[] = {
      {3211264, 1728},   {3211264, 36864}, {802816, 0},       {1605632, 73728},  {1605632, 147456}, {401408, 0},
      {802816, 294912},  {802816, 589824}, {802816, 589824},  {200704, 0},       {401408, 1179648}, {401408, 2359296},
      {401408, 2359296}, {100352, 0},      {100352, 2359296}, {100352, 2359296}, {100352, 2359296}, {25088, 0},
      {4096, 102760448}, {4096, 16777216}, {1000, 4096000},
  };
  size_t row = 0;
  int64_t activations = 3 * 224 * 224;  // the slide counts the input
  for (int i = 0; i < ls_graph_layer_count(graph); i++) {
    struct ls_layer_summary s;
    ls_graph_layer_summary(graph, i, &s);
    bool counted =
        strcmp(s.type, "convolution") == 0 || strcmp(s.type, "max_pool") == 0 || strcmp(s.type, "fully_connected") == 0;
    if (!counted) continue;
    assert_true(row < sizeof slide / sizeof *slide);
    int64_t biases = s.parameters ? s.output.dim[0] : 0;  // the slide counts none
    assert_int_equal(s.activations, slide[row].activations);
    assert_int_equal(s.parameters - biases, slide[row++].parameters);
    activations += s.activations;
  }
  assert_int_equal(row, sizeof slide / sizeof *slide);
  // The slide's own rows add up to 15.2 M values (61 MB in float32); the total printed below them, 24 M, does not follow
  // from them.
  assert_int_equal(activations, 15237608);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_vgg_slide)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
