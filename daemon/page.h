// The status page: one HTML document, made anew at each request, that loads itself again every two seconds.
#ifndef LS_DAEMON_PAGE_H
#define LS_DAEMON_PAGE_H

#include "base/string.h"
#include "daemon/manager.h"

void page_write(const struct manager *manager, struct ls_string *out);

#endif
