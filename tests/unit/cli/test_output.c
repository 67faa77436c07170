// What people and programs read: numbers, tables as text and JSON, progress where there is no terminal.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
// cmocka.h wants those before it.
#include <cmocka.h>

#include "cli/cli.h"

static void test_numbers(void **state) {
  (void)state;
  char t[32];
  assert_string_equal(ls_format_count(t, 0), "0");
  assert_string_equal(ls_format_count(t, 999), "999");
  assert_string_equal(ls_format_count(t, 62378344), "62,378,344");
  assert_string_equal(ls_format_count(t, UINT64_MAX), "18,446,744,073,709,551,615");
  assert_string_equal(ls_format_bytes(t, 1023), "1023 B");
  assert_string_equal(ls_format_bytes(t, 1536), "1.5 KiB");
  assert_string_equal(ls_format_bytes(t, 93.0 * 1048576), "93.0 MiB");
  assert_string_equal(ls_format_duration(t, 5), "0:05");
  assert_string_equal(ls_format_duration(t, 59.6), "1:00");
  assert_string_equal(ls_format_duration(t, 3725), "1:02:05");
  assert_string_equal(ls_format_duration(t, 90061), "1 d 1:01:01");
  assert_string_equal(ls_format_duration(t, NAN), "-");
  assert_string_equal(ls_format_percent(t, 0.91234), "91.23 %");
  assert_string_equal(ls_format_percent(t, NAN), "-");
  assert_string_equal(ls_format_rate(t, 3412.4), "3,412");
  assert_string_equal(ls_format_rate(t, 12.34), "12.3");
  assert_string_equal(ls_format_rate(t, 0.5), "0.50");
}

static const struct ls_column columns[] = {{"NAME", "name", false}, {"SIZE", "size", true}, {NULL, "hidden", false}};

static struct ls_table *make_table(void) {
  struct ls_table *table = ls_table_new(columns, LS_COUNT(columns));
  ls_table_add(table, "a \"b\"\n", NULL);
  ls_table_add_count(table, 1234);
  ls_table_add(table, "x", NULL);
  ls_table_add(table, "\xc3\xa4", NULL);  // one character, two bytes
  ls_table_add_number(table, "-", NAN);
  ls_table_add(table, "y", "true");
  ls_table_add(table, "total", NULL);
  ls_table_add_count(table, 9);
  ls_table_add(table, "", NULL);
  return table;
}

static char *print(enum ls_output_format format) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  struct ls_table *table = make_table();
  ls_table_print(table, format, 1, out);
  fclose(out);
  return text;
}

static void test_table(void **state) {
  (void)state;
  char *text = print(LS_OUTPUT_JSON);
  assert_string_equal(text,
                      "[\n  {\"name\": \"a \\\"b\\\"\\u000a\", \"size\": 1234, \"hidden\": \"x\"},\n"
                      "  {\"name\": \"\xc3\xa4\", \"size\": null, \"hidden\": true}\n]\n");
  free(text);
  text = print(LS_OUTPUT_TABLE);
  assert_non_null(strstr(text, "NAME     SIZE\n"));
  assert_non_null(strstr(text, "\n\xc3\xa4           -\n"));
  assert_non_null(strstr(text, "-------------\ntotal       9\n"));
  free(text);
}

static Lockstep__V1__Event *step_event(uint64_t step, double epoch, int64_t time_us) {
  static Lockstep__V1__Event event;
  static Lockstep__V1__StepReport report;
  lockstep__v1__event__init(&event);
  lockstep__v1__step_report__init(&report);
  report.step = step;
  report.epoch = epoch;
  report.loss = 0.5;
  report.accuracy = 0.875;
  report.images_per_s = 6120;
  report.eta_s = 29;
  report.input_wait = 0.001;
  event.time_us = time_us;
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_STEP;
  event.step = &report;
  return &event;
}

// Plain lines: one every few seconds, one at the end of an epoch, one at the last step.
static void test_progress_lines(void **state) {
  (void)state;
  char *text = NULL;
  size_t size;
  FILE *out = tmpfile();
  assert_non_null(out);
  struct ls_progress *progress = ls_progress_new(out, 200);
  int64_t t = INT64_C(1700000000000000);
  ls_progress_event(progress, step_event(10, 0.1, t));             // the first: printed
  ls_progress_event(progress, step_event(20, 0.2, t + 1000000));   // too soon
  ls_progress_event(progress, step_event(70, 0.7, t + 6000000));   // printed
  ls_progress_event(progress, step_event(100, 1.0, t + 6500000));  // end of an epoch: printed
  ls_progress_event(progress, step_event(110, 1.1, t + 6600000));  // too soon
  ls_progress_event(progress, step_event(200, 2.0, t + 7000000));  // the last: printed
  ls_progress_free(progress);
  size = (size_t)ftell(out);
  text = calloc(1, size + 1);
  rewind(out);
  assert_int_equal(fread(text, 1, size, out), size);
  fclose(out);
  assert_string_equal(
      text,
      "epoch 1/2  step 10/200  loss 0.5000  accuracy 87.50 %  6,120 images/s  0:29 left  input 0.1 %, compute 99.9 %\n"
      "epoch 1/2  step 70/200  loss 0.5000  accuracy 87.50 %  6,120 images/s  0:29 left  input 0.1 %, compute 99.9 %\n"
      "epoch 1/2  step 100/200  loss 0.5000  accuracy 87.50 %  6,120 images/s  0:29 left  input 0.1 %, compute 99.9 %\n"
      "epoch 2/2  step 200/200  loss 0.5000  accuracy 87.50 %  6,120 images/s  0:29 left  input 0.1 %, compute 99.9 "
      "%\n");
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numbers),
      cmocka_unit_test(test_table),
      cmocka_unit_test(test_progress_lines),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
