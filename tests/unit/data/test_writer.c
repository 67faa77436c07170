// The writer: no half file under the final name, whatever happens; a full disk is one sentence.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "data/data_internal.h"
#include "data/writer.h"
#include "support/data_files.h"

static int files_in_folder(void) {
  int count = 0;
  DIR *folder = opendir(test_folder);
  for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

// Writes n images; the status of the first call that failed.
static ls_status write_file(const char *name, int64_t n, bool keep, struct ls_error *err) {
  struct ls_data_writer *writer;
  struct ls_data_group *group = NULL;
  struct ls_data_shape shape = {.count = n, .height = 16, .width = 16, .channels = 3};
  ls_status status = ls_data_writer_open(test_path(name), &writer, err);
  if (status != LS_OK) return status;
  status = ls_data_writer_group(writer, "/train", &shape, &group, err);
  uint8_t *pixels = test_pixels(n, 16, 16, 3);
  for (int64_t i = 0; i < n && status == LS_OK; i++) {
    struct ls_data_sample sample = {.data = pixels + i * 768, .size = 768, .label = (int32_t)i};
    ls_data_sum(sample.data, 256, 3, &sample.sums);
    status = ls_data_group_put(group, &sample, err);
  }
  free(pixels);
  if (group) {
    ls_status finished = ls_data_group_finish(group, status == LS_OK ? err : NULL);
    if (status == LS_OK) status = finished;
  }
  ls_status closed = ls_data_writer_close(writer, keep && status == LS_OK, status == LS_OK ? err : NULL);
  return status == LS_OK ? closed : status;
}

static void test_whole(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  if (write_file("whole.h5", 30, true, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(files_in_folder(), 1);
  struct ls_dataset *dataset;
  char location[320];
  snprintf(location, sizeof location, "%s:/train", test_path("whole.h5"));
  if (ls_dataset_open(location, NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(dataset->images_offset % 4096, 0);  // for O_DIRECT
  uint8_t pixels[768];
  assert_int_equal(ls_dataset_read_image(dataset, 29, pixels, &err), LS_OK);
  assert_int_equal(pixels[767], test_pixel(29, 15, 15, 2));
  ls_dataset_close(dataset);
  unlink(test_path("whole.h5"));
}

static void test_given_up(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(write_file("given-up.h5", 30, false, &err), LS_OK);
  assert_int_equal(files_in_folder(), 0);
}

static void test_no_folder(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_not_equal(write_file("nowhere/x.h5", 1, true, &err), LS_OK);
  assert_non_null(strstr(err.text, "nowhere/x.h5"));
}

// A limit on the size of files stands for a full disk: the write that crosses it fails (EFBIG), wherever it comes.
// In a child, as the limit is the process's.
static void test_full_disk(void **state) {
  (void)state;
  for (rlim_t limit = 1024; limit < 40000; limit += 4500) {
    pid_t child = fork();
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      struct rlimit old = {limit, limit};
      setrlimit(RLIMIT_FSIZE, &old);
      struct ls_error err = LS_ERROR_INIT;
      ls_status status = write_file("full.h5", 50, true, &err);
      bool good = status == LS_IO && strstr(err.text, "full.h5") && !strchr(err.text, '\n');
      if (!good) fprintf(stderr, "limit %lu: %s: %s\n", (unsigned long)limit, ls_status_name(status), err.text);
      exit(good ? 0 : 1);  // with everything that runs at exit
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    assert_int_equal(files_in_folder(), 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_whole),
      cmocka_unit_test(test_given_up),
      cmocka_unit_test(test_no_folder),
      cmocka_unit_test(test_full_disk),
  };
  return cmocka_run_group_tests(tests, test_folder_make, test_folder_remove);
}
