// Every command, for the table in main.c.
#ifndef LS_CLI_COMMANDS_H
#define LS_CLI_COMMANDS_H

#include "cli/cli.h"

extern const struct ls_command ls_cmd_submit, ls_cmd_list, ls_cmd_show, ls_cmd_watch, ls_cmd_logs, ls_cmd_cancel,
    ls_cmd_pause, ls_cmd_resume, ls_cmd_checkpoints, ls_cmd_devices;
extern const struct ls_command ls_cmd_data_import, ls_cmd_data_inspect, ls_cmd_data_bench;
extern const struct ls_command ls_cmd_model_list, ls_cmd_model_show;
extern const struct ls_command ls_cmd_train, ls_cmd_eval, ls_cmd_predict, ls_cmd_bench;
extern const struct ls_command ls_cmd_help, ls_cmd_completion, ls_cmd_version;

#endif
