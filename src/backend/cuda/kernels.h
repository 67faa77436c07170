// The list of kernels. Each line: name, struct of its arguments. LS_KERNELS: an index a thread; LS_LANE_KERNELS: an index
// 32 lanes; LS_BLOCK_KERNELS: an index a block. The device's table (device/kernels.cu) and the host's (twin.c) are made from it.
#ifndef LS_BACKEND_CUDA_KERNELS_H
#define LS_BACKEND_CUDA_KERNELS_H

#include "backend/cuda/kernels_elementwise.h"
#include "backend/cuda/kernels_norm.h"
#include "backend/cuda/kernels_spatial.h"

#define LS_KERNELS(X)                          \
  X(add, struct ls_k_add)                      \
  X(relu_forward, struct ls_k_relu)            \
  X(relu_backward, struct ls_k_relu)           \
  X(epilogue, struct ls_k_epilogue)            \
  X(cast, struct ls_k_cast)                    \
  X(reorder, struct ls_k_reorder)              \
  X(dropout, struct ls_k_dropout)              \
  X(update, struct ls_k_update)                \
  X(check_finite, struct ls_k_check_finite)    \
  X(tree_sum, struct ls_k_tree_sum)            \
  X(input, struct ls_k_input)                  \
  X(fold, struct ls_k_fold)                    \
  X(statistics, struct ls_k_statistics)        \
  X(inverse, struct ls_k_inverse)              \
  X(normalise, struct ls_k_normalise)          \
  X(bn_backward_data, struct ls_k_bn_backward) \
  X(lrn_forward, struct ls_k_lrn)              \
  X(lrn_terms, struct ls_k_lrn)                \
  X(lrn_backward, struct ls_k_lrn)             \
  X(pool_forward, struct ls_k_pool)            \
  X(pool_backward, struct ls_k_pool)           \
  X(shortcut_forward, struct ls_k_shortcut)    \
  X(shortcut_backward, struct ls_k_shortcut)   \
  X(softmax_backward, struct ls_k_softmax_backward)

#define LS_LANE_KERNELS(X)        \
  X(softmax, struct ls_k_softmax) \
  X(metrics, struct ls_k_metrics)

#define LS_BLOCK_KERNELS(X)                 \
  X(column_sum, struct ls_k_column_sum)     \
  X(moments, struct ls_k_moments)           \
  X(moments_join, struct ls_k_moments_join) \
  X(bn_backward_sums, struct ls_k_bn_backward)

#define LS_KERNEL_NAME(name, type) LS_KERNEL_##name,
enum ls_kernel {
  LS_KERNELS(LS_KERNEL_NAME) LS_LANE_KERNELS(LS_KERNEL_NAME) LS_BLOCK_KERNELS(LS_KERNEL_NAME) LS_KERNEL_COUNT
};
#undef LS_KERNEL_NAME

#endif
