// GPUs as the NVIDIA driver's own library tells of them. libnvidia-ml.so.1 is loaded at run time, so the daemon links nothing
// of CUDA and runs where there is no driver. LOCKSTEP_NVML names another library (tests). Calls may block for seconds when a
// GPU is in trouble: one thread at a time, never the loop's once it runs.
#ifndef LS_DAEMON_NVML_H
#define LS_DAEMON_NVML_H

#include <stdbool.h>
#include <stdint.h>

enum { NVML_MAX_GPUS = 64 };

struct nvml_gpu {
  char name[96], uuid[96];
  uint64_t memory_bytes, memory_used_bytes;    // 0: unknown
  double utilisation, temperature_c, power_w;  // utilisation 0 to 1; NaN: unknown
  bool exclusive;                              // one process at a time may use it
  unsigned user_pid;                           // a process that uses it; 0: none
  char problem[256];                           // why it cannot be used; "": it can
};

struct nvml_answer {
  unsigned count;
  struct nvml_gpu gpu[NVML_MAX_GPUS];
  char problem[256];  // why nothing is known; ""
};

struct nvml;

// Asks for everything. *nvml (NULL at first) is kept from call to call; the library is loaded by the first that succeeds.
void nvml_ask(struct nvml **nvml, struct nvml_answer *answer);
void nvml_free(struct nvml *nvml);

#endif
