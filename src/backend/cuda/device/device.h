// The part of the CUDA backend that runs on a GPU. context.c: devices, memory, streams, events. kernels.cu: kernels and
// their launcher. cudnn_graph.c: helpers over cuDNN's backend interface. cudnn_product.c: convolutions by it. work.c: copies
// between devices, recordings (CUDA graphs). tune.c: choosing engines by measuring.
#ifndef LS_BACKEND_CUDA_DEVICE_DEVICE_H
#define LS_BACKEND_CUDA_DEVICE_DEVICE_H

#include <cuda_runtime_api.h>
#include <cudnn.h>

#include "backend/cuda/cuda_internal.h"

struct device_context {
  struct cuda_context base;  // first
  int device;
  struct cudaDeviceProp properties;
  cudaStream_t stream;  // compute
  cudnnHandle_t cudnn;
};

// CUDA_TRY("copying to the GPU", cudaMemcpy(...)): returns from the function unless it succeeded. Errors that the GPU does
// not come back from are LS_UNAVAILABLE, so that the worker can tell them from mistakes.
ls_status device_error(cudaError_t error, const char *what, struct ls_error *err);
#define CUDA_TRY(what, call) LS_TRY(device_error((call), what, err))

// Whether the GPU still works, where something did not: LS_OK, after forgetting errors that it comes back from; else why
// not. Waits for the context's stream, which must not be recording.
ls_status device_alive(struct device_context *context, struct ls_error *err);

static inline cudaStream_t device_stream(const struct device_context *context, struct ls_stream *stream) {
  return stream ? (cudaStream_t)(void *)stream : context->stream;
}

// libraries.c: can that part of cuDNN ("graph") be loaded?
ls_status device_check_library(const char *name, struct ls_error *err);

// work.c
extern const struct ls_device_ops device_work;

// kernels.cu
int ls_cuda_launch(int number, const void *arguments, int64_t n, void *stream);

// cudnn_product.c; functions of struct cuda_machine
ls_status device_product_new(struct cuda_context *context, const struct cuda_convolution *convolution,
                             struct cuda_product **product, size_t *scratch_bytes, bool *fused, const char **kernel,
                             struct ls_error *err);
void device_product_free(struct cuda_product *product);
ls_status device_product_run(struct cuda_context *context, struct ls_stream *stream, struct cuda_product *product,
                             const struct cuda_product_args *args, struct ls_error *err);

#endif
