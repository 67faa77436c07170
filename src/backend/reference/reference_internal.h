// The reference backend's insides. reference.c: context, layouts, dispatch. reference_ops.c: the operations.
// reference_norm.c: normalisation and loss.
#ifndef LS_BACKEND_REFERENCE_REFERENCE_INTERNAL_H
#define LS_BACKEND_REFERENCE_REFERENCE_INTERNAL_H

#include "backend/backend.h"

// Rows of values in the shape's own axis order, or N,H,W,C.
struct ls_layout {
  enum ls_dtype dtype;
  struct ls_shape shape;
  bool channels_last;
  struct ls_layout *next;
};

// Runs one operation whose tensors all lie row-major: float64, labels int32, metrics float32.
ls_status reference_run(const struct ls_op *op, const struct ls_op_args *args, struct ls_error *err);
// Copies a tensor between layouts and types (float32, float64, uint8, int32).
void reference_copy(const struct ls_layout *from_layout, const void *from, const struct ls_layout *to_layout, void *to);

void reference_bn_train(const struct ls_op_desc *desc, const struct ls_op_args *args);
void reference_bn_infer(const struct ls_op_desc *desc, void *const *t);
void reference_bn_backward(const struct ls_op_desc *desc, const struct ls_op_args *args);
void reference_lrn_forward(const struct ls_op_desc *desc, void *const *t);
void reference_lrn_backward(const struct ls_op_desc *desc, void *const *t);
ls_status reference_loss_forward(const struct ls_op_desc *desc, void *const *t, struct ls_error *err);
void reference_loss_backward(const struct ls_op_desc *desc, void *const *t);

#endif
