// For tests that need a GPU: whether there is one, else the reason is printed and the test skips.
#ifndef LS_TESTS_SUPPORT_GPU_H
#define LS_TESTS_SUPPORT_GPU_H

#include <stdio.h>

#include "backend/backend.h"

enum { GPU_SKIPPED = 77 };

// The number of GPUs; 0 after saying why there is none.
static inline int gpu_count(void) {
  const struct ls_backend_ops *cuda = ls_backend_cuda();
  struct ls_error err = LS_ERROR_INIT;
  int count = 0;
  if (!cuda) {
    printf("skipped: this build has no CUDA backend, it was made without %s\n", ls_backend_cuda_missing());
    return 0;
  }
  if (cuda->devices(NULL, 0, &count, &err) != LS_OK)
    printf("skipped: %s\n", err.text);
  else if (count == 0)
    printf("skipped: no GPU, or no NVIDIA driver\n");
  return count;
}

#endif
