// Runs one network once, forward and backward, and writes everything into a folder for test_torch.py to compare:
//
//   parity-dump NETWORK BATCH BACKEND FOLDER      NETWORK: name or file; BACKEND: cpu, reference or cuda
//
// network.json, and arrays of float64 (labels int32) in files of their own: images, labels, probabilities (training),
// inference (probabilities by running statistics), parameter.I, gradient.I (running statistics: the batch's).
#include <stdio.h>

#include "spec/spec.h"
#include "support/engine.h"

static const char *folder;

static void write_file(const char *name, const void *data, size_t size) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
    fprintf(stderr, "cannot write '%s'\n", path);
    exit(1);
  }
}

static void write_probabilities(struct engine *e, const char *name) {
  int64_t n = e->options.batch * ls_graph_classes(e->graph);
  double *values = malloc((size_t)n * sizeof *values);
  engine_probabilities(e, values, n);
  write_file(name, values, (size_t)n * sizeof *values);
  free(values);
}

static void write_parameter(struct engine *e, const char *what, int index, const double *values) {
  char name[64];
  snprintf(name, sizeof name, "%s.%d", what, index);
  write_file(name, values, (size_t)engine_parameter_size(e, index) * sizeof *values);
}

static void write_network(const Lockstep__V1__Network *network) {
  struct ls_string json = LS_STRING_INIT;
  ls_spec_write_json(&network->base, 1, &json);
  write_file("network.json", ls_string_text(&json), json.size);
  ls_string_release(&json);
}

// NULL: not in this build.
static const struct ls_backend_ops *backend_named(const char *name) {
  if (strcmp(name, "cuda") == 0) return ls_backend_cuda();
  return strcmp(name, "reference") == 0 ? ls_backend_reference() : ls_backend_cpu();
}

int main(int argc, char **argv) {
  if (argc != 5 || !backend_named(argv[3])) return 2;
  int64_t batch = atoi(argv[2]);
  bool reference = strcmp(argv[3], "reference") == 0;
  folder = argv[4];
  Lockstep__V1__Network *network;
  struct ls_graph *graph;
  struct engine train, infer;
  ENGINE_TRY(ls_spec_load_network(argv[1], NULL, &network, err));
  ENGINE_TRY(ls_graph_build(network, &graph, err));
  write_network(network);
  int64_t loss_images = 1;  // a power of two, so that the scale of the gradients is exact
  while (loss_images < batch) loss_images *= 2;
  struct ls_plan_options options = {
      .batch = batch, .training = true, .dtype = reference ? LS_F64 : LS_F32, .loss_images = loss_images};
  engine_open(&train, graph, backend_named(argv[3]), &options);
  options.training = false;
  options.parameters_of = train.plan;
  engine_open_on(&infer, graph, &train, &options);
  struct ls_shape shape = ls_graph_input_shape(graph);
  int64_t pixels = batch * ls_shape_elements(&shape);
  double *images = malloc((size_t)pixels * sizeof *images);
  int32_t *labels = malloc((size_t)batch * sizeof *labels);
  for (int64_t i = 0; i < pixels; i++) images[i] = (float)engine_draw(1, (uint32_t)i);
  for (int64_t i = 0; i < batch; i++) labels[i] = (int32_t)((i * 7 + 3) % ls_graph_classes(graph));
  write_file("images", images, (size_t)pixels * sizeof *images);
  write_file("labels", labels, (size_t)batch * sizeof *labels);
  for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
    double *values = malloc((size_t)engine_parameter_size(&train, i) * sizeof *values);
    engine_random_parameter(&train, i, values);
    engine_set_parameter(&train, i, values);
    write_parameter(&train, "parameter", i, values);
    free(values);
  }
  engine_set_input(&train, images, labels);
  engine_set_input(&infer, images, labels);
  engine_forward(&train);
  write_probabilities(&train, "probabilities");
  engine_backward(&train);
  engine_forward(&infer);
  write_probabilities(&infer, "inference");
  for (int i = 0; i < ls_graph_parameter_count(graph); i++) {
    double *values = malloc((size_t)engine_parameter_size(&train, i) * sizeof *values);
    engine_gradient(&train, i, values);
    write_parameter(&train, "gradient", i, values);
    free(values);
  }
  engine_close(&infer);
  engine_close(&train);
  free(images);
  free(labels);
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
  return 0;
}
