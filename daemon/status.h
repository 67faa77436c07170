// The status endpoint: HTTP/1.1 on loopback, read-only. /healthz, /readyz, /metrics (Prometheus text format 0.0.4),
// /api/v1/jobs, /api/v1/jobs/ID (with the metric history), /api/v1/devices, / (a page). 503 while the daemon starts. The Host header must name this machine, so that
// no web page elsewhere can read it through a visitor's browser (DNS rebinding).
// libmicrohttpd on the libuv loop: everything in the loop's thread.
#ifndef LS_DAEMON_STATUS_H
#define LS_DAEMON_STATUS_H

#include <uv.h>

#include "daemon/manager.h"

struct status;

// `address`: "HOST:PORT", "[::1]:PORT"; port 0: any free one.
ls_status status_new(uv_loop_t *loop, const char *address, struct status **status, struct ls_error *err);
void status_set_manager(struct status *status, const struct manager *manager);
unsigned status_port(const struct status *status);
void status_close(struct status *status);  // the loop must run once more before status_free
void status_free(struct status *status);

#endif
