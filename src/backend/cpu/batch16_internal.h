// The variants of the sixteen-image kernels, for batch16.c to choose from.
#ifndef LS_BACKEND_CPU_BATCH16_INTERNAL_H
#define LS_BACKEND_CPU_BATCH16_INTERNAL_H

#include "backend/cpu/batch16.h"

extern const struct ls_b16_kernels ls_b16_kernels_avx512, ls_b16_kernels_avx2;

#endif
