// Life of the server: its methods, its handles on the loop, orderly shutdown. See server.h and internal.h.
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/internal.h"
#include "rpc/reflection_index.h"

enum { LAST_WRITES_MS = 500 };  // for peers to take the last frames after the drain time

// ---- methods

const struct ls_rpc_entry *ls_rpc_server_find(const struct ls_rpc_server *server, const char *path) {
  if (*path != '/') return NULL;
  const char *slash = strchr(path + 1, '/');
  if (!slash) return NULL;
  size_t size = (size_t)(slash - path - 1);
  for (size_t i = 0; i < server->entry_count; i++) {
    const struct ls_rpc_method *method = &server->entries[i].method;
    if (strlen(method->service) == size && memcmp(method->service, path + 1, size) == 0 &&
        strcmp(method->name, slash + 1) == 0) {
      return &server->entries[i];
    }
  }
  return NULL;
}

bool ls_rpc_server_has_service(const struct ls_rpc_server *server, const char *name) {
  for (size_t i = 0; i < server->entry_count; i++) {
    if (strcmp(server->entries[i].method.service, name) == 0) return true;
  }
  return false;
}

static ls_status fill_entries(struct ls_rpc_server *server, const struct ls_rpc_server_options *options,
                              struct ls_error *err) {
  size_t capacity = options->method_count + LS_RPC_HEALTH_ENTRIES + LS_RPC_REFLECTION_ENTRIES;
  server->entries = calloc(capacity, sizeof *server->entries);
  if (!server->entries) return ls_fail(err, LS_NO_MEMORY, "cannot set up the RPC server: out of memory");
  for (size_t i = 0; i < options->method_count; i++) {
    server->entries[i] = (struct ls_rpc_entry){.method = options->methods[i], .user = options->user};
  }
  server->entry_count = options->method_count;
  if (options->descriptor_set) {
    LS_TRY(ls_rpc_reflection_new(options->descriptor_set, options->descriptor_set_bytes, &server->reflection, err));
  }
  server->entry_count += ls_rpc_health_entries(server, server->entries + server->entry_count);
  server->entry_count += ls_rpc_reflection_entries(server, server->entries + server->entry_count);
  return LS_OK;
}

// ---- new and free

ls_status ls_rpc_server_new(uv_loop_t *loop, const struct ls_rpc_server_options *options, struct ls_rpc_server **out,
                            struct ls_error *err) {
  *out = NULL;
  struct ls_rpc_server *server = calloc(1, sizeof *server);
  if (!server) return ls_fail(err, LS_NO_MEMORY, "cannot set up the RPC server: out of memory");
  server->loop = loop;
  server->serving = true;
  server->max_request_bytes = options->max_request_bytes ? options->max_request_bytes : 1 << 20;
  server->max_connections = options->max_connections ? options->max_connections : 256;
  server->max_streams = options->max_streams ? options->max_streams : 100;
  server->read_buffer = malloc(LS_RPC_READ_BYTES);
  ls_status status = LS_OK;
  if (!server->read_buffer || ls_rpc_session_callbacks_new(&server->callbacks, &server->option)) {
    status = ls_fail(err, LS_NO_MEMORY, "cannot set up the RPC server: out of memory");
  }
  if (status == LS_OK) status = fill_entries(server, options, err);
  if (status != LS_OK) {
    ls_rpc_server_free(server);
    return status;
  }
  *out = server;
  return LS_OK;
}

void ls_rpc_server_free(struct ls_rpc_server *server) {
  if (!server) return;
  nghttp2_session_callbacks_del(server->callbacks);
  nghttp2_option_del(server->option);
  ls_rpc_reflection_free(server->reflection);
  free(server->entries);
  free(server->read_buffer);
  free(server);
}

// ---- running

static void flush_marked(struct ls_rpc_server *server) {
  // What `writable` marks anew is being written already; its connection flushes again when that is done.
  if (!server->flush_wanted) return;
  server->flush_wanted = false;
  for (struct ls_rpc_connection *c = server->connections; c; c = c->next) {
    if (c->marked) ls_rpc_connection_flush(c);
  }
}

static void on_prepare(uv_prepare_t *prepare) { flush_marked(prepare->data); }
static void on_check(uv_check_t *check) { flush_marked(check->data); }

// libuv writes without MSG_NOSIGNAL: a client that is gone would end the process.
static void survive_broken_pipes(void) {
  struct sigaction action;
  if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
    action = (struct sigaction){.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &action, NULL);
  }
}

static void start(struct ls_rpc_server *server) {
  if (server->started) return;
  server->started = true;
  survive_broken_pipes();
  server->open_handles += 2;
  uv_prepare_init(server->loop, &server->prepare);
  uv_check_init(server->loop, &server->check);
  server->prepare.data = server->check.data = server;
  uv_prepare_start(&server->prepare, on_prepare);
  uv_check_start(&server->check, on_check);
  // Only sockets keep the loop running.
  uv_unref((uv_handle_t *)&server->prepare);
  uv_unref((uv_handle_t *)&server->check);
}

ls_status ls_rpc_server_listen_unix(struct ls_rpc_server *server, const char *path, unsigned mode,
                                    struct ls_error *err) {
  if (server->stopping) return ls_fail(err, LS_UNAVAILABLE, "cannot listen on '%s': the server is stopping", path);
  LS_TRY(ls_rpc_listener_open(server, path, mode, err));
  start(server);
  return LS_OK;
}

// ---- shutdown

static void on_handle_closed(uv_handle_t *handle) {
  struct ls_rpc_server *server = handle->data;
  if (--server->open_handles == 0) server->done(server->done_user);
}

// Once the last connection is gone, the handles of the server itself follow.
static void finish_if_empty(struct ls_rpc_server *server) {
  if (!server->stopping || server->connections || uv_is_closing((uv_handle_t *)&server->drain)) return;
  if (server->started) {
    uv_close((uv_handle_t *)&server->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&server->check, on_handle_closed);
  }
  uv_close((uv_handle_t *)&server->drain, on_handle_closed);
}

void ls_rpc_server_connection_gone(struct ls_rpc_server *server) {
  server->connection_count--;
  for (struct ls_rpc_listener *listener = server->listeners; listener; listener = listener->next) {
    if (listener->waiting) listener->waiting = !ls_rpc_connection_accept(server, (uv_stream_t *)&listener->pipe);
  }
  finish_if_empty(server);
}

static void on_last_writes(uv_timer_t *timer) {
  struct ls_rpc_server *server = timer->data;
  for (struct ls_rpc_connection *c = server->connections; c; c = c->next) ls_rpc_connection_close(c);
}

static void on_drained(uv_timer_t *timer) {
  struct ls_rpc_server *server = timer->data;
  for (struct ls_rpc_connection *c = server->connections; c; c = c->next) {
    if (c->closing) continue;
    for (struct ls_rpc_call *call = c->calls; call; call = call->next) {
      ls_rpc_call_abort(call, LS_RPC_UNAVAILABLE, "the server is stopping");
    }
    ls_rpc_connection_mark(c);
  }
  uv_timer_start(timer, on_last_writes, LAST_WRITES_MS, 0);
}

static void on_listener_closed(uv_handle_t *handle) {
  struct ls_rpc_listener *listener = handle->data;
  handle->data = listener->server;
  on_handle_closed(handle);
  free(listener->path);
  free(listener);
}

void ls_rpc_server_shutdown(struct ls_rpc_server *server, unsigned drain_ms, void (*done)(void *user), void *user) {
  if (server->stopping) return;
  server->stopping = true;
  server->done = done;
  server->done_user = user;
  for (struct ls_rpc_listener *next, *listener = server->listeners; listener; listener = next) {
    next = listener->next;
    ls_rpc_listener_remove_file(listener);
    uv_close((uv_handle_t *)&listener->pipe, on_listener_closed);
  }
  server->listeners = NULL;
  ls_rpc_health_stop(server);
  for (struct ls_rpc_connection *c = server->connections; c; c = c->next) {
    if (c->closing) continue;
    // Streams that the client would keep open for ever.
    for (struct ls_rpc_call *call = c->calls; call; call = call->next) {
      if (call->entry && call->entry->bidirectional)
        ls_rpc_call_abort(call, LS_RPC_UNAVAILABLE, "the server is stopping");
    }
    nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session),
                          NGHTTP2_NO_ERROR, NULL, 0);
    ls_rpc_connection_mark(c);
  }
  server->open_handles++;
  uv_timer_init(server->loop, &server->drain);
  server->drain.data = server;
  uv_update_time(server->loop);
  uv_timer_start(&server->drain, on_drained, drain_ms, 0);
  finish_if_empty(server);
}
