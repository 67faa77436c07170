// Layouts of the CUDA backend: see cuda_internal.h. A context's layouts belong to its thread.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"

bool cuda_layout_equal(const struct ls_layout *a, const struct ls_layout *b) {
  if (a == b) return true;
  return a && b && a->dtype == b->dtype && a->channels_last == b->channels_last && a->channels == b->channels &&
         ls_shape_equal(&a->shape, &b->shape);
}

static const struct ls_layout *intern(struct cuda_context *context, const struct ls_layout *wanted) {
  for (struct ls_layout *l = context->layouts; l; l = l->next) {
    if (cuda_layout_equal(l, wanted)) return l;
  }
  struct ls_layout *layout = malloc(sizeof *layout);
  if (!layout) return NULL;
  *layout = *wanted;
  layout->next = context->layouts;
  return context->layouts = layout;
}

const struct ls_layout *cuda_plain_layout(struct ls_backend *backend, enum ls_dtype dtype, const struct ls_shape *shape,
                                          bool channels_last) {
  bool last = channels_last && shape->rank == 4;
  return intern(backend->state, &(struct ls_layout){dtype, *shape, last, last ? shape->dim[1] : 0, NULL});
}

const struct ls_layout *cuda_own_layout(struct cuda_context *context, enum ls_dtype dtype,
                                        const struct ls_shape *shape) {
  bool last = shape->rank == 4;
  return intern(context, &(struct ls_layout){dtype, *shape, last, last ? shape->dim[1] : 0, NULL});
}

const struct ls_layout *cuda_padded_layout(struct cuda_context *context, enum ls_dtype dtype,
                                           const struct ls_shape *shape, int64_t channels) {
  return intern(context, &(struct ls_layout){dtype, *shape, true, channels, NULL});
}

// To how many channels images are padded. What cuDNN 9.19 proposes for an H200 and the first convolutions of ResNet, VGG,
// AlexNet (3 channels) and LeNet (1), forward and backward to weights, deterministic:
//   bfloat16  every tensor core engine copies x of 3 or 4 channels into its workspace, padded to 8, in each direction and
//             step (24.5 MiB for 32 images of 224 x 224); with 8 they read it where it lies, and there are as many engines
//   float16   with 4 channels engines for just that take it where it lies (63, 47: the first guess; with 3 the former
//             pads to 4 in its workspace) and there are more tensor core plans than with 3: 24 for 19, 60 for 38; 8 brings
//             few more (26, 62) and doubles what is read
//   tf32      pixels of 16 bytes: 8 tensor core plans for 5, 31 for 26; 8 brings none
//   float32   the same engines with and without: nothing is won
// So 8, 4, 4 and none.
static int64_t input_channels(enum ls_dtype dtype, bool tf32, int64_t c) {
  int64_t multiple = dtype == LS_BF16 ? 8 : dtype == LS_F16 || (dtype == LS_F32 && tf32) ? 4 : 1;
  return (c + multiple - 1) / multiple * multiple;
}

const struct ls_layout *cuda_input_layout(struct ls_backend *backend, enum ls_dtype dtype, bool tf32,
                                          const struct ls_shape *shape) {
  int64_t c = shape->dim[1], channels = input_channels(dtype, tf32, c);
  if (ls_shape_elements(shape) / c * channels > INT32_MAX) channels = c;  // as in lower.c
  return cuda_padded_layout(backend->state, dtype, shape, channels);
}

void cuda_layouts_free(struct cuda_context *context) {
  for (struct ls_layout *l = context->layouts, *next; l; l = next) {
    next = l->next;
    free(l);
  }
  context->layouts = NULL;
}

size_t cuda_layout_bytes(const struct ls_layout *layout) {
  int64_t values = ls_shape_elements(&layout->shape);
  if (layout->channels_last) values = values / layout->shape.dim[1] * layout->channels;
  return (size_t)values * ls_dtype_bytes(layout->dtype);
}

void cuda_layout_format(const struct ls_layout *layout, char *text, size_t size) {
  static const char *const names[] = {"", "c", "nc", "ncw", "nchw", "ncdhw"};
  if (layout && layout->channels_last && layout->channels > layout->shape.dim[1])
    snprintf(text, size, "nhwc, c %lld", (long long)layout->channels);
  else
    snprintf(text, size, "%s", !layout ? "" : layout->channels_last ? "nhwc" : names[layout->shape.rank]);
}

// Moves values of `size` bytes between row-major `canonical` and `layout`'s order.
static void move(const struct ls_layout *layout, const char *from, char *to, bool to_canonical) {
  size_t size = ls_dtype_bytes(layout->dtype);
  const int64_t *d = layout->shape.dim;
  if (!layout->channels_last) {
    memcpy(to, from, cuda_layout_bytes(layout));
    return;
  }
  int64_t plane = d[2] * d[3], i = 0;
  for (int64_t n = 0; n < d[0]; n++) {
    for (int64_t c = 0; c < d[1]; c++) {
      for (int64_t hw = 0; hw < plane; hw++, i++) {
        int64_t at = (n * plane + hw) * layout->channels + c;
        memcpy(to + (size_t)(to_canonical ? i : at) * size, from + (size_t)(to_canonical ? at : i) * size, size);
      }
    }
  }
}

void cuda_to_canonical(const struct ls_layout *layout, const void *memory, void *canonical) {
  move(layout, memory, canonical, true);
}

void cuda_from_canonical(const struct ls_layout *layout, const void *canonical, void *memory) {
  if (layout->channels_last && layout->channels > layout->shape.dim[1]) memset(memory, 0, cuda_layout_bytes(layout));
  move(layout, canonical, memory, false);
}
