// One call of the server: checks the request's headers, puts the message together, calls the handler, and turns what
// the handler says into frames. See internal.h; what each mistake of a client is answered with follows grpc.io's
// "Status codes and their use in gRPC" and "gRPC over HTTP2".
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/internal.h"

// Lives until its timer is closed, which is after the call.
struct ls_rpc_deadline {
  uv_timer_t timer;
  struct ls_rpc_call *call;
};

// ---- the answer

static void on_deadline_closed(uv_handle_t *handle) { free(handle->data); }

static void stop_deadline(struct ls_rpc_call *call) {
  if (!call->deadline) return;
  uv_close((uv_handle_t *)&call->deadline->timer, on_deadline_closed);
  call->deadline = NULL;
}

// A response of headers only, which ends the stream.
static void submit_trailers_only(struct ls_rpc_call *call, const char *http_status) {
  char code[12];
  snprintf(code, sizeof code, "%d", (int)call->code);
  nghttp2_nv headers[] = {
      ls_rpc_header(":status", http_status),
      ls_rpc_header("content-type", "application/grpc"),
      ls_rpc_header("grpc-accept-encoding", "identity"),
      ls_rpc_header("grpc-status", code),
      ls_rpc_header("grpc-message", call->text ? call->text : ""),
  };
  size_t count = sizeof headers / sizeof *headers - (call->text ? 0 : 1);
  nghttp2_submit_headers(call->connection->session, NGHTTP2_FLAG_END_STREAM, call->stream, NULL, headers, count, NULL);
  call->headers_sent = true;
}

static void end_call(struct ls_rpc_call *call, enum ls_rpc_code code, const char *text, const char *http_status) {
  call->finished = true;
  call->code = code;
  call->text = text && *text ? ls_rpc_percent_encode(text) : NULL;
  stop_deadline(call);
  if (call->connection->closing) return;
  if (call->headers_sent) {
    nghttp2_session_resume_data(call->connection->session, call->stream);
  } else {
    submit_trailers_only(call, http_status);
  }
  ls_rpc_connection_mark(call->connection);
}

// Ends a call that no handler has heard of.
static void reject(struct ls_rpc_call *call, enum ls_rpc_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void reject(struct ls_rpc_call *call, enum ls_rpc_code code, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (!call->finished) end_call(call, code, text, "200");
}

static ssize_t on_body_wanted(nghttp2_session *session, int32_t stream, uint8_t *place, size_t size, uint32_t *flags,
                              nghttp2_data_source *source, void *user) {
  (void)user;
  struct ls_rpc_call *call = source->ptr;
  size_t waiting = ls_rpc_buffer_size(&call->out);
  if (!waiting && !call->finished) return NGHTTP2_ERR_DEFERRED;
  if (size > waiting) size = waiting;
  if (size) {
    memcpy(place, ls_rpc_buffer_data(&call->out), size);
    ls_rpc_buffer_take(&call->out, size);
  }
  if (ls_rpc_buffer_size(&call->out)) return (ssize_t)size;
  call->emptied = true;
  if (!call->finished) return (ssize_t)size;
  *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
  char code[12];
  snprintf(code, sizeof code, "%d", (int)call->code);
  nghttp2_nv trailers[] = {ls_rpc_header("grpc-status", code),
                           ls_rpc_header("grpc-message", call->text ? call->text : "")};
  if (nghttp2_submit_trailer(session, stream, trailers, call->text ? 2 : 1)) {
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  }
  return (ssize_t)size;
}

static ls_status begin_response(struct ls_rpc_call *call) {
  nghttp2_nv headers[] = {
      ls_rpc_header(":status", "200"),
      ls_rpc_header("content-type", "application/grpc"),
      ls_rpc_header("grpc-accept-encoding", "identity"),
  };
  nghttp2_data_provider body = {{.ptr = call}, on_body_wanted};
  if (nghttp2_submit_response(call->connection->session, call->stream, headers, 3, &body)) return LS_NO_MEMORY;
  call->headers_sent = true;
  return LS_OK;
}

ls_status ls_rpc_call_send(struct ls_rpc_call *call, const ProtobufCMessage *message) {
  if (call->finished || (call->sent && !call->entry->method.server_streaming)) return LS_INVALID;
  if (call->connection->closing) return LS_OK;  // `closed` is about to be called
  if (ls_rpc_buffer_size(&call->out) > LS_RPC_QUEUE_LIMIT_BYTES) return LS_UNAVAILABLE;
  LS_TRY(ls_rpc_frame_add(&call->out, message));
  call->sent++;
  call->emptied = false;
  if (call->headers_sent) {
    nghttp2_session_resume_data(call->connection->session, call->stream);
  } else {
    LS_TRY(begin_response(call));
  }
  ls_rpc_connection_mark(call->connection);
  return LS_OK;
}

void ls_rpc_call_finish(struct ls_rpc_call *call, enum ls_rpc_code code, const char *message) {
  if (call->finished) return;
  if (code == LS_RPC_OK && !call->sent && !call->entry->method.server_streaming) {
    code = LS_RPC_INTERNAL;
    message = "the server's handler gave no answer";
  }
  end_call(call, code, message, "200");
}

void ls_rpc_call_fail(struct ls_rpc_call *call, const struct ls_error *err) {
  enum ls_rpc_code code = ls_rpc_code_of(err->status);
  ls_rpc_call_finish(call, code == LS_RPC_OK ? LS_RPC_INTERNAL : code, err->text);
}

void ls_rpc_call_on(struct ls_rpc_call *call, void *user, void (*closed)(void *user, struct ls_rpc_call *call),
                    void (*writable)(void *user, struct ls_rpc_call *call)) {
  call->user = user;
  call->closed = closed;
  call->writable = writable;
}

const char *ls_rpc_call_peer_user(const struct ls_rpc_call *call) { return ls_rpc_connection_user(call->connection); }

// ---- the request

static void on_deadline(uv_timer_t *timer) {
  struct ls_rpc_deadline *deadline = timer->data;
  ls_rpc_call_abort(deadline->call, LS_RPC_DEADLINE_EXCEEDED, "the call's deadline has passed");
}

static void start_deadline(struct ls_rpc_call *call) {
  uv_loop_t *loop = call->connection->server->loop;
  struct ls_rpc_deadline *deadline = calloc(1, sizeof *deadline);
  if (!deadline) {
    reject(call, LS_RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
    return;
  }
  uv_timer_init(loop, &deadline->timer);
  deadline->timer.data = deadline;
  deadline->call = call;
  call->deadline = deadline;
  uv_update_time(loop);
  uv_timer_start(&deadline->timer, on_deadline, (uint64_t)call->timeout_ms, 0);
}

struct ls_rpc_call *ls_rpc_call_new(struct ls_rpc_connection *connection, int32_t stream) {
  struct ls_rpc_call *call = calloc(1, sizeof *call);
  if (!call) return NULL;
  call->connection = connection;
  call->stream = stream;
  call->timeout_ms = -1;
  call->next = connection->calls;
  if (call->next) call->next->previous = call;
  connection->calls = call;
  return call;
}

static bool is(const uint8_t *text, size_t size, const char *wanted) {
  return size == strlen(wanted) && memcmp(text, wanted, size) == 0;
}

// "application/grpc", "application/grpc+proto", and either with parameters.
static bool is_grpc_type(const uint8_t *text, size_t size) {
  static const char base[] = "application/grpc", proto[] = "+proto";
  if (size < sizeof base - 1 || memcmp(text, base, sizeof base - 1) != 0) return false;
  text += sizeof base - 1, size -= sizeof base - 1;
  if (size >= sizeof proto - 1 && memcmp(text, proto, sizeof proto - 1) == 0) {
    text += sizeof proto - 1, size -= sizeof proto - 1;
  }
  return size == 0 || *text == ';';
}

bool ls_rpc_call_header(struct ls_rpc_call *call, const uint8_t *name, size_t name_size, const uint8_t *value,
                        size_t value_size) {
  call->header_bytes += name_size + value_size + 32;
  // Up to here the call gets an answer that says so; beyond, a compressed header block may stand for megabytes.
  if (call->header_bytes > 4 * LS_RPC_HEADER_LIMIT_BYTES) return false;
  if (call->header_bytes > LS_RPC_HEADER_LIMIT_BYTES || call->entry) return true;
  if (is(name, name_size, ":path")) {
    free(call->path);
    call->path = strndup((const char *)value, value_size);
  } else if (is(name, name_size, ":method")) {
    call->is_post = is(value, value_size, "POST");
  } else if (is(name, name_size, "content-type")) {
    call->is_grpc = is_grpc_type(value, value_size);
  } else if (is(name, name_size, "grpc-encoding")) {
    snprintf(call->encoding, sizeof call->encoding, "%.*s", (int)value_size, (const char *)value);
  } else if (is(name, name_size, "grpc-timeout")) {
    call->timeout_ms = ls_rpc_timeout_parse(value, value_size);
    call->bad_timeout = call->timeout_ms < 0;
  }
  return true;
}

void ls_rpc_call_headers_end(struct ls_rpc_call *call) {
  const struct ls_rpc_server *server = call->connection->server;
  if (call->finished) return;  // the drain time ended between two frames of the headers
  if (call->header_bytes > LS_RPC_HEADER_LIMIT_BYTES) {
    reject(call, LS_RPC_RESOURCE_EXHAUSTED, "the request's headers take %zu bytes; allowed are %d", call->header_bytes,
           (int)LS_RPC_HEADER_LIMIT_BYTES);
  } else if (!call->is_post) {
    end_call(call, LS_RPC_UNKNOWN, "gRPC calls are POST requests", "405");
  } else if (!call->is_grpc) {
    end_call(call, LS_RPC_UNKNOWN, "the content type of a call must be application/grpc", "415");
  } else if (call->bad_timeout) {
    reject(call, LS_RPC_INTERNAL, "the grpc-timeout header is malformed");
  } else if (!call->path) {
    reject(call, LS_RPC_INTERNAL, "the request has no usable :path header");
  } else if (!(call->entry = ls_rpc_server_find(server, call->path))) {
    reject(call, LS_RPC_UNIMPLEMENTED, "there is no method '%s' here", call->path);
  } else if (server->stopping) {
    reject(call, LS_RPC_UNAVAILABLE, "the server is stopping");
  } else if (call->timeout_ms >= 0) {
    start_deadline(call);
  }
}

// Keeps the server's account of bytes in incomplete requests.
static void count(struct ls_rpc_call *call) {
  size_t size = ls_rpc_buffer_size(&call->in);
  call->connection->server->buffered_bytes += size - call->counted_bytes;
  call->counted_bytes = size;
}

// True: a whole message lies at the front of `in`. What is wrong with it ends the call.
static bool message_ready(struct ls_rpc_call *call) {
  size_t size = ls_rpc_buffer_size(&call->in), limit = call->connection->server->max_request_bytes;
  if (call->finished || size < LS_RPC_PREFIX_BYTES) return false;
  const uint8_t *prefix = ls_rpc_buffer_data(&call->in);
  uint32_t length = ls_rpc_frame_length(prefix);
  if (prefix[0] == 1 && call->encoding[0] && strcmp(call->encoding, "identity") != 0) {
    reject(call, LS_RPC_UNIMPLEMENTED, "messages compressed with '%s' are not supported", call->encoding);
  } else if (prefix[0] != 0) {
    reject(call, LS_RPC_INTERNAL, "the message's compression flag is %u, but no compression was declared", prefix[0]);
  } else if (length > limit) {
    reject(call, LS_RPC_RESOURCE_EXHAUSTED, "the request takes %u bytes; allowed are %zu", length, limit);
  } else {
    return size - LS_RPC_PREFIX_BYTES >= length;
  }
  return false;
}

// Unpacks the message at the front of `in`, or ends the call.
static ProtobufCMessage *take_message(struct ls_rpc_call *call) {
  const ProtobufCMessageDescriptor *type = call->entry->method.request;
  const uint8_t *prefix = ls_rpc_buffer_data(&call->in);
  uint32_t length = ls_rpc_frame_length(prefix);
  ProtobufCMessage *message = ls_rpc_unpack(type, prefix + LS_RPC_PREFIX_BYTES, length);
  ls_rpc_buffer_take(&call->in, LS_RPC_PREFIX_BYTES + length);
  count(call);
  if (!message) reject(call, LS_RPC_INTERNAL, "the request is no readable %s message", type->name);
  return message;
}

// Answers the messages of a bidirectional stream as far as the peer reads the answers. The rest stays in `in`, and the
// peer's window stays closed for it.
static void run_bidirectional(struct ls_rpc_call *call) {
  size_t before = ls_rpc_buffer_size(&call->in);
  while (ls_rpc_buffer_size(&call->out) <= LS_RPC_QUEUE_LIMIT_BYTES && message_ready(call)) {
    ProtobufCMessage *message = take_message(call);
    if (!message) break;
    call->handled = true;
    call->entry->method.handle(call->entry->user, call, message);
    protobuf_c_message_free_unpacked(message, NULL);
  }
  nghttp2_session_consume_stream(call->connection->session, call->stream, before - ls_rpc_buffer_size(&call->in));
  size_t left = ls_rpc_buffer_size(&call->in);
  if (!call->half_closed || call->finished || ls_rpc_buffer_size(&call->out) > LS_RPC_QUEUE_LIMIT_BYTES) return;
  if (left) {
    reject(call, LS_RPC_INTERNAL, "the stream ends within a message");
  } else {
    end_call(call, LS_RPC_OK, NULL, "200");
  }
}

void ls_rpc_call_data(struct ls_rpc_call *call, const uint8_t *data, size_t size) {
  struct ls_rpc_server *server = call->connection->server;
  bool bidirectional = call->entry && call->entry->bidirectional;
  if (call->finished) {
    nghttp2_session_consume_stream(call->connection->session, call->stream, size);
    return;
  }
  if (!ls_rpc_buffer_add(&call->in, data, size)) reject(call, LS_RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
  count(call);
  if (server->buffered_bytes > LS_RPC_BUFFERED_LIMIT_BYTES) {
    reject(call, LS_RPC_RESOURCE_EXHAUSTED, "too many requests are being received at once");
  }
  if (bidirectional) {
    run_bidirectional(call);
    return;
  }
  nghttp2_session_consume_stream(call->connection->session, call->stream, size);
  size_t whole = message_ready(call) ? LS_RPC_PREFIX_BYTES + ls_rpc_frame_length(ls_rpc_buffer_data(&call->in)) : 0;
  if (whole && ls_rpc_buffer_size(&call->in) > whole) {
    reject(call, LS_RPC_UNIMPLEMENTED, "the method takes exactly one request message");
  }
}

void ls_rpc_call_half_close(struct ls_rpc_call *call) {
  call->half_closed = true;
  if (call->finished) return;
  if (call->entry->bidirectional) {
    run_bidirectional(call);
    return;
  }
  if (message_ready(call)) {
    call->request = take_message(call);
    if (!call->request) return;
    ls_rpc_buffer_release(&call->in);
    call->handled = true;
    call->entry->method.handle(call->entry->user, call, call->request);
  } else if (!call->finished && !ls_rpc_buffer_size(&call->in)) {
    reject(call, LS_RPC_UNIMPLEMENTED, "the method takes exactly one request message");
  } else if (!call->finished) {
    reject(call, LS_RPC_INTERNAL, "the stream ends within a message");
  }
}

void ls_rpc_call_emptied(struct ls_rpc_call *call) {
  call->emptied = false;
  if (call->finished) return;
  if (call->entry->bidirectional) {
    run_bidirectional(call);
  } else if (call->handled && call->writable) {
    call->writable(call->user, call);
  }
}

// ---- the end

static void tell_closed(struct ls_rpc_call *call) {
  bool tell = !call->finished && call->handled && call->closed;
  call->finished = true;
  if (tell) call->closed(call->user, call);
}

void ls_rpc_call_gone(struct ls_rpc_call *call) {
  tell_closed(call);
  stop_deadline(call);
  if (call->previous) {
    call->previous->next = call->next;
  } else {
    call->connection->calls = call->next;
  }
  if (call->next) call->next->previous = call->previous;
  ls_rpc_buffer_release(&call->in);
  count(call);
  ls_rpc_buffer_release(&call->out);
  if (call->request) protobuf_c_message_free_unpacked(call->request, NULL);
  free(call->path);
  free(call->text);
  free(call);
}

void ls_rpc_call_abort(struct ls_rpc_call *call, enum ls_rpc_code code, const char *text) {
  if (call->finished) return;
  tell_closed(call);
  end_call(call, code, text, "200");
}
