// Backends that this build lacks.
#include "backend/backend.h"

#ifdef LS_HAVE_CUDA
const char *ls_backend_cuda_missing(void) { return NULL; }
#else
const struct ls_backend_ops *ls_backend_cuda(void) { return NULL; }
ls_status ls_backend_cuda_check(struct ls_error *err) {
  (void)err;
  return LS_OK;
}
const char *ls_backend_cuda_missing(void) { return LS_CUDA_MISSING; }
#endif
