// Gradients of every layer type against central finite differences of the loss, all in float64 on the reference backend.
//
// For each network: single weights of every parameter, and random directions through all parameters at once. A network
// runs with and without fusion, in a batch of which one image has no label.
#include <math.h>
#include <stdio.h>

#include "support/engine.h"
#include "support/layer_networks.h"

enum { BATCH = 4, CHANNELS = 4, HEIGHT = 9, WIDTH = 8, SINGLES = 6, DIRECTIONS = 3 };
static const int32_t labels[BATCH] = {2, -1, 6, 0};
static const double step = 1e-6;

// The mean loss over the global batch, from the probabilities: the metrics are float32.
static double loss(struct engine *e) {
  engine_forward(e);
  int64_t classes = ls_graph_classes(e->graph);
  const double *p = ls_binding_probabilities(e->binding);
  double sum = 0;
  for (int i = 0; i < BATCH; i++) sum -= labels[i] < 0 ? 0 : log(p[i * classes + labels[i]]);
  return sum / (double)e->options.loss_images;
}

struct values {
  int count;
  double **parameter, **gradient;
};

// The loss with every learned parameter moved by `distance` along `direction`.
static double loss_along(struct engine *e, const struct values *v, uint32_t direction, double distance) {
  for (int i = 0; i < v->count; i++) {
    int64_t n = engine_parameter_size(e, i);
    double *moved = malloc((size_t)n * sizeof *moved);
    for (int64_t j = 0; j < n; j++)
      moved[j] = v->parameter[i][j] + distance * engine_draw(direction, (uint32_t)(i * 10007 + j));
    if (ls_graph_parameter(e->graph, i)->learned) engine_set_parameter(e, i, moved);
    free(moved);
  }
  double found = loss(e);
  for (int i = 0; i < v->count; i++) engine_set_parameter(e, i, v->parameter[i]);
  return found;
}

static void check_directions(struct engine *e, const struct values *v, const char *name) {
  for (uint32_t d = 0; d < DIRECTIONS; d++) {
    double expected = (loss_along(e, v, 1000 + d, step) - loss_along(e, v, 1000 + d, -step)) / (2 * step), found = 0;
    double size = 0;
    for (int i = 0; i < v->count; i++) {
      if (!ls_graph_parameter(e->graph, i)->learned) continue;
      for (int64_t j = 0; j < engine_parameter_size(e, i); j++) {
        found += v->gradient[i][j] * engine_draw(1000 + d, (uint32_t)(i * 10007 + j));
        size += fabs(v->gradient[i][j]);
      }
    }
    if (!(size > 0 && fabs(found - expected) <= 1e-8 * (1 + size))) {
      fail_msg("%s, direction %u: gradient %.12g, finite difference %.12g", name, d, found, expected);
    }
  }
}

static void check_singles(struct engine *e, const struct values *v, const char *name) {
  for (int i = 0; i < v->count; i++) {
    const struct ls_parameter *p = ls_graph_parameter(e->graph, i);
    if (!p->learned) continue;
    int64_t n = engine_parameter_size(e, i);
    double largest = 0;
    for (int64_t j = 0; j < n; j++) largest = fmax(largest, fabs(v->gradient[i][j]));
    for (int k = 0; k < SINGLES; k++) {
      int64_t j = n <= SINGLES ? k % n : k * (n - 1) / (SINGLES - 1);
      double at[2], kept = v->parameter[i][j];
      for (int side = 0; side < 2; side++) {
        v->parameter[i][j] = side ? kept + step : kept - step;
        engine_set_parameter(e, i, v->parameter[i]);
        at[side] = loss(e);
      }
      v->parameter[i][j] = kept;
      engine_set_parameter(e, i, v->parameter[i]);
      double expected = (at[1] - at[0]) / (2 * step);
      if (!(fabs(v->gradient[i][j] - expected) <= 2e-9 + 1e-6 * largest)) {
        fail_msg("%s, %s[%lld]: gradient %.12g, finite difference %.12g", name, p->name, (long long)j,
                 v->gradient[i][j], expected);
      }
    }
  }
}

static void check_case(const struct net_case *c, bool no_fusion) {
  net *network = c->make(CHANNELS, HEIGHT, WIDTH);
  struct ls_graph *graph;
  struct engine e;
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  engine_open(&e, graph, ls_backend_reference(),
              &(struct ls_plan_options){
                  .batch = BATCH, .training = true, .dtype = LS_F64, .loss_images = 8, .no_fusion = no_fusion});
  struct ls_shape shape = ls_graph_input_shape(graph);
  int64_t pixels = BATCH * ls_shape_elements(&shape);
  double *images = malloc((size_t)pixels * sizeof *images);
  for (int64_t i = 0; i < pixels; i++) images[i] = engine_draw(1, (uint32_t)i);
  engine_set_input(&e, images, labels);
  struct values v = {.count = ls_graph_parameter_count(graph)};
  v.parameter = calloc((size_t)v.count, sizeof *v.parameter);
  v.gradient = calloc((size_t)v.count, sizeof *v.gradient);
  for (int i = 0; i < v.count; i++) {
    size_t bytes = (size_t)engine_parameter_size(&e, i) * sizeof(double);
    v.parameter[i] = malloc(bytes);
    v.gradient[i] = malloc(bytes);
    engine_random_parameter(&e, i, v.parameter[i]);
    engine_set_parameter(&e, i, v.parameter[i]);
  }
  double first = loss(&e);
  engine_backward(&e);
  for (int i = 0; i < v.count; i++) engine_gradient(&e, i, v.gradient[i]);
  assert_true(fabs(engine_metrics(&e)[LS_METRIC_LOSS] / 8 - first) < 1e-6);
  assert_true(engine_metrics(&e)[LS_METRIC_IMAGES] == 3);
  check_directions(&e, &v, c->name);
  check_singles(&e, &v, c->name);
  for (int i = 0; i < v.count; i++) free(v.parameter[i]), free(v.gradient[i]);
  free(v.parameter);
  free(v.gradient);
  free(images);
  engine_close(&e);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
}

static void test_gradients(void **state) {
  (void)state;
  for (int i = 0; i < NET_CASES; i++) {
    check_case(&net_cases[i], false);
    check_case(&net_cases[i], true);
  }
}

// A layer type that no network above holds is a layer type without a gradient test.
static void test_every_type_is_here(void **state) {
  (void)state;
  const ProtobufCMessageDescriptor *layer = &lockstep__v1__layer__descriptor;
  for (unsigned f = 0; f < layer->n_fields; f++) {
    if (!(layer->fields[f].flags & PROTOBUF_C_FIELD_FLAG_ONEOF)) continue;
    bool found = false;
    for (int i = 0; i < NET_CASES && !found; i++) {
      net *network = net_cases[i].make(CHANNELS, HEIGHT, WIDTH);
      for (size_t j = 0; j < network->n_layers; j++) found |= network->layers[j]->type_case == layer->fields[f].id;
      lockstep__v1__network__free_unpacked(network, NULL);
    }
    if (!found) fail_msg("no gradient test has a layer of type %s", layer->fields[f].name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_every_type_is_here)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
