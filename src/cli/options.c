// Options of a command, from its table of rows: parsing and --help. Long options may be shortened to a unique
// beginning.
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static bool takes_value(const struct ls_option *option) {
  return option->kind != LS_OPTION_FLAG && option->kind != LS_OPTION_OPTIONAL;
}

static const struct ls_option *find_long(const struct ls_command *command, const char *name, size_t length) {
  const struct ls_option *found = NULL;
  for (size_t i = 0; i < command->option_count; i++) {
    const struct ls_option *option = &command->options[i];
    if (strncmp(option->name, name, length) != 0) continue;
    if (option->name[length] == '\0') return option;
    if (found) return NULL;  // two options begin like this
    found = option;
  }
  return found;
}

static const struct ls_option *find_letter(const struct ls_command *command, char letter) {
  for (size_t i = 0; i < command->option_count; i++) {
    if (command->options[i].letter == letter) return &command->options[i];
  }
  return NULL;
}

// Stores `value` (NULL for a flag) where the option's row says.
static int store(const struct ls_command *command, const struct ls_option *option, const char *value, char *base) {
  void *target = base + option->offset;
  char *end = NULL;
  errno = 0;
  switch (option->kind) {
    case LS_OPTION_FLAG: *(bool *)target = true; return LS_CLI_OK;
    case LS_OPTION_TEXT: *(const char **)target = value; return LS_CLI_OK;
    case LS_OPTION_OPTIONAL: *(const char **)target = value ? value : ""; return LS_CLI_OK;
    case LS_OPTION_LIST: {
      struct ls_text_list *list = target;
      if (list->count == LS_TEXT_LIST_MAX) {
        return ls_cli_complain(LS_CLI_USAGE, "--%s was given more than %d times", option->name, LS_TEXT_LIST_MAX);
      }
      list->item[list->count++] = value;
      return LS_CLI_OK;
    }
    case LS_OPTION_NUMBER:
    case LS_OPTION_SEED: {
      unsigned long long number = strtoull(value, &end, 10);
      unsigned long long maximum = option->kind == LS_OPTION_SEED ? UINT64_MAX : INT32_MAX;
      if (!isdigit((unsigned char)value[0]) || *end || errno || number < option->minimum || number > maximum) {
        return ls_cli_complain(LS_CLI_USAGE, "--%s is '%s', allowed is a whole number from %llu to %llu", option->name,
                               value, (unsigned long long)option->minimum, maximum);
      }
      *(uint64_t *)target = number;
      return LS_CLI_OK;
    }
    case LS_OPTION_REAL: {
      double number = strtod(value, &end);
      if (end == value || *end || errno || !isfinite(number) || number < (double)option->minimum) {
        return ls_cli_complain(LS_CLI_USAGE, "--%s is '%s', allowed is a number from %llu on", option->name, value,
                               (unsigned long long)option->minimum);
      }
      *(double *)target = number;
      return LS_CLI_OK;
    }
    case LS_OPTION_FORMAT:
      if (strcmp(value, "table") == 0 || strcmp(value, "json") == 0) {
        *(enum ls_output_format *)target = value[0] == 'j' ? LS_OUTPUT_JSON : LS_OUTPUT_TABLE;
        return LS_CLI_OK;
      }
      return ls_cli_complain(LS_CLI_USAGE, "--%s is '%s', allowed are table and json", option->name, value);
  }
  return ls_cli_complain(LS_CLI_FAILED, "option --%s of '%s' has no kind", option->name, command->name);
}

static int unknown(const struct ls_command *command, const char *text) {
  return ls_cli_complain(LS_CLI_USAGE, "unknown option '%s' (see lockstep %s --help)", text, command->name);
}

// One argument that begins with "--". *index moves on when the value is the next argument.
static int parse_long(const struct ls_command *command, void *options, int argc, char **argv, int *index) {
  const char *name = argv[*index] + 2;
  const char *equals = strchr(name, '=');
  const struct ls_option *option = find_long(command, name, equals ? (size_t)(equals - name) : strlen(name));
  if (!option) return unknown(command, argv[*index]);
  if (!takes_value(option)) {
    if (equals && option->kind == LS_OPTION_FLAG) {
      return ls_cli_complain(LS_CLI_USAGE, "--%s takes no value, found '%s'", option->name, equals + 1);
    }
    return store(command, option, equals ? equals + 1 : NULL, options);
  }
  if (equals) return store(command, option, equals + 1, options);
  if (*index + 1 >= argc) {
    return ls_cli_complain(LS_CLI_USAGE, "--%s needs a value: %s", option->name, option->value);
  }
  return store(command, option, argv[++*index], options);
}

// One argument as "-fo json" or "-ojson".
static int parse_letters(const struct ls_command *command, void *options, int argc, char **argv, int *index) {
  for (const char *letter = argv[*index] + 1; *letter; letter++) {
    const struct ls_option *option = find_letter(command, *letter);
    if (!option) return unknown(command, argv[*index]);
    if (!takes_value(option)) {
      int code = store(command, option, NULL, options);
      if (code != LS_CLI_OK) return code;
      continue;
    }
    if (letter[1]) return store(command, option, letter + 1, options);
    if (*index + 1 >= argc) return ls_cli_complain(LS_CLI_USAGE, "-%c needs a value: %s", *letter, option->value);
    return store(command, option, argv[++*index], options);
  }
  return LS_CLI_OK;
}

static int check_count(const struct ls_command *command, int count, char **argv) {
  if (count < command->min_arguments) {
    return ls_cli_complain(LS_CLI_USAGE, "'lockstep %s' needs %s (see lockstep %s --help)", command->name,
                           command->arguments, command->name);
  }
  if (command->max_arguments >= 0 && count > command->max_arguments) {
    return ls_cli_complain(LS_CLI_USAGE, "'lockstep %s' has no use for '%s' (see lockstep %s --help)", command->name,
                           argv[command->max_arguments], command->name);
  }
  return LS_CLI_OK;
}

int ls_options_parse(const struct ls_command *command, void *options, int argc, char **argv, int *count, bool *help) {
  *count = 0;
  *help = false;
  bool ended = false;
  for (int i = 0; i < argc; i++) {
    char *argument = argv[i];
    int code = LS_CLI_OK;
    if (ended || argument[0] != '-' || argument[1] == '\0') {
      argv[(*count)++] = argument;
    } else if (strcmp(argument, "--") == 0) {
      ended = true;
    } else if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      *help = true;
      return LS_CLI_OK;
    } else if (argument[1] == '-') {
      code = parse_long(command, options, argc, argv, &i);
    } else {
      code = parse_letters(command, options, argc, argv, &i);
    }
    if (code != LS_CLI_OK) return code;
  }
  return check_count(command, *count, argv);
}

static void help_row(FILE *out, char letter, const char *name, const char *value, bool optional, const char *text) {
  char left[80];
  char short_form[8] = "    ";
  if (letter) snprintf(short_form, sizeof short_form, "-%c, ", letter);
  if (!value) {
    snprintf(left, sizeof left, "%s--%s", short_form, name);
  } else {
    snprintf(left, sizeof left, optional ? "%s--%s[=%s]" : "%s--%s %s", short_form, name, value);
  }
  fprintf(out, "  %-30s %s\n", left, text);
}

void ls_options_help(const struct ls_command *command, FILE *out) {
  fprintf(out, "usage: lockstep %s%s%s%s\n\n%s.\n", command->name, command->option_count ? " [OPTION]..." : "",
          command->arguments ? " " : "", command->arguments ? command->arguments : "", command->summary);
  for (int i = 0; command->list && command->list(i); i++) fprintf(out, "  %s\n", command->list(i));
  if (command->details) fprintf(out, "%s\n", command->details);
  fputs("\n", out);
  for (size_t i = 0; i < command->option_count; i++) {
    const struct ls_option *option = &command->options[i];
    help_row(out, option->letter, option->name, option->value, option->kind == LS_OPTION_OPTIONAL, option->help);
  }
  help_row(out, 'h', "help", NULL, false, "this text");
}
