// The GPU's part of backend/device.h: copies between places in device memory, access to another GPU's memory, recordings.
//
// A recording is a CUDA graph of one stream, captured in thread-local mode: what other threads do meanwhile on their own
// GPUs is neither recorded nor forbidden. Nothing in it may wait for another worker, so the exchange of gradients stays
// outside. See device.h.
#include <stdlib.h>

#include "backend/cuda/device/device.h"

struct ls_recording {
  cudaGraphExec_t graph;
};

static ls_status copy(struct ls_backend *backend, struct ls_stream *stream, void *to, const void *from, size_t bytes,
                      struct ls_error *err) {
  cudaStream_t on = device_stream(backend->state, stream);
  return device_error(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, on), "copying between GPUs", err);
}

static ls_status reach(struct ls_backend *backend, int index, struct ls_error *err) {
  const struct device_context *context = backend->state;
  int possible = 0;
  if (index == context->device) return LS_OK;
  CUDA_TRY("asking how GPUs are connected", cudaDeviceCanAccessPeer(&possible, context->device, index));
  if (!possible)
    return ls_fail(err, LS_UNSUPPORTED, "GPU %d cannot reach the memory of GPU %d", context->device, index);
  cudaError_t error = cudaDeviceEnablePeerAccess(index, 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();  // another worker on this GPU did it
    return LS_OK;
  }
  return device_error(error, "connecting two GPUs", err);
}

static ls_status event_done(struct ls_backend *backend, struct ls_event *event, bool *done, struct ls_error *err) {
  (void)backend;
  cudaError_t error = cudaEventQuery((cudaEvent_t)(void *)event);
  *done = error == cudaSuccess;
  return error == cudaErrorNotReady ? LS_OK : device_error(error, "waiting for the GPU", err);
}

static ls_status record_begin(struct ls_backend *backend, struct ls_error *err) {
  const struct device_context *context = backend->state;
  return device_error(cudaStreamBeginCapture(context->stream, cudaStreamCaptureModeThreadLocal), "recording a step",
                      err);
}

static ls_status record_end(struct ls_backend *backend, struct ls_recording **result, struct ls_error *err) {
  const struct device_context *context = backend->state;
  cudaGraph_t graph = NULL;
  *result = NULL;
  CUDA_TRY("recording a step", cudaStreamEndCapture(context->stream, &graph));
  struct ls_recording *recording = calloc(1, sizeof *recording);
  ls_status status = recording
                         ? device_error(cudaGraphInstantiate(&recording->graph, graph, 0), "recording a step", err)
                         : ls_fail(err, LS_NO_MEMORY, "no memory for a recording");
  cudaGraphDestroy(graph);
  if (status == LS_OK)
    *result = recording;
  else
    free(recording);
  return status;
}

static ls_status replay(struct ls_backend *backend, struct ls_recording *recording, struct ls_error *err) {
  const struct device_context *context = backend->state;
  return device_error(cudaGraphLaunch(recording->graph, context->stream), "starting a recorded step", err);
}

static void recording_free(struct ls_recording *recording) {
  if (!recording) return;
  cudaGraphExecDestroy(recording->graph);
  free(recording);
}

const struct ls_device_ops device_work = {.choose_by = cuda_choose_by,
                                          .update = cuda_update,
                                          .tree_sum = cuda_tree_sum,
                                          .check_finite = cuda_check_finite,
                                          .input = cuda_input,
                                          .zero = cuda_zero,
                                          .copy = copy,
                                          .event_done = event_done,
                                          .reach = reach,
                                          .record_begin = record_begin,
                                          .record_end = record_end,
                                          .replay = replay,
                                          .recording_free = recording_free};
