// The exchange over NCCL. Without a GPU: what is said when NCCL is not there. With one: 2 and 4 processes share it, each a
// rank that takes itself for another machine (NCCL_HOSTID), under a time limit; sums have the bits of the tree. Slow
// transports then: correctness only.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/device.h"
#include "base/clock.h"
#include "collective/collective.h"
#include "collective/transport.h"

enum { FLOATS = 16 * 5003, TAIL = 16, BUCKETS = 2, MOST = 8, LIMIT_S = 120 };

// Of all processes of one test.
struct shared {
  struct ls_transport_id id;
  atomic_bool has_id;
  char error[MOST][LS_ERROR_TEXT_BYTES];
};

static float *numbers(int rank) {
  float *values = malloc((FLOATS + TAIL) * sizeof *values);
  uint32_t state = (uint32_t)rank * 2654435761u + 1;
  for (int i = 0; i < FLOATS + TAIL; i++) {
    state = state * 1664525u + 1013904223u;
    values[i] = (float)(int32_t)state * (state & 1 ? 1e-3f : 1e-9f);
  }
  return values;
}

struct rank {
  struct ls_exchange x;
  int index;
  struct ls_backend backend;
  struct ls_watch watch;
  struct ls_transport *transport;
  struct ls_event *computed;
  float *slab, *staging;
};

static ls_status set_up(struct rank *r, struct shared *shared, struct ls_error *err) {
  const struct ls_transport_ops *nccl = ls_transport_nccl();
  LS_TRY(ls_backend_cuda()->open(0, &r->backend, err));
  const struct ls_backend_ops *ops = r->backend.ops;
  if (r->index == 0) {
    LS_TRY(nccl->id_new(&shared->id, err));
    atomic_store(&shared->has_id, true);
  }
  while (!atomic_load(&shared->has_id)) usleep(1000);
  void *slab, *staging;
  LS_TRY(ops->allocate(&r->backend, LS_MEMORY_DEVICE, (FLOATS + TAIL) * sizeof(float), &slab, err));
  size_t bytes = (size_t)ls_exchange_staging(&r->x, r->index) * sizeof(float);
  LS_TRY(ops->allocate(&r->backend, LS_MEMORY_DEVICE, bytes, &staging, err));
  r->slab = slab;
  r->staging = staging;
  LS_TRY(ops->event_new(&r->backend, &r->computed, err));
  ls_watch_init(&r->watch, r->x.ranks, 10000000000, ls_clock_ns());
  struct ls_transport_options options = {
      .backend = &r->backend, .watch = &r->watch, .rank = r->index, .ranks = r->x.ranks};
  return nccl->open(&shared->id, &options, &r->transport, err);
}

static ls_status exchange(struct rank *r, struct ls_error *err) {
  const struct ls_transport_ops *nccl = ls_transport_nccl();
  struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS];
  LS_TRY(r->backend.ops->event_record(&r->backend, r->computed, NULL, err));
  for (int b = BUCKETS - 1; b >= 0; b--) {
    const float *parts[MOST];
    int64_t begin, end;
    int count = ls_exchange_scatter(&r->x, b, r->index, transfers);
    LS_TRY(nccl->exchange(r->transport, NULL, transfers, count, r->slab, r->staging, err));
    ls_exchange_slice(&r->x, b, r->index, &begin, &end);
    for (int of = 0; of < r->x.ranks; of++) {
      int64_t at = ls_exchange_part(&r->x, b, r->index, of);
      parts[of] = at < 0 ? r->slab + begin : r->staging + at;
    }
    LS_TRY(r->backend.ops->device->tree_sum(&r->backend, NULL, r->slab + begin, parts, r->x.ranks, end - begin, err));
    count = ls_exchange_gather(&r->x, b, r->index, transfers);
    LS_TRY(nccl->exchange(r->transport, NULL, transfers, count, r->slab, NULL, err));
  }
  int count = ls_exchange_tails(&r->x, r->index, transfers);
  LS_TRY(nccl->exchange(r->transport, NULL, transfers, count, r->slab, r->staging, err));
  return nccl->wait(r->transport, NULL, &r->computed, 1, err);
}

static bool same_bits(float a, float b) {
  uint32_t x, y;
  memcpy(&x, &a, sizeof x);
  memcpy(&y, &b, sizeof y);
  return x == y;
}

static ls_status check(struct rank *r, float *const *all, struct ls_error *err) {
  static float got[FLOATS + TAIL], expected[FLOATS + TAIL], tail[TAIL];
  const struct ls_backend_ops *ops = r->backend.ops;
  ls_tree_sum(expected, (const float *const *)all, r->x.ranks, 0, FLOATS + TAIL);
  LS_TRY(ops->download(&r->backend, NULL, got, r->slab, sizeof got, err));
  for (int i = 0; i < FLOATS; i++) {
    if (!same_bits(got[i], expected[i]))
      return ls_fail(err, LS_INTERNAL, "float %d of %d: %a, expected %a", i, FLOATS, got[i], expected[i]);
  }
  for (int of = 0; of < r->x.ranks; of++) {
    int64_t at = ls_exchange_tail(&r->x, r->index, of);
    if (at < 0) continue;
    LS_TRY(ops->download(&r->backend, NULL, tail, r->staging + at, sizeof tail, err));
    for (int i = 0; i < TAIL; i++) {
      if (!same_bits(tail[i], all[of][FLOATS + i])) return ls_fail(err, LS_INTERNAL, "the tail of rank %d", of);
    }
  }
  return LS_OK;
}

// One process.
static int be_rank(int index, int ranks, struct shared *shared) {
  struct rank r = {.x = {.ranks = ranks, .buckets = BUCKETS, .cut = {0, FLOATS / 3 / 16 * 16, FLOATS}, .tail = TAIL},
                   .index = index};
  struct ls_error err = LS_ERROR_INIT;
  float *all[MOST];
  char host[32];
  snprintf(host, sizeof host, "lockstep-test-%d", index);
  setenv("NCCL_HOSTID", host, 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  alarm(LIMIT_S);
  for (int i = 0; i < ranks; i++) all[i] = numbers(i);
  ls_status status = set_up(&r, shared, &err);
  size_t bytes = (FLOATS + TAIL) * sizeof(float);
  if (status == LS_OK) status = r.backend.ops->upload(&r.backend, NULL, r.slab, all[index], bytes, &err);
  if (status == LS_OK) status = exchange(&r, &err);
  if (status == LS_OK) status = check(&r, all, &err);
  snprintf(shared->error[index], sizeof shared->error[index], "%s", err.text);
  if (status == LS_OK) ls_transport_nccl()->close(r.transport);
  for (int i = 0; i < ranks; i++) free(all[i]);
  return status == LS_OK ? 0 : 1;
}

static void run_ranks(int ranks) {
  struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t processes[MOST];
  int failed = -1;
  assert_ptr_not_equal(shared, MAP_FAILED);
  for (int i = 0; i < ranks; i++) {
    processes[i] = fork();
    if (processes[i] == 0) _exit(be_rank(i, ranks, shared));
  }
  for (int i = 0; i < ranks; i++) {
    int state = -1;
    waitpid(processes[i], &state, 0);
    if (state != 0 && failed < 0) failed = i;
  }
  if (failed >= 0) fail_msg("rank %d of %d: %s", failed, ranks, shared->error[failed]);
  munmap(shared, sizeof *shared);
}

// Asked in a process of its own: CUDA does not survive a fork.
static bool gpu_is_here(void) {
  pid_t process = ls_backend_cuda() ? fork() : -1;
  int state = -1, count = 0;
  if (process < 0) return false;
  if (process == 0) _exit(ls_backend_cuda()->devices(NULL, 0, &count, NULL) == LS_OK && count > 0 ? 0 : 1);
  waitpid(process, &state, 0);
  return state == 0;
}

static void test_ranks_on_one_gpu(void **state) {
  (void)state;
  if (!gpu_is_here()) {
    print_message("there is no GPU\n");
    skip();
  }
  run_ranks(2);
  run_ranks(4);
}

static void test_no_nccl(void **state) {
  (void)state;
  const struct ls_transport_ops *nccl = ls_transport_nccl();
  struct ls_transport_id id;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(nccl != NULL, ls_backend_cuda() != NULL);
  if (!nccl) skip();
  pid_t process = fork();  // the library is looked for once a process
  if (process == 0) {
    setenv("LOCKSTEP_NCCL", "/nowhere/libnccl.so.2", 1);
    bool good = nccl->id_new(&id, &err) == LS_UNSUPPORTED &&
                strcmp(err.text,
                       "these GPUs cannot reach each other's memory, and NCCL is not there ('/nowhere/libnccl.so.2' "
                       "cannot be loaded)") == 0;
    if (!good) fprintf(stderr, "%s\n", err.text);
    _exit(good ? 0 : 1);
  }
  int status = -1;
  waitpid(process, &status, 0);
  assert_int_equal(status, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_nccl), cmocka_unit_test(test_ranks_on_one_gpu)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
