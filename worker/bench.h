// Throughput on generated images: `lockstep bench`. The same workers, step and reduction as in training, without data
// set, checkpoints or event log. Blocking; worker threads below the caller.
#ifndef LS_WORKER_BENCH_H
#define LS_WORKER_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/error.h"
#include "lockstep/v1/job.pb-c.h"

struct ls_bench_options {
  const Lockstep__V1__Network *network;
  unsigned batch;                     // images a step, over all devices
  unsigned steps;                     // measured ones, after a short warm-up
  unsigned devices;                   // 0: one a core (or all GPUs)
  unsigned shards;                    // 0: as many as devices
  bool fast;                          // kernels that give other bits on another run will do
  bool inference;                     // forward only, batch norm folded
  Lockstep__V1__DeviceKind kind;      // 0: auto
  Lockstep__V1__Precision precision;  // 0: float32
  // For tests: this backend with so many devices. NULL: by `kind`.
  const struct ls_backend_ops *backend;
  unsigned backend_devices;
};

struct ls_bench_result {
  double images_per_s;                        // batch over the mean step
  double step_ms, step_ms_low, step_ms_high;  // median, 10th and 90th percentile
  double input_wait;                          // share of the step that workers waited for data, 0 to 1
  uint64_t peak_rss_bytes;
  uint64_t device_memory_bytes;  // allocated on each GPU, without what the driver takes; 0 on cores
  unsigned workers, shards;
  char device[112];  // what the first worker ran on: the GPU's model; "cpu" for cores
  // After training: over all parameters. The same for the same network, batch, steps and shards on any number of devices;
  // "" for inference.
  char parameters_sha256[65];
};

ls_status ls_bench(const struct ls_bench_options *options, struct ls_bench_result *result, struct ls_error *err);

#endif
