// The body of the sixteen-image kernels, compiled once for each instruction set by batch16_avx512.c and batch16_avx2.c,
// which define the vector type V of V_LANES floats and V_LOAD, V_STORE, V_SET1, V_FMA (a*b+c), V_KEEP (in a register: the
// compiler would rather load it again for each use), V_ADD, V_MUL, V_MAX, V_ZERO, V_SUM, V_SELECT (mask, yes, no), the
// mask VM with V_IS_NUMBER, V_GREATER_OR_NAN (either), VM_AND, the vector of integers VI with VI_SET1, VI_SELECT, VI_EQUAL,
// VI_STORE8, VI_LOAD8 (as bytes), and the register blocking KB x XB of accumulators. See batch16.h for layouts and letters.
//
// Forward: KB output channels times XB neighbouring columns are held in registers; the innermost loop loads XB vectors of
// the input and broadcasts KB weights, so arithmetic, not loading, is the limit. Padding: rows of the kernel that would
// read above or below the image are left out; left and right, the input is copied once with columns of zeros. Backward
// data is the forward kernel on the output gradient with the weights turned by 180 degrees and C, K exchanged. Backward
// weights: some output channels times the S columns of a kernel row in registers, summed over all positions and groups
// before lanes are added up.

#include <string.h>

#include "backend/cpu/batch16.h"

#define INLINE static inline __attribute__((always_inline))

enum { HALVES = LS_B16_LANES / V_LANES };

// One group of images as the kernels read it.
struct view {
  const float *x;      // row 0 of the image, column -pad, first lane wanted
  int64_t row, plane;  // distances in floats
  int64_t channels, height;
  int64_t r, s, pad_h, pad_w;
  int64_t r0, r1;  // rows of the kernel that lie inside the image, for the output row at hand
};

// y[k0..k0+kb][*][q0..q0+xb] of one output row. w_k, w_c: distances between weights of neighbouring k, c, in floats.
INLINE void forward_block(const struct view *in, const float *w, int64_t w_k, int64_t w_c, const float *b, float *y,
                          int64_t y_k, bool relu, const int kb, const int xb) {
  V sum[KB][XB];
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) sum[k][j] = b ? V_SET1(b[k]) : V_ZERO();
  }
  for (int64_t c = 0; c < in->channels; c++) {
    for (int64_t r = in->r0; r < in->r1; r++) {
      const float *x = in->x + c * in->plane + r * in->row;
      const float *wr = w + c * w_c + r * in->s;
      for (int64_t s = 0; s < in->s; s++) {
        V value[XB];
        for (int j = 0; j < xb; j++) value[j] = V_LOAD(x + (s + j) * LS_B16_LANES);
        for (int k = 0; k < kb; k++) {
          V weight = V_SET1(wr[k * w_k + s]);
          for (int j = 0; j < xb; j++) sum[k][j] = V_FMA(value[j], weight, sum[k][j]);
        }
      }
    }
  }
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) {
      V_STORE(y + k * y_k + j * LS_B16_LANES, relu ? V_MAX(V_ZERO(), sum[k][j]) : sum[k][j]);
    }
  }
}

// The same where a kernel of EDGE columns hangs over the image by EDGE - 1 columns, as in the backward pass of a
// convolution without padding, for the leftmost or rightmost XB columns of the output: products with the zeros outside
// are left out.
enum { EDGE = 5 };

INLINE void edge_block(const struct view *in, const float *w, int64_t w_k, int64_t w_c, float *y, int64_t y_k,
                       const int kb, const bool left) {
  V sum[KB][XB];
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < XB; j++) sum[k][j] = V_ZERO();
  }
  for (int64_t c = 0; c < in->channels; c++) {
    for (int64_t r = in->r0; r < in->r1; r++) {
      const float *x = in->x + c * in->plane + r * in->row;
      const float *wr = w + c * w_c + r * EDGE;
#pragma GCC unroll 5
      for (int s = 0; s < EDGE; s++) {
        V value[XB];
        const int first = left && s < EDGE - 1 ? EDGE - 1 - s : 0, last = left ? XB : XB - s;
#pragma GCC unroll 4
        for (int j = first; j < last; j++) value[j] = V_LOAD(x + (s + j) * LS_B16_LANES);
#pragma GCC unroll 6
        for (int k = 0; k < kb; k++) {
          V weight = V_SET1(wr[k * w_k + s]);
#pragma GCC unroll 4
          for (int j = first; j < last; j++) sum[k][j] = V_FMA(value[j], weight, sum[k][j]);
        }
      }
    }
  }
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < XB; j++) V_STORE(y + k * y_k + j * LS_B16_LANES, sum[k][j]);
  }
}

typedef void edge_function(const struct view *in, const float *w, int64_t w_k, int64_t w_c, float *y, int64_t y_k);
#define EDGE_BLOCK(kb, side)                                                                                \
  static void edge_##kb##_##side(const struct view *in, const float *w, int64_t w_k, int64_t w_c, float *y, \
                                 int64_t y_k) {                                                             \
    edge_block(in, w, w_k, w_c, y, y_k, kb, side);                                                          \
  }
// clang-format off
EDGE_BLOCK(1, 0) EDGE_BLOCK(2, 0) EDGE_BLOCK(3, 0) EDGE_BLOCK(4, 0) EDGE_BLOCK(5, 0) EDGE_BLOCK(6, 0)
EDGE_BLOCK(1, 1) EDGE_BLOCK(2, 1) EDGE_BLOCK(3, 1) EDGE_BLOCK(4, 1) EDGE_BLOCK(5, 1) EDGE_BLOCK(6, 1)
// clang-format on
#define EDGES_OF(kb) [kb] = {edge_##kb##_0, edge_##kb##_1},
        static edge_function *const edge_blocks[KB + 1][2] = {EDGES_OF(1) EDGES_OF(2) EDGES_OF(3) EDGES_OF(4)
                                                                  EDGES_OF(5) EDGES_OF(6)};

typedef void block_function(const struct view *in, const float *w, int64_t w_k, int64_t w_c, const float *b, float *y,
                            int64_t y_k, bool relu);

#define BLOCK(kb, xb)                                                                                              \
  static void forward_##kb##_##xb(const struct view *in, const float *w, int64_t w_k, int64_t w_c, const float *b, \
                                  float *y, int64_t y_k, bool relu) {                                              \
    forward_block(in, w, w_k, w_c, b, y, y_k, relu, kb, xb);                                                       \
  }
#define BLOCKS_OF(kb) BLOCK(kb, 1) BLOCK(kb, 2) FOR_WIDE(BLOCK, kb)
// clang-format off
BLOCKS_OF(1) BLOCKS_OF(2) BLOCKS_OF(3) BLOCKS_OF(4) BLOCKS_OF(5) BLOCKS_OF(6)
// clang-format on

#define ENTRY(kb, xb) [kb][xb] = forward_##kb##_##xb,
#define ENTRIES_OF(kb) ENTRY(kb, 1) ENTRY(kb, 2) FOR_WIDE(ENTRY, kb)
    static block_function *const forward_blocks[KB + 1][XB + 1] = {ENTRIES_OF(1) ENTRIES_OF(2) ENTRIES_OF(3)
                                                                       ENTRIES_OF(4) ENTRIES_OF(5) ENTRIES_OF(6)};

// Size of the next of the fewest nearly equal blocks of at most `most` that cover `left`.
INLINE int next_block(int64_t left, int most) {
  int64_t blocks = (left + most - 1) / most;
  return (int)((left + blocks - 1) / blocks);
}

// One group: y [K][P][Q][16].
static void forward_group(struct view in, int64_t k, int64_t p, int64_t q, const float *w, int64_t w_k, int64_t w_c,
                          const float *b, float *y, bool relu) {
  const float *x = in.x;
  bool hangs_over = in.s == EDGE && in.pad_w == EDGE - 1 && !b && !relu;
  for (int64_t row = 0; row < p; row++) {
    int64_t top = row - in.pad_h;
    in.r0 = top < 0 ? -top : 0;
    in.r1 = top + in.r > in.height ? in.height - top : in.r;
    for (int64_t k0 = 0, kb; k0 < k; k0 += kb) {
      kb = next_block(k - k0, KB);
      for (int64_t col = 0, xb; col < q; col += xb) {
        xb = next_block(q - col, XB);
        for (int half = 0; half < HALVES; half++) {
          in.x = x + top * in.row + col * LS_B16_LANES + half * V_LANES;
          float *to = y + ((k0 * p + row) * q + col) * LS_B16_LANES + half * V_LANES;
          if (hangs_over && xb == XB && (col == 0 || col + XB == q))
            edge_blocks[kb][col == 0](&in, w + k0 * w_k, w_k, w_c, to, p * q * LS_B16_LANES);
          else
            forward_blocks[kb][xb](&in, w + k0 * w_k, w_k, w_c, b ? b + k0 : NULL, to, p * q * LS_B16_LANES, relu);
        }
      }
    }
  }
}

// padded [C][H][W+2a][16] from x [C][H][W][16] of one group.
static void pad_columns(const float *x, int64_t rows, int64_t w, int64_t pad, float *padded) {
  size_t side_bytes = (size_t)(pad * LS_B16_LANES) * sizeof *x, inner_bytes = (size_t)(w * LS_B16_LANES) * sizeof *x;
  for (int64_t i = 0; i < rows; i++) {
    memset(padded, 0, side_bytes);
    padded += pad * LS_B16_LANES;
    memcpy(padded, x, inner_bytes);
    padded += w * LS_B16_LANES;
    x += w * LS_B16_LANES;
    memset(padded, 0, side_bytes);
    padded += pad * LS_B16_LANES;
  }
}

// The view of group g of a tensor [G][C][H][W][16]; columns padded in `scratch` when there is padding.
static struct view group_view(const float *x, int64_t g, int64_t c, int64_t h, int64_t w, int64_t pad_h, int64_t pad_w,
                              int64_t r, int64_t s, float *scratch) {
  int64_t row = (w + 2 * pad_w) * LS_B16_LANES;
  struct view view = {.x = x + g * c * h * w * LS_B16_LANES,
                      .row = row,
                      .plane = h * row,
                      .channels = c,
                      .height = h,
                      .r = r,
                      .s = s,
                      .pad_h = pad_h,
                      .pad_w = pad_w};
  if (pad_w) {
    pad_columns(view.x, c * h, w, pad_w, scratch);
    view.x = scratch;
  }
  return view;
}

static void conv_forward(const struct ls_b16_conv *v, const float *x, const float *w, const float *b, float *y,
                         void *scratch) {
  for (int64_t g = 0; g < v->groups16; g++) {
    struct view in = group_view(x, g, v->c, v->h, v->w, v->pad_h, v->pad_w, v->r, v->s, scratch);
    forward_group(in, v->k, v->p, v->q, w, v->c * v->r * v->s, v->r * v->s, b,
                  y + g * v->k * v->p * v->q * LS_B16_LANES, v->relu);
  }
}

static void conv_backward_data(const struct ls_b16_conv *v, const float *dy, const float *w, float *dx, void *scratch) {
  float *turned = scratch;  // [C][K][R][S]
  int64_t taps = v->r * v->s;
  for (int64_t k = 0; k < v->k; k++) {
    for (int64_t c = 0; c < v->c; c++) {
      for (int64_t t = 0; t < taps; t++) turned[(c * v->k + k) * taps + t] = w[(k * v->c + c) * taps + taps - 1 - t];
    }
  }
  float *padded = turned + (v->c * v->k * taps + 15) / 16 * 16;
  for (int64_t g = 0; g < v->groups16; g++) {
    struct view in = group_view(dy, g, v->k, v->p, v->q, v->r - 1 - v->pad_h, v->s - 1 - v->pad_w, v->r, v->s, padded);
    forward_group(in, v->c, v->h, v->w, turned, v->k * taps, taps, NULL, dx + g * v->c * v->h * v->w * LS_B16_LANES,
                  false);
  }
}

// Adds to sums[k][t], in memory, what output rows [in->r0, in->r1) of one group give for dw[k0..k0+kb][c][r][0..s]:
// dy[k][y][x] * x[c][y + r][x + t].
INLINE void weights_block(const struct view *in, const float *dy, int64_t dy_k, int64_t q, V *sums, const int kb,
                          const int s) {
  V sum[KB][LS_B16_MAX_KERNEL];
  for (int k = 0; k < kb; k++) {
    for (int t = 0; t < s; t++) sum[k][t] = sums[k * s + t];
  }
  for (int64_t row = in->r0; row < in->r1; row++) {
    const float *x = in->x + row * in->row, *from = dy + row * q * LS_B16_LANES;
    for (int64_t col = 0; col < q; col++, x += LS_B16_LANES, from += LS_B16_LANES) {
      V value[KB];
      for (int k = 0; k < kb; k++) {
        value[k] = V_LOAD(from + k * dy_k);
        V_KEEP(value[k]);
      }
      for (int t = 0; t < s; t++) {
        V input = V_LOAD(x + t * LS_B16_LANES);
        V_KEEP(input);
        for (int k = 0; k < kb; k++) sum[k][t] = V_FMA(value[k], input, sum[k][t]);
      }
    }
  }
  for (int k = 0; k < kb; k++) {
    for (int t = 0; t < s; t++) sums[k * s + t] = sum[k][t];
  }
}

typedef void weights_function(const struct view *in, const float *dy, int64_t dy_k, int64_t q, V *sums);
#define TILE(kb, s)                                                                                          \
  static void weights_##kb##_##s(const struct view *in, const float *dy, int64_t dy_k, int64_t q, V *sums) { \
    weights_block(in, dy, dy_k, q, sums, kb, s);                                                             \
  }
#define TILES_OF(kb) TILE(kb, 1) TILE(kb, 2) TILE(kb, 3) TILE(kb, 4) TILE(kb, 5) TILE(kb, 6) TILE(kb, 7)
// clang-format off
TILES_OF(1) TILES_OF(2) TILES_OF(3) TILES_OF(4) TILES_OF(5) TILES_OF(6)
// clang-format on
#define TILE_ENTRY(kb, s) [kb][s] = weights_##kb##_##s,
#define TILE_ENTRIES_OF(kb) \
  TILE_ENTRY(kb, 1)         \
  TILE_ENTRY(kb, 2) TILE_ENTRY(kb, 3) TILE_ENTRY(kb, 4) TILE_ENTRY(kb, 5) TILE_ENTRY(kb, 6) TILE_ENTRY(kb, 7)
    static weights_function *const weights_blocks[KB + 1][LS_B16_MAX_KERNEL + 1] = {
        TILE_ENTRIES_OF(1) TILE_ENTRIES_OF(2) TILE_ENTRIES_OF(3) TILE_ENTRIES_OF(4) TILE_ENTRIES_OF(5)
            TILE_ENTRIES_OF(6)};

// One group, one input channel, kb output channels: `in` is that channel's plane. All kernel rows are done for a band of
// output rows before the next band, so that its dy (BAND_BYTES at most) is read from the first-level cache R times.
INLINE void weights_group(const struct ls_b16_conv *v, const struct view *in, const float *dy, V *sums, int kb) {
  enum { BAND_BYTES = 20480 };
  int64_t band = BAND_BYTES / (kb * v->q * LS_B16_LANES * (int64_t)sizeof(float));
  if (band < 1) band = 1;
  for (int64_t row = 0; row < v->p; row += band) {
    for (int64_t r = 0; r < v->r; r++) {
      struct view part = *in;
      int64_t last = v->h + v->pad_h - r < v->p ? v->h + v->pad_h - r : v->p;
      part.x += (r - v->pad_h) * in->row;
      part.r0 = r < v->pad_h ? v->pad_h - r : 0;  // output rows whose input row lies inside the image
      if (part.r0 < row) part.r0 = row;
      part.r1 = row + band < last ? row + band : last;
      for (int half = 0; half < HALVES && part.r0 < part.r1; half++) {
        struct view lanes = part;
        lanes.x += half * V_LANES;
        weights_blocks[kb][v->s](&lanes, dy + half * V_LANES, v->p * v->q * LS_B16_LANES, v->q, sums + r * kb * v->s);
      }
    }
  }
}

// db[k] = sum over groups, positions and images of dy.
static void bias_gradient(const struct ls_b16_conv *v, const float *dy, float *db) {
  int64_t plane = v->p * v->q * LS_B16_LANES;
  for (int64_t k = 0; k < v->k; k++) {
    V sum[2] = {V_ZERO(), V_ZERO()};
    for (int64_t g = 0; g < v->groups16; g++) {
      const float *from = dy + (g * v->k + k) * plane;
      for (int64_t i = 0; i < plane; i += LS_B16_LANES) {
        for (int half = 0; half < HALVES; half++) sum[half] = V_ADD(sum[half], V_LOAD(from + i + half * V_LANES));
      }
    }
    db[k] = V_SUM(V_ADD(sum[0], sum[1]));
  }
}

static void conv_backward_weights(const struct ls_b16_conv *v, const float *x, const float *dy, float *dw, float *db,
                                  void *scratch) {
  int64_t in_group = v->c * v->h * (v->w + 2 * v->pad_w) * LS_B16_LANES;
  struct view all = {0};
  for (int64_t g = v->groups16 - 1; g >= 0; g--) {  // ends with the view of group 0
    all = group_view(x, g, v->c, v->h, v->w, v->pad_h, v->pad_w, v->r, v->s, (float *)scratch + g * in_group);
  }
  int most = ACCUMULATORS / (int)v->s;
  if (most > KB) most = KB;
  V sums[LS_B16_MAX_KERNEL * KB * LS_B16_MAX_KERNEL];  // [R][kb][S]
  for (int64_t c = 0; c < v->c; c++) {
    for (int64_t k0 = 0, kb; k0 < v->k; k0 += kb) {
      kb = next_block(v->k - k0, most);
      for (int64_t i = 0; i < v->r * kb * v->s; i++) sums[i] = V_ZERO();
      for (int64_t g = 0; g < v->groups16; g++) {
        struct view in = all;
        in.x += g * in_group + c * all.plane;
        weights_group(v, &in, dy + (g * v->k + k0) * v->p * v->q * LS_B16_LANES, sums, (int)kb);
      }
      for (int64_t r = 0; r < v->r; r++) {
        for (int64_t k = 0; k < kb; k++) {
          float *to = dw + (((k0 + k) * v->c + c) * v->r + r) * v->s;
          for (int64_t t = 0; t < v->s; t++) to[t] = V_SUM(sums[(r * kb + k) * v->s + t]);
        }
      }
    }
  }
  if (db) bias_gradient(v, dy, db);
}

// Fully connected: like a convolution over one position, with up to XB groups of images where the columns were. Groups that
// lie G*C*16 apart take the place of neighbouring columns, so that a weight is used for more than one vector.
INLINE void fc_block(const float *x, int64_t x_group, int64_t n, const float *w, int64_t w_k, int64_t w_c,
                     const float *b, float *y, int64_t y_group, bool relu, const int kb, const int xb) {
  V sum[KB][XB];
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) sum[k][j] = b ? V_SET1(b[k]) : V_ZERO();
  }
  for (int64_t c = 0; c < n; c++) {
    V value[XB];
    for (int j = 0; j < xb; j++) value[j] = V_LOAD(x + j * x_group + c * LS_B16_LANES);
    for (int k = 0; k < kb; k++) {
      V weight = V_SET1(w[k * w_k + c * w_c]);
      for (int j = 0; j < xb; j++) sum[k][j] = V_FMA(value[j], weight, sum[k][j]);
    }
  }
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) {
      V_STORE(y + j * y_group + k * LS_B16_LANES, relu ? V_MAX(V_ZERO(), sum[k][j]) : sum[k][j]);
    }
  }
}

typedef void fc_function(const float *x, int64_t x_group, int64_t n, const float *w, int64_t w_k, int64_t w_c,
                         const float *b, float *y, int64_t y_group, bool relu);
#define FC(kb, xb)                                                                                                 \
  static void fc_##kb##_##xb(const float *x, int64_t x_group, int64_t n, const float *w, int64_t w_k, int64_t w_c, \
                             const float *b, float *y, int64_t y_group, bool relu) {                               \
    fc_block(x, x_group, n, w, w_k, w_c, b, y, y_group, relu, kb, xb);                                             \
  }
#define FCS_OF(kb) FC(kb, 1) FC(kb, 2) FOR_WIDE(FC, kb)
// clang-format off
FCS_OF(1) FCS_OF(2) FCS_OF(3) FCS_OF(4) FCS_OF(5) FCS_OF(6)
// clang-format on
#define FC_ENTRY(kb, xb) [kb][xb] = fc_##kb##_##xb,
#define FC_ENTRIES_OF(kb) FC_ENTRY(kb, 1) FC_ENTRY(kb, 2) FOR_WIDE(FC_ENTRY, kb)
    static fc_function *const fc_blocks[KB + 1][XB + 1] = {FC_ENTRIES_OF(1) FC_ENTRIES_OF(2) FC_ENTRIES_OF(3)
                                                               FC_ENTRIES_OF(4) FC_ENTRIES_OF(5) FC_ENTRIES_OF(6)};

// y [G][k][16] = w * x [G][n][16]; w_k, w_c say how w lies, so that the same code runs forward and backward.
static void fc_run(int64_t groups16, int64_t n, int64_t k, const float *x, const float *w, int64_t w_k, int64_t w_c,
                   const float *b, float *y, bool relu) {
  for (int half = 0; half < HALVES; half++) {
    for (int64_t g = 0, xb; g < groups16; g += xb) {
      xb = next_block(groups16 - g, XB);
      for (int64_t k0 = 0, kb; k0 < k; k0 += kb) {
        kb = next_block(k - k0, KB);
        fc_blocks[kb][xb](x + g * n * LS_B16_LANES + half * V_LANES, n * LS_B16_LANES, n, w + k0 * w_k, w_k, w_c,
                          b ? b + k0 : NULL, y + (g * k + k0) * LS_B16_LANES + half * V_LANES, k * LS_B16_LANES, relu);
      }
    }
  }
}

static void fc_forward(const struct ls_b16_conv *v, const float *x, const float *w, const float *b, float *y,
                       void *scratch) {
  (void)scratch;
  fc_run(v->groups16, v->c, v->k, x, w, v->c, 1, b, y, v->relu);
}

static void fc_backward_data(const struct ls_b16_conv *v, const float *dy, const float *w, float *dx, void *scratch) {
  (void)scratch;
  fc_run(v->groups16, v->k, v->c, dy, w, 1, v->c, NULL, dx, false);
}

// dw[k0..k0+kb][c0..c0+xb*V] = sum over images of dy[k] (broadcast) times x [image][c].
INLINE void fc_weights_block(const float *rows, int64_t row, int64_t groups16, const float *dy, int64_t dy_group,
                             float *dw, int64_t c, const int kb, const int xb) {
  V sum[KB][XB];
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) sum[k][j] = V_ZERO();
  }
  for (int64_t g = 0; g < groups16; g++) {
    for (int64_t i = 0; i < LS_B16_LANES; i++) {
      V value[XB];
      for (int j = 0; j < xb; j++) value[j] = V_LOAD(rows + (g * LS_B16_LANES + i) * row + j * V_LANES);
      for (int k = 0; k < kb; k++) {
        V gradient = V_SET1(dy[g * dy_group + k * LS_B16_LANES + i]);
        for (int j = 0; j < xb; j++) sum[k][j] = V_FMA(value[j], gradient, sum[k][j]);
      }
    }
  }
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) V_STORE(dw + k * c + j * V_LANES, sum[k][j]);
  }
}

typedef void fc_weights_function(const float *rows, int64_t row, int64_t groups16, const float *dy, int64_t dy_group,
                                 float *dw, int64_t c);
#define FCW(kb, xb)                                                                                                \
  static void fcw_##kb##_##xb(const float *rows, int64_t row, int64_t groups16, const float *dy, int64_t dy_group, \
                              float *dw, int64_t c) {                                                              \
    fc_weights_block(rows, row, groups16, dy, dy_group, dw, c, kb, xb);                                            \
  }
#define FCWS_OF(kb) FCW(kb, 1) FCW(kb, 2) FOR_WIDE(FCW, kb)
// clang-format off
FCWS_OF(1) FCWS_OF(2) FCWS_OF(3) FCWS_OF(4) FCWS_OF(5) FCWS_OF(6)
// clang-format on
#define FCW_ENTRY(kb, xb) [kb][xb] = fcw_##kb##_##xb,
#define FCW_ENTRIES_OF(kb) FCW_ENTRY(kb, 1) FCW_ENTRY(kb, 2) FOR_WIDE(FCW_ENTRY, kb)
    static fc_weights_function *const fc_weights_blocks[KB + 1][XB + 1] = {
        FCW_ENTRIES_OF(1) FCW_ENTRIES_OF(2) FCW_ENTRIES_OF(3) FCW_ENTRIES_OF(4) FCW_ENTRIES_OF(5) FCW_ENTRIES_OF(6)};

static void fc_backward_weights(const struct ls_b16_conv *v, const float *x, const float *dy, float *dw, float *db,
                                void *scratch) {
  float *rows = scratch;  // [N][C]: lanes are channels here, because the sum runs over images
  ls_b16_to_plain(v->groups16, v->c, 1, false, x, rows);
  int64_t whole = v->c / V_LANES * V_LANES;
  for (int64_t k0 = 0, kb; k0 < v->k; k0 += kb) {
    kb = next_block(v->k - k0, KB);
    const float *dy_k = dy + k0 * LS_B16_LANES;
    for (int64_t c0 = 0, xb; c0 < whole; c0 += xb * V_LANES) {
      xb = next_block((whole - c0) / V_LANES, XB);
      fc_weights_blocks[kb][xb](rows + c0, v->c, v->groups16, dy_k, v->k * LS_B16_LANES, dw + k0 * v->c + c0, v->c);
    }
    for (int64_t c = whole; c < v->c; c++) {  // fewer channels than a vector are left
      for (int64_t k = 0; k < kb; k++) {
        float sum = 0;
        for (int64_t g = 0; g < v->groups16; g++) {
          for (int64_t i = 0; i < LS_B16_LANES; i++) {
            sum += dy_k[(g * v->k + k) * LS_B16_LANES + i] * rows[(g * LS_B16_LANES + i) * v->c + c];
          }
        }
        dw[(k0 + k) * v->c + c] = sum;
      }
    }
  }
  if (db) bias_gradient(v, dy, db);
}

// --- sums of outer products, for gradients left as factors --------------------------------------------------------------

INLINE void outer_block(int64_t n, const float *dy, int64_t dy_stride, const float *x, int64_t x_stride, float *out,
                        int64_t out_stride, const int kb, const int xb) {
  V sum[KB][XB];
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) sum[k][j] = V_ZERO();
  }
  for (int64_t i = 0; i < n; i++) {
    V value[XB];
    for (int j = 0; j < xb; j++) value[j] = V_LOAD(x + i * x_stride + j * V_LANES);
    for (int k = 0; k < kb; k++) {
      V gradient = V_SET1(dy[i * dy_stride + k]);
      for (int j = 0; j < xb; j++) sum[k][j] = V_FMA(value[j], gradient, sum[k][j]);
    }
  }
  for (int k = 0; k < kb; k++) {
    for (int j = 0; j < xb; j++) V_STORE(out + k * out_stride + j * V_LANES, sum[k][j]);
  }
}

typedef void outer_function(int64_t n, const float *dy, int64_t dy_stride, const float *x, int64_t x_stride, float *out,
                            int64_t out_stride);
#define OUTER(kb, xb)                                                                                            \
  static void outer_##kb##_##xb(int64_t n, const float *dy, int64_t dy_stride, const float *x, int64_t x_stride, \
                                float *out, int64_t out_stride) {                                                \
    outer_block(n, dy, dy_stride, x, x_stride, out, out_stride, kb, xb);                                         \
  }
#define OUTERS_OF(kb) OUTER(kb, 1) OUTER(kb, 2) FOR_WIDE(OUTER, kb)
// clang-format off
OUTERS_OF(1) OUTERS_OF(2) OUTERS_OF(3) OUTERS_OF(4) OUTERS_OF(5) OUTERS_OF(6)
// clang-format on
#define OUTER_ENTRY(kb, xb) [kb][xb] = outer_##kb##_##xb,
#define OUTER_ENTRIES_OF(kb) OUTER_ENTRY(kb, 1) OUTER_ENTRY(kb, 2) FOR_WIDE(OUTER_ENTRY, kb)
    static outer_function *const outer_blocks[KB + 1][XB + 1] = {OUTER_ENTRIES_OF(1) OUTER_ENTRIES_OF(2)
                                                                     OUTER_ENTRIES_OF(3) OUTER_ENTRIES_OF(4)
                                                                         OUTER_ENTRIES_OF(5) OUTER_ENTRIES_OF(6)};

static void outer_sum(int64_t n, int64_t rows, int64_t columns, const float *dy, int64_t dy_stride, const float *x,
                      int64_t x_stride, float *out) {
  int64_t whole = columns / V_LANES * V_LANES;
  for (int64_t k0 = 0, kb; k0 < rows; k0 += kb) {
    kb = next_block(rows - k0, KB);
    for (int64_t c0 = 0, xb; c0 < whole; c0 += xb * V_LANES) {
      xb = next_block((whole - c0) / V_LANES, XB);
      outer_blocks[kb][xb](n, dy + k0, dy_stride, x + c0, x_stride, out + k0 * columns + c0, columns);
    }
  }
  for (int64_t k = 0; k < rows && whole < columns; k++) {  // fewer columns than a vector are left
    for (int64_t c = whole; c < columns; c++) {
      float sum = 0;
      for (int64_t i = 0; i < n; i++) sum += dy[i * dy_stride + k] * x[i * x_stride + c];
      out[k * columns + c] = sum;
    }
  }
}

// --- pooling: planes are independent, one window at a time, all lanes at once -------------------------------------------

// The part of a window that lies inside the image.
struct window {
  int64_t top, left;   // of the whole window, may lie outside
  int r0, r1, c0, c1;  // its rows and columns that are inside
  float scale;         // average: 1 / divisor
};

INLINE int64_t clip(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// First the rows of a row of windows, then the columns of one of them.
INLINE void window_rows(const struct ls_b16_pool *v, int64_t p, struct window *at) {
  at->top = p * v->stride_h - v->pad_h;
  at->r0 = (int)(clip(at->top, 0, v->h) - at->top);
  at->r1 = (int)(clip(at->top + v->r, 0, v->h) - at->top);
}

INLINE void window_columns(const struct ls_b16_pool *v, int64_t q, struct window *at) {
  at->left = q * v->stride_w - v->pad_w;
  at->c0 = (int)(clip(at->left, 0, v->w) - at->left);
  at->c1 = (int)(clip(at->left + v->s, 0, v->w) - at->left);
  if (v->max) return;
  int64_t counted = (at->r1 - at->r0) * (at->c1 - at->c0);
  if (v->count_pad) {
    counted = (clip(at->top + v->r, 0, v->h + v->pad_end_h) - at->top) *
              (clip(at->left + v->s, 0, v->w + v->pad_end_w) - at->left);
  }
  at->scale = counted > 0 ? 1.0f / (float)counted : 0.0f;
}

// x: the first value inside the window; s: columns of the whole window. The first of equal values wins, and the first NaN
// over all: it must reach the loss, where it is noticed.
INLINE void max_window(const float *x, int64_t row, const int r0, const int r1, const int c0, const int c1, const int s,
                       float *y, uint8_t *where) {
  V best = V_LOAD(x);
  VM number = V_IS_NUMBER(best);  // what is found so far
  VI place = VI_SET1(r0 * s + c0);
  for (int r = r0; r < r1; r++) {
    for (int c = c0 + (r == r0); c < c1; c++) {
      V from = V_LOAD(x + (r - r0) * row + (c - c0) * LS_B16_LANES);
      VM wins = VM_AND(number, V_GREATER_OR_NAN(from, best));
      place = VI_SELECT(wins, VI_SET1(r * s + c), place);
      best = V_SELECT(wins, from, best);
      number = VM_AND(number, V_IS_NUMBER(from));
    }
  }
  V_STORE(y, best);
  if (where) VI_STORE8(where, place);
}

INLINE void average_window(const float *x, int64_t row, int rows, int columns, float scale, float *y) {
  V sum = V_ZERO();
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < columns; c++) sum = V_ADD(sum, V_LOAD(x + r * row + c * LS_B16_LANES));
  }
  V_STORE(y, V_MUL(sum, V_SET1(scale)));
}

// The two common windows with constant bounds, whole inside the image; everything else as it comes.
INLINE void forward_window(const struct ls_b16_pool *v, const struct window *at, const float *x, float *y,
                           uint8_t *where) {
  int64_t row = v->w * LS_B16_LANES;
  bool whole = at->r0 == 0 && at->c0 == 0 && at->r1 == v->r && at->c1 == v->s;
  x += (at->top + at->r0) * row + (at->left + at->c0) * LS_B16_LANES;
  if (!v->max)
    average_window(x, row, at->r1 - at->r0, at->c1 - at->c0, at->scale, y);
  else if (whole && v->r == 2 && v->s == 2)
    max_window(x, row, 0, 2, 0, 2, 2, y, where);
  else if (whole && v->r == 3 && v->s == 3)
    max_window(x, row, 0, 3, 0, 3, 3, y, where);
  else
    max_window(x, row, at->r0, at->r1, at->c0, at->c1, (int)v->s, y, where);
}

static void pool_forward(const struct ls_b16_pool *v, const float *x, float *y, uint8_t *where) {
  for (int64_t plane = 0; plane < v->planes; plane++, x += v->h * v->w * LS_B16_LANES) {
    for (int64_t p = 0; p < v->p; p++) {
      struct window at = {.scale = 0};
      window_rows(v, p, &at);
      for (int64_t q = 0; q < v->q; q++, y += LS_B16_LANES) {
        window_columns(v, q, &at);
        for (int half = 0; half < LS_B16_LANES; half += V_LANES)
          forward_window(v, &at, x + half, y + half, where ? where + half : NULL);
        if (where) where += LS_B16_LANES;
      }
    }
  }
}

// dx: the first value inside the window. `add`: windows overlap, so dx is added to; else it is written.
INLINE void max_window_back(float *dx, int64_t row, const int r0, const int r1, const int c0, const int c1, const int s,
                            const float *dy, const uint8_t *where, const bool add) {
  V value = V_LOAD(dy);
  VI place = VI_LOAD8(where);
  for (int r = r0; r < r1; r++) {
    for (int c = c0; c < c1; c++) {
      float *to = dx + (r - r0) * row + (c - c0) * LS_B16_LANES;
      V part = V_SELECT(VI_EQUAL(place, VI_SET1(r * s + c)), value, V_ZERO());
      V_STORE(to, add ? V_ADD(V_LOAD(to), part) : part);
    }
  }
}

INLINE void backward_window(const struct ls_b16_pool *v, const struct window *at, const float *dy, const uint8_t *where,
                            float *dx, bool add) {
  int64_t row = v->w * LS_B16_LANES;
  bool whole = at->r0 == 0 && at->c0 == 0 && at->r1 == v->r && at->c1 == v->s;
  dx += (at->top + at->r0) * row + (at->left + at->c0) * LS_B16_LANES;
  if (!v->max) {
    for (int r = 0; r < at->r1 - at->r0; r++) {
      for (int c = 0; c < at->c1 - at->c0; c++) {
        float *to = dx + r * row + c * LS_B16_LANES;
        V_STORE(to, V_FMA(V_LOAD(dy), V_SET1(at->scale), V_LOAD(to)));
      }
    }
  } else if (whole && !add && v->r == 2 && v->s == 2) {
    max_window_back(dx, row, 0, 2, 0, 2, 2, dy, where, false);
  } else if (whole && v->r == 3 && v->s == 3) {
    max_window_back(dx, row, 0, 3, 0, 3, 3, dy, where, add);
  } else {
    max_window_back(dx, row, at->r0, at->r1, at->c0, at->c1, (int)v->s, dy, where, add);
  }
}

static void pool_backward(const struct ls_b16_pool *v, const float *dy, const uint8_t *where, float *dx) {
  int64_t plane_size = v->h * v->w * LS_B16_LANES;
  bool overlap = v->stride_h < v->r || v->stride_w < v->s;
  bool tiles = !overlap && v->stride_h == v->r && v->stride_w == v->s && v->p * v->r == v->h && v->q * v->s == v->w;
  bool add = overlap || !v->max;
  for (int64_t plane = 0; plane < v->planes; plane++, dx += plane_size) {
    if (add || !tiles) memset(dx, 0, (size_t)plane_size * sizeof *dx);
    for (int64_t p = 0; p < v->p; p++) {
      struct window at = {.scale = 0};
      window_rows(v, p, &at);
      for (int64_t q = 0; q < v->q; q++, dy += LS_B16_LANES) {
        window_columns(v, q, &at);
        for (int half = 0; half < LS_B16_LANES; half += V_LANES)
          backward_window(v, &at, dy + half, where ? where + half : NULL, dx + half, add);
        if (v->max) where += LS_B16_LANES;
      }
    }
  }
}

const struct ls_b16_kernels KERNELS = {
    .name = KERNELS_NAME,
    .conv_forward = conv_forward,
    .conv_backward_data = conv_backward_data,
    .conv_backward_weights = conv_backward_weights,
    .fc_forward = fc_forward,
    .fc_backward_data = fc_backward_data,
    .fc_backward_weights = fc_backward_weights,
    .outer_sum = outer_sum,
    .pool_forward = pool_forward,
    .pool_backward = pool_backward,
};
