// The gRPC service: see service.h. Unary methods answer at once. Watch and Logs are streams that are pumped whenever
// there is something new, or when a slow reader has room again.
#include "daemon/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/device_list.h"
#include "lockstep/v1/descriptor_set.h"
#include "rpc/server.h"
#include "spec/event_log.h"

enum { LOG_CHUNK_BYTES = 65536 };

enum stream_kind { STREAM_WATCH, STREAM_LOG };

struct stream {
  struct stream *next, *previous;
  struct service *service;
  struct ls_rpc_call *call;
  struct job *job;
  enum stream_kind kind;
  uint64_t offset;  // in the event log, or in worker.log
  // Watch.
  uint64_t index, from;  // of the next event in the log; the first one wanted
  Lockstep__V1__JobState state;
  char reason[256];
  uint32_t attempt;
  bool blocked;  // a slow reader
  bool follow;   // Logs
};

struct service {
  struct ls_rpc_server *server;
  struct manager *manager;
  struct stream *streams;
};

static void fail(struct ls_rpc_call *call, const struct ls_error *err) { ls_rpc_call_fail(call, err); }

static void answer(struct ls_rpc_call *call, const ProtobufCMessage *message) {
  ls_rpc_call_send(call, message);
  ls_rpc_call_finish(call, LS_RPC_OK, NULL);
}

static void answer_job(struct ls_rpc_call *call, const struct job *job, bool include_job) {
  struct job_info info;
  job_info_fill(job, include_job, &info);
  answer(call, &info.message.base);
  job_info_release(&info);
}

// The job that a request names, or the call is failed.
static struct job *find(struct service *s, struct ls_rpc_call *call, const char *id) {
  struct ls_error err = LS_ERROR_INIT;
  struct job *job = NULL;
  if (manager_find(s->manager, id, &job, &err) == LS_OK) return job;
  fail(call, &err);
  return NULL;
}

static void submit(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct service *s = user;
  const Lockstep__V1__SubmitRequest *request = (const Lockstep__V1__SubmitRequest *)message;
  struct ls_error err = LS_ERROR_INIT;
  if (!request->job) {
    ls_rpc_call_finish(call, LS_RPC_INVALID_ARGUMENT, "the request holds no job");
    return;
  }
  // A copy of our own: the request ends with the call.
  size_t size = protobuf_c_message_get_packed_size(&request->job->base);
  uint8_t *packed = malloc(size + 1);
  Lockstep__V1__Job *spec = NULL;
  if (packed) {
    protobuf_c_message_pack(&request->job->base, packed);
    spec = lockstep__v1__job__unpack(NULL, size, packed);
  }
  free(packed);
  struct job *job = NULL;
  ls_status status =
      spec ? manager_submit(s->manager, spec, request->request_key, ls_rpc_call_peer_user(call), &job, &err)
           : ls_fail(&err, LS_NO_MEMORY, "no memory for a job");
  if (status != LS_OK) {
    fail(call, &err);
    return;
  }
  Lockstep__V1__SubmitResponse response = LOCKSTEP__V1__SUBMIT_RESPONSE__INIT;
  response.id = job->id_text;
  answer(call, &response.base);
}

static bool wanted(const Lockstep__V1__ListRequest *request, Lockstep__V1__JobState state) {
  for (size_t i = 0; i < request->n_states; i++) {
    if (request->states[i] == state) return true;
  }
  return request->n_states == 0;
}

static void list(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct service *s = user;
  const Lockstep__V1__ListRequest *request = (const Lockstep__V1__ListRequest *)message;
  size_t count = manager_job_count(s->manager);
  struct job_info *infos = calloc(count + 1, sizeof *infos);
  Lockstep__V1__JobInfo **jobs = calloc(count + 1, sizeof *jobs);
  Lockstep__V1__ListResponse response = LOCKSTEP__V1__LIST_RESPONSE__INIT;
  for (size_t i = 0; infos && jobs && i < count; i++) {
    const struct job *job = manager_job(s->manager, i);
    if (!wanted(request, job->state)) continue;
    job_info_fill(job, false, &infos[response.n_jobs]);
    jobs[response.n_jobs] = &infos[response.n_jobs].message;
    response.n_jobs++;
  }
  response.jobs = jobs;
  if (infos && jobs)
    answer(call, &response.base);
  else
    ls_rpc_call_finish(call, LS_RPC_RESOURCE_EXHAUSTED, "no memory for the list");
  for (size_t i = 0; infos && i < response.n_jobs; i++) job_info_release(&infos[i]);
  free(infos);
  free(jobs);
}

static void get(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  const Lockstep__V1__GetRequest *request = (const Lockstep__V1__GetRequest *)message;
  const struct job *job = find(user, call, request->id);
  if (job) answer_job(call, job, request->include_job);
}

static void control(struct service *s, struct ls_rpc_call *call, const ProtobufCMessage *message,
                    ls_status (*action)(struct manager *, struct job *, struct ls_error *)) {
  const Lockstep__V1__JobRequest *request = (const Lockstep__V1__JobRequest *)message;
  struct ls_error err = LS_ERROR_INIT;
  struct job *job = find(s, call, request->id);
  if (!job) return;
  if (action(s->manager, job, &err) == LS_OK)
    answer_job(call, job, false);
  else
    ls_rpc_call_finish(call, LS_RPC_FAILED_PRECONDITION, err.text);
}

static void cancel(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  control(user, call, message, manager_cancel);
}

static void pause_job(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  control(user, call, message, manager_pause);
}

static void resume(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct service *s = user;
  const Lockstep__V1__ResumeRequest *request = (const Lockstep__V1__ResumeRequest *)message;
  struct ls_error err = LS_ERROR_INIT;
  struct job *job = find(s, call, request->id);
  if (!job) return;
  if (manager_resume(s->manager, job, request->devices, &err) == LS_OK)
    answer_job(call, job, false);
  else
    ls_rpc_call_finish(call, LS_RPC_FAILED_PRECONDITION, err.text);
}

static void devices(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)message;
  const struct service *s = user;
  struct device_list *list = malloc(sizeof *list);
  if (!list) {
    ls_rpc_call_finish(call, LS_RPC_RESOURCE_EXHAUSTED, "no memory for the list");
    return;
  }
  device_list_fill(s->manager, list);
  answer(call, &list->message.base);
  free(list);
}

// --- streams ------------------------------------------------------------------------------------------------------------

static void drop(struct stream *stream) {
  if (stream->previous)
    stream->previous->next = stream->next;
  else
    stream->service->streams = stream->next;
  if (stream->next) stream->next->previous = stream->previous;
  free(stream);
}

static void finish(struct stream *stream, enum ls_rpc_code code, const char *text) {
  struct ls_rpc_call *call = stream->call;
  drop(stream);
  ls_rpc_call_finish(call, code, text);
}

static bool send_info(struct stream *w) {
  struct job_info info;
  Lockstep__V1__WatchResponse response = LOCKSTEP__V1__WATCH_RESPONSE__INIT;
  job_info_fill(w->job, false, &info);
  response.index = w->index;
  response.info = &info.message;
  ls_status status = ls_rpc_call_send(w->call, &response.base);
  job_info_release(&info);
  if (status != LS_OK) {
    w->blocked = status == LS_UNAVAILABLE;
    return false;
  }
  w->state = w->job->state;
  w->attempt = w->job->attempt;
  snprintf(w->reason, sizeof w->reason, "%s", w->job->reason);
  return true;
}

static bool send_event(void *user, const Lockstep__V1__Event *event) {
  struct stream *w = user;
  if (w->index >= w->from) {
    Lockstep__V1__WatchResponse response = LOCKSTEP__V1__WATCH_RESPONSE__INIT;
    response.index = w->index;
    response.event = (Lockstep__V1__Event *)(uintptr_t)event;
    if (ls_rpc_call_send(w->call, &response.base) != LS_OK) {
      w->blocked = true;
      return false;
    }
  }
  w->index++;
  return true;
}

static void pump_watch(struct stream *w) {
  struct ls_error err = LS_ERROR_INIT;
  if (w->blocked) return;
  ls_status status = ls_event_log_read(w->job->log, &w->offset, send_event, w, &err);
  if (status != LS_OK) {
    struct ls_rpc_call *call = w->call;
    drop(w);
    fail(call, &err);
    return;
  }
  if (w->blocked) return;
  char reason[sizeof w->reason];
  snprintf(reason, sizeof reason, "%s", w->job->reason);
  bool news = w->state != w->job->state || w->attempt != w->job->attempt || strcmp(w->reason, reason) != 0;
  if (news && !send_info(w)) return;
  if (job_ended(w->job)) finish(w, LS_RPC_OK, NULL);
}

static void pump_log(struct stream *l) {
  char *path = ls_path_join(l->job->folder, "worker.log");
  uint8_t *chunk = malloc(LOG_CHUNK_BYTES);
  int fd = path && chunk && !l->blocked ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  ssize_t size = 0;
  while (fd >= 0 && (size = pread(fd, chunk, LOG_CHUNK_BYTES, (off_t)l->offset)) > 0) {
    Lockstep__V1__LogsResponse response = LOCKSTEP__V1__LOGS_RESPONSE__INIT;
    response.data.data = chunk;
    response.data.len = (size_t)size;
    if (ls_rpc_call_send(l->call, &response.base) != LS_OK) {
      l->blocked = true;
      break;
    }
    l->offset += (uint64_t)size;
  }
  if (fd >= 0) close(fd);
  free(chunk);
  free(path);
  if (!l->blocked && (!l->follow || job_ended(l->job))) finish(l, LS_RPC_OK, NULL);
}

static void pump(struct stream *stream) {
  if (stream->kind == STREAM_WATCH)
    pump_watch(stream);
  else
    pump_log(stream);
}

static void on_closed(void *user, struct ls_rpc_call *call) {
  (void)call;
  drop(user);
}

static void on_writable(void *user, struct ls_rpc_call *call) {
  (void)call;
  struct stream *stream = user;
  stream->blocked = false;
  pump(stream);
}

static struct stream *open_stream(struct service *s, struct ls_rpc_call *call, struct job *job, enum stream_kind kind) {
  struct stream *stream = calloc(1, sizeof *stream);
  if (!stream) {
    ls_rpc_call_finish(call, LS_RPC_RESOURCE_EXHAUSTED, "no memory for a stream");
    return NULL;
  }
  stream->service = s;
  stream->call = call;
  stream->job = job;
  stream->kind = kind;
  stream->next = s->streams;
  if (s->streams) s->streams->previous = stream;
  s->streams = stream;
  ls_rpc_call_on(call, stream, on_closed, on_writable);
  return stream;
}

static void watch(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct service *s = user;
  const Lockstep__V1__WatchRequest *request = (const Lockstep__V1__WatchRequest *)message;
  struct job *job = find(s, call, request->id);
  struct stream *stream = job ? open_stream(s, call, job, STREAM_WATCH) : NULL;
  if (!stream) return;
  stream->from = request->from_event;
  if (send_info(stream)) pump(stream);
}

// Where the last `lines` lines of a file begin.
static uint64_t tail_of(const char *path, uint32_t lines) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  char chunk[4096];
  if (fd < 0 || fstat(fd, &info) != 0) {
    if (fd >= 0) close(fd);
    return 0;
  }
  uint64_t end = (uint64_t)info.st_size, at = end, seen = 0, found = 0;
  while (at > 0 && !found) {
    uint64_t begin = at > sizeof chunk ? at - sizeof chunk : 0;
    ssize_t size = pread(fd, chunk, at - begin, (off_t)begin);
    if (size != (ssize_t)(at - begin)) break;
    for (ssize_t i = size; i-- > 0;) {
      bool last = begin + (uint64_t)i + 1 == end;  // the newline that ends the last line
      if (chunk[i] != '\n' || last || ++seen < lines) continue;
      found = begin + (uint64_t)i + 1;
      break;
    }
    at = begin;
  }
  close(fd);
  return found;
}

static void logs(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct service *s = user;
  const Lockstep__V1__LogsRequest *request = (const Lockstep__V1__LogsRequest *)message;
  struct job *job = find(s, call, request->id);
  struct stream *stream = job ? open_stream(s, call, job, STREAM_LOG) : NULL;
  if (!stream) return;
  stream->follow = request->follow;
  if (request->tail) {
    char *path = ls_path_join(job->folder, "worker.log");
    if (path) stream->offset = tail_of(path, request->tail);
    free(path);
  }
  pump(stream);
}

static void pump_all(struct service *s, const struct job *job, int kind) {
  for (struct stream *stream = s->streams, *next; stream; stream = next) {
    next = stream->next;
    if ((!job || stream->job == job) && (kind < 0 || (int)stream->kind == kind)) pump(stream);
  }
}

void service_changed(struct service *s, const struct job *job) { pump_all(s, job, -1); }

void service_tick(struct service *s) { pump_all(s, NULL, STREAM_LOG); }

// --- set-up -------------------------------------------------------------------------------------------------------------

#define METHOD(name, request, response, streaming, handler)                                                        \
  {                                                                                                                \
    "lockstep.v1.Lockstep", name, &lockstep__v1__##request##__descriptor, &lockstep__v1__##response##__descriptor, \
        streaming, handler                                                                                         \
  }

static const struct ls_rpc_method methods[] = {
    METHOD("Submit", submit_request, submit_response, false, submit),
    METHOD("List", list_request, list_response, false, list),
    METHOD("Get", get_request, job_info, false, get),
    METHOD("Watch", watch_request, watch_response, true, watch),
    METHOD("Cancel", job_request, job_info, false, cancel),
    METHOD("Pause", job_request, job_info, false, pause_job),
    METHOD("Resume", resume_request, job_info, false, resume),
    METHOD("Logs", logs_request, logs_response, true, logs),
    METHOD("Devices", devices_request, devices_response, false, devices),
};

ls_status service_new(uv_loop_t *loop, struct service **service, struct ls_error *err) {
  *service = NULL;
  struct service *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for the service");
  struct ls_rpc_server_options options = {.methods = methods,
                                          .method_count = sizeof methods / sizeof *methods,
                                          .user = s,
                                          .descriptor_set = ls_descriptor_set,
                                          .descriptor_set_bytes = ls_descriptor_set_bytes,
                                          .max_request_bytes = 4 << 20};
  ls_status status = ls_rpc_server_new(loop, &options, &s->server, err);
  if (status != LS_OK) {
    service_free(s);
    return status;
  }
  *service = s;
  return LS_OK;
}

ls_status service_listen(struct service *s, struct manager *manager, const char *path, struct ls_error *err) {
  s->manager = manager;
  return ls_rpc_server_listen_unix(s->server, path, 0660, err);
}

void service_set_ready(struct service *s, bool ready) { ls_rpc_server_set_serving(s->server, ready); }

void service_shutdown(struct service *s, unsigned drain_ms, void (*done)(void *user), void *user) {
  for (struct stream *stream = s->streams, *next; stream; stream = next) {
    next = stream->next;
    finish(stream, LS_RPC_UNAVAILABLE, "the daemon is stopping; the job goes on");
  }
  ls_rpc_server_shutdown(s->server, drain_ms, done, user);
}

void service_free(struct service *s) {
  if (!s) return;
  if (s->server) ls_rpc_server_free(s->server);
  free(s);
}
