// A server for tests with foreign clients: the methods of lockstep.v1.Lockstep with little behind them.
//
//   test-rpc-server SOCKET
//
//   Submit   id = request_key, or the peer's user when that is empty
//   Get      name = id; id "missing" is NOT_FOUND
//   Cancel   never answers
//   Pause    id "on" or "off": the health of the server
//   Logs     `tail` messages of 10,000 bytes; with `follow` the stream stays open then
//   Devices  one device: memory_bytes = calls closed by the client or its deadline, memory_used_bytes = messages sent
//
// SIGTERM: shutdown with a drain time of 1 s, then exit 0.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/v1/descriptor_set.h"
#include "lockstep/v1/service.pb-c.h"
#include "rpc/server.h"

enum { PIECE_BYTES = 10000, DRAIN_MS = 1000 };

static struct ls_rpc_server *server;
static uv_signal_t on_term;
static uint64_t closed_calls, sent_messages;

static void submit(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)user;
  const Lockstep__V1__SubmitRequest *request = (const Lockstep__V1__SubmitRequest *)message;
  Lockstep__V1__SubmitResponse response = LOCKSTEP__V1__SUBMIT_RESPONSE__INIT;
  response.id = *request->request_key ? request->request_key : (char *)(uintptr_t)ls_rpc_call_peer_user(call);
  ls_rpc_call_send(call, &response.base);
  ls_rpc_call_finish(call, LS_RPC_OK, NULL);
}

static void send_info(struct ls_rpc_call *call, char *name) {
  Lockstep__V1__JobInfo response = LOCKSTEP__V1__JOB_INFO__INIT;
  response.name = name;
  ls_rpc_call_send(call, &response.base);
  ls_rpc_call_finish(call, LS_RPC_OK, NULL);
}

static void get(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)user;
  char *id = ((const Lockstep__V1__GetRequest *)message)->id;
  if (strcmp(id, "missing") == 0) {
    struct ls_error err;
    ls_fail(&err, LS_NOT_FOUND, "there is no job 'missing' (100%%, ä\n)");
    ls_rpc_call_fail(call, &err);
    return;
  }
  send_info(call, id);
}

static void on_closed(void *user, struct ls_rpc_call *call) {
  (void)call;
  free(user);
  closed_calls++;
}

static void cancel(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)user, (void)message;
  ls_rpc_call_on(call, NULL, on_closed, NULL);
}

static void pause_job(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)user;
  char *id = ((const Lockstep__V1__JobRequest *)message)->id;
  ls_rpc_server_set_serving(server, strcmp(id, "on") == 0);
  send_info(call, id);
}

struct logs {
  unsigned left;
  bool follow;
};

static void send_logs(void *user, struct ls_rpc_call *call) {
  struct logs *logs = user;
  uint8_t piece[PIECE_BYTES];
  memset(piece, 'x', sizeof piece);
  for (; logs->left; logs->left--) {
    Lockstep__V1__LogsResponse response = LOCKSTEP__V1__LOGS_RESPONSE__INIT;
    response.data.data = piece;
    response.data.len = sizeof piece;
    if (ls_rpc_call_send(call, &response.base) != LS_OK) return;
    sent_messages++;
  }
  if (logs->follow) return;
  ls_rpc_call_finish(call, LS_RPC_OK, NULL);
  free(logs);
}

static void logs(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)user;
  const Lockstep__V1__LogsRequest *request = (const Lockstep__V1__LogsRequest *)message;
  struct logs *state = calloc(1, sizeof *state);
  if (!state) abort();
  state->left = request->tail;
  state->follow = request->follow;
  ls_rpc_call_on(call, state, on_closed, send_logs);
  send_logs(state, call);
}

static void devices(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  (void)user, (void)message;
  Lockstep__V1__Device device = LOCKSTEP__V1__DEVICE__INIT, *list[] = {&device};
  device.memory_bytes = closed_calls;
  device.memory_used_bytes = sent_messages;
  Lockstep__V1__DevicesResponse response = LOCKSTEP__V1__DEVICES_RESPONSE__INIT;
  response.n_devices = 1;
  response.devices = list;
  ls_rpc_call_send(call, &response.base);
  ls_rpc_call_finish(call, LS_RPC_OK, NULL);
}

static void on_done(void *user) {
  (void)user;
  ls_rpc_server_free(server);
  uv_close((uv_handle_t *)&on_term, NULL);
}

static void on_signal(uv_signal_t *handle, int number) {
  (void)handle, (void)number;
  ls_rpc_server_shutdown(server, DRAIN_MS, on_done, NULL);
}

#define METHOD(name, in, out, streams, handle)                                                                    \
  {                                                                                                               \
    "lockstep.v1.Lockstep", name, &lockstep__v1__##in##__descriptor, &lockstep__v1__##out##__descriptor, streams, \
        handle                                                                                                    \
  }

int main(int argc, char **argv) {
  static const struct ls_rpc_method methods[] = {
      METHOD("Submit", submit_request, submit_response, false, submit),
      METHOD("Get", get_request, job_info, false, get),
      METHOD("Cancel", job_request, job_info, false, cancel),
      METHOD("Pause", job_request, job_info, false, pause_job),
      METHOD("Logs", logs_request, logs_response, true, logs),
      METHOD("Devices", devices_request, devices_response, false, devices),
  };
  if (argc != 2) return 2;
  struct ls_rpc_server_options options = {
      .methods = methods,
      .method_count = sizeof methods / sizeof *methods,
      .descriptor_set = ls_descriptor_set,
      .descriptor_set_bytes = ls_descriptor_set_bytes,
  };
  struct ls_error err = LS_ERROR_INIT;
  uv_loop_t loop;
  uv_loop_init(&loop);
  if (ls_rpc_server_new(&loop, &options, &server, &err) || ls_rpc_server_listen_unix(server, argv[1], 0600, &err)) {
    fprintf(stderr, "%s\n", err.text);
    return 1;
  }
  uv_signal_init(&loop, &on_term);
  uv_signal_start(&on_term, on_signal, SIGTERM);
  uv_run(&loop, UV_RUN_DEFAULT);
  return uv_loop_close(&loop) == 0 ? 0 : 3;
}
