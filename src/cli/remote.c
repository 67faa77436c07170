// Talking to the daemon: where it listens, calls, finding a job by id, prefix or name, and following a job to its end.
//
// A watch outlives the daemon: when the connection breaks, it is made again for RETRY_S seconds, and the events go on
// where they stopped, so that a restart of the daemon loses and repeats no line.
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "rpc/client.h"
#include "spec/spec.h"

enum { CALL_TIMEOUT_MS = 30000, RETRY_S = 60, RETRY_PAUSE_MS = 300 };

int ls_remote_call(struct ls_cli *cli, const char *method, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *type, ProtobufCMessage **response) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_rpc_client *client = NULL;
  char path[128];
  snprintf(path, sizeof path, "/lockstep.v1.Lockstep/%s", method);
  ls_status status = ls_rpc_client_connect(cli->address, &client, &err);
  if (status == LS_OK) {
    status = ls_rpc_client_call(client, path, request, type, response, CALL_TIMEOUT_MS, &err);
  } else {
    err.status = LS_UNAVAILABLE;  // whatever kept it from connecting
  }
  ls_rpc_client_free(client);
  return status == LS_OK ? LS_CLI_OK : ls_cli_fail(&err);
}

static ls_status stream(struct ls_cli *cli, const char *method, const ProtobufCMessage *request,
                        const ProtobufCMessageDescriptor *type,
                        bool (*message)(void *user, const ProtobufCMessage *response), void *user,
                        struct ls_error *err) {
  struct ls_rpc_client *client = NULL;
  char path[128];
  snprintf(path, sizeof path, "/lockstep.v1.Lockstep/%s", method);
  ls_status status = ls_rpc_client_connect(cli->address, &client, err);
  if (status == LS_OK) {
    status = ls_rpc_client_stream(client, path, request, type, message, user, err);
  } else {
    status = err->status = LS_UNAVAILABLE;
  }
  ls_rpc_client_free(client);
  return status;
}

int ls_remote_stream(struct ls_cli *cli, const char *method, const ProtobufCMessage *request,
                     const ProtobufCMessageDescriptor *type,
                     bool (*message)(void *user, const ProtobufCMessage *response), void *user) {
  struct ls_error err = LS_ERROR_INIT;
  ls_status status = stream(cli, method, request, type, message, user, &err);
  return status == LS_OK || status == LS_CANCELLED ? LS_CLI_OK : ls_cli_fail(&err);
}

const char *ls_remote_state_name(Lockstep__V1__JobState state) {
  switch (state) {
    case LOCKSTEP__V1__JOB_STATE__QUEUED: return "queued";
    case LOCKSTEP__V1__JOB_STATE__STARTING: return "starting";
    case LOCKSTEP__V1__JOB_STATE__RUNNING: return "running";
    case LOCKSTEP__V1__JOB_STATE__PAUSED: return "paused";
    case LOCKSTEP__V1__JOB_STATE__SUCCEEDED: return "succeeded";
    case LOCKSTEP__V1__JOB_STATE__FAILED: return "failed";
    case LOCKSTEP__V1__JOB_STATE__CANCELLED: return "cancelled";
    default: return "unknown";
  }
}

// ---- finding a job

static int get(struct ls_cli *cli, const char *id, bool include_job, Lockstep__V1__JobInfo **info) {
  Lockstep__V1__GetRequest request = LOCKSTEP__V1__GET_REQUEST__INIT;
  request.id = (char *)id;
  request.include_job = include_job;
  return ls_remote_call(cli, "Get", &request.base, &lockstep__v1__job_info__descriptor, (ProtobufCMessage **)info);
}

// The job that `text` means: its id, the newest of that name, or the only one whose id begins so. NULL when none or,
// with *several set, more than one.
static const Lockstep__V1__JobInfo *choose(const Lockstep__V1__ListResponse *list, const char *text, bool *several) {
  const Lockstep__V1__JobInfo *named = NULL, *begins = NULL;
  *several = false;
  for (size_t i = 0; i < list->n_jobs; i++) {
    const Lockstep__V1__JobInfo *job = list->jobs[i];
    if (strcmp(job->id, text) == 0) return job;
    if (strcmp(job->name, text) == 0 && (!named || job->submitted_us > named->submitted_us)) named = job;
    if (strncmp(job->id, text, strlen(text)) == 0) {
      if (begins) *several = true;
      begins = job;
    }
  }
  if (named) {
    *several = false;
    return named;
  }
  return *several ? NULL : begins;
}

int ls_remote_find(struct ls_cli *cli, const char *id_or_name, bool include_job, Lockstep__V1__JobInfo **info) {
  Lockstep__V1__ListRequest request = LOCKSTEP__V1__LIST_REQUEST__INIT;
  ProtobufCMessage *response = NULL;
  int code = ls_remote_call(cli, "List", &request.base, &lockstep__v1__list_response__descriptor, &response);
  if (code != LS_CLI_OK) return code;
  bool several;
  const Lockstep__V1__JobInfo *job =
      id_or_name[0] ? choose((Lockstep__V1__ListResponse *)response, id_or_name, &several) : NULL;
  if (job) {
    code = get(cli, job->id, include_job, info);
  } else if (id_or_name[0] && several) {
    code = ls_cli_complain(LS_CLI_NOT_FOUND, "several jobs have an id that begins with '%s' (see lockstep list)",
                           id_or_name);
  } else {
    code = ls_cli_complain(LS_CLI_NOT_FOUND, "no job has the id or name '%s' (see lockstep list)", id_or_name);
  }
  protobuf_c_message_free_unpacked(response, NULL);
  return code;
}

// ---- following a job

struct watch {
  const char *id;
  bool quiet;
  enum ls_output_format format;
  struct ls_progress *progress;
  uint64_t next_event;
  Lockstep__V1__JobState state;
  char reason[256];
  bool first;
  double test_accuracy;
  char sha256[80];
};

static bool ended(Lockstep__V1__JobState state) {
  return state == LOCKSTEP__V1__JOB_STATE__SUCCEEDED || state == LOCKSTEP__V1__JOB_STATE__FAILED ||
         state == LOCKSTEP__V1__JOB_STATE__CANCELLED;
}

static void on_info(struct watch *watch, const Lockstep__V1__JobInfo *info) {
  bool changed = watch->first || watch->state != info->state || strcmp(watch->reason, info->reason) != 0;
  watch->first = false;
  watch->state = info->state;
  snprintf(watch->reason, sizeof watch->reason, "%s", info->reason);
  if (info->parameters_sha256[0]) snprintf(watch->sha256, sizeof watch->sha256, "%s", info->parameters_sha256);
  if (!changed || watch->quiet || watch->format == LS_OUTPUT_JSON || ended(info->state)) return;
  ls_progress_say(watch->progress, "job %s (%s) is %s%s%s", info->id, info->name, ls_remote_state_name(info->state),
                  info->reason[0] ? ": " : "", info->reason);
}

static bool on_watch(void *user, const ProtobufCMessage *message) {
  struct watch *watch = user;
  const Lockstep__V1__WatchResponse *response = (const Lockstep__V1__WatchResponse *)message;
  if (watch->format == LS_OUTPUT_JSON && !watch->quiet) {
    struct ls_string text = LS_STRING_INIT;
    if (ls_spec_write_json(message, 0, &text) == LS_OK) {
      fputs(ls_string_text(&text), stdout);
      if (text.size == 0 || text.data[text.size - 1] != '\n') fputc('\n', stdout);
      fflush(stdout);
    }
    ls_string_release(&text);
  }
  if (response->info) on_info(watch, response->info);
  if (!response->event) return true;
  const Lockstep__V1__Event *event = response->event;
  watch->next_event = response->index + 1;
  if (watch->format == LS_OUTPUT_TABLE && !watch->quiet) ls_progress_event(watch->progress, event);
  if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_OUTCOME) {
    if (event->outcome->has_test_accuracy) watch->test_accuracy = event->outcome->test_accuracy;
    if (event->outcome->parameters_sha256[0]) {
      snprintf(watch->sha256, sizeof watch->sha256, "%s", event->outcome->parameters_sha256);
    }
  } else if (event->kind_case == LOCKSTEP__V1__EVENT__KIND_EVALUATION) {
    watch->test_accuracy = event->evaluation->accuracy;
  }
  return true;
}

static void pause_ms(long ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  while (nanosleep(&time, &time) != 0 && errno == EINTR) {
  }
}

// Reads the stream until the job has ended, over any number of connections.
static int follow(struct ls_cli *cli, struct watch *watch) {
  int64_t lost_ns = 0;
  for (;;) {
    Lockstep__V1__WatchRequest request = LOCKSTEP__V1__WATCH_REQUEST__INIT;
    request.id = (char *)watch->id;
    request.from_event = watch->next_event;
    uint64_t before = watch->next_event;
    struct ls_error err = LS_ERROR_INIT;
    ls_status status =
        stream(cli, "Watch", &request.base, &lockstep__v1__watch_response__descriptor, on_watch, watch, &err);
    if (ended(watch->state)) return LS_CLI_OK;
    if (status != LS_OK && status != LS_UNAVAILABLE && status != LS_IO && status != LS_CANCELLED) {
      return ls_cli_fail(&err);
    }
    if (watch->first && status != LS_OK) return ls_cli_fail(&err);  // there was never a connection
    if (watch->next_event != before) lost_ns = 0;
    if (lost_ns == 0) {
      lost_ns = ls_clock_ns();
      if (watch->format == LS_OUTPUT_TABLE) {
        ls_progress_say(watch->progress, "lost the daemon; trying again for %d s (the job goes on)", RETRY_S);
      }
    }
    if (ls_clock_ns() - lost_ns > RETRY_S * INT64_C(1000000000)) {
      return ls_cli_complain(LS_CLI_UNREACHABLE,
                             "the daemon did not come back within %d s; 'lockstep watch %s' goes on", RETRY_S,
                             watch->id);
    }
    pause_ms(RETRY_PAUSE_MS);
  }
}

// How it ended, for people: on standard output, as it is the answer.
static void print_end(struct ls_cli *cli, const struct watch *watch) {
  Lockstep__V1__JobInfo *info = NULL;
  if (get(cli, watch->id, false, &info) != LS_CLI_OK) return;
  char text[32];
  const char *state = ls_remote_state_name(info->state);
  printf("%s: job %s (%s)", state, info->id, info->name);
  if (info->started_us && info->ended_us > info->started_us) {
    printf(" after %s", ls_format_duration(text, (double)(info->ended_us - info->started_us) * 1e-6));
  }
  printf(", %s steps", ls_format_count(text, info->step));
  if (info->attempt > 1) printf(", attempt %u", info->attempt);
  printf("%s%s\n", info->reason[0] ? ": " : "", info->reason);
  if (info->state == LOCKSTEP__V1__JOB_STATE__SUCCEEDED) {
    double accuracy = isfinite(watch->test_accuracy)  ? watch->test_accuracy
                      : info->has_validation_accuracy ? info->validation_accuracy
                                                      : NAN;
    if (isfinite(accuracy)) printf("test accuracy: %.2f %%\n", accuracy * 100);
    if (watch->sha256[0]) printf("parameters sha256: %s\n", watch->sha256);
    if (info->folder[0]) printf("model: %s/final.h5\n", info->folder);
  }
  fflush(stdout);
  protobuf_c_message_free_unpacked(&info->base, NULL);
}

static void on_interrupt(int signal_number) {
  (void)signal_number;
  static const char text[] = "\nlockstep: no longer watching; the job goes on\n";
  ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
  (void)ignored;
  _exit(LS_CLI_SIGNAL);
}

int ls_remote_watch(struct ls_cli *cli, const char *id, bool quiet, enum ls_output_format format) {
  struct watch watch = {.id = id, .quiet = quiet, .format = format, .first = true, .test_accuracy = NAN};
  struct sigaction action = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &action, NULL);
  watch.progress = ls_progress_new(stderr, 0);
  int code = follow(cli, &watch);
  ls_progress_free(watch.progress);
  if (code != LS_CLI_OK) return code;
  if (format == LS_OUTPUT_TABLE) print_end(cli, &watch);
  if (watch.state == LOCKSTEP__V1__JOB_STATE__SUCCEEDED) return LS_CLI_OK;
  return watch.state == LOCKSTEP__V1__JOB_STATE__CANCELLED ? LS_CLI_CANCELLED : LS_CLI_FAILED;
}

// ---- stopping in the foreground

atomic_bool ls_cli_stop;

static void on_stop(int signal_number) {
  // The second Ctrl-C does not wait for a checkpoint.
  if (atomic_exchange(&ls_cli_stop, true)) _exit(128 + signal_number);
}

void ls_cli_catch_signals(void) {
  struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}
