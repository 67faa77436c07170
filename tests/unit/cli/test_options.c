// Options from a command's rows: every kind, every way to write them, and what is refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
// cmocka.h wants those before it.
#include <cmocka.h>

#include "cli/cli.h"

struct options {
  bool flag;
  const char *text, *optional;
  uint64_t number, seed;
  double real;
  struct ls_text_list list;
  enum ls_output_format format;
};

static const struct ls_option rows[] = {
    {'f', "flag", NULL, LS_OPTION_FLAG, offsetof(struct options, flag), 0, "a flag"},
    {'t', "text", "TEXT", LS_OPTION_TEXT, offsetof(struct options, text), 0, "a text"},
    {0, "optional", "TEXT", LS_OPTION_OPTIONAL, offsetof(struct options, optional), 0, "a text or nothing"},
    {'n', "number", "N", LS_OPTION_NUMBER, offsetof(struct options, number), 3, "a number"},
    {'s', "seed", "N", LS_OPTION_SEED, offsetof(struct options, seed), 0, "a wide number"},
    {'r', "real", "X", LS_OPTION_REAL, offsetof(struct options, real), 0, "a real number"},
    {'l', "list", "TEXT", LS_OPTION_LIST, offsetof(struct options, list), 0, "many"},
    LS_OPTION_OUTPUT(struct options),
};

static const struct ls_command command = {
    .name = "try",
    .arguments = "A [B]",
    .summary = "Try",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 2,
};

// Parses the words of `line`, separated by single spaces.
static char line_copy[256];
static char *words[32];
static int count;
static bool help;

static int parse(const char *line, struct options *options) {
  memset(options, 0, sizeof *options);
  snprintf(line_copy, sizeof line_copy, "%s", line);
  int n = 0;
  for (char *word = strtok(line_copy, " "); word; word = strtok(NULL, " ")) words[n++] = word;
  return ls_options_parse(&command, options, n, words, &count, &help);
}

static void test_every_kind(void **state) {
  (void)state;
  struct options o;
  assert_int_equal(parse("-f a --text hello --optional=x -n 3 --real 1.5 -l one --list=two b -o json", &o), LS_CLI_OK);
  assert_true(o.flag);
  assert_string_equal(o.text, "hello");
  assert_string_equal(o.optional, "x");
  assert_int_equal(o.number, 3);
  assert_true(o.real == 1.5);
  assert_int_equal(o.list.count, 2);
  assert_string_equal(o.list.item[0], "one");
  assert_string_equal(o.list.item[1], "two");
  assert_int_equal(o.format, LS_OUTPUT_JSON);
  assert_int_equal(count, 2);
  assert_string_equal(words[0], "a");
  assert_string_equal(words[1], "b");
}

static void test_ways_of_writing(void **state) {
  (void)state;
  struct options o;
  assert_int_equal(parse("a -ftx -n7", &o), LS_CLI_OK);  // letters together, values attached
  assert_true(o.flag);
  assert_string_equal(o.text, "x");
  assert_int_equal(o.number, 7);
  assert_int_equal(parse("a --optional b", &o), LS_CLI_OK);  // an optional value needs "="
  assert_string_equal(o.optional, "");
  assert_int_equal(count, 2);
  assert_int_equal(parse("--num 4 a", &o), LS_CLI_OK);  // a unique beginning
  assert_int_equal(o.number, 4);
  assert_int_equal(parse("a -- --flag", &o), LS_CLI_OK);
  assert_false(o.flag);
  assert_string_equal(words[1], "--flag");
  assert_int_equal(parse("-", &o), LS_CLI_OK);  // a lone dash is an argument
  assert_int_equal(parse("--help", &o), LS_CLI_OK);
  assert_true(help);
  assert_int_equal(parse("a -n 2147483647 -s 18446744073709551615", &o), LS_CLI_OK);  // the largest
  assert_int_equal(o.number, INT32_MAX);
  assert_true(o.seed == UINT64_MAX);
}

static void test_refused(void **state) {
  (void)state;
  static const char *const lines[] = {
      "",           "a b c",           "a --flag=x",      "a --nothing", "a -z",
      "a --number", "a --number 2",    "a -n -1",         "a -n 3x",     "a -n 99999999999999999999",
      "a --real x", "a --real nan",    "a --real -1",     "a -o yaml",   "a -t",
      "a --o json", "a -n 2147483648", "a -n 4294967296", "a -r inf",    "a -s 18446744073709551616",
  };
  for (size_t i = 0; i < LS_COUNT(lines); i++) {
    struct options o;
    int code = parse(lines[i], &o);
    if (code != LS_CLI_USAGE) fail_msg("'%s' was not refused", lines[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_kind),
      cmocka_unit_test(test_ways_of_writing),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
