// Inference plans with batch norms and residual sums folded into convolutions, against the plan that runs every layer by
// itself on the same parameters: equal to rounding; nothing of what is folded is left; folding follows the parameters.
#include <math.h>
#include <stdio.h>

#include "support/engine.h"
#include "support/layer_networks.h"

static void net_sum(net *n, const char *name, const char *a, const char *b) {
  Lockstep__V1__Layer *sum = net_layer(n, name, a, b, NULL);
  sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
  sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
}

// A block with a convolution on both ways, as where ResNet-18 changes its width.
static net *case_projection(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", "stem", 2 * c, 3, 2, 1, 1, 0);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  net_conv(n, "down", "stem", 2 * c, 1, 2, 0, 1, 0);
  NET_PLAIN(n, "down_bn", NULL, BATCH_NORM, batch_norm);
  net_sum(n, "sum", "bn", "down_bn");
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  return net_head(n);
}

// The other summand is read again later, so the sum must not be written over it.
static net *case_summand_lives_on(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", "stem", c, 3, 1, 1, 1, 1);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  net_sum(n, "sum", "stem", "bn");
  net_conv(n, "conv2", "sum", c, 3, 1, 1, 1, 1);
  net_sum(n, "sum2", "conv2", "stem");
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  return net_head(n);
}

// The convolution reads the very values that are added to it.
static net *case_adds_its_input(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", "stem", c, 3, 1, 1, 1, 0);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  net_sum(n, "sum", "bn", "stem");
  return net_head(n);
}

static net *case_grouped(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(2 * c, h, w);
  net_conv(n, "conv", NULL, 4 * c, 3, 1, 1, 2, 1);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  net_conv(n, "depthwise", NULL, 4 * c, 3, 1, 1, 4 * c, 0);
  NET_PLAIN(n, "bn2", NULL, BATCH_NORM, batch_norm);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  return net_head(n);
}

static const struct net_case cases[] = {
    {"batch_norm_relu", case_batch_norm_relu}, {"residual", case_residual},
    {"projection", case_projection},           {"summand_lives_on", case_summand_lives_on},
    {"adds_its_input", case_adds_its_input},   {"grouped", case_grouped}};

static void set_parameters(struct engine *e, double factor) {
  for (int i = 0; i < ls_graph_parameter_count(e->graph); i++) {
    double *values = malloc((size_t)engine_parameter_size(e, i) * sizeof *values);
    engine_random_parameter(e, i, values);
    for (int64_t j = 0; j < engine_parameter_size(e, i); j++) values[j] *= factor;
    engine_set_parameter(e, i, values);
    free(values);
  }
}

static double distance(const struct engine *a, const struct engine *b) {
  const float *x = ls_binding_probabilities(a->binding), *y = ls_binding_probabilities(b->binding);
  double sum = 0;
  for (int64_t i = 0; i < a->options.batch * ls_graph_classes(a->graph); i++)
    sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
  return sqrt(sum);
}

static void expect_nothing_left(const struct engine *e, const char *name) {
  char *text;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  ls_plan_print(e->plan, out);
  fclose(out);
  if (strstr(text, "bn_forward") || strstr(text, " add ") || !strstr(text, "bn_fold"))
    fail_msg("%s: not everything is folded:\n%s", name, text);
  free(text);
}

// `training`: the parameters lie as a training plan wants them, as in evaluation during training.
static void check(const struct net_case *c, int64_t batch, uint32_t channels, bool training) {
  net *network = c->make(channels, 9, 8);
  struct ls_graph *graph;
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  struct ls_plan_options options = {.batch = batch, .dtype = LS_F32, .loss_images = batch, .training = training};
  struct engine owner, folded, apart;
  engine_open(&owner, graph, ls_backend_cpu(), &options);
  options.training = false;
  options.parameters_of = owner.plan;
  engine_open_on(&folded, graph, &owner, &options);
  options.no_fusion = true;
  engine_open_on(&apart, graph, &owner, &options);
  expect_nothing_left(&folded, c->name);
  double *images = malloc((size_t)(batch * 3 * 9 * 8) * sizeof *images);
  for (int64_t i = 0; i < batch * 3 * 9 * 8; i++) images[i] = (float)engine_draw(1, (uint32_t)i);
  int32_t *labels = calloc((size_t)batch, sizeof *labels);
  engine_set_input(&folded, images, labels);
  engine_set_input(&apart, images, labels);
  set_parameters(&owner, 1);
  engine_forward(&folded);
  engine_forward(&apart);
  double close = 1e-5 * sqrt((double)batch), before = distance(&folded, &apart);
  if (!(before <= close)) fail_msg("%s, batch %d, %u channels: off by %g", c->name, (int)batch, channels, before);
  // Other parameters: the folded weights are those of the last refresh.
  set_parameters(&owner, 1.5);
  engine_forward(&apart);
  ENGINE_TRY(ls_binding_forward(folded.binding, NULL, err));
  double stale = distance(&folded, &apart);
  ENGINE_TRY(ls_binding_refresh(folded.binding, NULL, err));
  ENGINE_TRY(ls_binding_forward(folded.binding, NULL, err));
  double fresh = distance(&folded, &apart);
  if (!(stale > 10 * close)) fail_msg("%s: weights changed without a refresh, or the test sees nothing", c->name);
  if (!(fresh <= close)) fail_msg("%s: off by %g after a refresh", c->name, fresh);
  free(images);
  free(labels);
  engine_close(&apart);
  engine_close(&folded);
  engine_close(&owner);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
}

static void check_all(int64_t batch, uint32_t channels, bool training) {
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i], batch, channels, training);
}

static void test_whole_blocks(void **state) {
  (void)state;
  check_all(2, 16, true);
  check_all(2, 16, false);
}

static void test_padded_blocks(void **state) {
  (void)state;
  check_all(1, 5, true);
  check_all(1, 20, false);
}

static void test_sixteen_images(void **state) {
  (void)state;
  check_all(16, 5, true);
  check_all(16, 16, false);
}

// Inference with two threads on one worker: what one thread computes, to rounding. Last, as it binds this thread to a core.
static void test_two_threads(void **state) {
  (void)state;
  net *network = case_residual(16, 9, 8);
  struct ls_graph *graph;
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  struct ls_plan_options options = {.batch = 1, .dtype = LS_F32, .loss_images = 1};
  struct engine one, two;
  double images[3 * 9 * 8];
  int32_t label = 0;
  for (uint32_t i = 0; i < 3 * 9 * 8; i++) images[i] = (float)engine_draw(1, i);
  engine_open(&one, graph, ls_backend_cpu(), &options);
  set_parameters(&one, 1);
  engine_set_input(&one, images, &label);
  engine_forward(&one);
  one.backend.ops->use_threads(&one.backend, 0, 2);  // from here on only the second plan runs
  options.parameters_of = one.plan;
  engine_open_on(&two, graph, &one, &options);
  engine_set_input(&two, images, &label);
  engine_forward(&two);
  double off = distance(&one, &two);
  if (!(off <= 1e-5)) fail_msg("two threads are off by %g", off);
  engine_close(&two);
  engine_close(&one);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole_blocks), cmocka_unit_test(test_padded_blocks),
                                     cmocka_unit_test(test_sixteen_images), cmocka_unit_test(test_two_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
