// A convolution that sums its output and the batch norm that takes the sums, on one backend in float16: against the two
// operations apart and against float64, and the same bits every time. For the twin and for a GPU.
#ifndef LS_TESTS_SUPPORT_STATISTICS_H
#define LS_TESTS_SUPPORT_STATISTICS_H

#include <math.h>

#include "support/engine.h"

struct statistics_case {
  int64_t n, c, k, size, kernel, stride;
  double ratio;  // mean / deviation of the input
};

enum { STATISTICS_X, STATISTICS_W, STATISTICS_Y, STATISTICS_SUM, STATISTICS_SQUARES, STATISTICS_TENSORS };

// x [n,c,size,size], w [k,c,kernel,kernel], y [n,k,p,p], sum [k], squares [k].
static inline struct ls_op_desc statistics_convolution(const struct statistics_case *s, bool statistics) {
  int64_t pad = s->kernel / 2, p = (s->size + 2 * pad - s->kernel) / s->stride + 1;
  return (struct ls_op_desc){.kind = LS_OP_CONV_FORWARD,
                             .layer_name = "conv",
                             .inputs = 2,
                             .outputs = statistics ? 3 : 1,
                             .tensor = {{LS_F16, LS_SHAPE(s->n, s->c, s->size, s->size), NULL},
                                        {LS_F16, LS_SHAPE(s->k, s->c, s->kernel, s->kernel), NULL},
                                        {LS_F16, LS_SHAPE(s->n, s->k, p, p), NULL},
                                        {LS_F32, LS_SHAPE(s->k), NULL},
                                        {LS_F32, LS_SHAPE(s->k), NULL}},
                             .attributes = {.kernel = {s->kernel, s->kernel},
                                            .stride = {s->stride, s->stride},
                                            .dilation = {1, 1},
                                            .pad_before = {pad, pad},
                                            .pad_after = {pad, pad},
                                            .groups = 1,
                                            .training = true,
                                            .statistics = statistics}};
}

// x, gamma, beta, [sum, squares], then y, mean, variance.
static inline struct ls_op_desc statistics_norm(const struct ls_tensor_desc *x, int64_t k, bool statistics) {
  struct ls_tensor_desc channels = {LS_F32, LS_SHAPE(k), NULL};
  struct ls_op_desc desc = {.kind = LS_OP_BN_FORWARD_TRAIN,
                            .layer_name = "norm",
                            .inputs = statistics ? 5 : 3,
                            .outputs = 3,
                            .attributes = {.training = true, .epsilon = 1e-5F, .statistics = statistics}};
  for (int i = 0; i < desc.inputs + desc.outputs; i++) desc.tensor[i] = channels;
  desc.tensor[0] = desc.tensor[desc.inputs] = *x;
  return desc;
}

static inline void statistics_run(struct engine *e, const struct ls_op_desc *desc, void *const *tensors) {
  struct ls_op op;
  struct ls_op_args args;
  ENGINE_TRY(e->backend.ops->prepare(&e->backend, desc, &op, err));
  memcpy(args.tensor, tensors, (size_t)(desc->inputs + desc->outputs) * sizeof *tensors);
  args.workspace = engine_allocate(e, op.workspace_bytes);
  args.scratch = engine_allocate(e, op.scratch_bytes);
  ENGINE_TRY(e->backend.ops->run(&e->backend, &op, NULL, &args, err));
  ENGINE_TRY(e->backend.ops->stream_wait_idle(&e->backend, NULL, err));
  e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, args.workspace, 0);
  e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, args.scratch, 0);
  e->backend.ops->op_release(&e->backend, &op);
}

static inline size_t statistics_bytes(const struct ls_tensor_desc *t) {
  return (size_t)ls_shape_elements(&t->shape) * ls_dtype_bytes(t->dtype);
}

static inline void *statistics_download(struct engine *e, const struct ls_tensor_desc *t, const void *memory) {
  void *host = malloc(statistics_bytes(t));
  engine_download(e, host, memory, statistics_bytes(t));
  return host;
}

// Values of x or w, in the order in which they lie in memory: channels last.
static inline void statistics_fill(struct engine *e, const struct statistics_case *s, const struct ls_tensor_desc *t,
                                   int which, void *memory) {
  int64_t n = ls_shape_elements(&t->shape);
  bool identity = s->kernel == 1 && s->c == s->k;
  double deviation = sqrt(1.0 / 3), width = 1 / sqrt((double)(s->c * s->kernel * s->kernel));
  void *host = malloc(statistics_bytes(t));
  for (int64_t i = 0; i < n; i++) {
    double v = engine_draw((uint32_t)which, (uint32_t)i);
    if (which == STATISTICS_X) v += s->ratio * deviation;
    if (which == STATISTICS_W) v = identity ? i / s->c == i % s->c : v * width;
    ls_put(host, LS_F16, i, (float)v);
  }
  engine_upload(e, memory, host, statistics_bytes(t));
  free(host);
}

// Mean and variance of `norm` against those of y in float64. Sums may be taken before y is rounded to float16.
static inline void statistics_near(const struct statistics_case *s, const struct ls_tensor_desc *t, const void *y,
                                   const float *mean, const float *variance, bool sums) {
  int64_t rows = ls_shape_elements(&t->shape) / s->k;
  bool rounded = s->kernel > 1 || s->c != s->k;
  for (int64_t c = 0; c < s->k; c++) {
    double m = 0, v = 0;
    for (int64_t i = 0; i < rows; i++) m += (double)ls_get(y, LS_F16, i * s->k + c) / (double)rows;
    for (int64_t i = 0; i < rows; i++) v += pow((double)ls_get(y, LS_F16, i * s->k + c) - m, 2) / (double)rows;
    double ratio = m * m / v, allowed = sums ? 2e-6 * (1 + ratio) + (rounded ? 1e-3 : 0) : 1e-5;
    if (fabs((double)variance[c] - v) <= allowed * v && fabs((double)mean[c] - m) <= allowed * (fabs(m) + sqrt(v)))
      continue;
    fail_msg("%dx%d -> %d, mean %g deviations: channel %d has mean %.9g and variance %.9g%s instead of %.9g and %.9g",
             (int)s->kernel, (int)s->kernel, (int)s->k, s->ratio, (int)c, (double)mean[c], (double)variance[c],
             sums ? " from sums" : "", m, v);
  }
}

static inline void statistics_same(struct engine *e, const struct ls_tensor_desc *t, const void *memory,
                                   const void *first) {
  void *again = statistics_download(e, t, memory);
  if (memcmp(again, first, statistics_bytes(t)) != 0) fail_msg("a convolution with statistics has other bits");
  free(again);
}

// y of the convolution alone; its engine may round otherwise.
static inline void statistics_alone(struct engine *e, const struct statistics_case *s, void *const *tensors,
                                    const void *y) {
  struct ls_op_desc desc = statistics_convolution(s, false);
  const struct ls_tensor_desc *t = &desc.tensor[STATISTICS_Y];
  void *other[STATISTICS_TENSORS] = {tensors[0], tensors[1], engine_allocate(e, statistics_bytes(t))};
  statistics_run(e, &desc, other);
  void *alone = statistics_download(e, t, other[STATISTICS_Y]);
  double most = 0, off = 0;
  for (int64_t i = 0; i < ls_shape_elements(&t->shape); i++) {
    most = fmax(most, fabs((double)ls_get(y, LS_F16, i)));
    off = fmax(off, fabs((double)ls_get(y, LS_F16, i) - (double)ls_get(alone, LS_F16, i)));
  }
  if (!(off <= 0x1p-10 * most)) fail_msg("a convolution with statistics is off by %g of %g", off, most);
  free(alone);
  e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, other[STATISTICS_Y], 0);
}

static inline void statistics_check(const struct ls_backend_ops *ops, const struct statistics_case *s, int runs) {
  struct engine engine = {0}, *e = &engine;
  ENGINE_TRY(ops->open(0, &e->backend, err));
  struct ls_op_desc desc = statistics_convolution(s, true);
  const struct ls_tensor_desc *t = desc.tensor;
  void *tensors[STATISTICS_TENSORS], *first[STATISTICS_TENSORS] = {NULL};
  for (int i = 0; i < STATISTICS_TENSORS; i++) tensors[i] = engine_allocate(e, statistics_bytes(&t[i]));
  for (int i = 0; i < STATISTICS_Y; i++) statistics_fill(e, s, &t[i], i, tensors[i]);
  for (int run = 0; run < runs; run++) {
    statistics_run(e, &desc, tensors);
    for (int i = STATISTICS_Y; i < STATISTICS_TENSORS; i++) {
      if (run == 0)
        first[i] = statistics_download(e, &t[i], tensors[i]);
      else
        statistics_same(e, &t[i], tensors[i], first[i]);
    }
  }
  statistics_alone(e, s, tensors, first[STATISTICS_Y]);
  void *y = engine_allocate(e, statistics_bytes(&t[STATISTICS_Y])), *channels[4];
  float *values = malloc((size_t)s->k * sizeof *values);
  for (int64_t i = 0; i < s->k; i++) values[i] = 1;
  for (int i = 0; i < 4; i++) channels[i] = engine_allocate(e, (size_t)s->k * sizeof *values);
  for (int i = 0; i < 2; i++) engine_upload(e, channels[i], values, (size_t)s->k * sizeof *values);
  for (int sums = 0; sums < 2; sums++) {
    struct ls_op_desc norm = statistics_norm(&t[STATISTICS_Y], s->k, sums);
    void *apart[] = {tensors[STATISTICS_Y], channels[0], channels[1], y, channels[2], channels[3]};
    void *joined[] = {tensors[STATISTICS_Y],       channels[0], channels[1], tensors[STATISTICS_SUM],
                      tensors[STATISTICS_SQUARES], y,           channels[2], channels[3]};
    statistics_run(e, &norm, sums ? joined : apart);
    float *mean = statistics_download(e, &t[STATISTICS_SUM], channels[2]);
    float *variance = statistics_download(e, &t[STATISTICS_SUM], channels[3]);
    statistics_near(s, &t[STATISTICS_Y], first[STATISTICS_Y], mean, variance, sums);
    free(mean);
    free(variance);
  }
  free(values);
  for (int i = 0; i < 4; i++) e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, channels[i], 0);
  e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, y, 0);
  for (int i = 0; i < STATISTICS_TENSORS; i++) {
    e->backend.ops->release(&e->backend, LS_MEMORY_DEVICE, tensors[i], 0);
    free(first[i]);
  }
  e->backend.ops->close(&e->backend);
}

#endif
