// How much memory a job's training takes on each of its devices, from the static plans alone: nothing is allocated and no
// GPU is needed. `lockstep model show --memory` prints it; what runs out of memory explains itself with it.
//
// Each GPU holds its own copy of the parameters and its share of the momentum (all of it with `reduce: fast`, where that sums by
// NCCL), and reads the others' gradients where they lie. On the CPU the workers share parameters and momentum too; the figures are then those of the whole process.
#ifndef LS_WORKER_FOOTPRINT_H
#define LS_WORKER_FOOTPRINT_H

#include "graph/plan.h"
#include "lockstep/v1/job.pb-c.h"

enum ls_footprint_kind {
  LS_FOOTPRINT_WEIGHTS,      // with running statistics
  LS_FOOTPRINT_MOMENTUM,     // state of the optimizer, and on GPUs its table
  LS_FOOTPRINT_GRADIENTS,    // one slab for each level of the sum's tree that is open at a time
  LS_FOOTPRINT_FACTORS,      // gradients left as factors, and the tiles they are formed in (CPU)
  LS_FOOTPRINT_ACTIVATIONS,  // between layers, forward and backward, with workspaces; reused by liveness
  LS_FOOTPRINT_SCRATCH,      // what one operation needs while it runs; on GPUs the most that it may take
  LS_FOOTPRINT_EVALUATION,   // what evaluation needs beyond the memory of training, which it uses too
  LS_FOOTPRINT_INPUT,        // batches on their way
  LS_FOOTPRINT_KINDS
};

enum { LS_FOOTPRINT_LARGEST = 8 };

struct ls_footprint_options {
  bool gpu;
  Lockstep__V1__Precision precision;
  uint64_t batch;   // images a step, over all devices
  unsigned shards;  // divides the batch
  unsigned devices;
  unsigned workers_each;  // workers that share a GPU; 0: 1
  bool fast;              // reduce: fast
};

struct ls_footprint_buffer {
  char layer[64], operation[32];
  const char *what;
  uint64_t bytes;
};

struct ls_footprint {
  uint64_t bytes[LS_FOOTPRINT_KINDS];
  uint64_t total_bytes;
  uint64_t unshared_bytes;  // what the activations would take if no memory were reused
  struct ls_footprint_buffer largest[LS_FOOTPRINT_LARGEST];
  int largest_count;
};

// "weights", "optimizer state": for people; and "weights", "optimizer_state" for JSON.
const char *ls_footprint_name(enum ls_footprint_kind kind);
const char *ls_footprint_key(enum ls_footprint_kind kind);

ls_status ls_footprint_predict(const struct ls_graph *graph, const struct ls_footprint_options *options,
                               struct ls_footprint *footprint, struct ls_error *err);
// LS_INVALID with a sentence when training takes more than `memory_bytes` even if its operations take no scratch: how much,
// for what, and the largest batch that fits.
ls_status ls_footprint_check(const struct ls_graph *graph, const struct ls_footprint_options *options,
                             uint64_t memory_bytes, struct ls_error *err);
// That sentence, whether or not it fits: for a training that ran out of memory.
ls_status ls_footprint_explain(const struct ls_graph *graph, const struct ls_footprint_options *options,
                               uint64_t memory_bytes, char *text, size_t size, struct ls_error *err);
// The largest batch that `memory_bytes` hold, everything else as in `options`; 0: not even one image a shard.
ls_status ls_footprint_largest_batch(const struct ls_graph *graph, const struct ls_footprint_options *options,
                                     uint64_t memory_bytes, uint64_t *batch, struct ls_error *err);

#endif
