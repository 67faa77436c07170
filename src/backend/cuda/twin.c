// The CUDA backend's twin on the host, for tests: the same layouts, lowering and kernel bodies as on the device, each kernel
// as a loop over its indices, convolutions as plain loops. Work is done at once, or recorded and done later, as on a device.
// Slow by intention. See cuda_internal.h.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"

enum { LARGEST_ARGUMENTS = 2048 };

// One piece of work; a recording is a list of them.
struct work {
  enum { WORK_KERNEL, WORK_ZERO, WORK_PRODUCT } kind;
  enum ls_kernel kernel;
  int64_t n;  // indices; bytes
  void *memory;
  struct cuda_product *product;
  struct cuda_product_args args;
  _Alignas(16) char arguments[LARGEST_ARGUMENTS];
};

struct ls_recording {
  struct work *work;
  int count, capacity;
};

struct twin_context {
  struct cuda_context base;        // first
  struct ls_recording *recording;  // under way; NULL: work is done at once
};

static void run_kernel(enum ls_kernel kernel, const void *arguments, int64_t n) {
  switch (kernel) {
#define LOOP(name, type)                                                        \
  case LS_KERNEL_##name:                                                        \
    for (int64_t i = 0; i < n; i++) ls_body_##name((const type *)arguments, i); \
    break;
    LS_KERNELS(LOOP)
    LS_LANE_KERNELS(LOOP)
    LS_BLOCK_KERNELS(LOOP)
#undef LOOP
    default: break;
  }
}

static size_t argument_bytes(enum ls_kernel kernel) {
  static const size_t bytes[] = {
#define BYTES(name, type) [LS_KERNEL_##name] = sizeof(type),
      LS_KERNELS(BYTES) LS_LANE_KERNELS(BYTES) LS_BLOCK_KERNELS(BYTES)
#undef BYTES
  };
  return bytes[kernel];
}

static ls_status run_product(struct cuda_product *product, const struct cuda_product_args *args, struct ls_error *err);

static ls_status run_work(const struct work *work, struct ls_error *err) {
  switch (work->kind) {
    case WORK_KERNEL: run_kernel(work->kernel, work->arguments, work->n); return LS_OK;
    case WORK_ZERO: memset(work->memory, 0, (size_t)work->n); return LS_OK;
    default: return run_product(work->product, &work->args, err);
  }
}

// Does it, or records it.
static ls_status take(struct cuda_context *context, const struct work *work, struct ls_error *err) {
  struct ls_recording *r = ((struct twin_context *)context)->recording;
  if (!r) return run_work(work, err);
  if (r->count == r->capacity) {
    int capacity = r->capacity ? 2 * r->capacity : 64;
    void *grown = realloc(r->work, (size_t)capacity * sizeof *r->work);
    if (!grown) return ls_fail(err, LS_NO_MEMORY, "no memory for a recording");
    r->work = grown;
    r->capacity = capacity;
  }
  r->work[r->count++] = *work;
  return LS_OK;
}

static ls_status launch(struct cuda_context *context, struct ls_stream *stream, enum ls_kernel kernel,
                        const void *arguments, int64_t n, struct ls_error *err) {
  (void)stream;
  if (kernel >= LS_KERNEL_COUNT || argument_bytes(kernel) > LARGEST_ARGUMENTS)
    return ls_fail(err, LS_INTERNAL, "there is no kernel %d", (int)kernel);
  struct work work = {.kind = WORK_KERNEL, .kernel = kernel, .n = n};
  memcpy(work.arguments, arguments, argument_bytes(kernel));
  return take(context, &work, err);
}

static ls_status zero(struct cuda_context *context, struct ls_stream *stream, void *memory, size_t bytes,
                      struct ls_error *err) {
  (void)stream;
  return take(context, &(struct work){.kind = WORK_ZERO, .n = (int64_t)bytes, .memory = memory}, err);
}

struct cuda_product {
  struct cuda_convolution of;
};

// As cuDNN's (device/cudnn_product.c): the statistics of float16 alone, eight channels at a time.
static bool can_sum(const struct cuda_convolution *c) {
  return c->dtype == LS_F16 && c->c % 8 == 0 && c->k % 8 == 0 && c->groups == 1;
}

// There is nothing to choose from; asking tests the way of a choice.
static ls_status choose_loop(void *user, char *choice, struct ls_error *err) {
  (void)user;
  (void)err;
  snprintf(choice, LS_CHOICE_BYTES, "loop");
  return LS_OK;
}

static ls_status product_new(struct cuda_context *context, const struct cuda_convolution *convolution,
                             struct cuda_product **product, size_t *scratch_bytes, bool *fused, const char **kernel,
                             struct ls_error *err) {
  char key[512], choice[LS_CHOICE_BYTES];
  if (convolution->statistics && !can_sum(convolution))
    return ls_fail(err, LS_UNSUPPORTED, "the statistics of such a convolution are not summed");
  cuda_convolution_key(convolution, "twin", false, context->fast, key, sizeof key);
  if (context->choices) LS_TRY(ls_choices_get(context->choices, key, choose_loop, NULL, choice, err));
  *product = malloc(sizeof **product);
  if (!*product) return ls_fail(err, LS_NO_MEMORY, "no memory for a convolution");
  (*product)->of = *convolution;
  *scratch_bytes = 0;
  *fused = false;  // so that the kernel behind it is tested
  *kernel = convolution->statistics ? "loop + statistics" : "loop";
  return LS_OK;
}

// Of the planner: what the library may take at the most.
static ls_status product_plan(struct cuda_context *context, const struct cuda_convolution *convolution,
                              struct cuda_product **product, size_t *scratch_bytes, bool *fused, const char **kernel,
                              struct ls_error *err) {
  LS_TRY(product_new(context, convolution, product, scratch_bytes, fused, kernel, err));
  *scratch_bytes = cuda_workspace_limit(convolution);
  return LS_OK;
}

static void product_free(struct cuda_product *product) { free(product); }

// Where tap r of window p lies on axis `i`.
static int64_t tap(const struct cuda_convolution *c, int i, int64_t p, int64_t r) {
  return p * c->stride[i] + r * c->dilation[i] - c->before[i];
}

// An input of a product; with TF32, rounded to its 10 bits of fraction.
static float input_of(const struct cuda_convolution *c, const void *memory, int64_t i) {
  float v = ls_get(memory, c->dtype, i);
  if (c->dtype != LS_F32 || !c->tf32 || !isfinite(v)) return v;
  return ls_float_of_bits((ls_float_bits(v) + 0x1000) & 0xffffe000);
}

// One product x * w of an element of y: added to it, or to dx, or to dw. All in float64 (`sums`).
static void add_product(const struct cuda_convolution *c, const struct cuda_product_args *t, const int64_t y[4],
                        const int64_t tap_at[3], double *sums) {
  int64_t row = tap(c, 0, y[1], tap_at[0]), column = tap(c, 1, y[2], tap_at[1]), per_group = c->c / c->groups;
  if (row < 0 || row >= c->h || column < 0 || column >= c->w) return;
  int64_t x_at = ((y[0] * c->h + row) * c->w + column) * c->c + y[3] / (c->k / c->groups) * per_group + tap_at[2];
  int64_t w_at = ((y[3] * c->r + tap_at[0]) * c->s + tap_at[1]) * per_group + tap_at[2];
  int64_t y_at = ((y[0] * c->p + y[1]) * c->q + y[2]) * c->k + y[3];
  float xv = c->direction == CUDA_BACKWARD_DATA ? 0 : input_of(c, t->x, x_at);
  float wv = c->direction == CUDA_BACKWARD_WEIGHTS ? 0 : input_of(c, t->w, w_at);
  float yv = c->direction == CUDA_FORWARD ? 0 : input_of(c, t->y, y_at);
  if (c->direction == CUDA_FORWARD) sums[y_at] += (double)xv * (double)wv;
  if (c->direction == CUDA_BACKWARD_DATA) sums[x_at] += (double)yv * (double)wv;
  if (c->direction == CUDA_BACKWARD_WEIGHTS) sums[w_at] += (double)xv * (double)yv;
}

static void add_window(const struct cuda_convolution *c, const struct cuda_product_args *t, int64_t at, double *sums) {
  int64_t y[4] = {at / c->k / c->q / c->p, at / c->k / c->q % c->p, at / c->k % c->q, at % c->k};
  for (int64_t r = 0; r < c->r; r++) {
    for (int64_t s = 0; s < c->s; s++) {
      for (int64_t i = 0; i < c->c / c->groups; i++) add_product(c, t, y, (int64_t[]){r, s, i}, sums);
    }
  }
}

// The sums of y's channels, as on the device: float32, by tiles of rows.
static void sum_channel(const struct cuda_convolution *c, const struct cuda_product_args *t, int64_t channel) {
  enum { TILE = 256 };
  float sum = 0, squares = 0;
  int64_t rows = c->n * c->p * c->q;
  for (int64_t first = 0; first < rows; first += TILE) {
    float tile_sum = 0, tile_squares = 0;
    for (int64_t row = first; row < first + TILE && row < rows; row++) {
      float y = ls_get(t->y, c->dtype, row * c->k + channel);
      tile_sum += y;
      tile_squares += y * y;
    }
    sum += tile_sum;
    squares += tile_squares;
  }
  t->sum[channel] = sum;
  t->squares[channel] = squares;
}

static ls_status run_product(struct cuda_product *product, const struct cuda_product_args *t, struct ls_error *err) {
  const struct cuda_convolution *c = &product->of;
  int64_t x = c->n * c->h * c->w * c->c, w = c->k * c->r * c->s * (c->c / c->groups), y = c->n * c->p * c->q * c->k;
  int64_t values = c->direction == CUDA_FORWARD ? y : c->direction == CUDA_BACKWARD_DATA ? x : w;
  void *out = c->direction == CUDA_FORWARD ? t->y : c->direction == CUDA_BACKWARD_DATA ? t->x : t->w;
  double *sums = calloc((size_t)values, sizeof *sums);
  if (!sums) return ls_fail(err, LS_NO_MEMORY, "no memory for a convolution");
  for (int64_t i = 0; i < y; i++) add_window(c, t, i, sums);
  for (int64_t i = 0; i < values; i++) ls_put(out, c->dtype, i, (float)sums[i]);
  free(sums);
  for (int64_t i = 0; c->statistics && i < c->k; i++) sum_channel(c, t, i);
  return LS_OK;
}

static ls_status product_run(struct cuda_context *context, struct ls_stream *stream, struct cuda_product *product,
                             const struct cuda_product_args *args, struct ls_error *err) {
  (void)stream;
  return take(context, &(struct work){.kind = WORK_PRODUCT, .product = product, .args = *args}, err);
}

static const struct cuda_machine host = {.launch = launch,
                                         .zero = zero,
                                         .product_new = product_new,
                                         .product_free = product_free,
                                         .product_run = product_run};

static const struct cuda_machine planner = {.launch = launch,
                                            .zero = zero,
                                            .product_new = product_plan,
                                            .product_free = product_free,
                                            .product_run = product_run};

// ---- the backend around it: memory is the host's, work is done when the call returns

enum { TWIN_DEVICES = 8 };

static ls_status devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  (void)err;
  *count = TWIN_DEVICES;
  for (int i = 0; i < capacity && i < TWIN_DEVICES; i++) {
    info[i] = (struct ls_device_info){.description = "the CUDA backend's kernels on the host"};
    snprintf(info[i].name, sizeof info[i].name, "twin%d", i);
  }
  return LS_OK;
}

static ls_status copy(struct ls_backend *backend, struct ls_stream *stream, void *to, const void *from, size_t bytes,
                      struct ls_error *err) {
  (void)backend;
  (void)stream;
  (void)err;
  memcpy(to, from, bytes);
  return LS_OK;
}

static ls_status reach(struct ls_backend *backend, int index, struct ls_error *err) {
  (void)backend;
  (void)index;
  (void)err;
  return LS_OK;
}

static ls_status record_begin(struct ls_backend *backend, struct ls_error *err) {
  struct twin_context *context = backend->state;
  context->recording = calloc(1, sizeof *context->recording);
  return context->recording ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for a recording");
}

static ls_status record_end(struct ls_backend *backend, struct ls_recording **recording, struct ls_error *err) {
  (void)err;
  struct twin_context *context = backend->state;
  *recording = context->recording;
  context->recording = NULL;
  return LS_OK;
}

static ls_status replay(struct ls_backend *backend, struct ls_recording *recording, struct ls_error *err) {
  (void)backend;
  for (int i = 0; i < recording->count; i++) LS_TRY(run_work(&recording->work[i], err));
  return LS_OK;
}

static void recording_free(struct ls_recording *recording) {
  if (recording) free(recording->work);
  free(recording);
}

static const struct ls_device_ops device_ops = {.choose_by = cuda_choose_by,
                                                .update = cuda_update,
                                                .tree_sum = cuda_tree_sum,
                                                .check_finite = cuda_check_finite,
                                                .input = cuda_input,
                                                .zero = cuda_zero,
                                                .copy = copy,
                                                .reach = reach,
                                                .record_begin = record_begin,
                                                .record_end = record_end,
                                                .replay = replay,
                                                .recording_free = recording_free};

static ls_status open_context(int index, struct ls_backend *backend, struct ls_error *err) {
  (void)index;
  struct twin_context *context = calloc(1, sizeof *context);
  backend->ops = ls_backend_cuda_twin();
  backend->state = context;
  if (!context) return ls_fail(err, LS_NO_MEMORY, "no memory for a context");
  context->base.machine = &host;
  return LS_OK;
}

static ls_status open_planner(int index, struct ls_backend *backend, struct ls_error *err) {
  LS_TRY(open_context(index, backend, err));
  struct cuda_context *context = backend->state;
  backend->ops = ls_backend_cuda_planner();
  context->machine = &planner;
  return LS_OK;
}

static void close_context(struct ls_backend *backend) {
  if (!backend->state) return;
  cuda_layouts_free(backend->state);
  free(backend->state);
  backend->state = NULL;
}

static ls_status to_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *memory,
                              void *canonical, struct ls_error *err) {
  (void)backend;
  (void)err;
  cuda_to_canonical(tensor->layout, memory, canonical);
  return LS_OK;
}

static ls_status from_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *canonical,
                                void *memory, struct ls_error *err) {
  (void)backend;
  (void)err;
  cuda_from_canonical(tensor->layout, canonical, memory);
  return LS_OK;
}

static struct ls_backend_ops ops, planner_ops;

static void make_ops(void) {
  ops = *ls_backend_reference();  // whose memory is the host's too
  ops.name = "cuda twin";
  ops.folds = true;
  ops.relu_sums = true;
  ops.norm_adds = true;
  ops.conv_statistics = true;
  ops.device = &device_ops;
  ops.devices = devices;
  ops.open = open_context;
  ops.close = close_context;
  ops.plain_layout = cuda_plain_layout;
  ops.input_layout = cuda_input_layout;
  ops.layout_equal = cuda_layout_equal;
  ops.layout_bytes = cuda_layout_bytes;
  ops.layout_format = cuda_layout_format;
  ops.to_canonical = to_canonical;
  ops.from_canonical = from_canonical;
  ops.prepare = cuda_prepare;
  ops.op_release = cuda_op_release;
  ops.run = cuda_run;
  planner_ops = ops;
  planner_ops.name = "cuda planner";
  planner_ops.open = open_planner;
}

static pthread_once_t ops_once = PTHREAD_ONCE_INIT;

const struct ls_backend_ops *ls_backend_cuda_twin(void) {
  pthread_once(&ops_once, make_ops);
  return &ops;
}

const struct ls_backend_ops *ls_backend_cuda_planner(void) {
  pthread_once(&ops_once, make_ops);
  return &planner_ops;
}
