// A raw HTTP/2 peer for the tests: what our client would never send. One request at a time on one connection.
#ifndef LS_TEST_RPC_RAW_H
#define LS_TEST_RPC_RAW_H

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "fixture.h"

struct raw {
  int fd;
  nghttp2_session *session;
  int32_t stream;
  // The request's body; NULL data: none. `hold`: END_STREAM does not come.
  const uint8_t *body;
  size_t body_bytes, body_at;
  bool hold;
  // The answer.
  int http_status, code;
  char message[512];
  size_t data_bytes;
  bool closed, end_stream, goaway, broken;
  uint32_t reset_code;
};

static inline int raw_socket(const struct fixture *f) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", f->path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static inline ssize_t raw_on_send(nghttp2_session *session, const uint8_t *data, size_t size, int flags, void *user) {
  (void)session, (void)flags;
  ssize_t sent = send(((struct raw *)user)->fd, data, size, MSG_NOSIGNAL);
  return sent < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : sent;
}

static inline int raw_on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                                size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
  (void)session, (void)frame, (void)name_size, (void)flags;
  struct raw *raw = user;
  if (strcmp((const char *)name, ":status") == 0) raw->http_status = atoi((const char *)value);
  if (strcmp((const char *)name, "grpc-status") == 0) raw->code = atoi((const char *)value);
  if (strcmp((const char *)name, "grpc-message") == 0) {
    snprintf(raw->message, sizeof raw->message, "%.*s", (int)value_size, (const char *)value);
  }
  return 0;
}

static inline int raw_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
  (void)session;
  struct raw *raw = user;
  if (frame->hd.type == NGHTTP2_GOAWAY) raw->goaway = true;
  bool ends = frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
  if (ends) raw->end_stream = true;
  return 0;
}

static inline int raw_on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t size,
                              void *user) {
  (void)session, (void)flags, (void)stream, (void)data;
  ((struct raw *)user)->data_bytes += size;
  return 0;
}

static inline int raw_on_close(nghttp2_session *session, int32_t stream, uint32_t error_code, void *user) {
  (void)session, (void)stream;
  ((struct raw *)user)->closed = true;
  ((struct raw *)user)->reset_code = error_code;
  return 0;
}

static inline void raw_open(struct raw *raw, const struct fixture *f) {
  *raw = (struct raw){.fd = raw_socket(f)};
  nghttp2_session_callbacks *callbacks;
  assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
  nghttp2_session_callbacks_set_send_callback(callbacks, raw_on_send);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, raw_on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, raw_on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, raw_on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, raw_on_close);
  // Wrong requests are the purpose.
  nghttp2_option *option;
  assert_int_equal(nghttp2_option_new(&option), 0);
  nghttp2_option_set_no_http_messaging(option, 1);
  nghttp2_option_set_max_send_header_block_length(option, 1 << 20);
  assert_int_equal(nghttp2_session_client_new2(&raw->session, callbacks, raw, option), 0);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  assert_int_equal(nghttp2_submit_settings(raw->session, NGHTTP2_FLAG_NONE, NULL, 0), 0);
}

static inline void raw_close(struct raw *raw) {
  nghttp2_session_del(raw->session);
  close(raw->fd);
}

static inline ssize_t raw_on_body(nghttp2_session *session, int32_t stream, uint8_t *place, size_t size,
                                  uint32_t *flags, nghttp2_data_source *source, void *user) {
  (void)session, (void)stream, (void)source;
  struct raw *raw = user;
  size_t left = raw->body_bytes - raw->body_at;
  if (!left && raw->hold) return NGHTTP2_ERR_DEFERRED;
  if (size > left) size = left;
  if (size) memcpy(place, raw->body + raw->body_at, size);
  raw->body_at += size;
  if (raw->body_at == raw->body_bytes && !raw->hold) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)size;
}

// Sends and receives until *flag is true or the server hangs up.
static inline void raw_run_until(struct raw *raw, const bool *flag) {
  uint8_t buffer[16384];
  while (!*flag && !raw->broken) {
    nghttp2_session_send(raw->session);  // a failure shows below, after what the server has said before it
    if (*flag) break;
    struct pollfd wait = {.fd = raw->fd, .events = POLLIN};
    if (poll(&wait, 1, LS_TEST_WAIT_MS) != 1) fail_msg("the server does not answer");
    ssize_t size = recv(raw->fd, buffer, sizeof buffer, 0);
    if (size <= 0 || nghttp2_session_mem_recv(raw->session, buffer, (size_t)size) != size) raw->broken = true;
  }
}

// `headers`: name, value, name, value, ... NULL. The answer lies in `raw` afterwards.
static inline void raw_submit(struct raw *raw, const char *const *headers, const void *body, size_t body_bytes) {
  nghttp2_nv list[64];
  size_t count = 0;
  for (; headers[2 * count] && count < 64; count++) {
    const char *name = headers[2 * count], *value = headers[2 * count + 1];
    list[count] = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), 0};
  }
  raw->body = body;
  raw->body_bytes = body_bytes;
  raw->body_at = 0;
  raw->http_status = raw->code = -1;
  raw->message[0] = 0;
  raw->data_bytes = 0;
  raw->closed = raw->end_stream = false;
  nghttp2_data_provider provider = {{0}, raw_on_body};
  raw->stream = nghttp2_submit_request(raw->session, NULL, list, count, body || raw->hold ? &provider : NULL, NULL);
  assert_true(raw->stream > 0);
}

static inline void raw_request(struct raw *raw, const char *const *headers, const void *body, size_t body_bytes) {
  raw_submit(raw, headers, body, body_bytes);
  raw_run_until(raw, &raw->closed);
}

#endif
