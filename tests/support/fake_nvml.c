// A library in the place of libnvidia-ml.so.1. FAKE_NVML names a file that says what there is, read again by every call of
// nvmlDeviceGetCount_v2: a line for each GPU of words from: good, lost, reset, unknown, exclusive, prohibited, ecc, busy; or one line
// "init CODE", with which nothing starts.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };

static char lines[MOST][128];
static unsigned count;

int nvmlInit_v2(void);
int nvmlShutdown(void);
const char *nvmlErrorString(int code);
int nvmlDeviceGetCount_v2(unsigned *result);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetName(void *device, char *name, unsigned size);
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3]);
int nvmlDeviceGetUtilizationRates(void *device, unsigned rates[2]);
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius);
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts);
int nvmlDeviceGetComputeMode(void *device, int *mode);
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *errors);
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *processes, unsigned *info);

static int read_state(void) {
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "re") : NULL;
  int code = 0;
  count = 0;
  while (file && count < MOST && fgets(lines[count], sizeof *lines, file)) {
    if (sscanf(lines[count], "init %d", &code) != 1) count++;
  }
  if (file) fclose(file);
  return code;
}

static unsigned index_of(void *device) { return (unsigned)((char(*)[128])device - lines); }
static int has(void *device, const char *word) { return strstr(device, word) != NULL; }

int nvmlInit_v2(void) { return read_state(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "some error"; }

int nvmlDeviceGetCount_v2(unsigned *result) {
  int code = read_state();
  *result = count;
  return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index >= count) return 2;
  *device = lines[index];
  return has(*device, "lost") ? 15 : has(*device, "reset") ? 16 : has(*device, "unknown") ? 999 : 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned size) {
  (void)device;
  snprintf(name, size, "Fake H200");
  return 0;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
  snprintf(uuid, size, "GPU-fake-%u", index_of(device));
  return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3]) {
  memory[0] = 100ULL << 30;
  memory[2] = (1ULL + index_of(device)) << 30;
  memory[1] = memory[0] - memory[2];
  return 0;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned rates[2]) {
  rates[0] = 50 + index_of(device);
  rates[1] = 7;
  return 0;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
  if (sensor != 0) return 2;
  *celsius = 40 + index_of(device);
  return 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  (void)device;
  (void)milliwatts;
  return 3;  // not supported: some GPUs do not tell
}

int nvmlDeviceGetComputeMode(void *device, int *mode) {
  *mode = has(device, "prohibited") ? 2 : has(device, "exclusive") ? 3 : 0;
  return 0;
}

int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, unsigned long long *errors) {
  if (kind != 1 || counter != 0) return 2;
  *errors = has(device, "ecc") ? 2 : 0;
  return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *processes, unsigned *info) {
  unsigned most = *processes;
  *processes = has(device, "busy") ? 1 : 0;
  if (most > 0 && *processes) info[0] = 4242;
  return 0;
}
