// The twin of the CUDA backend with streams and events that count: all that is enqueued on it is told to clocks.h, with what
// it reads and writes. Recordings are lists of such work, told again whenever they are started. Faults can be ordered: work
// is then done as before, but the checker sees it in an order that is wrong.
#ifndef LS_TESTS_RACES_WATCHED_H
#define LS_TESTS_RACES_WATCHED_H

#include "races/clocks.h"
#include "support/wire.h"

enum fault {
  FAULT_NONE,
  FAULT_NO_OWN_WAIT,     // the communication stream does not wait for its device's own gradients
  FAULT_NO_OTHERS_WAIT,  // ... nor for the others'
  FAULT_EARLY_EVENT,     // events are where the one before them was
  FAULT_NO_CONSUMED,     // uploads do not wait for the input kernel
  FAULT_NO_END,          // the host goes on before the end of the step
  FAULT_NO_BARRIER,      // ... and before the others' end
  FAULT_EARLY_CUT,       // the backward pass is cut an operation too early
  FAULTS
};
static enum fault fault;

struct ls_stream {
  int actor;
  int home;  // actor of its context's compute stream
  bool copies;
};

struct ls_event {
  clock_of clock;
  int actor;
};

enum { CONTEXTS = 16, WORK_ACCESSES = 24, RECORDINGS = 64 };

struct work_item {
  const char *what;
  int count;
  struct access accesses[WORK_ACCESSES];
};

struct work_list {
  const struct ls_recording *of;
  struct work_item *items;
  int count, capacity;
};

static struct {
  pthread_mutex_t lock;
  struct {
    const void *state;
    struct ls_stream compute;
    int streams;
  } context[CONTEXTS];
  int contexts;
  struct work_list recording[RECORDINGS];
  int recordings;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct work_list *under_way;  // what this thread records

static struct ls_backend_ops watched;
static struct ls_device_ops watched_device;
static const struct ls_backend_ops *twin;

static struct ls_stream *stream_of(const struct ls_backend *backend, struct ls_stream *stream) {
  if (stream) return stream;
  pthread_mutex_lock(&seen.lock);
  struct ls_stream *found = NULL;
  for (int i = 0; i < seen.contexts; i++) {
    if (seen.context[i].state == backend->state) found = &seen.context[i].compute;
  }
  pthread_mutex_unlock(&seen.lock);
  assert_non_null(found);
  return found;
}

static void tell(struct ls_backend *backend, struct ls_stream *stream, const struct work_item *item) {
  struct ls_stream *on = stream_of(backend, stream);
  if (!under_way || on->actor != on->home) {
    do_work(on->actor, item->what, item->accesses, item->count);
    return;
  }
  if (under_way->count == under_way->capacity) {
    under_way->capacity = under_way->capacity * 2 + 64;
    under_way->items = realloc(under_way->items, (size_t)under_way->capacity * sizeof *item);
    assert_non_null(under_way->items);
  }
  under_way->items[under_way->count++] = *item;
}

static void add(struct work_item *item, const void *at, size_t bytes, bool write) {
  assert_true(item->count < WORK_ACCESSES);
  item->accesses[item->count++] = (struct access){at, bytes, write};
}

// --- contexts, memory, streams, events

static ls_status open_watched(int index, struct ls_backend *backend, struct ls_error *err) {
  ls_status status = twin->open(index, backend, err);
  backend->ops = &watched;
  opened = index;
  int actor = new_actor("compute", index);
  pthread_mutex_lock(&seen.lock);
  assert_true(seen.contexts < CONTEXTS);
  seen.context[seen.contexts].state = backend->state;
  seen.context[seen.contexts].streams = 0;
  seen.context[seen.contexts++].compute = (struct ls_stream){actor, actor, false};
  pthread_mutex_unlock(&seen.lock);
  return status;
}

static ls_status watched_allocate(struct ls_backend *backend, enum ls_memory kind, size_t bytes, void **memory,
                                  struct ls_error *err) {
  LS_TRY(twin->allocate(backend, kind, bytes, memory, err));
  add_block(*memory, bytes);
  return LS_OK;
}

static void watched_release(struct ls_backend *backend, enum ls_memory kind, void *memory, size_t bytes) {
  if (memory) remove_block(memory);
  twin->release(backend, kind, memory, bytes);
}

// A context's first stream copies; the second communicates.
static ls_status watched_stream_new(struct ls_backend *backend, struct ls_stream **stream, struct ls_error *err) {
  (void)err;
  const struct ls_stream *home = stream_of(backend, NULL);
  *stream = malloc(sizeof **stream);
  assert_non_null(*stream);
  bool first = false;
  pthread_mutex_lock(&seen.lock);
  for (int i = 0; i < seen.contexts; i++) {
    if (seen.context[i].state == backend->state) first = seen.context[i].streams++ == 0;
  }
  pthread_mutex_unlock(&seen.lock);
  **stream = (struct ls_stream){new_actor(first ? "copy" : "communication", home->actor), home->actor, first};
  return LS_OK;
}

static void watched_stream_free(struct ls_backend *backend, struct ls_stream *stream) {
  (void)backend;
  free(stream);
}

static ls_status watched_event_new(struct ls_backend *backend, struct ls_event **event, struct ls_error *err) {
  (void)backend, (void)err;
  *event = calloc(1, sizeof **event);
  assert_non_null(*event);
  return LS_OK;
}

static void watched_event_free(struct ls_backend *backend, struct ls_event *event) {
  (void)backend;
  free(event);
}

static ls_status watched_event_record(struct ls_backend *backend, struct ls_event *event, struct ls_stream *stream,
                                      struct ls_error *err) {
  (void)err;
  static _Thread_local clock_of last;  // of this thread's compute stream
  static _Thread_local unsigned epoch = UINT32_MAX;
  const struct ls_stream *on = stream_of(backend, stream);
  pthread_mutex_lock(&order.lock);
  if (epoch != order.epoch) memset(last, 0, sizeof last);
  epoch = order.epoch;
  join(order.now[on->actor], host_clock());
  bool early = fault == FAULT_EARLY_EVENT && on->actor == on->home;
  memcpy(event->clock, early ? last : order.now[on->actor], sizeof event->clock);
  if (on->actor == on->home) memcpy(last, order.now[on->actor], sizeof last);
  event->actor = on->actor;
  pthread_mutex_unlock(&order.lock);
  return LS_OK;
}

static bool forgets(const struct ls_stream *on, const struct ls_event *event) {
  if (on->copies) return fault == FAULT_NO_CONSUMED;
  if (on->actor == on->home) return false;
  return fault == (event->actor == on->home ? FAULT_NO_OWN_WAIT : FAULT_NO_OTHERS_WAIT);
}

static ls_status watched_wait_event(struct ls_backend *backend, struct ls_stream *stream, struct ls_event *event,
                                    struct ls_error *err) {
  (void)err;
  const struct ls_stream *on = stream_of(backend, stream);
  pthread_mutex_lock(&order.lock);
  if (!forgets(on, event)) join(order.now[on->actor], event->clock);
  pthread_mutex_unlock(&order.lock);
  return LS_OK;
}

static ls_status watched_wait_idle(struct ls_backend *backend, struct ls_stream *stream, struct ls_error *err) {
  (void)err;
  const struct ls_stream *on = stream_of(backend, stream);
  pthread_mutex_lock(&order.lock);
  join(host_clock(), order.now[on->actor]);
  pthread_mutex_unlock(&order.lock);
  return LS_OK;
}

static ls_status watched_event_done(struct ls_backend *backend, struct ls_event *event, bool *done,
                                    struct ls_error *err) {
  (void)backend, (void)err;
  pthread_mutex_lock(&order.lock);
  if (fault != FAULT_NO_END) join(host_clock(), event->clock);
  pthread_mutex_unlock(&order.lock);
  *done = true;
  return LS_OK;
}

// --- work

static ls_status watched_upload(struct ls_backend *backend, struct ls_stream *stream, void *device, const void *host,
                                size_t bytes, struct ls_error *err) {
  struct work_item item = {.what = "upload"};
  add(&item, host, bytes, false);
  add(&item, device, bytes, true);
  tell(backend, stream, &item);
  return twin->upload(backend, stream, device, host, bytes, err);
}

static ls_status watched_download(struct ls_backend *backend, struct ls_stream *stream, void *host, const void *device,
                                  size_t bytes, struct ls_error *err) {
  struct work_item item = {.what = "download"};
  add(&item, device, bytes, false);
  add(&item, host, bytes, true);
  tell(backend, stream, &item);
  return twin->download(backend, stream, host, device, bytes, err);
}

static ls_status watched_run(struct ls_backend *backend, struct ls_op *op, struct ls_stream *stream,
                             const struct ls_op_args *args, struct ls_error *err) {
  struct work_item item = {.what = op->desc.layer_name};
  for (int i = 0; i < op->desc.inputs + op->desc.outputs; i++) {
    const struct ls_tensor_desc *t = &op->desc.tensor[i];
    // The step's numbers stand there as so many floats as they have bytes.
    bool step = i > 0 && i + 1 == op->desc.inputs && t->shape.rank == 1 &&
                (op->desc.kind == LS_OP_DROPOUT_FORWARD || op->desc.kind == LS_OP_DROPOUT_BACKWARD ||
                 op->desc.kind == LS_OP_SOFTMAX_CE_BACKWARD);
    size_t bytes = step ? sizeof(struct ls_step_parameters) : twin->layout_bytes(t->layout);
    add(&item, args->tensor[i], bytes, i >= op->desc.inputs);
  }
  size_t workspace = op->desc.forward ? op->desc.forward->workspace_bytes : op->workspace_bytes;
  add(&item, args->workspace, workspace, true);
  add(&item, args->scratch, op->scratch_bytes, true);
  tell(backend, stream, &item);
  return twin->run(backend, op, stream, args, err);
}

static ls_status watched_update(struct ls_backend *backend, struct ls_stream *stream, const struct ls_update *u,
                                struct ls_error *err) {
  struct work_item item = {.what = "update"};
  size_t bytes = (size_t)(u->end - u->begin) * sizeof(float);
  for (int i = 0; i < u->parts; i++) {
    add(&item, u->part[i] + u->begin, bytes, false);
    if (u->overflow[i]) add(&item, u->overflow[i], sizeof *u->overflow[i], false);
  }
  add(&item, u->numbers, sizeof *u->numbers, false);
  add(&item, u->parameters + u->begin, bytes, true);
  for (int i = 0; i < u->copies; i++) add(&item, u->copy[i] + u->begin, bytes, true);
  int64_t momentum = u->begin;  // learned ones lie in front
  for (; momentum < u->end; momentum += LS_DEVICE_LINE) {
    uint16_t rule = u->rule_of_line[momentum / LS_DEVICE_LINE];
    if (rule != UINT16_MAX && !u->rules[rule].learned) break;
  }
  add(&item, u->momentum + u->begin, (size_t)(momentum - u->begin) * sizeof(float), true);
  tell(backend, stream, &item);
  return twin->device->update(backend, stream, u, err);
}

static ls_status watched_tree_sum(struct ls_backend *backend, struct ls_stream *stream, float *out,
                                  const float *const *part, int parts, int64_t n, struct ls_error *err) {
  struct work_item item = {.what = "tree sum"};
  for (int i = 0; i < parts; i++) add(&item, part[i], (size_t)n * sizeof(float), false);
  add(&item, out, (size_t)n * sizeof(float), true);
  tell(backend, stream, &item);
  return twin->device->tree_sum(backend, stream, out, part, parts, n, err);
}

static ls_status watched_check_finite(struct ls_backend *backend, struct ls_stream *stream, const float *values,
                                      int64_t n, uint32_t *flag, struct ls_error *err) {
  struct work_item item = {.what = "check of range"};
  add(&item, values, (size_t)n * sizeof(float), false);
  add(&item, flag, sizeof *flag, true);
  tell(backend, stream, &item);
  return twin->device->check_finite(backend, stream, values, n, flag, err);
}

static ls_status watched_input(struct ls_backend *backend, struct ls_stream *stream, const struct ls_input *input,
                               struct ls_error *err) {
  struct work_item item = {.what = "input"};
  size_t images = (size_t)input->images;
  add(&item, input->pixels, images * (size_t)input->height * (size_t)input->width * (size_t)input->c, false);
  if (input->places) add(&item, input->places, images * (size_t)input->place_words * sizeof(int32_t), false);
  size_t values = images * (size_t)input->h * (size_t)input->w * (size_t)input->out_c;
  add(&item, input->out, values * (input->dtype == LS_F32 ? 4 : 2), true);
  tell(backend, stream, &item);
  return twin->device->input(backend, stream, input, err);
}

static ls_status watched_zero(struct ls_backend *backend, struct ls_stream *stream, void *memory, size_t bytes,
                              struct ls_error *err) {
  struct work_item item = {.what = "zeros"};
  add(&item, memory, bytes, true);
  tell(backend, stream, &item);
  return twin->device->zero(backend, stream, memory, bytes, err);
}

static ls_status watched_copy(struct ls_backend *backend, struct ls_stream *stream, void *to, const void *from,
                              size_t bytes, struct ls_error *err) {
  struct work_item item = {.what = "copy"};
  add(&item, from, bytes, false);
  add(&item, to, bytes, true);
  tell(backend, stream, &item);
  return twin->device->copy(backend, stream, to, from, bytes, err);
}

// --- recordings

static ls_status watched_record_begin(struct ls_backend *backend, struct ls_error *err) {
  LS_TRY(twin->device->record_begin(backend, err));
  under_way = calloc(1, sizeof *under_way);
  assert_non_null(under_way);
  return LS_OK;
}

static ls_status watched_record_end(struct ls_backend *backend, struct ls_recording **recording, struct ls_error *err) {
  LS_TRY(twin->device->record_end(backend, recording, err));
  under_way->of = *recording;
  pthread_mutex_lock(&seen.lock);
  assert_true(seen.recordings < RECORDINGS);
  seen.recording[seen.recordings++] = *under_way;
  pthread_mutex_unlock(&seen.lock);
  free(under_way);
  under_way = NULL;
  return LS_OK;
}

static ls_status watched_replay(struct ls_backend *backend, struct ls_recording *recording, struct ls_error *err) {
  struct work_list list = {0};
  pthread_mutex_lock(&seen.lock);
  for (int i = 0; i < seen.recordings; i++) {
    if (seen.recording[i].of == recording) list = seen.recording[i];
  }
  pthread_mutex_unlock(&seen.lock);
  assert_non_null(list.of);
  for (int i = 0; i < list.count; i++) tell(backend, NULL, &list.items[i]);
  return twin->device->replay(backend, recording, err);
}

static void watched_recording_free(struct ls_recording *recording) {
  pthread_mutex_lock(&seen.lock);
  for (int i = 0; i < seen.recordings; i++) {
    if (seen.recording[i].of != recording) continue;
    free(seen.recording[i].items);
    seen.recording[i] = seen.recording[--seen.recordings];
    break;
  }
  pthread_mutex_unlock(&seen.lock);
  twin->device->recording_free(recording);
}

static void watched_close(struct ls_backend *backend) {
  pthread_mutex_lock(&seen.lock);
  for (int i = 0; i < seen.contexts; i++) {
    if (seen.context[i].state == backend->state) seen.context[i] = seen.context[--seen.contexts];
  }
  pthread_mutex_unlock(&seen.lock);
  twin->close(backend);
}

// `apart`: devices that see nothing but themselves.
static const struct ls_backend_ops *watched_twin(bool apart) {
  twin = ls_backend_cuda_twin();
  watched = *twin;
  watched_device = *twin->device;
  watched.device = &watched_device;
  watched.open = open_watched;
  watched.close = watched_close;
  watched.allocate = watched_allocate;
  watched.release = watched_release;
  watched.upload = watched_upload;
  watched.download = watched_download;
  watched.stream_new = watched_stream_new;
  watched.stream_free = watched_stream_free;
  watched.stream_wait_idle = watched_wait_idle;
  watched.event_new = watched_event_new;
  watched.event_free = watched_event_free;
  watched.event_record = watched_event_record;
  watched.stream_wait_event = watched_wait_event;
  watched.run = watched_run;
  watched_device.update = watched_update;
  watched_device.tree_sum = watched_tree_sum;
  watched_device.check_finite = watched_check_finite;
  watched_device.input = watched_input;
  watched_device.zero = watched_zero;
  watched_device.copy = watched_copy;
  watched_device.event_done = watched_event_done;
  watched_device.record_begin = watched_record_begin;
  watched_device.record_end = watched_record_end;
  watched_device.replay = watched_replay;
  watched_device.recording_free = watched_recording_free;
  if (apart) watched_device.reach = reach_nobody;
  return &watched;
}

#endif
