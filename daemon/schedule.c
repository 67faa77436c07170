// Who gets which devices and when, and what becomes of a job when its coordinator is gone: the arrows of manager.h that no
// user asks for. See manager_internal.h. Everything here belongs to the loop's thread.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/string.h"
#include "daemon/manager_internal.h"
#include "worker/coordinator.h"

enum { MAX_DELAY_MS = 60000 };

// --- devices ------------------------------------------------------------------------------------------------------------

// Does the job run on GPUs? `auto`: where there are any, healthy or not, that the coordinator can use.
static bool on_gpus(const struct manager *m, const Lockstep__V1__Job *spec) {
  if (spec->devices->kind == LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_AUTO) return !devices_no_gpu(m->devices);
  return spec->devices->kind == LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_GPU;
}

// Devices of the job's kind that are fit for work, held or not.
static uint64_t fit(const struct manager *m, bool gpus) {
  unsigned count = devices_cpus(m->devices);
  if (gpus) return devices_healthy(m->devices);
  return count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1;
}

// Worker threads that the job is to run with: all healthy devices, or as many as it asks for, or fewer down to its limit
// when that many are not healthy.
static unsigned workers_of(const struct manager *m, const struct job *job) {
  const Lockstep__V1__Devices *devices = job->spec->devices;
  unsigned there = manager_bits(fit(m, on_gpus(m, job->spec))), count = 1;
  if (job->devices_wanted) return job->devices_wanted;
  if (devices->has_count) {
    unsigned least = devices->has_at_least ? devices->at_least : devices->count;
    for (count = devices->count; count > there && count / 2 >= least;) count /= 2;
    return count;
  }
  while (2 * count <= there && 2 * count <= job->spec->shards) count *= 2;
  return count;
}

// Devices to hold for so many workers; more workers than devices share them, where the job allows it.
static unsigned devices_of(const struct manager *m, const struct job *job) {
  unsigned workers = workers_of(m, job);
  bool gpus = on_gpus(m, job->spec);
  unsigned most = job->spec->devices->oversubscribe || !gpus ? manager_bits(fit(m, gpus)) : workers;
  if (gpus && most == 0) most = 1;
  return workers > most ? most : workers;
}

static uint64_t free_devices(const struct manager *m, bool gpus) {
  uint64_t mask = fit(m, gpus);
  if (gpus) mask &= ~devices_taken(m->devices);
  for (size_t i = 0; i < m->job_count; i++) mask &= ~(gpus ? m->jobs[i]->gpu_mask : m->jobs[i]->device_mask);
  return mask;
}

// Can it ever run here?
ls_status manager_check_devices(const struct manager *m, const Lockstep__V1__Job *spec, uint32_t override,
                                struct ls_error *err) {
  const Lockstep__V1__Devices *devices = spec->devices;
  uint32_t count = override ? override : devices->has_count ? devices->count : 1;
  uint32_t least = !override && devices->has_at_least ? devices->at_least : count;
  bool gpus = on_gpus(m, spec);
  unsigned there = gpus ? devices_gpus(m->devices) : devices_cpus(m->devices);
  if (gpus && devices_no_gpu(m->devices)) {
    return ls_fail(err, LS_UNSUPPORTED, "key 'devices.kind': gpu was asked for, but %s; use cpu or auto",
                   devices_no_gpu(m->devices));
  }
  if (count & (count - 1) || count > spec->shards) {
    return ls_fail(err, LS_INVALID, "%u devices: must be a power of two, at most the job's %u shards", count,
                   spec->shards);
  }
  if (least > there && !devices->oversubscribe) {
    return ls_fail(err, LS_INVALID,
                   "key 'devices.count': %u devices were asked for, this machine has %u%s; "
                   "devices.oversubscribe: true lets workers share them",
                   count, there, gpus ? " GPUs" : "");
  }
  return LS_OK;
}

// --- the way of a job ---------------------------------------------------------------------------------------------------

static void queue_again(struct manager *m, struct job *job, const char *why) {
  job->failures = job->checkpointed ? 1 : job->failures + 1;
  uint32_t allowed = job->spec->retry->attempts;
  if (job->failures > allowed) {
    if (allowed == 0)
      job_set_reason(job, "%s", why);
    else
      job_set_reason(job, "%s; it was started again %u time%s in a row", why, allowed, allowed == 1 ? "" : "s");
    manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__FAILED);
    return;
  }
  uint64_t delay_ms = m->options.retry_delay_ms;
  for (uint32_t i = 1; i < job->failures && delay_ms < MAX_DELAY_MS; i++) delay_ms *= 2;
  if (delay_ms > MAX_DELAY_MS) delay_ms = MAX_DELAY_MS;
  job->not_before_us = ls_time_us() + (int64_t)delay_ms * 1000;
  job_set_reason(job, "starts again in %.1f s, from its newest checkpoint: %s", (double)delay_ms / 1000, why);
  manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__QUEUED);
}

// A coordinator that ended because of a GPU: that one is left alone for a while. One that could not say which, and had only
// one, meant that.
static void blame_device(struct manager *m, const struct job *job) {
  char why[320];
  int failed = job->failed_device;
  bool unnamed = job->exit_status >= 0 && WIFEXITED(job->exit_status) &&
                 WEXITSTATUS(job->exit_status) == LS_EXIT_DEVICE && manager_bits(job->gpu_mask) == 1;
  if (failed < 0 && unnamed) failed = 0;
  for (unsigned i = 0; i < devices_gpus(m->devices) && failed >= 0; i++) {
    if (!(job->gpu_mask >> i & 1) || failed-- > 0) continue;
    snprintf(why, sizeof why, "job %s: %.256s", job->id_text,
             job->outcome_reason[0] ? job->outcome_reason : "no reason");
    const struct device_rest *rest = devices_failed(m->devices, i, why);
    struct ls_error err = LS_ERROR_INIT;
    if (rest && store_save_rest(m->store, rest, &err) != LS_OK) ls_log(LS_LOG_ERROR, "gpu%u: %s", i, err.text);
  }
}

void manager_settle(struct manager *m, struct job *job) {
  manager_read_log(job);
  blame_device(m, job);
  job->device_mask = job->gpu_mask = 0;
  enum stop_request stop = job->stop;
  Lockstep__V1__Outcome__Kind outcome = job->outcome;
  char how[160], why[LS_ERROR_TEXT_BYTES + 256];
  process_describe_exit(job, how, sizeof how);
  if (outcome == LOCKSTEP__V1__OUTCOME__KIND__KIND_UNSPECIFIED)
    snprintf(why, sizeof why, "the coordinator died (%s)", how);
  else
    snprintf(why, sizeof why, "%s", job->outcome_reason);
  job->stop = STOP_NONE;
  job->kill_at_us = 0;
  if (outcome == LOCKSTEP__V1__OUTCOME__KIND__SUCCEEDED) {
    job_set_reason(job, "%s", "");
    manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__SUCCEEDED);
  } else if (outcome == LOCKSTEP__V1__OUTCOME__KIND__FAILED) {
    job_set_reason(job, "%s", why);
    manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__FAILED);
  } else if (stop == STOP_CANCEL) {
    job_set_reason(job, "cancelled at step %" PRIu64, job->step);
    manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__CANCELLED);
  } else if (stop == STOP_PAUSE) {
    job_set_reason(job, "paused at step %" PRIu64, job->step);
    manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__PAUSED);
  } else if (outcome == LOCKSTEP__V1__OUTCOME__KIND__STOPPED) {
    job->not_before_us = 0;
    job_set_reason(job, "stopped from outside after a checkpoint; goes on when its devices are free");
    manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__QUEUED);
  } else {
    queue_again(m, job, why);
  }
  manager_schedule(m);
}

// "UUID,UUID" of the GPUs that the job holds.
static void name_gpus(const struct manager *m, const struct job *job, struct ls_string *names) {
  for (unsigned i = 0; i < devices_gpus(m->devices); i++) {
    if (job->gpu_mask >> i & 1) ls_string_addf(names, "%s%s", names->size ? "," : "", devices_gpu(m->devices, i)->uuid);
  }
}

static void start(struct manager *m, struct job *job, bool gpus, uint64_t mask) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_string names = LS_STRING_INIT;
  manager_read_log(job);
  job->attempt++;
  *(gpus ? &job->gpu_mask : &job->device_mask) = mask;
  job_begin_attempt(job);
  if (job->started_us == 0) job->started_us = ls_time_us();
  job->ended_us = 0;
  job_set_reason(job, "%s", "");
  manager_set_state(m, job, LOCKSTEP__V1__JOB_STATE__STARTING);  // durable before the process is there
  name_gpus(m, job, &names);
  ls_status status = process_start(&m->processes, job, workers_of(m, job), ls_string_text(&names), &err);
  ls_string_release(&names);
  if (status == LS_OK) return;
  job->device_mask = job->gpu_mask = 0;
  queue_again(m, job, err.text);
}

static void wait_for(struct manager *m, struct job *job, const char *text) {
  if (strcmp(text, job->reason) == 0) return;
  job_set_reason(job, "%s", text);
  manager_changed(m, job);
}

static void wait_for_devices(struct manager *m, struct job *job, bool gpus, unsigned wanted, unsigned found) {
  char text[160];
  unsigned unhealthy = gpus ? devices_gpus(m->devices) - manager_bits(devices_healthy(m->devices)) : 0;
  int used = snprintf(text, sizeof text, "waits for %u %s%s, %u %s free", wanted, gpus ? "GPU" : "device",
                      wanted == 1 && gpus ? "" : "s", found, found == 1 && gpus ? "is" : "are");
  if (unhealthy)
    snprintf(text + used, sizeof text - (size_t)used, ", %u of %u unhealthy", unhealthy, devices_gpus(m->devices));
  wait_for(m, job, text);
}

// Starts queued jobs in the order of their submission; the first that does not fit keeps those behind it waiting, or a
// large job would never get its devices. A job that waits for its back-off holds nobody up.
void manager_schedule(struct manager *m) {
  if (m->closing) return;
  int64_t now = ls_time_us();
  unsigned blocked_by[2] = {0, 0};  // of those that want CPU cores, GPUs
  for (size_t i = 0; i < m->job_count; i++) {
    struct job *job = m->jobs[i];
    if (job->state != LOCKSTEP__V1__JOB_STATE__QUEUED || job->not_before_us > now) continue;
    bool gpus = on_gpus(m, job->spec);
    if (blocked_by[gpus]) {
      char text[64];
      snprintf(text, sizeof text, "waits behind job %u", blocked_by[gpus]);
      wait_for(m, job, text);
      continue;
    }
    unsigned wanted = devices_of(m, job), found = 0;
    uint64_t free_mask = free_devices(m, gpus), mask = 0;
    for (unsigned d = 0; d < LS_MAX_DEVICES && found < wanted; d++) {
      if (!(free_mask >> d & 1)) continue;
      mask |= UINT64_C(1) << d;
      found++;
    }
    if (found == wanted) {
      start(m, job, gpus, mask);
      continue;
    }
    wait_for_devices(m, job, gpus, wanted, found);
    blocked_by[gpus] = (unsigned)job->id;
  }
}
