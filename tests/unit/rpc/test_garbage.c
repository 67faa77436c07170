// The server survives whatever comes through the socket: a few thousand connections of mutated, invented and cut HTTP/2,
// made by a seeded generator, so that a failing case can be run again by its number.  test-unit-rpc-garbage [FIRST [COUNT]]
// Afterwards the server still answers, and at its end no handle and no memory is left (the sanitizers look).
#include "base/philox.h"
#include "raw.h"

enum { CASES = 3000, CASE_BYTES = 65536, FRAME_HEADER_BYTES = 9 };
static const uint64_t SEED = 20240607;

struct bytes {
  uint8_t data[CASE_BYTES];
  size_t size;
};

// Draws of one case.
struct draws {
  uint64_t number;
  uint32_t count;
};

static uint32_t draw(struct draws *draws, uint32_t below) {
  return ls_random_below(ls_random(SEED, LS_RANDOM_TEST, draws->number, 0, draws->count++).v[0], below);
}

static void add(struct bytes *bytes, const void *data, size_t size) {
  if (size > CASE_BYTES - bytes->size) size = CASE_BYTES - bytes->size;
  if (size) memcpy(bytes->data + bytes->size, data, size);
  bytes->size += size;
}

// ---- what a good client sends: preface, settings, and requests to all kinds of methods

static ssize_t keep(nghttp2_session *session, const uint8_t *data, size_t size, int flags, void *user) {
  (void)session, (void)flags;
  add(user, data, size);
  return (ssize_t)size;
}

struct body {
  uint8_t data[512];
  size_t size;
};

static ssize_t on_body(nghttp2_session *session, int32_t stream, uint8_t *place, size_t size, uint32_t *flags,
                       nghttp2_data_source *source, void *user) {
  (void)session, (void)stream, (void)user;
  struct body *body = source->ptr;
  if (size > body->size) size = body->size;
  memcpy(place, body->data, size);
  *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)size;
}

static void make_good(struct bytes *out, struct draws *draws) {
  static const char *const paths[] = {
      "/test.v1.Test/Echo",
      "/test.v1.Test/Late",
      "/test.v1.Test/Never",
      "/test.v1.Test/Count",
      "/grpc.health.v1.Health/Check",
      "/grpc.health.v1.Health/Watch",
      "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
  };
  // Messages that mean something to one or more of them: { id/service: "abc", tail: 5 }, { list_services: "" },
  // { file_containing_symbol: "grpc" }.
  static const struct body messages[] = {
      {"\0\0\0\0\x07\x0A\x03"
       "abc\x18\x05",
       12},
      {"\0\0\0\0\x02\x3A\0", 7},
      {"\0\0\0\0\x06\x22\x04grpc", 11},
      {"\0\0\0\0\0", 5},
  };
  nghttp2_session_callbacks *callbacks;
  nghttp2_session *session;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_send_callback(callbacks, keep);
  nghttp2_session_client_new(&session, callbacks, out);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, NULL, 0);
  unsigned requests = 1 + draw(draws, 4);
  struct body bodies[4];
  for (unsigned i = 0; i < requests; i++) {
    struct body *body = &bodies[i];
    *body = messages[draw(draws, 4)];
    if (draw(draws, 4) == 0) {  // any bytes in a right frame
      body->size = 5 + draw(draws, 500);
      for (size_t j = 5; j < body->size; j++) body->data[j] = (uint8_t)draw(draws, 256);
      body->data[3] = (uint8_t)((body->size - 5) >> 8);
      body->data[4] = (uint8_t)(body->size - 5);
    }
    nghttp2_nv headers[] = {
        {(uint8_t *)":method", (uint8_t *)"POST", 7, 4, 0},
        {(uint8_t *)":scheme", (uint8_t *)"http", 7, 4, 0},
        {(uint8_t *)":path", NULL, 5, 0, 0},
        {(uint8_t *)":authority", (uint8_t *)"x", 10, 1, 0},
        {(uint8_t *)"content-type", (uint8_t *)"application/grpc", 12, 16, 0},
        {(uint8_t *)"grpc-timeout", (uint8_t *)"5m", 12, 2, 0},
    };
    const char *path = paths[draw(draws, sizeof paths / sizeof *paths)];
    headers[2].value = (uint8_t *)(uintptr_t)path;
    headers[2].valuelen = strlen(path);
    nghttp2_data_provider provider = {{.ptr = body}, on_body};
    nghttp2_submit_request(session, NULL, headers, draw(draws, 2) ? 6 : 5, &provider, NULL);
    nghttp2_session_send(session);
    if (draw(draws, 4) == 0)
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, (int32_t)(2 * i + 1), draw(draws, 14));
  }
  nghttp2_session_send(session);
  nghttp2_session_del(session);
}

// ---- what is done to it

static void flip(struct bytes *bytes, struct draws *draws) {
  // Sometimes the preface too; mostly what follows it.
  size_t from = draw(draws, 20) ? NGHTTP2_CLIENT_MAGIC_LEN : 0;
  for (unsigned n = 1 + draw(draws, 6); n; n--) {
    size_t at = from + draw(draws, (uint32_t)(bytes->size - from));
    bytes->data[at] = draw(draws, 2) ? (uint8_t)(bytes->data[at] ^ 1u << draw(draws, 8)) : (uint8_t)draw(draws, 256);
  }
}

// Whole frames of the right form with any content, put at the end.
static void invent(struct bytes *bytes, struct draws *draws) {
  for (unsigned n = 1 + draw(draws, 20); n; n--) {
    uint8_t frame[FRAME_HEADER_BYTES + 64];
    uint32_t size = draw(draws, 65);
    uint32_t claimed = draw(draws, 20) ? size : draw(draws, 1 << 24);
    uint32_t stream = draw(draws, 4) ? draw(draws, 12) : draw(draws, UINT32_MAX);
    frame[0] = (uint8_t)(claimed >> 16), frame[1] = (uint8_t)(claimed >> 8), frame[2] = (uint8_t)claimed;
    frame[3] = (uint8_t)draw(draws, 12);
    frame[4] = (uint8_t)draw(draws, 256);
    for (int i = 0; i < 4; i++) frame[5 + i] = (uint8_t)(stream >> (24 - 8 * i));
    for (uint32_t i = 0; i < size; i++) frame[FRAME_HEADER_BYTES + i] = (uint8_t)draw(draws, 256);
    add(bytes, frame, FRAME_HEADER_BYTES + size);
  }
}

// One kind of control frame, many times.
static void flood(struct bytes *bytes, struct draws *draws) {
  static const struct {
    const char *bytes;
    size_t size;
  } frames[] = {
      {"\0\0\x08\x06\0\0\0\0\0pingpong", 17},    // PING
      {"\0\0\0\x04\0\0\0\0\0", 9},               // SETTINGS
      {"\0\0\x04\x03\0\0\0\0\1\0\0\0\x08", 13},  // RST_STREAM of stream 1
      {"\0\0\x04\x08\0\0\0\0\0\0\0\0\1", 13},    // WINDOW_UPDATE
      {"\0\0\0\0\0\0\0\0\1", 9},                 // empty DATA
  };
  size_t kind = draw(draws, sizeof frames / sizeof *frames);
  for (unsigned n = draw(draws, 3000); n; n--) add(bytes, frames[kind].bytes, frames[kind].size);
}

// Copies a piece of the bytes to another place in them.
static void transplant(struct bytes *bytes, struct draws *draws) {
  static struct bytes copy;
  copy = *bytes;
  size_t from = draw(draws, (uint32_t)copy.size), to = draw(draws, (uint32_t)copy.size);
  size_t size = 1 + draw(draws, 200);
  if (size > copy.size - from) size = copy.size - from;
  bytes->size = to;
  add(bytes, copy.data + from, size);
  add(bytes, copy.data + to, copy.size - to);
}

static void make_case(struct bytes *bytes, uint64_t number) {
  struct draws draws = {.number = number};
  bytes->size = 0;
  if (draw(&draws, 50) == 0) {  // no HTTP/2 at all
    for (unsigned n = draw(&draws, 1000); n; n--) bytes->data[bytes->size++] = (uint8_t)draw(&draws, 256);
    return;
  }
  make_good(bytes, &draws);
  switch (draw(&draws, 8)) {
    case 0: break;  // nothing wrong with it, but the peer goes without waiting
    case 1:
    case 2: flip(bytes, &draws); break;
    case 3: transplant(bytes, &draws); break;
    case 4: bytes->size = draw(&draws, (uint32_t)bytes->size); break;
    case 5: flood(bytes, &draws); break;
    default: invent(bytes, &draws); break;
  }
}

// ---- running

// Sends the case, says that no more comes, and reads until the server hangs up.
static void run_case(const struct fixture *f, const struct bytes *bytes, uint64_t number) {
  uint8_t buffer[16384];
  int fd = raw_socket(f);
  size_t sent = 0;
  bool writing = true;
  for (;;) {
    struct pollfd wait = {.fd = fd, .events = (short)(POLLIN | (writing ? POLLOUT : 0))};
    if (poll(&wait, 1, LS_TEST_WAIT_MS) != 1) fail_msg("case %llu: the server hangs", (unsigned long long)number);
    if (writing && (wait.revents & POLLOUT)) {
      ssize_t size = send(fd, bytes->data + sent, bytes->size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (size > 0) sent += (size_t)size;
      if (size < 0 || sent == bytes->size) {
        shutdown(fd, SHUT_WR);
        writing = false;
      }
    }
    if (!(wait.revents & (POLLIN | POLLHUP | POLLERR))) continue;
    ssize_t size = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size == 0 || (size < 0 && errno != EAGAIN)) break;
  }
  close(fd);
}

static uint64_t first_case, case_count = CASES;

static void test_garbage(void **state) {
  (void)state;
  static struct bytes bytes;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  for (uint64_t number = first_case; number < first_case + case_count; number++) {
    make_case(&bytes, number);
    run_case(&f, &bytes, number);
    if (number % 100) continue;
    if (fixture_call(client, "Echo", "alive", 0, LS_TEST_WAIT_MS, &text, &err)) fail_msg("%s", err.text);
    assert_string_equal(text, "alive");
    free(text);
  }
  // The generator is worth something only if many requests reach a handler.
  if (case_count >= CASES) assert_true(atomic_load(&f.handled) > CASES / 2);
  assert_int_equal(fixture_call(client, "Echo", "alive", 0, LS_TEST_WAIT_MS, &text, &err), LS_OK);
  free(text);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

int main(int argc, char **argv) {
  if (argc > 1) {
    first_case = strtoull(argv[1], NULL, 10);
    case_count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_garbage)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
