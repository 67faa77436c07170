// Data types and shapes. Images are N (batch), C (channels), H, W; fully connected values are [N, C].
// A shape says what a tensor means and in which order its axes are named; how it lies in memory is its layout, which is
// the backend's business (src/backend/backend.h).
#ifndef LS_TENSOR_TENSOR_H
#define LS_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ls_dtype { LS_F32, LS_F64, LS_F16, LS_BF16, LS_U8, LS_I32 };

enum { LS_MAX_RANK = 5 };

struct ls_shape {
  int rank;
  int64_t dim[LS_MAX_RANK];
};

size_t ls_dtype_bytes(enum ls_dtype dtype);
const char *ls_dtype_name(enum ls_dtype dtype);  // "float32"

// LS_SHAPE(64, 3, 224, 224): a shape in place; its address may be taken.
#define LS_SHAPE(...) \
  ((struct ls_shape){.rank = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), .dim = {__VA_ARGS__}})
int64_t ls_shape_elements(const struct ls_shape *shape);
bool ls_shape_equal(const struct ls_shape *a, const struct ls_shape *b);
// Writes "64x3x224x224" into text and returns it.
char *ls_shape_format(const struct ls_shape *shape, char *text, size_t size);

#endif
