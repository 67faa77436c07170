// A backend in float32 or 16 bits against the reference backend over a whole network: probabilities, metrics, every gradient and every
// batch statistic, and inference on the same parameter slab. Used by the parity test of each backend.
#ifndef LS_TESTS_SUPPORT_COMPARE_H
#define LS_TESTS_SUPPORT_COMPARE_H

#include <math.h>
#include <stdio.h>

#include "support/engine.h"
#include "support/layer_networks.h"

struct compare {
  const char *name;
  const struct ls_backend_ops *ops;
  int64_t batch;
  uint32_t channels, height, width;
  bool channels_last, no_fusion;
  enum ls_dtype dtype;  // of the backend's activations; the reference's are float64
  float loss_scale;     // float16; 0: 1
  bool tf32;
  double tolerance;  // of the Euclidean distance, relative to the expected tensor's length
};

// How far `found` is from `expected`, relative to its length; where all expected values are 0 (or the gradient of
// something that cannot matter, like a bias before batch norm), relative to `scale`.
static inline void compare_values(const struct compare *c, const char *what, const double *found,
                                  const double *expected, int64_t n, double scale, double tolerance) {
  double distance = 0, length = 0;
  for (int64_t i = 0; i < n; i++) {
    distance += (found[i] - expected[i]) * (found[i] - expected[i]);
    length += expected[i] * expected[i];
  }
  double allowed = tolerance * fmax(sqrt(length), 0.1 * scale * sqrt((double)n));
  if (sqrt(distance) <= allowed) return;  // false for NaN
  int64_t worst = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!(fabs(found[i] - expected[i]) <= fabs(found[worst] - expected[worst]))) worst = i;
  }
  fail_msg("%s, batch %lld, %u channels, %ux%u%s%s: %s is off by %g of %g; [%lld] is %.9g instead of %.9g", c->name,
           (long long)c->batch, c->channels, c->height, c->width, c->channels_last ? ", channels last" : "",
           c->no_fusion ? ", no fusion" : "", what, sqrt(distance), sqrt(length), (long long)worst, found[worst],
           expected[worst]);
}

static inline double *compare_fill(int64_t n, uint32_t sequence) {
  double *values = malloc((size_t)n * sizeof *values);
  for (int64_t i = 0; i < n; i++) values[i] = (float)engine_draw(sequence, (uint32_t)i);
  return values;
}

static inline void compare_probabilities(const struct compare *c, const char *what, struct engine *found,
                                         struct engine *expected) {
  int64_t n = c->batch * ls_graph_classes(found->graph);
  double *values = malloc((size_t)n * sizeof *values);
  engine_probabilities(found, values, n);
  compare_values(c, what, values, ls_binding_probabilities(expected->binding), n, 1, c->tolerance);
  free(values);
  for (int i = 0; i < LS_METRICS; i++) {
    double a = engine_metrics(found)[i], b = engine_metrics(expected)[i];
    // Places among the best may change where rounding makes equals of two.
    double allowed = c->dtype == LS_F32 && !c->tf32 ? 1e-5 * (1 + fabs(b))
                     : i == LS_METRIC_LOSS          ? c->tolerance * fabs(b)
                                                    : 2;
    if (!(fabs(a - b) <= allowed)) fail_msg("%s: %s: metric %d is %g instead of %g", c->name, what, i, a, b);
  }
}

static inline void compare_gradients(const struct compare *c, struct engine *found, struct engine *expected) {
  int count = ls_graph_parameter_count(found->graph);
  double *values[2], largest = 0;
  // In 16 bits some values change their sign or their place in a maximum, and the gradient goes another way there.
  double tolerance = c->dtype == LS_F32 && !c->tf32 ? c->tolerance : 10 * c->tolerance;
  for (int pass = 0; pass < 2; pass++) {  // first the scale: the largest gradient anywhere
    for (int i = 0; i < count; i++) {
      int64_t n = engine_parameter_size(found, i);
      values[0] = malloc((size_t)n * sizeof(double));
      values[1] = malloc((size_t)n * sizeof(double));
      engine_gradient(found, i, values[0]);
      engine_gradient(expected, i, values[1]);
      const struct ls_parameter *p = ls_graph_parameter(found->graph, i);
      for (int64_t j = 0; j < n && p->learned; j++) values[0][j] /= (double)found->step.loss_scale;
      for (int64_t j = 0; j < n && p->learned; j++) largest = fmax(largest, fabs(values[1][j]));
      if (pass) compare_values(c, p->name, values[0], values[1], n, p->learned ? largest : 1, tolerance);
      free(values[0]);
      free(values[1]);
    }
  }
}

// Builds `network` on both backends and compares. Frees nothing of the network.
static inline void compare_network(const struct compare *c, const Lockstep__V1__Network *network) {
  struct ls_graph *graph;
  struct engine found, expected, found_infer, expected_infer;
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  struct ls_plan_options options = {.batch = c->batch,
                                    .training = true,
                                    .dtype = c->dtype,
                                    .tf32 = c->tf32,
                                    .loss_images = 2 * c->batch,
                                    .input_channels_last = c->channels_last,
                                    .input_padded = c->channels_last,
                                    .no_fusion = c->no_fusion};
  engine_open(&found, graph, c->ops, &options);
  if (c->loss_scale > 0) found.step.loss_scale = c->loss_scale;
  struct ls_plan_options infer = options;
  infer.training = false;
  infer.parameters_of = found.plan;
  engine_open_on(&found_infer, graph, &found, &infer);
  options = (struct ls_plan_options){
      .batch = c->batch, .training = true, .dtype = LS_F64, .loss_images = 2 * c->batch, .no_fusion = true};
  engine_open(&expected, graph, ls_backend_reference(), &options);
  options.training = false;
  options.parameters_of = expected.plan;
  engine_open_on(&expected_infer, graph, &expected, &options);
  struct engine *engines[] = {&found, &expected, &found_infer, &expected_infer};
  struct ls_shape shape = ls_graph_input_shape(graph);
  double *images = compare_fill(c->batch * ls_shape_elements(&shape), 1);
  int32_t *labels = malloc((size_t)c->batch * sizeof *labels);
  for (int64_t i = 0; i < c->batch; i++) {
    labels[i] = i % 5 == 4 ? -1 : (int32_t)((i * 3 + 1) % ls_graph_classes(graph));
  }
  for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
    double *values = malloc((size_t)engine_parameter_size(&found, i) * sizeof *values);
    engine_random_parameter(&found, i, values);
    for (int e = 0; e < 2; e++) engine_set_parameter(engines[e], i, values);
    free(values);
  }
  for (int e = 0; e < 4; e++) {
    engine_set_input(engines[e], images, labels);
    engine_forward(engines[e]);
  }
  compare_probabilities(c, "probabilities in training", &found, &expected);
  compare_probabilities(c, "probabilities in inference", &found_infer, &expected_infer);
  engine_backward(&found);
  engine_backward(&expected);
  compare_gradients(c, &found, &expected);
  for (int e = 3; e >= 0; e--) engine_close(engines[e]);
  free(images);
  free(labels);
  ls_graph_free(graph);
}

#endif
