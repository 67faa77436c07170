// Parameters between the slabs (the kernels' layouts) and canonical values (snapshots, files). Only between commands, when
// the workers sleep: uses worker 0's backend context.
#include <stdlib.h>

#include "worker/device.h"

static const struct ls_plan *plan_of(const struct trainer *t) {
  return t->worker[0].plan ? t->worker[0].plan : t->worker[0].evaluation_plan;
}

// Where parameter `index`, or its momentum, lies.
static void *place(const struct trainer *t, int index, bool momentum) {
  const struct ls_plan_parameter *p = ls_plan_parameter(plan_of(t), index);
  return momentum ? (char *)t->momentum + p->momentum_offset_bytes : (char *)t->parameters + p->offset_bytes;
}

static ls_status put(struct trainer *t, int index, const float *values, bool momentum, struct ls_error *err) {
  const struct ls_plan_parameter *p = ls_plan_parameter(plan_of(t), index);
  return t->ops->from_canonical(&t->worker[0].backend, &p->tensor, values, place(t, index, momentum), err);
}

static ls_status get(struct trainer *t, int index, bool momentum, float *values, struct ls_error *err) {
  const struct ls_plan_parameter *p = ls_plan_parameter(plan_of(t), index);
  return t->ops->to_canonical(&t->worker[0].backend, &p->tensor, place(t, index, momentum), values, err);
}

static bool lies_plain(struct trainer *t, int index) {
  const struct ls_plan_parameter *p = ls_plan_parameter(plan_of(t), index);
  const struct ls_layout *plain = t->ops->plain_layout(&t->worker[0].backend, p->tensor.dtype, &p->tensor.shape, false);
  return plain && t->ops->layout_equal(plain, p->tensor.layout);
}

ls_status model_initialise(struct trainer *t, uint64_t seed, struct ls_error *err) {
  if (t->devices) LS_TRY(device_gather(t, err));
  for (int i = 0; i < ls_graph_parameter_count(t->graph); i++) {
    const struct ls_parameter *p = ls_graph_parameter(t->graph, i);
    if (!t->devices && lies_plain(t, i)) {  // in place: the weights of a large layer twice would be the peak of memory
      LS_TRY(ls_graph_initial_values(t->graph, i, seed, place(t, i, false), err));
      continue;
    }
    float *values = malloc((size_t)ls_shape_elements(&p->shape) * sizeof *values);
    if (!values) return ls_fail(err, LS_NO_MEMORY, "no memory for parameter '%s'", p->name);
    ls_status status = ls_graph_initial_values(t->graph, i, seed, values, err);
    if (status == LS_OK) status = put(t, i, values, false, err);
    free(values);
    if (status != LS_OK) return status;
  }
  return t->devices ? device_spread(t, err) : LS_OK;
}

ls_status model_load(struct trainer *t, const struct ls_snapshot *s, struct ls_error *err) {
  if (t->devices) LS_TRY(device_gather(t, err));
  for (int i = 0; i < ls_graph_parameter_count(t->graph); i++) {
    LS_TRY(put(t, i, s->parameters[i], false, err));
    if (t->momentum && s->momentum[i]) LS_TRY(put(t, i, s->momentum[i], true, err));
  }
  return t->devices ? device_spread(t, err) : LS_OK;
}

ls_status model_save(struct trainer *t, struct ls_snapshot *s, struct ls_error *err) {
  if (t->devices) LS_TRY(device_gather(t, err));
  for (int i = 0; i < ls_graph_parameter_count(t->graph); i++) {
    LS_TRY(get(t, i, false, s->parameters[i], err));
    if (t->momentum && s->momentum[i]) LS_TRY(get(t, i, true, s->momentum[i], err));
  }
  return t->devices ? device_forget(t, err) : LS_OK;
}
