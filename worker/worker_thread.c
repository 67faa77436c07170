// Worker threads: made once, each with its own backend context and plans, then given commands (train until told to stop,
// evaluate, quit). Between commands they sleep and the coordinator owns everything.
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "worker/device.h"

static const int64_t usual_patience_ns = 10000000000;

uint64_t peak_rss_bytes(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (uint64_t)usage.ru_maxrss * 1024;
}

// Pins to a core of those allowed, so that a worker keeps its caches. Not when workers share cores: the kernel balances
// them better.
static void pin(const struct worker *w) {
  cpu_set_t allowed, one;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) != w->trainer->workers) return;
  for (int core = 0, seen = 0; core < CPU_SETSIZE; core++) {
    if (!CPU_ISSET(core, &allowed) || seen++ != w->index) continue;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

static ls_status allocate(struct worker *w, size_t bytes, void *memory, struct ls_error *err) {
  void *got = NULL;
  LS_TRY(w->backend.ops->allocate(&w->backend, LS_MEMORY_DEVICE, bytes, &got, err));
  memcpy(memory, &got, sizeof got);
  return LS_OK;
}

static ls_status build_plans(struct worker *w, const struct trainer_options *o, struct ls_error *err) {
  struct trainer *t = w->trainer;
  struct ls_plan_options options = {.batch = t->shard_batch,
                                    .training = true,
                                    .dtype = t->dtype,
                                    .tf32 = t->tf32,
                                    .loss_images = t->batch,
                                    .input_channels_last = t->devices > 0,
                                    .input_padded = t->devices > 0,
                                    .factors = t->ops->outer_sum != NULL};
  if (o->training) LS_TRY(ls_plan_build(t->graph, &w->backend, &options, &w->plan, err));
  options.training = false;
  options.parameters_of = w->plan;
  if (o->evaluation) LS_TRY(ls_plan_build(t->graph, &w->backend, &options, &w->evaluation_plan, err));
  return LS_OK;
}

static const struct ls_plan *any_plan(const struct worker *w) { return w->plan ? w->plan : w->evaluation_plan; }

// What all workers know of the slabs: their sizes and who updates what how. Made by worker 0.
static ls_status make_table(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct ls_plan *plan = any_plan(w);
  t->parameter_floats = (int64_t)(ls_plan_parameter_bytes(plan) / sizeof(float));
  t->learned_floats = (int64_t)(ls_plan_learned_bytes(plan) / sizeof(float));
  t->gradient_floats = (int64_t)(ls_plan_gradient_bytes(plan) / sizeof(float));
  t->summed_floats = (int64_t)(ls_plan_metrics_offset(plan) / sizeof(float));
  t->factor_bytes = ls_plan_factor_bytes(plan);
  t->segments = calloc((size_t)ls_plan_parameter_count(plan) + 1, sizeof *t->segments);
  if (!t->segments) return ls_fail(err, LS_NO_MEMORY, "no memory for the parameters' table");
  bool decay_all = !t->job || t->job->optimizer->sgd->decay_all;
  for (int i = 0; i < ls_plan_parameter_count(plan); i++) {
    const struct ls_plan_parameter *p = ls_plan_parameter(plan, i);
    int64_t begin = (int64_t)(p->offset_bytes / sizeof(float));
    t->segments[t->segment_count++] = (struct segment){.begin = begin,
                                                       .end = begin + (int64_t)(p->bytes / sizeof(float)),
                                                       .momentum = (int64_t)(p->momentum_offset_bytes / sizeof(float)),
                                                       .learned = p->parameter->learned,
                                                       .factored = p->factored,
                                                       .decays = decay_all || p->parameter->kind == LS_PARAMETER_WEIGHT,
                                                       .share = p->parameter->running_momentum,
                                                       .statistic_scale = p->statistic_scale};
  }
  return LS_OK;
}

// The slabs that all workers on the host's cores share; made by worker 0.
static ls_status make_shared(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  const struct ls_plan *plan = any_plan(w);
  LS_TRY(allocate(w, ls_plan_parameter_bytes(plan) + 64, &t->parameters, err));
  memset(t->parameters, 0, ls_plan_parameter_bytes(plan));
  if (!w->plan) return LS_OK;
  LS_TRY(allocate(w, ls_plan_learned_bytes(plan) + 64, &t->momentum, err));
  memset(t->momentum, 0, ls_plan_learned_bytes(plan));
  return LS_OK;
}

// Memory that training and evaluation use in turn; worker 0's holds the folded weights of all.
static ls_status make_activations(struct worker *w, struct ls_error *err) {
  size_t training = w->plan ? ls_plan_activation_bytes(w->plan) : 0;
  size_t evaluation = w->evaluation_plan ? (ls_plan_activation_bytes(w->evaluation_plan) + 63) / 64 * 64 : 0;
  size_t folded = w->evaluation_plan && w->index == 0 ? ls_plan_folded_bytes(w->evaluation_plan) : 0;
  w->activation_bytes = training > evaluation + folded ? training : evaluation + folded;
  LS_TRY(allocate(w, w->activation_bytes, &w->activations, err));
  if (w->index == 0) w->trainer->folded = (char *)w->activations + evaluation;
  return LS_OK;
}

static ls_status make_bindings(struct worker *w, struct ls_error *err) {
  struct trainer *t = w->trainer;
  LS_TRY(allocate(w, sizeof *w->step_parameters, &w->step_parameters, err));
  LS_TRY(allocate(w, 64, &w->evaluation_metrics, err));
  *w->step_parameters = (struct ls_step_parameters){.seed = t->job ? t->job->seed : 1};
  struct ls_plan_memory memory = {.parameters = t->parameters,
                                  .activations = w->activations,
                                  .folded = t->folded,
                                  .step = w->step_parameters,
                                  .metrics = w->evaluation_metrics};
  if (w->evaluation_plan) LS_TRY(ls_plan_bind(w->evaluation_plan, &memory, &w->evaluation_binding, err));
  if (!w->plan) return LS_OK;
  for (int i = 0; i < ls_tree_buffers(t->shards_each); i++) {
    LS_TRY(allocate(w, ls_plan_gradient_bytes(w->plan), &w->gradients[i], err));
    memset(w->gradients[i], 0, ls_plan_gradient_bytes(w->plan));  // what lies between parameters stays zero
  }
  if (t->factor_bytes) {
    size_t tile_bytes = LS_TILE_ROWS * LS_TILE_COLUMNS * sizeof(float);
    LS_TRY(allocate(w, t->factor_bytes * (size_t)t->shards_each, &w->factors, err));
    LS_TRY(allocate(w, (size_t)ls_tree_buffers(t->shards) * tile_bytes, &w->tiles, err));
  }
  for (int i = 0; i < t->shards_each; i++) {
    memory.gradients = w->gradients[ls_tree_buffer(i)];
    memory.factors = w->factors ? w->factors + (size_t)i * t->factor_bytes : NULL;
    LS_TRY(ls_plan_bind(w->plan, &memory, &w->bindings[i], err));
  }
  return LS_OK;
}

static void release_worker(struct worker *w) {
  if (w->backend.ops) device_release(w);
  for (int i = 0; i < LS_MAX_WORKERS; i++) ls_binding_free(w->bindings[i]);
  for (int i = 0; i < LS_MAX_TREE_BUFFERS; i++) {
    if (w->backend.ops) w->backend.ops->release(&w->backend, LS_MEMORY_DEVICE, w->gradients[i], 0);
  }
  ls_binding_free(w->evaluation_binding);
  ls_plan_free(w->evaluation_plan);
  ls_plan_free(w->plan);
  if (!w->backend.ops) return;
  void *memory[] = {w->activations, w->step_parameters, w->evaluation_metrics, w->factors, w->tiles};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
    w->backend.ops->release(&w->backend, LS_MEMORY_DEVICE, memory[i], 0);
  w->backend.ops->close(&w->backend);
}

static ls_status meet(struct worker *w, struct ls_error *err) {
  return ls_barrier_wait(&w->trainer->barrier) ? LS_OK : ls_fail(err, LS_CANCELLED, "another worker failed");
}

static ls_status set_up_on_device(struct worker *w, const struct trainer_options *o, struct ls_error *err) {
  struct trainer *t = w->trainer;
  LS_TRY(t->ops->open(device_of(t, w->index), &w->backend, err));
  t->ops->device->choose_by(&w->backend, t->choices, t->fast);
  LS_TRY(build_plans(w, o, err));
  if (w->index == 0) LS_TRY(make_table(w, err));
  LS_TRY(meet(w, err));
  LS_TRY(device_make(w, err));
  LS_TRY(meet(w, err));
  return device_bind(w, err);
}

// What a thread does before its first command. Worker 0 makes the shared slabs; the others wait for them.
static ls_status set_up(struct worker *w, const struct trainer_options *o, struct ls_error *err) {
  struct trainer *t = w->trainer;
  if (t->devices > 0) return set_up_on_device(w, o, err);
  int threads = o->use_all_cores && !o->training && t->ops->use_threads ? trainer_core_count() / t->workers : 1;
  if (threads <= 1) pin(w);
  LS_TRY(t->ops->open(w->index, &w->backend, err));
  if (threads > 1) t->ops->use_threads(&w->backend, w->index * threads, threads);
  LS_TRY(build_plans(w, o, err));
  LS_TRY(make_activations(w, err));
  if (w->index == 0) LS_TRY(make_table(w, err));
  if (w->index == 0) LS_TRY(make_shared(w, err));
  LS_TRY(meet(w, err));
  return make_bindings(w, err);
}

struct start {
  struct worker *worker;
  const struct trainer_options *options;
};

static void report_done(struct worker *w, ls_status status) {
  struct trainer *t = w->trainer;
  if (status != LS_OK) {
    ls_barrier_break(&t->barrier);
    ls_watch_failed(&t->watch, w->index);
    if (t->loader) ls_loader_stop(t->loader);
  }
  pthread_mutex_lock(&t->lock);
  if (--t->working == 0) pthread_cond_signal(&t->finished);
  pthread_mutex_unlock(&t->lock);
}

static ls_status do_command(struct worker *w, enum worker_command command) {
  if (w->trainer->devices > 0) {
    if (command == COMMAND_TRAIN) return device_train(w, &w->error);
    return command == COMMAND_EVALUATE ? device_evaluate(w, &w->error) : device_refresh(w, &w->error);
  }
  if (command == COMMAND_TRAIN) return worker_train(w, &w->error);
  if (command == COMMAND_EVALUATE) return worker_evaluate(w, &w->error);
  return w->index == 0 ? ls_binding_refresh(w->evaluation_binding, NULL, &w->error) : LS_OK;
}

static void *worker_main(void *argument) {
  struct start start = *(struct start *)argument;
  free(argument);
  struct worker *w = start.worker;
  struct trainer *t = w->trainer;
  uint64_t seen = 0;
  report_done(w, set_up(w, start.options, &w->error));
  for (;;) {
    pthread_mutex_lock(&t->lock);
    while (t->command_number == seen) pthread_cond_wait(&t->commanded, &t->lock);
    seen = t->command_number;
    enum worker_command command = t->command;
    pthread_mutex_unlock(&t->lock);
    if (command == COMMAND_QUIT) break;
    report_done(w, do_command(w, command));
  }
  release_worker(w);
  return NULL;
}

// The first real failure; "another worker failed" only when there is no other.
static ls_status first_error(struct trainer *t, struct ls_error *err) {
  const struct worker *failed = NULL;
  for (int i = 0; i < t->workers; i++) {
    const struct worker *w = &t->worker[i];
    if (w->error.status != LS_OK && (!failed || failed->error.status == LS_CANCELLED)) failed = w;
  }
  if (!failed) return LS_OK;
  if (err) *err = failed->error;
  return failed->error.status;
}

static void wait_until_done(struct trainer *t) {
  pthread_mutex_lock(&t->lock);
  while (t->working > 0) pthread_cond_wait(&t->finished, &t->lock);
  pthread_mutex_unlock(&t->lock);
}

static void give_command(struct trainer *t, enum worker_command command) {
  pthread_mutex_lock(&t->lock);
  t->command = command;
  t->command_number++;
  t->working = t->workers;
  pthread_cond_broadcast(&t->commanded);
  pthread_mutex_unlock(&t->lock);
}

ls_status trainer_run(struct trainer *t, enum worker_command command, struct ls_error *err) {
  give_command(t, command);
  wait_until_done(t);
  return first_error(t, err);
}

static ls_status start_workers(struct trainer *t, const struct trainer_options *options, struct ls_error *err) {
  t->working = t->workers;
  for (int i = 0; i < t->workers; i++) {
    struct worker *w = &t->worker[i];
    w->trainer = t;
    w->index = i;
    struct start *start = malloc(sizeof *start);
    if (start) *start = (struct start){w, options};
    int failed = start ? pthread_create(&w->thread, NULL, worker_main, start) : 12;
    if (failed) {
      free(start);
      ls_barrier_break(&t->barrier);
      pthread_mutex_lock(&t->lock);
      t->working -= t->workers - i;
      pthread_mutex_unlock(&t->lock);
      wait_until_done(t);
      return ls_fail_errno(err, failed, "cannot start worker thread %d", i);
    }
    w->started = true;
  }
  wait_until_done(t);
  return first_error(t, err);
}

ls_status trainer_new(const struct trainer_options *o, const Lockstep__V1__Job *job, struct trainer **result,
                      struct ls_error *err) {
  *result = NULL;
  struct trainer *t = calloc(1, sizeof *t);
  if (!t) return ls_fail(err, LS_NO_MEMORY, "no memory for the coordinator");
  t->job = job;
  t->ops = o->ops ? o->ops : ls_backend_cpu();
  t->dtype = trainer_dtype(o->precision);
  t->tf32 = o->precision == LOCKSTEP__V1__PRECISION__PRECISION_TF32;
  ls_loss_scale_begin(&t->loss_scale);
  if (t->ops->device) {
    t->devices = o->devices < o->workers ? o->devices : o->workers;
  }
  t->shards = o->shards;
  t->workers = o->workers;
  t->shards_each = o->shards / o->workers;
  t->batch = o->batch;
  t->shard_batch = o->batch / o->shards;
  ls_barrier_init(&t->barrier, t->workers, trainer_core_count() >= t->workers);
  t->share_cores = !t->devices && trainer_core_count() < t->workers;
  sem_init(&t->cores, 0, (unsigned)trainer_core_count());
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->commanded, NULL);
  pthread_cond_init(&t->finished, NULL);
  ls_status status = ls_graph_build(o->network, &t->graph, err);
  ls_watch_init(&t->watch, t->workers, o->patience_ns ? o->patience_ns : usual_patience_ns, ls_clock_ns());
  for (int i = 0; i < t->workers && t->devices; i++)
    snprintf(t->watch.rank[i].device, sizeof t->watch.rank[i].device, "gpu%d", device_of(t, i));
  t->apart.ops = o->transport ? o->transport : ls_transport_nccl();
  t->slabs = calloc((size_t)t->devices + 1, sizeof *t->slabs);
  if (status == LS_OK && !t->slabs) status = ls_fail(err, LS_NO_MEMORY, "no memory for the coordinator");
  t->fast = o->fast;
  t->wanted_buckets = o->buckets;
  if (status == LS_OK && t->devices) status = ls_choices_new(o->record, o->cache, &t->choices, err);
  if (status == LS_OK) status = start_workers(t, o, err);
  if (status != LS_OK) {
    trainer_free(t);
    return status;
  }
  // Before the first step: what a resume will need.
  if (t->choices && (status = ls_choices_save(t->choices, err)) != LS_OK) {
    trainer_free(t);
    return status;
  }
  *result = t;
  return LS_OK;
}

void trainer_free(struct trainer *t) {
  if (!t) return;
  give_command(t, COMMAND_QUIT);
  for (int i = 0; i < t->workers; i++) {
    if (t->worker[i].started) pthread_join(t->worker[i].thread, NULL);
  }
  ls_graph_free(t->graph);
  if (!t->devices) {  // on devices: theirs
    free(t->parameters);
    free(t->momentum);
  }
  free(t->slabs);
  ls_choices_free(t->choices);
  free(t->segments);
  free(t->apart.transfers);
  free(t->evaluation_parts);
  free(t->view_sums);
  free(t->view_labels);
  pthread_cond_destroy(&t->commanded);
  pthread_cond_destroy(&t->finished);
  pthread_mutex_destroy(&t->lock);
  sem_destroy(&t->cores);
  free(t);
}
