// Log lines: one write each, level filter, both prefixes, no control characters.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

enum stream { PLAIN, JOURNAL, ANOTHER_STREAM };

// What `write_lines` writes to standard error, in a process of its own: where the lines go is looked up once. `stream`: what
// JOURNAL_STREAM says.
static char *caught(void (*write_lines)(void), enum stream stream) {
  static char text[65536];
  int ends[2], exit_status;
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    struct stat info;
    char name[64];
    fstat(ends[1], &info);
    snprintf(name, sizeof name, "%ju:%ju", (uintmax_t)info.st_dev, (uintmax_t)info.st_ino + (stream == ANOTHER_STREAM));
    unsetenv("JOURNAL_STREAM");
    if (stream != PLAIN) setenv("JOURNAL_STREAM", name, 1);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    write_lines();
    _exit(0);
  }
  close(ends[1]);
  size_t used = 0;
  for (ssize_t got; (got = read(ends[0], text + used, sizeof text - 1 - used)) > 0;) used += (size_t)got;
  close(ends[0]);
  text[used] = 0;
  assert_int_equal(waitpid(child, &exit_status, 0), child);
  assert_int_equal(exit_status, 0);
  return text;
}

static void write_levels(void) {
  ls_log(LS_LOG_DEBUG, "not shown");
  ls_log(LS_LOG_WARNING, "shown %d", 1);
  ls_log_set_level(LS_LOG_ERROR);
  ls_log(LS_LOG_WARNING, "nor this");
  ls_log_set_level(LS_LOG_DEBUG);
  ls_log(LS_LOG_DEBUG, "shown %d", 2);
}

static void check_levels(const char *text) {
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

static void test_levels(void **state) {
  (void)state;
  check_levels(caught(write_levels, PLAIN));
}

static void write_two(void) {
  ls_log(LS_LOG_INFO, "hello");
  ls_log(LS_LOG_ERROR, "bad");
}

static void test_journal(void **state) {
  (void)state;
  assert_string_equal(caught(write_two, JOURNAL), "<6>hello\n<3>bad\n");
}

// As a coordinator's, whose standard error is a file.
static void test_inherited_variable(void **state) {
  (void)state;
  check_levels(caught(write_levels, ANOTHER_STREAM));
}

static void write_control_characters(void) { ls_log(LS_LOG_INFO, "a\nb\x1b[31m\x7f \xc3\xa4"); }

static void test_control_characters(void **state) {
  (void)state;
  assert_string_equal(caught(write_control_characters, JOURNAL), "<6>a\\x0ab\\x1b[31m\\x7f \xc3\xa4\n");
}

static void write_long_line(void) {
  char text[5000];
  memset(text, 1, sizeof text - 1);
  text[sizeof text - 1] = 0;
  ls_log(LS_LOG_INFO, "%s", text);
}

// Longer than a line may be, and every character of it escaped: no overflow, still one line.
static void test_long_line(void **state) {
  (void)state;
  const char *line = caught(write_long_line, PLAIN);
  assert_in_range(strlen(line), 4000, 9000);
  assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void *write_lines(void *user) {
  for (int i = 0; i < 50; i++)
    ls_log(LS_LOG_INFO, "thread %c %s", *(char *)user, "0123456789012345678901234567890123456789");
  return NULL;
}

static void write_from_threads(void) {
  pthread_t thread[4];
  char names[4] = "abcd";
  for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, write_lines, &names[i]);
  for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
}

static void test_lines_of_threads_do_not_mix(void **state) {
  (void)state;
  int lines = 0, count[4] = {0};
  for (char *line = strtok(caught(write_from_threads, JOURNAL), "\n"); line; line = strtok(NULL, "\n"), lines++) {
    char name = 0, rest[64] = "";
    assert_int_equal(sscanf(line, "<6>thread %c %60s", &name, rest), 2);
    assert_string_equal(rest, "0123456789012345678901234567890123456789");
    assert_in_range(name, 'a', 'd');
    count[name - 'a']++;
  }
  assert_int_equal(lines, 200);
  for (int i = 0; i < 4; i++) assert_int_equal(count[i], 50);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels),
                                     cmocka_unit_test(test_journal),
                                     cmocka_unit_test(test_inherited_variable),
                                     cmocka_unit_test(test_control_characters),
                                     cmocka_unit_test(test_long_line),
                                     cmocka_unit_test(test_lines_of_threads_do_not_mix)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
