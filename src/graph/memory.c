// The static memory plan: which activations share memory, and at which offsets they lie in one slab.
//
// An activation lives from the step that writes it to the last that reads it; a workspace from its forward step to the
// last backward step that shares it. First an output may take over the memory of an input that dies there (where the
// operation can work in place); then everything is placed greedily, largest first, at the lowest offset where nothing
// that lives at the same time lies (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
// 2020, "greedy by size"). One scratch buffer serves all operations.
#include <stdlib.h>

#include "graph/plan_internal.h"

static int root(const struct ls_plan *plan, int value) {
  while (plan->values[value].shares != value) value = plan->values[value].shares;
  return value;
}

static void find_lifetimes(struct ls_plan *plan) {
  for (int i = 0; i < plan->value_count; i++) plan->values[i].first = plan->values[i].last = -1;
  for (int s = 0; s < plan->step_count; s++) {
    struct plan_step *step = &plan->steps[s];
    step->workspace_last = s;
    for (int i = 0; i < step->op.desc.inputs + step->op.desc.outputs; i++) {
      struct plan_value *v = &plan->values[step->value[i]];
      if (v->first < 0) v->first = s;
      v->last = s;
    }
    if (step->forward_step >= 0) plan->steps[step->forward_step].workspace_last = s;
  }
  // The probabilities are read after the last step.
  if (plan->program.probabilities >= 0) plan->values[plan->program.probabilities].last = plan->step_count;
}

// The input that an operation may overwrite with its first output (the table in backend.h).
static int overwritable(const struct ls_op_desc *desc) {
  if (desc->kind == LS_OP_CONV_FORWARD) return desc->inputs - 1;
  return desc->kind == LS_OP_RELU_BACKWARD ? 1 : 0;
}

// Whether the memory that would be overwritten is read through another input too: x + y + x.
static bool reads_twice(const struct ls_plan *plan, const struct plan_step *step, int memory) {
  int count = 0;
  for (int i = 0; i < step->op.desc.inputs; i++) count += root(plan, step->value[i]) == memory;
  return count > 1;
}

static void share_in_place(struct ls_plan *plan) {
  for (int s = 0; s < plan->step_count; s++) {
    const struct plan_step *step = &plan->steps[s];
    if (!step->op.in_place || step->op.desc.inputs == 0) continue;
    int from = root(plan, step->value[overwritable(&step->op.desc)]), to = step->value[step->op.desc.inputs];
    struct plan_value *input = &plan->values[from], *output = &plan->values[to];
    if (input->kind != LS_VALUE_ACTIVATION || output->kind != LS_VALUE_ACTIVATION || from == to) continue;
    if (input->last != s || output->first != s || input->bytes < output->bytes) continue;
    if (reads_twice(plan, step, from)) continue;
    output->shares = from;
    input->last = output->last;
  }
}

struct block {
  size_t bytes, *offset;
  int first, last;
  size_t at;
};

static int larger_first(const void *a, const void *b) {
  const struct block *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x->first != y->first ? (x->first > y->first) - (x->first < y->first)
                              : (x->last > y->last) - (x->last < y->last);
}

static int lower_first(const void *a, const void *b) {
  const struct block *x = *(struct block *const *)a, *y = *(struct block *const *)b;
  return (x->at > y->at) - (x->at < y->at);
}

// Places block n among those before it.
static void place(struct block *blocks, int n, struct block **near) {
  int count = 0;
  for (int i = 0; i < n; i++) {
    if (blocks[i].first <= blocks[n].last && blocks[n].first <= blocks[i].last) near[count++] = &blocks[i];
  }
  qsort(near, (size_t)count, sizeof *near, lower_first);
  size_t at = 0;
  for (int i = 0; i < count; i++) {
    if (at + blocks[n].bytes <= near[i]->at) break;
    if (near[i]->at + near[i]->bytes > at) at = near[i]->at + near[i]->bytes;
  }
  blocks[n].at = at;
}

static ls_status place_blocks(struct ls_plan *plan, struct ls_error *err) {
  size_t most = (size_t)plan->value_count + (size_t)plan->step_count + 1;
  struct block *blocks = calloc(most, sizeof *blocks), **near = calloc(most, sizeof *near);
  ls_status status = blocks && near ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for the memory plan");
  int n = 0;
  for (int i = 0; i < plan->value_count && status == LS_OK; i++) {
    struct plan_value *v = &plan->values[i];
    if (v->kind != LS_VALUE_ACTIVATION || v->first < 0) continue;
    plan->value_bytes += ls_align(v->bytes);
    if (v->shares == i) blocks[n++] = (struct block){ls_align(v->bytes), &v->offset, v->first, v->last, 0};
  }
  for (int s = 0; s < plan->step_count && status == LS_OK; s++) {
    struct plan_step *step = &plan->steps[s];
    if (step->op.workspace_bytes == 0 || step->forward_step >= 0) continue;
    plan->value_bytes += ls_align(step->op.workspace_bytes);
    blocks[n++] =
        (struct block){ls_align(step->op.workspace_bytes), &step->workspace_offset, s, step->workspace_last, 0};
  }
  if (status == LS_OK) qsort(blocks, (size_t)n, sizeof *blocks, larger_first);
  for (int i = 0; i < n; i++) {
    place(blocks, i, near);
    *blocks[i].offset = blocks[i].at;
    if (blocks[i].at + blocks[i].bytes > plan->activation_bytes)
      plan->activation_bytes = blocks[i].at + blocks[i].bytes;
  }
  free(blocks);
  free(near);
  return status;
}

ls_status ls_plan_place(struct ls_plan *plan, struct ls_error *err) {
  for (int i = 0; i < plan->value_count; i++) {
    struct plan_value *v = &plan->values[i];
    if (v->tensor.layout) v->bytes = plan->backend->ops->layout_bytes(v->tensor.layout);
    if (v->kind == LS_VALUE_INPUT) {
      int64_t values = (int64_t)(v->bytes / ls_dtype_bytes(v->tensor.dtype)), own = ls_shape_elements(&v->tensor.shape);
      plan->input_bytes = v->bytes;
      plan->input_channels = values / (own / v->tensor.shape.dim[1]);
    }
    if (v->kind == LS_VALUE_PARAMETER || v->kind == LS_VALUE_GRADIENT)
      v->offset = plan->parameters[v->index].offset_bytes;
    if (v->kind == LS_VALUE_FOLDED) {
      v->offset = plan->folded_bytes;
      plan->folded_bytes += ls_align(v->bytes);
    }
  }
  find_lifetimes(plan);
  share_in_place(plan);
  LS_TRY(place_blocks(plan, err));
  for (int i = 0; i < plan->value_count; i++) {
    if (plan->values[i].kind == LS_VALUE_ACTIVATION) plan->values[i].offset = plan->values[root(plan, i)].offset;
  }
  for (int s = 0; s < plan->step_count; s++) {
    struct plan_step *step = &plan->steps[s];
    if (step->forward_step >= 0) step->workspace_offset = plan->steps[step->forward_step].workspace_offset;
    if (step->op.scratch_bytes > plan->scratch_bytes) plan->scratch_bytes = step->op.scratch_bytes;
  }
  plan->scratch_offset = (plan->activation_bytes + 255) / 256 * 256;  // as libraries had it when they measured
  plan->activation_bytes = plan->scratch_offset + ls_align(plan->scratch_bytes);
  return LS_OK;
}
