// The reference backend: every operation as the plainest loop over its definition, all in float64, row-major. It is the
// oracle of the tests (gradients by finite differences, values of the other backends) and shares no code with them, so a
// mistake has to be made twice to go unseen. Slow by intention.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference_internal.h"

struct context {
  struct ls_layout *layouts;  // interned
};

static ls_status devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  (void)err;
  *count = 1;
  if (capacity < 1) return LS_OK;
  memset(info, 0, sizeof *info);
  snprintf(info->name, sizeof info->name, "reference0");
  snprintf(info->description, sizeof info->description, "plain loops in float64");
  return LS_OK;
}

static ls_status open_context(int index, struct ls_backend *backend, struct ls_error *err) {
  if (index != 0) return ls_fail(err, LS_INVALID, "reference device %d: there is only device 0", index);
  backend->ops = ls_backend_reference();
  backend->state = calloc(1, sizeof(struct context));
  return backend->state ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for a reference context");
}

static void close_context(struct ls_backend *backend) {
  struct context *context = backend->state;
  if (!context) return;
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
  *memory = NULL;
  if (posix_memalign(memory, 64, bytes ? bytes : 64) == 0) return LS_OK;
  return ls_fail(err, LS_NO_MEMORY, "cannot allocate %zu bytes", bytes);
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

static bool layout_equal(const struct ls_layout *a, const struct ls_layout *b) {
  if (a == b) return true;
  return a && b && a->dtype == b->dtype && a->channels_last == b->channels_last && ls_shape_equal(&a->shape, &b->shape);
}

static const struct ls_layout *plain_layout(struct ls_backend *backend, enum ls_dtype dtype,
                                            const struct ls_shape *shape, bool channels_last) {
  struct context *context = backend->state;
  struct ls_layout *wanted = malloc(sizeof *wanted);
  if (!wanted) return NULL;
  *wanted = (struct ls_layout){dtype, *shape, channels_last && shape->rank == 4, context->layouts};
  for (struct ls_layout *l = context->layouts; l; l = l->next) {
    if (!layout_equal(l, wanted)) continue;
    free(wanted);
    return l;
  }
  return context->layouts = wanted;
}

static size_t layout_bytes(const struct ls_layout *layout) {
  return (size_t)ls_shape_elements(&layout->shape) * ls_dtype_bytes(layout->dtype);
}

static void layout_format(const struct ls_layout *layout, char *text, size_t size) {
  snprintf(text, size, "%s",
           !layout                   ? ""
           : layout->channels_last   ? "nhwc"
           : layout->shape.rank == 4 ? "nchw"
                                     : "plain");
}

static ls_status to_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *memory,
                              void *canonical, struct ls_error *err) {
  (void)backend;
  (void)err;
  struct ls_layout plain = {tensor->dtype, tensor->shape, false, NULL};
  reference_copy(tensor->layout, memory, &plain, canonical);
  return LS_OK;
}

static ls_status from_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *canonical,
                                void *memory, struct ls_error *err) {
  (void)backend;
  (void)err;
  struct ls_layout plain = {tensor->dtype, tensor->shape, false, NULL};
  reference_copy(&plain, canonical, tensor->layout, memory);
  return LS_OK;
}

// What must survive from forward to backward, in bytes.
static size_t workspace_of(const struct ls_op_desc *desc) {
  const struct ls_op_attributes *a = &desc->attributes;
  size_t output = (size_t)ls_shape_elements(&desc->tensor[desc->inputs].shape);
  if (desc->kind == LS_OP_POOL_FORWARD && a->pool == LS_POOL_MAX) return output * sizeof(int64_t);  // where
  if (desc->kind == LS_OP_BN_FORWARD_TRAIN && a->relu) return output;                               // mask
  return 0;
}

static bool can_work_in_place(enum ls_op_kind kind) {
  return kind == LS_OP_ADD || kind == LS_OP_RELU_FORWARD || kind == LS_OP_RELU_BACKWARD ||
         kind == LS_OP_BN_FORWARD_INFER || kind == LS_OP_DROPOUT_FORWARD || kind == LS_OP_DROPOUT_BACKWARD ||
         kind == LS_OP_SOFTMAX_CE_BACKWARD;
}

static ls_status prepare(struct ls_backend *backend, const struct ls_op_desc *desc, struct ls_op *op,
                         struct ls_error *err) {
  *op = (struct ls_op){.ops = backend->ops, .desc = *desc, .kernel = "reference"};
  if (desc->kind < 0 || desc->kind >= LS_OP_COUNT) {
    return ls_fail(err, LS_UNSUPPORTED, "the reference backend has no operation %d", (int)desc->kind);
  }
  for (int i = 0; i < desc->inputs + desc->outputs; i++) {
    struct ls_tensor_desc *t = &op->desc.tensor[i];
    if (desc->kind == LS_OP_REORDER && t->layout) continue;
    if (desc->kind != LS_OP_REORDER && t->dtype != LS_F64 && t->dtype != LS_I32 && t->dtype != LS_F32) {
      return ls_fail(err, LS_UNSUPPORTED, "the reference backend computes in float64, not in %s",
                     ls_dtype_name(t->dtype));
    }
    t->layout = plain_layout(backend, t->dtype, &t->shape, false);
    if (!t->layout) return ls_fail(err, LS_NO_MEMORY, "no memory for a layout");
  }
  bool values_are_f64 = desc->kind == LS_OP_REORDER || desc->tensor[0].dtype == LS_F64;
  if (!values_are_f64) {
    return ls_fail(err, LS_UNSUPPORTED, "the reference backend computes in float64, not in %s",
                   ls_dtype_name(desc->tensor[0].dtype));
  }
  op->workspace_bytes = workspace_of(desc);
  op->in_place = can_work_in_place(desc->kind);
  return LS_OK;
}

static void op_release(struct ls_backend *backend, struct ls_op *op) {
  (void)backend;
  op->state = NULL;
}

static ls_status run(struct ls_backend *backend, struct ls_op *op, struct ls_stream *stream,
                     const struct ls_op_args *args, struct ls_error *err) {
  (void)backend;
  (void)stream;
  return reference_run(op, args, err);
}

const struct ls_backend_ops *ls_backend_reference(void) {
  static const struct ls_backend_ops ops = {.name = "reference",
                                            .devices = devices,
                                            .open = open_context,
                                            .close = close_context,
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
                                            .run = run};
  return &ops;
}
