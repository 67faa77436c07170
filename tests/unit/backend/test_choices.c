// Choices: made once, shared, recorded, reused by a resume; the record goes before the cache; damage is an error only in the
// record.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/choices.h"
#include "base/file.h"

static char folder[] = "/tmp/lockstep-choices-XXXXXX", record[64], cache[64];
static int asked;

static ls_status choose(void *user, char *choice, struct ls_error *err) {
  if (!user) return ls_fail(err, LS_UNSUPPORTED, "there is none");
  snprintf(choice, LS_CHOICE_BYTES, "%s %d", (const char *)user, ++asked);
  return LS_OK;
}

static const char *get(struct ls_choices *c, const char *key, const char *user) {
  static char choice[LS_CHOICE_BYTES];
  struct ls_error err = LS_ERROR_INIT;
  if (ls_choices_get(c, key, choose, (void *)(uintptr_t)user, choice, &err) != LS_OK) fail_msg("%s", err.text);
  return choice;
}

static struct ls_choices *open_both(const char *r, const char *c) {
  struct ls_choices *choices;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_choices_new(r, c, &choices, &err) != LS_OK) fail_msg("%s", err.text);
  return choices;
}

static void test_once(void **state) {
  (void)state;
  struct ls_choices *c = open_both(record, cache);
  asked = 0;
  assert_string_equal(get(c, "conv a", "x"), "x 1");
  assert_string_equal(get(c, "conv a", "x"), "x 1");
  assert_string_equal(get(c, "conv b", "y"), "y 2");
  char choice[LS_CHOICE_BYTES];
  assert_int_equal(ls_choices_get(c, "conv c", choose, NULL, choice, NULL), LS_UNSUPPORTED);
  assert_int_equal(ls_choices_save(c, NULL), LS_OK);
  ls_choices_free(c);
  // The same job again.
  c = open_both(record, NULL);
  assert_string_equal(get(c, "conv b", "z"), "y 2");
  ls_choices_free(c);
  // Another job takes them from the cache, and records them as its own.
  char other[80];
  snprintf(other, sizeof other, "%s.other", record);
  c = open_both(other, cache);
  assert_string_equal(get(c, "conv a", "z"), "x 1");
  assert_string_equal(get(c, "conv d", "z"), "z 3");
  assert_int_equal(ls_choices_save(c, NULL), LS_OK);
  ls_choices_free(c);
  char *text;
  size_t size;
  assert_int_equal(ls_file_read(other, 4096, &text, &size, NULL), LS_OK);
  assert_string_equal(text, "conv a\tx 1\nconv d\tz 3\n");
  free(text);
}

static void test_record_before_cache(void **state) {
  (void)state;
  static const char mine[] = "conv a\tmine\n", theirs[] = "conv a\ttheirs\nnonsense\n";
  assert_int_equal(ls_file_write_atomic(record, mine, sizeof mine - 1, NULL), LS_OK);
  assert_int_equal(ls_file_write_atomic(cache, theirs, sizeof theirs - 1, NULL), LS_OK);
  struct ls_choices *c = open_both(record, cache);  // the cache's bad line is no error
  assert_string_equal(get(c, "conv a", "x"), "mine");
  ls_choices_free(c);
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_choices_new(cache, NULL, &c, &err), LS_CORRUPT);
  assert_non_null(strstr(err.text, "line 2"));
  assert_null(c);
}

static void *ask(void *argument) {
  char choice[LS_CHOICE_BYTES];
  if (ls_choices_get(argument, "conv", choose, "t", choice, NULL) != LS_OK || strcmp(choice, "t 1") != 0) return NULL;
  return argument;
}

static void test_threads(void **state) {
  (void)state;
  struct ls_choices *c = open_both(NULL, NULL);
  pthread_t threads[8];
  asked = 0;
  for (int i = 0; i < 8; i++) assert_int_equal(pthread_create(&threads[i], NULL, ask, c), 0);
  for (int i = 0; i < 8; i++) {
    void *good;
    pthread_join(threads[i], &good);
    assert_ptr_equal(good, c);
  }
  assert_int_equal(asked, 1);
  assert_int_equal(ls_choices_save(c, NULL), LS_OK);
  ls_choices_free(c);
}

static int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  snprintf(record, sizeof record, "%s/record", folder);
  snprintf(cache, sizeof cache, "%s/cache", folder);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  return ls_folder_remove(folder, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_once), cmocka_unit_test(test_record_before_cache),
                                     cmocka_unit_test(test_threads)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
