// The devices and who holds them, as a message: for the RPC `Devices`, /api/v1/devices and the metrics. GPUs come first.
#ifndef LS_DAEMON_DEVICE_LIST_H
#define LS_DAEMON_DEVICE_LIST_H

#include "daemon/manager.h"

enum { LS_LISTED_DEVICES = NVML_MAX_GPUS + LS_MAX_DEVICES };

// Strings are the jobs' and the devices' own: valid until they change.
struct device_list {
  Lockstep__V1__DevicesResponse message;
  Lockstep__V1__Device device[LS_LISTED_DEVICES], *pointers[LS_LISTED_DEVICES];
  char names[LS_LISTED_DEVICES][16], reasons[NVML_MAX_GPUS][384];
  char *holders[LS_LISTED_DEVICES];
};

void device_list_fill(const struct manager *manager, struct device_list *list);

#endif
