// The command `lockstep`: the table of commands, and finding the one that was typed.
#include <locale.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"

const struct ls_command *const ls_commands[] = {
    // jobs in the daemon
    &ls_cmd_submit, &ls_cmd_list, &ls_cmd_show, &ls_cmd_watch, &ls_cmd_logs, &ls_cmd_cancel, &ls_cmd_pause,
    &ls_cmd_resume, &ls_cmd_checkpoints, &ls_cmd_devices,
    // without a daemon
    &ls_cmd_train, &ls_cmd_eval, &ls_cmd_predict, &ls_cmd_bench,
    // data and networks
    &ls_cmd_data_import, &ls_cmd_data_inspect, &ls_cmd_data_bench, &ls_cmd_model_list, &ls_cmd_model_show,
    // about the command itself
    &ls_cmd_help, &ls_cmd_completion, &ls_cmd_version, NULL};

static void print_usage(FILE *out) {
  static const struct {
    const char *before, *heading;
  } groups[] = {{"submit", "Jobs in the daemon"},
                {"train", "Without a daemon"},
                {"data import", "Data and networks"},
                {"help", "More"}};
  fputs("usage: lockstep [--address ADDRESS] COMMAND [OPTION]... [ARGUMENT]...\n", out);
  for (size_t i = 0; ls_commands[i]; i++) {
    for (size_t g = 0; g < LS_COUNT(groups); g++) {
      if (strcmp(ls_commands[i]->name, groups[g].before) == 0) fprintf(out, "\n%s\n", groups[g].heading);
    }
    fprintf(out, "  %-14s %s\n", ls_commands[i]->name, ls_commands[i]->summary);
  }
  fputs(
      "\n'lockstep COMMAND --help' tells more. The daemon is found at --address, else LOCKSTEP_ADDRESS, else its "
      "usual\n"
      "socket ($XDG_RUNTIME_DIR/lockstep, ~/.local/state/lockstep, /run/lockstep).\n"
      "\nExit codes: 0 done, or the job succeeded; 1 failed, or the job failed; 2 wrong usage or input; 3 the daemon "
      "does\n"
      "not answer; 4 no such job, file or model; 5 the job was cancelled; 74 train could not go on for an outside "
      "reason;\n"
      "75 train was stopped after a checkpoint (both: the same command goes on from there); 130 ended by Ctrl-C.\n",
      out);
}

// The first of the usual sockets that is there; the first of all when none is, for the error message.
static void default_address(char *address, size_t size) {
  const char *given = getenv("LOCKSTEP_ADDRESS");
  if (given && given[0]) {
    snprintf(address, size, "%s", given);
    return;
  }
  const char *runtime = getenv("XDG_RUNTIME_DIR"), *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
  const struct passwd *user = home && home[0] ? NULL : getpwuid(getuid());
  if (!home || !home[0]) home = user ? user->pw_dir : "";
  char path[3][400] = {"", "", "/run/lockstep/lockstepd.sock"};
  if (runtime && runtime[0]) snprintf(path[0], sizeof path[0], "%s/lockstep/lockstepd.sock", runtime);
  if (state && state[0]) {
    snprintf(path[1], sizeof path[1], "%s/lockstep/lockstepd.sock", state);
  } else {
    snprintf(path[1], sizeof path[1], "%s/.local/state/lockstep/lockstepd.sock", home);
  }
  int chosen = path[0][0] ? 0 : 1;
  for (int i = 0; i < 3; i++) {
    struct stat info;
    if (path[i][0] && stat(path[i], &info) == 0) {
      chosen = i;
      break;
    }
  }
  snprintf(address, size, "unix:%s", path[chosen]);
}

// The command whose words stand at the front of argv; *words of them. "model" alone: *group is set.
static const struct ls_command *find_command(int argc, char **argv, int *words, bool *group) {
  *group = false;
  for (size_t i = 0; ls_commands[i]; i++) {
    const char *name = ls_commands[i]->name, *space = strchr(name, ' ');
    size_t first = space ? (size_t)(space - name) : strlen(name);
    if (strlen(argv[0]) != first || strncmp(argv[0], name, first) != 0) continue;
    if (!space) {
      *words = 1;
      return ls_commands[i];
    }
    *group = true;
    if (argc > 1 && strcmp(argv[1], space + 1) == 0) {
      *words = 2;
      return ls_commands[i];
    }
  }
  return NULL;
}

// Number of single-character edits between two words, at most 15 long.
static unsigned distance(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  if (n > 15 || m > 15) return 99;
  unsigned row[16];
  for (unsigned j = 0; j <= m; j++) row[j] = j;
  for (size_t i = 1; i <= n; i++) {
    unsigned diagonal = row[0];
    row[0] = (unsigned)i;
    for (size_t j = 1; j <= m; j++) {
      unsigned up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
      if (up + 1 < best) best = up + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      diagonal = up;
      row[j] = best;
    }
  }
  return row[m];
}

static int no_such_command(int argc, char **argv, bool group) {
  if (group) {
    struct ls_string known = LS_STRING_INIT;
    size_t length = strlen(argv[0]);
    for (size_t i = 0; ls_commands[i]; i++) {
      const char *name = ls_commands[i]->name;
      if (strncmp(name, argv[0], length) != 0 || name[length] != ' ') continue;
      ls_string_addf(&known, "%s%s", known.size ? ", " : "", name + length + 1);
    }
    int code = ls_cli_complain(LS_CLI_USAGE, "'lockstep %s' needs one of: %s%s%s%s", argv[0], ls_string_text(&known),
                               argc > 1 ? ", found '" : "", argc > 1 ? argv[1] : "", argc > 1 ? "'" : "");
    ls_string_release(&known);
    return code;
  }
  const char *nearest = NULL;
  unsigned least = 3;
  for (size_t i = 0; ls_commands[i]; i++) {
    unsigned d = distance(argv[0], ls_commands[i]->name);
    if (d < least) {
      least = d;
      nearest = ls_commands[i]->name;
    }
  }
  if (nearest) {
    return ls_cli_complain(LS_CLI_USAGE, "unknown command '%s'; did you mean '%s'?", argv[0], nearest);
  }
  return ls_cli_complain(LS_CLI_USAGE, "unknown command '%s' (see lockstep --help)", argv[0]);
}

static int run_command(struct ls_cli *cli, const struct ls_command *command, int argc, char **argv) {
  void *options = calloc(1, command->options_bytes ? command->options_bytes : 1);
  if (!options) return ls_cli_complain(LS_CLI_FAILED, "memory ran out");
  int count;
  bool help;
  int code = ls_options_parse(command, options, argc, argv, &count, &help);
  if (code == LS_CLI_OK && help) {
    ls_options_help(command, stdout);
  } else if (code == LS_CLI_OK) {
    cli->options = options;
    code = command->run(cli, count, argv);
  }
  free(options);
  // A full disk or a closed pipe behind standard output must not look like success.
  if (fflush(stdout) != 0 && code == LS_CLI_OK) {
    code = ls_cli_complain(LS_CLI_FAILED, "standard output could not be written");
  }
  return code;
}

int main(int argc, char **argv) {
  setlocale(LC_CTYPE, "");
  struct ls_cli cli = {.program = argv[0]};
  default_address(cli.address, sizeof cli.address);
  argc--, argv++;
  while (argc > 0 && strncmp(argv[0], "--address", 9) == 0) {
    if (argv[0][9] == '=') {
      snprintf(cli.address, sizeof cli.address, "%s", argv[0] + 10);
    } else if (argv[0][9] == '\0' && argc > 1) {
      snprintf(cli.address, sizeof cli.address, "%s", argv[1]);
      argc--, argv++;
    } else {
      return ls_cli_complain(LS_CLI_USAGE, "--address needs a value: unix:/path/of/socket");
    }
    argc--, argv++;
  }
  if (argc == 0) {
    print_usage(stderr);
    return LS_CLI_USAGE;
  }
  if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
    print_usage(stdout);
    return LS_CLI_OK;
  }
  if (strcmp(argv[0], "--version") == 0) return run_command(&cli, &ls_cmd_version, argc - 1, argv + 1);
  int words;
  bool group;
  const struct ls_command *command = find_command(argc, argv, &words, &group);
  if (!command) return no_such_command(argc, argv, group);
  return run_command(&cli, command, argc - words, argv + words);
}
