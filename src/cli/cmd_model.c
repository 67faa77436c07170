// lockstep model list and lockstep model show: the networks, and one network as a table of layers.
//
// Multiply-adds are those of convolutions and fully connected layers, forward, for one image; parameters are the
// learned ones (batch norm's running statistics are not counted); activations are output values in float32.
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/memory.h"
#include "graph/graph.h"
#include "graph/plan.h"
#include "spec/spec.h"

struct options {
  bool plan, inference, memory;
  uint64_t batch, shards;
  struct memory_options of_memory;
  enum ls_output_format format;
};

struct totals {
  int64_t parameters, multiply_adds, activations;
};

static struct totals sum_up(const struct ls_graph *graph) {
  struct totals sum = {0, 0, 0};
  for (int i = 0; i < ls_graph_layer_count(graph); i++) {
    struct ls_layer_summary layer;
    ls_graph_layer_summary(graph, i, &layer);
    sum.parameters += layer.parameters;
    sum.multiply_adds += layer.multiply_adds;
    sum.activations += layer.activations;
  }
  return sum;
}

static int load(const char *name, Lockstep__V1__Network **network, struct ls_graph **graph, struct ls_error *err) {
  *network = NULL;
  *graph = NULL;
  if (ls_spec_load_network(name, NULL, network, err) != LS_OK) return ls_cli_fail(err);
  if (ls_graph_build(*network, graph, err) != LS_OK) {
    protobuf_c_message_free_unpacked(&(*network)->base, NULL);
    ls_error_prefix(err, "network '%s'", name);
    return ls_cli_fail(err);
  }
  return LS_CLI_OK;
}

static void unload(Lockstep__V1__Network *network, struct ls_graph *graph) {
  ls_graph_free(graph);
  if (network) protobuf_c_message_free_unpacked(&network->base, NULL);
}

// ---- model list

static const struct ls_column list_columns[] = {
    {"MODEL", "name", false},
    {"INPUT", "input", false},
    {"LAYERS", "layers", true},
    {"PARAMETERS", "parameters", true},
    {"MULTIPLY-ADDS", "multiply_adds", true},
    {"DESCRIPTION", "description", false},
};

static int run_list(struct ls_cli *cli, int count, char **arguments) {
  (void)count, (void)arguments;
  const struct options *options = cli->options;
  struct ls_error err = LS_ERROR_INIT;
  char **names = NULL;
  size_t name_count = 0;
  if (ls_spec_list_networks(&names, &name_count, &err) != LS_OK) return ls_cli_fail(&err);
  struct ls_table *table = ls_table_new(list_columns, LS_COUNT(list_columns));
  int result = LS_CLI_OK;
  for (size_t i = 0; i < name_count; i++) {
    Lockstep__V1__Network *network;
    struct ls_graph *graph;
    int code = load(names[i], &network, &graph, &err);
    if (code == LS_CLI_OK) {
      struct totals sum = sum_up(graph);
      struct ls_shape input = ls_graph_input_shape(graph);
      char shape[64];
      ls_table_add(table, names[i], NULL);
      ls_table_add(table, ls_shape_format(&input, shape, sizeof shape), NULL);
      ls_table_add_count(table, (uint64_t)ls_graph_layer_count(graph));
      ls_table_add_count(table, (uint64_t)sum.parameters);
      ls_table_add_count(table, (uint64_t)sum.multiply_adds);
      ls_table_add(table, network->description ? network->description : "", NULL);
      unload(network, graph);
    } else {
      result = code;
    }
    free(names[i]);
  }
  free(names);
  ls_table_print(table, options->format, 0, stdout);
  return result;
}

// ---- model show

static const struct ls_column show_columns[] = {
    {"LAYER", "name", false},
    {"TYPE", "type", false},
    {"", "detail", false},
    {"OUTPUT", "output", true},
    {"PARAMETERS", "parameters", true},
    {"MULTIPLY-ADDS", "multiply_adds", true},
    {"VALUES", "activations", true},
    {"MEMORY", "activation_bytes", true},
};

static void add_bytes(struct ls_table *table, int64_t values) {
  char text[32];
  ls_table_add_number(table, ls_format_bytes(text, 4.0 * (double)values), 4.0 * (double)values);
}

static void add_layer(struct ls_table *table, const struct ls_layer_summary *layer) {
  char shape[64];
  ls_table_add(table, layer->name, NULL);
  ls_table_add(table, layer->type, NULL);
  ls_table_add(table, layer->detail, NULL);
  ls_table_add(table, ls_shape_format(&layer->output, shape, sizeof shape), NULL);
  ls_table_add_count(table, (uint64_t)layer->parameters);
  ls_table_add_count(table, (uint64_t)layer->multiply_adds);
  ls_table_add_count(table, (uint64_t)layer->activations);
  add_bytes(table, layer->activations);
}

// `memory`: what to say about memory, a line of its own in JSON; may be empty.
static void print_layers(const Lockstep__V1__Network *network, const struct ls_graph *graph,
                         enum ls_output_format format, const struct ls_string *memory) {
  struct ls_shape input = ls_graph_input_shape(graph);
  char shape[64];
  if (format == LS_OUTPUT_TABLE) {
    printf("%s%s%s\ninput %s\n\n", network->name ? network->name : "", network->description ? ": " : "",
           network->description ? network->description : "", ls_shape_format(&input, shape, sizeof shape));
  }
  struct ls_table *table = ls_table_new(show_columns, LS_COUNT(show_columns));
  for (int i = 0; i < ls_graph_layer_count(graph); i++) {
    struct ls_layer_summary layer;
    ls_graph_layer_summary(graph, i, &layer);
    add_layer(table, &layer);
  }
  struct totals sum = sum_up(graph);
  ls_table_add(table, "total", NULL);
  for (int i = 0; i < 3; i++) ls_table_add(table, "", NULL);
  ls_table_add_count(table, (uint64_t)sum.parameters);
  ls_table_add_count(table, (uint64_t)sum.multiply_adds);
  ls_table_add_count(table, (uint64_t)sum.activations);
  add_bytes(table, sum.activations);
  if (format == LS_OUTPUT_TABLE) {
    ls_table_print(table, format, 1, stdout);
    fputs(ls_string_text(memory), stdout);
    return;
  }
  struct ls_string text = LS_STRING_INIT;
  ls_string_add(&text, "{\"name\": ");
  ls_json_string(&text, network->name ? network->name : "");
  ls_string_addf(&text, ", \"parameters\": %lld, \"multiply_adds\": %lld, \"activations\": %lld,\n \"layers\": ",
                 (long long)sum.parameters, (long long)sum.multiply_adds, (long long)sum.activations);
  fputs(ls_string_text(&text), stdout);
  ls_string_release(&text);
  ls_table_print(table, format, 1, stdout);
  if (memory->size) printf(",\n \"memory\": %s\n", ls_string_text(memory));
  puts("}");
}

static int print_plan(const struct options *options, const struct ls_graph *graph) {
  struct ls_error err = LS_ERROR_INIT;
  const struct ls_backend_ops *ops = ls_backend_cpu();
  struct ls_backend backend = {.ops = NULL, .state = NULL};
  struct ls_plan *plan = NULL;
  uint64_t batch = options->batch ? options->batch : 256, shards = options->shards ? options->shards : 8;
  if (batch % shards) {
    return ls_cli_complain(LS_CLI_USAGE, "--batch %llu cannot be split into %llu equal shards",
                           (unsigned long long)batch, (unsigned long long)shards);
  }
  if (!ops) return ls_cli_complain(LS_CLI_FAILED, "this build has no cpu backend");
  if (ops->open(0, &backend, &err) != LS_OK) return ls_cli_fail(&err);
  struct ls_plan_options plan_options = {.batch = (int64_t)(batch / shards),
                                         .training = !options->inference,
                                         .dtype = LS_F32,
                                         .loss_images = (int64_t)batch};
  int code = LS_CLI_OK;
  if (ls_plan_build(graph, &backend, &plan_options, &plan, &err) == LS_OK) {
    printf("\nPlan for one shard of %llu image%s on the cpu backend, %s:\n\n", (unsigned long long)(batch / shards),
           batch / shards == 1 ? "" : "s", options->inference ? "inference" : "training");
    ls_plan_print(plan, stdout);
    ls_plan_free(plan);
  } else {
    code = ls_cli_fail(&err);
  }
  ops->close(&backend);
  return code;
}

static int run_show(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Network *network;
  struct ls_graph *graph;
  int code = load(arguments[0], &network, &graph, &err);
  if (code != LS_CLI_OK) return code;
  struct ls_string memory = LS_STRING_INIT;
  if (options->memory)
    code = memory_describe(&options->of_memory, options->batch, options->shards, graph, options->format, &memory);
  if (code == LS_CLI_OK) print_layers(network, graph, options->format, &memory);
  if (code == LS_CLI_OK && options->plan && options->format == LS_OUTPUT_TABLE) code = print_plan(options, graph);
  ls_string_release(&memory);
  unload(network, graph);
  return code;
}

static const struct ls_option list_rows[] = {LS_OPTION_OUTPUT(struct options)};

const struct ls_command ls_cmd_model_list = {
    .name = "model list",
    .summary = "List the networks that come with Lockstep",
    .options = list_rows,
    .option_count = LS_COUNT(list_rows),
    .options_bytes = sizeof(struct options),
    .run = run_list,
};

static const struct ls_option show_rows[] = {
    {'p', "plan", NULL, LS_OPTION_FLAG, offsetof(struct options, plan), 0,
     "and the operations, kernels, layouts and memory of one shard"},
    {'m', "memory", NULL, LS_OPTION_FLAG, offsetof(struct options, memory), 0,
     "and the memory that training takes on each device, by kind, and the largest batch that fits"},
    {'b', "batch", "N", LS_OPTION_NUMBER, offsetof(struct options, batch), 1,
     "images a step, for --plan and --memory (256)"},
    {0, "shards", "N", LS_OPTION_NUMBER, offsetof(struct options, shards), 1,
     "parts of the batch, for --plan and --memory (8)"},
    {0, "devices", "N", LS_OPTION_NUMBER, offsetof(struct options, of_memory.devices), 1,
     "devices that share the batch, for --memory (1)"},
    {0, "kind", "cpu|gpu", LS_OPTION_TEXT, offsetof(struct options, of_memory.kind), 0,
     "of the devices, for --memory (gpu; float32: cpu)"},
    {0, "precision", "NAME", LS_OPTION_TEXT, offsetof(struct options, of_memory.precision), 0,
     "float32, tf32, bfloat16 or float16, for --memory (float32)"},
    {0, "device-memory", "GIB", LS_OPTION_REAL, offsetof(struct options, of_memory.device_gib), 0,
     "memory of a device, for --memory (gpu: 80; cpu: this machine's)"},
    {0, "inference", NULL, LS_OPTION_FLAG, offsetof(struct options, inference), 0, "the plan without backward pass"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_model_show = {
    .name = "model show",
    .arguments = "MODEL",
    .summary = "Show a network: layers, output shapes, parameters, multiply-adds, memory",
    .details =
        "MODEL is a name from 'lockstep model list' or a network file. All figures are for one image; memory is that\n"
        "of the layer's output in float32.",
    .options = show_rows,
    .option_count = LS_COUNT(show_rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run_show,
};
