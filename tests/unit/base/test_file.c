// Files and folders: reading with a limit, replacing as a whole, making and removing folders.
#include <dirent.h>
#include <fcntl.h>
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

static char folder[64];

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/lockstep-file-XXXXXX");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  return ls_folder_remove(folder, NULL) == LS_OK ? 0 : -1;
}

static const char *in_folder(const char *name) {
  static char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static int entries(const char *path) {
  DIR *dir = opendir(path);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) count += entry->d_name[0] != '.';
  closedir(dir);
  return count;
}

static void expect_contents(const char *path, const char *expected, size_t expected_size) {
  char *data;
  size_t size;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_file_read(path, 1 << 20, &data, &size, &err), LS_OK);
  assert_int_equal(size, expected_size);
  assert_memory_equal(data, expected, size);
  assert_int_equal(data[size], 0);
  free(data);
}

static void test_replace(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_file_write_atomic(in_folder("a"), "first", 5, &err), LS_OK);
  expect_contents(in_folder("a"), "first", 5);
  assert_int_equal(ls_file_write_atomic(in_folder("a"), "\0second", 7, &err), LS_OK);
  expect_contents(in_folder("a"), "\0second", 7);
  assert_int_equal(ls_file_write_atomic(in_folder("a"), NULL, 0, &err), LS_OK);
  expect_contents(in_folder("a"), "", 0);
  struct stat info;
  assert_int_equal(stat(in_folder("a"), &info), 0);
  assert_int_equal(info.st_mode & 0777, 0640);
  assert_int_equal(entries(folder), 1);  // no temporary file stays
}

// A reader sees the old contents or the new, never a part: the new file is another inode.
static void test_old_contents_stay_readable(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_file_write_atomic(in_folder("a"), "old", 3, &err), LS_OK);
  int fd = open(in_folder("a"), O_RDONLY);
  assert_int_equal(ls_file_write_atomic(in_folder("a"), "new contents", 12, &err), LS_OK);
  char text[16] = "";
  assert_int_equal(read(fd, text, sizeof text), 3);
  assert_memory_equal(text, "old", 3);
  close(fd);
}

// Where the last step is impossible (a folder stands under the name), the old thing stays and no temporary file does.
static void test_failed_replace_leaves_nothing(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_folder_make(in_folder("taken/deep"), 0750, &err), LS_OK);
  assert_int_not_equal(ls_file_write_atomic(in_folder("taken"), "x", 1, &err), LS_OK);
  assert_non_null(strstr(err.text, "/taken'"));
  assert_int_equal(entries(folder), 1);
  assert_int_equal(entries(in_folder("taken")), 1);
  assert_int_equal(ls_file_write_atomic(in_folder("missing/file"), "x", 1, &err), LS_NOT_FOUND);
  assert_non_null(strstr(err.text, "missing/file"));
}

static void test_commit(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_file_commit(in_folder("none"), in_folder("b"), &err), LS_NOT_FOUND);
  FILE *file = fopen(in_folder("part"), "w");
  fputs("written by somebody else", file);
  fclose(file);
  char temporary[256];
  strcpy(temporary, in_folder("part"));
  assert_int_equal(ls_file_commit(temporary, in_folder("b"), &err), LS_OK);
  expect_contents(in_folder("b"), "written by somebody else", 24);
  assert_int_equal(access(temporary, F_OK), -1);
}

static void test_read_limit(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  char *data, text[10000];
  size_t size;
  memset(text, 'x', sizeof text);
  assert_int_equal(ls_file_write_atomic(in_folder("a"), text, sizeof text, &err), LS_OK);
  assert_int_equal(ls_file_read(in_folder("a"), sizeof text - 1, &data, &size, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "9999 bytes allowed"));
  assert_null(data);
  expect_contents(in_folder("a"), text, sizeof text);
  assert_int_equal(ls_file_read(in_folder("a"), sizeof text, &data, &size, &err), LS_OK);
  free(data);
  assert_int_equal(ls_file_read(in_folder("nothing"), 10, &data, &size, &err), LS_NOT_FOUND);
  assert_int_equal(ls_file_read(folder, 10, &data, &size, &err), LS_IO);
}

static void test_folders(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_folder_make(in_folder("a/b/c"), 0700, &err), LS_OK);
  assert_int_equal(ls_folder_make(in_folder("a/b/c"), 0700, &err), LS_OK);
  assert_int_equal(ls_file_write_atomic(in_folder("a/b/file"), "x", 1, &err), LS_OK);
  assert_int_equal(ls_folder_make(in_folder("a/b/file"), 0700, &err), LS_EXISTS);
  assert_int_not_equal(ls_folder_make(in_folder("a/b/file/d"), 0700, &err), LS_OK);
  assert_int_equal(ls_folder_make("", 0700, &err), LS_INVALID);
  // A link is removed, not what it points to.
  char target[256];
  strcpy(target, in_folder("a/b/file"));
  assert_int_equal(ls_folder_make(in_folder("links"), 0700, &err), LS_OK);
  assert_int_equal(symlink(target, in_folder("links/link")), 0);
  assert_int_equal(ls_folder_remove(in_folder("links"), &err), LS_OK);
  assert_int_equal(access(target, F_OK), 0);
  assert_int_equal(ls_folder_remove(in_folder("a"), &err), LS_OK);
  assert_int_equal(ls_folder_remove(in_folder("a"), &err), LS_OK);  // gone already
  assert_int_equal(entries(folder), 0);
}

static void test_join(void **state) {
  (void)state;
  static const char *const cases[][3] = {
      {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/a", "/b", "/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *joined = ls_path_join(cases[i][0], cases[i][1]);
    assert_string_equal(joined, cases[i][2]);
    free(joined);
  }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {IN_FOLDER(test_replace),
                                     IN_FOLDER(test_old_contents_stay_readable),
                                     IN_FOLDER(test_failed_replace_leaves_nothing),
                                     IN_FOLDER(test_commit),
                                     IN_FOLDER(test_read_limit),
                                     IN_FOLDER(test_folders),
                                     cmocka_unit_test(test_join)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
