// Where the exchange of gradients is cut: against the plan's steps, one by one, for whole networks; and against every other
// way to cut them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdlib.h>

#include "graph/plan_internal.h"
#include "spec/spec.h"

static Lockstep__V1__Network *network;
static struct ls_graph *graph;
static struct ls_backend backend;
static struct ls_plan *plan;

static void load(const char *name, enum ls_dtype dtype) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_plan_options how = {
      .batch = 2, .training = true, .dtype = dtype, .loss_images = 8, .input_channels_last = true};
  if (ls_spec_load_network(name, NULL, &network, &err) != LS_OK) fail_msg("%s", err.text);
  if (ls_graph_build(network, &graph, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(ls_backend_cuda_planner()->open(0, &backend, &err), LS_OK);
  if (ls_plan_build(graph, &backend, &how, &plan, &err) != LS_OK) fail_msg("%s", err.text);
}

static void unload(void) {
  ls_plan_free(plan);
  backend.ops->close(&backend);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
}

static int buckets_of(int most, size_t least_bytes, struct ls_plan_bucket *buckets) {
  int count = 0;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_plan_buckets(plan, most, least_bytes, buckets, &count, &err), LS_OK);
  assert_in_range(count, 1, most);
  return count;
}

// Whether step `s` writes a gradient or reads a parameter at or behind `begin` (floats) in the slab.
static bool touches(int s, int64_t begin, int64_t end) {
  const struct plan_step *step = &plan->steps[s];
  for (int i = 0; i < step->op.desc.inputs + step->op.desc.outputs; i++) {
    const struct plan_value *v = &plan->values[step->value[i]];
    bool input = i < step->op.desc.inputs;
    if (v->kind != (input ? LS_VALUE_PARAMETER : LS_VALUE_GRADIENT)) continue;
    int64_t at = (int64_t)(v->offset / sizeof(float));
    if (at >= begin && at < end) return true;
  }
  return false;
}

// The number of backward operations after which nothing touches [begin, ...) any more.
static int oracle(int64_t begin) {
  int done = 0;
  for (int s = plan->forward_count; s < plan->step_count; s++) {
    if (touches(s, begin, (int64_t)(plan->metrics_offset / sizeof(float)))) done = s + 1 - plan->forward_count;
  }
  return done;
}

static void check(int most, size_t least_bytes) {
  struct ls_plan_bucket b[LS_PLAN_BUCKETS];
  int count = buckets_of(most, least_bytes, b), all = plan->step_count - plan->forward_count;
  int64_t at = 0;
  for (int i = 0; i < count; i++) {
    assert_int_equal(b[i].begin, at);
    assert_true(b[i].end > b[i].begin || count == 1);
    assert_int_equal(b[i].end % (LS_ALIGNMENT / (int)sizeof(float)), 0);
    if (count > 1) assert_true((size_t)(b[i].end - b[i].begin) * sizeof(float) >= least_bytes);
    assert_int_equal(b[i].operations, i == 0 ? all : oracle(b[i].begin));
    if (i > 0) assert_true(b[i].operations < b[i - 1].operations);
    for (int s = plan->forward_count + b[i].operations; s < plan->step_count; s++)
      assert_false(touches(s, b[i].begin, b[i].end));
    at = b[i].end;
  }
  assert_int_equal(at, plan->metrics_offset / sizeof(float));
}

static const char *const names[] = {"lenet5", "resnet20", "resnet50", "vgg16", "alexnet", "darknet-cifar"};

static void test_against_the_steps(void **state) {
  (void)state;
  static const enum ls_dtype types[] = {LS_F32, LS_BF16, LS_F16};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    for (size_t t = 0; t < 3; t++) {
      load(names[n], types[t]);
      for (int most = 1; most <= 4; most++) {
        check(most, 64);
        check(most, 8 << 20);
      }
      unload();
    }
  }
}

static double waiting(const int64_t *begin, int count) {
  double sum = 0;
  int64_t end = (int64_t)(plan->metrics_offset / sizeof(float));
  for (int i = count - 1; i >= 0; end = begin[i--])
    sum += (double)(end - begin[i]) * (i ? oracle(begin[i]) : plan->step_count - plan->forward_count);
  return sum;
}

// No other two or three buckets let gradients wait less.
static void test_best(void **state) {
  (void)state;
  for (int least = 64; least <= 4096; least *= 64) {
    load("lenet5", LS_F32);
    struct ls_plan_bucket b[LS_PLAN_BUCKETS];
    int64_t floats = least / (int)sizeof(float), end = (int64_t)(plan->metrics_offset / sizeof(float));
    int count = buckets_of(3, (size_t)least, b);
    assert_int_equal(count, 3);
    double best = waiting((int64_t[]){0, b[1].begin, b[2].begin}, 3);
    for (int i = 0; i < plan->parameter_count; i++) {
      for (int j = 0; j < plan->parameter_count; j++) {
        int64_t x = (int64_t)(plan->parameters[i].offset_bytes / sizeof(float));
        int64_t y = (int64_t)(plan->parameters[j].offset_bytes / sizeof(float));
        if (x < floats || y - x < floats || end - y < floats) continue;
        assert_true(waiting((int64_t[]){0, x, y}, 3) >= best);
      }
    }
    unload();
  }
}

// What it comes to: VGG's fully connected layers go off before any convolution's backward pass, as 90 % of all bytes; a
// small network is not cut.
static void test_known_networks(void **state) {
  (void)state;
  struct ls_plan_bucket b[LS_PLAN_BUCKETS];
  load("vgg16", LS_BF16);
  int count = buckets_of(3, 8 << 20, b);
  assert_int_equal(count, 3);
  assert_true(b[2].end - b[2].begin > (int64_t)(plan->metrics_offset / sizeof(float)) * 7 / 10);
  assert_true(b[0].end < (int64_t)(plan->metrics_offset / sizeof(float)) / 10);
  assert_string_equal(ls_plan_backward_layer(plan, -1), "");
  assert_string_equal(ls_plan_backward_layer(plan, 1 << 20), "");
  assert_string_not_equal(ls_plan_backward_layer(plan, b[2].operations - 1), "");
  unload();
  load("resnet20", LS_BF16);
  assert_int_equal(buckets_of(3, 8 << 20, b), 1);
  unload();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_the_steps), cmocka_unit_test(test_best),
                                     cmocka_unit_test(test_known_networks)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
