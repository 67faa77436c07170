// The NVIDIA management library, by hand: see nvml.h. Its interface is stable; what is used of it is declared here, so that
// no header of the toolkit is needed.
#include "daemon/nvml.h"

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum nvml_code {
  NVML_SUCCESS = 0,
  NVML_NO_PERMISSION = 4,
  NVML_DRIVER_NOT_LOADED = 9,
  NVML_GPU_IS_LOST = 15,
  NVML_RESET_REQUIRED = 16,
  NVML_VERSION_MISMATCH = 18,
};
enum nvml_compute_mode { MODE_EXCLUSIVE_THREAD = 1, MODE_PROHIBITED = 2, MODE_EXCLUSIVE_PROCESS = 3 };
enum { TEMPERATURE_GPU = 0, ERROR_UNCORRECTED = 1, SINCE_DRIVER_LOAD = 0, MOST_PROCESSES = 64 };

typedef struct device *device_handle;
struct memory_info {
  unsigned long long total, free, used;
};
struct utilization {
  unsigned gpu, memory;
};
struct process_info {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
};

// Functions of the library; those marked optional may be missing in older drivers.
struct nvml {
  void *library;
  int (*init)(void);
  int (*shutdown)(void);
  const char *(*error_string)(int);
  int (*get_count)(unsigned *);
  int (*get_handle)(unsigned, device_handle *);
  int (*get_name)(device_handle, char *, unsigned);
  int (*get_uuid)(device_handle, char *, unsigned);
  int (*get_memory)(device_handle, struct memory_info *);
  int (*get_utilization)(device_handle, struct utilization *);
  int (*get_temperature)(device_handle, int, unsigned *);
  int (*get_power)(device_handle, unsigned *);
  int (*get_compute_mode)(device_handle, int *);
  int (*get_ecc_errors)(device_handle, int, int, unsigned long long *);    // optional
  int (*get_processes)(device_handle, unsigned *, struct process_info *);  // optional
};

static const struct {
  const char *name;
  size_t offset;
  bool optional;
} functions[] = {
    {"nvmlInit_v2", offsetof(struct nvml, init), false},
    {"nvmlShutdown", offsetof(struct nvml, shutdown), false},
    {"nvmlErrorString", offsetof(struct nvml, error_string), false},
    {"nvmlDeviceGetCount_v2", offsetof(struct nvml, get_count), false},
    {"nvmlDeviceGetHandleByIndex_v2", offsetof(struct nvml, get_handle), false},
    {"nvmlDeviceGetName", offsetof(struct nvml, get_name), false},
    {"nvmlDeviceGetUUID", offsetof(struct nvml, get_uuid), false},
    {"nvmlDeviceGetMemoryInfo", offsetof(struct nvml, get_memory), false},
    {"nvmlDeviceGetUtilizationRates", offsetof(struct nvml, get_utilization), false},
    {"nvmlDeviceGetTemperature", offsetof(struct nvml, get_temperature), false},
    {"nvmlDeviceGetPowerUsage", offsetof(struct nvml, get_power), false},
    {"nvmlDeviceGetComputeMode", offsetof(struct nvml, get_compute_mode), false},
    {"nvmlDeviceGetTotalEccErrors", offsetof(struct nvml, get_ecc_errors), true},
    {"nvmlDeviceGetComputeRunningProcesses_v3", offsetof(struct nvml, get_processes), true},
};

// Fills in the functions; the name of one that is missing, or NULL.
static const char *find_functions(struct nvml *n) {
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    void *function = dlsym(n->library, functions[i].name);
    if (!function && !functions[i].optional) return functions[i].name;
    memcpy((char *)n + functions[i].offset, &function, sizeof function);
  }
  return NULL;
}

void nvml_free(struct nvml *n) {
  if (!n) return;
  if (n->shutdown) n->shutdown();
  if (n->library) dlclose(n->library);
  free(n);
}

static void explain_init(const struct nvml *n, int code, char *text, size_t size) {
  if (code == NVML_DRIVER_NOT_LOADED)
    snprintf(text, size, "the NVIDIA driver is not loaded");
  else if (code == NVML_VERSION_MISMATCH)
    snprintf(text, size,
             "the NVIDIA driver and its library libnvidia-ml are of different versions: reboot after an update");
  else if (code == NVML_NO_PERMISSION)
    snprintf(text, size, "the NVIDIA driver may not be used by this user");
  else
    snprintf(text, size, "the NVIDIA driver does not start: %s", n->error_string(code));
}

static struct nvml *load(char *problem, size_t size) {
  const char *name = getenv("LOCKSTEP_NVML");
  struct nvml *n = calloc(1, sizeof *n);
  if (!n) return NULL;
  n->library = dlopen(name && *name ? name : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  const char *missing = n->library ? find_functions(n) : NULL;
  int code = NVML_SUCCESS;
  if (!n->library)
    snprintf(problem, size, "there is no NVIDIA driver (its library libnvidia-ml.so.1 cannot be loaded)");
  else if (missing)
    snprintf(problem, size, "the NVIDIA driver is too old: its library libnvidia-ml has no %s", missing);
  else if ((code = n->init()) != NVML_SUCCESS)
    explain_init(n, code, problem, size);
  if (n->library && !missing && code == NVML_SUCCESS) return n;
  n->shutdown = NULL;  // it did not start
  nvml_free(n);
  return NULL;
}

static void explain(const struct nvml *n, int code, struct nvml_gpu *gpu) {
  if (code == NVML_GPU_IS_LOST)
    snprintf(gpu->problem, sizeof gpu->problem, "has fallen off the bus");
  else if (code == NVML_RESET_REQUIRED)
    snprintf(gpu->problem, sizeof gpu->problem, "must be reset before it can be used again");
  else
    snprintf(gpu->problem, sizeof gpu->problem, "does not answer: %s", n->error_string(code));
}

// What keeps others from using it.
static void ask_mode(const struct nvml *n, device_handle device, struct nvml_gpu *gpu) {
  struct process_info processes[MOST_PROCESSES];
  unsigned count = MOST_PROCESSES;
  int mode = 0;
  n->get_compute_mode(device, &mode);
  if (mode == MODE_PROHIBITED) snprintf(gpu->problem, sizeof gpu->problem, "is in compute mode 'prohibited'");
  gpu->exclusive = mode == MODE_EXCLUSIVE_THREAD || mode == MODE_EXCLUSIVE_PROCESS;
  if (n->get_processes && n->get_processes(device, &count, processes) == NVML_SUCCESS && count > 0)
    gpu->user_pid = processes[0].pid;
}

static void ask_gpu(const struct nvml *n, unsigned index, struct nvml_gpu *gpu) {
  device_handle device;
  struct memory_info memory;
  struct utilization utilization;
  unsigned temperature, power;
  unsigned long long errors = 0;
  *gpu = (struct nvml_gpu){.utilisation = NAN, .temperature_c = NAN, .power_w = NAN};
  int code = n->get_handle(index, &device);
  if (code == NVML_SUCCESS) code = n->get_name(device, gpu->name, sizeof gpu->name);
  if (code == NVML_SUCCESS) code = n->get_uuid(device, gpu->uuid, sizeof gpu->uuid);
  if (code == NVML_SUCCESS) code = n->get_memory(device, &memory);
  if (code != NVML_SUCCESS) {
    explain(n, code, gpu);
    return;
  }
  gpu->memory_bytes = memory.total;
  gpu->memory_used_bytes = memory.used;
  // Not every GPU has these.
  if (n->get_utilization(device, &utilization) == NVML_SUCCESS) gpu->utilisation = utilization.gpu / 100.0;
  if (n->get_temperature(device, TEMPERATURE_GPU, &temperature) == NVML_SUCCESS) gpu->temperature_c = temperature;
  if (n->get_power(device, &power) == NVML_SUCCESS) gpu->power_w = power / 1000.0;
  if (n->get_ecc_errors && n->get_ecc_errors(device, ERROR_UNCORRECTED, SINCE_DRIVER_LOAD, &errors) == NVML_SUCCESS &&
      errors > 0) {
    snprintf(gpu->problem, sizeof gpu->problem, "has had %llu uncorrectable memory error%s since the driver was loaded",
             errors, errors == 1 ? "" : "s");
  }
  ask_mode(n, device, gpu);
}

void nvml_ask(struct nvml **nvml, struct nvml_answer *answer) {
  answer->count = 0;
  answer->problem[0] = 0;
  if (!*nvml) *nvml = load(answer->problem, sizeof answer->problem);
  if (!*nvml) return;
  int code = (*nvml)->get_count(&answer->count);
  if (code != NVML_SUCCESS) {
    answer->count = 0;
    explain_init(*nvml, code, answer->problem, sizeof answer->problem);
    return;
  }
  if (answer->count > NVML_MAX_GPUS) answer->count = NVML_MAX_GPUS;
  if (answer->count == 0) snprintf(answer->problem, sizeof answer->problem, "the NVIDIA driver finds no GPU");
  for (unsigned i = 0; i < answer->count; i++) ask_gpu(*nvml, i, &answer->gpu[i]);
}
