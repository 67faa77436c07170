// Log lines: one write each, level filter, both prefixes, no control characters.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

static int kept_stderr, reader;

static int catch_stderr(void **state) {
  (void)state;
  int ends[2];
  if (pipe(ends) != 0) return -1;
  kept_stderr = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  close(ends[1]);
  reader = ends[0];
  unsetenv("JOURNAL_STREAM");
  return 0;
}

// Everything written since; standard error is itself again.
static char *caught(void) {
  static char text[65536];
  dup2(kept_stderr, STDERR_FILENO);
  close(kept_stderr);
  size_t used = 0;
  for (ssize_t got; (got = read(reader, text + used, sizeof text - 1 - used)) > 0;) used += (size_t)got;
  close(reader);
  text[used] = 0;
  return text;
}

static void test_levels(void **state) {
  (void)state;
  ls_log(LS_LOG_DEBUG, "not shown");
  ls_log(LS_LOG_WARNING, "shown %d", 1);
  ls_log_set_level(LS_LOG_ERROR);
  ls_log(LS_LOG_WARNING, "nor this");
  ls_log_set_level(LS_LOG_DEBUG);
  ls_log(LS_LOG_DEBUG, "shown %d", 2);
  ls_log_set_level(LS_LOG_INFO);
  const char *text = caught();
  assert_null(strstr(text, "not shown"));
  assert_null(strstr(text, "nor this"));
  int year, month, day, hour, minute, used = 0;
  double second;
  assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%lfZ warning: shown 1\n%n", &year, &month, &day, &hour, &minute,
                          &second, &used),
                   6);
  assert_int_equal(used, strlen("2026-11-01T00:00:00.000Z warning: shown 1\n"));
  assert_non_null(strstr(text, "debug: shown 2\n"));
}

static void test_journal(void **state) {
  (void)state;
  setenv("JOURNAL_STREAM", "8:1", 1);
  ls_log(LS_LOG_INFO, "hello");
  ls_log(LS_LOG_ERROR, "bad");
  unsetenv("JOURNAL_STREAM");
  assert_string_equal(caught(), "<6>hello\n<3>bad\n");
}

static void test_control_characters(void **state) {
  (void)state;
  setenv("JOURNAL_STREAM", "8:1", 1);
  ls_log(LS_LOG_INFO, "a\nb\x1b[31m\x7f \xc3\xa4");
  unsetenv("JOURNAL_STREAM");
  assert_string_equal(caught(), "<6>a\\x0ab\\x1b[31m\\x7f \xc3\xa4\n");
}

// Longer than a line may be, and every character of it escaped: no overflow, still one line.
static void test_long_line(void **state) {
  (void)state;
  char text[5000];
  memset(text, 1, sizeof text - 1);
  text[sizeof text - 1] = 0;
  ls_log(LS_LOG_INFO, "%s", text);
  const char *line = caught();
  assert_in_range(strlen(line), 4000, 9000);
  assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void *write_lines(void *user) {
  for (int i = 0; i < 50; i++)
    ls_log(LS_LOG_INFO, "thread %c %s", *(char *)user, "0123456789012345678901234567890123456789");
  return NULL;
}

static void test_lines_of_threads_do_not_mix(void **state) {
  (void)state;
  pthread_t thread[4];
  char names[4] = "abcd";
  setenv("JOURNAL_STREAM", "8:1", 1);
  for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, write_lines, &names[i]);
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  unsetenv("JOURNAL_STREAM");
  int lines = 0, count[4] = {0};
  for (char *line = strtok(caught(), "\n"); line; line = strtok(NULL, "\n"), lines++) {
    char name = 0, rest[64] = "";
    assert_int_equal(sscanf(line, "<6>thread %c %60s", &name, rest), 2);
    assert_string_equal(rest, "0123456789012345678901234567890123456789");
    assert_in_range(name, 'a', 'd');
    count[name - 'a']++;
  }
  assert_int_equal(lines, 200);
  for (int i = 0; i < 4; i++) assert_int_equal(count[i], 50);
}

#define CAUGHT(test) cmocka_unit_test_setup(test, catch_stderr)

int main(void) {
  const struct CMUnitTest tests[] = {CAUGHT(test_levels), CAUGHT(test_journal), CAUGHT(test_control_characters),
                                     CAUGHT(test_long_line), CAUGHT(test_lines_of_threads_do_not_mix)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
