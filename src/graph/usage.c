// What a plan's activation slab is made of, for people: `lockstep model show --memory`.
#include <string.h>

#include "graph/plan_internal.h"

size_t ls_plan_scratch_bytes(const struct ls_plan *plan) { return plan->activation_bytes - plan->scratch_offset; }
size_t ls_plan_unshared_bytes(const struct ls_plan *plan) { return plan->value_bytes; }

struct largest {
  struct ls_plan_buffer *buffers;
  int count, capacity;
};

// Puts a buffer in its place among the largest; equal ones stay in the order of the plan.
static void consider(struct largest *l, const struct plan_step *step, const char *what, size_t bytes) {
  int at = l->count;
  while (at > 0 && l->buffers[at - 1].bytes < bytes) at--;
  if (at == l->capacity || bytes == 0) return;
  int moved = (l->count < l->capacity ? l->count : l->capacity - 1) - at;
  memmove(&l->buffers[at + 1], &l->buffers[at], (size_t)moved * sizeof *l->buffers);
  l->buffers[at] =
      (struct ls_plan_buffer){step->op.desc.layer_name, ls_plan_op_name(step->op.desc.kind), what, ls_align(bytes)};
  if (l->count < l->capacity) l->count++;
}

int ls_plan_largest_buffers(const struct ls_plan *plan, struct ls_plan_buffer *buffers, int capacity) {
  struct largest l = {buffers, 0, capacity};
  const struct plan_step *most_scratch = NULL;
  for (int s = 0; s < plan->step_count; s++) {
    const struct plan_step *step = &plan->steps[s];
    const struct ls_op_desc *desc = &step->op.desc;
    for (int i = desc->inputs; i < desc->inputs + desc->outputs; i++) {
      const struct plan_value *v = &plan->values[step->value[i]];
      bool own = v->kind == LS_VALUE_ACTIVATION && v->shares == step->value[i];
      if (own && v->first == s) consider(&l, step, "output", v->bytes);
    }
    if (step->forward_step < 0) consider(&l, step, "workspace", step->op.workspace_bytes);
    if (!most_scratch || step->op.scratch_bytes > most_scratch->op.scratch_bytes) most_scratch = step;
  }
  if (most_scratch) consider(&l, most_scratch, "scratch", most_scratch->op.scratch_bytes);
  return l.count;
}
