// Events: see report.h.
#include "worker/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"

ls_status report_open(struct report *r, const struct ls_train_options *options, struct ls_error *err) {
  *r = (struct report){.options = options, .nudge_fd = -1};
  const char *slash = strrchr(options->folder, '/');
  r->job_name = slash ? slash + 1 : options->folder;
  char *path = ls_path_join(options->folder, "events.log");
  pthread_mutex_init(&r->lock, NULL);
  ls_status status = path ? ls_event_log_open(path, &r->log, err) : ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  free(path);
  if (status != LS_OK)
    report_close(r);
  else if (options->nudge)
    r->nudge_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return status;
}

void report_close(struct report *r) {
  ls_event_log_close(r->log);
  if (r->nudge_fd >= 0) close(r->nudge_fd);
  pthread_mutex_destroy(&r->lock);
}

// Best effort: the daemon also looks by itself.
static void nudge(struct report *r) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (r->nudge_fd < 0 || strlen(r->options->nudge) >= sizeof address.sun_path) return;
  strcpy(address.sun_path, r->options->nudge);
  sendto(r->nudge_fd, r->job_name, strlen(r->job_name), MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
         sizeof address);
}

void report_event(struct report *r, Lockstep__V1__Event *event, bool durable) {
  struct ls_error error = LS_ERROR_INIT;
  event->attempt = r->options->attempt;
  pthread_mutex_lock(&r->lock);
  if (ls_event_log_append(r->log, event, durable, &error) != LS_OK && r->error.status == LS_OK) r->error = error;
  nudge(r);
  if (r->options->event) r->options->event(r->options->user, event);
  pthread_mutex_unlock(&r->lock);
}

ls_status report_status(struct report *r, struct ls_error *err) {
  pthread_mutex_lock(&r->lock);
  ls_status status = r->error.status;
  if (status != LS_OK && err) *err = r->error;
  pthread_mutex_unlock(&r->lock);
  return status;
}

void report_note(struct report *r, Lockstep__V1__Note__Level level, const char *format, ...) {
  char text[LS_ERROR_TEXT_BYTES + 256];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  Lockstep__V1__Note note = LOCKSTEP__V1__NOTE__INIT;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  note.level = level;
  note.text = text;
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_NOTE;
  event.note = &note;
  report_event(r, &event, false);
}
