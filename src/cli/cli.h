// The command `lockstep`: one file a command (cmd_NAME.c), one explicit table of them (main.c).
//
// A command is a row: name, one-line summary, options, and a function. Options are described, not parsed by hand: each
// says where in the command's option struct its value goes, and from the same row come parsing, --help and completion.
//
// Exit codes (also in `lockstep --help`): enum ls_cli_exit below.
// Everything a person asked for goes to standard output, everything else (progress, errors) to standard error.
// Threads: commands run on the main thread; `train`, `eval`, `predict` and `bench` start their workers below it.
#ifndef LS_CLI_CLI_H
#define LS_CLI_CLI_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "base/string.h"
#include "lockstep/v1/event.pb-c.h"
#include "lockstep/v1/service.pb-c.h"

enum ls_cli_exit {
  LS_CLI_OK = 0,            // done; for submit --watch, watch and train: the job succeeded
  LS_CLI_FAILED = 1,        // the command or the job failed
  LS_CLI_USAGE = 2,         // wrong options, or a file or value that is not allowed
  LS_CLI_UNREACHABLE = 3,   // the daemon does not answer
  LS_CLI_NOT_FOUND = 4,     // no such job, file or model
  LS_CLI_CANCELLED = 5,     // the job was cancelled
  LS_CLI_INTERRUPTED = 74,  // train: could not go on for a reason outside the job; the same command goes on from there
  LS_CLI_STOPPED = 75,      // train: stopped after a checkpoint (Ctrl-C); the same command goes on from there
  LS_CLI_SIGNAL = 130,      // watch, logs: ended by Ctrl-C; the job itself goes on
};

// ---- options (options.c)

enum ls_option_kind {
  LS_OPTION_FLAG,      // bool
  LS_OPTION_TEXT,      // const char *
  LS_OPTION_NUMBER,    // uint64_t, from `minimum` to INT32_MAX: it fits where it goes from there
  LS_OPTION_SEED,      // uint64_t, any
  LS_OPTION_REAL,      // double, at least `minimum`, finite
  LS_OPTION_LIST,      // struct ls_text_list; may be given many times
  LS_OPTION_FORMAT,    // enum ls_output_format
  LS_OPTION_OPTIONAL,  // const char *: "" when given without =VALUE
};

enum ls_output_format { LS_OUTPUT_TABLE, LS_OUTPUT_JSON };

enum { LS_TEXT_LIST_MAX = 128 };
struct ls_text_list {
  const char *item[LS_TEXT_LIST_MAX];
  size_t count;
};

struct ls_option {
  char letter;        // 0: none
  const char *name;   // long name without the dashes
  const char *value;  // what --help calls the value: "KEY=VALUE"; NULL for flags
  enum ls_option_kind kind;
  size_t offset;  // of the value in the command's option struct
  uint64_t minimum;
  const char *help;
};

// Rows that many commands share. `type` is the command's option struct.
#define LS_OPTION_OUTPUT(type) \
  { 'o', "output", "table|json", LS_OPTION_FORMAT, offsetof(type, format), 0, "how the answer is printed" }
#define LS_OPTION_KIND(type) \
  { 0, "kind", "KIND", LS_OPTION_TEXT, offsetof(type, kind), 0, "devices: auto, cpu or gpu (auto)" }
#define LS_OPTION_SET(type)                                             \
  {                                                                     \
    0, "set", "KEY=VALUE", LS_OPTION_LIST, offsetof(type, set), 0,      \
        "change one key of the job, as optimizer.sgd.learning_rate=0.1" \
  }

struct ls_cli {
  const char *program;
  char address[512];    // of the daemon: --address, LOCKSTEP_ADDRESS or the default
  const void *options;  // the running command's option struct, zeroed before parsing
};

struct ls_command {
  const char *name;       // "model show"
  const char *arguments;  // "FILE", for the usage line
  const char *summary;
  const char *(*list)(int i);  // lines that the summary leads to, NULL behind the last; may be NULL
  const char *details;         // the rest of --help; may be NULL
  const struct ls_option *options;
  size_t option_count;
  size_t options_bytes;              // size of the command's option struct
  int min_arguments, max_arguments;  // max -1: any number
  int (*run)(struct ls_cli *cli, int count, char **arguments);
};

#define LS_COUNT(array) (sizeof(array) / sizeof((array)[0]))

// The table; its end is a row without a name.
extern const struct ls_command *const ls_commands[];

// Reads options and arguments of `command`: options may stand anywhere, "--" ends them. Arguments are moved to the
// front of argv; *count of them. Returns LS_CLI_OK to go on, else the code to exit with after a message was printed;
// *help is set (and nothing printed) when --help was among them.
int ls_options_parse(const struct ls_command *command, void *options, int argc, char **argv, int *count, bool *help);
void ls_options_help(const struct ls_command *command, FILE *out);

// ---- messages (output.c)

// "lockstep: TEXT" on standard error; returns the exit code that fits err->status.
int ls_cli_fail(const struct ls_error *err);
// The number of --kind in the schema (auto where it was not given); 0 after complaining about another word.
int ls_cli_device_kind(const char *text);
// The same for --precision.
int ls_cli_precision(const char *text);
enum { LS_CLI_PRECISIONS = 4 };
extern const char *const ls_cli_precisions[LS_CLI_PRECISIONS];  // in the order of the schema, which begins at 1
// The same as ls_cli_fail with a text of one's own; returns `code`.
int ls_cli_complain(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool ls_cli_is_terminal(FILE *stream);

// A protobuf message as indented JSON on standard output.
int ls_cli_print_json(const ProtobufCMessage *message);
void ls_json_string(struct ls_string *out, const char *text);  // quoted and escaped

// Numbers for people; each writes into text[32] and returns it.
char *ls_format_count(char text[32], uint64_t value);     // 62,378,344
char *ls_format_bytes(char text[32], double bytes);       // 1.4 GiB
char *ls_format_duration(char text[32], double seconds);  // 2:05, 1:02:05, 3 d 4:00:00
char *ls_format_time(char text[32], int64_t time_us);     // 2026-11-21 05:03:09, local time; "-" for 0
char *ls_format_percent(char text[32], double share);     // 97.31 %
char *ls_format_rate(char text[32], double per_second);   // 3,412 or 12.3

// ---- table (table.c): the same rows as aligned text or as a JSON array of objects

struct ls_column {
  const char *title;  // NULL: only in JSON
  const char *key;    // in JSON; NULL: only in the table
  bool right;         // numbers
};

struct ls_table;

struct ls_table *ls_table_new(const struct ls_column *columns, size_t count);
// Cells are added from left to right, row by row. `json` is the raw JSON value; NULL: `text` as a JSON string.
void ls_table_add(struct ls_table *table, const char *text, const char *json);
void ls_table_add_count(struct ls_table *table, uint64_t value);                   // 1,234 and 1234
void ls_table_add_number(struct ls_table *table, const char *text, double value);  // NaN is null
// Prints and frees. `footer`: rows at the end that are sums, set apart by a line (table only, left out of the JSON).
void ls_table_print(struct ls_table *table, enum ls_output_format format, size_t footer, FILE *out);

// ---- progress (progress.c)

// Follows one job's events: on a terminal a bar on the last line of standard error, above it a line for each
// evaluation, checkpoint and note; elsewhere plain lines, a step line every few seconds. See progress.c for what they
// look like.
struct ls_progress;

struct ls_progress *ls_progress_new(FILE *out, uint64_t total_steps);
void ls_progress_event(struct ls_progress *progress, const Lockstep__V1__Event *event);
// Something that is counted, as the images of an import: a bar on a terminal, nothing elsewhere. `seconds`: since its
// beginning.
void ls_progress_count(struct ls_progress *progress, const char *what, uint64_t done, uint64_t total, double seconds);
// A line of one's own above the bar.
void ls_progress_say(struct ls_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
void ls_progress_free(struct ls_progress *progress);

// ---- the daemon (remote.c)

// One call; a failure is printed. Returns an exit code; *response (when LS_CLI_OK) is freed by the caller with
// protobuf_c_message_free_unpacked.
int ls_remote_call(struct ls_cli *cli, const char *method, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *type, ProtobufCMessage **response);
int ls_remote_stream(struct ls_cli *cli, const char *method, const ProtobufCMessage *request,
                     const ProtobufCMessageDescriptor *type,
                     bool (*message)(void *user, const ProtobufCMessage *response), void *user);
// "running"
const char *ls_remote_state_name(Lockstep__V1__JobState state);
// Follows a job to its end and prints how it ended; the exit code is the job's outcome.
int ls_remote_watch(struct ls_cli *cli, const char *id, bool quiet, enum ls_output_format format);
// Job by id, by a unique beginning of an id, or by name (the newest of that name). The caller frees *info.
int ls_remote_find(struct ls_cli *cli, const char *id_or_name, bool include_job, Lockstep__V1__JobInfo **info);
// Set by Ctrl-C and SIGTERM once ls_cli_catch_signals was called.
extern atomic_bool ls_cli_stop;
void ls_cli_catch_signals(void);

#endif
