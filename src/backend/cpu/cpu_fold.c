// Batch norm folded into the convolution before it: w' = w * s and b' = beta + (b - mean) * s with s = gamma / sqrt(variance
// + epsilon) for each output channel. Runs once before an evaluation, not in the step.
//
// The weights lie in whatever blocked layout the convolution's kernel wants; input and output alike. They are walked block
// by block: the factors of one block depend on its output channels alone, so they are laid out once for a row of blocks.
#include <math.h>
#include <stdlib.h>

#include "backend/cpu/cpu_internal.h"

struct fold_op {
  struct cpu_op base;
  int64_t channels;
  int64_t groups, group_channels;                          // channels = groups * group_channels
  int64_t inner;                                           // values in one block
  int64_t block[DNNL_MAX_NDIMS];                           // how many indices of each axis a block holds
  int64_t outer[DNNL_MAX_NDIMS], strides[DNNL_MAX_NDIMS];  // blocks along each axis, and values from one to the next
};

static void release_op(struct cpu_op *state) { free(state); }

// Factors of the values of the block that begins at group `group` and channel `channel` of it; 0 in the padding.
static void block_factors(const struct fold_op *f, const dnnl_blocking_desc_t *b, int axes, int64_t group,
                          int64_t channel, const float *scale, float *factors) {
  for (int64_t j = 0; j < f->inner; j++) {
    int64_t index[DNNL_MAX_NDIMS] = {0}, step[DNNL_MAX_NDIMS], rest = j;
    for (int a = 0; a < axes; a++) step[a] = 1;
    for (int i = b->inner_nblks - 1; i >= 0; i--) {
      int axis = (int)b->inner_idxs[i];
      index[axis] += rest % b->inner_blks[i] * step[axis];
      step[axis] *= b->inner_blks[i];
      rest /= b->inner_blks[i];
    }
    int64_t g = group + (axes == 5 ? index[0] : 0), c = channel + index[axes == 5];
    factors[j] = g < f->groups && c < f->group_channels ? scale[g * f->group_channels + c] : 0;
  }
}

static void scale_blocks(const struct fold_op *f, int axes, int64_t at, const float *factors, const float *w,
                         float *to) {
  int first = axes == 5 ? 2 : 1;  // the axes behind the output channel: input channel, row, column
  for (int64_t i = 0; i < f->outer[first]; i++) {
    for (int64_t r = 0; r < f->outer[first + 1]; r++) {
      for (int64_t s = 0; s < f->outer[first + 2]; s++) {
        int64_t block = at + i * f->strides[first] + r * f->strides[first + 1] + s * f->strides[first + 2];
        for (int64_t j = 0; j < f->inner; j++) to[block + j] = w[block + j] * factors[j];
      }
    }
  }
}

static ls_status run_fold(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args,
                          struct ls_error *err) {
  (void)context;
  (void)err;
  const struct fold_op *f = op->state;
  const dnnl_memory_desc_t *md = &op->desc.tensor[0].layout->md;
  bool bias = op->desc.attributes.has_bias, grouped = md->ndims == 5;
  void *const *t = args->tensor + bias;
  const float *w = args->tensor[0], *b = bias ? args->tensor[1] : NULL;
  const float *gamma = t[1], *beta = t[2], *mean = t[3], *variance = t[4];
  float *to = t[5], *to_bias = t[6], *scale = args->scratch, *factors = scale + f->channels;
  for (int64_t c = 0; c < f->channels; c++) {
    scale[c] = gamma[c] / sqrtf(variance[c] + op->desc.attributes.epsilon);
    to_bias[c] = beta[c] + ((b ? b[c] : 0) - mean[c]) * scale[c];
  }
  for (int64_t g = 0; g < (grouped ? f->outer[0] : 1); g++) {
    for (int64_t c = 0; c < f->outer[grouped]; c++) {
      block_factors(f, &md->format_desc.blocking, md->ndims, grouped ? g * f->block[0] : 0, c * f->block[grouped],
                    scale, factors);
      int64_t at = c * f->strides[grouped] + (grouped ? g * f->strides[0] : 0);
      scale_blocks(f, md->ndims, at, factors, w, to);
    }
  }
  return LS_OK;
}

ls_status cpu_fold_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err) {
  struct ls_tensor_desc *t = op->desc.tensor;
  int inputs = op->desc.inputs;
  if (!t[inputs].layout || t[inputs].layout->md.format_kind != dnnl_blocked)
    return ls_fail(err, LS_UNSUPPORTED, "a batch norm can only be folded into weights of a known, blocked layout");
  struct fold_op *f = calloc(1, sizeof *f);
  if (!f) return ls_fail(err, LS_NO_MEMORY, "no memory for an operation");
  f->base = (struct cpu_op){run_fold, release_op};
  op->state = f;
  op->kernel = "loop";
  t[0].shape = t[inputs].shape;
  t[0].layout = t[inputs].layout;
  for (int i = 1; i < inputs + op->desc.outputs; i++) {
    if (i == inputs) continue;
    dnnl_memory_desc_t plain = cpu_plain_md(LS_F32, &t[i].shape, false);
    t[i].layout = cpu_layout(context, &plain);
    if (!t[i].layout) return ls_fail(err, LS_NO_MEMORY, "no memory for a layout");
  }
  const dnnl_memory_desc_t *md = &t[0].layout->md;
  const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
  f->groups = md->ndims == 5 ? md->dims[0] : 1;
  f->group_channels = md->dims[md->ndims == 5];
  f->channels = f->groups * f->group_channels;
  f->inner = 1;
  for (int i = 0; i < md->ndims; i++) f->block[i] = 1;
  for (int i = 0; i < b->inner_nblks; i++) {
    f->inner *= b->inner_blks[i];
    f->block[b->inner_idxs[i]] *= b->inner_blks[i];
  }
  for (int i = 0; i < md->ndims; i++) {
    f->outer[i] = md->padded_dims[i] / f->block[i];
    f->strides[i] = b->strides[i];
  }
  op->scratch_bytes = (size_t)(f->channels + f->inner) * sizeof(float);
  return LS_OK;
}
