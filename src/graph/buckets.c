// Where the gradient slab is cut so that its exchange can begin under the backward pass: see plan.h.
//
// The slab is in network order and the backward pass goes against it, so what is done first lies at the slab's end. There
// stand the statistics too: their values are written by the forward pass, and nothing of training reads running ones.
//
// Which cuts are best depends on speeds that a plan does not know (of the links, of each operation). What every choice has in
// common is that a gradient waits from the operation that wrote it to the one that completes its bucket. The cuts are those
// with the least bytes times operations of such waiting; since a gradient's own place is given, that is the least sum over
// the buckets of (bytes) * (operations until it is complete). So a huge layer's gradient (VGG's fc6) goes off at once
// instead of waiting for small ones, and the last bucket, which nothing hides, is small. `least_bytes` keeps buckets so
// large that what a bucket costs by itself (a recording's launch, a few messages) is little against its exchange.
#include <stdlib.h>

#include "graph/plan_internal.h"

// Parameters with a place in the gradient slab, in its order.
struct entry {
  int parameter;
  int64_t begin;  // in floats
  int done;       // backward operations until its gradient is written and nothing reads the parameter any more
};

// Of the parameter behind `value`, if a bucket with it must wait for a step that has it at place `tensor`.
static int waits_for(const struct ls_plan *plan, const struct plan_step *step, int tensor) {
  const struct plan_value *v = &plan->values[step->value[tensor]];
  bool reads = tensor < step->op.desc.inputs;
  if (v->kind == LS_VALUE_PARAMETER && reads) return v->index;
  return v->kind == LS_VALUE_GRADIENT && (!reads || plan->parameters[v->index].parameter->learned) ? v->index : -1;
}

static void find_done(const struct ls_plan *plan, struct entry *entries, int count) {
  for (int s = plan->forward_count; s < plan->step_count; s++) {
    const struct plan_step *step = &plan->steps[s];
    for (int i = 0; i < step->op.desc.inputs + step->op.desc.outputs; i++) {
      int parameter = waits_for(plan, step, i);
      for (int e = 0; parameter >= 0 && e < count; e++) {
        if (entries[e].parameter == parameter) entries[e].done = s + 1 - plan->forward_count;
      }
    }
  }
  // Buckets are completed from the slab's end on: one that begins here waits for all behind it.
  for (int e = count - 2; e >= 0; e--) {
    if (entries[e].done < entries[e + 1].done) entries[e].done = entries[e + 1].done;
  }
  if (count > 0) entries[0].done = plan->step_count - plan->forward_count;  // the rest of the pass
}

static int by_place(const void *a, const void *b) {
  const struct entry *x = a, *y = b;
  return (x->begin > y->begin) - (x->begin < y->begin);
}

// In the slab's order; behind the last one stands its end.
static int take_entries(const struct ls_plan *plan, struct entry *entries) {
  int count = 0;
  for (int i = 0; i < plan->parameter_count; i++) {
    const struct ls_plan_parameter *p = &plan->parameters[i];
    if (!p->factored && p->bytes) entries[count++] = (struct entry){i, (int64_t)(p->offset_bytes / sizeof(float)), 0};
  }
  qsort(entries, (size_t)count, sizeof *entries, by_place);
  entries[count] = (struct entry){-1, (int64_t)(plan->metrics_offset / sizeof(float)), 0};
  find_done(plan, entries, count);
  return count;
}

// The best way to put entries [i, count) into `buckets` buckets: its cost, and where the second bucket begins.
struct way {
  double cost;
  int next;
};

static struct way best_way(const struct entry *e, int i, int count, int64_t least, const struct way *rest) {
  struct way best = {.cost = -1};
  for (int j = i + 1; j < count; j++) {
    if (e[j].begin - e[i].begin < least || rest[j].cost < 0) continue;
    double cost = (double)(e[j].begin - e[i].begin) * e[i].done + rest[j].cost;
    if (best.cost < 0 || cost < best.cost) best = (struct way){cost, j};
  }
  return best;
}

// ways[b][i]: entries from i on in b + 1 buckets. Returns how many buckets are best for all: another one must gain something.
static int find_ways(const struct entry *e, int count, int most, int64_t least, struct way *const *ways) {
  int best = 1;
  for (int i = 0; i < count; i++) {
    int64_t floats = e[count].begin - e[i].begin;
    ways[0][i] = (struct way){floats < least && i > 0 ? -1 : (double)floats * e[i].done, count};
  }
  for (int b = 1; b < most; b++) {
    for (int i = 0; i < count; i++) ways[b][i] = best_way(e, i, count, least, ways[b - 1]);
    if (ways[b][0].cost >= 0 && ways[b][0].cost < ways[best - 1][0].cost) best = b + 1;
  }
  return best;
}

ls_status ls_plan_buckets(const struct ls_plan *plan, int most, size_t least_bytes, struct ls_plan_bucket *buckets,
                          int *count, struct ls_error *err) {
  struct entry *entries = calloc((size_t)plan->parameter_count + 1, sizeof *entries);
  struct way *memory = calloc((size_t)(plan->parameter_count + 1) * LS_PLAN_BUCKETS, sizeof *memory);
  if (most > LS_PLAN_BUCKETS) most = LS_PLAN_BUCKETS;
  ls_status status = entries && memory ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for the plan of the exchange");
  if (status == LS_OK) {
    struct way *ways[LS_PLAN_BUCKETS];
    int n = take_entries(plan, entries);
    for (int b = 0; b < LS_PLAN_BUCKETS; b++) ways[b] = memory + (size_t)b * (size_t)(plan->parameter_count + 1);
    *count = n ? find_ways(entries, n, most, (int64_t)(least_bytes / sizeof(float)), ways) : 1;
    for (int b = 0, i = 0; b < *count; b++) {
      int next = n ? ways[*count - 1 - b][i].next : 0;
      buckets[b] = (struct ls_plan_bucket){entries[i].begin, entries[next].begin, entries[i].done};
      i = next;
    }
    buckets[0].operations = plan->step_count - plan->forward_count;
  }
  free(entries);
  free(memory);
  return status;
}

const char *ls_plan_backward_layer(const struct ls_plan *plan, int operation) {
  int step = plan->forward_count + operation;
  return step >= plan->forward_count && step < plan->step_count ? plan->steps[step].op.desc.layer_name : "";
}
