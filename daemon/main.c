// lockstepd: takes jobs over gRPC, gives them devices, runs a coordinator (lockstep-worker) for each, and shows what they
// do. One thread, one libuv loop.
//
//   service.c  gRPC ─┐                  ┌─ store.c    SQLite
//   status.c   HTTP ─┴─ manager.c ──────┼─ process.c  coordinators ── lockstep-worker ─▶ jobs/ID/events.log
//                       schedule.c      │                                                      │
//                          job.c ◀──────┴──────────────────────────────────────────────────────┘
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/service.h"
#include "daemon/status.h"

enum { EXIT_USAGE = 2, DRAIN_MS = 500 };

struct options {
  char *state, *socket, *worker;
  const char *http;
  unsigned retry_delay_ms, stop_grace_ms, device_retry_s, gpus;
};

struct lockstepd {
  uv_loop_t loop;
  uv_signal_t terminate, interrupt;
  struct service *service;
  struct status *status;
  struct manager *manager;
  bool stopping, was_ready;
};

static int usage(FILE *out) {
  fputs(
      "usage: lockstepd [OPTION...]\n\n"
      "The Lockstep daemon: takes training jobs from the command `lockstep` (or any gRPC client), runs them on this\n"
      "machine's devices, and goes on where it was after any crash. Stays in the foreground; stop it with SIGTERM or\n"
      "Ctrl-C: running jobs go on, and are found again at the next start.\n\n"
      "  --state DIR           jobs, checkpoints and the job store\n"
      "                        (as root under systemd: /var/lib/lockstep, else $XDG_STATE_HOME/lockstep or\n"
      "                        ~/.local/state/lockstep)\n"
      "  --socket PATH         gRPC, mode 0660 (as root under systemd: /run/lockstep/lockstepd.sock, else\n"
      "                        $XDG_RUNTIME_DIR/lockstep/lockstepd.sock or DIR/lockstepd.sock)\n"
      "  --http ADDRESS:PORT   status page, metrics and JSON (127.0.0.1:8470; port 0: any free one)\n"
      "  --worker PROGRAM      the coordinator (lockstep-worker beside this program)\n"
      "  --retry-delay MS      before a crashed job starts again; doubles each time, up to a minute (1000)\n"
      "  --stop-grace SECONDS  between asking a coordinator to stop and killing it (60)\n"
      "  --gpus N              not ready (/readyz, health service) with fewer healthy GPUs than N (0)\n"
      "  --device-retry SECONDS  before a GPU that failed in a job is used again; doubles each time (600)\n"
      "  --help, --version\n\n"
      "Exit codes: 0 stopped on request, 1 could not start, 2 usage.\n",
      out);
  return out == stdout ? EXIT_SUCCESS : EXIT_USAGE;
}

// --- options ------------------------------------------------------------------------------------------------------------

static char *default_state(void) {
  const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
  char *base = NULL;
  if (geteuid() == 0 && getenv("INVOCATION_ID")) return strdup("/var/lib/lockstep");
  if (state && state[0] == '/') return ls_path_join(state, "lockstep");
  if (!home || home[0] != '/') return strdup("/var/lib/lockstep");
  base = ls_path_join(home, ".local/state/lockstep");
  return base;
}

static char *default_socket(const char *state) {
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  struct stat info;
  if (geteuid() == 0 && getenv("INVOCATION_ID")) return strdup("/run/lockstep/lockstepd.sock");
  if (runtime && runtime[0] == '/' && stat(runtime, &info) == 0)
    return ls_path_join(runtime, "lockstep/lockstepd.sock");
  return ls_path_join(state, "lockstepd.sock");
}

// lockstep-worker beside this program.
static char *default_worker(void) {
  char path[PATH_MAX];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
  if (size <= 0) return NULL;
  path[size] = 0;
  char *slash = strrchr(path, '/');
  if (slash) *slash = 0;
  return ls_path_join(path, "lockstep-worker");
}

static bool number(const char *text, unsigned most, unsigned *value) {
  char *end;
  unsigned long n = strtoul(text, &end, 10);
  *value = (unsigned)n;
  return *text >= '0' && *text <= '9' && !*end && n <= most;
}

static char *absolute(const char *path) {
  char folder[PATH_MAX];
  if (path[0] == '/' || !getcwd(folder, sizeof folder)) return strdup(path);
  return ls_path_join(folder, path);
}

// The last one counts.
static void take(char **option, char *value) {
  free(*option);
  *option = value;
}

// False: wrong usage, said on standard error.
static bool parse(int argc, char **argv, struct options *o) {
  unsigned grace_s = 60;
  for (int i = 1; i < argc; i += 2) {
    const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    bool good = value != NULL;
    if (good && strcmp(name, "--state") == 0)
      take(&o->state, absolute(value));
    else if (good && strcmp(name, "--socket") == 0)
      take(&o->socket, absolute(strncmp(value, "unix:", 5) == 0 ? value + 5 : value));
    else if (good && strcmp(name, "--http") == 0)
      o->http = value;
    else if (good && strcmp(name, "--worker") == 0)
      take(&o->worker, absolute(value));
    else if (good && strcmp(name, "--retry-delay") == 0)
      good = number(value, 60000, &o->retry_delay_ms);
    else if (good && strcmp(name, "--stop-grace") == 0)
      good = number(value, 86400, &grace_s);
    else if (good && strcmp(name, "--gpus") == 0)
      good = number(value, NVML_MAX_GPUS, &o->gpus);
    else if (good && strcmp(name, "--device-retry") == 0)
      good = number(value, 86400, &o->device_retry_s);
    else {
      fprintf(stderr, "lockstepd: unknown option '%s'%s (see lockstepd --help)\n", name, value ? "" : ", or no value");
      return false;
    }
    if (!good) {
      fprintf(stderr, "lockstepd: option %s: '%s' is not a number it can take (see lockstepd --help)\n", name, value);
      return false;
    }
  }
  o->stop_grace_ms = grace_s * 1000;
  if (!o->state) o->state = default_state();
  if (!o->socket && o->state) o->socket = default_socket(o->state);
  if (!o->worker) o->worker = default_worker();
  return true;
}

// --- systemd ------------------------------------------------------------------------------------------------------------

// sd_notify(3) without its library: one datagram to $NOTIFY_SOCKET.
static void notify(const char *text) {
  const char *path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof address.sun_path) return;
  memcpy(address.sun_path, path, strlen(path));
  socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
  if (path[0] == '@') address.sun_path[0] = 0;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  ssize_t sent = sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, size);
  (void)sent;
  close(fd);
}

// --- life ---------------------------------------------------------------------------------------------------------------

static void on_changed(void *user, struct job *job) {
  struct lockstepd *d = user;
  service_changed(d->service, job);
}

static void on_tick(void *user) {
  struct lockstepd *d = user;
  service_tick(d->service);
  bool ready = manager_ready(d->manager);
  if (ready != d->was_ready) service_set_ready(d->service, ready);
  d->was_ready = ready;
  if (getenv("WATCHDOG_USEC")) notify("WATCHDOG=1");
}

// Closes every handle, so that the loop ends. Parts that did not come to be are NULL.
static void on_drained(void *user) {
  struct lockstepd *d = user;
  if (d->manager) manager_close(d->manager);
  if (d->status) status_close(d->status);
  if (!d->terminate.data) return;
  uv_close((uv_handle_t *)&d->terminate, NULL);
  uv_close((uv_handle_t *)&d->interrupt, NULL);
}

static void on_signal(uv_signal_t *signal, int signum) {
  struct lockstepd *d = signal->data;
  if (d->stopping) return;
  d->stopping = true;
  ls_log(LS_LOG_INFO, "stopping on %s; running jobs go on", strsignal(signum));
  notify("STOPPING=1");
  service_set_ready(d->service, false);
  service_shutdown(d->service, DRAIN_MS, on_drained, d);
}

static ls_status check_worker(const char *worker, struct ls_error *err) {
  if (!worker) return ls_fail(err, LS_NOT_FOUND, "cannot find lockstep-worker; name it with --worker");
  if (access(worker, X_OK) == 0) return LS_OK;
  return ls_fail_errno(err, errno, "cannot run the coordinator '%s'", worker);
}

static ls_status make_socket_folder(const char *path, struct ls_error *err) {
  char *folder = strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
  ls_status status = LS_OK;
  if (slash && slash != folder) {
    *slash = 0;
    status = ls_folder_make(folder, 0750, err);
  }
  free(folder);
  return status;
}

static ls_status start(struct lockstepd *d, const struct options *o, struct ls_error *err) {
  if (!o->state || !o->socket) return ls_fail(err, LS_NO_MEMORY, "memory ran out");
  LS_TRY(check_worker(o->worker, err));
  struct manager_options options = {.loop = &d->loop,
                                    .state = o->state,
                                    .worker = o->worker,
                                    .retry_delay_ms = o->retry_delay_ms,
                                    .stop_grace_ms = o->stop_grace_ms,
                                    .device_retry_s = o->device_retry_s,
                                    .gpus_wanted = o->gpus,
                                    .changed = on_changed,
                                    .tick = on_tick,
                                    .user = d};
  LS_TRY(status_new(&d->loop, o->http, &d->status, err));
  LS_TRY(service_new(&d->loop, &d->service, err));
  LS_TRY(manager_new(&options, &d->manager, err));
  status_set_manager(d->status, d->manager);
  LS_TRY(make_socket_folder(o->socket, err));
  LS_TRY(service_listen(d->service, d->manager, o->socket, err));
  d->was_ready = manager_ready(d->manager);
  service_set_ready(d->service, d->was_ready);
  uv_signal_init(&d->loop, &d->terminate);
  uv_signal_init(&d->loop, &d->interrupt);
  d->terminate.data = d->interrupt.data = d;
  uv_signal_start(&d->terminate, on_signal, SIGTERM);
  uv_signal_start(&d->interrupt, on_signal, SIGINT);
  return LS_OK;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--help") == 0) return usage(stdout);
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    puts("lockstepd " LS_VERSION);
    return EXIT_SUCCESS;
  }
  struct options o = {.http = "127.0.0.1:8470", .retry_delay_ms = 1000, .device_retry_s = 600};
  struct lockstepd d = {0};
  struct ls_error err = LS_ERROR_INIT;
  int code = EXIT_USAGE;
  signal(SIGPIPE, SIG_IGN);
  umask(0027);
  if (parse(argc, argv, &o)) {
    uv_loop_init(&d.loop);
    code = EXIT_FAILURE;
    if (start(&d, &o, &err) == LS_OK) {
      const struct devices *devices = manager_devices(d.manager);
      ls_log(LS_LOG_INFO,
             "lockstepd " LS_VERSION " is ready: %u CPU cores, %u GPUs%s%s%s, socket %s, status http://127.0.0.1:%u/",
             devices_cpus(devices), devices_gpus(devices), devices_no_gpu(devices) ? " (" : "",
             devices_no_gpu(devices) ? devices_no_gpu(devices) : "", devices_no_gpu(devices) ? ")" : "", o.socket,
             status_port(d.status));
      notify("READY=1");
      code = EXIT_SUCCESS;
    } else {
      ls_log(LS_LOG_ERROR, "%s", err.text);
      on_drained(&d);
    }
    uv_run(&d.loop, UV_RUN_DEFAULT);
    manager_free(d.manager);
    service_free(d.service);
    status_free(d.status);
    uv_loop_close(&d.loop);
  }
  free(o.state);
  free(o.socket);
  free(o.worker);
  return code;
}
