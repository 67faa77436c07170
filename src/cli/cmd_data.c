// lockstep data import, inspect, bench.
#include "cli/cli.h"
#include "cli/commands.h"

static int run(struct ls_cli *cli, int count, char **arguments) {
  (void)cli, (void)count, (void)arguments;
  return ls_cli_complain(LS_CLI_USAGE, "the data commands are not built yet");
}

const struct ls_command ls_cmd_data_import = {.name = "data import",
                                              .arguments = "SOURCE FILE.h5",
                                              .summary = "Make a data set",
                                              .max_arguments = -1,
                                              .run = run};
const struct ls_command ls_cmd_data_inspect = {.name = "data inspect",
                                               .arguments = "FILE.h5",
                                               .summary = "Show what a data set holds",
                                               .max_arguments = -1,
                                               .run = run};
const struct ls_command ls_cmd_data_bench = {.name = "data bench",
                                             .arguments = "FILE.h5:/GROUP",
                                             .summary = "Measure how fast a data set is read",
                                             .max_arguments = -1,
                                             .run = run};
