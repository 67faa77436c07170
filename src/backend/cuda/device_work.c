// What the worker asks of a device beside prepared operations (backend/device.h), as kernels on the machine. See
// cuda_internal.h.
#include <inttypes.h>

#include "backend/cuda/cuda_internal.h"

void cuda_choose_by(struct ls_backend *backend, struct ls_choices *choices, bool fast) {
  struct cuda_context *context = backend->state;
  context->choices = choices;
  context->fast = fast;
}

ls_status cuda_update(struct ls_backend *backend, struct ls_stream *stream, const struct ls_update *update,
                      struct ls_error *err) {
  struct cuda_context *context = backend->state;
  if (update->parts > LS_DEVICE_PARTS || update->copies > LS_DEVICE_COPIES || update->begin % LS_DEVICE_LINE != 0 ||
      update->end % LS_DEVICE_LINE != 0)
    return ls_fail(err, LS_INTERNAL, "an update of %d parts from %" PRId64 " to %" PRId64, update->parts, update->begin,
                   update->end);
  struct ls_k_update k = {*update};
  return CUDA_LAUNCH(context, stream, update, (update->end - update->begin) / LS_GROUP, &k, err);
}

ls_status cuda_tree_sum(struct ls_backend *backend, struct ls_stream *stream, float *out, const float *const *part,
                        int parts, int64_t n, struct ls_error *err) {
  struct cuda_context *context = backend->state;
  struct ls_k_tree_sum k = {.out = out, .count = parts, .n = n};
  if (parts < 1 || parts > LS_DEVICE_PARTS) return ls_fail(err, LS_INTERNAL, "a sum of %d parts", parts);
  for (int i = 0; i < parts; i++) k.part[i] = part[i];
  return CUDA_LAUNCH(context, stream, tree_sum, cuda_groups(n), &k, err);
}

ls_status cuda_check_finite(struct ls_backend *backend, struct ls_stream *stream, const float *values, int64_t n,
                            uint32_t *flag, struct ls_error *err) {
  struct cuda_context *context = backend->state;
  struct ls_k_check_finite k = {values, flag, n};
  LS_TRY(context->machine->zero(context, stream, flag, sizeof *flag, err));
  return CUDA_LAUNCH(context, stream, check_finite, cuda_groups(n), &k, err);
}

ls_status cuda_input(struct ls_backend *backend, struct ls_stream *stream, const struct ls_input *input,
                     struct ls_error *err) {
  struct cuda_context *context = backend->state;
  struct ls_k_input k = {*input};
  if (input->c < 1 || input->c > 4 || input->out_c < input->c || input->out_c > LS_GROUP)
    return ls_fail(err, LS_UNSUPPORTED, "images of %d channels, %d in the network's input", input->c, input->out_c);
  return CUDA_LAUNCH(context, stream, input, (int64_t)input->images * input->h * input->w, &k, err);
}

ls_status cuda_zero(struct ls_backend *backend, struct ls_stream *stream, void *memory, size_t bytes,
                    struct ls_error *err) {
  struct cuda_context *context = backend->state;
  return context->machine->zero(context, stream, memory, bytes, err);
}
