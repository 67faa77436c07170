// A job of seconds for the tests of the coordinator: a small data set whose classes are easy to tell, and a network with
// every kind of state (batch norm, dropout, momentum). One folder a process: small_set_up, small_tear_down.
#ifndef LS_TESTS_SUPPORT_SMALL_JOB_H
#define LS_TESTS_SUPPORT_SMALL_JOB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/writer.h"
#include "spec/spec.h"

enum { SIDE = 12, CLASSES = 4, TRAIN = 96, TEST = 40 };

static char small_folder[] = "/tmp/lockstep-train-XXXXXX";

// Sanitizers look at memory and threads, which are the same in every precision, and make all ten times slower: there a loop
// over many jobs takes those that differ in what threads do; the numbers are checked without them.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SMALL_JOB_ALL = 0 };
#else
enum { SMALL_JOB_ALL = 1 };
#endif

// With more layers behind the first three.
#define SMALL_JOB_WITH(more)                                            \
  "name: small\n"                                                       \
  "network:\n"                                                          \
  "  name: small\n"                                                     \
  "  input: {channels: 1, height: 12, width: 12}\n"                     \
  "  layers:\n"                                                         \
  "    - {convolution: {filters: 6, kernel: 3, pad: 1, bias: false}}\n" \
  "    - {batch_norm: {}}\n"                                            \
  "    - relu\n" more                                                   \
  "    - {max_pool: {kernel: 2}}\n"                                     \
  "    - {fully_connected: {units: 16}}\n"                              \
  "    - relu\n"                                                        \
  "    - {dropout: {rate: 0.2}}\n"                                      \
  "    - {fully_connected: {units: 4}}\n"                               \
  "    - {softmax_cross_entropy: {}}\n"                                 \
  "batch_size: 16\n"                                                    \
  "shards: 4\n"                                                         \
  "devices: {kind: cpu, oversubscribe: true}\n"                         \
  "epochs: 4\n"                                                         \
  "optimizer: {sgd: {learning_rate: 0.05, momentum: 0.9}}\n"            \
  "augment: [{horizontal_flip: {}}]\n"                                  \
  "checkpoint: {every: 3 steps, keep: 2}\n"

static const char small_job_text[] = SMALL_JOB_WITH("");

// The class decides which rows are bright.
static inline void small_put_images(struct ls_data_writer *writer, const char *name, int count) {
  struct ls_data_shape shape = {.count = count, .height = SIDE, .width = SIDE, .channels = 1};
  struct ls_data_group *group;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_data_writer_group(writer, name, &shape, &group, &err), LS_OK);
  for (int i = 0; i < count; i++) {
    uint8_t pixels[SIDE * SIDE];
    for (int p = 0; p < SIDE * SIDE; p++)
      pixels[p] = (uint8_t)((p / SIDE / 3 == i % CLASSES ? 200 : 30) + (p * 7 + i * 13) % 23);
    struct ls_data_sample sample = {.data = pixels, .size = sizeof pixels, .label = i % CLASSES};
    ls_data_sum(pixels, SIDE * SIDE, 1, &sample.sums);
    assert_int_equal(ls_data_group_put(group, &sample, &err), LS_OK);
  }
  assert_int_equal(ls_data_group_finish(group, &err), LS_OK);
}

static inline char *small_path(const char *name) {
  char *path = ls_path_join(small_folder, name);
  assert_non_null(path);
  return path;
}

static inline int small_set_up(void **state) {
  (void)state;
  if (!mkdtemp(small_folder)) return -1;
  setenv("XDG_CACHE_HOME", small_folder, 1);  // nothing of a test outlasts it
  struct ls_error err = LS_ERROR_INIT;
  struct ls_data_writer *writer;
  char *path = small_path("data.h5");
  assert_int_equal(ls_data_writer_open(path, &writer, &err), LS_OK);
  small_put_images(writer, "train", TRAIN);
  small_put_images(writer, "test", TEST);
  assert_int_equal(ls_data_writer_close(writer, true, &err), LS_OK);
  free(path);
  return 0;
}

static inline int small_tear_down(void **state) {
  (void)state;
  return ls_folder_remove(small_folder, NULL);
}

// `setting`: one more, "KEY=VALUE", or NULL.
static inline Lockstep__V1__Job *small_job_of(const char *text, const char *setting) {
  char train[128], validation[128];
  snprintf(train, sizeof train, "data.train=%s/data.h5:/train", small_folder);
  snprintf(validation, sizeof validation, "data.validation=%s/data.h5:/test", small_folder);
  const char *settings[] = {train, validation, setting};
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message = NULL;
  ls_status status = ls_spec_parse(text, strlen(text), "job", &lockstep__v1__job__descriptor, settings, setting ? 3 : 2,
                                   &message, &err);
  if (status == LS_OK) status = ls_spec_complete_job((Lockstep__V1__Job *)message, &err);
  if (status != LS_OK) fail_msg("%s", err.text);
  return (Lockstep__V1__Job *)message;
}

static inline Lockstep__V1__Job *small_job(const char *setting) { return small_job_of(small_job_text, setting); }

#endif
