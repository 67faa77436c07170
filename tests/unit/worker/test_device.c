// Workers on devices with memory of their own, with the CUDA backend's twin as the device: the same job gives the same
// digest on any number of workers and of devices, shared or not, stopped and resumed on others, and learns as on the CPU.
#include <math.h>
#include <stdatomic.h>

#include "backend/cuda/cuda_internal.h"
#include "support/small_job.h"
#include "worker/bench.h"
#include "worker/coordinator.h"
#include "worker/inference.h"
#include "worker/trainer.h"

struct how {
  const char *folder, *setting;
  const char *text;  // NULL: the usual job
  unsigned workers, devices, attempt;
  uint64_t stop_at;  // stop at the first checkpoint from this step on; 0: do not
  const struct ls_backend_ops *backend;
  int buckets;
};

struct watch {
  uint64_t stop_at;
  atomic_bool stop;
};

static void on_event(void *user, const Lockstep__V1__Event *event) {
  struct watch *watch = user;
  if (watch->stop_at && event->kind_case == LOCKSTEP__V1__EVENT__KIND_CHECKPOINT &&
      event->checkpoint->step >= watch->stop_at)
    atomic_store(&watch->stop, true);
}

static struct ls_train_result train(const struct how *how) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  struct watch watch = {.stop_at = how->stop_at};
  Lockstep__V1__Job *job = small_job_of(how->text ? how->text : small_job_text, how->setting);
  char *path = small_path(how->folder);
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = how->attempt ? how->attempt : 1,
                                     .devices = how->workers,
                                     .backend = how->backend,
                                     .backend_devices = how->devices,
                                     .buckets = how->buckets,
                                     .stop = &watch.stop,
                                     .event = on_event,
                                     .user = &watch};
  if (ls_train(&options, &result, &err) != LS_OK) fail_msg("%s: %s", how->folder, err.text);
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
  return result;
}

static void test_any_number_of_devices(void **state) {
  (void)state;
  static const struct {
    unsigned workers, devices;
  } on[] = {{1, 1}, {2, 1}, {4, 1}, {2, 2}, {4, 4}, {4, 2}, {4, 3}, {1, 8}};
  char first[65] = "";
  for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
    char folder[32];
    snprintf(folder, sizeof folder, "on-%u-%u", on[i].workers, on[i].devices);
    struct ls_train_result result = train(&(struct how){
        .folder = folder, .workers = on[i].workers, .devices = on[i].devices, .backend = ls_backend_cuda_twin()});
    assert_int_equal(result.exit, LS_EXIT_OK);
    assert_int_equal(result.step, 24);
    assert_true(result.test_accuracy > 0.9);
    if (!*first) snprintf(first, sizeof first, "%s", result.parameters_sha256);
    assert_string_equal(result.parameters_sha256, first);
  }
}

static void test_stop_and_resume(void **state) {
  (void)state;
  struct how how = {.folder = "parts", .workers = 4, .devices = 4, .stop_at = 6, .backend = ls_backend_cuda_twin()};
  assert_int_equal(train(&how).exit, LS_EXIT_STOPPED);
  how = (struct how){
      .folder = "parts", .workers = 2, .devices = 1, .attempt = 2, .stop_at = 12, .backend = ls_backend_cuda_twin()};
  assert_int_equal(train(&how).exit, LS_EXIT_STOPPED);
  how = (struct how){.folder = "parts", .workers = 2, .devices = 2, .attempt = 3, .backend = ls_backend_cuda_twin()};
  struct ls_train_result rest = train(&how);
  how = (struct how){.folder = "whole", .workers = 1, .devices = 1, .backend = ls_backend_cuda_twin()};
  assert_string_equal(rest.parameters_sha256, train(&how).parameters_sha256);
}

// Every precision learns, with the same digest on any number of devices and over a stop; float16 with its loss scale.
static void test_precisions(void **state) {
  (void)state;
  static const char *const precisions[] = {"tf32", "bfloat16", "float16"};
  for (size_t i = SMALL_JOB_ALL ? 0 : 2; i < 3; i++) {
    char setting[32], names[2][32];
    snprintf(setting, sizeof setting, "precision=%s", precisions[i]);
    snprintf(names[0], sizeof names[0], "%s-one", precisions[i]);
    snprintf(names[1], sizeof names[1], "%s-parts", precisions[i]);
    struct how one = {.folder = names[0], .setting = setting, .workers = 1, .devices = 1};
    struct how parts = {.folder = names[1], .setting = setting, .workers = 4, .devices = 2, .stop_at = 9};
    one.backend = parts.backend = ls_backend_cuda_twin();
    struct ls_train_result whole = train(&one);
    assert_true(whole.test_accuracy > 0.9);
    assert_int_equal(train(&parts).exit, LS_EXIT_STOPPED);
    parts.stop_at = 0, parts.workers = 2, parts.attempt = 2;
    assert_string_equal(train(&parts).parameters_sha256, whole.parameters_sha256);
  }
}

// float16 is trained with convolutions that sum their output, where they can, for the batch norm behind them: the same digest
// on any number of devices and over a stop, and it is on record.
static void test_statistics(void **state) {
  (void)state;
  static const char text[] = SMALL_JOB_WITH(
      "    - {convolution: {filters: 8, kernel: 1, bias: false}}\n"
      "    - {batch_norm: {}}\n"
      "    - {convolution: {filters: 8, kernel: 1, bias: false}}\n"
      "    - {batch_norm: {}}\n"
      "    - relu\n");
  struct how one = {.folder = "sums-one", .workers = 1, .devices = 1};
  struct how parts = {.folder = "sums-parts", .workers = 4, .devices = 2, .stop_at = 9};
  one.text = parts.text = text;
  one.setting = parts.setting = "precision=float16";
  one.backend = parts.backend = ls_backend_cuda_twin();
  struct ls_train_result whole = train(&one);
  assert_true(whole.test_accuracy > 0.9);
  assert_int_equal(train(&parts).exit, LS_EXIT_STOPPED);
  parts.stop_at = 0, parts.workers = 2, parts.attempt = 2;
  assert_string_equal(train(&parts).parameters_sha256, whole.parameters_sha256);
  char *path = small_path("sums-parts/choices"), *record;
  size_t size;
  assert_int_equal(ls_file_read(path, 65536, &record, &size, NULL), LS_OK);
  assert_non_null(strstr(record, "twin, forward + statistics, x 4x8x12x12 w 8x1x1 groups 1"));
  assert_null(strstr(record, "twin, forward + statistics, x 4x6x12x12"));
  free(record);
  free(path);
}

// The exchange cut into 1, 2 and 3 buckets, on devices shared or not, over a stop: no bit changes.
static void test_buckets(void **state) {
  (void)state;
  static const char *const precisions[] = {"float32", "tf32", "bfloat16", "float16"};
  static const unsigned on[][2] = {{4, 4}, {2, 2}, {4, 2}, {1, 1}};
  for (size_t p = 0; p < 4; p += SMALL_JOB_ALL ? 1 : 3) {
    char setting[32], first[65] = "";
    snprintf(setting, sizeof setting, "precision=%s", precisions[p]);
    for (int i = 0; i < (SMALL_JOB_ALL && p % 3 == 0 ? 4 : 1); i++) {
      for (int buckets = 1; buckets <= 3; buckets++) {
        char folder[48];
        snprintf(folder, sizeof folder, "buckets-%zu-%d-%d", p, i, buckets);
        struct how how = {.folder = folder,
                          .setting = setting,
                          .workers = on[i][0],
                          .devices = on[i][1],
                          .buckets = buckets,
                          .stop_at = i == 0 ? 9 : 0,
                          .backend = ls_backend_cuda_twin()};
        struct ls_train_result result = train(&how);
        how.stop_at = 0, how.attempt = 2, how.workers = 2, how.devices = 2, how.buckets = buckets % 3 + 1;
        if (i == 0) result = train(&how);
        if (!*first) snprintf(first, sizeof first, "%s", result.parameters_sha256);
        assert_string_equal(result.parameters_sha256, first);
      }
    }
  }
}

// Eight shards: on one worker up to a worker for each.
static void test_eight_workers(void **state) {
  (void)state;
  char first[65] = "";
  for (unsigned workers = 1; workers <= 8; workers *= 2) {
    char folder[32];
    snprintf(folder, sizeof folder, "eight-%u", workers);
    struct ls_train_result result = train(&(struct how){.folder = folder,
                                                        .setting = "shards=8",
                                                        .workers = workers,
                                                        .devices = workers == 8 ? 8 : 1,
                                                        .backend = ls_backend_cuda_twin()});
    if (!*first) snprintf(first, sizeof first, "%s", result.parameters_sha256);
    assert_string_equal(result.parameters_sha256, first);
  }
}

// What was measured is recorded in the job's folder before the first step; a resume needs it whole.
static void test_choices(void **state) {
  (void)state;
  struct how how = {.folder = "choices", .workers = 4, .devices = 2, .stop_at = 6, .backend = ls_backend_cuda_twin()};
  train(&how);
  char *path = small_path("choices/choices"), *text;
  size_t size;
  assert_int_equal(ls_file_read(path, 65536, &text, &size, NULL), LS_OK);
  assert_non_null(strstr(text, "twin, forward, x 4x1x12x12 w 6x3x3 groups 1"));
  assert_non_null(strstr(text, "\tloop\n"));
  assert_int_equal(ls_file_write_atomic(path, text, size - 3, NULL), LS_OK);  // as no program leaves it
  free(text);
  free(path);
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  Lockstep__V1__Job *job = small_job(NULL);
  path = small_path("choices");
  struct ls_train_options options = {
      .job = job, .folder = path, .attempt = 2, .devices = 4, .backend = ls_backend_cuda_twin(), .backend_devices = 2};
  assert_int_equal(ls_train(&options, &result, &err), LS_CORRUPT);
  assert_non_null(strstr(err.text, "is no choice"));
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
}

// The devices' loader hands over every batch one step ahead; a ring of one batch must do.
static void test_ring_of_one(void **state) {
  (void)state;
  struct how how = {
      .folder = "ring", .setting = "prefetch.depth=1", .workers = 4, .devices = 2, .backend = ls_backend_cuda_twin()};
  struct ls_train_result one = train(&how);
  how = (struct how){.folder = "ring-whole", .workers = 1, .devices = 1, .backend = ls_backend_cuda_twin()};
  assert_string_equal(one.parameters_sha256, train(&how).parameters_sha256);
}

// A failing device, 1 of 0 and 1, ends the job with its reason, on all workers; it is named, and worth another attempt.
static _Thread_local int opened;

static ls_status lost(struct ls_backend *backend, struct ls_stream *stream, const struct ls_input *input,
                      struct ls_error *err) {
  static atomic_int steps;
  if (opened != 1 || atomic_fetch_add(&steps, 1) < 9) return cuda_input(backend, stream, input, err);
  return ls_fail(err, LS_UNAVAILABLE, "waiting for the GPU: it has fallen off the bus");
}

static struct ls_backend_ops frail;

// Events that can be told apart. The last that a worker makes is that of a step's end (device.c, make_streams).
static _Thread_local char events[16];
static _Thread_local int events_made;

static ls_status event_numbered(struct ls_backend *backend, struct ls_event **event, struct ls_error *err) {
  (void)backend, (void)err;
  assert_in_range(events_made, 0, 15);
  *event = (struct ls_event *)(void *)&events[events_made++];
  return LS_OK;
}

static bool is_end(const struct ls_event *event) {
  return event == (const struct ls_event *)(const void *)&events[events_made - 1];
}

static ls_status open_frail(int index, struct ls_backend *backend, struct ls_error *err) {
  ls_status status = ls_backend_cuda_twin()->open(index, backend, err);
  backend->ops = &frail;
  opened = index;
  events_made = 0;
  return status;
}

// A batch that comes late, under a device that computes for a while yet or is done.
static atomic_int looks;

static ls_status computes_on(struct ls_backend *backend, struct ls_event *event, bool *done, struct ls_error *err) {
  (void)backend, (void)err;
  *done = is_end(event) || atomic_fetch_add(&looks, 1) % 3 == 2;
  return LS_OK;
}

static void test_late_batch(void **state) {
  (void)state;
  static struct ls_device_ops device;
  device = *ls_backend_cuda_twin()->device;
  device.event_done = computes_on;
  frail = *ls_backend_cuda_twin();
  frail.device = &device;
  frail.open = open_frail;
  frail.event_new = event_numbered;
  struct how how = {.folder = "late", .setting = "prefetch.depth=1", .workers = 2, .devices = 2, .backend = &frail};
  struct ls_train_result late = train(&how);
  assert_true(atomic_load(&looks) > 0);
  how = (struct how){.folder = "late-whole", .workers = 1, .devices = 1, .backend = ls_backend_cuda_twin()};
  assert_string_equal(late.parameters_sha256, train(&how).parameters_sha256);
}

static void on_outcome(void *user, const Lockstep__V1__Event *event) {
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_OUTCOME && event->outcome->has_failed_device)
    *(int *)user = (int)event->outcome->failed_device;
}

// Trains on two devices that work as `device` says; expects the second one to be named, and `reason`.
static void expect_failure(const char *folder, int workers, int64_t patience_ns, const struct ls_device_ops *device,
                           const char *reason) {
  static struct ls_device_ops failing;
  failing = *device;
  frail = *ls_backend_cuda_twin();
  frail.device = &failing;
  frail.open = open_frail;
  frail.event_new = event_numbered;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  Lockstep__V1__Job *job = small_job(NULL);
  char *path = small_path(folder);
  int failed = -1;
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = 1,
                                     .devices = (unsigned)workers,
                                     .backend = &frail,
                                     .backend_devices = 2,
                                     .patience_ns = patience_ns,
                                     .buckets = 3,
                                     .event = on_outcome,
                                     .user = &failed};
  assert_int_equal(ls_train(&options, &result, &err), LS_UNAVAILABLE);
  assert_int_equal(result.exit, LS_EXIT_DEVICE);
  assert_int_equal(failed, 1);
  assert_non_null(strstr(err.text, reason));
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
}

static void test_lost_device(void **state) {
  (void)state;
  struct ls_device_ops device = *ls_backend_cuda_twin()->device;
  device.input = lost;
  expect_failure("lost", 4, 0, &device, "fallen off the bus");
}

// The benchmark on devices, training and inference, with the same digest on any number of them.
static void test_bench(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = small_job(NULL);
  struct ls_bench_options options = {.network = job->network,
                                     .batch = 16,
                                     .steps = 3,
                                     .devices = 2,
                                     .shards = 4,
                                     .precision = LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16,
                                     .backend = ls_backend_cuda_twin(),
                                     .backend_devices = 2};
  struct ls_bench_result two, one;
  if (ls_bench(&options, &two, &err) != LS_OK) fail_msg("%s", err.text);
  assert_string_equal(two.device, "the CUDA backend's kernels on the host");
  options.devices = 1;
  if (ls_bench(&options, &one, &err) != LS_OK) fail_msg("%s", err.text);
  assert_string_equal(one.parameters_sha256, two.parameters_sha256);
  options.inference = true;
  if (ls_bench(&options, &one, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(one.images_per_s > 0);
  options.backend = ls_backend_cpu();
  options.backend_devices = 0;
  assert_int_equal(ls_bench(&options, &one, &err), LS_UNSUPPORTED);
  assert_non_null(strstr(err.text, "float32 only"));
  lockstep__v1__job__free_unpacked(job, NULL);
}

// A model trained on devices, evaluated there and on the CPU; ten crops too.
static void test_evaluation(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  train(&(struct how){.folder = "model", .workers = 2, .devices = 1, .backend = ls_backend_cuda_twin()});
  char *model = small_path("model/final.h5");
  for (int ten = 0; ten < 2; ten++) {
    struct ls_evaluate_options options = {
        .model = model, .devices = 2, .ten_crop = ten, .backend = ls_backend_cuda_twin(), .backend_devices = 2};
    struct ls_evaluate_result found, expected;
    if (ls_evaluate(&options, &found, &err) != LS_OK) fail_msg("%s", err.text);
    options.backend = NULL;
    options.kind = LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU;
    if (ls_evaluate(&options, &expected, &err) != LS_OK) fail_msg("%s", err.text);
    assert_int_equal(found.images, TEST);
    assert_int_equal(found.images, expected.images);
    assert_true(found.accuracy == expected.accuracy && found.top5 == expected.top5);
    assert_true(fabs(found.loss - expected.loss) < 1e-4 * expected.loss + 1e-6);
  }
  free(model);
}

// The rows of `bright` are; larger than the network's input, in colour.
static void paint(uint8_t *pixels, int bright) {
  for (int p = 0; p < 4 * SIDE * SIDE * 3; p++) pixels[p] = p / 3 / (2 * SIDE) / 6 == bright ? 210 : 40 + p % 7;
}

// Images one after another, on a device as on the CPU in every precision, and the same however many there are.
static void test_prediction(void **state) {
  (void)state;
  static const double tolerances[] = {0, 1e-5, 1e-5, 0.05, 0.02};  // by precision
  struct ls_error err = LS_ERROR_INIT;
  train(&(struct how){.folder = "seer", .workers = 1, .devices = 1, .backend = ls_backend_cuda_twin()});
  char *model = small_path("seer/final.h5");
  uint8_t pixels[CLASSES][4 * SIDE * SIDE * 3];
  struct ls_predict_image images[CLASSES];
  struct ls_prediction expected[CLASSES], found[CLASSES], alone;
  for (int i = 0; i < CLASSES; i++) {
    paint(pixels[i], i);
    images[i] = (struct ls_predict_image){pixels[i], 2 * SIDE, 2 * SIDE, 3};
  }
  struct ls_predict_options options = {.model = model, .kind = LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU};
  if (ls_predict(&options, images, CLASSES, expected, &err) != LS_OK) fail_msg("%s", err.text);
  options.backend = ls_backend_cuda_twin();
  options.backend_devices = 2;
  for (int precision = 0; precision <= LOCKSTEP__V1__PRECISION__PRECISION_FLOAT16; precision++) {
    options.precision = (Lockstep__V1__Precision)precision;
    if (ls_predict(&options, images, CLASSES, found, &err) != LS_OK) fail_msg("%s", err.text);
    double tolerance = precision ? tolerances[precision] : 1e-5;
    for (int i = 0; i < CLASSES; i++) {
      assert_int_equal(expected[i].top[0].class, i);
      assert_int_equal(found[i].top[0].class, i);
      assert_true(fabsf(found[i].top[0].probability - expected[i].top[0].probability) <= tolerance);
    }
    if (ls_predict(&options, &images[2], 1, &alone, &err) != LS_OK) fail_msg("%s", err.text);
    assert_memory_equal(&alone.top[0].probability, &found[2].top[0].probability, sizeof(float));
  }
  options = (struct ls_predict_options){.model = model,
                                        .kind = LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU,
                                        .precision = LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16};
  assert_int_equal(ls_predict(&options, images, 1, found, &err), LS_UNSUPPORTED);
  assert_non_null(strstr(err.text, "the CPU computes in float32 only"));
  free(model);
}

// A device that stands still: 1 of 0 and 1 computes no more in its tenth step, and the end of that step does not come for 0.
static ls_status never_done(struct ls_backend *backend, struct ls_event *event, bool *done, struct ls_error *err) {
  static _Thread_local int steps;
  (void)backend, (void)err;
  *done = steps < 9 || (opened == 0 && !is_end(event));
  steps += *done && is_end(event);
  return LS_OK;
}

static void test_stuck_device(void **state) {
  (void)state;
  struct ls_device_ops device = *ls_backend_cuda_twin()->device;
  device.event_done = never_done;
  // Its last sign of life tells the layers.
  expect_failure("stuck", 2, 50000000, &device,
                 ", in the forward pass or the backward pass from 'softmax_cross_entropy");
}

// A GPU whose memory another process uses, so that the job does not fit though it should.
static ls_status small_devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  LS_TRY(ls_backend_cuda_twin()->devices(info, capacity, count, err));
  for (int i = 0; i < *count && i < capacity; i++) info[i].memory_bytes = UINT64_C(64) << 30;
  return LS_OK;
}

static ls_status no_memory(struct ls_backend *backend, enum ls_memory kind, size_t bytes, void **memory,
                           struct ls_error *err) {
  if (kind != LS_MEMORY_DEVICE || bytes < 4096)
    return ls_backend_cuda_twin()->allocate(backend, kind, bytes, memory, err);
  *memory = NULL;
  return ls_fail(err, LS_NO_MEMORY, "GPU 0 (Fake): 1.0 MiB are wanted, 0.1 of its 65536.0 MiB are free");
}

static void test_out_of_memory(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  Lockstep__V1__Job *job = small_job(NULL);
  char *path = small_path("full");
  frail = *ls_backend_cuda_twin();
  frail.open = open_frail;
  frail.devices = small_devices;
  frail.allocate = no_memory;
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  struct ls_train_options options = {
      .job = job, .folder = path, .attempt = 1, .devices = 2, .backend = &frail, .backend_devices = 2};
  assert_int_equal(ls_train(&options, &result, &err), LS_NO_MEMORY);
  assert_int_equal(result.exit, LS_EXIT_INTERRUPTED);  // worth another attempt
  assert_int_equal(result.step, 0);
  assert_non_null(strstr(err.text, "0.1 of its 65536.0 MiB are free; 16 images in 4 shards take up to "));
  assert_non_null(strstr(err.text, " GiB on each GPU, which has 64.0: "));
  assert_non_null(strstr(err.text, "; the largest batch that fits is "));
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
}

static void test_choice(void **state) {
  (void)state;
  const struct ls_backend_ops *ops;
  int devices = -1, workers = 0;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(trainer_backend(LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU, &ops, &devices, &err), LS_OK);
  assert_ptr_equal(ops, ls_backend_cpu());
  assert_int_equal(devices, 0);
  ls_status status = trainer_backend(LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_GPU, &ops, &devices, &err);
  if (status == LS_OK) {
    assert_true(devices > 0 && ops == ls_backend_cuda());
  } else {
    assert_int_equal(status, LS_UNSUPPORTED);
    assert_non_null(strstr(err.text, ls_backend_cuda() ? "but no GPU was found" : "no CUDA backend"));
    assert_int_equal(trainer_backend(LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_AUTO, &ops, &devices, &err), LS_OK);
    assert_ptr_equal(ops, ls_backend_cpu());
  }
  assert_int_equal(trainer_worker_count(0, false, 8, 6, &workers, &err), LS_OK);
  assert_int_equal(workers, 4);
  assert_int_equal(trainer_worker_count(8, false, 8, 6, &workers, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "this machine has 6 GPUs"));
  assert_int_equal(trainer_worker_count(8, true, 8, 1, &workers, &err), LS_OK);
  assert_int_equal(workers, 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_any_number_of_devices),
                                     cmocka_unit_test(test_stop_and_resume),
                                     cmocka_unit_test(test_ring_of_one),
                                     cmocka_unit_test(test_late_batch),
                                     cmocka_unit_test(test_choices),
                                     cmocka_unit_test(test_eight_workers),
                                     cmocka_unit_test(test_buckets),
                                     cmocka_unit_test(test_precisions),
                                     cmocka_unit_test(test_statistics),
                                     cmocka_unit_test(test_lost_device),
                                     cmocka_unit_test(test_stuck_device),
                                     cmocka_unit_test(test_bench),
                                     cmocka_unit_test(test_evaluation),
                                     cmocka_unit_test(test_prediction),
                                     cmocka_unit_test(test_out_of_memory),
                                     cmocka_unit_test(test_choice)};
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
