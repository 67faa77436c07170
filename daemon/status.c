// The status endpoint: see status.h.
#include "daemon/status.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/string.h"
#include "daemon/device_list.h"
#include "daemon/page.h"
#include "spec/spec.h"

enum { MAX_CONNECTIONS = 64, IDLE_S = 30, RUN_MS = 1000 };

struct status {
  struct MHD_Daemon *http;
  const struct manager *manager;  // NULL while the daemon starts
  uv_poll_t poll;
  uv_timer_t timer;
  int fd;  // listening
  unsigned port;
  char host[64];
  int64_t started_us;
};

// --- metrics ------------------------------------------------------------------------------------------------------------

static void label(struct ls_string *out, const char *value) {
  for (; *value; value++) {
    if (*value == '\n')
      ls_string_add(out, "\\n");
    else
      ls_string_addf(out, "%s%c", *value == '"' || *value == '\\' ? "\\" : "", *value);
  }
}

static void head(struct ls_string *out, const char *name, const char *type, const char *help) {
  ls_string_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

struct job_metric {
  const char *name, *help;
  double (*value)(const struct job *job);
};

static double value_step(const struct job *job) { return (double)job->step; }
static double value_total(const struct job *job) { return (double)job->total_steps; }
static double value_loss(const struct job *job) { return job->last.loss; }
static double value_accuracy(const struct job *job) { return job->last.accuracy; }
static double value_validation(const struct job *job) { return job->validation_accuracy; }
static double value_rate(const struct job *job) { return job->last.images_per_s; }
static double value_wait(const struct job *job) { return job->last.input_wait; }
static double value_reader_wait(const struct job *job) { return job->last.reader_wait; }
static double value_step_s(const struct job *job) { return job->last.step_ms * 1e-3; }
static double value_learning_rate(const struct job *job) { return job->last.learning_rate; }
static double value_rss(const struct job *job) { return (double)job->last.peak_rss_bytes; }
static double value_attempt(const struct job *job) { return job->attempt; }

static const struct job_metric job_metrics[] = {
    {"lockstep_job_step", "Steps done.", value_step},
    {"lockstep_job_steps", "Steps of the whole job.", value_total},
    {"lockstep_job_loss", "Mean training loss since the last report.", value_loss},
    {"lockstep_job_accuracy", "Training accuracy since the last report, 0 to 1.", value_accuracy},
    {"lockstep_job_validation_accuracy", "Accuracy of the last evaluation, 0 to 1.", value_validation},
    {"lockstep_job_images_per_second", "Training throughput.", value_rate},
    {"lockstep_job_input_wait_ratio", "Share of the step that workers waited for data.", value_wait},
    {"lockstep_job_reader_wait_ratio", "Share of their time that readers waited for a free batch.", value_reader_wait},
    {"lockstep_job_step_seconds", "Length of a step.", value_step_s},
    {"lockstep_job_learning_rate", "Learning rate of the last step.", value_learning_rate},
    {"lockstep_job_peak_resident_bytes", "Largest resident memory of the coordinator.", value_rss},
    {"lockstep_job_attempts", "Starts of the coordinator.", value_attempt},
};

struct gpu_metric {
  const char *name, *help;
  double (*value)(const Lockstep__V1__Device *gpu);  // negative: not known
};

static double gpu_healthy(const Lockstep__V1__Device *gpu) { return gpu->healthy; }
static double gpu_in_use(const Lockstep__V1__Device *gpu) { return (double)gpu->n_jobs; }
static double gpu_memory(const Lockstep__V1__Device *gpu) { return (double)gpu->memory_bytes; }
static double gpu_memory_used(const Lockstep__V1__Device *gpu) { return (double)gpu->memory_used_bytes; }
static double gpu_utilisation(const Lockstep__V1__Device *gpu) { return gpu->utilisation; }
static double gpu_temperature(const Lockstep__V1__Device *gpu) { return gpu->temperature_c; }
static double gpu_power(const Lockstep__V1__Device *gpu) { return gpu->power_w; }

static const struct gpu_metric gpu_metrics[] = {
    {"lockstep_gpu_healthy", "1 when jobs may have it.", gpu_healthy},
    {"lockstep_gpu_in_use", "1 when a job holds it.", gpu_in_use},
    {"lockstep_gpu_memory_bytes", "Memory of the GPU.", gpu_memory},
    {"lockstep_gpu_memory_used_bytes", "Memory that is taken, by whomever.", gpu_memory_used},
    {"lockstep_gpu_utilisation_ratio", "Share of the time that it computed, 0 to 1.", gpu_utilisation},
    {"lockstep_gpu_temperature_celsius", "Temperature.", gpu_temperature},
    {"lockstep_gpu_power_watts", "Power it draws.", gpu_power},
};

static void write_gpu_metrics(const struct status *s, struct ls_string *out) {
  struct device_list *list = malloc(sizeof *list);
  if (!list) {
    out->failed = true;
    return;
  }
  device_list_fill(s->manager, list);
  for (size_t k = 0; k < sizeof gpu_metrics / sizeof *gpu_metrics; k++) {
    head(out, gpu_metrics[k].name, "gauge", gpu_metrics[k].help);
    for (unsigned i = 0; i < devices_gpus(manager_devices(s->manager)); i++) {
      double value = gpu_metrics[k].value(&list->device[i]);
      if (value < 0) continue;
      ls_string_addf(out, "%s{gpu=\"%s\",uuid=\"", gpu_metrics[k].name, list->device[i].name);
      label(out, list->device[i].uuid);
      ls_string_addf(out, "\"} %.15g\n", value);
    }
  }
  free(list);
}

static void write_metrics(const struct status *s, struct ls_string *out) {
  const struct manager *m = s->manager;
  unsigned by_state[LOCKSTEP__V1__JOB_STATE__CANCELLED + 1] = {0}, used = 0;
  for (size_t i = 0; i < manager_job_count(m); i++) {
    const struct job *job = manager_job(m, i);
    by_state[job->state]++;
    used += job_device_count(job);
  }
  head(out, "lockstep_start_time_seconds", "gauge", "When the daemon started, since 1970.");
  ls_string_addf(out, "lockstep_start_time_seconds %.3f\n", (double)s->started_us * 1e-6);
  head(out, "lockstep_ready", "gauge", "1 when jobs are taken.");
  ls_string_addf(out, "lockstep_ready %d\n", manager_ready(m));
  head(out, "lockstep_jobs", "gauge", "Jobs by state.");
  for (int state = LOCKSTEP__V1__JOB_STATE__QUEUED; state <= LOCKSTEP__V1__JOB_STATE__CANCELLED; state++)
    ls_string_addf(out, "lockstep_jobs{state=\"%s\"} %u\n", job_state_name((Lockstep__V1__JobState)state),
                   by_state[state]);
  head(out, "lockstep_devices", "gauge", "CPU cores and GPUs of the machine.");
  ls_string_addf(out, "lockstep_devices %u\n", devices_cpus(manager_devices(m)) + devices_gpus(manager_devices(m)));
  head(out, "lockstep_devices_in_use", "gauge", "Devices that jobs hold.");
  ls_string_addf(out, "lockstep_devices_in_use %u\n", used);
  write_gpu_metrics(s, out);
  for (size_t k = 0; k < sizeof job_metrics / sizeof *job_metrics; k++) {
    head(out, job_metrics[k].name, "gauge", job_metrics[k].help);
    for (size_t i = 0; i < manager_job_count(m); i++) {
      const struct job *job = manager_job(m, i);
      double value = job_metrics[k].value(job);
      if (!job_running(job) || value != value) continue;  // NaN: not known yet
      ls_string_addf(out, "%s{job=\"%s\",name=\"", job_metrics[k].name, job->id_text);
      label(out, job->name);
      ls_string_addf(out, "\"} %.9g\n", value);
    }
  }
}

// --- JSON ---------------------------------------------------------------------------------------------------------------

static void write_message(struct ls_string *out, const ProtobufCMessage *message) {
  size_t before = out->size;
  if (ls_spec_write_json(message, 0, out) != LS_OK) out->failed = true;
  while (out->size > before && out->data[out->size - 1] == '\n') out->data[--out->size] = 0;
}

static void write_job(struct ls_string *out, const struct job *job, bool include_job) {
  struct job_info info;
  job_info_fill(job, include_job, &info);
  write_message(out, &info.message.base);
  job_info_release(&info);
}

static void write_devices(const struct status *s, struct ls_string *out) {
  struct device_list *list = malloc(sizeof *list);
  if (list) {
    device_list_fill(s->manager, list);
    write_message(out, &list->message.base);
    ls_string_add(out, "\n");
  } else {
    out->failed = true;
  }
  free(list);
}

static void write_jobs(const struct status *s, struct ls_string *out) {
  ls_string_add(out, "{\"jobs\": [");
  for (size_t i = 0; i < manager_job_count(s->manager); i++) {
    if (i) ls_string_add(out, ",\n");
    write_job(out, manager_job(s->manager, i), false);
  }
  ls_string_add(out, "]}\n");
}

// The job's message with two more keys: "history", the step reports, and "evaluations".
static void write_job_with_history(struct ls_string *out, const struct job *job) {
  write_job(out, job, true);
  if (out->size && out->data[out->size - 1] == '}') out->data[--out->size] = 0;
  ls_string_add(out, ", \"history\": [");
  for (size_t i = 0; i < job->history_count; i++) {
    ls_string_addf(out, "%s{\"time_us\": %" PRId64 ", \"report\": ", i ? ",\n" : "", job->history[i].time_us);
    write_message(out, &job->history[i].step.base);
    ls_string_add(out, "}");
  }
  ls_string_add(out, "], \"evaluations\": [");
  for (size_t i = 0; i < job->evaluation_count; i++) {
    ls_string_addf(out, "%s{\"time_us\": %" PRId64 ", \"report\": ", i ? ",\n" : "", job->evaluations[i].time_us);
    write_message(out, &job->evaluations[i].evaluation.base);
    ls_string_add(out, "}");
  }
  ls_string_add(out, "]}\n");
}

// --- HTTP ---------------------------------------------------------------------------------------------------------------

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, const char *type,
                             struct ls_string *body) {
  if (body->failed) {
    ls_string_release(body);
    *body = (struct ls_string)LS_STRING_INIT;
    code = MHD_HTTP_INTERNAL_SERVER_ERROR;
  }
  struct MHD_Response *response =
      MHD_create_response_from_buffer(body->size, (void *)(uintptr_t)ls_string_text(body), MHD_RESPMEM_MUST_COPY);
  ls_string_release(body);
  if (!response) return MHD_NO;
  MHD_add_response_header(response, "Content-Type", type);
  MHD_add_response_header(response, "Cache-Control", "no-store");
  MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
  MHD_add_response_header(response, "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
  if (code == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(response, "Allow", "GET, HEAD");
  enum MHD_Result result = MHD_queue_response(connection, code, response);
  MHD_destroy_response(response);
  return result;
}

static enum MHD_Result reply_text(struct MHD_Connection *connection, unsigned code, const char *text) {
  struct ls_string body = LS_STRING_INIT;
  ls_string_addf(&body, "%s\n", text);
  return reply(connection, code, "text/plain; charset=utf-8", &body);
}

// Does the Host header name this machine's loopback, or the address that was asked for?
static bool host_allowed(const struct status *s, const char *host) {
  if (!host) return false;
  char name[128];
  snprintf(name, sizeof name, "%s", host);
  char *bracket = strchr(name, ']');
  char *colon = strrchr(bracket ? bracket : name, ':');
  if (colon) *colon = 0;
  return strcmp(name, "localhost") == 0 || strcmp(name, "127.0.0.1") == 0 || strcmp(name, "[::1]") == 0 ||
         strcmp(name, s->host) == 0;
}

static enum MHD_Result respond(struct status *s, struct MHD_Connection *connection, const char *url) {
  struct ls_string body = LS_STRING_INIT;
  if (strcmp(url, "/healthz") == 0) return reply_text(connection, MHD_HTTP_OK, "ok");
  if (strcmp(url, "/readyz") == 0) {
    return manager_ready(s->manager) ? reply_text(connection, MHD_HTTP_OK, "ready")
                                     : reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "not ready");
  }
  if (strcmp(url, "/metrics") == 0) {
    write_metrics(s, &body);
    return reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", &body);
  }
  if (strcmp(url, "/") == 0) {
    page_write(s->manager, &body);
    return reply(connection, MHD_HTTP_OK, "text/html; charset=utf-8", &body);
  }
  if (strcmp(url, "/api/v1/jobs") == 0) {
    write_jobs(s, &body);
    return reply(connection, MHD_HTTP_OK, "application/json", &body);
  }
  if (strcmp(url, "/api/v1/devices") == 0) {
    write_devices(s, &body);
    return reply(connection, MHD_HTTP_OK, "application/json", &body);
  }
  static const char prefix[] = "/api/v1/jobs/";
  struct job *job;
  if (strncmp(url, prefix, sizeof prefix - 1) == 0 &&
      manager_find(s->manager, url + sizeof prefix - 1, &job, NULL) == LS_OK) {
    write_job_with_history(&body, job);
    return reply(connection, MHD_HTTP_OK, "application/json", &body);
  }
  return reply_text(connection, MHD_HTTP_NOT_FOUND, "there is nothing here");
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_size, void **state) {
  (void)version, (void)upload;
  struct status *s = user;
  static int seen;
  if (!*state) {  // the headers only: the answer comes with the next call
    *state = &seen;
    return MHD_YES;
  }
  if (*upload_size) {  // a body nobody asked for
    *upload_size = 0;
    return MHD_YES;
  }
  if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
    return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD: this endpoint is read-only");
  if (!host_allowed(s, MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host")))
    return reply_text(connection, MHD_HTTP_FORBIDDEN, "the Host header does not name this machine's loopback address");
  if (!s->manager) return reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "lockstepd is starting");
  return respond(s, connection, url);
}

// --- set-up -------------------------------------------------------------------------------------------------------------

static void on_poll(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  MHD_run(((struct status *)poll->data)->http);
}

static void on_timer(uv_timer_t *timer) { MHD_run(((struct status *)timer->data)->http); }  // idle connections

static ls_status parse_address(const char *text, struct sockaddr_storage *address, socklen_t *size, char host[64],
                               struct ls_error *err) {
  const char *colon = strrchr(text, ':');
  struct sockaddr_in *v4 = (struct sockaddr_in *)address;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
  memset(address, 0, sizeof *address);
  char *end = NULL, name[64] = "";
  unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
  bool good = colon && colon[1] && !*end && port < 65536 && (size_t)(colon - text) < sizeof name;
  if (good) {
    memcpy(name, text, (size_t)(colon - text));
    snprintf(host, 64, "%s", name);
    if (strcmp(name, "localhost") == 0) snprintf(name, sizeof name, "127.0.0.1");
    size_t length = strlen(name);
    if (name[0] == '[' && name[length - 1] == ']') {
      name[length - 1] = 0;
      v6->sin6_family = AF_INET6;
      v6->sin6_port = htons((uint16_t)port);
      *size = sizeof *v6;
      good = inet_pton(AF_INET6, name + 1, &v6->sin6_addr) == 1;
    } else {
      v4->sin_family = AF_INET;
      v4->sin_port = htons((uint16_t)port);
      *size = sizeof *v4;
      good = inet_pton(AF_INET, name, &v4->sin_addr) == 1;
    }
  }
  return good ? LS_OK
              : ls_fail(err, LS_INVALID, "HTTP address '%s': must be ADDRESS:PORT, as 127.0.0.1:8470 or [::1]:8470",
                        text);
}

static ls_status listen_on(struct status *s, const char *text, struct ls_error *err) {
  struct sockaddr_storage address;
  socklen_t size;
  LS_TRY(parse_address(text, &address, &size, s->host, err));
  int on = 1;
  s->fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (s->fd >= 0) setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&address, size) != 0 || listen(s->fd, 64) != 0 ||
      getsockname(s->fd, (struct sockaddr *)&address, &size) != 0) {
    return ls_fail_errno(err, errno, "cannot listen on HTTP address '%s'", text);
  }
  s->port = ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                : ((struct sockaddr_in *)&address)->sin_port);
  return LS_OK;
}

ls_status status_new(uv_loop_t *loop, const char *address, struct status **status, struct ls_error *err) {
  *status = NULL;
  struct status *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for the status endpoint");
  s->fd = -1;
  s->started_us = ls_time_us();
  ls_status result = listen_on(s, address, err);
  if (result == LS_OK) {
    s->http = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, s->fd,
                               MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
                               (unsigned)IDLE_S, MHD_OPTION_END);
    if (!s->http) result = ls_fail(err, LS_INTERNAL, "cannot start the HTTP server on '%s'", address);
  }
  if (result != LS_OK) {
    if (s->fd >= 0) close(s->fd);
    free(s);
    return result;
  }
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_EPOLL_FD);
  s->poll.data = s->timer.data = s;
  uv_poll_init(loop, &s->poll, info->epoll_fd);
  uv_poll_start(&s->poll, UV_READABLE, on_poll);
  uv_timer_init(loop, &s->timer);
  uv_timer_start(&s->timer, on_timer, RUN_MS, RUN_MS);
  *status = s;
  return LS_OK;
}

void status_set_manager(struct status *s, const struct manager *manager) { s->manager = manager; }

unsigned status_port(const struct status *s) { return s->port; }

void status_close(struct status *s) {
  uv_close((uv_handle_t *)&s->poll, NULL);
  uv_close((uv_handle_t *)&s->timer, NULL);
}

void status_free(struct status *s) {
  if (!s) return;
  MHD_stop_daemon(s->http);  // closes the listening socket too
  free(s);
}
