// The training step on devices, as streams see it: every access to memory is ordered against every other that matters, with
// one bucket or several, on devices that reach each other, share one, exchange messages or sums, recorded or not. And the checker
// sees what is out of order: each fault that is ordered (watched.h) is found.
#include "races/watched.h"

#include <stdatomic.h>

#include "support/small_job.h"
#include "worker/coordinator.h"
#include "worker/trainer.h"

// --- what orders hosts

bool __real_ls_barrier_wait(struct ls_barrier *barrier);
bool __wrap_ls_barrier_wait(struct ls_barrier *barrier);
ls_status __real_trainer_run(struct trainer *trainer, enum worker_command command, struct ls_error *err);
ls_status __wrap_trainer_run(struct trainer *trainer, enum worker_command command, struct ls_error *err);
ls_status __real_ls_plan_buckets(const struct ls_plan *plan, int most, size_t least_bytes,
                                 struct ls_plan_bucket *buckets, int *count, struct ls_error *err);
ls_status __wrap_ls_plan_buckets(const struct ls_plan *plan, int most, size_t least_bytes,
                                 struct ls_plan_bucket *buckets, int *count, struct ls_error *err);

// Of the workers' barrier: what those knew who came, for each of its generations.
static struct {
  struct {
    uint64_t generation;
    clock_of known;
  } met[4];
  uint64_t arrivals;
  unsigned epoch;
} meeting;

bool __wrap_ls_barrier_wait(struct ls_barrier *barrier) {
  if (barrier == &wire.barrier) return __real_ls_barrier_wait(barrier);  // the transport's own: no host waits on GPUs
  pthread_mutex_lock(&order.lock);
  if (meeting.epoch != order.epoch) memset(&meeting, 0, sizeof meeting);
  meeting.epoch = order.epoch;
  uint64_t generation = meeting.arrivals++ / (uint64_t)barrier->threads;
  uint32_t *met = meeting.met[generation % 4].known;
  if (meeting.met[generation % 4].generation != generation) memset(met, 0, sizeof(clock_of));
  meeting.met[generation % 4].generation = generation;
  join(met, host_clock());
  pthread_mutex_unlock(&order.lock);
  bool whole = __real_ls_barrier_wait(barrier);
  pthread_mutex_lock(&order.lock);
  if (fault != FAULT_NO_BARRIER) join(host_clock(), met);
  pthread_mutex_unlock(&order.lock);
  return whole;
}

ls_status __wrap_trainer_run(struct trainer *trainer, enum worker_command command, struct ls_error *err) {
  begin_watching();
  ls_status status = __real_trainer_run(trainer, command, err);
  end_watching(status == LS_OK);
  return status;
}

ls_status __wrap_ls_plan_buckets(const struct ls_plan *plan, int most, size_t least_bytes,
                                 struct ls_plan_bucket *buckets, int *count, struct ls_error *err) {
  LS_TRY(__real_ls_plan_buckets(plan, most, least_bytes, buckets, count, err));
  for (int i = 1; i < *count && fault == FAULT_EARLY_CUT; i++) buckets[i].operations--;
  return LS_OK;
}

// --- messages: a send reads on its rank's stream, a receive writes on its own behind the sender's point

static clock_of sent_at[RANKS][2];

static ls_status watched_exchange(struct ls_transport *transport, struct ls_stream *stream,
                                  const struct ls_transfer *transfers, int count, float *slab, float *staging,
                                  struct ls_error *err) {
  static _Thread_local unsigned exchanges;
  int rank = transport->options.rank, turn = (int)(exchanges++ % 2);
  struct work_item send = {.what = "send"}, receive = {.what = "receive"};
  for (int i = 0; i < count; i++) {
    const struct ls_transfer *t = &transfers[i];
    add(t->send ? &send : &receive, (t->staging ? staging : slab) + t->at, (size_t)t->count * sizeof(float), !t->send);
  }
  struct ls_backend *backend = transport->options.backend;
  const struct ls_stream *on = stream_of(backend, stream);
  tell(backend, stream, &send);
  pthread_mutex_lock(&order.lock);
  memcpy(sent_at[rank][turn], order.now[on->actor], sizeof(clock_of));
  pthread_mutex_unlock(&order.lock);
  LS_TRY(wire_exchange(transport, stream, transfers, count, slab, staging, err));
  pthread_mutex_lock(&order.lock);
  for (int i = 0; i < count; i++) join(order.now[on->actor], sent_at[transfers[i].peer][turn]);
  pthread_mutex_unlock(&order.lock);
  tell(backend, stream, &receive);
  return LS_OK;
}

// Every rank's values are read behind its own point, and written behind everybody's.
static ls_status watched_sum(struct ls_transport *transport, struct ls_stream *stream, float *values, int64_t count,
                             struct ls_error *err) {
  static clock_of came[RANKS][2];
  static _Thread_local unsigned sums;
  int rank = transport->options.rank, turn = (int)(sums++ % 2);
  struct work_item item = {.what = "sum"};
  struct ls_backend *backend = transport->options.backend;
  const struct ls_stream *on = stream_of(backend, stream);
  add(&item, values, (size_t)count * sizeof(float), true);
  tell(backend, stream, &item);
  pthread_mutex_lock(&order.lock);
  memcpy(came[rank][turn], order.now[on->actor], sizeof(clock_of));
  pthread_mutex_unlock(&order.lock);
  LS_TRY(wire_sum(transport, stream, values, count, err));
  pthread_mutex_lock(&order.lock);
  for (int r = 0; r < transport->options.ranks; r++) join(order.now[on->actor], came[r][turn]);
  pthread_mutex_unlock(&order.lock);
  return LS_OK;
}

static ls_status watched_wait(struct ls_transport *transport, struct ls_stream *stream,
                              struct ls_event *const *computed, uint64_t step, struct ls_error *err) {
  LS_TRY(wire_wait(transport, stream, computed, step, err));
  return fault == FAULT_NO_END ? LS_OK : watched_wait_idle(transport->options.backend, stream, err);
}

static const struct ls_transport_ops watched_wire = {.id_new = wire_id,
                                                     .open = wire_open,
                                                     .close = wire_close,
                                                     .exchange = watched_exchange,
                                                     .sum = watched_sum,
                                                     .wait = watched_wait};

// --- the tests

struct how {
  const char *setting;
  unsigned workers, devices;
  int buckets;
  bool apart, fast;
};

// Trains; returns how many races there were.
static int races(const struct how *how) {
  static int runs;
  char folder[32];
  struct ls_error err = LS_ERROR_INIT;
  struct ls_train_result result;
  snprintf(folder, sizeof folder, "run-%d", runs++);
  Lockstep__V1__Job *job = small_job(how->setting);
  job->epochs = 1;
  if (how->fast) job->reduce = LOCKSTEP__V1__REDUCE__REDUCE_FAST;
  char *path = small_path(folder);
  assert_int_equal(ls_folder_make(path, 0700, &err), LS_OK);
  ls_barrier_init(&wire.barrier, (int)how->workers, false);
  order.races = 0;
  order.accesses = 0;
  order.actors = 0;
  struct ls_train_options options = {.job = job,
                                     .folder = path,
                                     .attempt = 1,
                                     .devices = how->workers,
                                     .backend = watched_twin(how->apart),
                                     .backend_devices = how->devices,
                                     .buckets = how->buckets,
                                     .transport = &watched_wire};
  if (ls_train(&options, &result, &err) != LS_OK) fail_msg("%s", err.text);
  assert_true(order.actors <= ACTORS);
  assert_true(order.accesses > 1000);
  free(path);
  lockstep__v1__job__free_unpacked(job, NULL);
  return order.races;
}

static void test_no_races(void **state) {
  (void)state;
  static const char *const precisions[] = {"precision=float32", "precision=bfloat16", "precision=float16"};
  static const struct how on[] = {{NULL, 1, 1, 0, false, false}, {NULL, 4, 4, 0, false, false},
                                  {NULL, 4, 2, 0, false, false}, {NULL, 2, 2, 0, false, false},
                                  {NULL, 2, 2, 0, true, false},  {NULL, 4, 4, 0, true, false},
                                  {NULL, 4, 4, 0, false, true},  {NULL, 2, 2, 0, true, true}};
  for (size_t p = 0; p < 3; p++) {
    for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
      for (int buckets = p == 1 ? 3 : 1; buckets <= 3; buckets++) {
        struct how how = on[i];
        how.setting = precisions[p];
        how.buckets = buckets;
        int found = races(&how);
        if (found)
          fail_msg("%u workers on %u devices%s, %d buckets, %s: %d races, the first: %s", how.workers, how.devices,
                   how.fast    ? " summing"
                   : how.apart ? " apart"
                               : "",
                   buckets, how.setting, found, order.first);
      }
    }
  }
}

static void finds(enum fault which, const struct how *how) {
  fault = which;
  int found = races(how);
  fault = FAULT_NONE;
  if (!found) fail_msg("fault %d: nothing found", (int)which);
}

static void test_faults_are_found(void **state) {
  (void)state;
  struct how three = {NULL, 2, 2, 3, false, false}, apart = {NULL, 4, 4, 3, true, false};
  struct how one = {NULL, 2, 2, 1, false, false}, sums = {NULL, 4, 4, 3, false, true};
  struct how four = {NULL, 4, 4, 3, false, false};  // a shard each: its last operations write what is summed
  for (int i = FAULT_NONE + 1; i < FAULT_EARLY_CUT; i++) finds(i, &three);
  finds(FAULT_EARLY_CUT, &four);
  finds(FAULT_NO_OWN_WAIT, &apart);
  finds(FAULT_EARLY_EVENT, &apart);
  finds(FAULT_NO_END, &apart);
  finds(FAULT_NO_OWN_WAIT, &sums);
  finds(FAULT_EARLY_CUT, &sums);
  finds(FAULT_NO_BARRIER, &one);
  finds(FAULT_NO_END, &one);
  finds(FAULT_NO_CONSUMED, &one);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_races), cmocka_unit_test(test_faults_are_found)};
  return cmocka_run_group_tests(tests, small_set_up, small_tear_down);
}
