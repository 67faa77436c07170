// lockstep train: a job in the foreground, without the daemon. The coordinator runs in this process.
//
// The output folder is a job folder like the daemon's (worker/coordinator.h). The same command over the same folder
// goes on from its newest good checkpoint; another job over it is refused unless --fresh clears it first.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "spec/event_log.h"
#include "spec/spec.h"
#include "worker/coordinator.h"

enum { JOB_LIMIT_BYTES = 16 << 20 };

struct options {
  struct ls_text_list set;
  const char *output;
  const char *profile;
  uint64_t devices;
  bool fresh, quiet;
};

struct run {
  const struct options *options;
  Lockstep__V1__Job *job;
  char *folder;
  unsigned attempt;
  struct ls_progress *progress;
};

// The job as JSON without what may differ between two runs over one folder: the devices.
static ls_status identity(const Lockstep__V1__Job *job, struct ls_string *text) {
  Lockstep__V1__Job copy = *job;
  copy.devices = NULL;
  return ls_spec_write_json(&copy.base, 2, text);
}

// Is the job in FOLDER/job.json the one that was asked for? LS_NOT_FOUND: the folder holds none yet.
static ls_status compare(const struct run *run, bool *same, struct ls_error *err) {
  char *path = ls_path_join(run->folder, "job.json"), *data = NULL;
  size_t size;
  if (!path) return ls_fail(err, LS_NO_MEMORY, "memory ran out");
  if (access(path, F_OK) != 0) {
    free(path);
    return LS_NOT_FOUND;
  }
  ProtobufCMessage *stored = NULL;
  ls_status status = ls_file_read(path, JOB_LIMIT_BYTES, &data, &size, err);
  if (status == LS_OK) {
    status = ls_spec_parse(data, size, path, &lockstep__v1__job__descriptor, NULL, 0, &stored, err);
  }
  if (status == LS_OK) status = ls_spec_complete_job((Lockstep__V1__Job *)stored, err);
  if (status == LS_OK) {
    struct ls_string a = LS_STRING_INIT, b = LS_STRING_INIT;
    identity(run->job, &a);
    identity((Lockstep__V1__Job *)stored, &b);
    *same = a.size == b.size && !a.failed && !b.failed && strcmp(ls_string_text(&a), ls_string_text(&b)) == 0;
    ls_string_release(&a);
    ls_string_release(&b);
  }
  if (stored) protobuf_c_message_free_unpacked(stored, NULL);
  free(data);
  free(path);
  return status;
}

static bool highest_attempt(void *user, const Lockstep__V1__Event *event) {
  unsigned *attempt = user;
  if (event->attempt > *attempt) *attempt = event->attempt;
  return true;
}

// For --fresh: removes a job's folder, or an empty one. What else stands there is not ours to delete.
static ls_status clear(const char *folder, struct ls_error *err) {
  char *path = ls_path_join(folder, "job.json");
  if (!path) return ls_fail(err, LS_NO_MEMORY, "memory ran out");
  bool of_a_job = access(path, F_OK) == 0;
  free(path);
  if (of_a_job) return ls_folder_remove(folder, err);
  if (rmdir(folder) == 0 || errno == ENOENT) return LS_OK;
  if (errno != ENOTEMPTY && errno != EEXIST) return ls_fail_errno(err, errno, "cannot remove '%s'", folder);
  return ls_fail(err, LS_INVALID, "the folder '%s' is no job's (it has no job.json), so --fresh does not delete it",
                 folder);
}

// Makes the folder, writes job.json, and finds the number of this attempt.
static ls_status prepare(struct run *run, struct ls_error *err) {
  if (run->options->fresh) LS_TRY(clear(run->folder, err));
  LS_TRY(ls_folder_make(run->folder, 0777, err));
  bool same = false;
  ls_status status = compare(run, &same, err);
  if (status == LS_OK && !same) {
    return ls_fail(err, LS_INVALID,
                   "the folder '%s' holds another job; give another --output, or --fresh to delete what is there",
                   run->folder);
  }
  if (status != LS_OK && status != LS_NOT_FOUND) return status;
  struct ls_string text = LS_STRING_INIT;
  char *path = ls_path_join(run->folder, "job.json"), *log = ls_path_join(run->folder, "events.log");
  status = ls_spec_write_json(&run->job->base, 2, &text);
  if (status == LS_OK && (!path || !log || text.failed)) status = ls_fail(err, LS_NO_MEMORY, "memory ran out");
  if (status == LS_OK) status = ls_file_write_atomic(path, ls_string_text(&text), text.size, err);
  uint64_t offset = 0;
  run->attempt = 0;
  if (status == LS_OK) status = ls_event_log_read(log, &offset, highest_attempt, &run->attempt, err);
  run->attempt++;
  ls_string_release(&text);
  free(path);
  free(log);
  return status;
}

static void on_event(void *user, const Lockstep__V1__Event *event) {
  struct run *run = user;
  if (!run->options->quiet) ls_progress_event(run->progress, event);
}

static int report(const struct run *run, const struct ls_train_result *result, const char *profile) {
  char text[32];
  if (result->exit == LS_EXIT_STOPPED) {
    fprintf(stderr, "lockstep: stopped at step %s after a checkpoint; the same command goes on from there\n",
            ls_format_count(text, result->step));
    return LS_CLI_STOPPED;
  }
  if (profile) printf("profile: %s (open it in ui.perfetto.dev or chrome://tracing)\n", profile);
  printf("model: %s/final.h5\n", run->folder);
  if (isfinite(result->test_accuracy)) printf("test accuracy: %.2f %%\n", result->test_accuracy * 100);
  printf("parameters sha256: %s\n", result->parameters_sha256);
  return LS_CLI_OK;
}

static int train(struct run *run) {
  struct ls_error err = LS_ERROR_INIT;
  if (prepare(run, &err) != LS_OK) return ls_cli_fail(&err);
  char *default_profile = ls_path_join(run->folder, "profile.json");
  const char *profile = run->options->profile;
  if (profile && !profile[0]) profile = default_profile;
  struct ls_train_options options = {
      .job = run->job,
      .folder = run->folder,
      .attempt = run->attempt,
      .devices = (unsigned)run->options->devices,
      .stop = &ls_cli_stop,
      .event = on_event,
      .user = run,
      .profile = profile,
  };
  struct ls_train_result result = {.exit = LS_EXIT_FAILED, .test_accuracy = NAN};
  ls_cli_catch_signals();
  run->progress = ls_progress_new(stderr, 0);
  ls_status status = ls_train(&options, &result, &err);
  ls_progress_free(run->progress);
  int code;
  if (result.exit == LS_EXIT_STOPPED || (status == LS_OK && result.exit == LS_EXIT_OK)) {
    code = report(run, &result, profile);
  } else {
    code = ls_cli_fail(&err);
    if (result.exit == LS_EXIT_INTERRUPTED || result.exit == LS_EXIT_DEVICE) code = LS_CLI_INTERRUPTED;
  }
  free(default_profile);
  return code;
}

static int run_train(struct ls_cli *cli, int count, char **arguments) {
  (void)cli, (void)count;
  struct ls_error err = LS_ERROR_INIT;
  struct run run = {.options = cli->options};
  if (ls_spec_load_job(arguments[0], run.options->set.item, run.options->set.count, &run.job, &err) != LS_OK) {
    return ls_cli_fail(&err);
  }
  if (ls_spec_check_data(arguments[0], run.job, &err) != LS_OK) {
    lockstep__v1__job__free_unpacked(run.job, NULL);
    return ls_cli_fail(&err);
  }
  run.folder = run.options->output ? strdup(run.options->output)
                                   : ls_path_join("runs", run.job->name && run.job->name[0] ? run.job->name : "job");
  int code = run.folder ? train(&run) : ls_cli_complain(LS_CLI_FAILED, "memory ran out");
  free(run.folder);
  protobuf_c_message_free_unpacked(&run.job->base, NULL);
  return code;
}

static const struct ls_option rows[] = {
    LS_OPTION_SET(struct options),
    {'O', "output", "DIR", LS_OPTION_TEXT, offsetof(struct options, output), 0,
     "folder for checkpoints, events and the model (runs/NAME)"},
    {'d', "devices", "N", LS_OPTION_NUMBER, offsetof(struct options, devices), 1,
     "number of devices, whatever the job says; the result has the same bits"},
    {0, "fresh", NULL, LS_OPTION_FLAG, offsetof(struct options, fresh), 0,
     "delete the job's folder first, start at step 0"},
    {0, "profile", "FILE", LS_OPTION_OPTIONAL, offsetof(struct options, profile), 0,
     "write where the time goes, as a trace (DIR/profile.json)"},
    {'q', "quiet", NULL, LS_OPTION_FLAG, offsetof(struct options, quiet), 0, "no progress"},
};

const struct ls_command ls_cmd_train = {
    .name = "train",
    .arguments = "FILE",
    .summary = "Train a job file in the foreground, without the daemon",
    .details = "Ctrl-C stops after the current step with a checkpoint; the same command goes on from there.",
    .options = rows,
    .option_count = LS_COUNT(rows),
    .options_bytes = sizeof(struct options),
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run_train,
};
