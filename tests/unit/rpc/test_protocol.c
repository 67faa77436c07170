// What the server answers to requests that no well-made client sends. See "Status codes and their use in gRPC".
#include "raw.h"

#define BASE ":method", "POST", ":scheme", "http", ":path", "/test.v1.Test/Echo", ":authority", "x", "te", "trailers"
#define GRPC "content-type", "application/grpc"

// LogsRequest { id: "abc" } in its prefix.
static const uint8_t good[] = {0, 0, 0, 0, 5, 0x0A, 3, 'a', 'b', 'c'};

struct fixture_and_raw {
  struct fixture f;
  struct raw raw;
};

static int setup(void **state) {
  struct fixture_and_raw *both = calloc(1, sizeof *both);
  fixture_start(&both->f);
  raw_open(&both->raw, &both->f);
  *state = both;
  return 0;
}

// Whatever a test did, its connection is good for a call afterwards.
static int teardown(void **state) {
  struct fixture_and_raw *both = *state;
  static const char *const headers[] = {BASE, GRPC, NULL};
  both->raw.hold = false;
  raw_request(&both->raw, headers, good, sizeof good);
  assert_int_equal(both->raw.code, 0);
  assert_int_equal(both->raw.data_bytes, sizeof good);
  raw_close(&both->raw);
  fixture_stop(&both->f);
  free(both);
  return 0;
}

static void test_content_type(void **state) {
  struct raw *raw = &((struct fixture_and_raw *)*state)->raw;
  static const char *const fine[] = {"application/grpc", "application/grpc+proto", "application/grpc;x=y",
                                     "application/grpc+proto; charset=utf-8"};
  for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
    const char *headers[] = {BASE, "content-type", fine[i], NULL};
    raw_request(raw, headers, good, sizeof good);
    assert_int_equal(raw->http_status, 200);
    assert_int_equal(raw->code, 0);
  }
  static const char *const wrong[] = {"application/json", "application/grpc-web", "application/grpc+json", ""};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const char *headers[] = {BASE, "content-type", wrong[i], NULL};
    raw_request(raw, headers, good, sizeof good);
    assert_int_equal(raw->http_status, 415);
    assert_true(raw->end_stream);
  }
  static const char *const none[] = {BASE, NULL};
  raw_request(raw, none, good, sizeof good);
  assert_int_equal(raw->http_status, 415);
}

static void test_method_and_path(void **state) {
  struct raw *raw = &((struct fixture_and_raw *)*state)->raw;
  static const char *const get[] = {":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x", NULL};
  raw_request(raw, get, NULL, 0);
  assert_int_equal(raw->http_status, 405);
  static const char *const paths[] = {"/",
                                      "//",
                                      "/test.v1.Test",
                                      "/test.v1.Test/",
                                      "/test.v1.Test/echo",
                                      "/test.v1.Test/Echo/",
                                      "/test.v1.Tes/Echo",
                                      "/x%20y/%%"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    const char *headers[] = {":method", "POST", ":scheme", "http", ":path", paths[i], ":authority", "x", GRPC, NULL};
    raw_request(raw, headers, good, sizeof good);
    assert_int_equal(raw->http_status, 200);
    assert_int_equal(raw->code, LS_RPC_UNIMPLEMENTED);
  }
}

static void test_timeouts(void **state) {
  struct raw *raw = &((struct fixture_and_raw *)*state)->raw;
  static const char *const fine[] = {"1H", "99999999H", "10000000u", "99999999n", "20S", "1M"};
  for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
    const char *headers[] = {BASE, GRPC, "grpc-timeout", fine[i], NULL};
    raw_request(raw, headers, good, sizeof good);
    assert_int_equal(raw->code, 0);
  }
  static const char *const wrong[] = {"1", "H", "-1S", "123456789S", "1s", "1 S", "1.5S"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    const char *headers[] = {BASE, GRPC, "grpc-timeout", wrong[i], NULL};
    raw_request(raw, headers, good, sizeof good);
    assert_int_equal(raw->code, LS_RPC_INTERNAL);
  }
  // A request that never ends: the deadline ends it.
  static const char *const short_time[] = {BASE, GRPC, "grpc-timeout", "20m", NULL};
  raw->hold = true;
  raw_request(raw, short_time, good, 7);
  assert_int_equal(raw->code, LS_RPC_DEADLINE_EXCEEDED);
}

static void test_bodies(void **state) {
  struct raw *raw = &((struct fixture_and_raw *)*state)->raw;
  static const struct {
    const char *encoding, *body;
    size_t size;
    int code;
  } cases[] = {
      {"identity", "\0\0\0\0\0", 5, LS_RPC_OK},
      {"gzip", "\0\0\0\0\0", 5, LS_RPC_OK},  // declared, but this message is plain
      {"gzip", "\1\0\0\0\1z", 6, LS_RPC_UNIMPLEMENTED},
      {"identity", "\1\0\0\0\1z", 6, LS_RPC_INTERNAL},
      {"identity", "\2\0\0\0\0", 5, LS_RPC_INTERNAL},
      {"identity", "", 0, LS_RPC_UNIMPLEMENTED},                       // no message
      {"identity", "\0\0\0\0\0\0\0\0\0\0", 10, LS_RPC_UNIMPLEMENTED},  // two
      {"identity", "\0\0\0", 3, LS_RPC_INTERNAL},                      // cut
      {"identity", "\0\0\0\0\5\x0A\3ab", 9, LS_RPC_INTERNAL},
      {"identity", "\0\0\0\0\5\x0A\4abc", 10, LS_RPC_INTERNAL},  // no LogsRequest
      {"identity", "\0\xFF\xFF\xFF\xFF", 5, LS_RPC_RESOURCE_EXHAUSTED},
      {"identity", "\0\0\x10\0\1x", 6, LS_RPC_RESOURCE_EXHAUSTED},  // 1 MiB and one byte
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *headers[] = {BASE, GRPC, "grpc-encoding", cases[i].encoding, NULL};
    raw_request(raw, headers, cases[i].body, cases[i].size);
    assert_int_equal(raw->code, cases[i].code);
  }
  // An answer before the end of the request comes whole, with a reset that says "no error".
  static const char *const headers[] = {BASE, GRPC, NULL};
  raw->hold = true;
  raw_request(raw, headers, "\0\xFF\xFF\xFF\xFF", 5);
  assert_int_equal(raw->code, LS_RPC_RESOURCE_EXHAUSTED);
  assert_true(raw->end_stream);
  assert_int_equal(raw->reset_code, NGHTTP2_NO_ERROR);
}

static void test_headers_too_long(void **state) {
  struct raw *raw = &((struct fixture_and_raw *)*state)->raw;
  enum { LONG_BYTES = 5000 };
  char text[LONG_BYTES + 1];
  memset(text, 'a', LONG_BYTES);
  text[LONG_BYTES] = 0;
  const char *headers[] = {BASE, GRPC, "x-a", text, "x-b", text, "x-c", text, "x-d", text, NULL};
  raw_request(raw, headers, good, sizeof good);
  assert_int_equal(raw->code, LS_RPC_RESOURCE_EXHAUSTED);
  // One name and value, sent once and then referred to with one byte each: past any measure, a reset.
  const char *bomb[2 * 40 + 13] = {BASE, GRPC};
  for (size_t i = 12; i < 12 + 2 * 40; i += 2) {
    bomb[i] = "x-a";
    bomb[i + 1] = text + LONG_BYTES - 2900;
  }
  raw_request(raw, bomb, good, sizeof good);
  assert_int_equal(raw->code, -1);
  assert_int_not_equal(raw->reset_code, NGHTTP2_NO_ERROR);
}

// RST_STREAM before, during and after the request: the handler hears of it, or is never called.
static void test_resets(void **state) {
  struct fixture_and_raw *both = *state;
  struct raw *raw = &both->raw;
  static const char *const echo[] = {BASE, GRPC, NULL};
  raw->hold = true;
  for (size_t size = 0; size <= sizeof good; size++) {
    raw_submit(raw, echo, good, size);
    nghttp2_session_send(raw->session);
    nghttp2_submit_rst_stream(raw->session, NGHTTP2_FLAG_NONE, raw->stream, NGHTTP2_CANCEL);
    nghttp2_session_send(raw->session);
  }
  raw->hold = false;
  static const char *const never[] = {":method",    "POST", ":scheme", "http", ":path", "/test.v1.Test/Never",
                                      ":authority", "x",    GRPC,      NULL};
  for (int i = 0; i < 5; i++) {
    raw_submit(raw, never, good, sizeof good);
    nghttp2_session_send(raw->session);
    nghttp2_submit_rst_stream(raw->session, NGHTTP2_FLAG_NONE, raw->stream, NGHTTP2_CANCEL);
    nghttp2_session_send(raw->session);
  }
  fixture_wait(&both->f.closed, 5);
  assert_int_equal(atomic_load(&both->f.handled), 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_content_type, setup, teardown),
      cmocka_unit_test_setup_teardown(test_method_and_path, setup, teardown),
      cmocka_unit_test_setup_teardown(test_timeouts, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bodies, setup, teardown),
      cmocka_unit_test_setup_teardown(test_headers_too_long, setup, teardown),
      cmocka_unit_test_setup_teardown(test_resets, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
