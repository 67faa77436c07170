// The blocking client: an nghttp2 session on a Unix socket, driven by poll(2) for as long as one call takes.
//
// Nothing runs between calls; frames that the server sends then (pings, GOAWAY) are dealt with at the next call. A
// caller that handles messages slowly slows the server down, because nothing is read meanwhile.
#include "rpc/client.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "rpc/internal.h"

enum { WINDOW_BYTES = 1 << 20, RESPONSE_LIMIT_BYTES = 64 << 20, READ_BYTES = 65536 };

// The call that is running.
struct client_call {
  int32_t stream;
  struct ls_rpc_buffer request, in;
  int http_status;
  int code;  // grpc-status; -1 until it comes
  char message[LS_ERROR_TEXT_BYTES];
  bool closed;
  uint32_t reset_code;
  bool failed;  // out of memory
};

struct ls_rpc_client {
  int fd;
  char *path;
  nghttp2_session *session;
  struct client_call *call;  // NULL between calls
  uint8_t read_buffer[READ_BYTES];
};

// ---- what nghttp2 asks and tells

static struct client_call *call_of(struct ls_rpc_client *client, int32_t stream) {
  return client->call && client->call->stream == stream ? client->call : NULL;
}

static ssize_t on_send(nghttp2_session *session, const uint8_t *data, size_t size, int flags, void *user) {
  (void)session, (void)flags;
  struct ls_rpc_client *client = user;
  ssize_t sent;
  do {
    sent = send(client->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return sent;
  return errno == EAGAIN || errno == EWOULDBLOCK ? NGHTTP2_ERR_WOULDBLOCK : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static ssize_t on_body_wanted(nghttp2_session *session, int32_t stream, uint8_t *place, size_t size, uint32_t *flags,
                              nghttp2_data_source *source, void *user) {
  (void)session, (void)source;
  struct client_call *call = call_of(user, stream);
  if (!call) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // given up with its request half sent
  size_t waiting = ls_rpc_buffer_size(&call->request);
  if (size > waiting) size = waiting;
  memcpy(place, ls_rpc_buffer_data(&call->request), size);
  ls_rpc_buffer_take(&call->request, size);
  if (size == waiting) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)size;
}

static bool is(const uint8_t *text, size_t size, const char *wanted) {
  return size == strlen(wanted) && memcmp(text, wanted, size) == 0;
}

static int number_of(const uint8_t *text, size_t size) {
  int value = 0;
  if (size == 0 || size > 4) return LS_RPC_UNKNOWN;
  for (size_t i = 0; i < size; i++) {
    if (text[i] < '0' || text[i] > '9') return LS_RPC_UNKNOWN;
    value = 10 * value + (text[i] - '0');
  }
  return value;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
  (void)session, (void)flags;
  struct client_call *call = call_of(user, frame->hd.stream_id);
  if (!call) return 0;
  if (is(name, name_size, ":status")) {
    call->http_status = number_of(value, value_size);
  } else if (is(name, name_size, "grpc-status")) {
    call->code = number_of(value, value_size);
  } else if (is(name, name_size, "grpc-message")) {
    ls_rpc_percent_decode(value, value_size, call->message, sizeof call->message);
  }
  return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                         void *user) {
  (void)session, (void)flags;
  struct client_call *call = call_of(user, stream);
  if (call && !ls_rpc_buffer_add(&call->in, data, size)) call->failed = true;
  return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error_code, void *user) {
  (void)session;
  struct client_call *call = call_of(user, stream);
  if (call) {
    call->closed = true;
    call->reset_code = error_code;
  }
  return 0;
}

// ---- connecting

static ls_status open_session(struct ls_rpc_client *client) {
  nghttp2_session_callbacks *callbacks;
  if (nghttp2_session_callbacks_new(&callbacks)) return LS_NO_MEMORY;
  nghttp2_session_callbacks_set_send_callback(callbacks, on_send);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
  int failed = nghttp2_session_client_new(&client->session, callbacks, client);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES},
  };
  if (failed || nghttp2_submit_settings(client->session, NGHTTP2_FLAG_NONE, settings, 2)) return LS_NO_MEMORY;
  return nghttp2_session_set_local_window_size(client->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES) ? LS_NO_MEMORY
                                                                                                    : LS_OK;
}

static ls_status fail_connect(int error_number, const char *path, struct ls_error *err) {
  switch (error_number) {
    case ENOENT: return ls_fail(err, LS_UNAVAILABLE, "the daemon is not running: there is no socket '%s'", path);
    case ECONNREFUSED:
      return ls_fail(err, LS_UNAVAILABLE, "the daemon is not running: nobody listens on the socket '%s'", path);
    case EACCES:
    case EPERM:
      return ls_fail(err, LS_UNAVAILABLE, "this user may not open the daemon's socket '%s': permission denied", path);
    case EAGAIN:
      return ls_fail(err, LS_UNAVAILABLE, "the daemon does not answer on '%s': too many clients are waiting", path);
    default: ls_fail_errno(err, error_number, "cannot connect to the daemon's socket '%s'", path);
  }
  if (err) err->status = LS_UNAVAILABLE;
  return LS_UNAVAILABLE;
}

ls_status ls_rpc_client_connect(const char *address, struct ls_rpc_client **out, struct ls_error *err) {
  *out = NULL;
  const char *path = strncmp(address, "unix:", 5) == 0 ? address + 5 : address;
  if (strncmp(path, "//", 2) == 0) path += 2;  // unix:///path
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  if (*path != '/' || strlen(path) >= sizeof name.sun_path) {
    return ls_fail(err, LS_INVALID,
                   "'%s' is no address of a daemon: it must be unix:/PATH or /PATH, the path at most %zu bytes long",
                   address, sizeof name.sun_path - 1);
  }
  memcpy(name.sun_path, path, strlen(path));
  struct ls_rpc_client *client = calloc(1, sizeof *client);
  if (!client) return ls_fail(err, LS_NO_MEMORY, "cannot connect to the daemon: out of memory");
  client->path = strdup(path);
  client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  ls_status status = LS_OK;
  if (client->fd < 0) {
    status = ls_fail_errno(err, errno, "cannot make a socket");
  } else if (connect(client->fd, (const struct sockaddr *)&name, sizeof name)) {
    status = fail_connect(errno, path, err);
  } else if (!client->path || open_session(client)) {
    status = ls_fail(err, LS_NO_MEMORY, "cannot connect to the daemon: out of memory");
  }
  if (status != LS_OK) {
    ls_rpc_client_free(client);
    return status;
  }
  *out = client;
  return LS_OK;
}

void ls_rpc_client_free(struct ls_rpc_client *client) {
  if (!client) return;
  if (client->session) {
    // A polite farewell if the socket takes it; nobody waits for an answer.
    nghttp2_session_terminate_session(client->session, NGHTTP2_NO_ERROR);
    nghttp2_session_send(client->session);
    nghttp2_session_del(client->session);
  }
  if (client->fd >= 0) close(client->fd);
  free(client->path);
  free(client);
}

// ---- a call

static ls_status lost(const struct ls_rpc_client *client, struct ls_error *err) {
  return ls_fail(err, LS_UNAVAILABLE, "the connection to the daemon at '%s' broke", client->path);
}

static ls_status begin(struct ls_rpc_client *client, struct client_call *call, const char *method,
                       const ProtobufCMessage *request, unsigned timeout_ms, struct ls_error *err) {
  if (ls_rpc_frame_add(&call->request, request)) {
    return ls_fail(err, LS_NO_MEMORY, "cannot call %s: out of memory", method);
  }
  char timeout[LS_RPC_TIMEOUT_BYTES];
  ls_rpc_timeout_format(timeout_ms, timeout);
  nghttp2_nv headers[] = {
      ls_rpc_header(":method", "POST"),        ls_rpc_header(":scheme", "http"),
      ls_rpc_header(":path", method),          ls_rpc_header(":authority", "localhost"),
      ls_rpc_header("te", "trailers"),         ls_rpc_header("content-type", "application/grpc"),
      ls_rpc_header("user-agent", "lockstep"), ls_rpc_header("grpc-timeout", timeout),
  };
  size_t count = sizeof headers / sizeof *headers - (timeout_ms ? 0 : 1);
  nghttp2_data_provider body = {{0}, on_body_wanted};
  call->stream = nghttp2_submit_request(client->session, NULL, headers, count, &body, NULL);
  if (call->stream < 0) return lost(client, err);
  client->call = call;
  return LS_OK;
}

// Sends and receives what there is; waits for at least something until `deadline_ns` (0: for ever), then LS_TIMEOUT, for
// which the caller has the words.
static ls_status turn(struct ls_rpc_client *client, int64_t deadline_ns, struct ls_error *err) {
  if (nghttp2_session_send(client->session)) return lost(client, err);
  if (client->call->closed) return LS_OK;
  if (!nghttp2_session_want_read(client->session)) return lost(client, err);
  int wait_ms = -1;
  if (deadline_ns) {
    int64_t left_ns = deadline_ns - ls_clock_ns();
    if (left_ns <= 0) return LS_TIMEOUT;
    wait_ms = (int)((left_ns + 999999) / 1000000);
  }
  struct pollfd wait = {.fd = client->fd, .events = POLLIN};
  if (nghttp2_session_want_write(client->session)) wait.events |= POLLOUT;
  int ready = poll(&wait, 1, wait_ms);
  if (ready < 0 && errno != EINTR) return ls_fail_errno(err, errno, "cannot wait for the daemon");
  if (ready <= 0 || !(wait.revents & ~POLLOUT)) return LS_OK;
  ssize_t size = recv(client->fd, client->read_buffer, sizeof client->read_buffer, MSG_DONTWAIT);
  if (size < 0 && (errno == EINTR || errno == EAGAIN)) return LS_OK;
  if (size <= 0) return lost(client, err);
  ssize_t taken = nghttp2_session_mem_recv(client->session, client->read_buffer, (size_t)size);
  return taken == size ? LS_OK : lost(client, err);
}

// The next message if a whole one is there (LS_OK with NULL: not yet).
static ls_status next_message(struct client_call *call, const ProtobufCMessageDescriptor *type,
                              ProtobufCMessage **message, struct ls_error *err) {
  *message = NULL;
  if (call->failed) return ls_fail(err, LS_NO_MEMORY, "cannot receive the daemon's answer: out of memory");
  size_t size = ls_rpc_buffer_size(&call->in);
  if (size < LS_RPC_PREFIX_BYTES) return LS_OK;
  const uint8_t *prefix = ls_rpc_buffer_data(&call->in);
  uint32_t length = ls_rpc_frame_length(prefix);
  if (prefix[0] != 0 || length > RESPONSE_LIMIT_BYTES) {
    return ls_fail(err, LS_INTERNAL,
                   "the daemon's answer cannot be read: compression flag %u, %u bytes; allowed are 0, %d", prefix[0],
                   length, (int)RESPONSE_LIMIT_BYTES);
  }
  if (size - LS_RPC_PREFIX_BYTES < length) return LS_OK;
  *message = protobuf_c_message_unpack(type, NULL, length, prefix + LS_RPC_PREFIX_BYTES);
  ls_rpc_buffer_take(&call->in, LS_RPC_PREFIX_BYTES + length);
  return *message ? LS_OK : ls_fail(err, LS_INTERNAL, "the daemon's answer is no readable %s message", type->name);
}

// What the closed stream's trailers say.
static ls_status outcome(const struct client_call *call, const char *method, struct ls_error *err) {
  if (call->code < 0 && call->reset_code != NGHTTP2_NO_ERROR) {
    ls_status status = call->reset_code == NGHTTP2_REFUSED_STREAM ? LS_UNAVAILABLE : LS_INTERNAL;
    return ls_fail(err, status, "the daemon broke off %s: %s", method, nghttp2_http2_strerror(call->reset_code));
  }
  if (call->code < 0) {
    return ls_fail(err, LS_INTERNAL, "what answered %s is no gRPC server (HTTP status %d)", method, call->http_status);
  }
  if (call->code == LS_RPC_OK) return LS_OK;
  ls_status status = ls_rpc_status_of((enum ls_rpc_code)call->code);
  if (call->message[0]) return ls_fail(err, status, "%s", call->message);
  return ls_fail(err, status, "the daemon answered %s with %s", method, ls_rpc_code_name((enum ls_rpc_code)call->code));
}

// Gives up what still runs of the call.
static void end(struct ls_rpc_client *client, struct client_call *call) {
  if (client->call && !call->closed) {
    nghttp2_submit_rst_stream(client->session, NGHTTP2_FLAG_NONE, call->stream, NGHTTP2_CANCEL);
    nghttp2_session_send(client->session);
  }
  client->call = NULL;
  ls_rpc_buffer_release(&call->request);
  ls_rpc_buffer_release(&call->in);
}

ls_status ls_rpc_client_call(struct ls_rpc_client *client, const char *method, const ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *response_type, ProtobufCMessage **response,
                             unsigned timeout_ms, struct ls_error *err) {
  *response = NULL;
  struct client_call call = {.code = -1};
  int64_t deadline_ns = timeout_ms ? ls_clock_ns() + (int64_t)timeout_ms * 1000000 : 0;
  ls_status status = begin(client, &call, method, request, timeout_ms, err);
  while (status == LS_OK && !call.closed) {
    status = turn(client, deadline_ns, err);
    if (status == LS_TIMEOUT) ls_fail(err, status, "the daemon did not answer %s within %u ms", method, timeout_ms);
    // A second message would be the server's mistake; it is left unread.
    if (status == LS_OK && !*response) status = next_message(&call, response_type, response, err);
  }
  if (status == LS_OK) status = outcome(&call, method, err);
  if (status == LS_OK && !*response) status = ls_fail(err, LS_INTERNAL, "the daemon answered %s with nothing", method);
  end(client, &call);
  if (status != LS_OK && *response) {
    protobuf_c_message_free_unpacked(*response, NULL);
    *response = NULL;
  }
  return status;
}

ls_status ls_rpc_client_stream(struct ls_rpc_client *client, const char *method, const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *response_type,
                               bool (*message)(void *user, const ProtobufCMessage *response), void *user,
                               struct ls_error *err) {
  struct client_call call = {.code = -1};
  ls_status status = begin(client, &call, method, request, 0, err);
  while (status == LS_OK && !call.closed) {
    status = turn(client, 0, err);
    ProtobufCMessage *response = NULL;
    while (status == LS_OK && (status = next_message(&call, response_type, &response, err)) == LS_OK && response) {
      if (!message(user, response)) status = ls_fail(err, LS_CANCELLED, "%s was given up", method);
      protobuf_c_message_free_unpacked(response, NULL);
    }
  }
  if (status == LS_OK) status = outcome(&call, method, err);
  end(client, &call);
  return status;
}
