// grpc.health.v1.Health: the state of the whole server, for "" and for each of its services alike.
#include <stdlib.h>

#include "grpc/health/v1/health.pb-c.h"
#include "rpc/internal.h"

// An open Watch.
struct ls_rpc_watcher {
  struct ls_rpc_server *server;
  struct ls_rpc_watcher *next, **link;
  struct ls_rpc_call *call;
  bool known;  // the service is one of ours
  int told;    // the status last sent; -1: none
};

static int status_of(const struct ls_rpc_server *server, bool known) {
  if (!known) return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
  return server->serving ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                         : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
}

static bool is_known(const struct ls_rpc_server *server, const ProtobufCMessage *message) {
  const char *service = ((const Grpc__Health__V1__HealthCheckRequest *)message)->service;
  return !*service || ls_rpc_server_has_service(server, service);
}

static ls_status send_status(struct ls_rpc_call *call, int status) {
  Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
  return ls_rpc_call_send(call, &response.base);
}

static void handle_check(void *user, struct ls_rpc_call *call, const ProtobufCMessage *request) {
  const struct ls_rpc_server *server = user;
  if (!is_known(server, request)) {
    ls_rpc_call_finish(call, LS_RPC_NOT_FOUND, "there is no such service here");
    return;
  }
  ls_status status = send_status(call, status_of(server, true));
  ls_rpc_call_finish(call, ls_rpc_code_of(status), NULL);
}

// Sends the status if it is not the one that the peer has. What a slow reader misses in between, it need not know.
static void tell(void *user, struct ls_rpc_call *call) {
  struct ls_rpc_watcher *watcher = user;
  int status = status_of(watcher->server, watcher->known);
  if (status != watcher->told && send_status(call, status) == LS_OK) watcher->told = status;
}

static void forget(struct ls_rpc_watcher *watcher) {
  *watcher->link = watcher->next;
  if (watcher->next) watcher->next->link = watcher->link;
  free(watcher);
}

static void on_closed(void *user, struct ls_rpc_call *call) {
  (void)call;
  forget(user);
}

static void handle_watch(void *user, struct ls_rpc_call *call, const ProtobufCMessage *request) {
  struct ls_rpc_server *server = user;
  struct ls_rpc_watcher *watcher = calloc(1, sizeof *watcher);
  if (!watcher) {
    ls_rpc_call_finish(call, LS_RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
    return;
  }
  *watcher = (struct ls_rpc_watcher){.server = server, .call = call, .known = is_known(server, request), .told = -1};
  watcher->link = &server->watchers;
  watcher->next = server->watchers;
  if (watcher->next) watcher->next->link = &watcher->next;
  server->watchers = watcher;
  ls_rpc_call_on(call, watcher, on_closed, tell);
  tell(watcher, call);
}

void ls_rpc_server_set_serving(struct ls_rpc_server *server, bool serving) {
  server->serving = serving;
  for (struct ls_rpc_watcher *watcher = server->watchers; watcher; watcher = watcher->next) {
    tell(watcher, watcher->call);
  }
}

void ls_rpc_health_stop(struct ls_rpc_server *server) {
  ls_rpc_server_set_serving(server, false);
  while (server->watchers) {
    struct ls_rpc_watcher *watcher = server->watchers;
    ls_rpc_call_finish(watcher->call, LS_RPC_UNAVAILABLE, "the server is stopping");
    forget(watcher);
  }
}

size_t ls_rpc_health_entries(struct ls_rpc_server *server, struct ls_rpc_entry *entries) {
  static const char service[] = "grpc.health.v1.Health";
  const ProtobufCMessageDescriptor *request = &grpc__health__v1__health_check_request__descriptor,
                                   *response = &grpc__health__v1__health_check_response__descriptor;
  entries[0] = (struct ls_rpc_entry){{service, "Check", request, response, false, handle_check}, server, false};
  entries[1] = (struct ls_rpc_entry){{service, "Watch", request, response, true, handle_watch}, server, false};
  return 2;
}
