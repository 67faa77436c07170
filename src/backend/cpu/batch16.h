// Own kernels for small networks: sixteen images side by side in the innermost axis.
//
// oneDNN blocks channels by 8 or 16, so a layer of 1, 3, 20 or 50 channels computes on padding (half of LeNet's work).
// Here the vector lanes are images instead: a tensor [N,C,H,W] lies as [N/16][C][H][W][16], every channel count is exact,
// weights stay in their plain row-major order, and there is nothing to reorder between layers. It wants N % 16 == 0 and
// pays where channels are few or no multiple of the vector width; elsewhere oneDNN's kernels are as good or better.
//
// Letters: G = N/16 groups of images; C, H, W input; K, P, Q output channels and size; R, S kernel; lanes 16.
// The sum over (c, r, s) of a value runs in one fixed order, so results do not depend on the worker. Fixed per machine:
// the AVX-512 and AVX2 variants differ in how sums over images are grouped.
//
// Pure functions over the caller's memory; any thread may call. Pointers 64-byte aligned unless said otherwise.
#ifndef LS_BACKEND_CPU_BATCH16_H
#define LS_BACKEND_CPU_BATCH16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LS_B16_LANES = 16, LS_B16_MAX_KERNEL = 7 };

// A convolution of stride 1, dilation 1, one group, square padding. A fully connected layer is the one with H = W = R =
// S = 1 and C the flattened input.
struct ls_b16_conv {
  int64_t groups16;      // G
  int64_t c, h, w;       // input
  int64_t k, p, q;       // output: p = h + 2 pad - r + 1, q likewise
  int64_t r, s;          // kernel, at most LS_B16_MAX_KERNEL
  int64_t pad_h, pad_w;  // < r, < s
  bool relu;             // forward: y = max(y, 0)
};

// Pooling over [planes][H][W][16], planes = G*C. Windows clipped to the image. Max keeps the position inside the window
// (r*S + s, at most 255) of the first maximum in `where` [planes][P][Q][16]; NULL when no backward follows.
struct ls_b16_pool {
  int64_t planes, h, w, p, q, r, s;
  int64_t stride_h, stride_w, pad_h, pad_w;  // padding before; what lies behind the end is clipped
  bool max;
  bool count_pad;                // average: divide by the window including padding
  int64_t pad_end_h, pad_end_w;  // padding after, counted by count_pad
};
struct ls_b16_kernels {
  const char *name;  // "batch16:avx512"
  // y [G][K][P][Q][16] = x [G][C][H][W][16] * w [K][C][R][S] + b [K] (NULL: none). w, b need no alignment.
  void (*conv_forward)(const struct ls_b16_conv *conv, const float *x, const float *w, const float *b, float *y,
                       void *scratch);
  // dx [G][C][H][W][16] from dy [G][K][P][Q][16].
  void (*conv_backward_data)(const struct ls_b16_conv *conv, const float *dy, const float *w, float *dx, void *scratch);
  // dw [K][C][R][S] and db [K] (NULL: none), overwritten, no alignment needed.
  void (*conv_backward_weights)(const struct ls_b16_conv *conv, const float *x, const float *dy, float *dw, float *db,
                                void *scratch);
  // The same three for fully connected layers: x [G][C][16], y [G][K][16], w [K][C].
  void (*fc_forward)(const struct ls_b16_conv *conv, const float *x, const float *w, const float *b, float *y,
                     void *scratch);
  void (*fc_backward_data)(const struct ls_b16_conv *conv, const float *dy, const float *w, float *dx, void *scratch);
  void (*fc_backward_weights)(const struct ls_b16_conv *conv, const float *x, const float *dy, float *dw, float *db,
                              void *scratch);
  // struct ls_backend_ops.outer_sum
  void (*outer_sum)(int64_t n, int64_t rows, int64_t columns, const float *dy, int64_t dy_stride, const float *x,
                    int64_t x_stride, float *out);
  // `where`: written by forward (NULL: not), read by backward of a maximum.
  void (*pool_forward)(const struct ls_b16_pool *pool, const float *x, float *y, uint8_t *where);
  void (*pool_backward)(const struct ls_b16_pool *pool, const float *dy, const uint8_t *where, float *dx);
};

// The variant for this machine: AVX-512, AVX2 with FMA, or NULL (no such kernels: use oneDNN).
const struct ls_b16_kernels *ls_b16_kernels(void);

// Scratch that each of the functions above needs for `conv`.
size_t ls_b16_scratch_bytes(const struct ls_b16_conv *conv);

// Between row-major [N,C,H,W] (or channels last [N,H,W,C]) and [N/16][C][H][W][16]. hw = H*W.
void ls_b16_from_plain(int64_t groups16, int64_t c, int64_t hw, bool channels_last, const float *plain, float *b16);
void ls_b16_to_plain(int64_t groups16, int64_t c, int64_t hw, bool channels_last, const float *b16, float *plain);

#endif
