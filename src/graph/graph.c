// From a network message to a graph of layers with shapes: see graph.h.
#include "graph/graph.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "base/philox.h"
#include "graph/graph_internal.h"

static int find_layer(const struct ls_graph *graph, int before, const char *name) {
  for (int i = before - 1; i >= 0; i--) {
    if (strcmp(graph->layers[i].name, name) == 0) return i;
  }
  return -1;
}

// Which layers feed this one, and their shapes.
static ls_status resolve_inputs(const struct ls_graph *graph, struct ls_layer *layer, struct ls_error *err) {
  const Lockstep__V1__Layer *m = layer->message;
  layer->inputs = m->n_from ? (int)m->n_from : 1;
  if (m->n_from > LS_LAYER_MAX_INPUTS || layer->inputs < layer->type->min_inputs ||
      layer->inputs > layer->type->max_inputs) {
    return ls_fail(err, LS_INVALID, "layer '%s' (%s) has %d inputs, allowed are %d to %d", layer->name,
                   layer->type->name, layer->inputs, layer->type->min_inputs, layer->type->max_inputs);
  }
  for (int i = 0; i < layer->inputs; i++) {
    const char *from = m->n_from ? m->from[i] : NULL;
    int source = from ? find_layer(graph, layer->number, from) : layer->number - 1;
    if (from && source < 0 && strcmp(from, "input") != 0) {
      return ls_fail(err, LS_INVALID, "layer '%s' (%s) reads from '%s', which is no layer before it and not 'input'",
                     layer->name, layer->type->name, from);
    }
    layer->input[i] = source;
    layer->input_shape[i] = source < 0 ? graph->input : graph->layers[source].output_shape;
  }
  return LS_OK;
}

static ls_status check_size(const struct ls_layer *layer, const struct ls_shape *shape, const char *what,
                            struct ls_error *err) {
  int64_t elements = 1;
  for (int i = 0; i < shape->rank; i++) {
    if (shape->dim[i] <= 0 || __builtin_mul_overflow(elements, shape->dim[i], &elements) || elements > INT32_MAX) {
      char text[96];
      return ls_fail(err, LS_INVALID, "layer '%s' (%s): its %s would be %s, more than 2^31 values", layer->name,
                     layer->type->name, what, ls_shape_format(shape, text, sizeof text));
    }
  }
  return LS_OK;
}

static ls_status add_layer(struct ls_graph *graph, int number, struct ls_error *err) {
  struct ls_layer *layer = &graph->layers[number];
  layer->message = graph->network->layers[number];
  layer->number = number;
  layer->name = layer->message->name ? layer->message->name : "";
  layer->type = ls_layer_type_of(layer->message);
  if (!layer->type) return ls_fail(err, LS_INVALID, "layer %d '%s' has no type", number + 1, layer->name);
  if (!layer->name[0]) return ls_fail(err, LS_INVALID, "layer %d (%s) has no name", number + 1, layer->type->name);
  if (!ls_name_good(layer->name)) {
    return ls_fail(err, LS_INVALID, "layer %d (%s): '%.80s' is no name for a layer; " LS_NAME_RULE, number + 1,
                   layer->type->name, layer->name);
  }
  if (strcmp(layer->name, "input") == 0 || find_layer(graph, number, layer->name) >= 0) {
    return ls_fail(err, LS_INVALID, "layer %d (%s): the name '%s' is taken", number + 1, layer->type->name,
                   layer->name);
  }
  LS_TRY(resolve_inputs(graph, layer, err));
  LS_TRY(layer->type->infer(layer, err));
  LS_TRY(check_size(layer, &layer->output_shape, "output", err));
  layer->first_parameter = graph->parameter_count;
  for (int i = 0; i < layer->parameters; i++) {
    LS_TRY(check_size(layer, &layer->parameter[i].shape, "weight", err));
    graph->parameters[graph->parameter_count++] = &layer->parameter[i];
  }
  return LS_OK;
}

// Every output but the last is read by somebody, and a loss comes last.
static ls_status check_uses(const struct ls_graph *graph, struct ls_error *err) {
  for (int i = 0; i + 1 < graph->layer_count; i++) {
    bool used = false;
    for (int j = i + 1; j < graph->layer_count && !used; j++) {
      for (int k = 0; k < graph->layers[j].inputs; k++) used |= graph->layers[j].input[k] == i;
    }
    if (!used) {
      return ls_fail(err, LS_INVALID, "layer '%s' (%s): nothing reads its output", graph->layers[i].name,
                     graph->layers[i].type->name);
    }
    if (graph->layers[i].message->type_case == LOCKSTEP__V1__LAYER__TYPE_SOFTMAX_CROSS_ENTROPY) {
      return ls_fail(err, LS_INVALID, "layer '%s' (softmax_cross_entropy): a loss must be the last layer",
                     graph->layers[i].name);
    }
  }
  return LS_OK;
}

ls_status ls_graph_build(const Lockstep__V1__Network *network, struct ls_graph **result, struct ls_error *err) {
  *result = NULL;
  const Lockstep__V1__Input *in = network->input;
  if (!in || !in->channels || !in->height || !in->width) {
    return ls_fail(err, LS_INVALID, "network '%s' has no input: channels, height and width must be at least 1",
                   network->name ? network->name : "");
  }
  if (network->n_layers == 0 || network->n_layers > 100000) {
    return ls_fail(err, LS_INVALID, "network '%s' has %zu layers, allowed are 1 to 100000",
                   network->name ? network->name : "", network->n_layers);
  }
  struct ls_graph *graph = calloc(1, sizeof *graph);
  if (!graph) return ls_fail(err, LS_NO_MEMORY, "no memory for the graph");
  graph->network = network;
  graph->input = LS_SHAPE(in->channels, in->height, in->width);
  graph->layer_count = (int)network->n_layers;
  graph->layers = calloc(network->n_layers, sizeof *graph->layers);
  graph->parameters = calloc(network->n_layers * LS_LAYER_MAX_PARAMETERS, sizeof(void *));
  ls_status status = graph->layers && graph->parameters ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory for the graph");
  for (int i = 0; i < graph->layer_count && status == LS_OK; i++) status = add_layer(graph, i, err);
  if (status == LS_OK) status = check_uses(graph, err);
  if (status != LS_OK) {
    ls_graph_free(graph);
    return status;
  }
  *result = graph;
  return LS_OK;
}

void ls_graph_free(struct ls_graph *graph) {
  if (!graph) return;
  free(graph->layers);
  free(graph->parameters);
  free(graph);
}

int ls_graph_layer_count(const struct ls_graph *graph) { return graph->layer_count; }

void ls_graph_layer_summary(const struct ls_graph *graph, int number, struct ls_layer_summary *summary) {
  const struct ls_layer *layer = &graph->layers[number];
  *summary = (struct ls_layer_summary){.name = layer->name,
                                       .type = layer->type->name,
                                       .output = layer->output_shape,
                                       .multiply_adds = layer->multiply_adds,
                                       .activations = ls_shape_elements(&layer->output_shape)};
  memcpy(summary->detail, layer->detail, sizeof summary->detail);
  for (int i = 0; i < layer->parameters; i++) {
    if (layer->parameter[i].learned) summary->parameters += ls_shape_elements(&layer->parameter[i].shape);
  }
}

int ls_graph_parameter_count(const struct ls_graph *graph) { return graph->parameter_count; }

const struct ls_parameter *ls_graph_parameter(const struct ls_graph *graph, int index) {
  return graph->parameters[index];
}

int64_t ls_graph_classes(const struct ls_graph *graph) {
  const struct ls_layer *last = &graph->layers[graph->layer_count - 1];
  bool loss = last->message->type_case == LOCKSTEP__V1__LAYER__TYPE_SOFTMAX_CROSS_ENTROPY;
  return loss ? last->output_shape.dim[0] : 0;
}

struct ls_shape ls_graph_input_shape(const struct ls_graph *graph) {
  return graph->input;
}

// Element i of a standard normal sequence (Box and Muller, 1958), each a function of (seed, parameter, i) alone.
static double normal_draw(uint64_t seed, int parameter, int64_t i) {
  struct ls_philox4 r = ls_random(seed, LS_RANDOM_INIT, (uint64_t)parameter, (uint64_t)(i / 2), 0);
  double u = ((double)r.v[0] + 1) * 0x1p-32, angle = (double)r.v[1] * 0x1p-32 * 6.283185307179586;
  double radius = sqrt(-2 * log(u));
  return i % 2 ? radius * sin(angle) : radius * cos(angle);
}

static double uniform_draw(uint64_t seed, int parameter, int64_t i) {
  struct ls_philox4 r = ls_random(seed, LS_RANDOM_INIT, (uint64_t)parameter, (uint64_t)(i / 4), 0);
  return (double)r.v[i % 4] * 0x1p-31 - 1;  // [-1, 1)
}

ls_status ls_graph_initial_values(const struct ls_graph *graph, int index, uint64_t seed, float *values,
                                  struct ls_error *err) {
  const struct ls_parameter *p = graph->parameters[index];
  int64_t n = ls_shape_elements(&p->shape);
  double constant = p->kind == LS_PARAMETER_GAMMA || p->kind == LS_PARAMETER_RUNNING_VARIANCE ? 1 : 0;
  double std = p->kind == LS_PARAMETER_WEIGHT ? sqrt(2.0 / (double)p->fan_in) : 0, limit = 0;
  if (p->init) {
    switch (p->init->kind_case) {
      case LOCKSTEP__V1__INITIALIZER__KIND_HE_NORMAL: std = sqrt(2.0 / (double)p->fan_in); break;
      case LOCKSTEP__V1__INITIALIZER__KIND_XAVIER_UNIFORM: limit = sqrt(6.0 / (double)(p->fan_in + p->fan_out)); break;
      case LOCKSTEP__V1__INITIALIZER__KIND_NORMAL: std = p->init->normal->std; break;
      case LOCKSTEP__V1__INITIALIZER__KIND_CONSTANT:
        std = 0;
        constant = p->init->constant->value;
        break;
      case LOCKSTEP__V1__INITIALIZER__KIND_UNIFORM_FAN_IN: limit = 1 / sqrt((double)p->fan_in); break;
      default: return ls_fail(err, LS_INVALID, "parameter '%s': its initializer has no kind", p->name);
    }
  }
  for (int64_t i = 0; i < n; i++) {
    if (limit > 0)
      values[i] = (float)(limit * uniform_draw(seed, index, i));
    else if (std > 0)
      values[i] = (float)(std * normal_draw(seed, index, i));
    else
      values[i] = (float)constant;
  }
  return LS_OK;
}
