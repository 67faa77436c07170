// Backends that this build lacks, and the one that only plans.
#include "backend/backend.h"

#include "backend/cuda/cuda_internal.h"

const struct ls_backend_ops *ls_backend_cuda_planner(void) { return ls_backend_cuda_twin(); }

#ifdef LS_HAVE_CUDA
const char *ls_backend_cuda_missing(void) { return NULL; }
#else
const struct ls_backend_ops *ls_backend_cuda(void) { return NULL; }
const char *ls_backend_cuda_missing(void) { return LS_CUDA_MISSING; }
#endif
