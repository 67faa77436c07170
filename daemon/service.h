// The gRPC service lockstep.v1.Lockstep over the manager. The loop's thread.
#ifndef LS_DAEMON_SERVICE_H
#define LS_DAEMON_SERVICE_H

#include <uv.h>

#include "daemon/manager.h"

struct service;

ls_status service_new(uv_loop_t *loop, struct service **service, struct ls_error *err);
// Listens on the Unix socket `path`, mode 0660.
ls_status service_listen(struct service *service, struct manager *manager, const char *path, struct ls_error *err);
// A job's state or log has changed: those who watch it are told.
void service_changed(struct service *service, const struct job *job);
// Twice a second: followers of worker logs get what is new.
void service_tick(struct service *service);
void service_set_ready(struct service *service, bool ready);
void service_shutdown(struct service *service, unsigned drain_ms, void (*done)(void *user), void *user);
void service_free(struct service *service);  // after shutdown, or when it never listened

#endif
