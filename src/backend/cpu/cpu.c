// The CPU backend: context, memory, layouts, dispatch. See backend.h for the contract.
//
// A device is a core. Every worker thread computes with one oneDNN (OpenMP) thread: parallelism comes from the shards, and
// a primitive's bits can change with its number of threads. Only inference with fewer workers than cores takes more
// (use_threads); its operations must then run on the thread that prepared them, whose setting OpenMP looks at. User scratchpads keep oneDNN from allocating while it runs.
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cpu/batch16.h"
#include "backend/cpu/cpu_internal.h"

enum { HUGE_PAGE = 2 << 20 };

ls_status cpu_dnnl_error(dnnl_status_t status, const char *what, struct ls_error *err) {
  if (status == dnnl_success) return LS_OK;
  static const char *const text[] = {"success",       "out of memory", "invalid arguments", "unimplemented",
                                     "iterator ends", "runtime error", "not required"};
  ls_status code = status == dnnl_out_of_memory   ? LS_NO_MEMORY
                   : status == dnnl_unimplemented ? LS_UNSUPPORTED
                                                  : LS_INTERNAL;
  return ls_fail(err, code, "oneDNN %s: %s", what, (unsigned)status < 7 ? text[status] : "unknown error");
}

static dnnl_data_type_t dnnl_type(enum ls_dtype dtype) {
  static const dnnl_data_type_t type[] = {dnnl_f32, dnnl_data_type_undef, dnnl_f16, dnnl_bf16, dnnl_u8, dnnl_s32};
  return type[dtype];
}

dnnl_memory_desc_t cpu_plain_md(enum ls_dtype dtype, const struct ls_shape *shape, bool channels_last) {
  dnnl_memory_desc_t md;
  dnnl_dims_t dims = {0}, strides = {0};
  int64_t step = 1;
  memcpy(dims, shape->dim, sizeof shape->dim);
  static const int last_order[] = {1, 3, 2, 0};  // from the innermost: C, W, H, N
  for (int i = 0; i < shape->rank; i++) {
    int axis = channels_last && shape->rank == 4 ? last_order[i] : shape->rank - 1 - i;
    strides[axis] = step;
    step *= shape->dim[axis];
  }
  memset(&md, 0, sizeof md);
  dnnl_memory_desc_init_by_strides(&md, shape->rank, dims, dnnl_type(dtype), strides);
  return md;
}

dnnl_memory_desc_t cpu_batch16_md(const struct ls_shape *shape) {
  dnnl_memory_desc_t md = cpu_plain_md(LS_F32, shape, false);
  md.format_desc.blocking.inner_nblks = 1;
  md.format_desc.blocking.inner_blks[0] = 16;
  md.format_desc.blocking.inner_idxs[0] = 0;
  for (int i = 0; i < shape->rank; i++) md.format_desc.blocking.strides[i] *= 16;
  return md;
}

bool cpu_is_batch16(const struct ls_layout *layout) {
  return layout && layout->md.format_desc.blocking.inner_nblks == 1 &&
         layout->md.format_desc.blocking.inner_idxs[0] == 0 && layout->md.format_desc.blocking.inner_blks[0] == 16;
}

dnnl_memory_desc_t cpu_any_md(const struct ls_tensor_desc *tensor) {
  dnnl_memory_desc_t md;
  dnnl_dims_t dims = {0};
  memcpy(dims, tensor->shape.dim, sizeof tensor->shape.dim);
  memset(&md, 0, sizeof md);
  dnnl_memory_desc_init_by_tag(&md, tensor->shape.rank, dims, dnnl_type(tensor->dtype), dnnl_format_tag_any);
  return md;
}

const struct ls_layout *cpu_layout(struct cpu_context *context, const dnnl_memory_desc_t *md) {
  for (struct ls_layout *l = context->layouts; l; l = l->next) {
    if (dnnl_memory_desc_equal(&l->md, md)) return l;
  }
  struct ls_layout *layout = malloc(sizeof *layout);
  if (!layout) return NULL;
  layout->md = *md;
  layout->next = context->layouts;
  return context->layouts = layout;
}

static int available_cores(cpu_set_t *set) {
  CPU_ZERO(set);
  if (sched_getaffinity(0, sizeof *set, set) != 0) return 1;
  return CPU_COUNT(set) > 0 ? CPU_COUNT(set) : 1;
}

static void processor_name(char *text, size_t size) {
  snprintf(text, size, "CPU core");
  FILE *file = fopen("/proc/cpuinfo", "re");
  if (!file) return;
  char line[256];
  while (fgets(line, sizeof line, file)) {
    char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
    if (!colon) continue;
    colon[strcspn(colon, "\n")] = 0;
    snprintf(text, size, "%s", colon + 2);
    break;
  }
  fclose(file);
}

static ls_status devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  (void)err;
  cpu_set_t set;
  *count = available_cores(&set);
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  for (int i = 0; i < *count && i < capacity; i++) {
    snprintf(info[i].name, sizeof info[i].name, "cpu%d", i);
    if (i == 0)
      processor_name(info[i].description, sizeof info[i].description);
    else
      memcpy(info[i].description, info[0].description, sizeof info[i].description);
    info[i].memory_bytes = (size_t)pages * (size_t)page;
  }
  return LS_OK;
}

static ls_status open_context(int index, struct ls_backend *backend, struct ls_error *err) {
  (void)index;
  struct cpu_context *context = calloc(1, sizeof *context);
  if (!context) return ls_fail(err, LS_NO_MEMORY, "no memory for a CPU context");
  omp_set_num_threads(1);  // of the calling thread; before any primitive descriptor is made
  ls_status status = cpu_dnnl_error(dnnl_engine_create(&context->engine, dnnl_cpu, 0), "engine", err);
  if (status == LS_OK) {
    status =
        cpu_dnnl_error(dnnl_stream_create(&context->stream, context->engine, dnnl_stream_default_flags), "stream", err);
  }
  backend->ops = ls_backend_cpu();
  backend->state = context;
  if (status != LS_OK) backend->ops->close(backend);
  return status;
}

// Binds the calling thread to the core that stands at `place` among those in `allowed`.
static void bind_to(const cpu_set_t *allowed, int place) {
  for (int core = 0, seen = 0; core < CPU_SETSIZE; core++) {
    if (!CPU_ISSET(core, allowed) || seen++ != place) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

// Bound, because the kernel starts OpenMP's threads on the core of the one that makes them, and may leave them there for
// seconds: then two threads are no faster than one. OpenMP keeps its threads from one parallel region to the next.
static void use_threads(struct ls_backend *backend, int first, int threads) {
  (void)backend;
  cpu_set_t allowed;
  int cores = available_cores(&allowed);
  omp_set_num_threads(threads);
  if (first + threads > cores) return;
#pragma omp parallel num_threads(threads)
  bind_to(&allowed, first + omp_get_thread_num());
}

static void close_context(struct ls_backend *backend) {
  struct cpu_context *context = backend->state;
  if (!context) return;
  if (context->stream) dnnl_stream_destroy(context->stream);
  if (context->engine) dnnl_engine_destroy(context->engine);
  for (struct ls_layout *l = context->layouts, *next; l; l = next) {
    next = l->next;
    free(l);
  }
  free(context);
  backend->state = NULL;
}

static ls_status allocate(struct ls_backend *backend, enum ls_memory kind, size_t bytes, void **memory,
                          struct ls_error *err) {
  (void)backend;
  (void)kind;
  bool huge = bytes >= 2 * (size_t)HUGE_PAGE;
  *memory = NULL;
  if (posix_memalign(memory, huge ? HUGE_PAGE : 64, bytes ? bytes : 64) != 0) {
    return ls_fail(err, LS_NO_MEMORY, "cannot allocate %.1f MiB of memory", (double)bytes / 1048576);
  }
  if (huge) madvise(*memory, bytes, MADV_HUGEPAGE);
  return LS_OK;
}

static void release(struct ls_backend *backend, enum ls_memory kind, void *memory, size_t bytes) {
  (void)backend;
  (void)kind;
  (void)bytes;
  free(memory);
}

static ls_status copy(struct ls_backend *backend, struct ls_stream *stream, void *to, const void *from, size_t bytes,
                      struct ls_error *err) {
  (void)backend;
  (void)stream;
  (void)err;
  memcpy(to, from, bytes);
  return LS_OK;
}

// Streams and events: work is done when the call returns.
static ls_status stream_new(struct ls_backend *backend, struct ls_stream **stream, struct ls_error *err) {
  (void)backend;
  (void)err;
  *stream = NULL;
  return LS_OK;
}
static void stream_free(struct ls_backend *backend, struct ls_stream *stream) {
  (void)backend;
  (void)stream;
}
static ls_status stream_wait_idle(struct ls_backend *backend, struct ls_stream *stream, struct ls_error *err) {
  (void)backend;
  (void)stream;
  (void)err;
  return LS_OK;
}
static ls_status event_new(struct ls_backend *backend, struct ls_event **event, struct ls_error *err) {
  (void)backend;
  (void)err;
  *event = NULL;
  return LS_OK;
}
static void event_free(struct ls_backend *backend, struct ls_event *event) {
  (void)backend;
  (void)event;
}
static ls_status event_record(struct ls_backend *backend, struct ls_event *event, struct ls_stream *stream,
                              struct ls_error *err) {
  (void)event;
  return stream_wait_idle(backend, stream, err);
}
static ls_status stream_wait_event(struct ls_backend *backend, struct ls_stream *stream, struct ls_event *event,
                                   struct ls_error *err) {
  (void)event;
  return stream_wait_idle(backend, stream, err);
}

static const struct ls_layout *plain_layout(struct ls_backend *backend, enum ls_dtype dtype,
                                            const struct ls_shape *shape, bool channels_last) {
  dnnl_memory_desc_t md = cpu_plain_md(dtype, shape, channels_last);
  return cpu_layout(backend->state, &md);
}

static bool layout_equal(const struct ls_layout *a, const struct ls_layout *b) {
  return a == b || (a && b && dnnl_memory_desc_equal(&a->md, &b->md));
}

static size_t layout_bytes(const struct ls_layout *layout) { return dnnl_memory_desc_get_size(&layout->md); }

// "nchw", "nhwc", "nChw16c", "16n" after oneDNN's habit: capital letters are blocked axes.
static void layout_format(const struct ls_layout *layout, char *text, size_t size) {
  if (size == 0) return;
  text[0] = 0;
  if (!layout) return;
  const dnnl_memory_desc_t *md = &layout->md;
  const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
  const char *names = md->ndims == 1 ? "c" : md->ndims == 2 ? "nc" : md->ndims == 4 ? "nchw" : "goihw";
  int order[DNNL_MAX_NDIMS];
  for (int i = 0; i < md->ndims; i++) {
    int at = i;
    for (; at > 0 && b->strides[order[at - 1]] < b->strides[i]; at--) order[at] = order[at - 1];
    order[at] = i;
  }
  size_t used = 0;
  for (int i = 0; i < md->ndims && used + 1 < size; i++) {
    char c = names[order[i]];
    for (int j = 0; j < b->inner_nblks; j++) {
      if (b->inner_idxs[j] == order[i]) c = (char)(names[order[i]] - 'a' + 'A');
    }
    text[used++] = c;
    text[used] = 0;
  }
  for (int j = 0; j < b->inner_nblks && used < size; j++) {
    used += (size_t)snprintf(text + used, size - used, "%d%c", (int)b->inner_blks[j], names[b->inner_idxs[j]]);
  }
}

// One reorder between two descriptors, outside the step.
static ls_status reorder_once(struct cpu_context *context, const dnnl_memory_desc_t *from_md, const void *from,
                              const dnnl_memory_desc_t *to_md, void *to, struct ls_error *err) {
  dnnl_memory_t source = NULL, target = NULL;
  dnnl_primitive_desc_t pd = NULL;
  dnnl_primitive_t reorder = NULL;
  dnnl_status_t status = dnnl_memory_create(&source, from_md, context->engine, (void *)(uintptr_t)from);
  if (status == dnnl_success) status = dnnl_memory_create(&target, to_md, context->engine, to);
  if (status == dnnl_success) {
    status = dnnl_reorder_primitive_desc_create(&pd, from_md, context->engine, to_md, context->engine, NULL);
  }
  if (status == dnnl_success) status = dnnl_primitive_create(&reorder, pd);
  if (status == dnnl_success) {
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, target}};
    status = dnnl_primitive_execute(reorder, context->stream, 2, args);
  }
  if (reorder) dnnl_primitive_destroy(reorder);
  if (pd) dnnl_primitive_desc_destroy(pd);
  if (target) dnnl_memory_destroy(target);
  if (source) dnnl_memory_destroy(source);
  return cpu_dnnl_error(status, "reorder", err);
}

static ls_status to_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *memory,
                              void *canonical, struct ls_error *err) {
  dnnl_memory_desc_t plain = cpu_plain_md(tensor->dtype, &tensor->shape, false);
  return reorder_once(backend->state, &tensor->layout->md, memory, &plain, canonical, err);
}

static ls_status from_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *canonical,
                                void *memory, struct ls_error *err) {
  dnnl_memory_desc_t plain = cpu_plain_md(tensor->dtype, &tensor->shape, false);
  memset(memory, 0, layout_bytes(tensor->layout));  // padding is zero
  return reorder_once(backend->state, &plain, canonical, &tensor->layout->md, memory, err);
}

static void op_release(struct ls_backend *backend, struct ls_op *op) {
  (void)backend;
  struct cpu_op *state = op->state;
  if (state) state->release(state);
  op->state = NULL;
}

static ls_status prepare(struct ls_backend *backend, const struct ls_op_desc *desc, struct ls_op *op,
                         struct ls_error *err) {
  *op = (struct ls_op){.ops = backend->ops, .desc = *desc};
  for (int i = 0; i < desc->inputs + desc->outputs; i++) {
    if (desc->tensor[i].dtype == LS_F32 || desc->tensor[i].dtype == LS_I32 || desc->tensor[i].dtype == LS_U8) continue;
    return ls_fail(err, LS_UNSUPPORTED, "the CPU backend computes in float32, not in %s",
                   ls_dtype_name(desc->tensor[i].dtype));
  }
  ls_status status = desc->kind == LS_OP_BN_FOLD ? cpu_fold_prepare(backend->state, op, err)
                                                 : cpu_batch16_prepare(backend->state, op, err);
  if (status == LS_UNSUPPORTED && desc->kind != LS_OP_BN_FOLD) status = cpu_loops_prepare(backend->state, op, err);
  if (status == LS_UNSUPPORTED && desc->kind != LS_OP_BN_FOLD) status = cpu_dnnl_prepare(backend->state, op, err);
  if (status != LS_OK) op_release(backend, op);
  return status;
}

static ls_status run(struct ls_backend *backend, struct ls_op *op, struct ls_stream *stream,
                     const struct ls_op_args *args, struct ls_error *err) {
  (void)stream;
  return ((struct cpu_op *)op->state)->run(backend->state, op, args, err);
}

static void outer_sum(int64_t n, int64_t rows, int64_t columns, const float *dy, int64_t dy_stride, const float *x,
                      int64_t x_stride, float *out) {
  const struct ls_b16_kernels *kernels = ls_b16_kernels();
  if (kernels) {
    kernels->outer_sum(n, rows, columns, dy, dy_stride, x, x_stride, out);
    return;
  }
  memset(out, 0, (size_t)(rows * columns) * sizeof *out);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < columns; c++) out[r * columns + c] += dy[i * dy_stride + r] * x[i * x_stride + c];
    }
  }
}

const struct ls_backend_ops *ls_backend_cpu(void) {
  static const struct ls_backend_ops ops = {.name = "cpu",
                                            .folds = true,
                                            .relu_sums = true,
                                            .devices = devices,
                                            .open = open_context,
                                            .close = close_context,
                                            .use_threads = use_threads,
                                            .allocate = allocate,
                                            .release = release,
                                            .upload = copy,
                                            .download = copy,
                                            .stream_new = stream_new,
                                            .stream_free = stream_free,
                                            .stream_wait_idle = stream_wait_idle,
                                            .event_new = event_new,
                                            .event_free = event_free,
                                            .event_record = event_record,
                                            .stream_wait_event = stream_wait_event,
                                            .plain_layout = plain_layout,
                                            .layout_equal = layout_equal,
                                            .layout_bytes = layout_bytes,
                                            .layout_format = layout_format,
                                            .to_canonical = to_canonical,
                                            .from_canonical = from_canonical,
                                            .prepare = prepare,
                                            .op_release = op_release,
                                            .outer_sum = outer_sum,
                                            .run = run};
  return &ops;
}
