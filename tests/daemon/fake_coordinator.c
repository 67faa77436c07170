// A coordinator for tests of the daemon's devices: says what it was given, then ends as FAKE_COORDINATOR says.
//
//   backends             prints the variable FAKE_BACKENDS ("cuda")
//   run FOLDER ...       prints its arguments and CUDA_VISIBLE_DEVICES, then, by the number of the attempt, does the word
//                        in FAKE_COORDINATOR (words after the last: the last again):
//                          done      succeeds
//                          device=I  says that its device I failed
//                          76        ends with that code and says nothing
//                          wait      until it is asked to stop
//                          damaged   leaves a log whose first record is damaged, and says in it that it has succeeded
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "spec/event_log.h"
#include "worker/coordinator.h"

static int end_in(const char *name, const char *folder, unsigned attempt, Lockstep__V1__Outcome__Kind kind,
                  int device) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_event_log *log;
  char *path = ls_path_join(folder, name);
  Lockstep__V1__Outcome outcome = LOCKSTEP__V1__OUTCOME__INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  outcome.kind = kind;
  outcome.reason = (char *)(uintptr_t)(device < 0 ? "" : "unspecified launch failure");
  outcome.has_failed_device = device >= 0;
  outcome.failed_device = device < 0 ? 0 : (uint32_t)device;
  event.attempt = attempt;
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_OUTCOME;
  event.outcome = &outcome;
  if (!path || ls_event_log_open(path, &log, &err) != LS_OK || ls_event_log_append(log, &event, true, &err) != LS_OK) {
    fprintf(stderr, "%s\n", err.text);
    return LS_EXIT_FAILED;
  }
  ls_event_log_close(log);
  free(path);
  return device < 0 ? LS_EXIT_OK : LS_EXIT_DEVICE;
}

static int end(const char *folder, unsigned attempt, Lockstep__V1__Outcome__Kind kind, int device) {
  return end_in("events.log", folder, attempt, kind, device);
}

// Two records, one byte of the first one's payload changed; nobody sees the log before.
static int damage(const char *folder, unsigned attempt) {
  char *made = ls_path_join(folder, "made.log"), *log = ls_path_join(folder, "events.log");
  int code = LS_EXIT_OK;
  for (int i = 0; i < 2 && code == LS_EXIT_OK; i++)
    code = end_in("made.log", folder, attempt, LOCKSTEP__V1__OUTCOME__KIND__SUCCEEDED, -1);
  int fd = open(made, O_WRONLY | O_CLOEXEC);
  if (pwrite(fd, "x", 1, 14) != 1 || close(fd) != 0 || rename(made, log) != 0) code = LS_EXIT_FAILED;
  free(made);
  free(log);
  return code;
}

int main(int argc, char **argv) {
  const char *backends = getenv("FAKE_BACKENDS"), *script = getenv("FAKE_COORDINATOR"), *gpus;
  if (argc == 2 && strcmp(argv[1], "backends") == 0) {
    puts(backends ? backends : "cuda");
    return 0;
  }
  unsigned attempt = 1;
  int device;
  for (int i = 3; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--attempt") == 0) attempt = (unsigned)atoi(argv[i + 1]);
    if (strcmp(argv[i], "--nudge") != 0) printf("%s %s ", argv[i], argv[i + 1]);
  }
  gpus = getenv("CUDA_VISIBLE_DEVICES");
  printf("gpus '%s'\n", gpus ? gpus : "unset");
  fflush(stdout);
  char word[32] = "done";
  for (unsigned i = 0; i < attempt && script && sscanf(script, "%31s", word) == 1; i++) {
    script = strchr(script, ' ');
    if (script) script++;
  }
  if (strcmp(word, "damaged") == 0) return damage(argv[2], attempt);
  if (strcmp(word, "76") == 0) return LS_EXIT_DEVICE;
  if (strcmp(word, "wait") == 0) {
    signal(SIGTERM, SIG_DFL);
    pause();
  }
  if (sscanf(word, "device=%d", &device) == 1)
    return end(argv[2], attempt, LOCKSTEP__V1__OUTCOME__KIND__INTERRUPTED, device);
  return end(argv[2], attempt, LOCKSTEP__V1__OUTCOME__KIND__SUCCEEDED, -1);
}
