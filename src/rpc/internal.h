// What the files of src/rpc share. Layers, from the socket up:
//   server.c      methods, life cycle          listen.c      sockets to listen on
//   connection.c  one nghttp2 session on one uv_pipe_t
//   call.c        one call: a stream's request and answer
//   health.c, reflection.c   the built-in services, written as handlers of calls
//   frame.c       gRPC's own bytes: message prefix, percent-encoding, timeouts      status.c  codes <-> ls_status
//   client.c      the blocking client; shares frame.c and status.c only
//
// Nothing is written to a socket inside the functions that handlers call (send, finish ...): they hand frames to nghttp2
// and mark the connection; all marked connections are flushed once before and once after the loop polls. So a call or a
// connection never disappears while a function of server.h runs, and `closed` and `writable` come from the loop only.
#ifndef LS_RPC_INTERNAL_H
#define LS_RPC_INTERNAL_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "rpc/server.h"

// ---- frame.c

enum {
  LS_RPC_PREFIX_BYTES = 5,                  // a message's prefix: compression flag, length (big-endian)
  LS_RPC_TIMEOUT_BYTES = 16,                // text of a grpc-timeout
  LS_RPC_QUEUE_LIMIT_BYTES = 4 << 20,       // what may wait for a slow reader of one call
  LS_RPC_HEADER_LIMIT_BYTES = 16384,        // a request's header list, counted as in SETTINGS_MAX_HEADER_LIST_SIZE
  LS_RPC_DECODE_BUDGET_BYTES = 64 << 20,    // what a message may take in memory once unpacked
  LS_RPC_BUFFERED_LIMIT_BYTES = 256 << 20,  // incomplete requests of all connections together
};

// Bytes that come in at the end and go out at the front.
struct ls_rpc_buffer {
  uint8_t *data;
  size_t begin, end, capacity;
};

bool ls_rpc_buffer_add(struct ls_rpc_buffer *buffer, const void *data, size_t size);
uint8_t *ls_rpc_buffer_grow(struct ls_rpc_buffer *buffer, size_t size);  // adds `size` bytes to be written; or NULL
void ls_rpc_buffer_take(struct ls_rpc_buffer *buffer, size_t size);
void ls_rpc_buffer_release(struct ls_rpc_buffer *buffer);
static inline size_t ls_rpc_buffer_size(const struct ls_rpc_buffer *buffer) { return buffer->end - buffer->begin; }
static inline uint8_t *ls_rpc_buffer_data(const struct ls_rpc_buffer *buffer) { return buffer->data + buffer->begin; }

// Appends prefix and packed message. LS_INVALID above 2 GiB.
ls_status ls_rpc_frame_add(struct ls_rpc_buffer *buffer, const ProtobufCMessage *message);
// The length in a prefix.
uint32_t ls_rpc_frame_length(const uint8_t *prefix);
// Unpacks with a budget of memory; NULL when the bytes are no such message. protobuf_c_message_free_unpacked frees it.
ProtobufCMessage *ls_rpc_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size);

// grpc-message: percent-encoding of everything but printable ASCII, and back. The caller frees; NULL without memory.
char *ls_rpc_percent_encode(const char *text);
void ls_rpc_percent_decode(const uint8_t *text, size_t size, char *out, size_t out_bytes);

// grpc-timeout to milliseconds, rounded up; -1 when it is not one.
int64_t ls_rpc_timeout_parse(const uint8_t *text, size_t size);
void ls_rpc_timeout_format(unsigned timeout_ms, char text[LS_RPC_TIMEOUT_BYTES]);

nghttp2_nv ls_rpc_header(const char *name, const char *value);

// ---- status.c

// "INVALID_ARGUMENT"; "UNKNOWN" for what is no code.
const char *ls_rpc_code_name(enum ls_rpc_code code);

// ---- server.c

// A method as the server finds it.
struct ls_rpc_entry {
  struct ls_rpc_method method;
  void *user;
  // `handle` is called for every message and answers each; the call ends after the client's last. Built-in methods only.
  bool bidirectional;
};

struct ls_rpc_listener {
  uv_pipe_t pipe;
  struct ls_rpc_server *server;
  struct ls_rpc_listener *next;
  bool waiting;  // a connection could not be accepted for want of memory
  char *path;
  dev_t device;  // with `inode`: the socket file that is ours to remove
  ino_t inode;
};

struct ls_rpc_server {
  uv_loop_t *loop;
  struct ls_rpc_entry *entries;
  size_t entry_count;
  size_t max_request_bytes;
  unsigned max_connections, max_streams;

  struct ls_rpc_listener *listeners;
  struct ls_rpc_connection *connections;
  unsigned connection_count;
  size_t buffered_bytes;  // of incomplete requests
  uv_prepare_t prepare;   // flushes before the loop polls
  uv_check_t check;       // flushes after
  bool started;           // prepare and check are open
  bool flush_wanted;      // some connection is marked
  uint8_t *read_buffer;   // shared by all reads
  nghttp2_session_callbacks *callbacks;
  nghttp2_option *option;

  bool serving;
  struct ls_rpc_watcher *watchers;       // health.c
  struct ls_rpc_reflection *reflection;  // reflection.c; NULL: none

  bool stopping;
  unsigned open_handles;  // of the server itself: listeners, prepare, check, timer
  uv_timer_t drain;
  void (*done)(void *user);
  void *done_user;
};

const struct ls_rpc_entry *ls_rpc_server_find(const struct ls_rpc_server *server, const char *path);
bool ls_rpc_server_has_service(const struct ls_rpc_server *server, const char *name);
// A connection's handles are closed and its memory is free.
void ls_rpc_server_connection_gone(struct ls_rpc_server *server);

// ---- listen.c

ls_status ls_rpc_listener_open(struct ls_rpc_server *server, const char *path, unsigned mode, struct ls_error *err);
// Removes the socket file unless it is somebody else's by now.
void ls_rpc_listener_remove_file(const struct ls_rpc_listener *listener);

// ---- connection.c

enum { LS_RPC_READ_BYTES = 65536, LS_RPC_USER_BYTES = 256 };

struct ls_rpc_connection {
  struct ls_rpc_server *server;
  struct ls_rpc_connection *next, *previous;
  uv_pipe_t pipe;
  uv_timer_t timer;  // for the peer to show that it speaks HTTP/2, and for it to close the socket at the end
  nghttp2_session *session;
  struct ls_rpc_call *calls;
  struct ls_rpc_buffer out;  // being written
  uv_write_t write;
  bool writing;
  bool paused;   // not reading: the peer makes us answer faster than it reads
  bool marked;   // has frames to send
  bool closing;  // session and calls are gone
  bool hung_up;  // the handles are being closed
  uv_shutdown_t shutdown;
  unsigned open_handles;
  char user[LS_RPC_USER_BYTES];  // filled when first asked for
};

ls_status ls_rpc_session_callbacks_new(nghttp2_session_callbacks **callbacks, nghttp2_option **option);
// False without memory; libuv tells of no further connection then until this one is accepted.
bool ls_rpc_connection_accept(struct ls_rpc_server *server, uv_stream_t *listener);
void ls_rpc_connection_mark(struct ls_rpc_connection *connection);
void ls_rpc_connection_flush(struct ls_rpc_connection *connection);
void ls_rpc_connection_close(struct ls_rpc_connection *connection);
const char *ls_rpc_connection_user(struct ls_rpc_connection *connection);

// ---- call.c

struct ls_rpc_deadline;

struct ls_rpc_call {
  struct ls_rpc_connection *connection;
  struct ls_rpc_call *next, *previous;  // of the connection
  int32_t stream;
  const struct ls_rpc_entry *entry;  // NULL until the headers are checked
  // The request's headers.
  char *path;
  char encoding[32];
  int64_t timeout_ms;  // -1: none
  size_t header_bytes;
  bool is_post, is_grpc, bad_timeout;
  // The request.
  struct ls_rpc_buffer in;
  size_t counted_bytes;  // of `in`, counted in the server's buffered_bytes
  ProtobufCMessage *request;
  bool half_closed;  // the peer has sent everything
  bool handled;      // the handler has been called
  // The answer.
  struct ls_rpc_buffer out;
  size_t sent;  // messages
  bool headers_sent;
  bool emptied;   // `out` has become empty: tell `writable`
  bool finished;  // no handler may be told anything any more
  enum ls_rpc_code code;
  char *text;  // grpc-message, encoded; NULL: none
  struct ls_rpc_deadline *deadline;
  // The handler's.
  void *user;
  void (*closed)(void *user, struct ls_rpc_call *call);
  void (*writable)(void *user, struct ls_rpc_call *call);
};

struct ls_rpc_call *ls_rpc_call_new(struct ls_rpc_connection *connection, int32_t stream);
// False: more than any client sends; the stream is to be reset.
bool ls_rpc_call_header(struct ls_rpc_call *call, const uint8_t *name, size_t name_size, const uint8_t *value,
                        size_t value_size);
void ls_rpc_call_headers_end(struct ls_rpc_call *call);
void ls_rpc_call_data(struct ls_rpc_call *call, const uint8_t *data, size_t size);
void ls_rpc_call_half_close(struct ls_rpc_call *call);
void ls_rpc_call_emptied(struct ls_rpc_call *call);
// The stream is gone: tells the handler if it has not finished, and frees the call.
void ls_rpc_call_gone(struct ls_rpc_call *call);
// Tells the handler that the call is over, and ends it with `code`.
void ls_rpc_call_abort(struct ls_rpc_call *call, enum ls_rpc_code code, const char *text);

// ---- health.c, reflection.c

enum { LS_RPC_HEALTH_ENTRIES = 2, LS_RPC_REFLECTION_ENTRIES = 2 };

// Write the methods of a built-in service to `entries`; return how many.
size_t ls_rpc_health_entries(struct ls_rpc_server *server, struct ls_rpc_entry *entries);
size_t ls_rpc_reflection_entries(struct ls_rpc_server *server, struct ls_rpc_entry *entries);
// NOT_SERVING from now on, and the end of every Watch.
void ls_rpc_health_stop(struct ls_rpc_server *server);

#endif
