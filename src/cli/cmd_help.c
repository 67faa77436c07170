// lockstep help, completion, version.
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "spec/spec.h"

static int run_help(struct ls_cli *cli, int count, char **arguments) {
  (void)cli;
  // A command's name asks for that command's help, anything else is a key of the job file.
  for (size_t i = 0; count > 0 && ls_commands[i]; i++) {
    char name[64];
    snprintf(name, sizeof name, "%s%s%s", arguments[0], count > 1 ? " " : "", count > 1 ? arguments[1] : "");
    if (strcmp(ls_commands[i]->name, name) == 0) {
      ls_options_help(ls_commands[i], stdout);
      return LS_CLI_OK;
    }
  }
  if (count > 1) return ls_cli_complain(LS_CLI_USAGE, "no command is called '%s %s'", arguments[0], arguments[1]);
  struct ls_error err = LS_ERROR_INIT;
  if (ls_spec_describe(count ? arguments[0] : "", stdout, &err) != LS_OK) return ls_cli_fail(&err);
  return LS_CLI_OK;
}

const struct ls_command ls_cmd_help = {
    .name = "help",
    .arguments = "[KEY | COMMAND]",
    .summary = "Explain the keys of a job file (as optimizer.sgd, network.layers.convolution) or a command",
    .max_arguments = 2,
    .run = run_help,
};

static int run_version(struct ls_cli *cli, int count, char **arguments) {
  (void)cli, (void)count, (void)arguments;
  puts("lockstep " LS_VERSION);
  return LS_CLI_OK;
}

const struct ls_command ls_cmd_version = {.name = "version", .summary = "Print the version", .run = run_version};

// "data) words='import inspect bench'": the second words of commands that begin alike, which stand together in the table.
static void print_groups(void) {
  const char *previous = "";
  size_t length = 0;
  for (size_t i = 0; ls_commands[i]; i++) {
    const char *name = ls_commands[i]->name, *space = strchr(name, ' ');
    bool same = length && strncmp(previous, name, length) == 0 && name[length] == ' ';
    if (length && !same) puts("' ;;");
    if (space && !same) printf("      %.*s) words='", (int)(space - name), name);
    if (space) printf("%s%s", same ? " " : "", space + 1);
    length = space ? (size_t)(space - name) : 0;
    previous = name;
  }
  if (length) puts("' ;;");
}

// The script asks nothing of the daemon: words and options come from the table.
static int run_completion(struct ls_cli *cli, int count, char **arguments) {
  (void)cli;
  if (count && strcmp(arguments[0], "bash") != 0) {
    return ls_cli_complain(LS_CLI_USAGE, "completion is there for bash, not for '%s'", arguments[0]);
  }
  puts("# bash completion for lockstep: source <(lockstep completion)");
  puts("_lockstep() {\n  local word=${COMP_WORDS[COMP_CWORD]} words='' command=${COMP_WORDS[1]}");
  puts(
      "  case \"$command ${COMP_WORDS[2]}\" in data\\ * | model\\ *) [ \"$COMP_CWORD\" -gt 2 ] && command+=\" "
      "${COMP_WORDS[2]}\" ;; esac");
  puts("  if [ \"$COMP_CWORD\" = 1 ]; then");
  fputs("    words='", stdout);
  const char *previous = "";
  for (size_t i = 0; ls_commands[i]; i++) {
    size_t length = strcspn(ls_commands[i]->name, " ");
    if (strncmp(previous, ls_commands[i]->name, length) == 0 && previous[length] == ' ') continue;
    printf("%s%.*s", i ? " " : "", (int)length, ls_commands[i]->name);
    previous = ls_commands[i]->name;
  }
  puts("'\n  else\n    case $command in");
  print_groups();
  for (size_t i = 0; ls_commands[i]; i++) {
    printf("      '%s') words='--help", ls_commands[i]->name);
    for (size_t k = 0; k < ls_commands[i]->option_count; k++) printf(" --%s", ls_commands[i]->options[k].name);
    puts("' ;;");
  }
  puts("    esac\n  fi");
  puts("  if [ \"$COMP_CWORD\" -gt 1 ] && [[ $word != -* && $command != data && $command != model ]]; then");
  puts(
      "    COMPREPLY=($(compgen -f -- \"$word\"))\n  else\n    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n  "
      "fi\n}");
  puts("complete -o filenames -F _lockstep lockstep");
  return LS_CLI_OK;
}

const struct ls_command ls_cmd_completion = {
    .name = "completion",
    .arguments = "[bash]",
    .summary = "Print a completion script: source <(lockstep completion)",
    .max_arguments = 1,
    .run = run_completion,
};
