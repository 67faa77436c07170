// Backends that this build lacks.
#include "backend/backend.h"

const struct ls_backend_ops *ls_backend_cuda(void) { return NULL; }
