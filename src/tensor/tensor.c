// Data types and shapes: see tensor.h.
#include "tensor/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

size_t ls_dtype_bytes(enum ls_dtype dtype) {
  static const size_t bytes[] = {4, 8, 2, 2, 1, 4};
  return bytes[dtype];
}

const char *ls_dtype_name(enum ls_dtype dtype) {
  static const char *const name[] = {"float32", "float64", "float16", "bfloat16", "uint8", "int32"};
  return name[dtype];
}

int64_t ls_shape_elements(const struct ls_shape *shape) {
  int64_t n = 1;
  for (int i = 0; i < shape->rank; i++) n *= shape->dim[i];
  return n;
}

bool ls_shape_equal(const struct ls_shape *a, const struct ls_shape *b) {
  return a->rank == b->rank && memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim) == 0;
}

char *ls_shape_format(const struct ls_shape *shape, char *text, size_t size) {
  size_t used = 0;
  if (size) text[0] = 0;
  for (int i = 0; i < shape->rank && used < size; i++) {
    used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? "x" : "", shape->dim[i]);
  }
  return text;
}
