// lockstep-worker: the coordinator as a program, started by lockstepd. See coordinator.h for folder and exit codes.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/file.h"
#include "base/log.h"
#include "spec/spec.h"
#include "worker/coordinator.h"

static atomic_bool stop;

static void on_signal(int number) {
  (void)number;
  atomic_store(&stop, true);
}

static int usage(FILE *out) {
  fprintf(
      out,
      "usage: lockstep-worker run FOLDER [--attempt N] [--devices K] [--kind cpu|gpu] [--nudge SOCKET]\n"
      "       lockstep-worker backends\n\n"
      "Trains the job in FOLDER/job.json, going on from its newest good checkpoint. lockstepd starts this program;\n"
      "to train by hand use `lockstep train FILE`. SIGTERM and SIGINT: checkpoint, then stop.\n"
      "backends: says whether this build can use GPUs.\n"
      "Exit codes: 0 succeeded, 1 failed for good, 2 usage, 74 interrupted (try again), 75 stopped on request,\n"
      "76 a device failed (try again on others).\n");
  return out == stdout ? LS_EXIT_OK : LS_EXIT_USAGE;
}

static bool number(const char *text, unsigned *value) {
  char *end;
  unsigned long n = strtoul(text, &end, 10);
  *value = (unsigned)n;
  return *text >= '0' && *text <= '9' && !*end && n <= 1000000;
}

static bool kind_of(const char *text, Lockstep__V1__DeviceKind *kind) {
  bool gpu = strcmp(text, "gpu") == 0;
  *kind = gpu ? LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_GPU : LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU;
  return gpu || strcmp(text, "cpu") == 0;
}

// What lockstepd asks where there are GPUs: it knows nothing of CUDA itself.
static int print_backends(void) {
  struct ls_error err = LS_ERROR_INIT;
  if (ls_backend_cuda() && ls_backend_cuda_check(&err) == LS_OK)
    puts("cuda");
  else if (ls_backend_cuda())
    printf("no cuda: %s\n", err.text);
  else
    printf("no cuda: it was built without %s\n", ls_backend_cuda_missing());
  return LS_EXIT_OK;
}

static ls_status load_job(const char *folder, Lockstep__V1__Job **job, struct ls_error *err) {
  char *path = ls_path_join(folder, "job.json"), *text = NULL;
  size_t size = 0;
  ProtobufCMessage *message = NULL;
  ls_status status = path ? ls_file_read(path, 8 << 20, &text, &size, err) : ls_fail(err, LS_NO_MEMORY, "no memory");
  if (status == LS_OK) status = ls_spec_parse(text, size, path, &lockstep__v1__job__descriptor, NULL, 0, &message, err);
  *job = (Lockstep__V1__Job *)message;
  if (status == LS_OK) status = ls_spec_complete_job(*job, err);
  free(text);
  free(path);
  return status;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--help") == 0) return usage(stdout);
  if (argc == 2 && strcmp(argv[1], "backends") == 0) return print_backends();
  if (argc < 3 || strcmp(argv[1], "run") != 0) return usage(stderr);
  struct ls_train_options options = {.folder = argv[2], .attempt = 1, .stop = &stop};
  for (int i = 3; i < argc; i += 2) {
    bool good = i + 1 < argc;
    if (good && strcmp(argv[i], "--attempt") == 0)
      good = number(argv[i + 1], &options.attempt);
    else if (good && strcmp(argv[i], "--devices") == 0)
      good = number(argv[i + 1], &options.devices);
    else if (good && strcmp(argv[i], "--kind") == 0)
      good = kind_of(argv[i + 1], &options.kind);
    else if (good && strcmp(argv[i], "--nudge") == 0)
      options.nudge = argv[i + 1];
    else
      good = false;
    if (!good) return usage(stderr);
  }
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  struct ls_error err = LS_ERROR_INIT;
  Lockstep__V1__Job *job = NULL;
  struct ls_train_result result = {.exit = LS_EXIT_FAILED};
  ls_status status = load_job(options.folder, &job, &err);
  if (status == LS_OK) {
    ls_log(LS_LOG_INFO, "job '%s' in '%s', attempt %u", job->name, options.folder, options.attempt);
    options.job = job;
    status = ls_train(&options, &result, &err);
  } else {
    result.exit = ls_train_refused(&options, &err);
  }
  if (status != LS_OK)
    ls_log(LS_LOG_ERROR, "%s", err.text);
  else
    ls_log(LS_LOG_INFO, "%s at step %llu, parameters sha256: %s", result.exit == LS_EXIT_STOPPED ? "stopped" : "done",
           (unsigned long long)result.step, result.parameters_sha256);
  if (job) lockstep__v1__job__free_unpacked(job, NULL);
  return (int)result.exit;
}
