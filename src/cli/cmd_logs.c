// lockstep logs: what a job's coordinator printed.
#include <signal.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"

struct options {
  bool follow;
  uint64_t tail;
};

static bool on_data(void *user, const ProtobufCMessage *message) {
  (void)user;
  const Lockstep__V1__LogsResponse *response = (const Lockstep__V1__LogsResponse *)message;
  size_t written = fwrite(response->data.data, 1, response->data.len, stdout);
  return written == response->data.len && fflush(stdout) == 0;
}

static void on_interrupt(int signal_number) {
  (void)signal_number;
  _exit(LS_CLI_SIGNAL);
}

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)count;
  const struct options *options = cli->options;
  Lockstep__V1__JobInfo *info = NULL;
  int code = ls_remote_find(cli, arguments[0], false, &info);
  if (code != LS_CLI_OK) return code;
  struct sigaction action = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &action, NULL);
  Lockstep__V1__LogsRequest request = LOCKSTEP__V1__LOGS_REQUEST__INIT;
  request.id = info->id;
  request.follow = options->follow;
  request.tail = (uint32_t)options->tail;
  code = ls_remote_stream(cli, "Logs", &request.base, &lockstep__v1__logs_response__descriptor, on_data, NULL);
  protobuf_c_message_free_unpacked(&info->base, NULL);
  return code;
}

static const struct ls_option rows[] = {
    {'f', "follow", NULL, LS_OPTION_FLAG, offsetof(struct options, follow), 0, "go on until the job ends"},
    {'n', "tail", "N", LS_OPTION_NUMBER, offsetof(struct options, tail), 1, "only the last N lines"},
};

const struct ls_command ls_cmd_logs = {
    .name = "logs",
    .arguments = "JOB",
    .summary = "Print a job's log",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
