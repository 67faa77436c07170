// lockstep watch, cancel, pause, resume: what one does with a job that is there.
#include "cli/cli.h"
#include "cli/commands.h"

struct options {
  bool quiet;
  uint64_t devices;
  enum ls_output_format format;
};

static int run_watch(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  Lockstep__V1__JobInfo *info = NULL;
  int code = ls_remote_find(cli, arguments[0], false, &info);
  if (code != LS_CLI_OK) return code;
  code = ls_remote_watch(cli, info->id, options->quiet, options->format);
  protobuf_c_message_free_unpacked(&info->base, NULL);
  return code;
}

static int print_result(const struct options *options, const Lockstep__V1__JobInfo *info) {
  if (options->format == LS_OUTPUT_JSON) return ls_cli_print_json(&info->base);
  printf("job %s (%s) is %s%s%s\n", info->id, info->name, ls_remote_state_name(info->state),
         info->reason[0] ? ": " : "", info->reason);
  return LS_CLI_OK;
}

// Finds each job and makes the call; goes on after a failure and returns the first one's code.
static int for_each(struct ls_cli *cli, int count, char **arguments, const char *method) {
  const struct options *options = cli->options;
  int result = LS_CLI_OK;
  for (int i = 0; i < count; i++) {
    Lockstep__V1__JobInfo *info = NULL;
    ProtobufCMessage *response = NULL;
    int code = ls_remote_find(cli, arguments[i], false, &info);
    if (code == LS_CLI_OK) {
      Lockstep__V1__JobRequest request = LOCKSTEP__V1__JOB_REQUEST__INIT;
      Lockstep__V1__ResumeRequest resume = LOCKSTEP__V1__RESUME_REQUEST__INIT;
      request.id = resume.id = info->id;
      resume.devices = (uint32_t)options->devices;
      bool is_resume = method[0] == 'R';
      code = ls_remote_call(cli, method, is_resume ? &resume.base : &request.base, &lockstep__v1__job_info__descriptor,
                            &response);
    }
    if (code == LS_CLI_OK) code = print_result(options, (Lockstep__V1__JobInfo *)response);
    if (response) protobuf_c_message_free_unpacked(response, NULL);
    if (info) protobuf_c_message_free_unpacked(&info->base, NULL);
    if (result == LS_CLI_OK) result = code;
  }
  return result;
}

static int run_cancel(struct ls_cli *cli, int count, char **arguments) {
  return for_each(cli, count, arguments, "Cancel");
}
static int run_pause(struct ls_cli *cli, int count, char **arguments) {
  return for_each(cli, count, arguments, "Pause");
}
static int run_resume(struct ls_cli *cli, int count, char **arguments) {
  return for_each(cli, count, arguments, "Resume");
}

static const struct ls_option watch_rows[] = {
    {'q', "quiet", NULL, LS_OPTION_FLAG, offsetof(struct options, quiet), 0, "only how it ends"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_watch = {
    .name = "watch",
    .arguments = "JOB",
    .summary = "Follow a job to its end",
    .details =
        "The exit code is the job's outcome: 0 succeeded, 1 failed, 5 cancelled. Ctrl-C stops watching, not the job.\n"
        "With -o json one line for each event.",
    .options = watch_rows,
    .option_count = LS_COUNT(watch_rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run_watch,
};

static const struct ls_option rows[] = {LS_OPTION_OUTPUT(struct options)};

const struct ls_command ls_cmd_cancel = {
    .name = "cancel",
    .arguments = "JOB...",
    .summary = "Stop jobs, with a checkpoint, and end them",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = -1,
    .run = run_cancel,
};

const struct ls_command ls_cmd_pause = {
    .name = "pause",
    .arguments = "JOB...",
    .summary = "Stop jobs after a checkpoint and free their devices",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = -1,
    .run = run_pause,
};

static const struct ls_option resume_rows[] = {
    {'d', "devices", "N", LS_OPTION_NUMBER, offsetof(struct options, devices), 1,
     "go on with this many devices; the result has the same bits"},
    LS_OPTION_OUTPUT(struct options),
};

const struct ls_command ls_cmd_resume = {
    .name = "resume",
    .arguments = "JOB...",
    .summary = "Queue paused, cancelled or failed jobs again; they go on from their newest checkpoint",
    .options = resume_rows,
    .option_count = LS_COUNT(resume_rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = -1,
    .run = run_resume,
};
