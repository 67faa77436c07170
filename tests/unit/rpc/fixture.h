// A server for the tests of src/rpc: its loop in a thread of its own, the client in the test's thread.
//
// Service "test.v1.Test". All methods take LogsRequest { id, follow, tail } and answer with LogsResponse { data }:
//   Echo     data = id; id "fail" fails with LS_NOT_FOUND and the text 'no job "ä" at 100%'
//   Late     answers Echo's answer after `tail` ms
//   Never    never answers; counts its closed calls
//   Count    a stream of `tail` messages, each LS_TEST_PIECE_BYTES of 'x', as fast as the reader takes them
#ifndef LS_TEST_RPC_FIXTURE_H
#define LS_TEST_RPC_FIXTURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
// cmocka.h wants those before it.
#include <cmocka.h>

#include "base/clock.h"
#include "lockstep/v1/descriptor_set.h"
#include "lockstep/v1/service.pb-c.h"
#include "rpc/client.h"
#include "rpc/server.h"

enum { LS_TEST_PIECE_BYTES = 10000, LS_TEST_WAIT_MS = 20000 };

struct fixture {
  char folder[64], path[96];
  pthread_t thread;
  pthread_barrier_t started;
  uv_loop_t loop;
  uv_async_t stop;
  struct ls_rpc_server *server;
  struct ls_rpc_server_options options;
  unsigned drain_ms;
  atomic_int closed;        // calls whose `closed` came
  atomic_int handled;       // calls that reached a handler
  atomic_size_t refused;    // ls_rpc_call_send said LS_UNAVAILABLE
  atomic_size_t sent;       // messages of Count
  atomic_bool stopped;      // shutdown's `done` came
  atomic_bool stop_wanted;  // else the async sets the health to NOT_SERVING
  char peer[64];            // user of the last Echo
};

static inline ls_status fixture_answer(struct ls_rpc_call *call, const void *data, size_t size) {
  Lockstep__V1__LogsResponse response = LOCKSTEP__V1__LOGS_RESPONSE__INIT;
  response.data.data = (uint8_t *)(uintptr_t)data;
  response.data.len = size;
  return ls_rpc_call_send(call, &response.base);
}

static inline void fixture_on_closed(void *user, struct ls_rpc_call *call) {
  (void)call;
  struct fixture *f = user;
  atomic_fetch_add(&f->closed, 1);
}

static inline void fixture_echo(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct fixture *f = user;
  const Lockstep__V1__LogsRequest *request = (const Lockstep__V1__LogsRequest *)message;
  atomic_fetch_add(&f->handled, 1);
  snprintf(f->peer, sizeof f->peer, "%s", ls_rpc_call_peer_user(call));
  if (strcmp(request->id, "fail") == 0) {
    struct ls_error err;
    ls_fail(&err, LS_NOT_FOUND, "no job \"ä\" at 100%%");
    ls_rpc_call_fail(call, &err);
  } else if (strcmp(request->id, "nothing") == 0) {
    ls_rpc_call_finish(call, LS_RPC_OK, NULL);
  } else {
    assert_int_equal(fixture_answer(call, request->id, strlen(request->id)), LS_OK);
    assert_int_equal(fixture_answer(call, "", 0), LS_INVALID);
    ls_rpc_call_finish(call, LS_RPC_OK, NULL);
  }
}

struct fixture_late {
  uv_timer_t timer;
  struct fixture *fixture;
  struct ls_rpc_call *call;
  char *id;
};

static inline void fixture_free_late(uv_handle_t *handle) {
  struct fixture_late *late = handle->data;
  free(late->id);
  free(late);
}

static inline void fixture_late_closed(void *user, struct ls_rpc_call *call) {
  struct fixture_late *late = user;
  fixture_on_closed(late->fixture, call);
  uv_close((uv_handle_t *)&late->timer, fixture_free_late);
}

static inline void fixture_late_due(uv_timer_t *timer) {
  struct fixture_late *late = timer->data;
  fixture_answer(late->call, late->id, strlen(late->id));
  ls_rpc_call_finish(late->call, LS_RPC_OK, NULL);
  uv_close((uv_handle_t *)&late->timer, fixture_free_late);
}

static inline void fixture_handle_late(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct fixture *f = user;
  const Lockstep__V1__LogsRequest *request = (const Lockstep__V1__LogsRequest *)message;
  atomic_fetch_add(&f->handled, 1);
  struct fixture_late *late = calloc(1, sizeof *late);
  late->fixture = f;
  late->call = call;
  late->id = strdup(request->id);
  uv_timer_init(&f->loop, &late->timer);
  late->timer.data = late;
  uv_timer_start(&late->timer, fixture_late_due, request->tail, 0);
  ls_rpc_call_on(call, late, fixture_late_closed, NULL);
}

static inline void fixture_never(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)message;
  struct fixture *f = user;
  atomic_fetch_add(&f->handled, 1);
  ls_rpc_call_on(call, f, fixture_on_closed, NULL);
}

struct fixture_count {
  struct fixture *fixture;
  unsigned left;
};

static inline void fixture_count_closed(void *user, struct ls_rpc_call *call) {
  struct fixture_count *count = user;
  fixture_on_closed(count->fixture, call);
  free(count);
}

static inline void fixture_count_on(void *user, struct ls_rpc_call *call) {
  struct fixture_count *count = user;
  char piece[LS_TEST_PIECE_BYTES];
  memset(piece, 'x', sizeof piece);
  while (count->left) {
    ls_status status = fixture_answer(call, piece, sizeof piece);
    if (status == LS_UNAVAILABLE) {
      atomic_fetch_add(&count->fixture->refused, 1);
      return;
    }
    assert_int_equal(status, LS_OK);
    count->left--;
    atomic_fetch_add(&count->fixture->sent, 1);
  }
  ls_rpc_call_finish(call, LS_RPC_OK, NULL);
  free(count);
}

static inline void fixture_handle_count(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  struct fixture *f = user;
  atomic_fetch_add(&f->handled, 1);
  struct fixture_count *count = calloc(1, sizeof *count);
  count->fixture = f;
  count->left = ((const Lockstep__V1__LogsRequest *)message)->tail;
  ls_rpc_call_on(call, count, fixture_count_closed, fixture_count_on);
  fixture_count_on(count, call);
}

static inline const struct ls_rpc_method *fixture_methods(size_t *count) {
  static struct ls_rpc_method methods[] = {
      {"test.v1.Test", "Echo", &lockstep__v1__logs_request__descriptor, &lockstep__v1__logs_response__descriptor, false,
       fixture_echo},
      {"test.v1.Test", "Late", &lockstep__v1__logs_request__descriptor, &lockstep__v1__logs_response__descriptor, false,
       fixture_handle_late},
      {"test.v1.Test", "Never", &lockstep__v1__logs_request__descriptor, &lockstep__v1__logs_response__descriptor, true,
       fixture_never},
      {"test.v1.Test", "Count", &lockstep__v1__logs_request__descriptor, &lockstep__v1__logs_response__descriptor, true,
       fixture_handle_count},
  };
  *count = sizeof methods / sizeof *methods;
  return methods;
}

// ---- life

static inline void fixture_done(void *user) {
  struct fixture *f = user;
  ls_rpc_server_free(f->server);
  atomic_store(&f->stopped, true);
}

static inline void fixture_on_stop(uv_async_t *async) {
  struct fixture *f = async->data;
  if (atomic_load(&f->stop_wanted)) {
    ls_rpc_server_shutdown(f->server, f->drain_ms, fixture_done, f);
    uv_close((uv_handle_t *)async, NULL);
  } else {
    ls_rpc_server_set_serving(f->server, false);
  }
}

static inline void *fixture_run(void *user) {
  struct fixture *f = user;
  pthread_barrier_wait(&f->started);
  uv_run(&f->loop, UV_RUN_DEFAULT);
  return NULL;
}

// `f` is zero but for options and drain_ms that the test wants.
static inline void fixture_start(struct fixture *f) {
  struct ls_error err = LS_ERROR_INIT;
  snprintf(f->folder, sizeof f->folder, "/tmp/lockstep-rpc-XXXXXX");
  assert_non_null(mkdtemp(f->folder));
  snprintf(f->path, sizeof f->path, "%s/socket", f->folder);
  assert_int_equal(uv_loop_init(&f->loop), 0);
  uv_async_init(&f->loop, &f->stop, fixture_on_stop);
  f->stop.data = f;
  f->options.methods = fixture_methods(&f->options.method_count);
  f->options.user = f;
  f->options.descriptor_set = ls_descriptor_set;
  f->options.descriptor_set_bytes = ls_descriptor_set_bytes;
  if (ls_rpc_server_new(&f->loop, &f->options, &f->server, &err) ||
      ls_rpc_server_listen_unix(f->server, f->path, 0600, &err)) {
    fail_msg("%s", err.text);
  }
  pthread_barrier_init(&f->started, NULL, 2);
  assert_int_equal(pthread_create(&f->thread, NULL, fixture_run, f), 0);
  pthread_barrier_wait(&f->started);
}

static inline void fixture_begin_stop(struct fixture *f) {
  atomic_store(&f->stop_wanted, true);
  uv_async_send(&f->stop);
}

static inline void fixture_end_stop(struct fixture *f) {
  pthread_join(f->thread, NULL);
  pthread_barrier_destroy(&f->started);
  assert_true(atomic_load(&f->stopped));
  assert_int_equal(uv_loop_close(&f->loop), 0);  // no handle is left
  assert_int_not_equal(access(f->path, F_OK), 0);
  assert_int_equal(rmdir(f->folder), 0);
}

static inline void fixture_stop(struct fixture *f) {
  fixture_begin_stop(f);
  fixture_end_stop(f);
}

static inline struct ls_rpc_client *fixture_connect(const struct fixture *f) {
  struct ls_rpc_client *client;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_rpc_client_connect(f->path, &client, &err)) fail_msg("%s", err.text);
  return client;
}

// Calls METHOD; *text is the answer (the caller frees it), NULL on failure.
static inline ls_status fixture_call(struct ls_rpc_client *client, const char *method, const char *id, unsigned tail,
                                     unsigned timeout_ms, char **text, struct ls_error *err) {
  Lockstep__V1__LogsRequest request = LOCKSTEP__V1__LOGS_REQUEST__INIT;
  request.id = (char *)(uintptr_t)id;
  request.tail = tail;
  char path[64];
  snprintf(path, sizeof path, "/test.v1.Test/%s", method);
  ProtobufCMessage *message;
  *text = NULL;
  ls_status status = ls_rpc_client_call(client, path, &request.base, &lockstep__v1__logs_response__descriptor, &message,
                                        timeout_ms, err);
  if (status != LS_OK) {
    assert_null(message);
    return status;
  }
  const Lockstep__V1__LogsResponse *response = (const Lockstep__V1__LogsResponse *)message;
  *text = calloc(1, response->data.len + 1);
  assert_non_null(*text);
  if (response->data.len) memcpy(*text, response->data.data, response->data.len);
  protobuf_c_message_free_unpacked(message, NULL);
  return status;
}

// Waits until a counter that the server's thread sets has at least `wanted`.
static inline void fixture_wait(const atomic_int *counter, int wanted) {
  int64_t deadline_ns = ls_clock_ns() + (int64_t)LS_TEST_WAIT_MS * 1000000;
  while (atomic_load(counter) < wanted) {
    assert_true(ls_clock_ns() < deadline_ns);
    usleep(1000);
  }
}

#endif
