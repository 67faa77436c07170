// Workers whose devices have memory of their own (GPUs): device.c (slabs and buffers), device_step.c (the training step and
// the evaluation). The contract with the rest of the worker is the one of workers on the host's cores: trainer.h.
//
// Workers share the devices out among themselves in order: with more workers than devices, as many consecutive ones on
// each. All workers of one device share one parameter slab and one momentum slab; each device has the whole of both, but
// of the momentum only its workers' slices are up to date (device_gather).
#ifndef LS_WORKER_DEVICE_H
#define LS_WORKER_DEVICE_H

#include "backend/device.h"
#include "worker/trainer.h"

// Of one device; made by its first worker, read by all.
struct device_slabs {
  float *parameters, *momentum;
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
  int32_t labels[];  // of its images
};

// One worker's own buffers, in device memory but for `host`.
struct device_worker {
  struct device_slabs *slabs;
  struct ls_stream *copy;  // uploads of the next batch, under the step
  struct ls_event *uploaded, *consumed, *computed;
  uint8_t *pixels;                // [its images, h, w, c]
  int32_t *labels, *next_labels;  // [its images]; the next ones: of the upload
  void *input;                    // [its images, h, w, c], normalised, in the plan's type
  struct ls_step_parameters *steps;
  struct ls_update_numbers *numbers;
  uint32_t *overflow;    // whether this worker's gradients are out of float16's range
  float *metrics;        // [LS_METRICS], summed over all workers; worker 0's
  float *shard_metrics;  // [its shards, LS_METRICS] of an evaluation
  struct ls_binding *evaluation[LS_MAX_WORKERS];
  struct device_host *host;
  struct ls_recording *recording;  // of all its shards' forward and backward passes
  int runs;
  bool never_record;
  const struct ls_batch *batch;  // uploaded or on its way; NULL: none
  uint64_t batch_step;
};

// The device of worker `index`, and whether it is the first of its workers.
int device_of(const struct trainer *trainer, int index);
bool device_leads(const struct worker *worker);

// Two phases, all workers behind a barrier in between.
ls_status device_make(struct worker *worker, struct ls_error *err);
ls_status device_bind(struct worker *worker, struct ls_error *err);
void device_release(struct worker *worker);

// After the parameters of device 0 changed from outside: to all other devices. Before they are saved: momentum from where
// it is up to date to device 0. Between commands; from the coordinator's thread.
ls_status device_spread(struct trainer *trainer, struct ls_error *err);
ls_status device_gather(struct trainer *trainer, struct ls_error *err);

// The slice of the parameter slab that worker `index` updates, in floats.
void device_slice(const struct trainer *trainer, int index, int64_t *begin, int64_t *end);

// device_step.c
ls_status device_train(struct worker *worker, struct ls_error *err);
ls_status device_evaluate(struct worker *worker, struct ls_error *err);
// The folded weights of this worker's device, made by its first worker.
ls_status device_refresh(struct worker *worker, struct ls_error *err);

#endif
