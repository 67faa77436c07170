// gRPC's own bytes: buffers, message prefixes, percent-encoding, timeouts, codes.
#include "base/philox.h"
#include "fixture.h"
#include "rpc/internal.h"

static void test_buffer(void **state) {
  (void)state;
  // Any mixture of adding and taking gives the bytes back in order.
  struct ls_rpc_buffer buffer = {0};
  uint32_t in = 0, out = 0;
  for (uint32_t i = 0; i < 20000; i++) {
    uint32_t size = ls_random(1, LS_RANDOM_TEST, i, 0, 0).v[0] % 70;
    uint8_t *place = ls_rpc_buffer_grow(&buffer, size);
    assert_true(place || !size);
    for (uint32_t j = 0; j < size; j++) place[j] = (uint8_t)(in++ * 31);
    size = ls_random(1, LS_RANDOM_TEST, i, 0, 1).v[0] % 72;
    if (size > ls_rpc_buffer_size(&buffer)) size = (uint32_t)ls_rpc_buffer_size(&buffer);
    for (uint32_t j = 0; j < size; j++) {
      if (ls_rpc_buffer_data(&buffer)[j] != (uint8_t)(out * 31)) fail_msg("byte %u is wrong", out);
      out++;
    }
    ls_rpc_buffer_take(&buffer, size);
    assert_int_equal(ls_rpc_buffer_size(&buffer), in - out);
  }
  assert_true(buffer.capacity < 1 << 20);
  ls_rpc_buffer_release(&buffer);
}

static void test_frames(void **state) {
  (void)state;
  Lockstep__V1__LogsRequest request = LOCKSTEP__V1__LOGS_REQUEST__INIT;
  request.id = (char *)(uintptr_t) "abc";
  struct ls_rpc_buffer buffer = {0};
  assert_int_equal(ls_rpc_frame_add(&buffer, &request.base), LS_OK);
  static const uint8_t wanted[] = {0, 0, 0, 0, 5, 0x0A, 3, 'a', 'b', 'c'};
  assert_int_equal(ls_rpc_buffer_size(&buffer), sizeof wanted);
  assert_memory_equal(ls_rpc_buffer_data(&buffer), wanted, sizeof wanted);
  assert_int_equal(ls_rpc_frame_length((const uint8_t *)"\0\xFF\xEE\xDD\xCC"), 0xFFEEDDCC);
  ls_rpc_buffer_release(&buffer);
}

// A megabyte of two-byte unknown fields would take some 60 MB once unpacked: within the budget. Four are not.
static void test_decode_budget(void **state) {
  (void)state;
  enum { BYTES = 4 << 20 };
  uint8_t *data = malloc(BYTES);
  for (int i = 0; i < BYTES; i += 2) data[i] = 15 << 3, data[i + 1] = 1;
  ProtobufCMessage *message = ls_rpc_unpack(&lockstep__v1__logs_request__descriptor, data, 1 << 19);
  assert_non_null(message);
  protobuf_c_message_free_unpacked(message, NULL);
  assert_null(ls_rpc_unpack(&lockstep__v1__logs_request__descriptor, data, BYTES));
  free(data);
}

static void test_percent(void **state) {
  (void)state;
  static const char *const pairs[][2] = {
      {"", ""}, {"plain ~ text", "plain ~ text"}, {"100%", "100%25"}, {"ä\n\x7F", "%C3%A4%0A%7F"}, {"a%41", "a%2541"}};
  char text[64];
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    char *encoded = ls_rpc_percent_encode(pairs[i][0]);
    assert_string_equal(encoded, pairs[i][1]);
    ls_rpc_percent_decode((const uint8_t *)encoded, strlen(encoded), text, sizeof text);
    assert_string_equal(text, pairs[i][0]);
    free(encoded);
  }
  // What is not encoded rightly is taken as it stands.
  static const char *const odd[][2] = {{"%", "%"}, {"%4", "%4"}, {"%zz", "%zz"}, {"%c3%a4", "ä"}, {"x%", "x%"}};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    ls_rpc_percent_decode((const uint8_t *)odd[i][0], strlen(odd[i][0]), text, sizeof text);
    assert_string_equal(text, odd[i][1]);
  }
  ls_rpc_percent_decode((const uint8_t *)"abcdef", 6, text, 4);
  assert_string_equal(text, "abc");
}

static void test_timeouts(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t ms;
  } cases[] = {{"1H", 3600000},
               {"2M", 120000},
               {"3S", 3000},
               {"4m", 4},
               {"4001u", 5},
               {"1n", 1},
               {"99999999H", 359999996400000},
               {"0S", 0},
               {"", -1},
               {"S", -1},
               {"5", -1},
               {"123456789m", -1},
               {"5x", -1},
               {"-5S", -1},
               {"5 S", -1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(ls_rpc_timeout_parse((const uint8_t *)cases[i].text, strlen(cases[i].text)), cases[i].ms);
  }
  char text[LS_RPC_TIMEOUT_BYTES];
  ls_rpc_timeout_format(99999999, text);
  assert_string_equal(text, "99999999m");
  ls_rpc_timeout_format(UINT32_MAX, text);
  assert_string_equal(text, "4294967S");
}

static void test_codes(void **state) {
  (void)state;
  for (int status = LS_OK; status <= LS_INTERNAL; status++) {
    enum ls_rpc_code code = ls_rpc_code_of((ls_status)status);
    assert_int_equal(code == LS_RPC_OK, status == LS_OK);
    if (status != LS_DIVERGED) assert_int_equal(ls_rpc_status_of(code), status);
  }
  for (int code = 1; code < 40; code++) assert_int_not_equal(ls_rpc_status_of((enum ls_rpc_code)code), LS_OK);
  assert_string_equal(ls_rpc_code_name(LS_RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
  assert_string_equal(ls_rpc_code_name((enum ls_rpc_code)17), "UNKNOWN");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_buffer),  cmocka_unit_test(test_frames),   cmocka_unit_test(test_decode_budget),
      cmocka_unit_test(test_percent), cmocka_unit_test(test_timeouts), cmocka_unit_test(test_codes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
