// lockstep list: all jobs, newest last.
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"

struct options {
  struct ls_text_list state;
  enum ls_output_format format;
};

static const struct ls_column columns[] = {
    {"JOB", "id", false},
    {"NAME", "name", false},
    {"STATE", "state", false},
    {"STEP", "step", true},
    {"OF", "total_steps", true},
    {"LOSS", "loss", true},
    {"ACCURACY", "accuracy", true},
    {"TEST", "validation_accuracy", true},
    {"IMAGES/S", "images_per_s", true},
    {"LEFT", "eta_s", true},
    {"SUBMITTED", "submitted", false},
    {"WHY", "reason", false},
};

static void add_row(struct ls_table *table, const Lockstep__V1__JobInfo *job) {
  char text[32];
  bool started = job->step > 0, running = job->state == LOCKSTEP__V1__JOB_STATE__RUNNING;
  ls_table_add(table, job->id, NULL);
  ls_table_add(table, job->name, NULL);
  ls_table_add(table, ls_remote_state_name(job->state), NULL);
  ls_table_add_count(table, job->step);
  ls_table_add_count(table, job->total_steps);
  snprintf(text, sizeof text, "%.4f", job->loss);
  ls_table_add_number(table, started ? text : "-", started ? job->loss : 0.0 / 0.0);
  ls_table_add_number(table, started ? ls_format_percent(text, job->accuracy) : "-",
                      started ? job->accuracy : 0.0 / 0.0);
  ls_table_add_number(table, job->has_validation_accuracy ? ls_format_percent(text, job->validation_accuracy) : "-",
                      job->has_validation_accuracy ? job->validation_accuracy : 0.0 / 0.0);
  ls_table_add_number(table, running ? ls_format_rate(text, job->images_per_s) : "-",
                      running ? job->images_per_s : 0.0 / 0.0);
  ls_table_add_number(table, running ? ls_format_duration(text, job->eta_s) : "-", running ? job->eta_s : 0.0 / 0.0);
  ls_table_add(table, ls_format_time(text, job->submitted_us), NULL);
  ls_table_add(table, job->reason, NULL);
}

static int parse_states(const struct ls_text_list *names, Lockstep__V1__JobState *states) {
  for (size_t i = 0; i < names->count; i++) {
    int state = LOCKSTEP__V1__JOB_STATE__QUEUED;
    while (state <= LOCKSTEP__V1__JOB_STATE__CANCELLED && strcmp(ls_remote_state_name(state), names->item[i]) != 0) {
      state++;
    }
    if (state > LOCKSTEP__V1__JOB_STATE__CANCELLED) {
      return ls_cli_complain(
          LS_CLI_USAGE, "unknown state '%s' (known: queued, starting, running, paused, succeeded, failed, cancelled)",
          names->item[i]);
    }
    states[i] = (Lockstep__V1__JobState)state;
  }
  return LS_CLI_OK;
}

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)count, (void)arguments;
  const struct options *options = cli->options;
  Lockstep__V1__JobState states[LS_TEXT_LIST_MAX];
  int code = parse_states(&options->state, states);
  if (code != LS_CLI_OK) return code;
  Lockstep__V1__ListRequest request = LOCKSTEP__V1__LIST_REQUEST__INIT;
  request.states = states;
  request.n_states = options->state.count;
  ProtobufCMessage *response = NULL;
  code = ls_remote_call(cli, "List", &request.base, &lockstep__v1__list_response__descriptor, &response);
  if (code != LS_CLI_OK) return code;
  const Lockstep__V1__ListResponse *list = (Lockstep__V1__ListResponse *)response;
  if (list->n_jobs == 0 && options->format == LS_OUTPUT_TABLE) {
    puts("no jobs");
  } else {
    struct ls_table *table = ls_table_new(columns, LS_COUNT(columns));
    for (size_t i = 0; i < list->n_jobs; i++) add_row(table, list->jobs[i]);
    ls_table_print(table, options->format, 0, stdout);
  }
  protobuf_c_message_free_unpacked(response, NULL);
  return LS_CLI_OK;
}

static const struct ls_option rows[] = {
    {'s', "state", "STATE", LS_OPTION_LIST, offsetof(struct options, state), 0,
     "only jobs in this state; may be repeated"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_list = {
    .name = "list",
    .summary = "List the daemon's jobs",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .run = run,
};
