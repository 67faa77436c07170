// The device's kernels: a __global__ function and a C launcher for each line of kernels.h. The body of a kernel is in
// kernels_*.h; here is only which thread takes which index. Any thread whose current device is the stream's.
#include <cuda_runtime.h>

#include "backend/cuda/kernels.h"

namespace {

enum { BLOCK = 256, LANE_ROWS = BLOCK / LS_LANES, MAX_BLOCKS = 1 << 20 };

#define DEFINE(name, type)                                                                                 \
  __global__ void __launch_bounds__(BLOCK) kernel_##name(const type k, int64_t n) {                        \
    int64_t stride = (int64_t)gridDim.x * BLOCK;                                                           \
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += stride) ls_body_##name(&k, i); \
  }
LS_KERNELS(DEFINE)
#undef DEFINE

// All 32 lanes of a warp have the same index, so none leaves the loop before the others.
#define DEFINE(name, type)                                                                         \
  __global__ void __launch_bounds__(BLOCK) kernel_##name(const type k, int64_t n) {                \
    int64_t stride = (int64_t)gridDim.x * LANE_ROWS;                                               \
    for (int64_t i = (int64_t)blockIdx.x * LANE_ROWS + threadIdx.x / LS_LANES; i < n; i += stride) \
      ls_body_##name(&k, i);                                                                       \
  }
LS_LANE_KERNELS(DEFINE)
#undef DEFINE

// All lanes of a block have the same index: they meet in it.
static_assert((int)BLOCK == (int)LS_BLOCK_LANES, "a block has as many lanes as its kernels are written for");
#define DEFINE(name, type)                                                                  \
  __global__ void __launch_bounds__(BLOCK, 2) kernel_##name(const type k, int64_t n) {      \
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x) ls_body_##name(&k, i);              \
  }
LS_BLOCK_KERNELS(DEFINE)
#undef DEFINE

unsigned blocks_for(int64_t n, int per_block) {
  int64_t blocks = (n + per_block - 1) / per_block;
  return (unsigned)(blocks < MAX_BLOCKS ? blocks : (int64_t)MAX_BLOCKS);
}

}  // namespace

// Enqueues kernel `number` with its arguments over n indices; returns a cudaError_t.
extern "C" int ls_cuda_launch(int number, const void *arguments, int64_t n, void *stream_handle) {
  cudaStream_t stream = (cudaStream_t)stream_handle;
  if (n <= 0) return cudaSuccess;
  cudaGetLastError();  // what a library tried in vain, or a recording that failed, is not this launch's error
  switch ((enum ls_kernel)number) {
#define LAUNCH(name, type) \
  case LS_KERNEL_##name: kernel_##name<<<blocks_for(n, BLOCK), BLOCK, 0, stream>>>(*(const type *)arguments, n); break;
    LS_KERNELS(LAUNCH)
#undef LAUNCH
#define LAUNCH(name, type)                                                                      \
  case LS_KERNEL_##name:                                                                        \
    kernel_##name<<<blocks_for(n, LANE_ROWS), BLOCK, 0, stream>>>(*(const type *)arguments, n); \
    break;
    LS_LANE_KERNELS(LAUNCH)
#undef LAUNCH
#define LAUNCH(name, type) \
  case LS_KERNEL_##name: kernel_##name<<<blocks_for(n, 1), BLOCK, 0, stream>>>(*(const type *)arguments, n); break;
    LS_BLOCK_KERNELS(LAUNCH)
#undef LAUNCH
    default: return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}
