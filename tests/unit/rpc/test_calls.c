// Calls between our client and our server: answers, streams, errors, deadlines, cancelling, back-pressure.
#include <pwd.h>

#include "fixture.h"

static void test_unary(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(fixture_call(client, "Echo", i ? "hello" : "", 0, 0, &text, &err), LS_OK);
    assert_string_equal(text, i ? "hello" : "");
    free(text);
  }
  const struct passwd *me = getpwuid(geteuid());
  if (me) assert_string_equal(f.peer, me->pw_name);
  // An answer that comes later.
  assert_int_equal(fixture_call(client, "Late", "later", 20, 10000, &text, &err), LS_OK);
  assert_string_equal(text, "later");
  free(text);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

// Far past the 65,535 bytes of a first flow-control window, both ways.
static void test_large(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  char *id = malloc(1000001), *text;
  memset(id, 'a', 1000000);
  id[1000000] = 0;
  for (int i = 0; i < 3; i++) {
    if (fixture_call(client, "Echo", id, 0, 0, &text, &err)) fail_msg("%s", err.text);
    assert_string_equal(text, id);
    free(text);
  }
  // Over the limit of 1 MiB: an answer all the same, and the connection lives on.
  id = realloc(id, 3000001);
  memset(id, 'b', 3000000);
  id[3000000] = 0;
  assert_int_equal(fixture_call(client, "Echo", id, 0, 0, &text, &err), LS_NO_MEMORY);
  assert_non_null(strstr(err.text, "allowed are 1048576"));
  assert_int_equal(fixture_call(client, "Echo", "still there", 0, 0, &text, &err), LS_OK);
  assert_string_equal(text, "still there");
  free(text);
  free(id);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

static void test_errors(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  assert_int_equal(fixture_call(client, "Echo", "fail", 0, 0, &text, &err), LS_NOT_FOUND);
  assert_int_equal(err.status, LS_NOT_FOUND);
  assert_string_equal(err.text, "no job \"ä\" at 100%");
  assert_int_equal(fixture_call(client, "Echo", "nothing", 0, 0, &text, &err), LS_INTERNAL);
  assert_int_equal(fixture_call(client, "Nowhere", "", 0, 0, &text, &err), LS_UNSUPPORTED);
  assert_string_equal(err.text, "there is no method '/test.v1.Test/Nowhere' here");
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

static void test_deadline(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  assert_int_equal(fixture_call(client, "Late", "too late", 60000, 50, &text, &err), LS_TIMEOUT);
  fixture_wait(&f.closed, 1);  // the server's handler hears of it too
  assert_int_equal(fixture_call(client, "Echo", "next", 0, 5000, &text, &err), LS_OK);
  free(text);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

struct reader {
  size_t messages, bytes, stop_after;
  unsigned pause_us;
};

static bool read_message(void *user, const ProtobufCMessage *message) {
  struct reader *reader = user;
  reader->messages++;
  reader->bytes += ((const Lockstep__V1__LogsResponse *)message)->data.len;
  if (reader->pause_us && reader->messages == 1) usleep(reader->pause_us);
  return reader->messages != reader->stop_after;
}

static ls_status count(struct ls_rpc_client *client, unsigned messages, struct reader *reader, struct ls_error *err) {
  Lockstep__V1__LogsRequest request = LOCKSTEP__V1__LOGS_REQUEST__INIT;
  request.tail = messages;
  return ls_rpc_client_stream(client, "/test.v1.Test/Count", &request.base, &lockstep__v1__logs_response__descriptor,
                              read_message, reader, err);
}

static void test_stream(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  for (unsigned n = 0; n < 300; n += 100) {
    struct reader reader = {0};
    if (count(client, n, &reader, &err)) fail_msg("%s", err.text);
    assert_int_equal(reader.messages, n);
    assert_int_equal(reader.bytes, (size_t)n * LS_TEST_PIECE_BYTES);
  }
  // 20 MB to a reader that pauses: the server must be told to stop at 4 MiB, and go on afterwards.
  struct reader slow = {.pause_us = 200000};
  if (count(client, 2000, &slow, &err)) fail_msg("%s", err.text);
  assert_int_equal(slow.messages, 2000);
  assert_true(atomic_load(&f.refused) > 0);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

static void test_cancel(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct ls_error err = LS_ERROR_INIT;
  struct reader reader = {.stop_after = 3};
  assert_int_equal(count(client, 100000, &reader, &err), LS_CANCELLED);
  fixture_wait(&f.closed, 1);
  assert_true(atomic_load(&f.sent) < 2000);  // 4 MiB and the windows, not a gigabyte
  // The connection serves the next call.
  char *text;
  assert_int_equal(fixture_call(client, "Echo", "next", 0, 0, &text, &err), LS_OK);
  free(text);
  // A client that just goes away.
  struct ls_rpc_client *other = fixture_connect(&f);
  Lockstep__V1__LogsRequest request = LOCKSTEP__V1__LOGS_REQUEST__INIT;
  ProtobufCMessage *response;
  assert_int_equal(ls_rpc_client_call(other, "/test.v1.Test/Never", &request.base,
                                      &lockstep__v1__logs_response__descriptor, &response, 20, &err),
                   LS_TIMEOUT);
  ls_rpc_client_free(other);
  fixture_wait(&f.closed, 2);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_unary),    cmocka_unit_test(test_large),  cmocka_unit_test(test_errors),
      cmocka_unit_test(test_deadline), cmocka_unit_test(test_stream), cmocka_unit_test(test_cancel),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
