// lockstep bench: how fast a network trains here, on generated images.
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "spec/spec.h"
#include "worker/bench.h"

struct options {
  uint64_t batch, steps, devices, shards;
  bool inference, fast;
  const char *kind, *precision;  // NULL: auto, float32
  enum ls_output_format format;
};

static void print_result(const struct options *options, const char *model, const struct ls_bench_result *result) {
  char text[32];
  if (options->format == LS_OUTPUT_JSON) {
    struct ls_string name = LS_STRING_INIT;
    ls_json_string(&name, model);
    printf(
        "{\"model\": %s, \"batch\": %llu, \"steps\": %llu, \"inference\": %s, \"images_per_s\": %.6g, "
        "\"step_ms\": %.6g, \"step_ms_low\": %.6g, \"step_ms_high\": %.6g, \"input_wait\": %.6g, "
        "\"peak_rss_bytes\": %llu, \"device_memory_bytes\": %llu, \"workers\": %u, \"shards\": %u, \"device\": \"%s\", "
        "\"precision\": \"%s\", "
        "\"parameters_sha256\": \"%s\"}\n",
        ls_string_text(&name), (unsigned long long)options->batch, (unsigned long long)options->steps,
        options->inference ? "true" : "false", result->images_per_s, result->step_ms, result->step_ms_low,
        result->step_ms_high, result->input_wait, (unsigned long long)result->peak_rss_bytes,
        (unsigned long long)result->device_memory_bytes, result->workers, result->shards, result->device,
        options->precision ? options->precision : ls_cli_precisions[0], result->parameters_sha256);
    ls_string_release(&name);
    return;
  }
  printf("%s, %s in %s on %s, batch %llu, %u worker%s, %u shard%s\n", model,
         options->inference ? "inference" : "training", options->precision ? options->precision : ls_cli_precisions[0],
         result->device, (unsigned long long)options->batch, result->workers, result->workers == 1 ? "" : "s",
         result->shards, result->shards == 1 ? "" : "s");
  printf("images_per_s    %s\n", ls_format_rate(text, result->images_per_s));
  printf("step_ms         %.2f (10 %% below %.2f, 10 %% above %.2f)\n", result->step_ms, result->step_ms_low,
         result->step_ms_high);
  printf("input_wait      %.2f %%\n", result->input_wait * 100);
  printf("peak_rss_bytes  %s\n", ls_format_bytes(text, (double)result->peak_rss_bytes));
  if (result->device_memory_bytes)
    printf("device_memory_bytes  %s\n", ls_format_bytes(text, (double)result->device_memory_bytes));
}

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  struct options options = *(const struct options *)cli->options;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Network *network = NULL;
  if (options.batch == 0) options.batch = 256;
  if (options.steps == 0) options.steps = 20;
  int kind = ls_cli_device_kind(options.kind);
  int precision = options.precision ? ls_cli_precision(options.precision) : 1;
  if (!kind || !precision) return LS_CLI_USAGE;
  if (ls_spec_load_network(arguments[0], NULL, &network, &err) != LS_OK) return ls_cli_fail(&err);
  struct ls_bench_options bench = {
      .network = network,
      .batch = (unsigned)options.batch,
      .steps = (unsigned)options.steps,
      .devices = (unsigned)options.devices,
      .shards = (unsigned)options.shards,
      .inference = options.inference,
      .fast = options.fast,
      .kind = (Lockstep__V1__DeviceKind)kind,
      .precision = (Lockstep__V1__Precision)precision,
  };
  struct ls_bench_result result;
  int code = LS_CLI_OK;
  if (ls_bench(&bench, &result, &err) == LS_OK) {
    print_result(&options, arguments[0], &result);
  } else {
    code = ls_cli_fail(&err);
  }
  protobuf_c_message_free_unpacked(&network->base, NULL);
  return code;
}

static const struct ls_option rows[] = {
    {'b', "batch", "N", LS_OPTION_NUMBER, offsetof(struct options, batch), 1, "images a step, over all devices (256)"},
    {'n', "steps", "N", LS_OPTION_NUMBER, offsetof(struct options, steps), 1, "steps to measure (20)"},
    {'d', "devices", "K", LS_OPTION_NUMBER, offsetof(struct options, devices), 1, "devices (one a core, or all GPUs)"},
    {0, "shards", "S", LS_OPTION_NUMBER, offsetof(struct options, shards), 1,
     "parts of the batch (as many as devices)"},
    LS_OPTION_KIND(struct options),
    {0, "precision", "NAME", LS_OPTION_TEXT, offsetof(struct options, precision), 0,
     "float32, tf32, bfloat16 or float16 (float32)"},
    {0, "inference", NULL, LS_OPTION_FLAG, offsetof(struct options, inference), 0, "forward pass only"},
    {0, "fast", NULL, LS_OPTION_FLAG, offsetof(struct options, fast), 0,
     "as reduce: fast: kernels that may give other bits on another run"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_bench = {
    .name = "bench",
    .arguments = "MODEL",
    .summary = "Measure how fast a network trains on this machine, on generated images",
    .details = "MODEL is a name from 'lockstep model list' or a network file. Needs no data set and no daemon.",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
