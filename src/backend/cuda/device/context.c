// The CUDA backend's context: devices, memory, streams, events, copies. See backend.h for the contract, cuda_internal.h for
// the map.
//
// A context belongs to one worker thread, whose current device it sets. Its streams do not wait for the legacy default
// stream. Nothing here allocates or blocks between the first step and the last, but for downloads.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/device/device.h"

enum { OLDEST_COMPUTE = 8 };  // compute capability 8.0: the oldest with machine code in this build

ls_status device_error(cudaError_t error, const char *what, struct ls_error *err) {
  if (error == cudaSuccess) return LS_OK;
  ls_status status = LS_INTERNAL;
  switch (error) {
    case cudaErrorMemoryAllocation: status = LS_NO_MEMORY; break;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidResourceHandle: status = LS_INTERNAL; break;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice: status = LS_NOT_FOUND; break;
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorNoKernelImageForDevice: status = LS_UNSUPPORTED; break;
    default: status = LS_UNAVAILABLE;  // lost, busy, faulted: the context is gone
  }
  return ls_fail(err, status, "%s: %s (CUDA error %d)", what, cudaGetErrorString(error), (int)error);
}

ls_status device_alive(struct device_context *context, struct ls_error *err) {
  cudaGetLastError();
  return device_error(cudaStreamSynchronize(context->stream), "the GPU has failed", err);
}

// None, with LS_OK, where there is no driver or no GPU. Does not make a context on any of them.
static ls_status devices(struct ls_device_info *info, int capacity, int *count, struct ls_error *err) {
  cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    *count = 0;
    cudaGetLastError();  // forget it
    return LS_OK;
  }
  CUDA_TRY("counting the GPUs", error);
  for (int i = 0; i < *count && i < capacity; i++) {
    struct cudaDeviceProp properties;
    CUDA_TRY("asking a GPU what it is", cudaGetDeviceProperties(&properties, i));
    snprintf(info[i].name, sizeof info[i].name, "gpu%d", i);
    snprintf(info[i].description, sizeof info[i].description, "%.100s", properties.name);
    info[i].memory_bytes = properties.totalGlobalMem;
  }
  return LS_OK;
}

// Why there is no GPU `index`.
static ls_status check_device(int index, struct cudaDeviceProp *properties, struct ls_error *err) {
  int count = 0, driver = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) {
    return ls_fail(err, LS_UNSUPPORTED, "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d or newer",
                   driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  }
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || (error == cudaSuccess && count == 0))
    return ls_fail(err, LS_NOT_FOUND, "no GPU was found: there is no NVIDIA driver, or it sees no device");
  CUDA_TRY("counting the GPUs", error);
  if (index < 0 || index >= count)
    return ls_fail(err, LS_INVALID, "GPU %d: this machine has GPUs 0 to %d", index, count - 1);
  CUDA_TRY("asking the GPU what it is", cudaGetDeviceProperties(properties, index));
  if (properties->major < OLDEST_COMPUTE) {
    return ls_fail(err, LS_UNSUPPORTED, "GPU %d (%s) has compute capability %d.%d; %d.0 is the oldest that will do",
                   index, properties->name, properties->major, properties->minor, OLDEST_COMPUTE);
  }
  return LS_OK;
}

static ls_status launch(struct cuda_context *context, struct ls_stream *stream, enum ls_kernel kernel,
                        const void *arguments, int64_t n, struct ls_error *err) {
  cudaStream_t on = device_stream((struct device_context *)context, stream);
  return device_error((cudaError_t)ls_cuda_launch((int)kernel, arguments, n, on), "starting a kernel", err);
}

static ls_status zero(struct cuda_context *context, struct ls_stream *stream, void *memory, size_t bytes,
                      struct ls_error *err) {
  cudaStream_t on = device_stream((struct device_context *)context, stream);
  return device_error(cudaMemsetAsync(memory, 0, bytes, on), "filling with zeros", err);
}

static const struct cuda_machine machine = {.launch = launch,
                                            .zero = zero,
                                            .product_new = device_product_new,
                                            .product_free = device_product_free,
                                            .product_run = device_product_run};

// One at a time: a handle's making loads and sets up the library, for all threads.
static ls_status open_cudnn(struct device_context *context, struct ls_error *err) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&lock);
  LS_TRY(ls_backend_cuda_check(err));
  cudnnStatus_t status = cudnnCreate(&context->cudnn);
  pthread_mutex_unlock(&lock);
  if (status == CUDNN_STATUS_SUCCESS) status = cudnnSetStream(context->cudnn, context->stream);
  if (status == CUDNN_STATUS_SUCCESS) return LS_OK;
  char why[256];
  cudnnGetLastErrorString(why, sizeof why);
  return ls_fail(err, LS_UNSUPPORTED, "cuDNN %zu does not start on GPU %d: %s; %s", cudnnGetVersion(), context->device,
                 cudnnGetErrorString(status), why);
}

static ls_status open_context(int index, struct ls_backend *backend, struct ls_error *err) {
  *backend = (struct ls_backend){.ops = ls_backend_cuda()};
  struct cudaDeviceProp properties;
  LS_TRY(check_device(index, &properties, err));
  struct device_context *context = calloc(1, sizeof *context);
  if (!context) return ls_fail(err, LS_NO_MEMORY, "no memory for a CUDA context");
  context->base.machine = &machine;
  context->device = index;
  context->properties = properties;
  backend->state = context;
  ls_status status = device_error(cudaSetDevice(index), "taking the GPU", err);
  if (status == LS_OK)
    status = device_error(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "making a stream", err);
  if (status == LS_OK) status = open_cudnn(context, err);
  if (status != LS_OK) backend->ops->close(backend);
  return status;
}

static void close_context(struct ls_backend *backend) {
  struct device_context *context = backend->state;
  if (!context) return;
  if (context->cudnn) cudnnDestroy(context->cudnn);
  if (context->stream) cudaStreamDestroy(context->stream);
  cuda_layouts_free(&context->base);
  free(context);
  backend->state = NULL;
}

static ls_status allocate(struct ls_backend *backend, enum ls_memory kind, size_t bytes, void **memory,
                          struct ls_error *err) {
  *memory = NULL;
  if (bytes == 0) bytes = 256;
  cudaError_t error =
      kind == LS_MEMORY_PINNED ? cudaHostAlloc(memory, bytes, cudaHostAllocPortable) : cudaMalloc(memory, bytes);
  if (error != cudaErrorMemoryAllocation) return device_error(error, "allocating memory", err);
  cudaGetLastError();  // it is no error of the device
  const struct device_context *context = backend->state;
  if (kind == LS_MEMORY_PINNED)
    return ls_fail(err, LS_NO_MEMORY, "cannot pin %.1f MiB of the machine's memory", (double)bytes / 1048576);
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  return ls_fail(err, LS_NO_MEMORY, "GPU %d (%s): %.1f MiB are wanted, %.1f of its %.1f MiB are free", context->device,
                 context->properties.name, (double)bytes / 1048576, (double)free_bytes / 1048576,
                 (double)total_bytes / 1048576);
}

static void release(struct ls_backend *backend, enum ls_memory kind, void *memory, size_t bytes) {
  (void)backend;
  (void)bytes;
  if (!memory) return;
  if (kind == LS_MEMORY_PINNED)
    cudaFreeHost(memory);
  else
    cudaFree(memory);
}

// Whether the copy may go on after the call: the host's side is pinned.
static bool pinned(const void *host) {
  struct cudaPointerAttributes attributes;
  bool known = cudaPointerGetAttributes(&attributes, host) == cudaSuccess && attributes.type == cudaMemoryTypeHost;
  cudaGetLastError();
  return known;
}

static ls_status upload(struct ls_backend *backend, struct ls_stream *stream, void *device, const void *host,
                        size_t bytes, struct ls_error *err) {
  cudaStream_t on = device_stream(backend->state, stream);
  CUDA_TRY("copying to the GPU", cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, on));
  if (pinned(host)) return LS_OK;
  return device_error(cudaStreamSynchronize(on), "copying to the GPU", err);
}

static ls_status download(struct ls_backend *backend, struct ls_stream *stream, void *host, const void *device,
                          size_t bytes, struct ls_error *err) {
  cudaStream_t on = device_stream(backend->state, stream);
  CUDA_TRY("copying from the GPU", cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, on));
  if (pinned(host)) return LS_OK;
  return device_error(cudaStreamSynchronize(on), "copying from the GPU", err);
}

static ls_status stream_new(struct ls_backend *backend, struct ls_stream **stream, struct ls_error *err) {
  (void)backend;
  cudaStream_t made = NULL;
  *stream = NULL;
  CUDA_TRY("making a stream", cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  *stream = (struct ls_stream *)(void *)made;
  return LS_OK;
}

static void stream_free(struct ls_backend *backend, struct ls_stream *stream) {
  (void)backend;
  if (stream) cudaStreamDestroy((cudaStream_t)(void *)stream);
}

static ls_status stream_wait_idle(struct ls_backend *backend, struct ls_stream *stream, struct ls_error *err) {
  return device_error(cudaStreamSynchronize(device_stream(backend->state, stream)), "waiting for the GPU", err);
}

static ls_status event_new(struct ls_backend *backend, struct ls_event **event, struct ls_error *err) {
  (void)backend;
  cudaEvent_t made = NULL;
  *event = NULL;
  CUDA_TRY("making an event", cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
  *event = (struct ls_event *)(void *)made;
  return LS_OK;
}

static void event_free(struct ls_backend *backend, struct ls_event *event) {
  (void)backend;
  if (event) cudaEventDestroy((cudaEvent_t)(void *)event);
}

static ls_status event_record(struct ls_backend *backend, struct ls_event *event, struct ls_stream *stream,
                              struct ls_error *err) {
  cudaStream_t on = device_stream(backend->state, stream);
  return device_error(cudaEventRecord((cudaEvent_t)(void *)event, on), "recording an event", err);
}

static ls_status stream_wait_event(struct ls_backend *backend, struct ls_stream *stream, struct ls_event *event,
                                   struct ls_error *err) {
  cudaStream_t on = device_stream(backend->state, stream);
  return device_error(cudaStreamWaitEvent(on, (cudaEvent_t)(void *)event, 0), "waiting for an event", err);
}

// Slow path: through memory of the host.
static ls_status canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, void *device, void *host,
                           bool to_host, struct ls_error *err) {
  size_t bytes = cuda_layout_bytes(tensor->layout);
  void *between = malloc(bytes ? bytes : 1);
  if (!between) return ls_fail(err, LS_NO_MEMORY, "no memory to copy a tensor of %zu bytes", bytes);
  if (!to_host) cuda_from_canonical(tensor->layout, host, between);
  ls_status status = to_host ? download(backend, NULL, between, device, bytes, err)
                             : upload(backend, NULL, device, between, bytes, err);
  if (to_host && status == LS_OK) cuda_to_canonical(tensor->layout, between, host);
  free(between);
  return status;
}

static ls_status to_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *memory,
                              void *host, struct ls_error *err) {
  return canonical(backend, tensor, (void *)(uintptr_t)memory, host, true, err);
}

static ls_status from_canonical(struct ls_backend *backend, const struct ls_tensor_desc *tensor, const void *host,
                                void *memory, struct ls_error *err) {
  return canonical(backend, tensor, memory, (void *)(uintptr_t)host, false, err);
}

const struct ls_backend_ops *ls_backend_cuda(void) {
  static const struct ls_backend_ops ops = {.name = "cuda",
                                            .folds = true,
                                            .relu_sums = true,
                                            .norm_adds = true,
                                            .conv_statistics = true,
                                            .device = &device_work,
                                            .devices = devices,
                                            .open = open_context,
                                            .close = close_context,
                                            .allocate = allocate,
                                            .release = release,
                                            .upload = upload,
                                            .download = download,
                                            .stream_new = stream_new,
                                            .stream_free = stream_free,
                                            .stream_wait_idle = stream_wait_idle,
                                            .event_new = event_new,
                                            .event_free = event_free,
                                            .event_record = event_record,
                                            .stream_wait_event = stream_wait_event,
                                            .plain_layout = cuda_plain_layout,
                                            .input_layout = cuda_input_layout,
                                            .layout_equal = cuda_layout_equal,
                                            .layout_bytes = cuda_layout_bytes,
                                            .layout_format = cuda_layout_format,
                                            .to_canonical = to_canonical,
                                            .from_canonical = from_canonical,
                                            .prepare = cuda_prepare,
                                            .op_release = cuda_op_release,
                                            .run = cuda_run};
  return &ops;
}
