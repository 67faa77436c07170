// A library in the place of libcuda.so.1: a driver that is older than the toolkit, CUDA 12.4. The runtime asks it for nothing
// else once it knows that.
#include <stddef.h>
#include <string.h>

enum { VERSION = 12040, NOT_FOUND = 500 };

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags);
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, void *status);

int cuInit(unsigned flags) {
  (void)flags;
  return 0;
}

int cuDriverGetVersion(int *version) {
  *version = VERSION;
  return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, void *status) {
  (void)version, (void)flags, (void)status;
  *function = NULL;
  if (strcmp(name, "cuInit") == 0) *function = (void *)cuInit;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void *)cuDriverGetVersion;
  if (strcmp(name, "cuGetProcAddress") == 0) *function = (void *)cuGetProcAddress_v2;
  return *function ? 0 : NOT_FOUND;
}

int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
