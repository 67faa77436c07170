// A graph made ready on one backend, with its memory, for tests: parameters, images and gradients go in and out as
// canonical float64. Activations are filled with NaN before each run, so that a value nobody wrote shows.
#ifndef LS_TESTS_SUPPORT_ENGINE_H
#define LS_TESTS_SUPPORT_ENGINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/kernel_basics.h"
#include "base/philox.h"
#include "graph/plan.h"

struct engine {
  const struct ls_graph *graph;
  struct ls_backend backend;
  struct ls_plan_options options;
  struct ls_plan *plan;
  struct ls_binding *binding;
  struct ls_plan_memory memory;
  struct ls_step_parameters step;
  float metrics[LS_METRICS];
  size_t size;  // of one value of a parameter or a probability: 4 or 8
  bool shared;  // context and parameters are another engine's
};

#define ENGINE_TRY(call)                                                       \
  do {                                                                         \
    struct ls_error engine_err_ = LS_ERROR_INIT;                               \
    struct ls_error *err = &engine_err_;                                       \
    if ((call) != LS_OK) fail_msg("%s:%d: %s", __FILE__, __LINE__, err->text); \
  } while (0)

static inline double engine_draw(uint32_t sequence, uint32_t i) {
  struct ls_philox4 r = ls_random(11, LS_RANDOM_TEST, sequence, i, 0);
  return (double)r.v[0] * 0x1p-31 - 1;  // [-1, 1)
}

static inline void engine_upload(struct engine *e, void *memory, const void *host, size_t bytes) {
  ENGINE_TRY(e->backend.ops->upload(&e->backend, NULL, memory, host, bytes, err));
  ENGINE_TRY(e->backend.ops->stream_wait_idle(&e->backend, NULL, err));
}

static inline void engine_download(struct engine *e, void *host, const void *memory, size_t bytes) {
  ENGINE_TRY(e->backend.ops->download(&e->backend, NULL, host, memory, bytes, err));
  ENGINE_TRY(e->backend.ops->stream_wait_idle(&e->backend, NULL, err));
}

// NaN in every type.
static inline void engine_spoil(struct engine *e, void *memory, size_t bytes) {
  void *ones = malloc(bytes ? bytes : 1);
  memset(ones, 0xff, bytes);
  engine_upload(e, memory, ones, bytes);
  free(ones);
}

static inline void *engine_allocate(struct engine *e, size_t bytes) {
  void *memory;
  ENGINE_TRY(e->backend.ops->allocate(&e->backend, LS_MEMORY_DEVICE, bytes, &memory, err));
  engine_spoil(e, memory, bytes);
  return memory;
}

// On the backend context and the parameter slab of `shared`, which must be closed after this one; NULL: own ones.
static inline void engine_open_in(struct engine *e, const struct ls_graph *graph, struct engine *shared,
                                  const struct ls_plan_options *options) {
  ENGINE_TRY(ls_plan_build(graph, &e->backend, options, &e->plan, err));
  if (shared && ls_plan_parameter_bytes(e->plan) != ls_plan_parameter_bytes(shared->plan)) {
    fail_msg("two plans over one parameter slab need %zu and %zu bytes", ls_plan_parameter_bytes(e->plan),
             ls_plan_parameter_bytes(shared->plan));
  }
  e->memory = (struct ls_plan_memory){
      .parameters = shared ? shared->memory.parameters : engine_allocate(e, ls_plan_parameter_bytes(e->plan)),
      .activations = engine_allocate(e, ls_plan_activation_bytes(e->plan)),
      .input = engine_allocate(e, ls_plan_input_bytes(e->plan)),
      .labels = engine_allocate(e, (size_t)options->batch * sizeof(int32_t)),
      .step = engine_allocate(e, sizeof e->step),
      .metrics = engine_allocate(e, sizeof e->metrics)};
  if (ls_plan_folded_bytes(e->plan)) e->memory.folded = engine_allocate(e, ls_plan_folded_bytes(e->plan));
  if (options->training) e->memory.gradients = engine_allocate(e, ls_plan_gradient_bytes(e->plan));
  ENGINE_TRY(ls_plan_bind(e->plan, &e->memory, &e->binding, err));
  e->step = (struct ls_step_parameters){.seed = 3, .step = 5, .first_image = 32, .loss_scale = 1};
}

static inline void engine_open(struct engine *e, const struct ls_graph *graph, const struct ls_backend_ops *ops,
                               const struct ls_plan_options *options) {
  *e = (struct engine){.graph = graph, .options = *options, .size = options->dtype == LS_F64 ? 8 : 4};
  ENGINE_TRY(ops->open(0, &e->backend, err));
  engine_open_in(e, graph, NULL, options);
}

static inline void engine_open_on(struct engine *e, const struct ls_graph *graph, struct engine *shared,
                                  const struct ls_plan_options *options) {
  *e = (struct engine){.graph = graph, .options = *options, .size = options->dtype == LS_F64 ? 8 : 4};
  e->backend = shared->backend;
  e->shared = true;
  engine_open_in(e, graph, shared, options);
}

static inline void engine_close(struct engine *e) {
  ls_binding_free(e->binding);
  void *memory[] = {
      e->memory.gradients, e->memory.activations, e->memory.input,   e->memory.labels,
      e->memory.folded,    e->memory.step,        e->memory.metrics, e->shared ? NULL : e->memory.parameters};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
    e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, memory[i], 0);
  }
  ls_plan_free(e->plan);
  if (!e->shared) e->backend.ops->close(&e->backend);
}

static inline int64_t engine_parameter_size(const struct engine *e, int index) {
  return ls_shape_elements(&ls_graph_parameter(e->graph, index)->shape);
}

// Between n canonical values of the engine's own type and float64.
static inline void engine_from_f64(const struct engine *e, const double *from, void *to, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    if (e->size == sizeof(double))
      ((double *)to)[i] = from[i];
    else
      ((float *)to)[i] = (float)from[i];
  }
}

static inline void engine_to_f64(const struct engine *e, const void *from, double *to, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] = e->size == sizeof(double) ? ((const double *)from)[i] : ((const float *)from)[i];
}

static inline void engine_set_parameter(struct engine *e, int index, const double *values) {
  const struct ls_plan_parameter *p = ls_plan_parameter(e->plan, index);
  void *canonical = malloc((size_t)engine_parameter_size(e, index) * e->size);
  engine_from_f64(e, values, canonical, engine_parameter_size(e, index));
  ENGINE_TRY(e->backend.ops->from_canonical(&e->backend, &p->tensor, canonical,
                                            (char *)e->memory.parameters + p->offset_bytes, err));
  free(canonical);
}

// Gradient of parameter `index`; of a running statistic: the batch's.
static inline void engine_gradient(struct engine *e, int index, double *values) {
  const struct ls_plan_parameter *p = ls_plan_parameter(e->plan, index);
  void *canonical = malloc((size_t)engine_parameter_size(e, index) * e->size);
  ENGINE_TRY(e->backend.ops->to_canonical(&e->backend, &p->tensor, (char *)e->memory.gradients + p->offset_bytes,
                                          canonical, err));
  engine_to_f64(e, canonical, values, engine_parameter_size(e, index));
  free(canonical);
}

// images [N,C,H,W] row-major.
static inline void engine_set_input(struct engine *e, const double *images, const int32_t *labels) {
  struct ls_shape s = ls_graph_input_shape(e->graph);
  size_t size = ls_dtype_bytes(e->options.dtype);
  int64_t chw = ls_shape_elements(&s), hw = s.dim[1] * s.dim[2];
  int64_t channels = ls_plan_input_channels(e->plan);
  size_t bytes = ls_plan_input_bytes(e->plan);
  char *input = calloc(1, bytes);
  for (int64_t i = 0; i < e->options.batch * chw; i++) {
    int64_t to = e->options.input_channels_last ? (i / chw * hw + i % hw) * channels + i % chw / hw : i;
    char *place = input + (size_t)to * size;
    if (size == sizeof(uint16_t))
      ls_put(place, e->options.dtype, 0, (float)images[i]);
    else
      engine_from_f64(e, &images[i], place, 1);
  }
  engine_upload(e, e->memory.input, input, bytes);
  engine_upload(e, e->memory.labels, labels, (size_t)e->options.batch * sizeof *labels);
  free(input);
}

static inline const float *engine_metrics(struct engine *e) {
  const char *from = e->options.training ? (const char *)e->memory.gradients + ls_plan_metrics_offset(e->plan)
                                         : (const char *)e->memory.metrics;
  engine_download(e, e->metrics, from, sizeof e->metrics);
  return e->metrics;
}

// Of the last forward pass, n values.
static inline void engine_probabilities(struct engine *e, double *values, int64_t n) {
  void *host = malloc((size_t)n * e->size);
  engine_download(e, host, ls_binding_probabilities(e->binding), (size_t)n * e->size);
  engine_to_f64(e, host, values, n);
  free(host);
}

static inline void engine_forward(struct engine *e) {
  ENGINE_TRY(ls_binding_refresh(e->binding, NULL, err));
  engine_spoil(e, e->memory.activations, ls_plan_activation_bytes(e->plan));
  engine_upload(e, e->memory.step, &e->step, sizeof e->step);
  ENGINE_TRY(ls_binding_forward(e->binding, NULL, err));
}

static inline void engine_backward(struct engine *e) { ENGINE_TRY(ls_binding_backward(e->binding, NULL, err)); }

// Sensible random values: weights scaled by their fan-in, gamma and variances positive.
static inline void engine_random_parameter(const struct engine *e, int index, double *values) {
  const struct ls_parameter *p = ls_graph_parameter(e->graph, index);
  double scale = p->kind == LS_PARAMETER_WEIGHT ? 1.7 / __builtin_sqrt((double)p->fan_in) : 0.3;
  double middle = p->kind == LS_PARAMETER_GAMMA || p->kind == LS_PARAMETER_RUNNING_VARIANCE ? 1 : 0;
  for (int64_t i = 0; i < ls_shape_elements(&p->shape); i++) {
    values[i] = (float)(middle + scale * engine_draw(100 + (uint32_t)index, (uint32_t)i));  // exact in float32 too
  }
}

#endif
