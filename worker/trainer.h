// The coordinator's insides: the state that its worker threads share. Files: coordinator.c (a job from start to end),
// saving.c (its checkpoints), worker_thread.c (threads and their commands), step.c (the training step), evaluate.c,
// device.c, device_apart.c, device_step.c and device_watch.c (the same on devices with memory of their own: device.h),
// choice.c (which kernels those use), footprint.c (what memory it takes), profile.c (where the time goes), report.c
// (event log), model.c (parameters between slabs, snapshots and files), inference.c, bench.c.
#ifndef LS_WORKER_TRAINER_H
#define LS_WORKER_TRAINER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "backend/backend.h"
#include "checkpoint/checkpoint.h"
#include "collective/collective.h"
#include "collective/transport.h"
#include "data/loader.h"
#include "graph/plan.h"
#include "lockstep/v1/job.pb-c.h"
#include "optim/optim.h"

enum { LS_MAX_WORKERS = 64, LS_MAX_TREE_BUFFERS = 8 };
// A tile of a factored gradient. The sums of one tile stay in the second-level cache. Bits do not depend on the size.
enum { LS_TILE_ROWS = 24, LS_TILE_COLUMNS = 512 };

// A stretch of the flat slabs with one rule of updating.
struct segment {
  int64_t begin, end;  // in floats
  int64_t momentum;    // where its momentum begins
  bool learned;
  bool factored;                 // not in the gradient slab
  bool decays;                   // weight decay applies
  float share, statistic_scale;  // running statistics
};

// What stored pixels become: value * scale + bias of the channel. Done by the loader, or on a device.
struct normalisation {
  float scale[4], bias[4];
};

struct device_worker;  // device.h
struct device_slabs;

enum worker_command { COMMAND_TRAIN, COMMAND_REFRESH, COMMAND_EVALUATE, COMMAND_QUIT };

// What a profile adds up: kinds of time in a step.
struct profile;

struct worker {
  struct trainer *trainer;
  int index;
  pthread_t thread;
  bool started;
  struct ls_backend backend;
  struct ls_plan *plan, *evaluation_plan;
  void *activations;  // shared by both plans
  size_t activation_bytes;
  float *gradients[LS_MAX_TREE_BUFFERS];
  struct ls_binding *bindings[LS_MAX_WORKERS];  // one for each of its shards
  char *factors;                                // [shards_each] factor slabs
  float *tiles;                                 // [tree buffers of all shards][LS_TILE_ROWS][LS_TILE_COLUMNS]
  struct ls_binding *evaluation_binding;
  struct ls_step_parameters *step_parameters;
  float *evaluation_metrics;     // LS_METRICS
  struct device_worker *device;  // NULL on the host's cores
  int64_t wait_ns;               // for data, since the last report
  struct ls_error error;         // why this worker failed
};

// How gradients and parameters come from device to device.
enum device_way {
  WAY_REACH,     // everybody reads the others' gradients where they lie, and writes its slice of all parameters
  WAY_MESSAGES,  // the same by messages of a transport: devices that cannot reach each other's memory
  WAY_SUMS,      // the transport sums, everybody updates everything (`reduce: fast`)
};

// A transport between devices: device_apart.c.
struct apart {
  const struct ls_transport_ops *ops;
  atomic_bool needed;   // some cannot reach each other's memory
  atomic_bool refused;  // a rank did not get its end of a transport that they can do without
  enum device_way way;
  struct ls_transport_id id;
  struct ls_transfer *transfers;  // [workers][LS_EXCHANGE_TRANSFERS]: scratch of WAY_MESSAGES
};

struct trainer {
  const Lockstep__V1__Job *job;  // NULL in the benchmark
  struct ls_graph *graph;
  const struct ls_backend_ops *ops;
  int devices;                 // with memory of their own, that the workers share out; 0: the host's cores
  struct ls_choices *choices;  // of kernels, by measuring; devices only
  bool fast;                   // results may differ from run to run
  struct device_slabs *slabs;  // [devices]
  atomic_ullong device_bytes;  // allocated on all of them
  // On devices: buckets of the slabs and the workers' slices of each, and after how many operations of the backward pass a
  // bucket is complete (ls_plan_buckets). The pass completes the last bucket first.
  struct ls_exchange exchange;
  int bucket_operations[LS_EXCHANGE_BUCKETS];
  int wanted_buckets;
  struct apart apart;
  struct ls_watch watch;  // of workers on devices
  enum ls_dtype dtype;    // of activations and their gradients
  bool tf32;
  struct ls_loss_scale loss_scale;     // float16
  struct normalisation normalisation;  // of the loader at hand
  int shards, workers, shards_each;
  int64_t batch, shard_batch;
  bool training;

  // Slabs. All workers read `parameters`; each updates its slice between the two barriers of a step.
  float *parameters, *momentum;
  int64_t parameter_floats, learned_floats, gradient_floats;
  int64_t summed_floats;  // of the parameter slab: those with a place in the gradient slab
  size_t factor_bytes;    // of one shard
  // Weights with batch norms folded in, for the evaluation plans of all workers: written by worker 0 (COMMAND_REFRESH)
  // behind its evaluation's activations, so that training, which does not need them, lies over them.
  void *folded;
  struct segment *segments;
  int segment_count;
  struct ls_sgd sgd;

  struct worker worker[LS_MAX_WORKERS];
  struct ls_barrier barrier;  // of the workers
  // As many as there are cores, when there are more workers: one that computes its shards goes on to their end, instead of
  // all of them taking turns and driving each other's activations out of the caches.
  sem_t cores;
  bool share_cores;
  pthread_mutex_t lock;  // commands
  pthread_cond_t commanded, finished;
  uint64_t command_number;
  enum worker_command command;
  int working;

  struct ls_loader *loader;          // of the command at hand
  const struct ls_batch *generated;  // the benchmark's, instead of a loader
  uint64_t step;                     // steps done
  uint64_t target_step;              // where the command ends at the latest
  float metrics[LS_METRICS];         // of the last step, all shards
  bool go_on;                        // decided by worker 0 between the barriers
  // Called by worker 0 between the barriers of every step, alone: says whether to go on. Must not take long.
  bool (*after_step)(void *user, struct trainer *trainer);
  void *user;
  double evaluation[LS_METRICS];  // result of COMMAND_EVALUATE
  double *evaluation_parts;       // [batches][shards][LS_METRICS], summed in order
  uint64_t evaluation_batches;
  // Ten images a sample: probabilities summed over them in units of 2^-40, whole numbers so that no order matters
  // [samples][classes], and labels [samples]; NULL: one image a sample.
  int64_t *view_sums;
  int32_t *view_labels;
  struct profile *profile;
};

struct trainer_options {
  const struct ls_backend_ops *ops;          // NULL: the CPU
  int64_t patience_ns;                       // before a device that stands still is given up; 0: 10 s
  const struct ls_transport_ops *transport;  // between devices that cannot reach each other; NULL: NCCL
  int devices;                               // of `ops`, where they have memory of their own: how many are there
  int buckets;                               // of gradients on devices: at most so many, however small; 0: as is best
  const Lockstep__V1__Network *network;
  Lockstep__V1__Precision precision;  // 0: float32
  bool fast;                          // kernels that give other bits on another run will do
  const char *record, *cache;         // files of choices (backend/choices.h); may be NULL
  int64_t batch;
  int shards, workers;
  bool training;    // false: only evaluation
  bool evaluation;  // make evaluation plans
  // Without training: each worker computes with cores / workers threads. The results' bits then depend on the machine.
  bool use_all_cores;
};

// choice.c: the backend of a kind of device, and how many devices there are (0: the host's cores).
ls_status trainer_backend(Lockstep__V1__DeviceKind kind, const struct ls_backend_ops **ops, int *devices,
                          struct ls_error *err);
// Whether that backend computes in that precision.
ls_status trainer_check_precision(Lockstep__V1__Precision precision, int devices, struct ls_error *err);
enum ls_dtype trainer_dtype(Lockstep__V1__Precision precision);
// How many workers: `wanted` (0: as many as there are devices or cores, at most shards), checked. An error sentence says
// what is allowed.
ls_status trainer_worker_count(unsigned wanted, bool oversubscribe, int shards, int devices, int *workers,
                               struct ls_error *err);
int trainer_core_count(void);
// Before anything is allocated: a job that is too large for its GPUs is told so, and what would fit. A training that ran
// out of a GPU's memory all the same, as other processes use it: what it takes is added to what failed.
ls_status trainer_check_memory(const struct trainer_options *options, struct ls_error *err);
void trainer_explain_memory(const struct trainer_options *options, struct ls_error *err);
// The user's cache of choices (backend/choices.h); NULL where there is no place for one. The caller frees it.
char *trainer_choice_cache(void);

// Builds graph, plans, slabs and threads. The parameters are not set yet.
// `job`: NULL in the benchmark.
ls_status trainer_new(const struct trainer_options *options, const Lockstep__V1__Job *job, struct trainer **trainer,
                      struct ls_error *err);
void trainer_free(struct trainer *trainer);

// Runs one command on all workers and waits for its end. The first failure of a worker is the result.
ls_status trainer_run(struct trainer *trainer, enum worker_command command, struct ls_error *err);

// The batch of a step: from the loader, or the benchmark's generated one.
static inline ls_status trainer_batch(struct trainer *t, uint64_t index, const struct ls_batch **batch,
                                      struct ls_error *err) {
  if (t->loader) return ls_loader_wait(t->loader, index, batch, err);
  *batch = t->generated;
  return LS_OK;
}

// The training step and one evaluation pass of one worker: step.c, evaluate.c. LS_CANCELLED: another
// worker has failed.
ls_status worker_train(struct worker *worker, struct ls_error *err);
ls_status worker_evaluate(struct worker *worker, struct ls_error *err);

// Evaluation of several images a sample: the shard's probabilities p [shard's images, classes] go to their samples' sums.
void worker_add_views(const struct worker *worker, const struct ls_batch *batch, int shard, const float *p);

// model.c: initial values, and the way between slabs and a snapshot.
ls_status model_initialise(struct trainer *trainer, uint64_t seed, struct ls_error *err);
ls_status model_load(struct trainer *trainer, const struct ls_snapshot *snapshot, struct ls_error *err);
ls_status model_save(struct trainer *trainer, struct ls_snapshot *snapshot, struct ls_error *err);

// What a job says about its data, for this trainer's network; `info`: of the training data, whose mean and deviation are
// used for every set when the job names none; NULL: unknown. A job (also one that comes with a checkpoint) whose numbers do
// not fit the network is refused.
ls_status trainer_loader_options(const struct trainer *trainer, const Lockstep__V1__Job *job,
                                 const struct ls_dataset_info *info, struct ls_loader_options *options,
                                 struct ls_error *err);

// The loader of the command at hand: what workers on a device take as it is stored, in page-locked memory. *loader stays
// the caller's.
ls_status trainer_loader_new(struct trainer *trainer, const struct ls_loader_options *options,
                             struct ls_loader **loader, struct ls_error *err);

// evaluate.c: makes the folded weights of evaluation plans from the parameters; before COMMAND_EVALUATE, and anew after
// training or loading.
ls_status trainer_refresh(struct trainer *trainer, struct ls_error *err);
// Runs the data set through; fills trainer->evaluation with sums.
ls_status trainer_evaluate(struct trainer *trainer, struct ls_dataset *dataset, const struct ls_loader_options *base,
                           struct ls_error *err);

// profile.c: NULL-safe; times of operations and phases, written as a Chrome trace with a table on standard error.
ls_status profile_new(const char *path, int workers, struct profile **profile, struct ls_error *err);
void profile_attach(struct profile *profile, struct worker *worker, struct ls_binding *binding);
void profile_add(struct profile *profile, int worker, const char *what, const char *category, int64_t begin_ns,
                 int64_t end_ns);
ls_status profile_finish(struct profile *profile, struct ls_error *err);

// Largest resident memory of the process so far.
uint64_t peak_rss_bytes(void);

#endif
