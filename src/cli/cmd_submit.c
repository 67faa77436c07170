// lockstep submit: reads a job file, completes and checks it here (so that an error names file and line), sends it.
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "graph/graph.h"
#include "spec/spec.h"

struct options {
  struct ls_text_list set;
  bool watch, dry_run, quiet;
  const char *request_key;
  enum ls_output_format format;
};

// A key that makes a repeated request harmless: random unless the user gave one.
static void make_key(char key[33]) {
  unsigned char bytes[16] = {0};
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
    key[0] = '\0';
    return;
  }
  for (int i = 0; i < 16; i++) snprintf(key + 2 * i, 3, "%02x", bytes[i]);
}

static int send_job(struct ls_cli *cli, const struct options *options, Lockstep__V1__Job *job) {
  char key[33];
  make_key(key);
  Lockstep__V1__SubmitRequest request = LOCKSTEP__V1__SUBMIT_REQUEST__INIT;
  request.job = job;
  request.request_key = options->request_key ? (char *)options->request_key : key;
  ProtobufCMessage *response = NULL;
  int code = ls_remote_call(cli, "Submit", &request.base, &lockstep__v1__submit_response__descriptor, &response);
  if (code != LS_CLI_OK) return code;
  const char *id = ((Lockstep__V1__SubmitResponse *)response)->id;
  if (options->format == LS_OUTPUT_JSON) {
    code = ls_cli_print_json(response);
  } else if (options->quiet) {
    printf("%s\n", id);
  } else {
    printf("submitted: job %s (%s)\n", id, job->name ? job->name : "");
  }
  fflush(stdout);
  if (options->watch && code == LS_CLI_OK) code = ls_remote_watch(cli, id, false, options->format);
  protobuf_c_message_free_unpacked(response, NULL);
  return code;
}

// Shapes that cannot be are told here, not by a failed job later.
static ls_status check_network(const char *file, const Lockstep__V1__Job *job, struct ls_error *err) {
  struct ls_graph *graph = NULL;
  ls_status status = ls_graph_build(job->network, &graph, err);
  ls_graph_free(graph);
  return status == LS_OK ? LS_OK : ls_error_prefix(err, "%s", file);
}

// The job with all defaults, as a file that can be submitted again: the network inline, without the name it came from.
static int print_job(const struct options *options, const Lockstep__V1__Job *job) {
  struct ls_string text = LS_STRING_INIT;
  Lockstep__V1__Job copy = *job;
  copy.model = NULL;
  if (options->format == LS_OUTPUT_JSON) {
    ls_spec_write_json(&copy.base, 2, &text);
  } else {
    ls_spec_write_yaml(&copy.base, &text);
  }
  fputs(ls_string_text(&text), stdout);
  int code = text.failed ? ls_cli_complain(LS_CLI_FAILED, "memory ran out") : LS_CLI_OK;
  ls_string_release(&text);
  return code;
}

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = NULL;
  if (ls_spec_load_job(arguments[0], options->set.item, options->set.count, &job, &err) != LS_OK) {
    return ls_cli_fail(&err);
  }
  int code;
  bool wrong = check_network(arguments[0], job, &err) != LS_OK ||
               (!options->dry_run && ls_spec_check_data(arguments[0], job, &err) != LS_OK);
  if (wrong) {
    code = ls_cli_fail(&err);
  } else {
    code = options->dry_run ? print_job(options, job) : send_job(cli, options, job);
  }
  protobuf_c_message_free_unpacked(&job->base, NULL);
  return code;
}

static const struct ls_option rows[] = {
    LS_OPTION_SET(struct options),
    {'w', "watch", NULL, LS_OPTION_FLAG, offsetof(struct options, watch), 0, "follow it; the exit code is its outcome"},
    {'n', "dry-run", NULL, LS_OPTION_FLAG, offsetof(struct options, dry_run), 0,
     "check the file and print it with all defaults, submit nothing"},
    {'q', "quiet", NULL, LS_OPTION_FLAG, offsetof(struct options, quiet), 0, "print nothing but the job's id"},
    {0, "request-key", "TEXT", LS_OPTION_TEXT, offsetof(struct options, request_key), 0,
     "a second submission with the same key makes no second job"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_submit = {
    .name = "submit",
    .arguments = "FILE",
    .summary = "Submit a training job to the daemon",
    .details =
        "FILE is a job file (see configs/jobs and 'lockstep help'). The job is stored before this command returns.",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
