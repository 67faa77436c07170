// From a graph to a program: each layer writes its operations, forward in order, backward in reverse.
//
// Fusion: a plain ReLU whose input nobody else reads becomes part of the layer before it (convolution, fully connected,
// batch norm, add), if that is the layer it reads. Gradient pruning: what lies before the first parameter gets no
// gradient; the image never does. Inference folds batch norms and residual sums into convolutions, training residual sums
// into batch norms, where the backend can; there a convolution also sums its output for the batch norm behind it. Where an
// output feeds several layers, its gradients are summed in the order of those layers, one fixed order for every run.
#include <stdlib.h>

#include "graph/graph_internal.h"

struct writer {
  const struct ls_graph *graph;
  struct ls_program *program;
  struct ls_layer_instance *instances;
  bool *wants_gradient;  // of each layer's output: a parameter lies at or before it
  int *readers;
  int (*contribution)[LS_LAYER_MAX_INPUTS];  // [layer][reader]: gradients of its output so far
  int *contributions;
};

static void mark(struct writer *w, bool no_fusion) {
  for (int i = 0; i < w->graph->layer_count; i++) {
    const struct ls_layer *layer = &w->graph->layers[i];
    w->wants_gradient[i] = layer->parameters > 0;
    for (int j = 0; j < layer->inputs; j++) {
      if (layer->input[j] < 0) continue;
      w->readers[layer->input[j]]++;
      w->wants_gradient[i] |= w->wants_gradient[layer->input[j]];
    }
  }
  for (int i = 0; i < w->graph->layer_count; i++) {
    const struct ls_layer *layer = &w->graph->layers[i];
    int before = layer->input[0];
    w->instances[i].layer = layer;
    w->instances[i].op = -1;
    w->instances[i].addend = w->instances[i].added = w->instances[i].summed_by = LS_NO_LAYER;
    if (no_fusion || layer->message->type_case != LOCKSTEP__V1__LAYER__TYPE_RELU || before < 0) continue;
    if (w->readers[before] == 1 && w->graph->layers[before].type->can_fuse_relu) {
      w->instances[before].relu = true;
      w->instances[i].fused = true;
    }
  }
}

static bool is_convolution(const struct writer *w, int i) {
  return i >= 0 && w->graph->layers[i].message->type_case == LOCKSTEP__V1__LAYER__TYPE_CONVOLUTION;
}

// Inference: a batch norm becomes part of the convolution before it, where nobody else reads that one's output.
static void fold_batch_norm(struct writer *w, int i) {
  struct ls_layer_instance *norm = &w->instances[i];
  int before = norm->layer->input[0];
  if (!is_convolution(w, before) || w->readers[before] != 1) return;
  norm->fused = true;
  w->instances[before].folded = true;
  w->instances[before].relu = norm->relu;
}

// Inference: the convolution that computes summand i, perhaps through a batch norm folded into it, when it can add the
// other summand too: nobody else reads it and no activation comes before the sum. Else LS_NO_LAYER.
static int summing_convolution(const struct writer *w, int i) {
  if (i < 0 || w->readers[i] != 1) return LS_NO_LAYER;
  bool norm = w->graph->layers[i].message->type_case == LOCKSTEP__V1__LAYER__TYPE_BATCH_NORM;
  int convolution = norm && w->instances[i].fused ? w->graph->layers[i].input[0] : i;
  return is_convolution(w, convolution) && !w->instances[convolution].relu ? convolution : LS_NO_LAYER;
}

// Inference: a sum of two, one of them a convolution's output, becomes part of that convolution (of two, the later one),
// which then runs where the sum stands: only there is the other summand sure to be ready.
static void fold_add(struct writer *w, int i) {
  struct ls_layer_instance *add = &w->instances[i];
  if (add->layer->inputs != 2 || add->layer->input[0] == add->layer->input[1]) return;
  int which = add->layer->input[1] > add->layer->input[0];
  int convolution = summing_convolution(w, add->layer->input[which]);
  if (convolution == LS_NO_LAYER) convolution = summing_convolution(w, add->layer->input[which = !which]);
  if (convolution == LS_NO_LAYER || add->layer->input[!which] < 0) return;
  add->fused = true;
  add->fused_input = which;
  w->instances[convolution].addend = add->layer->input[!which];
  w->instances[convolution].relu = add->relu;
}

static void mark_folds(struct writer *w) {
  for (int i = 0; i < w->graph->layer_count; i++) {
    switch (w->graph->layers[i].message->type_case) {
      case LOCKSTEP__V1__LAYER__TYPE_BATCH_NORM: fold_batch_norm(w, i); break;
      case LOCKSTEP__V1__LAYER__TYPE_ADD: fold_add(w, i); break;
      default: break;
    }
  }
}

static bool can_add(const struct writer *w, int norm) {
  return norm >= 0 && w->readers[norm] == 1 && !w->instances[norm].relu &&
         w->graph->layers[norm].message->type_case == LOCKSTEP__V1__LAYER__TYPE_BATCH_NORM;
}

// Training: a sum of two, one of them a batch norm's output that nobody else reads, becomes part of that batch norm (of two,
// the later one), with the ReLU behind it. It runs where the sum stands, as in inference.
static void mark_norm_adds(struct writer *w) {
  for (int i = 0; i < w->graph->layer_count; i++) {
    struct ls_layer_instance *add = &w->instances[i];
    const int *input = add->layer->input;
    if (add->layer->message->type_case != LOCKSTEP__V1__LAYER__TYPE_ADD || add->layer->inputs != 2) continue;
    int which = input[1] > input[0];
    if (!can_add(w, input[which])) which = !which;
    if (!can_add(w, input[which]) || input[!which] < 0 || input[0] == input[1]) continue;
    add->fused = true;
    add->fused_input = which;
    w->instances[input[which]].added = input[!which];
    w->instances[input[which]].sum_relu = add->relu;
  }
}

// Training: a convolution that only a batch norm reads sums its output for it.
static void mark_statistics(struct writer *w) {
  for (int i = 0; i < w->graph->layer_count; i++) {
    int before = w->graph->layers[i].input[0];
    if (w->graph->layers[i].message->type_case != LOCKSTEP__V1__LAYER__TYPE_BATCH_NORM) continue;
    if (!is_convolution(w, before) || w->readers[before] != 1 || w->graph->layers[before].attributes.has_bias) continue;
    w->instances[i].summed_by = before;
    w->instances[before].sums = true;
  }
}

// The operations that compute folded weights and biases: behind the forward pass, run once for many of its runs.
static void write_folds(struct writer *w) {
  for (int i = 0; i < w->graph->layer_count; i++) {
    struct ls_layer_instance *norm = &w->instances[i];
    if (norm->layer->message->type_case != LOCKSTEP__V1__LAYER__TYPE_BATCH_NORM || !norm->fused) continue;
    struct ls_layer_instance *convolution = &w->instances[norm->layer->input[0]];
    struct ls_op_attributes a = convolution->layer->attributes;
    a.epsilon = norm->layer->attributes.epsilon;
    int values[LS_OP_MAX_TENSORS], count = 0;
    values[count++] = ls_layer_parameter(convolution, w->program, 0);
    if (a.has_bias) values[count++] = ls_layer_parameter(convolution, w->program, 1);
    for (int j = 0; j < norm->layer->parameters; j++) values[count++] = ls_layer_parameter(norm, w->program, j);
    values[count] = convolution->folded_weight;
    values[count + 1] = convolution->folded_bias;
    ls_program_add(w->program, LS_OP_BN_FOLD, i, count, 2, values, &a);
  }
}

static void write_layer(struct writer *w, int i, int image) {
  struct ls_layer_instance *instance = &w->instances[i];
  for (int j = 0; j < instance->layer->inputs; j++) {
    int source = instance->layer->input[j];
    instance->x[j] = source < 0 ? image : w->instances[source].y;
  }
  if (instance->addend != LS_NO_LAYER) instance->addend_value = w->instances[instance->addend].y;
  if (instance->added != LS_NO_LAYER) instance->added_value = w->instances[instance->added].y;
  for (int j = 0; instance->summed_by != LS_NO_LAYER && j < 2; j++)
    instance->sum_value[j] = w->instances[instance->summed_by].sum_value[j];
  instance->layer->type->forward(instance, w->program);
}

// The convolution of summand i and, where there is one, the batch norm folded into it, whose turn came before its input's.
static void write_summing_convolution(struct writer *w, int i, int image) {
  bool norm = !is_convolution(w, i);
  write_layer(w, norm ? w->graph->layers[i].input[0] : i, image);
  if (norm) write_layer(w, i, image);
}

static void write_forward(struct writer *w) {
  struct ls_shape shape = {
      .rank = 4, .dim = {w->program->batch, w->graph->input.dim[0], w->graph->input.dim[1], w->graph->input.dim[2]}};
  int image = ls_program_value(w->program, LS_VALUE_INPUT, w->program->dtype, &shape, 0);
  for (int i = 0; i < w->graph->layer_count; i++) {
    struct ls_layer_instance *instance = &w->instances[i];
    bool add = instance->layer->message->type_case == LOCKSTEP__V1__LAYER__TYPE_ADD;
    if (instance->addend != LS_NO_LAYER || instance->added != LS_NO_LAYER) continue;  // written where its sum stands
    int summand = add && instance->fused ? instance->layer->input[instance->fused_input] : LS_NO_LAYER;
    if (summand != LS_NO_LAYER && w->program->training)
      write_layer(w, summand, image);
    else if (summand != LS_NO_LAYER)
      write_summing_convolution(w, summand, image);
    write_layer(w, i, image);
  }
  w->program->forward_count = w->program->op_count;
}

// The sum of the gradients that the readers of layer i's output contributed.
static int output_gradient(struct writer *w, int i) {
  int count = w->contributions[i];
  if (count == 0) return LS_NO_VALUE;
  int *parts = w->contribution[i];
  if (count == 1) return parts[0];
  int values[LS_LAYER_MAX_INPUTS + 1];
  for (int k = 0; k < count; k++) values[k] = parts[count - 1 - k];  // backward met the readers in reverse
  values[count] = ls_layer_like(w->program, values[0]);
  struct ls_op_attributes plain = {0};
  ls_program_add(w->program, LS_OP_ADD, i, count, 1, values, &plain);
  return values[count];
}

static void write_backward(struct writer *w) {
  for (int i = w->graph->layer_count - 1; i >= 0; i--) {
    struct ls_layer_instance *instance = &w->instances[i];
    if (!w->wants_gradient[i]) continue;
    int dx[LS_LAYER_MAX_INPUTS];
    for (int j = 0; j < instance->layer->inputs; j++) {
      int source = instance->layer->input[j];
      dx[j] = source >= 0 && w->wants_gradient[source] ? 0 : LS_NO_VALUE;
    }
    bool wanted[LS_LAYER_MAX_INPUTS];
    for (int j = 0; j < instance->layer->inputs; j++) wanted[j] = dx[j] != LS_NO_VALUE;
    instance->layer->type->backward(instance, w->program, output_gradient(w, i), dx);
    for (int j = 0; j < instance->layer->inputs; j++) {
      int source = instance->layer->input[j];
      if (wanted[j]) w->contribution[source][w->contributions[source]++] = dx[j];
    }
  }
}

ls_status ls_graph_write_program(const struct ls_graph *graph, struct ls_program *program, bool no_fusion,
                                 struct ls_error *err) {
  size_t n = (size_t)graph->layer_count;
  struct writer w = {.graph = graph, .program = program};
  w.instances = calloc(n, sizeof *w.instances);
  w.wants_gradient = calloc(n, sizeof *w.wants_gradient);
  w.readers = calloc(n, sizeof *w.readers);
  w.contribution = calloc(n, sizeof *w.contribution);
  w.contributions = calloc(n, sizeof *w.contributions);
  ls_status status = LS_OK;
  program->probabilities = LS_NO_VALUE;
  if (!w.instances || !w.wants_gradient || !w.readers || !w.contribution || !w.contributions) {
    status = ls_fail(err, LS_NO_MEMORY, "no memory for the network's operations");
    goto done;
  }
  mark(&w, no_fusion);
  for (int i = 0; i < graph->layer_count; i++) {
    if (w.readers[i] <= LS_LAYER_MAX_INPUTS) continue;
    status = ls_fail(err, LS_UNSUPPORTED, "layer '%s': %d layers read its output, at most %d can",
                     graph->layers[i].name, w.readers[i], LS_LAYER_MAX_INPUTS);
    goto done;
  }
  if (program->folds) mark_folds(&w);
  if (program->norm_adds) mark_norm_adds(&w);
  if (program->conv_statistics) mark_statistics(&w);
  write_forward(&w);
  if (program->training) write_backward(&w);
  if (program->folds) write_folds(&w);
  if (program->failed) status = ls_fail(err, LS_NO_MEMORY, "no memory for the network's operations");
done:
  free(w.instances);
  free(w.wants_gradient);
  free(w.readers);
  free(w.contribution);
  free(w.contributions);
  return status;
}
