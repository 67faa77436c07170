// See cudnn_graph.h.
#include "backend/cuda/device/cudnn_graph.h"

#include <stdio.h>
#include <string.h>

enum { MOST_CONFIGS = 64, MOST_KNOBS = 32, DESCRIPTION = 256 };

void graph_init(struct graph *g, cudnnHandle_t handle) { *g = (struct graph){.handle = handle}; }

static bool step(struct graph *g, cudnnStatus_t status, const char *what) {
  if (g->status != CUDNN_STATUS_SUCCESS) return false;
  if (status == CUDNN_STATUS_SUCCESS) return true;
  g->status = status;
  g->failed = what;
  return false;
}

// A new descriptor that the graph owns; NULL after an error.
static cudnnBackendDescriptor_t new (struct graph *g, cudnnBackendDescriptorType_t type, const char *what) {
  cudnnBackendDescriptor_t made = NULL;
  if (g->status != CUDNN_STATUS_SUCCESS) return NULL;
  if (g->count == GRAPH_DESCRIPTORS) {
    step(g, CUDNN_STATUS_INTERNAL_ERROR, "too many descriptors in a graph");
    return NULL;
  }
  if (!step(g, cudnnBackendCreateDescriptor(type, &made), what)) return NULL;
  return g->made[g->count++] = made;
}

static void set(struct graph *g, cudnnBackendDescriptor_t to, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values, const char *what) {
  if (g->status == CUDNN_STATUS_SUCCESS) step(g, cudnnBackendSetAttribute(to, name, type, count, values), what);
}

static void finalise(struct graph *g, cudnnBackendDescriptor_t descriptor, const char *what) {
  if (g->status == CUDNN_STATUS_SUCCESS) step(g, cudnnBackendFinalize(descriptor), what);
}

void graph_init_for(struct graph *g, const char *properties) {
  static const char what[] = "describing a GPU";
  graph_init(g, NULL);
  if (!properties) return;
  g->device = new (g, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, what);
  set(g, g->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(properties) + 1,
      properties, what);
  finalise(g, g->device, what);
}

void graph_drop_plan(struct graph *g) {
  if (g->pack) cudnnBackendDestroyDescriptor(g->pack);
  if (g->plan) cudnnBackendDestroyDescriptor(g->plan);
  g->pack = g->plan = NULL;
}

void graph_release(struct graph *g) {
  graph_drop_plan(g);
  for (int i = g->count - 1; i >= 0; i--) cudnnBackendDestroyDescriptor(g->made[i]);
  *g = (struct graph){.handle = g->handle};
}

static bool is_memory(cudnnStatus_t status) {
  return status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
         status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
}

ls_status graph_error(const struct graph *g, struct ls_error *err) {
  if (g->status == CUDNN_STATUS_SUCCESS) return LS_OK;
  char why[256] = "";
  cudnnGetLastErrorString(why, sizeof why);
  ls_status status = is_memory(g->status) ? LS_NO_MEMORY
                     : g->status >= CUDNN_STATUS_NOT_SUPPORTED && g->status < CUDNN_STATUS_INTERNAL_ERROR
                         ? LS_UNSUPPORTED
                         : LS_INTERNAL;
  return ls_fail(err, status, "cuDNN, %s: %s%s%s", g->failed, cudnnGetErrorString(g->status), why[0] ? "; " : "", why);
}

static cudnnDataType_t data_type(enum ls_dtype dtype) {
  switch (dtype) {
    case LS_F16: return CUDNN_DATA_HALF;
    case LS_BF16: return CUDNN_DATA_BFLOAT16;
    default: return CUDNN_DATA_FLOAT;
  }
}

cudnnBackendDescriptor_t graph_tensor(struct graph *g, int64_t uid, enum ls_dtype dtype, const int64_t nchw[4],
                                      bool is_virtual) {
  static const char what[] = "describing a tensor";
  cudnnBackendDescriptor_t t = new (g, CUDNN_BACKEND_TENSOR_DESCRIPTOR, what);
  cudnnDataType_t type = data_type(dtype);
  int64_t alignment = 16, strides[4] = {nchw[1] * nchw[2] * nchw[3], 1, nchw[3] * nchw[1], nchw[1]};
  set(g, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid, what);
  set(g, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type, what);
  set(g, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, nchw, what);
  set(g, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides, what);
  set(g, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment, what);
  set(g, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual, what);
  finalise(g, t, what);
  return t;
}

static void add_operation(struct graph *g, cudnnBackendDescriptor_t operation, const char *what) {
  finalise(g, operation, what);
  if (g->status != CUDNN_STATUS_SUCCESS) return;
  if (g->operations == GRAPH_OPERATIONS)
    step(g, CUDNN_STATUS_INTERNAL_ERROR, "too many operations in a graph");
  else
    g->operation[g->operations++] = operation;
}

void graph_convolution(struct graph *g, const struct cuda_convolution *c, cudnnBackendDescriptor_t x,
                       cudnnBackendDescriptor_t w, cudnnBackendDescriptor_t y) {
  static const char what[] = "describing a convolution";
  static const struct {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t convolution, x, w, y, alpha, beta;
  } of[] = {
      [CUDA_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
      [CUDA_BACKWARD_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
      [CUDA_BACKWARD_WEIGHTS] = {
          CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};
  cudnnBackendDescriptor_t d = new (g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, what);
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  int64_t axes = 2;
  float one = 1, none = 0;
  set(g, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &axes, what);
  set(g, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute, what);
  set(g, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode, what);
  set(g, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, c->before, what);
  set(g, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, c->after, what);
  set(g, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, c->stride, what);
  set(g, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, c->dilation, what);
  finalise(g, d, what);
  cudnnBackendDescriptor_t o = new (g, of[c->direction].type, what);
  set(g, o, of[c->direction].convolution, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &d, what);
  set(g, o, of[c->direction].x, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x, what);
  set(g, o, of[c->direction].w, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &w, what);
  set(g, o, of[c->direction].y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y, what);
  set(g, o, of[c->direction].alpha, CUDNN_TYPE_FLOAT, 1, &one, what);
  set(g, o, of[c->direction].beta, CUDNN_TYPE_FLOAT, 1, &none, what);
  add_operation(g, o, what);
}

void graph_pointwise(struct graph *g, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b,
                     cudnnBackendDescriptor_t y) {
  static const char what[] = "describing an elementwise operation";
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t d = new (g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, what);
  set(g, d, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode, what);
  set(g, d, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute, what);
  finalise(g, d, what);
  cudnnBackendDescriptor_t o = new (g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, what);
  set(g, o, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &d, what);
  set(g, o, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x, what);
  if (b) set(g, o, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &b, what);
  set(g, o, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y, what);
  add_operation(g, o, what);
}

void graph_statistics(struct graph *g, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t sum,
                      cudnnBackendDescriptor_t squares) {
  static const char what[] = "describing sums of channels";
  cudnnGenStatsMode_t mode = CUDNN_GENSTATS_SUM_SQSUM;
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t o = new (g, CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR, what);
  set(g, o, CUDNN_ATTR_OPERATION_GENSTATS_MODE, CUDNN_TYPE_GENSTATS_MODE, 1, &mode, what);
  set(g, o, CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute, what);
  set(g, o, CUDNN_ATTR_OPERATION_GENSTATS_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x, what);
  set(g, o, CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &sum, what);
  set(g, o, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &squares, what);
  add_operation(g, o, what);
}

void graph_finish(struct graph *g) {
  static const char what[] = "making an operation graph";
  g->graph = new (g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, what);
  if (g->handle) set(g, g->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->handle, what);
  set(g, g->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operations, g->operation, what);
  finalise(g, g->graph, what);
}

// The engine of `config`; the caller destroys it. NULL after an error.
static cudnnBackendDescriptor_t engine_in(cudnnBackendDescriptor_t config) {
  cudnnBackendDescriptor_t engine = NULL;
  int64_t count = 0;
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS) return NULL;
  if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                               &engine) == CUDNN_STATUS_SUCCESS)
    return engine;
  cudnnBackendDestroyDescriptor(engine);
  return NULL;
}

// Its number; -1 after an error.
static int64_t engine_of(cudnnBackendDescriptor_t config) {
  cudnnBackendDescriptor_t engine = engine_in(config);
  int64_t number = -1, count = 0;
  if (engine && cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count,
                                         &number) != CUDNN_STATUS_SUCCESS)
    number = -1;
  if (engine) cudnnBackendDestroyDescriptor(engine);
  return number;
}

// Whether the rules allow the engine of `config`.
static bool allowed(cudnnBackendDescriptor_t config, const struct graph_rules *rules) {
  cudnnBackendDescriptor_t engine = engine_in(config);
  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  int64_t count = 0;
  bool good =
      engine && cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                         CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes) == CUDNN_STATUS_SUCCESS;
  for (int64_t i = 0; good && i < count && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++) {
    if (rules->deterministic && notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) good = false;
    if (rules->no_tensor_core &&
        (notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS))
      good = false;
  }
  if (engine) cudnnBackendDestroyDescriptor(engine);
  return good;
}

struct knob {
  cudnnBackendKnobType_t type;
  int64_t value;
};

// The knobs that `config` sets; -1 after an error.
static int knobs_of(cudnnBackendDescriptor_t config, struct knob *knobs) {
  cudnnBackendDescriptor_t choices[MOST_KNOBS];
  int64_t count = 0, got;
  int made = 0;
  bool good = true;
  while (made < MOST_KNOBS &&
         cudnnBackendCreateDescriptor(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &choices[made]) == CUDNN_STATUS_SUCCESS)
    made++;
  good = cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, made,
                                  &count, choices) == CUDNN_STATUS_SUCCESS &&
         count <= made;
  for (int64_t i = 0; good && i < count; i++) {
    good = cudnnBackendGetAttribute(choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &got,
                                    &knobs[i].type) == CUDNN_STATUS_SUCCESS &&
           cudnnBackendGetAttribute(choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &got,
                                    &knobs[i].value) == CUDNN_STATUS_SUCCESS;
  }
  for (int i = 0; i < made; i++) cudnnBackendDestroyDescriptor(choices[i]);
  return good ? (int)count : -1;
}

bool graph_describe(cudnnBackendDescriptor_t config, char *text, size_t size) {
  struct knob knobs[MOST_KNOBS];
  int count = knobs_of(config, knobs);
  int64_t engine = engine_of(config);
  if (count < 0 || engine < 0) return false;
  size_t used = (size_t)snprintf(text, size, "engine %lld, knobs", (long long)engine);
  for (int i = 0; i < count && used < size; i++)
    used += (size_t)snprintf(text + used, size - used, " %d=%lld", (int)knobs[i].type, (long long)knobs[i].value);
  return used < size;
}

// From the text of graph_describe; 0 knobs are none, -1: it is no such text.
static int parse(const char *text, int64_t *engine, struct knob *knobs) {
  long long number, value;
  int used = 0, type, count = 0;
  if (sscanf(text, "engine %lld, knobs%n", &number, &used) != 1 || used == 0) return -1;
  *engine = number;
  for (text += used; *text; text += used) {
    if (count == MOST_KNOBS || sscanf(text, " %d=%lld%n", &type, &value, &used) != 2) return -1;
    knobs[count++] = (struct knob){(cudnnBackendKnobType_t)type, value};
  }
  return count;
}

ls_status graph_take_described(struct graph *g, const char *text, struct ls_error *err) {
  static const char what[] = "making an engine";
  struct knob knobs[MOST_KNOBS];
  cudnnBackendDescriptor_t choices[MOST_KNOBS];
  int64_t number = 0;
  int count = parse(text, &number, knobs);
  if (count < 0) return ls_fail(err, LS_CORRUPT, "'%s' is no choice of an engine", text);
  LS_TRY(graph_error(g, err));
  cudnnBackendDescriptor_t engine = new (g, CUDNN_BACKEND_ENGINE_DESCRIPTOR, what);
  set(g, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->graph, what);
  set(g, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &number, what);
  if (g->device) set(g, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->device, what);
  finalise(g, engine, what);
  for (int i = 0; i < count; i++) {
    choices[i] = new (g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, what);
    set(g, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &knobs[i].type, what);
    set(g, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &knobs[i].value, what);
    finalise(g, choices[i], what);
  }
  cudnnBackendDescriptor_t config = new (g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, what);
  set(g, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine, what);
  if (count) set(g, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, choices, what);
  finalise(g, config, what);
  LS_TRY(graph_error(g, err));
  if (graph_take(g, config)) return LS_OK;
  return ls_fail(err, g->no_memory ? LS_NO_MEMORY : LS_UNSUPPORTED, "cuDNN cannot make '%s' ready%s", text,
                 g->no_memory ? ", for want of memory" : "");
}

bool graph_take(struct graph *g, cudnnBackendDescriptor_t config) {
  cudnnBackendDescriptor_t plan = NULL;
  int64_t count = 0;
  cudnnStatus_t status = cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);
  if (status == CUDNN_STATUS_SUCCESS)
    status = g->device
                 ? cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                            1, &g->device)
                 : cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->handle);
  if (status == CUDNN_STATUS_SUCCESS)
    status = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                      &config);
  if (status == CUDNN_STATUS_SUCCESS) status = cudnnBackendFinalize(plan);
  if (status == CUDNN_STATUS_SUCCESS)
    status = cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                                      &g->workspace_bytes);
  if (status != CUDNN_STATUS_SUCCESS) {
    g->no_memory |= is_memory(status);
    if (plan) cudnnBackendDestroyDescriptor(plan);
    return false;
  }
  graph_drop_plan(g);
  g->plan = plan;
  g->engine = engine_of(config);
  return true;
}

bool graph_take_within(struct graph *g, cudnnBackendDescriptor_t config, const struct graph_rules *rules) {
  if (!graph_take(g, config)) return false;
  if (g->workspace_bytes <= rules->most_workspace_bytes) return true;
  graph_drop_plan(g);
  return false;
}

// What one kind of heuristics proposes, in its order.
static int ask_heuristics(struct graph *g, cudnnBackendHeurMode_t mode, cudnnBackendDescriptor_t *configs, int most) {
  cudnnBackendDescriptor_t heuristics = NULL;
  int64_t count = 0;
  int made = 0;
  bool good =
      cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristics) == CUDNN_STATUS_SUCCESS &&
      cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                               &g->graph) == CUDNN_STATUS_SUCCESS &&
      cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode) ==
          CUDNN_STATUS_SUCCESS &&
      (!g->device || cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
                                              CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->device) == CUDNN_STATUS_SUCCESS) &&
      cudnnBackendFinalize(heuristics) == CUDNN_STATUS_SUCCESS;
  while (good && made < most &&
         cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[made]) == CUDNN_STATUS_SUCCESS)
    made++;
  if (!good || cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, made,
                                        &count, configs) != CUDNN_STATUS_SUCCESS)
    count = 0;
  while (made > count) cudnnBackendDestroyDescriptor(configs[--made]);
  if (heuristics) cudnnBackendDestroyDescriptor(heuristics);
  return made;
}

static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK};
enum { MODES = sizeof modes / sizeof *modes };

int graph_candidates(struct graph *g, const struct graph_rules *rules, cudnnBackendDescriptor_t *configs, int most) {
  char described[MOST_CONFIGS][DESCRIPTION];
  int count = 0;
  if (g->status != CUDNN_STATUS_SUCCESS) return 0;
  if (most > MOST_CONFIGS) most = MOST_CONFIGS;
  for (int m = 0; m < MODES && count < most; m++) {
    cudnnBackendDescriptor_t proposed[MOST_CONFIGS];
    int proposals = ask_heuristics(g, modes[m], proposed, MOST_CONFIGS);
    for (int i = 0; i < proposals; i++) {
      bool good = count < most && allowed(proposed[i], rules) &&
                  graph_describe(proposed[i], described[count], sizeof described[count]);
      for (int j = 0; j < count && good; j++) good = strcmp(described[count], described[j]) != 0;
      if (good)
        configs[count++] = proposed[i];
      else
        cudnnBackendDestroyDescriptor(proposed[i]);
    }
  }
  return count;
}

void graph_spread(cudnnBackendDescriptor_t *configs, int count) {
  int64_t engine[MOST_CONFIGS];
  int rank[MOST_CONFIGS];  // how many before it have the same engine
  if (count > MOST_CONFIGS) return;
  for (int i = 0; i < count; i++) {
    engine[i] = engine_of(configs[i]);
    rank[i] = 0;
    for (int j = 0; j < i; j++) rank[i] += engine[j] == engine[i];
  }
  for (int i = 1; i < count; i++) {  // stable
    cudnnBackendDescriptor_t config = configs[i];
    int of = rank[i], j = i;
    for (; j > 0 && rank[j - 1] > of; j--) configs[j] = configs[j - 1], rank[j] = rank[j - 1];
    configs[j] = config;
    rank[j] = of;
  }
}

// Asks the heuristics of one mode only where those before had nothing.
ls_status graph_plan(struct graph *g, const struct graph_rules *rules, struct ls_error *err) {
  LS_TRY(graph_error(g, err));
  for (int m = 0; m < MODES && !g->plan; m++) {
    cudnnBackendDescriptor_t proposed[MOST_CONFIGS];
    int proposals = ask_heuristics(g, modes[m], proposed, MOST_CONFIGS);
    for (int i = 0; i < proposals; i++) {
      if (!g->plan && allowed(proposed[i], rules)) graph_take_within(g, proposed[i], rules);
      cudnnBackendDestroyDescriptor(proposed[i]);
    }
  }
  if (g->plan) return LS_OK;
  if (g->no_memory) return ls_fail(err, LS_NO_MEMORY, "there is no memory for an engine of cuDNN");
  return ls_fail(err, LS_UNSUPPORTED, "cuDNN has no engine for it%s%s", rules->deterministic ? ", deterministic" : "",
                 rules->no_tensor_core ? ", in full float32" : "");
}

ls_status graph_run(struct graph *g, int tensors, const int64_t *uids, void *const *pointers, void *workspace,
                    struct ls_error *err) {
  static const char what[] = "binding memory";
  size_t bytes = (size_t)tensors * sizeof *pointers;
  LS_TRY(graph_error(g, err));
  if (!g->pack || g->workspace != workspace || memcmp(g->pointers, pointers, bytes) != 0) {
    if (g->pack) cudnnBackendDestroyDescriptor(g->pack);
    g->pack = NULL;
    step(g, cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &g->pack), what);
    set(g, g->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, tensors, uids, what);
    set(g, g->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, tensors, pointers, what);
    set(g, g->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace, what);
    finalise(g, g->pack, what);
    memcpy(g->pointers, pointers, bytes);
    g->workspace = workspace;
  }
  if (g->status == CUDNN_STATUS_SUCCESS) step(g, cudnnBackendExecute(g->handle, g->plan, g->pack), "running");
  ls_status status = graph_error(g, err);
  if (status != LS_OK && g->pack) {
    cudnnBackendDestroyDescriptor(g->pack);
    g->pack = NULL;
  }
  g->status = CUDNN_STATUS_SUCCESS;  // what failed while a step was recorded may run directly
  return status;
}
