// CPU cores and GPUs: see devices.h.
#include "daemon/devices.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { ASK_MS = 2000, SILENCE_US = 15000000, PROBE_MS = 10000, MAX_RETRY_S = 86400, US_PER_S = 1000000 };

extern char **environ;

struct gpu {
  struct nvml_gpu last;
  char said[256];  // problem that was logged
};

// What the thread pool works on; the loop's thread leaves it alone meanwhile.
struct question {
  struct nvml *nvml;
  struct nvml_answer answer;
  const char *worker;
  bool probed;
  char cuda_missing[400];  // why the coordinator cannot use GPUs; ""
};

struct devices {
  struct devices_options options;
  unsigned cpus;
  char cpu_description[128];
  struct gpu gpus[NVML_MAX_GPUS];
  unsigned gpu_count;
  struct device_rest rests[NVML_MAX_GPUS];
  unsigned rest_count;
  char no_gpu[480];
  struct question question;
  uv_timer_t timer;
  uv_work_t work;
  bool asking, closing;
  int64_t asked_us;
};

// --- CPU cores ----------------------------------------------------------------------------------------------------------

static void find_cpus(struct devices *d) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  int count = CPU_COUNT(&set);
  d->cpus = count < 1 ? 1 : count > LS_MAX_DEVICES ? LS_MAX_DEVICES : (unsigned)count;
  snprintf(d->cpu_description, sizeof d->cpu_description, "CPU core");
  FILE *file = fopen("/proc/cpuinfo", "re");
  char line[256];
  while (file && fgets(line, sizeof line, file)) {
    const char *colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
    if (!colon) continue;
    snprintf(d->cpu_description, sizeof d->cpu_description, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
    break;
  }
  if (file) fclose(file);
}

unsigned devices_cpus(const struct devices *d) { return d->cpus; }
const char *devices_cpu_description(const struct devices *d) { return d->cpu_description; }

// --- what the coordinator can do ----------------------------------------------------------------------------------------

// One line of what `PROGRAM backends` prints, within PROBE_MS.
static void read_line(int fd, char *line, size_t size) {
  size_t used = 0;
  struct pollfd wait = {.fd = fd, .events = POLLIN};
  while (used + 1 < size && poll(&wait, 1, PROBE_MS) == 1) {
    ssize_t got = read(fd, line + used, size - 1 - used);
    if (got <= 0) break;
    used += (size_t)got;
  }
  line[used] = 0;
  line[strcspn(line, "\n")] = 0;
}

// Asks the coordinator: the daemon itself knows nothing of CUDA. It answers "cuda", or "no cuda: WHY".
static void probe(struct question *q) {
  char *arguments[] = {(char *)(uintptr_t)q->worker, (char *)"backends", NULL};
  char line[400] = "";
  int ends[2], state = 0;
  pid_t pid = 0;
  q->probed = true;
  snprintf(q->cuda_missing, sizeof q->cuda_missing, "the coordinator does not say which devices it can use");
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  int failed = posix_spawn(&pid, q->worker, &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (!failed) {
    read_line(ends[0], line, sizeof line);
    kill(pid, SIGKILL);
    waitpid(pid, &state, 0);
  }
  close(ends[0]);
  static const char no[] = "no cuda: ";
  if (strcmp(line, "cuda") == 0)
    q->cuda_missing[0] = 0;
  else if (strncmp(line, no, sizeof no - 1) == 0)
    snprintf(q->cuda_missing, sizeof q->cuda_missing, "%s", line + sizeof no - 1);
}

// --- GPUs ---------------------------------------------------------------------------------------------------------------

static void ask(struct question *q) {
  nvml_ask(&q->nvml, &q->answer);
  if (q->answer.count > 0 && !q->probed) probe(q);
}

// Of the GPU with that UUID; NULL: it has not failed.
static const struct device_rest *rest_of(const struct devices *d, const char *uuid) {
  for (unsigned i = 0; i < d->rest_count; i++) {
    if (strcmp(d->rests[i].uuid, uuid) == 0) return &d->rests[i];
  }
  return NULL;
}

static const struct device_rest *resting(const struct devices *d, unsigned index) {
  const struct device_rest *rest = rest_of(d, d->gpus[index].last.uuid);
  return rest && rest->until_us > ls_time_us() ? rest : NULL;
}

// A place for it; with more GPUs than there ever are, that of the one whose rest is over first.
static struct device_rest *place_for(struct devices *d, const char *uuid) {
  struct device_rest *rest = (struct device_rest *)(uintptr_t)rest_of(d, uuid);
  if (rest) return rest;
  if (d->rest_count < NVML_MAX_GPUS) {
    rest = &d->rests[d->rest_count++];
  } else {
    rest = d->rests;
    for (unsigned i = 1; i < d->rest_count; i++) {
      if (d->rests[i].until_us < rest->until_us) rest = &d->rests[i];
    }
  }
  *rest = (struct device_rest){.until_us = 0};
  snprintf(rest->uuid, sizeof rest->uuid, "%s", uuid);
  return rest;
}
static bool silent(const struct devices *d) { return d->asking && ls_time_us() - d->asked_us > SILENCE_US; }

static void log_health(struct devices *d) {
  for (unsigned i = 0; i < d->gpu_count; i++) {
    struct gpu *g = &d->gpus[i];
    char now[sizeof g->said];
    devices_reason(d, i, true, now, sizeof now);
    if (strcmp(now, g->said) == 0) continue;
    if (now[0])
      ls_log(LS_LOG_WARNING, "gpu%u (%s) is not used: it %s", i, g->last.uuid, now);
    else
      ls_log(LS_LOG_INFO, "gpu%u (%s) is healthy again", i, g->last.uuid);
    snprintf(g->said, sizeof g->said, "%s", now);
  }
}

// Takes over the answer. A GPU that was there stays in the table: jobs may hold it by its number.
static void take(struct devices *d) {
  const struct question *q = &d->question;
  for (unsigned i = 0; i < q->answer.count; i++) {
    struct nvml_gpu before = d->gpus[i].last;
    d->gpus[i].last = q->answer.gpu[i];
    if (d->gpus[i].last.uuid[0] == 0) {  // a lost one has no name any more
      snprintf(d->gpus[i].last.name, sizeof before.name, "%s", before.name);
      snprintf(d->gpus[i].last.uuid, sizeof before.uuid, "%s", before.uuid);
    }
  }
  for (unsigned i = q->answer.count; i < d->gpu_count; i++) {
    snprintf(d->gpus[i].last.problem, sizeof d->gpus[i].last.problem, "%s",
             q->answer.problem[0] ? q->answer.problem : "is not there any more");
  }
  if (q->answer.count > d->gpu_count) d->gpu_count = q->answer.count;
  d->no_gpu[0] = 0;
  if (d->gpu_count == 0)
    snprintf(d->no_gpu, sizeof d->no_gpu, "this machine has no GPU that can be used: %s", q->answer.problem);
  else if (q->cuda_missing[0])
    snprintf(d->no_gpu, sizeof d->no_gpu, "the coordinator cannot use GPUs: %s", q->cuda_missing);
  log_health(d);
}

static void on_work(uv_work_t *work) { ask(&((struct devices *)work->data)->question); }

static void on_answer(uv_work_t *work, int status) {
  struct devices *d = work->data;
  d->asking = false;
  if (status == 0 && !d->closing) take(d);
}

static void on_timer(uv_timer_t *timer) {
  struct devices *d = timer->data;
  log_health(d);
  if (d->asking) return;
  d->asking = true;
  d->asked_us = ls_time_us();
  uv_queue_work(d->options.loop, &d->work, on_work, on_answer);
}

ls_status devices_new(const struct devices_options *options, struct devices **devices, struct ls_error *err) {
  struct devices *d = *devices = calloc(1, sizeof *d);
  if (!d) return ls_fail(err, LS_NO_MEMORY, "no memory for the devices");
  d->options = *options;
  d->question.worker = options->worker;
  find_cpus(d);
  ask(&d->question);
  for (unsigned i = 0; i < d->question.answer.count; i++) {
    const struct nvml_gpu *g = &d->question.answer.gpu[i];
    ls_log(LS_LOG_INFO, "gpu%u: %s, %" PRIu64 " MiB, %s", i, g->name, g->memory_bytes >> 20, g->uuid);
  }
  take(d);
  uv_timer_init(options->loop, &d->timer);
  d->timer.data = d->work.data = d;
  uv_timer_start(&d->timer, on_timer, ASK_MS, ASK_MS);
  return LS_OK;
}

void devices_close(struct devices *d) {
  d->closing = true;
  uv_close((uv_handle_t *)&d->timer, NULL);
}

void devices_free(struct devices *d) {
  if (!d) return;
  nvml_free(d->question.nvml);
  free(d);
}

unsigned devices_gpus(const struct devices *d) { return d->gpu_count; }
const struct nvml_gpu *devices_gpu(const struct devices *d, unsigned index) { return &d->gpus[index].last; }
const char *devices_no_gpu(const struct devices *d) { return d->no_gpu[0] ? d->no_gpu : NULL; }

uint64_t devices_healthy(const struct devices *d) {
  uint64_t mask = 0;
  for (unsigned i = 0; i < d->gpu_count && !silent(d); i++) {
    if (!d->gpus[i].last.problem[0] && !resting(d, i)) mask |= UINT64_C(1) << i;
  }
  return mask;
}

uint64_t devices_taken(const struct devices *d) {
  uint64_t mask = 0;
  for (unsigned i = 0; i < d->gpu_count; i++) {
    if (d->gpus[i].last.exclusive && d->gpus[i].last.user_pid) mask |= UINT64_C(1) << i;
  }
  return mask;
}

void devices_reason(const struct devices *d, unsigned index, bool held, char *text, size_t size) {
  const struct gpu *g = &d->gpus[index];
  const struct device_rest *rest = resting(d, index);
  *text = 0;
  if (g->last.problem[0]) {
    snprintf(text, size, "%s", g->last.problem);
  } else if (silent(d)) {
    snprintf(text, size, "does not answer: the NVIDIA driver has been silent for over %d s", SILENCE_US / US_PER_S);
  } else if (rest) {
    time_t until = (time_t)(rest->until_us / US_PER_S);
    struct tm parts;
    char clock[16] = "";
    if (localtime_r(&until, &parts)) strftime(clock, sizeof clock, "%H:%M:%S", &parts);
    snprintf(text, size, "failed (%s), is tried again at %s", rest->failure, clock);
  } else if (!held && g->last.exclusive && g->last.user_pid) {
    snprintf(text, size, "is in exclusive mode, and process %u uses it", g->last.user_pid);
  }
}

const struct device_rest *devices_failed(struct devices *d, unsigned index, const char *why) {
  const struct device_rest *known = resting(d, index);
  if (known && strcmp(known->failure, why) == 0) return NULL;
  struct device_rest *rest = place_for(d, d->gpus[index].last.uuid);
  int64_t rest_s = d->options.retry_s;
  for (unsigned i = 0; i < rest->failures && rest_s < MAX_RETRY_S; i++) rest_s *= 2;
  if (rest_s > MAX_RETRY_S) rest_s = MAX_RETRY_S;
  rest->failures++;
  rest->until_us = ls_time_us() + rest_s * US_PER_S;
  snprintf(rest->failure, sizeof rest->failure, "%s", why);
  log_health(d);
  return rest;
}

void devices_restore(struct devices *d, const struct device_rest *rest) {
  *place_for(d, rest->uuid) = *rest;
  log_health(d);
}
