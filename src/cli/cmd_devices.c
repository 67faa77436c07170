// lockstep devices: the daemon's devices and who holds them.
#include "cli/cli.h"
#include "cli/commands.h"

struct options {
  enum ls_output_format format;
};

static const struct ls_column columns[] = {
    {"DEVICE", "name", false},
    {"STATE", "state", false},
    {"JOBS", "jobs", false},
    {"MEMORY", "memory_bytes", true},
    {"IN USE", "memory_used_bytes", true},
    {"BUSY", "utilisation", true},
    {"TEMPERATURE", "temperature_c", true},
    {"DESCRIPTION", "description", false},
};

// A number that not every device tells; negative: it does not.
static void add_told(struct ls_table *table, const char *format, double value) {
  char text[32];
  snprintf(text, sizeof text, format, value);
  ls_table_add(table, value < 0 ? "-" : text, NULL);
}

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)count, (void)arguments;
  const struct options *options = cli->options;
  Lockstep__V1__DevicesRequest request = LOCKSTEP__V1__DEVICES_REQUEST__INIT;
  ProtobufCMessage *response = NULL;
  int code = ls_remote_call(cli, "Devices", &request.base, &lockstep__v1__devices_response__descriptor, &response);
  if (code != LS_CLI_OK) return code;
  const Lockstep__V1__DevicesResponse *devices = (Lockstep__V1__DevicesResponse *)response;
  if (options->format == LS_OUTPUT_JSON) {
    code = ls_cli_print_json(response);
    protobuf_c_message_free_unpacked(response, NULL);
    return code;
  }
  struct ls_table *table = ls_table_new(columns, LS_COUNT(columns));
  for (size_t i = 0; i < devices->n_devices; i++) {
    const Lockstep__V1__Device *device = devices->devices[i];
    struct ls_string text = LS_STRING_INIT;
    char bytes[32];
    ls_table_add(table, device->name, NULL);
    const char *state = !device->healthy ? "unhealthy" : device->n_jobs ? "busy" : device->reason[0] ? "taken" : "free";
    ls_table_add(table, state, NULL);
    for (size_t j = 0; j < device->n_jobs; j++) ls_string_addf(&text, "%s%s", j ? " " : "", device->jobs[j]);
    ls_table_add(table, text.size ? ls_string_text(&text) : "-", NULL);
    ls_table_add(table, device->memory_bytes ? ls_format_bytes(bytes, (double)device->memory_bytes) : "-", NULL);
    ls_table_add(table, device->memory_bytes ? ls_format_bytes(bytes, (double)device->memory_used_bytes) : "-", NULL);
    add_told(table, "%.0f %%", device->uuid[0] ? 100 * device->utilisation : -1);
    add_told(table, "%.0f °C", device->uuid[0] ? device->temperature_c : -1);
    ls_table_add(table, device->description, NULL);
    ls_string_release(&text);
  }
  ls_table_print(table, LS_OUTPUT_TABLE, 0, stdout);
  for (size_t i = 0; i < devices->n_devices; i++) {
    const Lockstep__V1__Device *device = devices->devices[i];
    if (device->reason[0])
      printf("%s %s%s%s%s\n", device->name, device->reason, *device->uuid ? " (" : "", device->uuid,
             *device->uuid ? ")" : "");
  }
  protobuf_c_message_free_unpacked(response, NULL);
  return LS_CLI_OK;
}

static const struct ls_option rows[] = {LS_OPTION_OUTPUT(struct options)};

const struct ls_command ls_cmd_devices = {
    .name = "devices",
    .summary = "List the devices and the jobs that hold them",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .run = run,
};
