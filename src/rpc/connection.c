// One connection of the server: nghttp2's session on one side, the socket on the other. See internal.h.
//
// Memory for one connection is bounded: one write of about OUT_BYTES at a time (nghttp2 is asked for more only when the
// socket has taken it), reading stops while a peer that does not read makes nghttp2 queue control frames, and each call
// bounds its own queues.
#include <nghttp2/nghttp2.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "rpc/internal.h"

enum { OUT_BYTES = 65536, QUEUED_FRAMES_LIMIT = 512, HANDSHAKE_MS = 20000, LINGER_MS = 500 };

// ---- what nghttp2 tells

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  struct ls_rpc_connection *connection = user;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  struct ls_rpc_call *call = ls_rpc_call_new(connection, frame->hd.stream_id);
  if (!call) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
  (void)flags, (void)user;
  if (frame->hd.type != NGHTTP2_HEADERS) return 0;
  struct ls_rpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!call) return 0;
  bool taken = ls_rpc_call_header(call, name, name_size, value, value_size);
  return taken ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  struct ls_rpc_connection *connection = user;
  if (frame->hd.type == NGHTTP2_SETTINGS && uv_is_active((uv_handle_t *)&connection->timer)) {
    uv_timer_stop(&connection->timer);
  }
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  struct ls_rpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!call) return 0;
  if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) ls_rpc_call_headers_end(call);
  if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) ls_rpc_call_half_close(call);
  return 0;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                         void *user) {
  (void)flags, (void)user;
  // The call gives the stream's window back when it has dealt with the bytes; the connection's window is for all.
  nghttp2_session_consume_connection(session, size);
  struct ls_rpc_call *call = nghttp2_session_get_stream_user_data(session, stream);
  if (call) {
    ls_rpc_call_data(call, data, size);
  } else {
    nghttp2_session_consume_stream(session, stream, size);
  }
  return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  (void)user;
  // An answer before the end of the request: "I need no more of it", without which the peer would go on sending.
  if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
  struct ls_rpc_call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (call && !call->half_closed) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
  }
  return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error_code, void *user) {
  (void)error_code, (void)user;
  struct ls_rpc_call *call = nghttp2_session_get_stream_user_data(session, stream);
  if (call) {
    nghttp2_session_set_stream_user_data(session, stream, NULL);
    ls_rpc_call_gone(call);
  }
  return 0;
}

ls_status ls_rpc_session_callbacks_new(nghttp2_session_callbacks **callbacks, nghttp2_option **option) {
  *callbacks = NULL;
  *option = NULL;
  if (nghttp2_session_callbacks_new(callbacks) || nghttp2_option_new(option)) {
    nghttp2_session_callbacks_del(*callbacks);
    *callbacks = NULL;
    return LS_NO_MEMORY;
  }
  nghttp2_session_callbacks_set_on_begin_headers_callback(*callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(*callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(*callbacks, on_frame_recv);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*callbacks, on_data_chunk);
  nghttp2_session_callbacks_set_on_frame_send_callback(*callbacks, on_frame_send);
  nghttp2_session_callbacks_set_on_stream_close_callback(*callbacks, on_stream_close);
  nghttp2_option_set_no_auto_window_update(*option, 1);
  return LS_OK;
}

// ---- the socket

static void on_closed(uv_handle_t *handle) {
  struct ls_rpc_connection *connection = handle->data;
  if (--connection->open_handles) return;
  struct ls_rpc_server *server = connection->server;
  if (connection->previous) {
    connection->previous->next = connection->next;
  } else {
    server->connections = connection->next;
  }
  if (connection->next) connection->next->previous = connection->previous;
  ls_rpc_buffer_release(&connection->out);
  free(connection);
  ls_rpc_server_connection_gone(server);
}

// Ends what runs on the connection; its socket stays open.
static void drop_session(struct ls_rpc_connection *connection) {
  if (connection->closing) return;
  connection->closing = true;
  while (connection->calls) ls_rpc_call_gone(connection->calls);
  nghttp2_session_del(connection->session);
  connection->session = NULL;
}

void ls_rpc_connection_close(struct ls_rpc_connection *connection) {
  drop_session(connection);
  if (connection->hung_up) return;
  connection->hung_up = true;
  uv_close((uv_handle_t *)&connection->pipe, on_closed);
  uv_close((uv_handle_t *)&connection->timer, on_closed);
}

static void on_time_over(uv_timer_t *timer) { ls_rpc_connection_close(timer->data); }

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
  (void)suggested;
  struct ls_rpc_connection *connection = handle->data;
  *buffer = uv_buf_init((char *)connection->server->read_buffer, LS_RPC_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer) {
  struct ls_rpc_connection *connection = stream->data;
  if (size == 0 || (size > 0 && connection->closing)) return;
  if (size < 0 || nghttp2_session_mem_recv(connection->session, (const uint8_t *)buffer->base, (size_t)size) != size) {
    ls_rpc_connection_close(connection);
    return;
  }
  ls_rpc_connection_mark(connection);
}

static void on_written(uv_write_t *write, int status) {
  struct ls_rpc_connection *connection = write->data;
  connection->writing = false;
  if (connection->closing) return;
  if (status < 0) {
    ls_rpc_connection_close(connection);
    return;
  }
  ls_rpc_buffer_take(&connection->out, ls_rpc_buffer_size(&connection->out));
  ls_rpc_connection_flush(connection);
}

static void on_shut_down(uv_shutdown_t *request, int status) { (void)request, (void)status; }

// The session is over and everything is written. Closing the socket now would break the pipe under a peer that is about
// to write, and many then throw away what they have not read yet: let the peer close first.
static void say_farewell(struct ls_rpc_connection *connection) {
  drop_session(connection);
  if (uv_shutdown(&connection->shutdown, (uv_stream_t *)&connection->pipe, on_shut_down) < 0 ||
      uv_timer_start(&connection->timer, on_time_over, LINGER_MS, 0) < 0 ||
      (connection->paused && uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read) < 0)) {
    ls_rpc_connection_close(connection);
  }
}

void ls_rpc_connection_mark(struct ls_rpc_connection *connection) {
  connection->marked = true;
  connection->server->flush_wanted = true;
}

// Reads on or stops reading, see the top of the file.
static void throttle(struct ls_rpc_connection *connection) {
  bool pause =
      connection->writing && nghttp2_session_get_outbound_queue_size(connection->session) > QUEUED_FRAMES_LIMIT;
  if (pause == connection->paused) return;
  connection->paused = pause;
  if (pause) {
    uv_read_stop((uv_stream_t *)&connection->pipe);
  } else if (uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read) < 0) {
    ls_rpc_connection_close(connection);
  }
}

// False: the session is broken.
static bool collect(struct ls_rpc_connection *connection) {
  while (ls_rpc_buffer_size(&connection->out) < OUT_BYTES) {
    const uint8_t *data;
    ssize_t size = nghttp2_session_mem_send(connection->session, &data);
    if (size == 0) return true;
    if (size < 0 || !ls_rpc_buffer_add(&connection->out, data, (size_t)size)) return false;
  }
  return true;
}

void ls_rpc_connection_flush(struct ls_rpc_connection *connection) {
  connection->marked = false;
  if (connection->closing) return;
  if (!connection->writing) {
    bool fine = collect(connection);
    uv_buf_t buffer =
        uv_buf_init((char *)ls_rpc_buffer_data(&connection->out), (unsigned)ls_rpc_buffer_size(&connection->out));
    if (fine && buffer.len) {
      connection->write.data = connection;
      fine = uv_write(&connection->write, (uv_stream_t *)&connection->pipe, &buffer, 1, on_written) == 0;
      connection->writing = fine;
    }
    bool over = fine && !connection->writing && !nghttp2_session_want_read(connection->session) &&
                !nghttp2_session_want_write(connection->session);
    if (!fine) ls_rpc_connection_close(connection);
    if (over) say_farewell(connection);
    if (!fine || over) return;
  }
  // Calls do not disappear here: `writable` may end them, but their streams close only in a later flush.
  for (struct ls_rpc_call *call = connection->calls; call; call = call->next) {
    if (call->emptied) ls_rpc_call_emptied(call);
  }
  throttle(connection);
}

// ---- beginning

static bool open_session(struct ls_rpc_connection *connection) {
  struct ls_rpc_server *server = connection->server;
  if (nghttp2_session_server_new2(&connection->session, server->callbacks, connection, server->option)) return false;
  nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, server->max_streams},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LS_RPC_HEADER_LIMIT_BYTES},
  };
  return nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, 2) == 0;
}

bool ls_rpc_connection_accept(struct ls_rpc_server *server, uv_stream_t *listener) {
  struct ls_rpc_connection *connection = calloc(1, sizeof *connection);
  if (!connection) return false;
  connection->server = server;
  uv_pipe_init(server->loop, &connection->pipe, 0);
  uv_timer_init(server->loop, &connection->timer);
  connection->pipe.data = connection->timer.data = connection;
  connection->open_handles = 2;
  connection->next = server->connections;
  if (connection->next) connection->next->previous = connection;
  server->connections = connection;
  server->connection_count++;
  if (uv_accept(listener, (uv_stream_t *)&connection->pipe) < 0 || server->connection_count > server->max_connections ||
      !open_session(connection) || uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read) < 0) {
    ls_rpc_connection_close(connection);
    return true;
  }
  uv_timer_start(&connection->timer, on_time_over, HANDSHAKE_MS, 0);
  ls_rpc_connection_mark(connection);
  return true;
}

const char *ls_rpc_connection_user(struct ls_rpc_connection *connection) {
  if (connection->user[0]) return connection->user;
  uv_os_fd_t fd;
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (uv_fileno((uv_handle_t *)&connection->pipe, &fd) < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size)) {
    return "";
  }
  char space[4096];
  struct passwd entry, *found = NULL;
  if (getpwuid_r(peer.uid, &entry, space, sizeof space, &found) == 0 && found) {
    snprintf(connection->user, sizeof connection->user, "%s", found->pw_name);
  } else {
    snprintf(connection->user, sizeof connection->user, "uid %u", (unsigned)peer.uid);
  }
  return connection->user;
}
