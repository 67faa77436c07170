// Devices as a message: see device_list.h.
#include "daemon/device_list.h"

#include <math.h>
#include <stdio.h>

static double told(double value) { return isfinite(value) ? value : -1; }

// The next entry, with the job that holds bit `i` of its mask.
static Lockstep__V1__Device *add(const struct manager *m, struct device_list *list, const char *kind, unsigned i) {
  size_t at = list->message.n_devices++;
  Lockstep__V1__Device *device = list->pointers[at] = &list->device[at];
  lockstep__v1__device__init(device);
  snprintf(list->names[at], sizeof list->names[at], "%s%u", kind, i);
  device->name = list->names[at];
  device->healthy = true;
  device->utilisation = device->temperature_c = device->power_w = -1;
  for (size_t k = 0; k < manager_job_count(m); k++) {
    struct job *job = manager_job(m, k);
    if (!((*kind == 'g' ? job->gpu_mask : job->device_mask) >> i & 1)) continue;
    list->holders[at] = job->id_text;
    device->n_jobs = 1;
    device->jobs = &list->holders[at];
  }
  return device;
}

static void add_gpu(const struct manager *m, struct device_list *list, unsigned i) {
  const struct devices *devices = manager_devices(m);
  const struct nvml_gpu *gpu = devices_gpu(devices, i);
  Lockstep__V1__Device *device = add(m, list, "gpu", i);
  devices_reason(devices, i, device->n_jobs > 0, list->reasons[i], sizeof list->reasons[i]);
  device->reason = list->reasons[i];
  device->healthy = devices_healthy(devices) >> i & 1;
  device->description = (char *)(uintptr_t)gpu->name;
  device->uuid = (char *)(uintptr_t)gpu->uuid;
  device->memory_bytes = gpu->memory_bytes;
  device->memory_used_bytes = gpu->memory_used_bytes;
  device->utilisation = told(gpu->utilisation);
  device->temperature_c = told(gpu->temperature_c);
  device->power_w = told(gpu->power_w);
}

void device_list_fill(const struct manager *m, struct device_list *list) {
  const struct devices *devices = manager_devices(m);
  lockstep__v1__devices_response__init(&list->message);
  for (unsigned i = 0; i < devices_gpus(devices); i++) add_gpu(m, list, i);
  for (unsigned i = 0; i < devices_cpus(devices); i++)
    add(m, list, "cpu", i)->description = (char *)(uintptr_t)devices_cpu_description(devices);
  list->message.devices = list->pointers;
}
