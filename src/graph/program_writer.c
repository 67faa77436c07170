// From a graph to a program: each layer writes its operations, forward in order, backward in reverse.
//
// Fusion: a plain ReLU whose input nobody else reads becomes part of the layer before it (convolution, fully connected,
// batch norm, add), if that is the layer it reads. Gradient pruning: what lies before the first parameter gets no
// gradient; the image never does. Where an output feeds several layers, its gradients are summed in the order of those
// layers, one fixed order for every run.
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
    if (no_fusion || layer->message->type_case != LOCKSTEP__V1__LAYER__TYPE_RELU || before < 0) continue;
    if (w->readers[before] == 1 && w->graph->layers[before].type->can_fuse_relu) {
      w->instances[before].relu = true;
      w->instances[i].fused = true;
    }
  }
}

static void write_forward(struct writer *w) {
  struct ls_shape shape = {
      .rank = 4, .dim = {w->program->batch, w->graph->input.dim[0], w->graph->input.dim[1], w->graph->input.dim[2]}};
  int image = ls_program_value(w->program, LS_VALUE_INPUT, w->program->dtype, &shape, 0);
  for (int i = 0; i < w->graph->layer_count; i++) {
    struct ls_layer_instance *instance = &w->instances[i];
    for (int j = 0; j < instance->layer->inputs; j++) {
      int source = instance->layer->input[j];
      instance->x[j] = source < 0 ? image : w->instances[source].y;
    }
    instance->layer->type->forward(instance, w->program);
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
  write_forward(&w);
  if (program->training) write_backward(&w);
  if (program->failed) status = ls_fail(err, LS_NO_MEMORY, "no memory for the network's operations");
done:
  free(w.instances);
  free(w.wants_gradient);
  free(w.readers);
  free(w.contribution);
  free(w.contributions);
  return status;
}
