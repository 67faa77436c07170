// What all commands print: errors, JSON, numbers for people.
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "spec/spec.h"

static int exit_code_of(ls_status status) {
  switch (status) {
    case LS_OK: return LS_CLI_OK;
    case LS_INVALID:
    case LS_UNSUPPORTED:
    case LS_EXISTS: return LS_CLI_USAGE;
    case LS_NOT_FOUND: return LS_CLI_NOT_FOUND;
    case LS_UNAVAILABLE:
    case LS_TIMEOUT: return LS_CLI_UNREACHABLE;
    default: return LS_CLI_FAILED;
  }
}

int ls_cli_fail(const struct ls_error *err) {
  ls_status status = err->status == LS_OK ? LS_INTERNAL : err->status;
  fprintf(stderr, "lockstep: %s\n", err->text[0] ? err->text : ls_status_name(status));
  return exit_code_of(status);
}

int ls_cli_complain(int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("lockstep: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  return code;
}

int ls_cli_device_kind(const char *text) {
  static const char *const kinds[] = {"auto", "cpu", "gpu"};  // in the order of the schema, which begins at 1
  for (size_t i = 0; i < LS_COUNT(kinds); i++) {
    if (!text || strcmp(text, kinds[i]) == 0) return (int)i + 1;
  }
  ls_cli_complain(LS_CLI_USAGE, "--kind is '%s', allowed are auto, cpu and gpu", text);
  return 0;
}

const char *const ls_cli_precisions[LS_CLI_PRECISIONS] = {"float32", "tf32", "bfloat16", "float16"};

int ls_cli_precision(const char *text) {
  for (int i = 0; i < LS_CLI_PRECISIONS; i++) {
    if (strcmp(text, ls_cli_precisions[i]) == 0) return i + 1;
  }
  ls_cli_complain(LS_CLI_USAGE, "--precision is '%s', allowed are float32, tf32, bfloat16 and float16", text);
  return 0;
}

bool ls_cli_is_terminal(FILE *stream) {
  const char *term = getenv("TERM");
  return isatty(fileno(stream)) && !(term && strcmp(term, "dumb") == 0);
}

int ls_cli_print_json(const ProtobufCMessage *message) {
  struct ls_string text = LS_STRING_INIT;
  ls_status status = ls_spec_write_json(message, 2, &text);
  if (status != LS_OK || text.failed) {
    ls_string_release(&text);
    return ls_cli_complain(LS_CLI_FAILED, "memory ran out while writing JSON");
  }
  fputs(ls_string_text(&text), stdout);
  if (text.size == 0 || text.data[text.size - 1] != '\n') fputc('\n', stdout);
  ls_string_release(&text);
  return LS_CLI_OK;
}

void ls_json_string(struct ls_string *out, const char *text) { ls_spec_write_string(text, out); }

char *ls_format_count(char text[32], uint64_t value) {
  char digits[24];
  int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
  int at = 0;
  for (int i = 0; i < length; i++) {
    if (i > 0 && (length - i) % 3 == 0) text[at++] = ',';
    text[at++] = digits[i];
  }
  text[at] = '\0';
  return text;
}

char *ls_format_bytes(char text[32], double bytes) {
  static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t u = 0;
  while (bytes >= 1024 && u + 1 < LS_COUNT(unit)) {
    bytes /= 1024;
    u++;
  }
  snprintf(text, 32, u == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, unit[u]);
  return text;
}

char *ls_format_duration(char text[32], double seconds) {
  if (!(seconds >= 0) || seconds > 1e10) {
    snprintf(text, 32, "-");
    return text;
  }
  unsigned long long s = (unsigned long long)(seconds + 0.5);
  unsigned days = (unsigned)(s / 86400), hours = (unsigned)(s / 3600 % 24), minutes = (unsigned)(s / 60 % 60);
  if (days) {
    snprintf(text, 32, "%u d %u:%02u:%02u", days, hours, minutes, (unsigned)(s % 60));
  } else if (hours) {
    snprintf(text, 32, "%u:%02u:%02u", hours, minutes, (unsigned)(s % 60));
  } else {
    snprintf(text, 32, "%u:%02u", minutes, (unsigned)(s % 60));
  }
  return text;
}

char *ls_format_time(char text[32], int64_t time_us) {
  time_t seconds = (time_t)(time_us / 1000000);
  struct tm parts;
  if (time_us == 0 || !localtime_r(&seconds, &parts) || strftime(text, 32, "%Y-%m-%d %H:%M:%S", &parts) == 0) {
    snprintf(text, 32, "-");
  }
  return text;
}

char *ls_format_percent(char text[32], double share) {
  if (isfinite(share)) {
    snprintf(text, 32, "%.2f %%", share * 100);
  } else {
    snprintf(text, 32, "-");
  }
  return text;
}

char *ls_format_rate(char text[32], double per_second) {
  if (!(per_second >= 0) || per_second > 1e15) {
    snprintf(text, 32, "-");
  } else if (per_second >= 100) {
    ls_format_count(text, (uint64_t)(per_second + 0.5));
  } else {
    snprintf(text, 32, per_second >= 10 ? "%.1f" : "%.2f", per_second);
  }
  return text;
}
