// A plan with its pointers resolved: running it is a loop. See plan.h.
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "graph/plan_internal.h"

struct patch {  // a pointer to the loader's batch
  int step, tensor;
  bool labels;
};

struct ls_binding {
  struct ls_plan *plan;
  struct ls_op_args *args;  // one a step
  struct patch *patches;
  int patch_count;
  const void *probabilities;
  void (*profile)(void *user, const struct ls_plan_op_info *info, int64_t begin_ns, int64_t end_ns);
  void *profile_user;
};

static void *address(const struct ls_plan *plan, const struct plan_value *v, const struct ls_plan_memory *memory) {
  switch (v->kind) {
    case LS_VALUE_ACTIVATION: return (char *)memory->activations + v->offset;
    case LS_VALUE_PARAMETER: return (char *)memory->parameters + v->offset;
    case LS_VALUE_GRADIENT: return memory->gradients ? (char *)memory->gradients + v->offset : NULL;
    case LS_VALUE_METRICS:
      return plan->options.training ? (char *)memory->gradients + plan->metrics_offset : memory->metrics;
    case LS_VALUE_FOLDED: return (char *)memory->folded + v->offset;
    case LS_VALUE_INPUT: return memory->input;
    case LS_VALUE_LABELS: return memory->labels;
    case LS_VALUE_STEP: return memory->step;
    case LS_VALUE_FACTOR: return memory->factors ? (char *)memory->factors + v->offset : NULL;
  }
  return NULL;
}

static int count_patches(const struct ls_plan *plan, struct patch *patches) {
  int count = 0;
  for (int s = 0; s < plan->step_count; s++) {
    const struct plan_step *step = &plan->steps[s];
    for (int i = 0; i < step->op.desc.inputs; i++) {
      enum ls_value_kind kind = plan->values[step->value[i]].kind;
      if (kind != LS_VALUE_INPUT && kind != LS_VALUE_LABELS) continue;
      if (patches) patches[count] = (struct patch){s, i, kind == LS_VALUE_LABELS};
      count++;
    }
  }
  return count;
}

ls_status ls_plan_bind(struct ls_plan *plan, const struct ls_plan_memory *memory, struct ls_binding **result,
                       struct ls_error *err) {
  *result = NULL;
  if (plan->folded_bytes && !memory->folded)
    return ls_fail(err, LS_INTERNAL, "this inference plan needs memory for folded weights");
  if (plan->options.training && !memory->gradients)
    return ls_fail(err, LS_INTERNAL, "a training plan needs a gradient slab");
  if (plan->factor_bytes && !memory->factors) return ls_fail(err, LS_INTERNAL, "the plan needs a factor slab");
  struct ls_binding *binding = calloc(1, sizeof *binding);
  if (!binding) return ls_fail(err, LS_NO_MEMORY, "no memory for a binding");
  binding->plan = plan;
  binding->args = calloc((size_t)plan->step_count + 1, sizeof *binding->args);
  binding->patch_count = count_patches(plan, NULL);
  binding->patches = calloc((size_t)binding->patch_count + 1, sizeof *binding->patches);
  if (!binding->args || !binding->patches) {
    ls_binding_free(binding);
    return ls_fail(err, LS_NO_MEMORY, "no memory for a binding");
  }
  count_patches(plan, binding->patches);
  for (int s = 0; s < plan->step_count; s++) {
    const struct plan_step *step = &plan->steps[s];
    struct ls_op_args *args = &binding->args[s];
    for (int i = 0; i < step->op.desc.inputs + step->op.desc.outputs; i++) {
      args->tensor[i] = address(plan, &plan->values[step->value[i]], memory);
    }
    args->workspace = (char *)memory->activations + step->workspace_offset;
    args->scratch = (char *)memory->activations + plan->scratch_offset;
  }
  if (plan->program.probabilities >= 0) {
    binding->probabilities = address(plan, &plan->values[plan->program.probabilities], memory);
  }
  *result = binding;
  return LS_OK;
}

void ls_binding_free(struct ls_binding *binding) {
  if (!binding) return;
  free(binding->args);
  free(binding->patches);
  free(binding);
}

void ls_binding_set_input(struct ls_binding *binding, void *input, void *labels) {
  for (int i = 0; i < binding->patch_count; i++) {
    const struct patch *p = &binding->patches[i];
    binding->args[p->step].tensor[p->tensor] = p->labels ? labels : input;
  }
}

static ls_status run(struct ls_binding *binding, int begin, int end, struct ls_stream *stream, struct ls_error *err) {
  struct ls_plan *plan = binding->plan;
  for (int s = begin; s < end; s++) {
    struct plan_step *step = &plan->steps[s];
    int64_t start = binding->profile ? ls_clock_ns() : 0;
    ls_status status = plan->backend->ops->run(plan->backend, &step->op, stream, &binding->args[s], err);
    if (status != LS_OK) {
      ls_error_prefix(err, "layer '%s' (%s)", step->op.desc.layer_name, ls_plan_op_name(step->op.desc.kind));
      return status;
    }
    if (binding->profile) {
      LS_TRY(plan->backend->ops->stream_wait_idle(plan->backend, stream, err));  // devices: one operation after another
      struct ls_plan_op_info info = {step->op.desc.layer_name, ls_plan_op_name(step->op.desc.kind), step->op.kernel};
      binding->profile(binding->profile_user, &info, start, ls_clock_ns());
    }
  }
  return LS_OK;
}

ls_status ls_binding_forward(struct ls_binding *binding, struct ls_stream *stream, struct ls_error *err) {
  return run(binding, 0, binding->plan->forward_count, stream, err);
}

ls_status ls_binding_refresh(struct ls_binding *binding, struct ls_stream *stream, struct ls_error *err) {
  if (binding->plan->options.training) return LS_OK;
  return run(binding, binding->plan->forward_count, binding->plan->step_count, stream, err);
}

ls_status ls_binding_backward(struct ls_binding *binding, struct ls_stream *stream, struct ls_error *err) {
  return run(binding, binding->plan->forward_count, binding->plan->step_count, stream, err);
}

ls_status ls_binding_backward_part(struct ls_binding *binding, int begin, int end, struct ls_stream *stream,
                                   struct ls_error *err) {
  int first = binding->plan->forward_count;
  return run(binding, first + begin, first + end, stream, err);
}

const void *ls_binding_probabilities(const struct ls_binding *binding) { return binding->probabilities; }

void ls_binding_profile(struct ls_binding *binding,
                        void (*done)(void *user, const struct ls_plan_op_info *info, int64_t begin_ns, int64_t end_ns),
                        void *user) {
  binding->profile = done;
  binding->profile_user = user;
}

void ls_plan_print(const struct ls_plan *plan, FILE *out) {
  int reorders = 0;
  fprintf(out, "%-8s %-24s %-22s %-24s %-14s %-14s %s\n", "pass", "layer", "operation", "kernel", "input", "output",
          "MiB");
  for (int s = 0; s < plan->step_count; s++) {
    const struct plan_step *step = &plan->steps[s];
    const struct ls_op_desc *desc = &step->op.desc;
    char in[32] = "", to[32] = "";
    if (desc->inputs) plan->backend->ops->layout_format(desc->tensor[0].layout, in, sizeof in);
    plan->backend->ops->layout_format(desc->tensor[desc->inputs].layout, to, sizeof to);
    reorders += desc->kind == LS_OP_REORDER;
    fprintf(out, "%-8s %-24.24s %-22s %-24.24s %-14s %-14s %.2f\n",
            s < plan->forward_count  ? "forward"
            : plan->options.training ? "backward"
                                     : "fold",
            desc->layer_name, ls_plan_op_name(desc->kind), step->op.kernel ? step->op.kernel : "", in, to,
            (double)plan->values[step->value[desc->inputs]].bytes / 1048576);
  }
  fprintf(out, "\n%d operations, %d reorders\n", plan->step_count, reorders);
  fprintf(out, "parameters %.1f MiB, activations and workspace %.1f MiB (without reuse %.1f MiB), scratch %.1f MiB\n",
          (double)plan->parameter_bytes / 1048576, (double)(plan->activation_bytes - plan->scratch_bytes) / 1048576,
          (double)plan->value_bytes / 1048576, (double)plan->scratch_bytes / 1048576);
}
