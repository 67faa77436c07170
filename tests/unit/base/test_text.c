// Errors, growing strings and digests.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/digest.h"
#include "base/error.h"
#include "base/string.h"

static void test_fail(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_fail(&err, LS_NOT_FOUND, "job '%s' of %d", "a", 3), LS_NOT_FOUND);
  assert_int_equal(err.status, LS_NOT_FOUND);
  assert_string_equal(err.text, "job 'a' of 3");
  assert_int_equal(ls_error_prefix(&err, "line %d", 7), LS_NOT_FOUND);
  assert_string_equal(err.text, "line 7: job 'a' of 3");
  assert_int_equal(ls_fail(NULL, LS_IO, "nobody listens"), LS_IO);
}

static void test_errno_becomes_status(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_fail_errno(&err, ENOENT, "cannot open '%s'", "x"), LS_NOT_FOUND);
  assert_string_equal(err.text, "cannot open 'x': No such file or directory");
  assert_int_equal(ls_fail_errno(&err, EEXIST, "x"), LS_EXISTS);
  assert_int_equal(ls_fail_errno(&err, ENOMEM, "x"), LS_NO_MEMORY);
  assert_int_equal(ls_fail_errno(&err, ECONNREFUSED, "x"), LS_UNAVAILABLE);
  assert_int_equal(ls_fail_errno(&err, ENOSPC, "x"), LS_IO);
  assert_int_equal(ls_fail_errno(NULL, ENOENT, "x"), LS_NOT_FOUND);
}

// Text that does not fit ends in "...", wherever it grew too long.
static void test_long_text_is_marked(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  char longest[2 * LS_ERROR_TEXT_BYTES];
  memset(longest, 'a', sizeof longest - 1);
  longest[sizeof longest - 1] = 0;
  ls_fail(&err, LS_INVALID, "%s", longest);
  assert_int_equal(strlen(err.text), LS_ERROR_TEXT_BYTES - 1);
  assert_string_equal(err.text + strlen(err.text) - 4, "a...");
  ls_fail(&err, LS_INVALID, "b");
  ls_error_prefix(&err, "%s", longest);
  assert_string_equal(err.text + strlen(err.text) - 4, "a...");
  longest[LS_ERROR_TEXT_BYTES - 10] = 0;
  ls_fail_errno(&err, ENOENT, "%s", longest);
  assert_int_equal(strlen(err.text), LS_ERROR_TEXT_BYTES - 1);
  assert_string_equal(err.text + strlen(err.text) - 3, "...");
}

static void test_every_status_has_a_name(void **state) {
  (void)state;
  for (int i = LS_OK; i <= LS_INTERNAL; i++) {
    assert_string_not_equal(ls_status_name((ls_status)i), "unknown");
    for (int j = LS_OK; j < i; j++) assert_string_not_equal(ls_status_name((ls_status)i), ls_status_name((ls_status)j));
  }
}

static ls_status first_failure(int *calls, struct ls_error *err) {
  LS_TRY(((*calls)++, LS_OK));
  LS_TRY(((*calls)++, ls_fail(err, LS_TIMEOUT, "second")));
  LS_TRY(((*calls)++, LS_OK));
  return LS_OK;
}

static void test_try(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  int calls = 0;
  assert_int_equal(first_failure(&calls, &err), LS_TIMEOUT);
  assert_int_equal(calls, 2);
}

static void test_string(void **state) {
  (void)state;
  struct ls_string s = LS_STRING_INIT;
  assert_string_equal(ls_string_text(&s), "");
  for (int i = 0; i < 1000; i++) ls_string_addf(&s, "%d,", i);
  assert_int_equal(s.size, 10 * 2 + 90 * 3 + 900 * 4);
  assert_memory_equal(s.data, "0,1,2,", 6);
  assert_string_equal(s.data + s.size - 8, "998,999,");
  ls_string_add_bytes(&s, "a\0b", 3);
  assert_memory_equal(s.data + s.size - 3, "a\0b", 4);
  ls_string_clear(&s);
  assert_string_equal(ls_string_text(&s), "");
  ls_string_add(&s, "kept");
  char *text = ls_string_take(&s);
  assert_string_equal(text, "kept");
  assert_null(s.data);
  free(text);
  text = ls_string_take(&s);
  assert_string_equal(text, "");
  free(text);
  ls_string_release(&s);
}

static void test_sha256(void **state) {
  (void)state;
  char hex[65];
  ls_sha256_finish(ls_sha256_new(), hex);
  assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  struct ls_sha256 *sha = ls_sha256_new();
  ls_sha256_update(sha, "a", 1);
  ls_sha256_update(sha, "bc", 2);
  ls_sha256_finish(sha, hex);
  assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Published values for an empty input; the bytes are big-endian on every machine.
static void test_xxh3(void **state) {
  (void)state;
  static const uint8_t empty[16] = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                    0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f};
  assert_memory_equal(ls_xxh3_128("", 0).bytes, empty, sizeof empty);
  assert_true(ls_xxh3_64("", 0) == 0x2d06800538d394c2);
  assert_memory_not_equal(ls_xxh3_128("a", 1).bytes, ls_xxh3_128("b", 1).bytes, 16);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_fail),
                                     cmocka_unit_test(test_errno_becomes_status),
                                     cmocka_unit_test(test_long_text_is_marked),
                                     cmocka_unit_test(test_every_status_has_a_name),
                                     cmocka_unit_test(test_try),
                                     cmocka_unit_test(test_string),
                                     cmocka_unit_test(test_sha256),
                                     cmocka_unit_test(test_xxh3)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
