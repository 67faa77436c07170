// gRPC server: HTTP/2 by nghttp2, messages by protobuf-c, on the caller's libuv loop.
//
// All functions belong to the loop's thread. The server owns connections and calls; a method handler gets a call and
// answers now or later. The standard health and reflection services are built in.
#ifndef LS_RPC_SERVER_H
#define LS_RPC_SERVER_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <uv.h>

#include "base/error.h"

struct ls_rpc_server;
struct ls_rpc_call;

// gRPC status codes (grpc.io, "Status codes and their use in gRPC").
enum ls_rpc_code {
  LS_RPC_OK = 0,
  LS_RPC_CANCELLED = 1,
  LS_RPC_UNKNOWN = 2,
  LS_RPC_INVALID_ARGUMENT = 3,
  LS_RPC_DEADLINE_EXCEEDED = 4,
  LS_RPC_NOT_FOUND = 5,
  LS_RPC_ALREADY_EXISTS = 6,
  LS_RPC_PERMISSION_DENIED = 7,
  LS_RPC_RESOURCE_EXHAUSTED = 8,
  LS_RPC_FAILED_PRECONDITION = 9,
  LS_RPC_ABORTED = 10,
  LS_RPC_OUT_OF_RANGE = 11,
  LS_RPC_UNIMPLEMENTED = 12,
  LS_RPC_INTERNAL = 13,
  LS_RPC_UNAVAILABLE = 14,
  LS_RPC_DATA_LOSS = 15,
  LS_RPC_UNAUTHENTICATED = 16,
};

enum ls_rpc_code ls_rpc_code_of(ls_status status);
ls_status ls_rpc_status_of(enum ls_rpc_code code);

struct ls_rpc_method {
  const char *service;  // "lockstep.v1.Lockstep"
  const char *name;     // "Submit"
  const ProtobufCMessageDescriptor *request;
  const ProtobufCMessageDescriptor *response;
  bool server_streaming;
  // Called once with the whole request (valid until the call is finished). Must lead, now or later, to
  // ls_rpc_call_finish, exactly once, unless `closed` comes first.
  void (*handle)(void *user, struct ls_rpc_call *call, const ProtobufCMessage *request);
};

struct ls_rpc_server_options {
  const struct ls_rpc_method *methods;
  size_t method_count;
  void *user;                     // first argument of every handler
  const uint8_t *descriptor_set;  // serialized google.protobuf.FileDescriptorSet for reflection, not copied; NULL: none
  size_t descriptor_set_bytes;
  size_t max_request_bytes;  // 0: 1 MiB
  unsigned max_connections;  // 0: 256
  unsigned max_streams;      // a connection; 0: 100
};

ls_status ls_rpc_server_new(uv_loop_t *loop, const struct ls_rpc_server_options *options, struct ls_rpc_server **server,
                            struct ls_error *err);
// Unix socket at `path` with `mode`; a stale socket file nobody listens on is replaced. Makes the process ignore SIGPIPE
// unless it has a handler for it (children that uv_spawn starts have the default again).
ls_status ls_rpc_server_listen_unix(struct ls_rpc_server *server, const char *path, unsigned mode,
                                    struct ls_error *err);
// Overall health: SERVING or NOT_SERVING for "" and every service.
void ls_rpc_server_set_serving(struct ls_rpc_server *server, bool serving);
// Stops listening, sends GOAWAY, ends calls after `drain_ms`, then calls `done`.
void ls_rpc_server_shutdown(struct ls_rpc_server *server, unsigned drain_ms, void (*done)(void *user), void *user);
void ls_rpc_server_free(struct ls_rpc_server *server);  // after shutdown's `done`, or when never listened

// Sends one message (copied). On a unary call exactly one, before finish.
// LS_UNAVAILABLE when more than 4 MiB wait for a slow reader: this message was not taken, send it again at `writable`.
ls_status ls_rpc_call_send(struct ls_rpc_call *call, const ProtobufCMessage *message);
// Ends the call; `message` may be NULL. The call is invalid afterwards.
void ls_rpc_call_finish(struct ls_rpc_call *call, enum ls_rpc_code code, const char *message);
// Finishes with the code and text of `err`.
void ls_rpc_call_fail(struct ls_rpc_call *call, const struct ls_error *err);
// For streams: `closed` when the peer is gone, cancelled or past its deadline (the call is invalid afterwards; not
// called after finish); `writable` when the outgoing queue has emptied.
void ls_rpc_call_on(struct ls_rpc_call *call, void *user, void (*closed)(void *user, struct ls_rpc_call *call),
                    void (*writable)(void *user, struct ls_rpc_call *call));
// Name of the user on the other side of a Unix socket (SO_PEERCRED), "uid N" when it has none; "" elsewhere.
const char *ls_rpc_call_peer_user(const struct ls_rpc_call *call);

#endif
