// Own loops of the CPU backend: what is elementwise, small, or unknown to oneDNN.
//
// Elementwise operations run over the whole memory of a tensor, padding included (zero stays zero). Loops are compiled for
// several instruction sets; none of them contracts or reorders sums, so all give the same bits.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_internal.h"
#include "base/fast_loop.h"
#include "base/philox.h"

struct loop_op {
  struct cpu_op base;
  int64_t floats;  // of the whole tensor with padding
};

static void release_op(struct cpu_op *state) { free(state); }

LS_FAST_LOOP static void add_two(const float *a, const float *b, float *y, int64_t n, bool relu) {
  for (int64_t i = 0; i < n; i++) {
    float sum = a[i] + b[i];
    y[i] = relu && sum < 0 ? 0 : sum;
  }
}

LS_FAST_LOOP static void relu_forward(const float *x, float *y, int64_t n, float slope) {
  for (int64_t i = 0; i < n; i++) y[i] = x[i] < 0 ? slope * x[i] : x[i];  // NaN passes
}

LS_FAST_LOOP static void relu_backward(const float *y, const float *dy, float *dx, int64_t n, float slope) {
  for (int64_t i = 0; i < n; i++) dx[i] = y[i] > 0 ? dy[i] : slope * dy[i];
}

LS_FAST_LOOP static void relu_backward_two(const float *y, const float *a, const float *b, float *dx, int64_t n,
                                           float slope) {
  for (int64_t i = 0; i < n; i++) {
    float sum = a[i] + b[i];
    dx[i] = y[i] > 0 ? sum : slope * sum;
  }
}

static ls_status run_add(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                         struct ls_error *err) {
  (void)context;
  (void)err;
  int64_t n = ((struct loop_op *)op->state)->floats;
  int inputs = op->desc.inputs;
  float *y = args->tensor[inputs];
  for (int i = 1; i < inputs; i++) {
    add_two(i == 1 ? args->tensor[0] : y, args->tensor[i], y, n, op->desc.attributes.relu && i == inputs - 1);
  }
  return LS_OK;
}

// dy0 + dy1 + ... in order, the last sum in one pass with the mask.
static void run_relu_backward(const struct ls_op *op, const struct ls_op_args *args, int64_t n, float slope) {
  int last = op->desc.inputs - 1;
  const float *y = args->tensor[0], *sum = args->tensor[1];
  float *dx = args->tensor[op->desc.inputs];
  if (last == 1) {
    relu_backward(y, sum, dx, n, slope);
    return;
  }
  for (int i = 2; i < last; i++, sum = dx) add_two(sum, args->tensor[i], dx, n, false);
  relu_backward_two(y, sum, args->tensor[last], dx, n, slope);
}

static ls_status run_relu(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                          struct ls_error *err) {
  (void)context;
  (void)err;
  int64_t n = ((struct loop_op *)op->state)->floats;
  float slope = op->desc.attributes.slope;
  if (op->desc.kind == LS_OP_RELU_FORWARD)
    relu_forward(args->tensor[0], args->tensor[1], n, slope);
  else
    run_relu_backward(op, args, n, slope);
  return LS_OK;
}

// Offset of element (n, c, h, w) in a blocked layout.
static int64_t offset_of(const dnnl_memory_desc_t *md, const int64_t *index) {
  const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
  int64_t at = md->offset0, inner = 1, rest[DNNL_MAX_NDIMS];
  for (int i = 0; i < md->ndims; i++) rest[i] = index[i];
  for (int i = b->inner_nblks - 1; i >= 0; i--) {
    int axis = (int)b->inner_idxs[i];
    at += rest[axis] % b->inner_blks[i] * inner;
    rest[axis] /= b->inner_blks[i];
    inner *= b->inner_blks[i];
  }
  for (int i = 0; i < md->ndims; i++) at += rest[i] * b->strides[i];
  return at;
}

// Element e (row-major over [C,H,W] or [C]) of image n of the global batch is kept when its word of
// Philox(seed, dropout, step, layer << 32 | image, e / 4) is at least rate * 2^32: a function of the sample's place in the
// batch, not of the layout, the shard or the worker.
static ls_status run_dropout(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                             struct ls_error *err) {
  (void)context;
  (void)err;
  const struct ls_tensor_desc *t = &op->desc.tensor[0];
  const struct ls_step_parameters *step = args->tensor[1];
  const float *x = args->tensor[0];
  float *y = args->tensor[2], rate = op->desc.attributes.rate, scale = 1 / (1 - rate);
  uint32_t threshold = (uint32_t)((double)rate * 4294967296.0);
  int64_t image = ls_shape_elements(&t->shape) / t->shape.dim[0];
  int64_t hw = t->shape.rank == 4 ? t->shape.dim[2] * t->shape.dim[3] : 1,
          width = t->shape.rank == 4 ? t->shape.dim[3] : 1;
  int64_t floats = ((struct loop_op *)op->state)->floats;
  if (y != x && floats > ls_shape_elements(&t->shape)) memset(y, 0, (size_t)floats * sizeof *y);  // the padding
  for (int64_t n = 0; n < t->shape.dim[0]; n++) {
    uint64_t where = (uint64_t)op->desc.attributes.layer << 32 | (step->first_image + (uint64_t)n);
    struct ls_philox4 r = {{0}};
    for (int64_t e = 0; e < image; e++) {
      if (e % 4 == 0) r = ls_random(step->seed, LS_RANDOM_DROPOUT, step->step, where, (uint32_t)(e / 4));
      int64_t index[4] = {n, e / hw, e % hw / width, e % width};
      int64_t at = offset_of(&t->layout->md, index);
      y[at] = r.v[e % 4] >= threshold ? x[at] * scale : 0;
    }
  }
  return LS_OK;
}

// Option A shortcut between two layouts blocked alike by `block` channels: whole vectors move. The blocks of channels that
// only the small side has are zero (forward) or dropped (backward).
struct shortcut {
  int64_t images, blocks_large, blocks_small, block;
  int64_t large_h, large_w, small_h, small_w, stride_h, stride_w;
};

LS_FAST_LOOP static void shortcut_forward(const struct shortcut *v, const float *large, float *small) {
  int64_t plane = v->small_h * v->small_w * v->block;
  for (int64_t n = 0; n < v->images; n++, small += v->blocks_small * plane) {
    for (int64_t b = 0; b < v->blocks_large; b++) {
      const float *from = large + (n * v->blocks_large + b) * v->large_h * v->large_w * v->block;
      float *to = small + b * plane;
      for (int64_t p = 0; p < v->small_h; p++) {
        for (int64_t q = 0; q < v->small_w; q++, to += v->block) {
          const float *at = from + (p * v->stride_h * v->large_w + q * v->stride_w) * v->block;
          for (int64_t l = 0; l < v->block; l++) to[l] = at[l];
        }
      }
    }
    memset(small + v->blocks_large * plane, 0, (size_t)((v->blocks_small - v->blocks_large) * plane) * sizeof *small);
  }
}

LS_FAST_LOOP static void shortcut_backward(const struct shortcut *v, const float *small, float *large) {
  int64_t plane = v->large_h * v->large_w * v->block, from_plane = v->small_h * v->small_w * v->block;
  for (int64_t n = 0; n < v->images; n++, small += v->blocks_small * from_plane) {
    for (int64_t b = 0; b < v->blocks_large; b++, large += plane) {
      const float *from = small + b * from_plane;
      memset(large, 0, (size_t)plane * sizeof *large);
      for (int64_t p = 0; p < v->small_h; p++) {
        for (int64_t q = 0; q < v->small_w; q++, from += v->block) {
          float *to = large + (p * v->stride_h * v->large_w + q * v->stride_w) * v->block;
          for (int64_t l = 0; l < v->block; l++) to[l] = from[l];
        }
      }
    }
  }
}

// The same between any two layouts, value by value.
static void shortcut_any(const struct ls_op *op, const float *from, float *to) {
  bool forward = op->desc.kind == LS_OP_SHORTCUT_FORWARD;
  const struct ls_tensor_desc *in = &op->desc.tensor[0], *out = &op->desc.tensor[1];
  const struct ls_tensor_desc *large = forward ? in : out, *small = forward ? out : in;
  memset(to, 0, (size_t)((struct loop_op *)op->state)->floats * sizeof *to);
  for (int64_t n = 0; n < large->shape.dim[0]; n++) {
    for (int64_t c = 0; c < large->shape.dim[1]; c++) {
      for (int64_t p = 0; p < small->shape.dim[2]; p++) {
        int64_t a[4] = {n, c, p * op->desc.attributes.stride[0], 0}, b[4] = {n, c, p, 0};
        int64_t large_at = offset_of(&large->layout->md, a), small_at = offset_of(&small->layout->md, b);
        int64_t large_step = large->layout->md.format_desc.blocking.strides[3] * op->desc.attributes.stride[1];
        int64_t small_step = small->layout->md.format_desc.blocking.strides[3];
        for (int64_t q = 0; q < small->shape.dim[3]; q++) {
          if (forward)
            to[small_at + q * small_step] = from[large_at + q * large_step];
          else
            to[large_at + q * large_step] = from[small_at + q * small_step];
        }
      }
    }
  }
}

// Blocked by channels, and whole blocks of them?
static int64_t channel_block(const struct ls_tensor_desc *t) {
  const dnnl_blocking_desc_t *b = &t->layout->md.format_desc.blocking;
  bool blocked = b->inner_nblks == 1 && b->inner_idxs[0] == 1 && t->shape.dim[1] % b->inner_blks[0] == 0;
  return blocked ? b->inner_blks[0] : 0;
}

static ls_status run_shortcut(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                              struct ls_error *err) {
  (void)context;
  (void)err;
  bool forward = op->desc.kind == LS_OP_SHORTCUT_FORWARD;
  const struct ls_tensor_desc *large = &op->desc.tensor[forward ? 0 : 1], *small = &op->desc.tensor[forward ? 1 : 0];
  int64_t block = channel_block(large);
  if (block == 0 || channel_block(small) != block) {
    shortcut_any(op, args->tensor[0], args->tensor[1]);
    return LS_OK;
  }
  struct shortcut v = {
      large->shape.dim[0],           large->shape.dim[1] / block,  small->shape.dim[1] / block, block,
      large->shape.dim[2],           large->shape.dim[3],          small->shape.dim[2],         small->shape.dim[3],
      op->desc.attributes.stride[0], op->desc.attributes.stride[1]};
  if (forward)
    shortcut_forward(&v, args->tensor[0], args->tensor[1]);
  else
    shortcut_backward(&v, args->tensor[0], args->tensor[1]);
  return LS_OK;
}

// softmax of one row; returns log(sum exp(x - max)) + max.
static float softmax_row(const float *x, float *p, int64_t k) {
  float largest = x[0], sum = 0;
  for (int64_t i = 1; i < k; i++) largest = x[i] > largest || isnan(x[i]) ? x[i] : largest;
  for (int64_t i = 0; i < k; i++) sum += p[i] = expf(x[i] - largest);
  for (int64_t i = 0; i < k; i++) p[i] /= sum;
  return logf(sum) + largest;
}

// How many classes come before `label`: larger values, and equal ones with a smaller number. A NaN comes behind all.
static int64_t rank_of(const float *x, int64_t k, int32_t label) {
  int64_t rank = isnan(x[label]) ? INT32_MAX : 0;
  for (int64_t i = 0; i < k; i++) rank += x[i] > x[label] || (x[i] == x[label] && i < label);
  return rank;
}

static ls_status run_softmax(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                             struct ls_error *err) {
  (void)context;
  int64_t n = op->desc.tensor[0].shape.dim[0], k = op->desc.tensor[0].shape.dim[1];
  const float *x = args->tensor[0];
  const int32_t *labels = args->tensor[1];
  float *p = args->tensor[2], *metrics = args->tensor[3];
  double sum[LS_METRICS] = {0};
  for (int64_t i = 0; i < n; i++) {
    float normaliser = softmax_row(x + i * k, p + i * k, k);
    if (labels[i] == -1) continue;
    if (labels[i] < 0 || labels[i] >= k) {
      return ls_fail(err, LS_INVALID, "image %lld has label %d, the network has classes 0 to %lld", (long long)i,
                     labels[i], (long long)k - 1);
    }
    int64_t rank = rank_of(x + i * k, k, labels[i]);
    sum[LS_METRIC_LOSS] += normaliser - x[i * k + labels[i]];
    sum[LS_METRIC_TOP1] += rank < 1;
    sum[LS_METRIC_TOP5] += rank < 5;
    sum[LS_METRIC_IMAGES] += 1;
  }
  for (int i = 0; i < LS_METRICS; i++) metrics[i] = (float)sum[i];
  return LS_OK;
}

static ls_status run_softmax_backward(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                                      struct ls_error *err) {
  (void)context;
  (void)err;
  int64_t n = op->desc.tensor[0].shape.dim[0], k = op->desc.tensor[0].shape.dim[1];
  const float *p = args->tensor[0];
  const int32_t *labels = args->tensor[1];
  float *dx = args->tensor[2], scale = op->desc.attributes.scale;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < k; c++) {
      dx[i * k + c] = labels[i] < 0 ? 0 : (p[i * k + c] - (c == labels[i] ? 1.0f : 0.0f)) * scale;
    }
  }
  return LS_OK;
}

static const struct ls_layout *plain(struct cpu_context *context, const struct ls_tensor_desc *t) {
  dnnl_memory_desc_t md = cpu_plain_md(t->dtype, &t->shape, false);
  return cpu_layout(context, &md);
}

// All of these tensors lie as the first of them.
static void all_like(struct ls_op *op, const int *tensors, int count, const struct ls_layout *layout) {
  for (int i = 0; i < count; i++) op->desc.tensor[tensors[i]].layout = layout;
}

static void set_layouts(struct cpu_context *context, struct ls_op *op) {
  struct ls_tensor_desc *t = op->desc.tensor;
  const struct ls_layout *first = t[0].layout ? t[0].layout : plain(context, &t[0]);
  static const int order[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  switch (op->desc.kind) {
    case LS_OP_ADD:
    case LS_OP_RELU_FORWARD:
    case LS_OP_RELU_BACKWARD: all_like(op, order, op->desc.inputs + op->desc.outputs, first); break;
    case LS_OP_DROPOUT_FORWARD:
    case LS_OP_DROPOUT_BACKWARD: all_like(op, (int[]){0, 2}, 2, first); break;
    case LS_OP_SHORTCUT_FORWARD:
    case LS_OP_SHORTCUT_BACKWARD: {
      // Blocked by channels where the input is and both sides fill whole blocks, else row-major.
      const dnnl_blocking_desc_t *b = &first->md.format_desc.blocking;
      bool blocked = b->inner_nblks == 1 && b->inner_idxs[0] == 1 && t[1].shape.dim[1] % b->inner_blks[0] == 0;
      t[0].layout = blocked ? first : plain(context, &t[0]);
      t[1].layout = plain(context, &t[1]);
      if (blocked) {
        dnnl_memory_desc_t md = t[1].layout->md;
        dnnl_dims_t dims = {0};
        memcpy(dims, t[1].shape.dim, sizeof t[1].shape.dim);
        dnnl_memory_desc_init_by_tag(&md, 4, dims, dnnl_f32, b->inner_blks[0] == 16 ? dnnl_nChw16c : dnnl_nChw8c);
        t[1].layout = cpu_layout(context, &md);
      }
      break;
    }
    default:
      for (int i = 0; i < op->desc.inputs + op->desc.outputs; i++) t[i].layout = plain(context, &t[i]);
  }
}

ls_status cpu_loops_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  struct loop_op base = {{NULL, release_op}, 0};
  switch (op->desc.kind) {
    case LS_OP_ADD: base.base.run = run_add; break;
    case LS_OP_RELU_FORWARD:
    case LS_OP_RELU_BACKWARD: base.base.run = run_relu; break;
    case LS_OP_DROPOUT_FORWARD:
    case LS_OP_DROPOUT_BACKWARD: base.base.run = run_dropout; break;
    case LS_OP_SHORTCUT_FORWARD:
    case LS_OP_SHORTCUT_BACKWARD: base.base.run = run_shortcut; break;
    case LS_OP_SOFTMAX_CE_FORWARD: base.base.run = run_softmax; break;
    case LS_OP_SOFTMAX_CE_BACKWARD: base.base.run = run_softmax_backward; break;
    default: return LS_UNSUPPORTED;
  }
  set_layouts(context, op);
  for (int i = 0; i < op->desc.inputs + op->desc.outputs; i++) {
    if (!op->desc.tensor[i].layout) return ls_fail(err, LS_NO_MEMORY, "no memory for a layout");
  }
  struct loop_op *state = malloc(sizeof *state);
  if (!state) return ls_fail(err, LS_NO_MEMORY, "no memory for an operation");
  base.floats = (int64_t)(dnnl_memory_desc_get_size(&op->desc.tensor[op->desc.inputs].layout->md) / sizeof(float));
  *state = base;
  op->state = state;
  op->kernel = "loop";
  op->in_place = op->desc.kind != LS_OP_SHORTCUT_FORWARD && op->desc.kind != LS_OP_SHORTCUT_BACKWARD &&
                 op->desc.kind != LS_OP_SOFTMAX_CE_FORWARD;
  return LS_OK;
}
