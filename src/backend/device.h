// What a worker asks of a device that has memory of its own, beside prepared operations: the optimizer, sums over shards,
// stored pixels to input, recordings of work. A backend without it (ls_backend_ops.device is NULL) computes in the host's
// memory, where the worker does all this in loops of its own.
//
// All of it is elementwise and in a fixed order: how the slab is sliced among workers cannot change a bit, and a device
// makes the same float32 bits as the host's loops (src/optim, src/collective, src/data).
//
// Memory: pointers are to device memory unless said otherwise. Devices that can reach each other (`reach`) may be given
// each other's. Threads: as for the backend's context, and pointers of other contexts are only read or written when their
// owners are known to be done (events and the worker's barriers).
#ifndef LS_BACKEND_DEVICE_H
#define LS_BACKEND_DEVICE_H

#include "backend/backend.h"
#include "backend/choices.h"
#include "tensor/pixel.h"

// Bytes of a part of a buffer, so that the part behind it begins where kernels like it.
static inline size_t ls_device_align(size_t bytes) { return (bytes + 255) / 256 * 256; }

enum { LS_DEVICE_PARTS = 64, LS_DEVICE_COPIES = 16, LS_DEVICE_LINE = 16 };

// How the optimizer changes one parameter. Learned: SGD, weight decay times `decay`; else running = running + share *
// (scale * batch - running). `momentum`: what to add to an index of the parameter slab to get that of the momentum slab.
struct ls_update_rule {
  int64_t momentum;
  int32_t learned;
  float decay, share, scale;
};

// Numbers of one step, in device memory.
struct ls_update_numbers {
  float learning_rate, momentum, weight_decay;
  float gradient_scale;  // what a gradient is multiplied by first: 1 / loss scale
  int32_t nesterov;
  int32_t reserved;
};

// The slice [begin, end) of the slabs, in floats, multiples of LS_DEVICE_LINE: the gradients of all workers are summed in
// the balanced tree, then the parameters are updated, here and in the slabs of other devices (`copies`).
struct ls_update {
  const float *part[LS_DEVICE_PARTS];
  const uint32_t *overflow[LS_DEVICE_PARTS];  // where one of them is not 0 nothing is changed; all NULL: not asked
  int parts, copies;
  float *parameters, *momentum;
  float *copy[LS_DEVICE_COPIES];
  const struct ls_update_rule *rules;
  const uint16_t *rule_of_line;  // [floats / LS_DEVICE_LINE]; UINT16_MAX: nobody's
  const struct ls_update_numbers *numbers;
  int64_t begin, end;
};

// Images of c <= 4 channels to the network's input [images, h, w, out_c] in `dtype`: value * scale + bias of its channel;
// channels from c on are zeros.
// `pixels` [images, height, width, c]; `places` [images, place_words]: top, left, mirrored of the window in each (outside the
// image all is black), then steps that change its pixels (tensor/pixel.h); or NULL: h = height, w = width, as they lie.
struct ls_input {
  const uint8_t *pixels;
  const int32_t *places;
  int32_t place_words;
  void *out;
  enum ls_dtype dtype;
  int32_t images, height, width, h, w, c, out_c;
  float scale[4], bias[4];
};

struct ls_recording;  // work that was recorded once and is started as a whole

struct ls_device_ops {
  // Before the first prepare. Kernels are chosen by measuring, once for all workers (choices.h; must outlive the context),
  // instead of by the library's guess. `fast`: also such kernels whose results differ from run to run.
  void (*choose_by)(struct ls_backend *backend, struct ls_choices *choices, bool fast);
  ls_status (*update)(struct ls_backend *backend, struct ls_stream *stream, const struct ls_update *update,
                      struct ls_error *err);
  // out = balanced tree sum of `parts` (a power of two) arrays of n floats; out may be one of them.
  ls_status (*tree_sum)(struct ls_backend *backend, struct ls_stream *stream, float *out, const float *const *part,
                        int parts, int64_t n, struct ls_error *err);
  // *flag = 1 where one of n floats is infinite or no number, else 0.
  ls_status (*check_finite)(struct ls_backend *backend, struct ls_stream *stream, const float *values, int64_t n,
                            uint32_t *flag, struct ls_error *err);
  ls_status (*input)(struct ls_backend *backend, struct ls_stream *stream, const struct ls_input *input,
                     struct ls_error *err);
  ls_status (*zero)(struct ls_backend *backend, struct ls_stream *stream, void *memory, size_t bytes,
                    struct ls_error *err);
  // Between two places in device memory, of one device or of two that can reach each other.
  ls_status (*copy)(struct ls_backend *backend, struct ls_stream *stream, void *to, const void *from, size_t bytes,
                    struct ls_error *err);
  // Whether the work before an event is done: for those who wait with an eye on something else. NULL: not known.
  ls_status (*event_done)(struct ls_backend *backend, struct ls_event *event, bool *done, struct ls_error *err);
  // Makes device `index` reachable from this context. LS_UNSUPPORTED where the machine has no way between them.
  ls_status (*reach)(struct ls_backend *backend, int index, struct ls_error *err);
  // What this thread starts on the compute stream between begin and end is not run but recorded; replay then starts all of
  // it. NULL where the device does not record. A failed operation in between: record_end all the same, it drops the rest.
  ls_status (*record_begin)(struct ls_backend *backend, struct ls_error *err);
  ls_status (*record_end)(struct ls_backend *backend, struct ls_recording **recording, struct ls_error *err);
  ls_status (*replay)(struct ls_backend *backend, struct ls_recording *recording, struct ls_error *err);
  void (*recording_free)(struct ls_recording *recording);
};

#endif
