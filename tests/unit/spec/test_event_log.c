// The event log: append and read, several readers' offsets, torn ends, damage, one writer.
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "spec/event_log.h"

static char folder[64], path[96];
static struct ls_error error;

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/lockstep-log-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/events", folder);
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  return ls_folder_remove(folder, NULL) == LS_OK ? 0 : -1;
}

#define TRY(call)                                               \
  do {                                                          \
    if ((call) != LS_OK) fail_msg("%s: %s", #call, error.text); \
  } while (0)

static void append(struct ls_event_log *log, uint64_t step, bool durable) {
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  Lockstep__V1__StepReport report = LOCKSTEP__V1__STEP_REPORT__INIT;
  report.step = step;
  report.loss = 0.25;
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_STEP;
  event.step = &report;
  event.attempt = 2;
  TRY(ls_event_log_append(log, &event, durable, &error));
  assert_true(event.time_us > 1600000000000000);
}

static void append_steps(uint64_t first, uint64_t last) {
  struct ls_event_log *log;
  TRY(ls_event_log_open(path, &log, &error));
  for (uint64_t step = first; step <= last; step++) append(log, step, step == last);
  ls_event_log_close(log);
}

struct seen {
  uint64_t count, first, last;
  uint64_t stop_at;  // this step is not taken
};

static bool see(void *user, const Lockstep__V1__Event *event) {
  struct seen *seen = user;
  assert_int_equal(event->kind_case, LOCKSTEP__V1__EVENT__KIND_STEP);
  assert_int_equal(event->attempt, 2);
  if (seen->count++ == 0)
    seen->first = event->step->step;
  else
    assert_int_equal(event->step->step, seen->last + 1);
  seen->last = event->step->step;
  return seen->last != seen->stop_at;
}

// Reading from `offset` shows steps first to last; returns the new offset.
static uint64_t expect(uint64_t offset, uint64_t first, uint64_t last) {
  struct seen seen = {0};
  TRY(ls_event_log_read(path, &offset, see, &seen, &error));
  assert_int_equal(seen.count, last - first + 1);
  if (seen.count) {
    assert_int_equal(seen.first, first);
    assert_int_equal(seen.last, last);
  }
  return offset;
}

static size_t file_size(void) {
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  return (size_t)info.st_size;
}

static void test_append_and_read(void **state) {
  (void)state;
  expect(0, 1, 0);  // no file: no events
  append_steps(1, 3);
  uint64_t offset = expect(0, 1, 3);
  assert_int_equal(offset, file_size());
  assert_int_equal(expect(offset, 1, 0), offset);
  append_steps(4, 9);
  assert_int_equal(expect(offset, 4, 9), file_size());
  expect(0, 1, 9);
}

// A reader that cannot take an event now gets the same one the next time.
static void test_not_now(void **state) {
  (void)state;
  append_steps(1, 5);
  struct seen seen = {.stop_at = 3};
  uint64_t offset = 0;
  TRY(ls_event_log_read(path, &offset, see, &seen, &error));
  assert_int_equal(seen.last, 3);
  expect(offset, 3, 5);
}

// A reader beside the writer sees whole records only, in order.
static void test_reading_while_it_is_written(void **state) {
  (void)state;
  struct ls_event_log *log;
  TRY(ls_event_log_open(path, &log, &error));
  uint64_t offset = 0;
  for (uint64_t step = 1; step < 50; step++) {
    append(log, step, false);
    offset = expect(offset, step, step);
  }
  ls_event_log_close(log);
}

// Cut anywhere in the last record: it is not shown, the next writer cuts it off, and the log goes on.
static void test_torn_end(void **state) {
  (void)state;
  append_steps(1, 2);
  size_t two = file_size();
  append_steps(3, 3);
  size_t three = file_size();
  char *data;
  size_t size;
  TRY(ls_file_read(path, 1 << 20, &data, &size, &error));
  for (size_t cut = two; cut < three; cut++) {
    TRY(ls_file_write_atomic(path, data, cut, &error));
    assert_int_equal(expect(0, 1, 2), two);
    append_steps(3, 4);
    expect(0, 1, 4);
  }
  free(data);
}

// What a crash can leave where the file had grown already: the record's place filled with zeros.
static void test_zeros_at_the_end(void **state) {
  (void)state;
  append_steps(1, 2);
  size_t two = file_size();
  for (size_t zeros = 1; zeros < 5000; zeros = zeros * 3 + 1) {
    assert_int_equal(truncate(path, (off_t)(two + zeros)), 0);
    assert_int_equal(expect(0, 1, 2), two);
    append_steps(3, 3);
    expect(0, 1, 3);
    assert_int_equal(truncate(path, (off_t)two), 0);
  }
}

// A record in the middle that fails its check: an error that says where, and no writer goes on over it. In the length, the
// digest and the payload alike.
static void test_damage(void **state) {
  (void)state;
  append_steps(1, 1);
  size_t one = file_size();
  append_steps(2, 9);
  char *data;
  size_t size;
  TRY(ls_file_read(path, 1 << 20, &data, &size, &error));
  for (size_t at = one; at < one + 30; at++) {
    for (int bit = 0; bit < 8; bit += 7) {
      data[at] = (char)(data[at] ^ (1 << bit));
      TRY(ls_file_write_atomic(path, data, size, &error));
      data[at] = (char)(data[at] ^ (1 << bit));
      struct ls_error err = LS_ERROR_INIT;
      struct seen seen = {0};
      uint64_t offset = 0;
      if (ls_event_log_read(path, &offset, see, &seen, &err) != LS_CORRUPT) fail_msg("byte %zu, bit %d", at, bit);
      assert_int_equal(seen.count, 1);
      assert_int_equal(offset, one);
      char words[64];
      snprintf(words, sizeof words, "the record at byte %zu fails its check", one);
      assert_non_null(strstr(err.text, words));
      struct ls_event_log *log;
      assert_int_equal(ls_event_log_open(path, &log, &err), LS_CORRUPT);
      assert_null(log);
      assert_int_equal(file_size(), size);
    }
  }
  free(data);
}

static void test_one_writer(void **state) {
  (void)state;
  struct ls_event_log *log, *second;
  struct ls_error err = LS_ERROR_INIT;
  TRY(ls_event_log_open(path, &log, &error));
  assert_int_equal(ls_event_log_open(path, &second, &err), LS_UNAVAILABLE);
  assert_non_null(strstr(err.text, "the job runs already"));
  ls_event_log_close(log);
  TRY(ls_event_log_open(path, &second, &error));
  ls_event_log_close(second);
}

static void test_too_large(void **state) {
  (void)state;
  struct ls_event_log *log;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  Lockstep__V1__Note note = LOCKSTEP__V1__NOTE__INIT;
  TRY(ls_event_log_open(path, &log, &error));
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_NOTE;
  event.note = &note;
  note.text = malloc((1 << 20) + 1);
  memset(note.text, 'x', 1 << 20);
  note.text[1 << 20] = 0;
  assert_int_equal(ls_event_log_append(log, &event, false, &err), LS_INVALID);
  assert_int_equal(file_size(), 0);
  free(note.text);
  ls_event_log_close(log);
}

struct writer {
  struct ls_event_log *log;
  uint32_t number;
};

static void *write_many(void *argument) {
  struct writer *w = argument;
  for (int i = 0; i < 100; i++) {
    Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
    event.attempt = w->number;
    if (ls_event_log_append(w->log, &event, false, NULL) != LS_OK) return argument;
  }
  return NULL;
}

static bool count_one(void *user, const Lockstep__V1__Event *event) {
  assert_in_range(event->attempt, 1, 4);
  ((int *)user)[event->attempt - 1]++;
  return true;
}

// Threads of the writer append at once; no record is lost or mixed.
static void test_threads(void **state) {
  (void)state;
  struct ls_event_log *log;
  TRY(ls_event_log_open(path, &log, &error));
  pthread_t thread[4];
  struct writer writer[4];
  for (uint32_t i = 0; i < 4; i++) {
    writer[i] = (struct writer){log, i + 1};
    assert_int_equal(pthread_create(&thread[i], NULL, write_many, &writer[i]), 0);
  }
  for (int i = 0; i < 4; i++) {
    void *failed;
    pthread_join(thread[i], &failed);
    assert_null(failed);
  }
  ls_event_log_close(log);
  int count[4] = {0};
  uint64_t offset = 0;
  TRY(ls_event_log_read(path, &offset, count_one, count, &error));
  for (int i = 0; i < 4; i++) assert_int_equal(count[i], 100);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {IN_FOLDER(test_append_and_read),  IN_FOLDER(test_reading_while_it_is_written),
                                     IN_FOLDER(test_not_now),          IN_FOLDER(test_torn_end),
                                     IN_FOLDER(test_zeros_at_the_end), IN_FOLDER(test_damage),
                                     IN_FOLDER(test_one_writer),       IN_FOLDER(test_too_large),
                                     IN_FOLDER(test_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
