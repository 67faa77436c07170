// Parameters between the slabs (the kernels' layouts) and canonical values (snapshots, files). Only between commands, when
// the workers sleep: uses worker 0's backend context.
#include <stdlib.h>

#include "worker/trainer.h"

static const struct ls_plan *plan_of(const struct trainer *t) {
  return t->worker[0].plan ? t->worker[0].plan : t->worker[0].evaluation_plan;
}

static ls_status put(struct trainer *t, int index, const float *values, float *slab, struct ls_error *err) {
  const struct ls_plan_parameter *p = ls_plan_parameter(plan_of(t), index);
  return t->ops->from_canonical(&t->worker[0].backend, &p->tensor, values, (char *)slab + p->offset_bytes, err);
}

static ls_status get(struct trainer *t, int index, const float *slab, float *values, struct ls_error *err) {
  const struct ls_plan_parameter *p = ls_plan_parameter(plan_of(t), index);
  return t->ops->to_canonical(&t->worker[0].backend, &p->tensor, (const char *)slab + p->offset_bytes, values, err);
}

ls_status model_initialise(struct trainer *t, uint64_t seed, struct ls_error *err) {
  for (int i = 0; i < ls_graph_parameter_count(t->graph); i++) {
    const struct ls_parameter *p = ls_graph_parameter(t->graph, i);
    float *values = malloc((size_t)ls_shape_elements(&p->shape) * sizeof *values);
    if (!values) return ls_fail(err, LS_NO_MEMORY, "no memory for parameter '%s'", p->name);
    ls_status status = ls_graph_initial_values(t->graph, i, seed, values, err);
    if (status == LS_OK) status = put(t, i, values, t->parameters, err);
    free(values);
    if (status != LS_OK) return status;
  }
  return LS_OK;
}

ls_status model_load(struct trainer *t, const struct ls_snapshot *s, struct ls_error *err) {
  for (int i = 0; i < ls_graph_parameter_count(t->graph); i++) {
    LS_TRY(put(t, i, s->parameters[i], t->parameters, err));
    if (t->momentum && s->momentum[i]) LS_TRY(put(t, i, s->momentum[i], t->momentum, err));
  }
  return LS_OK;
}

ls_status model_save(struct trainer *t, struct ls_snapshot *s, struct ls_error *err) {
  for (int i = 0; i < ls_graph_parameter_count(t->graph); i++) {
    LS_TRY(get(t, i, t->parameters, s->parameters[i], err));
    if (t->momentum && s->momentum[i]) LS_TRY(get(t, i, t->momentum, s->momentum[i], err));
  }
  return LS_OK;
}
