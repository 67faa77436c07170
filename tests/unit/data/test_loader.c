// The loader: every sample exactly once an epoch for any number of workers and readers and after any resume, the same
// bytes each time; errors and stops reach those who wait.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "data/data_internal.h"
#include "support/data_files.h"

enum { SAMPLES = 333, SIDE = 6, MAX_WORKERS = 8 };

// SAMPLES images [6,6,3]; label i is i.
static int set_up(void **state) {
  if (test_folder_make(state) != 0) return -1;
  hid_t file = test_h5("loader.h5");
  test_h5_images(file, SAMPLES, SIDE, SIDE, 3, SAMPLES, H5P_DEFAULT);
  H5Fclose(file);
  return 0;
}

static struct ls_dataset *open_dataset(void) {
  struct ls_dataset *dataset;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_dataset_open(test_path("loader.h5"), NULL, NULL, &dataset, &err) != LS_OK) fail_msg("%s", err.text);
  return dataset;
}

static struct ls_loader_options options_of(struct ls_dataset *dataset, int64_t batch) {
  return (struct ls_loader_options){.dataset = dataset,
                                    .training = true,
                                    .batch = batch,
                                    .crop_height = SIDE,
                                    .crop_width = SIDE,
                                    .seed = 11,
                                    .shuffle = LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL,
                                    .output = LS_U8,
                                    .channels_last = true};
}

static struct ls_loader *start(const struct ls_loader_options *options) {
  struct ls_loader *loader;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_loader_new(options, &loader, &err) != LS_OK) fail_msg("%s", err.text);
  return loader;
}

// A worker takes its part of each of the batches [first, last) and notes the labels, in the order of the sequence.
struct worker {
  struct ls_loader *loader;
  int64_t batch;
  int index, count;
  uint64_t first, last;
  int32_t *labels;  // [last * batch]
  int wrong_pixels;
};

static void *work(void *argument) {
  struct worker *w = argument;
  for (uint64_t k = w->first; k < w->last; k++) {
    const struct ls_batch *batch;
    if (ls_loader_wait(w->loader, k, &batch, NULL) != LS_OK) return "waiting failed";
    int64_t share = w->batch / w->count;
    for (int64_t i = w->index * share; i < (w->index + 1) * share; i++) {
      int32_t label = batch->labels[i];
      w->labels[k * (uint64_t)w->batch + (uint64_t)i] = label;
      const uint8_t *image = (const uint8_t *)batch->images + i * SIDE * SIDE * 3;
      w->wrong_pixels += image[0] != test_pixel(label, 0, 0, 0) || image[107] != test_pixel(label, 5, 5, 2);
    }
    ls_loader_done(w->loader, batch);
  }
  return NULL;
}

// Batches [first, last) by `workers` threads.
static void run_workers(struct ls_loader_options options, int workers, int readers, uint64_t first, uint64_t last,
                        int32_t *labels) {
  options.consumers = workers;
  options.readers = readers;
  options.first_batch = first;
  struct ls_loader *loader = start(&options);
  struct worker w[MAX_WORKERS];
  pthread_t threads[MAX_WORKERS];
  for (int i = 0; i < workers; i++) {
    w[i] = (struct worker){loader, options.batch, i, workers, first, last, labels, 0};
    assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
  }
  for (int i = 0; i < workers; i++) {
    void *problem;
    pthread_join(threads[i], &problem);
    if (problem) fail_msg("%s", (char *)problem);
    assert_int_equal(w[i].wrong_pixels, 0);
  }
  ls_loader_free(loader);
}

static void check_once_an_epoch(const int32_t *labels, int epochs) {
  int seen[SAMPLES] = {0};
  for (int epoch = 0; epoch < epochs; epoch++) {
    for (int i = 0; i < SAMPLES; i++) {
      int32_t label = labels[epoch * SAMPLES + i];
      assert_in_range(label, 0, SAMPLES - 1);
      assert_int_equal(seen[label], epoch);
      seen[label]++;
    }
  }
}

// 16 does not divide 333: batches straddle epochs.
static void test_once_an_epoch(void **state) {
  (void)state;
  static const Lockstep__V1__Shuffle shuffles[] = {
      LOCKSTEP__V1__SHUFFLE__SHUFFLE_FULL, LOCKSTEP__V1__SHUFFLE__SHUFFLE_BLOCKS, LOCKSTEP__V1__SHUFFLE__SHUFFLE_NONE};
  struct ls_dataset *dataset = open_dataset();
  enum { BATCH = 16, BATCHES = (3 * SAMPLES + BATCH - 1) / BATCH };
  for (size_t s = 0; s < 3; s++) {
    struct ls_loader_options options = options_of(dataset, BATCH);
    options.shuffle = shuffles[s];
    int32_t first[BATCHES * BATCH], labels[BATCHES * BATCH];
    run_workers(options, 1, 1, 0, BATCHES, first);
    check_once_an_epoch(first, 3);
    for (int workers = 2; workers <= MAX_WORKERS; workers *= 2) {
      memset(labels, 0xff, sizeof labels);
      run_workers(options, workers, 3, 0, BATCHES, labels);
      assert_memory_equal(labels, first, sizeof labels);
    }
  }
  ls_dataset_close(dataset);
}

// Stopped after any batch and started again by other numbers of workers and readers: the same sequence.
static void test_resume(void **state) {
  (void)state;
  struct ls_dataset *dataset = open_dataset();
  enum { BATCH = 24, BATCHES = (2 * SAMPLES + BATCH - 1) / BATCH };
  struct ls_loader_options options = options_of(dataset, BATCH);
  int32_t whole[BATCHES * BATCH], labels[BATCHES * BATCH];
  run_workers(options, 1, 1, 0, BATCHES, whole);
  for (uint64_t stop = 1; stop < BATCHES; stop += 3) {
    memset(labels, 0xff, sizeof labels);
    run_workers(options, 2, 2, 0, stop, labels);
    run_workers(options, 8, 4, stop, BATCHES, labels);
    assert_memory_equal(labels, whole, sizeof labels);
  }
  check_once_an_epoch(whole, 2);
  ls_dataset_close(dataset);
}

// The same pixels for any number of readers, with draws.
static void test_same_bytes(void **state) {
  (void)state;
  struct ls_dataset *dataset = open_dataset();
  Lockstep__V1__Augmentation item = LOCKSTEP__V1__AUGMENTATION__INIT;
  Lockstep__V1__RandomCrop crop = LOCKSTEP__V1__RANDOM_CROP__INIT;
  item.kind_case = LOCKSTEP__V1__AUGMENTATION__KIND_RANDOM_CROP;
  item.random_crop = &crop;
  crop.pad = 2;
  const Lockstep__V1__Augmentation *list[] = {&item};
  struct ls_loader_options options = options_of(dataset, 50);
  options.augment = list;
  options.augment_count = 1;
  options.output = LS_F32;
  options.channels_last = false;
  size_t bytes = (size_t)50 * SIDE * SIDE * 3 * 4;
  char *kept = malloc(12 * bytes);
  for (int readers = 1; readers <= 4; readers++) {
    options.readers = readers;
    options.depth = readers;
    struct ls_loader *loader = start(&options);
    for (uint64_t k = 0; k < 12; k++) {
      const struct ls_batch *batch;
      assert_int_equal(ls_loader_wait(loader, k, &batch, NULL), LS_OK);
      if (readers == 1)
        memcpy(kept + k * bytes, batch->images, bytes);
      else
        assert_memory_equal(kept + k * bytes, batch->images, bytes);
      ls_loader_done(loader, batch);
    }
    ls_loader_free(loader);
  }
  free(kept);
  ls_dataset_close(dataset);
}

static void test_evaluation(void **state) {
  (void)state;
  struct ls_dataset *dataset = open_dataset();
  struct ls_loader_options options = options_of(dataset, 50);
  options.training = false;
  options.readers = 3;
  struct ls_loader *loader = start(&options);
  const struct ls_batch *batch;
  for (uint64_t k = 0; k < 7; k++) {
    assert_int_equal(ls_loader_wait(loader, k, &batch, NULL), LS_OK);
    assert_int_equal(batch->valid, k < 6 ? 50 : 33);
    for (int i = 0; i < 50; i++) assert_int_equal(batch->labels[i], i < batch->valid ? (int)k * 50 + i : -1);
    ls_loader_done(loader, batch);
  }
  struct ls_error err = LS_ERROR_INIT;
  assert_true(ls_loader_ready(loader, 7));
  assert_int_equal(ls_loader_wait(loader, 7, &batch, &err), LS_NOT_FOUND);
  ls_loader_free(loader);
  ls_dataset_close(dataset);
}

// Ten images a sample: corners and centre, then mirrored; in order, also over the ends of batches.
static void test_ten_crop(void **state) {
  (void)state;
  enum { CROP = 4 };
  static const int64_t place[5][2] = {{0, 0}, {0, 2}, {2, 0}, {2, 2}, {1, 1}};
  struct ls_dataset *dataset = open_dataset();
  struct ls_loader_options options = options_of(dataset, 64);
  options.training = false;
  options.ten_crop = true;
  options.crop_height = options.crop_width = CROP;
  options.readers = 2;
  struct ls_loader *loader = start(&options);
  const struct ls_batch *batch;
  int64_t seen = 0;
  for (uint64_t k = 0; ls_loader_wait(loader, k, &batch, NULL) == LS_OK; k++) {
    for (int64_t i = 0; i < batch->valid; i++, seen++) {
      int64_t sample = seen / 10, crop = seen % 10;
      const uint8_t *pixel = (const uint8_t *)batch->images + i * CROP * CROP * 3;
      assert_int_equal(batch->labels[i], sample);
      for (int64_t y = 0; y < CROP; y++) {
        for (int64_t x = 0; x < CROP; x++, pixel += 3) {
          int64_t from = crop >= 5 ? CROP - 1 - x : x;
          assert_int_equal(*pixel, test_pixel(sample, place[crop % 5][0] + y, place[crop % 5][1] + from, 0));
        }
      }
    }
    ls_loader_done(loader, batch);
  }
  assert_int_equal(seen, 10 * SAMPLES);
  ls_loader_free(loader);
  ls_dataset_close(dataset);
}

// A reader's error comes to the one who waits for that batch; the batches before it are delivered.
static void test_error(void **state) {
  (void)state;
  hid_t file = test_h5("damaged.h5");
  test_h5_images(file, 64, 32, 32, 3, 64, H5P_DEFAULT);
  H5Fclose(file);
  struct ls_dataset *dataset;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_dataset_open(test_path("damaged.h5"), NULL, NULL, &dataset, &err), LS_OK);
  assert_int_equal(truncate(test_path("damaged.h5"), (off_t)(dataset->images_offset + 40 * 32 * 32 * 3)), 0);
  struct ls_loader_options options = options_of(dataset, 16);
  options.training = false;
  struct ls_loader *loader = start(&options);
  const struct ls_batch *batch;
  for (uint64_t k = 0; k < 2; k++) {
    assert_int_equal(ls_loader_wait(loader, k, &batch, &err), LS_OK);
    ls_loader_done(loader, batch);
  }
  assert_int_equal(ls_loader_wait(loader, 2, &batch, &err), LS_CORRUPT);
  assert_non_null(strstr(err.text, "damaged.h5"));
  assert_non_null(strstr(err.text, "image 4"));
  ls_loader_free(loader);
  ls_dataset_close(dataset);
}

static void *wait_for_ever(void *argument) {
  const struct ls_batch *batch;
  return ls_loader_wait(argument, 1, &batch, NULL) == LS_CANCELLED ? NULL : "not cancelled";
}

static void test_stop(void **state) {
  (void)state;
  struct ls_dataset *dataset = open_dataset();
  struct ls_loader_options options = options_of(dataset, 16);
  options.depth = 1;
  struct ls_loader *loader = start(&options);
  const struct ls_batch *batch;
  assert_int_equal(ls_loader_wait(loader, 0, &batch, NULL), LS_OK);  // held: batch 1 cannot come
  assert_true(ls_loader_ready(loader, 0));
  assert_false(ls_loader_ready(loader, 1));
  pthread_t thread;
  pthread_create(&thread, NULL, wait_for_ever, loader);
  ls_loader_stop(loader);
  void *problem;
  pthread_join(thread, &problem);
  assert_null(problem);
  assert_true(ls_loader_ready(loader, 1));
  ls_loader_free(loader);
  ls_dataset_close(dataset);
}

// The ring's memory is the caller's when asked, is given back whole, and readers stop when it is full.
static int allocations;
static ls_status allocate(void *user, size_t bytes, void **memory, struct ls_error *err) {
  (void)user, (void)err;
  allocations++;
  *memory = aligned_alloc(64, bytes);
  return LS_OK;
}
static void release(void *user, void *memory, size_t bytes) {
  (void)user;
  memset(memory, 0, bytes);
  allocations--;
  free(memory);
}

static void test_memory(void **state) {
  (void)state;
  struct ls_dataset *dataset = open_dataset();
  struct ls_loader_options options = options_of(dataset, 16);
  options.allocate = allocate;
  options.release = release;
  options.depth = 5;
  struct ls_loader *loader = start(&options);
  assert_int_equal(allocations, 5);
  const struct ls_batch *batch;
  for (uint64_t k = 0; k < 5; k++) assert_int_equal(ls_loader_wait(loader, k, &batch, NULL), LS_OK);
  struct ls_loader_stats stats;
  ls_loader_stats(loader, &stats);
  assert_int_equal(stats.batches, 5);  // full
  assert_int_equal(stats.bytes_read, 5 * 16 * SIDE * SIDE * 3);
  ls_loader_free(loader);
  assert_int_equal(allocations, 0);
  options.crop_height = SIDE + 1;  // does not fit
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_loader_new(&options, &loader, &err), LS_INVALID);
  assert_null(loader);
  assert_int_equal(allocations, 0);
  ls_dataset_close(dataset);
}

static void test_explain(void **state) {
  (void)state;
  struct ls_loader_stats before = {.read_s = 5, .decode_s = 100}, after = before;
  char text[256];
  assert_false(ls_loader_explain(&before, &after, 0.5, text, sizeof text));
  after.decode_s += 8;
  after.augment_s += 2;
  assert_false(ls_loader_explain(&before, &after, 0.09, text, sizeof text));
  assert_true(ls_loader_explain(&before, &after, 0.5, text, sizeof text));
  assert_non_null(strstr(text, "wait 50 % of their time for data; readers spend 80 % of theirs decoding images"));
  after.read_s += 30;
  assert_true(ls_loader_explain(&before, &after, 0.2, text, sizeof text));
  assert_non_null(strstr(text, "75 % of theirs reading: a faster disk"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_once_an_epoch), cmocka_unit_test(test_resume),   cmocka_unit_test(test_same_bytes),
      cmocka_unit_test(test_evaluation),    cmocka_unit_test(test_ten_crop), cmocka_unit_test(test_error),
      cmocka_unit_test(test_stop),          cmocka_unit_test(test_memory),   cmocka_unit_test(test_explain),
  };
  return cmocka_run_group_tests(tests, set_up, test_folder_remove);
}
