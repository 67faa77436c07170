// lockstep show and lockstep checkpoints: everything about one job.
#include <stdarg.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "spec/spec.h"

struct options {
  bool specification;
  enum ls_output_format format;
};

static void line(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void line(const char *name, const char *format, ...) {
  va_list args;
  va_start(args, format);
  printf("%-18s ", name);
  vprintf(format, args);
  putchar('\n');
  va_end(args);
}

static void print_progress(const Lockstep__V1__JobInfo *job) {
  char a[32], b[32];
  line("step", "%s of %s (epoch %.2f)", ls_format_count(a, job->step), ls_format_count(b, job->total_steps),
       job->epoch);
  if (job->step == 0) return;
  line("loss", "%.4f", job->loss);
  line("accuracy", "%s", ls_format_percent(a, job->accuracy));
  if (job->has_validation_accuracy) line("test accuracy", "%s", ls_format_percent(a, job->validation_accuracy));
  line("learning rate", "%g", job->learning_rate);
  line("images/s", "%s", ls_format_rate(a, job->images_per_s));
  line("input wait", "%.2f %%", job->input_wait * 100);
  if (job->state == LOCKSTEP__V1__JOB_STATE__RUNNING) line("time left", "%s", ls_format_duration(a, job->eta_s));
}

static void print_info(const Lockstep__V1__JobInfo *job) {
  char text[32];
  line("job", "%s", job->id);
  line("name", "%s", job->name);
  line("state", "%s%s%s", ls_remote_state_name(job->state), job->reason[0] ? ": " : "", job->reason);
  line("user", "%s", job->user);
  line("submitted", "%s", ls_format_time(text, job->submitted_us));
  line("started", "%s", ls_format_time(text, job->started_us));
  line("ended", "%s", ls_format_time(text, job->ended_us));
  line("attempt", "%u of %u", job->attempt, job->max_attempts);
  print_progress(job);
  struct ls_string devices = LS_STRING_INIT;
  for (size_t i = 0; i < job->n_devices; i++) ls_string_addf(&devices, "%s%s", i ? ", " : "", job->devices[i]);
  line("devices", "%s", devices.size ? ls_string_text(&devices) : "-");
  ls_string_release(&devices);
  line("workers, shards", "%u, %u", job->workers, job->shards);
  if (job->pid) line("process", "%d", job->pid);
  line("folder", "%s", job->folder);
  line("checkpoints", "%zu%s%s", job->n_checkpoints, job->n_checkpoints ? ", newest " : "",
       job->n_checkpoints ? job->checkpoints[job->n_checkpoints - 1]->file : "");
  if (job->parameters_sha256[0]) line("parameters sha256", "%s", job->parameters_sha256);
}

static int run_show(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  Lockstep__V1__JobInfo *info = NULL;
  bool whole = options->specification || options->format == LS_OUTPUT_JSON;
  int code = ls_remote_find(cli, arguments[0], whole, &info);
  if (code != LS_CLI_OK) return code;
  if (options->format == LS_OUTPUT_JSON) {
    code = ls_cli_print_json(&info->base);
  } else if (options->specification && info->job) {
    struct ls_string text = LS_STRING_INIT;
    ls_spec_write_yaml(&info->job->base, &text);
    fputs(ls_string_text(&text), stdout);
    ls_string_release(&text);
  } else {
    print_info(info);
  }
  protobuf_c_message_free_unpacked(&info->base, NULL);
  return code;
}

static const struct ls_column checkpoint_columns[] = {
    {"STEP", "step", true},      {"EPOCH", "epoch", true},         {"BYTES", "bytes", true},
    {"STALL", "stall_ms", true}, {"WRITTEN IN", "write_ms", true}, {"FILE", "file", false},
};

static int run_checkpoints(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  Lockstep__V1__JobInfo *info = NULL;
  int code = ls_remote_find(cli, arguments[0], false, &info);
  if (code != LS_CLI_OK) return code;
  if (info->n_checkpoints == 0 && options->format == LS_OUTPUT_TABLE) {
    puts("no checkpoints yet");
  } else {
    struct ls_table *table = ls_table_new(checkpoint_columns, LS_COUNT(checkpoint_columns));
    for (size_t i = 0; i < info->n_checkpoints; i++) {
      const Lockstep__V1__CheckpointReport *checkpoint = info->checkpoints[i];
      char text[32];
      ls_table_add_count(table, checkpoint->step);
      snprintf(text, sizeof text, "%.2f", checkpoint->epoch);
      ls_table_add_number(table, text, checkpoint->epoch);
      ls_table_add_number(table, ls_format_bytes(text, (double)checkpoint->bytes), (double)checkpoint->bytes);
      snprintf(text, sizeof text, "%.1f ms", checkpoint->stall_ms);
      ls_table_add_number(table, text, checkpoint->stall_ms);
      snprintf(text, sizeof text, "%.0f ms", checkpoint->write_ms);
      ls_table_add_number(table, text, checkpoint->write_ms);
      ls_table_add(table, checkpoint->file, NULL);
    }
    ls_table_print(table, options->format, 0, stdout);
  }
  protobuf_c_message_free_unpacked(&info->base, NULL);
  return LS_CLI_OK;
}

static const struct ls_option rows[] = {
    {0, "spec", NULL, LS_OPTION_FLAG, offsetof(struct options, specification), 0,
     "print the job's specification as YAML, with all defaults"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_show = {
    .name = "show",
    .arguments = "JOB",
    .summary = "Show everything about a job",
    .details = "JOB is an id, the beginning of one, or a name (then the newest job of that name).",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run_show,
};

static const struct ls_option checkpoint_rows[] = {LS_OPTION_OUTPUT(struct options)};

const struct ls_command ls_cmd_checkpoints = {
    .name = "checkpoints",
    .arguments = "JOB",
    .summary = "List the checkpoints of a job",
    .options = checkpoint_rows,
    .option_count = LS_COUNT(checkpoint_rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run_checkpoints,
};
