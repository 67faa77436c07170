// Workers whose devices have memory of their own (GPUs): device.c (slabs and buffers), device_step.c (the training step and
// the evaluation). The contract with the rest of the worker is the one of workers on the host's cores: trainer.h.
//
// Workers share the devices out among themselves in order: with more workers than devices, as many consecutive ones on
// each. All workers of one device share one parameter slab and the momentum. Each device has all parameters, but of the
// momentum only its workers' slices of each bucket, one after another (device_momentum): the optimizer's state is held once.
// Between commands it can be put together in worker 0's gradients, which nobody needs then (device_gather, device_spread).
#ifndef LS_WORKER_DEVICE_H
#define LS_WORKER_DEVICE_H

#include "backend/device.h"
#include "worker/trainer.h"

// Of one device; made by its first worker, read by all.
struct device_slabs {
  float *parameters;
  float *momentum;  // device_momentum
  void *folded;
  struct ls_update_rule *rules;
  uint16_t *rule_of_line;
  struct ls_backend *owner;  // the first worker's context
};

// Page-locked memory of one worker: what travels.
struct device_host {
  struct ls_step_parameters steps[LS_MAX_WORKERS];
  struct ls_update_numbers numbers;
  float metrics[LS_METRICS];
  uint32_t overflow[LS_MAX_WORKERS];
  float shard_metrics[LS_MAX_WORKERS][LS_METRICS];
  int32_t labels[];  // of its images; behind them their places (struct ls_batch), where it has any
};

// One worker's own buffers, in device memory but for `host`.
struct device_worker {
  struct device_slabs *slabs;
  struct ls_stream *copy;           // uploads of the next batch, under the step
  struct ls_stream *communication;  // exchange and update under the backward pass; NULL: behind it, one bucket
  struct ls_event *uploaded, *consumed, *ended;
  struct ls_event *computed[LS_EXCHANGE_BUCKETS];  // this worker's gradients of a bucket are there
  uint8_t *pixels;                // [its images] windows, or stored images of at most LS_WHOLE_FACTOR times that
  int32_t *labels, *next_labels;  // [its images]; the next ones: of the upload, with places as in device_host
  void *input;                    // [its images, h, w, the plan's channels], normalised, in the plan's type
  struct ls_step_parameters *steps;
  struct ls_update_numbers *numbers;
  uint32_t *overflow;    // whether this worker's gradients are out of float16's range
  float *metrics;        // [LS_METRICS], summed over all workers; worker 0's
  float *shard_metrics;  // [its shards, LS_METRICS] of an evaluation
  struct ls_binding *evaluation[LS_MAX_WORKERS];
  struct device_host *host;
  struct ls_transport *transport;  // between devices (device_apart.c); NULL: WAY_REACH
  float *staging;                  // WAY_MESSAGES: the others' gradients for its slices
  struct device_recording {
    struct ls_recording *made;
    int runs;
    bool never;
  } training[LS_EXCHANGE_BUCKETS], evaluating;  // all its shards' passes; training, cut behind each bucket
  const struct ls_batch *batch;                 // uploaded or on its way; NULL: none
  uint64_t batch_step;
  uint64_t step;  // at work on; worker 0 counts the trainer's on while others still wait
};

// From one of its shards' inputs to the next: each begins where kernels like it.
size_t device_input_bytes(const struct worker *worker);

// The device of worker `index`, and whether it is the first of its workers.
int device_of(const struct trainer *trainer, int index);
bool device_leads(const struct worker *worker);

// Two phases, all workers behind a barrier in between.
ls_status device_make(struct worker *worker, struct ls_error *err);
ls_status device_bind(struct worker *worker, struct ls_error *err);
void device_release(struct worker *worker);

// Between commands; from the coordinator's thread. Gather: trainer->momentum holds all of it, until device_spread or
// device_forget. Spread: after parameters (of device 0) or momentum changed from outside, to all devices, and forgets. Both
// leave the gradients that it lay over as zeros: what no operation writes must stay so.
ls_status device_gather(struct trainer *trainer, struct ls_error *err);
ls_status device_spread(struct trainer *trainer, struct ls_error *err);
ls_status device_forget(struct trainer *trainer, struct ls_error *err);

// Pure: of a bucket, the stretch [begin, end) of the learned parameters whose momentum device `device` of `devices` holds
// (`whole`: all), and at which float of its memory it begins. Behind the last bucket: how many floats it holds.
int64_t device_momentum(const struct ls_exchange *exchange, int devices, int64_t learned_floats, bool whole, int device,
                        int bucket, int64_t *begin, int64_t *end);
// Where the momentum of this worker's slice of a bucket lies, by index in the slab.
float *device_momentum_base(const struct worker *worker, int bucket);
// Pure: the buckets for so many workers. `hides`: there is an exchange between devices that may go on under the backward
// pass; `wanted`: at most so many buckets, however small, 0: as is best. operations[b]: see trainer->bucket_operations.
ls_status device_cut(const struct ls_plan *plan, int workers, bool hides, int wanted, struct ls_exchange *exchange,
                     int *operations, struct ls_error *err);

// device_apart.c. All workers: finds out whether they reach each other's memory (apart.needed was set where not), cuts the
// slabs into buckets, and connects the workers by a transport if they do not, or if that may sum faster.
ls_status device_separate(struct worker *worker, struct ls_error *err);
void device_separate_release(struct worker *worker);
static inline enum device_way device_way(const struct trainer *trainer) { return trainer->apart.way; }
// Where this worker finds the gradients of worker `of` (by index in the slab; at least those of its own slice of a bucket),
// what lies behind them, and the flag of an overflow.
const float *device_part(const struct worker *worker, int bucket, int of);
const float *device_tail(const struct worker *worker, int of);
const uint32_t *device_overflow(const struct worker *worker, int of);
// Only with a transport, on the communication stream: the exchange before the update of a bucket, the one of what lies behind
// the gradients (once all are there), and with WAY_MESSAGES the one behind the update. With WAY_SUMS the gradients of all lie
// in this worker's slab afterwards; those of the statistics come with what lies behind.
ls_status device_send_gradients(struct worker *worker, int bucket, struct ls_error *err);
ls_status device_send_parameters(struct worker *worker, int bucket, struct ls_error *err);
ls_status device_send_tails(struct worker *worker, struct ls_error *err);

// device_watch.c: tells the others what this worker is about; waits for the end of the step, and for a device that is stuck
// no longer than it must.
void device_says(const struct worker *worker, enum ls_watch_phase phase);
// Once the slabs are cut, for all workers: which layers the stretches of a pass are.
void device_name_places(struct trainer *trainer, const struct ls_plan *plan);
ls_status device_wait(struct worker *worker, struct ls_error *err);

// device_step.c
ls_status device_train(struct worker *worker, struct ls_error *err);
ls_status device_evaluate(struct worker *worker, struct ls_error *err);
// The folded weights of this worker's device, made by its first worker.
ls_status device_refresh(struct worker *worker, struct ls_error *err);

#endif
