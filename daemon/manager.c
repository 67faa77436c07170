// The daemon's heart: see manager.h, and manager_internal.h for what lies where.
#include "daemon/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/string.h"
#include "daemon/manager_internal.h"
#include "spec/spec.h"

enum { TICK_MS = 500 };

void manager_changed(struct manager *m, struct job *job) { m->options.changed(m->options.user, job); }

// A store that cannot be written makes the daemon not ready; jobs go on, their logs are the truth.
void manager_save(struct manager *m, const struct job *job) {
  struct ls_error err = LS_ERROR_INIT;
  bool failed = store_save(m->store, job, &err) != LS_OK;
  if (failed) ls_log(LS_LOG_ERROR, "job %s: %s", job->id_text, err.text);
  m->store_failed = failed;
}

void manager_set_state(struct manager *m, struct job *job, Lockstep__V1__JobState state) {
  job->state = state;
  if (job_ended(job)) job->ended_us = ls_time_us();
  manager_save(m, job);
  ls_log(job->state == LOCKSTEP__V1__JOB_STATE__FAILED ? LS_LOG_ERROR : LS_LOG_INFO, "job %s (%s) is %s%s%s",
         job->id_text, job->name, job_state_name(state), job->reason[0] ? ": " : "", job->reason);
  manager_changed(m, job);
}

const struct devices *manager_devices(const struct manager *m) { return m->devices; }

static void on_exited(void *user, struct job *job) { manager_settle(user, job); }

bool manager_read_log(struct job *job) {
  struct ls_error err = LS_ERROR_INIT;
  bool news = job_read_log(job, &err);
  if (err.status != LS_OK) ls_log(LS_LOG_ERROR, "job %s: %s", job->id_text, err.text);
  return news;
}

// Reads the log of a running job and tells what is new.
static void follow(struct manager *m, struct job *job) {
  Lockstep__V1__JobState before = job->state;
  bool news = manager_read_log(job);
  if (job->state != before)
    manager_set_state(m, job, job->state);
  else if (news)
    manager_changed(m, job);
}

// --- signs of life ------------------------------------------------------------------------------------------------------

static void on_nudge(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  struct manager *m = poll->data;
  char name[64];
  for (;;) {
    ssize_t size = recv(m->nudge_fd, name, sizeof name - 1, MSG_DONTWAIT);
    if (size < 0) return;
    name[size] = 0;
    struct job *job;
    if (manager_find(m, name, &job, NULL) == LS_OK && job_running(job)) follow(m, job);
  }
}

static void on_tick(uv_timer_t *timer) {
  struct manager *m = timer->data;
  int64_t now = ls_time_us();
  for (size_t i = 0; i < m->job_count; i++) {
    struct job *job = m->jobs[i];
    if (!job_running(job)) continue;
    follow(m, job);  // in case a nudge was lost
    if (job->kill_at_us && now >= job->kill_at_us) {
      ls_log(LS_LOG_WARNING, "job %s (%s) does not stop: its coordinator is killed", job->id_text, job->name);
      job->kill_at_us = 0;
      process_signal(job, SIGKILL);
    }
  }
  manager_schedule(m);
  m->options.tick(m->options.user);
}

// --- set-up -------------------------------------------------------------------------------------------------------------

static ls_status lock_state(struct manager *m, struct ls_error *err) {
  char *path = ls_path_join(m->options.state, "lock");
  if (!path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  m->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  ls_status status = LS_OK;
  if (m->lock_fd < 0)
    status = ls_fail_errno(err, errno, "cannot open '%s'", path);
  else if (flock(m->lock_fd, LOCK_EX | LOCK_NB) != 0)
    status = ls_fail(err, LS_UNAVAILABLE, "another lockstepd works in the state folder '%s'", m->options.state);
  free(path);
  return status;
}

static ls_status open_nudge(struct manager *m, struct ls_error *err) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  m->nudge_path = ls_path_join(m->options.state, "nudge.sock");
  if (!m->nudge_path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  if (strlen(m->nudge_path) >= sizeof address.sun_path) {
    return ls_fail(err, LS_INVALID, "the state folder's path '%s' is too long: a socket in it may have %zu bytes",
                   m->options.state, sizeof address.sun_path - 1);
  }
  snprintf(address.sun_path, sizeof address.sun_path, "%s", m->nudge_path);
  unlink(m->nudge_path);
  m->nudge_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (m->nudge_fd < 0 || bind(m->nudge_fd, (struct sockaddr *)&address, sizeof address) != 0)
    return ls_fail_errno(err, errno, "cannot listen on '%s'", m->nudge_path);
  uv_poll_init(m->options.loop, &m->nudge, m->nudge_fd);
  m->nudge.data = m;
  uv_poll_start(&m->nudge, UV_READABLE, on_nudge);
  return LS_OK;
}

// Room for one more job.
static ls_status reserve(struct manager *m, struct ls_error *err) {
  struct job **grown = realloc(m->jobs, (m->job_count + 1) * sizeof *grown);
  if (!grown) return ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  m->jobs = grown;
  return LS_OK;
}

static ls_status add(void *user, struct job *job, struct ls_error *err) {
  struct manager *m = user;
  ls_status status = reserve(m, err);
  if (status == LS_OK)
    m->jobs[m->job_count++] = job;
  else
    job_free(job);
  return status;
}

// After a start of the daemon: what its jobs have done meanwhile.
static void recover(struct manager *m) {
  for (size_t i = 0; i < m->job_count; i++) {
    struct job *job = m->jobs[i];
    struct ls_error err = LS_ERROR_INIT;
    if (!job_running(job)) {
      manager_read_log(job);
    } else if (process_adopt(&m->processes, job, &err) == LS_OK) {
      follow(m, job);
      ls_log(LS_LOG_INFO, "job %s (%s) still runs as process %d", job->id_text, job->name, (int)job->pid);
      if (job->stop != STOP_NONE) {
        process_signal(job, SIGTERM);
        job->kill_at_us = ls_time_us() + (int64_t)m->options.stop_grace_ms * 1000;
      }
    } else {
      manager_settle(m, job);
    }
    if (err.status != LS_OK && err.status != LS_NOT_FOUND) ls_log(LS_LOG_ERROR, "job %s: %s", job->id_text, err.text);
  }
}

static void on_rest(void *user, const struct device_rest *rest) {
  devices_restore(((struct manager *)user)->devices, rest);
}

static ls_status open_all(struct manager *m, struct ls_error *err) {
  LS_TRY(ls_folder_make(m->options.state, 0750, err));
  LS_TRY(lock_state(m, err));
  m->folder_of_jobs = ls_path_join(m->options.state, "jobs");
  char *database = ls_path_join(m->options.state, "lockstep.db");
  ls_status status = m->folder_of_jobs && database ? ls_folder_make(m->folder_of_jobs, 0750, err)
                                                   : ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  if (status == LS_OK) status = store_open(database, &m->store, err);
  free(database);
  if (status != LS_OK) return status;
  LS_TRY(store_load_rests(m->store, on_rest, m, err));
  LS_TRY(store_load(m->store, m->folder_of_jobs, add, m, err));
  LS_TRY(open_nudge(m, err));
  uv_timer_init(m->options.loop, &m->timer);
  m->timer.data = m;
  uv_timer_start(&m->timer, on_tick, TICK_MS, TICK_MS);
  return LS_OK;
}

ls_status manager_new(const struct manager_options *options, struct manager **manager, struct ls_error *err) {
  *manager = NULL;
  struct manager *m = calloc(1, sizeof *m);
  if (!m) return ls_fail(err, LS_NO_MEMORY, "no memory for the daemon");
  m->options = *options;
  m->lock_fd = m->nudge_fd = -1;
  struct devices_options devices = {options->loop, options->worker, options->device_retry_s};
  ls_status status = devices_new(&devices, &m->devices, err);
  if (status == LS_OK) status = open_all(m, err);
  if (status != LS_OK) {
    manager_close(m);
    uv_run(options->loop, UV_RUN_NOWAIT);
    manager_free(m);
    return status;
  }
  m->processes = (struct process_options){options->loop, options->worker, m->nudge_path, on_exited, m};
  *manager = m;  // `changed` is called from here on
  recover(m);
  manager_schedule(m);
  return LS_OK;
}

void manager_close(struct manager *m) {
  m->closing = true;
  for (size_t i = 0; i < m->job_count; i++) process_forget(m->jobs[i]);
  if (m->devices) devices_close(m->devices);
  if (m->nudge.data) uv_close((uv_handle_t *)&m->nudge, NULL);
  if (m->timer.data) uv_close((uv_handle_t *)&m->timer, NULL);
}

void manager_free(struct manager *m) {
  if (!m) return;
  for (size_t i = 0; i < m->job_count; i++) job_free(m->jobs[i]);
  free(m->jobs);
  store_close(m->store);
  devices_free(m->devices);
  if (m->nudge_fd >= 0) {
    close(m->nudge_fd);
    unlink(m->nudge_path);
  }
  if (m->lock_fd >= 0) close(m->lock_fd);
  free(m->folder_of_jobs);
  free(m->nudge_path);
  free(m);
}

bool manager_ready(const struct manager *m) {
  return !m->closing && !m->store_failed && manager_bits(devices_healthy(m->devices)) >= m->options.gpus_wanted;
}

// --- what users ask for -------------------------------------------------------------------------------------------------

size_t manager_job_count(const struct manager *m) { return m->job_count; }
struct job *manager_job(const struct manager *m, size_t index) {
  return m->jobs[index];
}

ls_status manager_find(const struct manager *m, const char *id, struct job **job, struct ls_error *err) {
  for (size_t i = 0; i < m->job_count; i++) {
    if (strcmp(m->jobs[i]->id_text, id) != 0) continue;
    *job = m->jobs[i];
    return LS_OK;
  }
  return ls_fail(err, LS_NOT_FOUND, "there is no job '%s'", id);
}

static struct job *find_key(const struct manager *m, const char *request_key) {
  for (size_t i = 0; i < m->job_count && request_key && *request_key; i++) {
    if (m->jobs[i]->request_key && strcmp(m->jobs[i]->request_key, request_key) == 0) return m->jobs[i];
  }
  return NULL;
}

// The folder that the coordinator will find, with its job in it, on disk before the job is known.
static ls_status make_folder(const struct job *job, struct ls_error *err) {
  LS_TRY(ls_folder_remove(job->folder, err));  // of a submission that was never committed
  LS_TRY(ls_folder_make(job->folder, 0750, err));
  struct ls_string text = LS_STRING_INIT;
  char *path = ls_path_join(job->folder, "job.json");
  ls_status status = ls_spec_write_json(&job->spec->base, 2, &text);
  if (!path || text.failed) status = ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  if (status == LS_OK) status = ls_file_write_atomic(path, ls_string_text(&text), text.size, err);
  if (status == LS_OK) status = ls_file_sync_folder_of(job->folder, err);
  ls_string_release(&text);
  free(path);
  return status;
}

// The client resolves names: the daemon knows neither its folder nor its model files.
static ls_status check_inline(const Lockstep__V1__Job *spec, struct ls_error *err) {
  const char *paths[][2] = {{"data.train", spec->data->train}, {"data.validation", spec->data->validation}};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    const char *path = paths[i][1];
    if (path && *path && *path != '/') {
      return ls_fail(err, LS_INVALID, "key '%s': '%s' is no absolute path, and the daemon does not know your folder",
                     paths[i][0], path);
    }
  }
  return LS_OK;
}

ls_status manager_submit(struct manager *m, Lockstep__V1__Job *spec, const char *request_key, const char *user,
                         struct job **result, struct ls_error *err) {
  struct job *job = find_key(m, request_key);
  if (job) {
    lockstep__v1__job__free_unpacked(spec, NULL);
    *result = job;
    return LS_OK;
  }
  uint64_t id = 0;
  int64_t now = ls_time_us();
  ls_status status = ls_spec_complete_job(spec, err);
  if (status == LS_OK) status = check_inline(spec, err);
  if (status == LS_OK) status = manager_check_devices(m, spec, 0, err);
  if (status == LS_OK) status = store_begin(m->store, request_key, spec, user, now, &id, err);
  if (status == LS_OK && !(job = job_new(id, m->folder_of_jobs, spec)))
    status = ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  if (!job) {
    store_roll_back(m->store);
    lockstep__v1__job__free_unpacked(spec, NULL);
    return status;
  }
  free(job->user);
  bool keyed = request_key && *request_key;
  job->user = strdup(user);
  job->request_key = keyed ? strdup(request_key) : NULL;
  job->state = LOCKSTEP__V1__JOB_STATE__QUEUED;
  job->submitted_us = now;
  if (!job->user || (keyed && !job->request_key)) status = ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  if (status == LS_OK) status = reserve(m, err);  // after the commit nothing may fail
  if (status == LS_OK) status = make_folder(job, err);
  if (status == LS_OK) status = store_commit(m->store, err);
  if (status != LS_OK) {
    store_roll_back(m->store);
    ls_folder_remove(job->folder, NULL);
    job_free(job);
    return status;
  }
  m->jobs[m->job_count++] = job;
  ls_log(LS_LOG_INFO, "job %s (%s) was submitted by %s", job->id_text, job->name, *user ? user : "somebody");
  *result = job;
  manager_schedule(m);
  return LS_OK;
}

static void ask_to_stop(struct manager *m, struct job *job, enum stop_request stop) {
  job->stop = stop;
  job_set_reason(job, "stops after its current step, with a checkpoint");
  // From the first request on: asking again does not put the end off.
  if (job->kill_at_us == 0) job->kill_at_us = ls_time_us() + (int64_t)m->options.stop_grace_ms * 1000;
  manager_save(m, job);
  process_signal(job, SIGTERM);
  manager_changed(m, job);
}

ls_status manager_cancel(struct manager *m, struct job *job, struct ls_error *err) {
  if (job->state == LOCKSTEP__V1__JOB_STATE__CANCELLED) return LS_OK;
  if (job_ended(job)) {
    return ls_fail(err, LS_INVALID, "job %s cannot be cancelled: it has %s", job->id_text, job_state_name(job->state));
  }
  if (job_running(job)) {
    ask_to_stop(m, job, STOP_CANCEL);
    return LS_OK;
  }
  job_set_reason(job, "cancelled before it %s", job->attempt ? "went on" : "started");
  manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__CANCELLED);
  manager_schedule(m);
  return LS_OK;
}

ls_status manager_pause(struct manager *m, struct job *job, struct ls_error *err) {
  if (job->state == LOCKSTEP__V1__JOB_STATE__PAUSED) return LS_OK;
  if (job_ended(job)) {
    return ls_fail(err, LS_INVALID, "job %s cannot be paused: it has %s", job->id_text, job_state_name(job->state));
  }
  if (job_running(job)) {
    if (job->stop != STOP_CANCEL) ask_to_stop(m, job, STOP_PAUSE);
    return LS_OK;
  }
  job_set_reason(job, "paused before it %s", job->attempt ? "went on" : "started");
  manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__PAUSED);
  manager_schedule(m);
  return LS_OK;
}

ls_status manager_resume(struct manager *m, struct job *job, uint32_t devices, struct ls_error *err) {
  if (job_running(job) || job->state == LOCKSTEP__V1__JOB_STATE__QUEUED ||
      job->state == LOCKSTEP__V1__JOB_STATE__SUCCEEDED) {
    return ls_fail(err, LS_INVALID, "job %s cannot be resumed: it is %s, not paused, failed or cancelled", job->id_text,
                   job_state_name(job->state));
  }
  LS_TRY(manager_check_devices(m, job->spec, devices, err));
  if (devices) job->devices_wanted = devices;
  job->failures = 0;
  job->not_before_us = 0;
  job->stop = STOP_NONE;
  job_set_reason(job, "%s", "");
  manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__QUEUED);
  manager_schedule(m);
  return LS_OK;
}
