// The machine's devices: the CPU cores that the daemon may use, and the GPUs that the NVIDIA driver tells of.
//
// GPUs are asked for every two seconds, in libuv's thread pool, as the driver may block for long when a GPU is in trouble.
// A GPU is unhealthy while the driver says so, and for some minutes after a coordinator ended because of it; twice as long
// each further time, over restarts of the daemon. Device i of either kind is bit i of a mask. Everything here is called from the loop's thread.
#ifndef LS_DAEMON_DEVICES_H
#define LS_DAEMON_DEVICES_H

#include <uv.h>

#include "base/error.h"
#include "daemon/job.h"
#include "daemon/nvml.h"

struct devices_options {
  uv_loop_t *loop;
  const char *worker;  // the coordinator, which is asked whether it can use GPUs
  unsigned retry_s;    // how long a GPU rests after its first failure in a job
};

struct devices;

// A GPU that is left alone after failures in jobs, by its UUID: its number may change.
struct device_rest {
  char uuid[96];
  int64_t until_us;
  unsigned failures;
  char failure[320];  // the last
};

// Asks once before it returns.
ls_status devices_new(const struct devices_options *options, struct devices **devices, struct ls_error *err);
// The loop must run until its handles are closed, then devices_free.
void devices_close(struct devices *devices);
void devices_free(struct devices *devices);

unsigned devices_cpus(const struct devices *devices);
const char *devices_cpu_description(const struct devices *devices);

// GPUs that there are, healthy or not.
unsigned devices_gpus(const struct devices *devices);
const struct nvml_gpu *devices_gpu(const struct devices *devices, unsigned index);
// Why no job can use a GPU here, as the rest of a sentence: "this machine has none: ..."; NULL: it can.
const char *devices_no_gpu(const struct devices *devices);
uint64_t devices_healthy(const struct devices *devices);
// Healthy ones that a process outside Lockstep keeps to itself, if they are not held by a job.
uint64_t devices_taken(const struct devices *devices);
// Why GPU `index` is not to be used; "" when it is healthy (then it may be taken, unless it is `held` by a job).
void devices_reason(const struct devices *devices, unsigned index, bool held, char *text, size_t size);
// A coordinator ended because of it. What is to be kept over a restart of the daemon; NULL: nothing new. The same failure
// told again, as after a restart in between, counts once.
const struct device_rest *devices_failed(struct devices *devices, unsigned index, const char *why);
// What was kept.
void devices_restore(struct devices *devices, const struct device_rest *rest);

#endif
