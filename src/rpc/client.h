// gRPC client over a Unix socket: blocking, for command-line programs. One connection and its calls belong to one
// thread.
#ifndef LS_RPC_CLIENT_H
#define LS_RPC_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "base/error.h"

struct ls_rpc_client;

// `address`: "unix:/path" or "/path". Errors say whether the daemon is not running or the socket may not be opened.
ls_status ls_rpc_client_connect(const char *address, struct ls_rpc_client **client, struct ls_error *err);
void ls_rpc_client_free(struct ls_rpc_client *client);

// One request, one response. `method`: "/lockstep.v1.Lockstep/Submit". The caller frees *response with
// protobuf_c_message_free_unpacked. timeout_ms 0: none.
ls_status ls_rpc_client_call(struct ls_rpc_client *client, const char *method, const ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *response_type, ProtobufCMessage **response,
                             unsigned timeout_ms, struct ls_error *err);

// A server stream: `message` is called for each response (valid during the call); returning false cancels the stream
// (then LS_CANCELLED is returned). Returns when the stream ends.
ls_status ls_rpc_client_stream(struct ls_rpc_client *client, const char *method, const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *response_type,
                               bool (*message)(void *user, const ProtobufCMessage *response), void *user,
                               struct ls_error *err);

#endif
