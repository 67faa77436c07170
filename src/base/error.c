// Error text: see error.h.
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void mark_cut(struct ls_error *err, int wanted) {
  if (wanted >= (int)sizeof err->text) memcpy(err->text + sizeof err->text - 4, "...", 4);
}

// What a sentence quotes (names, labels, bytes of damaged files) may hold anything: it stays one line, and moves no
// cursor.
static void one_line(char *text) {
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c < 0x20 || c == 0x7f) *text = c == '\n' || c == '\t' ? ' ' : '?';
  }
}

ls_status ls_failv(struct ls_error *err, ls_status status, const char *format, va_list args) {
  if (err) {
    err->status = status;
    mark_cut(err, vsnprintf(err->text, sizeof err->text, format, args));
    one_line(err->text);
  }
  return status;
}

ls_status ls_fail(struct ls_error *err, ls_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  ls_failv(err, status, format, args);
  va_end(args);
  return status;
}

static ls_status status_of_errno(int error_number) {
  switch (error_number) {
    case ENOENT: return LS_NOT_FOUND;
    case EEXIST: return LS_EXISTS;
    case ENOMEM: return LS_NO_MEMORY;
    case ECONNREFUSED:
    case EAGAIN:
    case EBUSY: return LS_UNAVAILABLE;
    case ETIMEDOUT: return LS_TIMEOUT;
    default: return LS_IO;
  }
}

ls_status ls_fail_errno(struct ls_error *err, int error_number, const char *format, ...) {
  ls_status status = status_of_errno(error_number);
  if (!err) return status;
  va_list args;
  va_start(args, format);
  ls_failv(err, status, format, args);
  va_end(args);
  size_t used = strlen(err->text);
  mark_cut(err, (int)used + snprintf(err->text + used, sizeof err->text - used, ": %s", strerror(error_number)));
  return status;
}

ls_status ls_error_prefix(struct ls_error *err, const char *format, ...) {
  if (!err) return LS_INTERNAL;
  char old[LS_ERROR_TEXT_BYTES];
  memcpy(old, err->text, sizeof old);
  va_list args;
  va_start(args, format);
  ls_status status = err->status;
  ls_failv(err, status, format, args);
  va_end(args);
  size_t used = strlen(err->text);
  mark_cut(err, (int)used + snprintf(err->text + used, sizeof err->text - used, ": %s", old));
  return status;
}

const char *ls_status_name(ls_status status) {
  switch (status) {
    case LS_OK: return "ok";
    case LS_INVALID: return "invalid";
    case LS_NOT_FOUND: return "not found";
    case LS_EXISTS: return "exists";
    case LS_UNSUPPORTED: return "unsupported";
    case LS_IO: return "i/o error";
    case LS_CORRUPT: return "corrupt";
    case LS_NO_MEMORY: return "out of memory";
    case LS_UNAVAILABLE: return "unavailable";
    case LS_TIMEOUT: return "timed out";
    case LS_CANCELLED: return "cancelled";
    case LS_DIVERGED: return "diverged";
    case LS_INTERNAL: return "internal error";
  }
  return "unknown";
}
