// Coordinator processes: see process.h.
#include "daemon/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

struct process {
  uv_poll_t poll;
  int fd;  // pidfd
  struct job *job;
  const struct process_options *options;
};

static void on_closed(uv_handle_t *handle) {
  struct process *p = handle->data;
  close(p->fd);
  free(p);
}

void process_forget(struct job *job) {
  struct process *p = job->process;
  job->process = NULL;
  if (p) uv_close((uv_handle_t *)&p->poll, on_closed);
}

static void on_dead(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  struct process *p = poll->data;
  struct job *job = p->job;
  const struct process_options *options = p->options;
  siginfo_t info = {0};
  job->exit_status = -1;
  if (waitid(P_PIDFD, (id_t)p->fd, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0)
    job->exit_status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status & 0x7f;
  job->pid = 0;
  process_forget(job);
  options->exited(options->user, job);
}

static ls_status watch(const struct process_options *options, struct job *job, pid_t pid, struct ls_error *err) {
  struct process *p = calloc(1, sizeof *p);
  if (!p) return ls_fail(err, LS_NO_MEMORY, "no memory to watch a process");
  p->fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (p->fd < 0) {
    free(p);
    return ls_fail_errno(err, errno, "cannot watch process %d", (int)pid);
  }
  p->job = job;
  p->options = options;
  p->poll.data = p;
  uv_poll_init(options->loop, &p->poll, p->fd);
  uv_poll_start(&p->poll, UV_READABLE, on_dead);
  job->process = p;
  job->pid = pid;
  return LS_OK;
}

// --- starting -----------------------------------------------------------------------------------------------------------

// The daemon's environment with CUDA_VISIBLE_DEVICES set to `gpus`. The caller frees both. NULL when memory ran out.
static char **environment_with(const char *gpus, char **setting) {
  static const char name[] = "CUDA_VISIBLE_DEVICES=";
  size_t count = 0, kept = 0;
  while (environ[count]) count++;
  char **environment = calloc(count + 2, sizeof *environment);
  if (!environment || asprintf(setting, "%s%s", name, gpus) < 0) {
    free(environment);
    *setting = NULL;
    return NULL;
  }
  for (size_t i = 0; i < count; i++) {
    if (strncmp(environ[i], name, sizeof name - 1) != 0) environment[kept++] = environ[i];
  }
  environment[kept] = *setting;
  return environment;
}

static ls_status spawn(const struct process_options *options, const struct job *job, char **arguments,
                       char **environment, pid_t *pid, struct ls_error *err) {
  char *output = ls_path_join(job->folder, "worker.log");
  if (!output) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none, usual;
  sigemptyset(&none);
  sigemptyset(&usual);
  sigaddset(&usual, SIGPIPE);
  sigaddset(&usual, SIGTERM);
  sigaddset(&usual, SIGINT);
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0640);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  int failed = posix_spawn(pid, options->program, &actions, &attributes, arguments, environment);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  free(output);
  return failed ? ls_fail_errno(err, failed, "cannot start '%s'", options->program) : LS_OK;
}

// Device i is the i-th core that the daemon may use.
static void cores_of(uint64_t mask, const cpu_set_t *allowed, cpu_set_t *cores) {
  CPU_ZERO(cores);
  int seen = 0;
  for (int core = 0; core < CPU_SETSIZE && seen < LS_MAX_DEVICES; core++) {
    if (!CPU_ISSET(core, allowed)) continue;
    if (mask >> seen++ & 1) CPU_SET(core, cores);
  }
}

ls_status process_start(const struct process_options *options, struct job *job, unsigned devices, const char *gpus,
                        struct ls_error *err) {
  char attempt[16], count[16];
  snprintf(attempt, sizeof attempt, "%u", job->attempt);
  snprintf(count, sizeof count, "%u", devices);
  char *arguments[] = {(char *)(uintptr_t)options->program,
                       (char *)"run",
                       job->folder,
                       (char *)"--attempt",
                       attempt,
                       (char *)"--devices",
                       count,
                       (char *)"--kind",
                       (char *)(uintptr_t)(job->device_mask ? "cpu" : "gpu"),
                       (char *)"--nudge",
                       (char *)(uintptr_t)options->nudge,
                       NULL};
  // A child inherits the affinity of the thread that makes it; posix_spawn has no other way.
  cpu_set_t allowed, cores;
  bool bind = sched_getaffinity(0, sizeof allowed, &allowed) == 0;
  if (bind) cores_of(job->device_mask, &allowed, &cores);
  bind = bind && CPU_COUNT(&cores) > 0 && sched_setaffinity(0, sizeof cores, &cores) == 0;
  pid_t pid = 0;
  char *setting = NULL, **environment = environment_with(gpus, &setting);
  ls_status status = environment ? spawn(options, job, arguments, environment, &pid, err)
                                 : ls_fail(err, LS_NO_MEMORY, "no memory to start a process");
  free(setting);
  free(environment);
  if (bind) sched_setaffinity(0, sizeof allowed, &allowed);
  if (status != LS_OK) return status;
  status = watch(options, job, pid, err);
  if (status != LS_OK) {  // better none than one that nobody watches
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  }
  return status;
}

// --- finding again ------------------------------------------------------------------------------------------------------

// Is process `pid` a "PROGRAM run FOLDER ..."?
static bool runs_job(pid_t pid, const char *folder) {
  char path[64], line[4352];
  snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t size = read(fd, line, sizeof line - 1);
  close(fd);
  if (size <= 0) return false;
  line[size] = 0;
  const char *end = line + size, *command = line + strlen(line) + 1;
  if (command >= end || strcmp(command, "run") != 0) return false;
  const char *argument = command + strlen(command) + 1;
  return argument < end && strcmp(argument, folder) == 0;
}

ls_status process_adopt(const struct process_options *options, struct job *job, struct ls_error *err) {
  DIR *processes = opendir("/proc");
  if (!processes) return ls_fail_errno(err, errno, "cannot look through /proc");
  ls_status status = LS_NOT_FOUND;
  for (const struct dirent *entry; status == LS_NOT_FOUND && (entry = readdir(processes));) {
    pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
    if (pid <= 0 || !runs_job(pid, job->folder)) continue;
    status = watch(options, job, pid, err);
    // Between looking and opening the number may have gone to another process; with the pidfd open it cannot any more.
    if (status == LS_OK && !runs_job(pid, job->folder)) {
      process_forget(job);
      job->pid = 0;
      status = LS_NOT_FOUND;
    }
    if (status != LS_OK) status = LS_NOT_FOUND;
  }
  closedir(processes);
  return status;
}

void process_signal(const struct job *job, int signal) {
  const struct process *p = job->process;
  if (p) syscall(SYS_pidfd_send_signal, p->fd, signal, NULL, 0);
}

void process_describe_exit(const struct job *job, char *text, size_t size) {
  int status = job->exit_status;
  if (status < 0)
    snprintf(text, size, "it ended while no daemon was watching");
  else if (WIFSIGNALED(status))
    snprintf(text, size, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
  else
    snprintf(text, size, "exit code %d", WEXITSTATUS(status));
}
