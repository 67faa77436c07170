// Workers on devices that cannot reach each other's memory, with the CUDA backend's twin as the device and a transport that
// copies between threads: the digest is that of devices that do, in all precisions; what stands in the way is said; a rank
// that is stuck is the one that is blamed.
#include <stdatomic.h>

#include "backend/cuda/cuda_internal.h"
#include "backend/device.h"
#include "support/small_job.h"
#include "worker/coordinator.h"
#include "worker/trainer.h"

// --- the twin, whose devices see nothing but themselves

static struct ls_backend_ops lonely;
static _Thread_local int opened;

static ls_status reach_nobody(struct ls_backend *backend, int index, struct ls_error *err) {
  (void)backend;
  return index == opened ? LS_OK : ls_fail(err, LS_UNSUPPORTED, "no way to %d", index);
}

static ls_status open_lonely(int index, struct ls_backend *backend, struct ls_error *err) {
  ls_status status = ls_backend_cuda_twin()->open(index, backend, err);
  backend->ops = &lonely;
  opened = index;
  return status;
}

static const struct ls_backend_ops *lonely_twin(void) {
  static struct ls_device_ops device;
  device = *ls_backend_cuda_twin()->device;
  device.reach = reach_nobody;
  lonely = *ls_backend_cuda_twin();
  lonely.device = &device;
  lonely.open = open_lonely;
  return &lonely;
}

// --- a transport between threads: each message is copied by who receives it

enum { RANKS = 8 };

struct ls_transport {
  struct ls_transport_options options;
};

static struct {
  struct ls_barrier barrier;
  const struct ls_transfer *transfers[RANKS];
  const float *slab[RANKS];
  int counts[RANKS];
  atomic_int messages;
  uint64_t stuck_step;  // at which rank 2 is; 0: never
} wire;

static ls_status wire_id(struct ls_transport_id *id, struct ls_error *err) {
  (void)err;
  snprintf(id->bytes, sizeof id->bytes, "wire");
  return LS_OK;
}

static ls_status wire_open(const struct ls_transport_id *id, const struct ls_transport_options *options,
                           struct ls_transport **transport, struct ls_error *err) {
  (void)err;
  assert_string_equal(id->bytes, "wire");
  *transport = malloc(sizeof **transport);
  (*transport)->options = *options;
  return LS_OK;
}

static void wire_close(struct ls_transport *transport) {
  ls_barrier_break(&wire.barrier);
  free(transport);
}

// The k-th message that `peer` sends to `rank`.
static const struct ls_transfer *sent(int peer, int rank, int k) {
  for (int i = 0; i < wire.counts[peer]; i++) {
    const struct ls_transfer *t = &wire.transfers[peer][i];
    if (t->send && t->peer == rank && k-- == 0) return t;
  }
  return NULL;
}

static ls_status wire_exchange(struct ls_transport *transport, struct ls_stream *stream,
                               const struct ls_transfer *transfers, int count, float *slab, float *staging,
                               struct ls_error *err) {
  (void)stream;
  int rank = transport->options.rank, seen[RANKS] = {0};
  wire.transfers[rank] = transfers;
  wire.counts[rank] = count;
  wire.slab[rank] = slab;
  if (!ls_barrier_wait(&wire.barrier)) return ls_fail(err, LS_CANCELLED, "another worker failed");
  for (int i = 0; i < count; i++) {
    const struct ls_transfer *to = &transfers[i], *from = to->send ? NULL : sent(to->peer, rank, seen[to->peer]++);
    if (!from) continue;
    memcpy((to->staging ? staging : slab) + to->at, wire.slab[to->peer] + from->at, (size_t)to->count * sizeof(float));
    atomic_fetch_add(&wire.messages, 1);
  }
  if (!ls_barrier_wait(&wire.barrier)) return ls_fail(err, LS_CANCELLED, "another worker failed");
  return LS_OK;
}

static ls_status wire_wait(struct ls_transport *transport, struct ls_stream *stream, struct ls_event *computed,
                           uint64_t step, struct ls_error *err) {
  (void)stream;
  (void)computed;
  struct ls_watch *watch = transport->options.watch;
  ls_watch_set(watch, transport->options.rank, step, LS_WATCH_EXCHANGES, 0);
  if (step != wire.stuck_step || step == 0) return LS_OK;
  atomic_store(&watch->blamed, 2);
  if (transport->options.rank != 0) return ls_fail(err, LS_CANCELLED, "another worker failed");
  return ls_fail(err, LS_UNAVAILABLE, "rank 2 (gpu2) is stuck");
}

static const struct ls_transport_ops wire_ops = {
    .id_new = wire_id, .open = wire_open, .close = wire_close, .exchange = wire_exchange, .wait = wire_wait};

// --- the tests

struct how {
  const char *folder, *setting;
  unsigned workers, devices;
  const struct ls_backend_ops *backend;
};

static void on_event(void *user, const Lockstep__V1__Event *event) {
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_OUTCOME && event->outcome->has_failed_device)
    *(int *)user = (int)event->outcome->failed_device;
}

static ls_status train(const struct how *how, struct ls_train_result *result, int *failed, struct ls_error *err) {
  Lockstep__V1__Job *job = small_job(how->setting);
  char *path = small_path(how->folder);
  assert_int_equal(ls_folder_make(path, 0700, err), LS_OK);
  ls_barrier_init(&wire.barrier, (int)how->workers, false);
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = 1,
                                     .devices = how->workers,
                                     .backend = how->backend,
                                     .backend_devices = how->devices,
                                     .transport = &wire_ops,
                                     .event = on_event,
                                     .user = failed};
  ls_status status = ls_train(&options, result, err);
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
  return status;
}

static void test_same_bits(void **state) {
  (void)state;
  static const char *const settings[] = {"precision=float32", "precision=bfloat16", "precision=float16"};
  struct ls_error err = LS_ERROR_INIT;
  int failed = -1;
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    char expected[65] = "";
    for (unsigned workers = 1; workers <= 4; workers *= 2) {
      char folder[32];
      struct ls_train_result result;
      snprintf(folder, sizeof folder, "apart-%zu-%u", i, workers);
      struct how how = {folder, settings[i], workers, workers, workers == 1 ? ls_backend_cuda_twin() : lonely_twin()};
      int before = atomic_load(&wire.messages);
      if (train(&how, &result, &failed, &err) != LS_OK) fail_msg("%s", err.text);
      assert_int_equal(atomic_load(&wire.messages) > before, workers > 1);
      if (!*expected) memcpy(expected, result.parameters_sha256, sizeof expected);
      assert_string_equal(result.parameters_sha256, expected);
    }
  }
}

static void test_shared_devices(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  int failed = -1;
  struct how how = {"shared", NULL, 4, 2, lonely_twin()};
  assert_int_equal(train(&how, &result, &failed, &err), LS_UNSUPPORTED);
  assert_string_equal(
      err.text, "4 workers cannot share 2 GPUs that do not reach each other's memory; use as many workers as GPUs");
  assert_int_equal(result.exit, LS_EXIT_FAILED);
}

static void test_stuck_rank(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  int failed = -1;
  wire.stuck_step = 5;
  struct how how = {"stuck", NULL, 4, 4, lonely_twin()};
  assert_int_equal(train(&how, &result, &failed, &err), LS_UNAVAILABLE);
  wire.stuck_step = 0;
  assert_string_equal(err.text, "rank 2 (gpu2) is stuck");
  assert_int_equal(result.exit, LS_EXIT_DEVICE);
  assert_int_equal(failed, 2);
}

// A job that is too large for the device ends before it has taken anything.
static ls_status small_devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  (void)err;
  *count = 1;
  if (capacity > 0) *info = (struct ls_device_info){.name = "gpu0", .memory_bytes = 64 << 10};
  return LS_OK;
}

static void test_too_large(void **state) {
  (void)state;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  struct ls_backend_ops small = *ls_backend_cuda_twin();
  int failed = -1;
  small.devices = small_devices;
  struct how how = {"large", NULL, 2, 1, &small};
  assert_int_equal(train(&how, &result, &failed, &err), LS_INVALID);
  assert_int_equal(result.exit, LS_EXIT_FAILED);
  assert_non_null(strstr(err.text, "key 'batch_size': 16 images in 4 shards take 0.0 GiB on each GPU"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_shared_devices),
                                     cmocka_unit_test(test_stuck_rank), cmocka_unit_test(test_too_large)};
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
