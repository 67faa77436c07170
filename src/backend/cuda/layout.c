// Layouts of the CUDA backend: see cuda_internal.h. A context's layouts belong to its thread.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"

bool cuda_layout_equal(const struct ls_layout *a, const struct ls_layout *b) {
  if (a == b) return true;
  return a && b && a->dtype == b->dtype && a->channels_last == b->channels_last && ls_shape_equal(&a->shape, &b->shape);
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
  return intern(backend->state, &(struct ls_layout){dtype, *shape, channels_last && shape->rank == 4, NULL});
}

const struct ls_layout *cuda_own_layout(struct cuda_context *context, enum ls_dtype dtype,
                                        const struct ls_shape *shape) {
  return intern(context, &(struct ls_layout){dtype, *shape, shape->rank == 4, NULL});
}

void cuda_layouts_free(struct cuda_context *context) {
  for (struct ls_layout *l = context->layouts, *next; l; l = next) {
    next = l->next;
    free(l);
  }
  context->layouts = NULL;
}

size_t cuda_layout_bytes(const struct ls_layout *layout) {
  return (size_t)ls_shape_elements(&layout->shape) * ls_dtype_bytes(layout->dtype);
}

void cuda_layout_format(const struct ls_layout *layout, char *text, size_t size) {
  static const char *const names[] = {"", "c", "nc", "ncw", "nchw", "ncdhw"};
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
        int64_t at = (n * plane + hw) * d[1] + c;
        memcpy(to + (size_t)(to_canonical ? i : at) * size, from + (size_t)(to_canonical ? at : i) * size, size);
      }
    }
  }
}

void cuda_to_canonical(const struct ls_layout *layout, const void *memory, void *canonical) {
  move(layout, memory, canonical, true);
}

void cuda_from_canonical(const struct ls_layout *layout, const void *canonical, void *memory) {
  move(layout, canonical, memory, false);
}
