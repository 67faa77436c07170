// Status codes and error text.
//
// A function that can fail returns ls_status and takes a `struct ls_error *`, which it fills with one ready sentence:
// what failed, 'the thing', what was found, what is allowed. The caller passes it on, adds context in front with
// ls_error_prefix, or shows it. Libraries never print. All functions here may be called from any thread; one
// `struct ls_error` belongs to one thread at a time.
#ifndef LS_BASE_ERROR_H
#define LS_BASE_ERROR_H

#include <stdarg.h>

typedef enum ls_status {
  LS_OK = 0,
  LS_INVALID,  // the caller's or the user's input is wrong; trying again does not help
  LS_NOT_FOUND,
  LS_EXISTS,
  LS_UNSUPPORTED,  // right in itself, but not by this build, backend or device
  LS_IO,           // the operating system refused: disk full, read error
  LS_CORRUPT,      // stored data fail their check
  LS_NO_MEMORY,
  LS_UNAVAILABLE,  // try again later: not connected, busy
  LS_TIMEOUT,
  LS_CANCELLED,
  LS_DIVERGED,  // the loss is not a number
  LS_INTERNAL,  // a defect in Lockstep itself
} ls_status;

enum { LS_ERROR_TEXT_BYTES = 1024 };

struct ls_error {
  ls_status status;
  char text[LS_ERROR_TEXT_BYTES];  // one sentence without a final full stop or newline; cut with "..." when too long
};

#define LS_ERROR_INIT \
  { LS_OK, "" }

// Fills `err` (NULL is allowed) and returns `status`, so that a caller can write `return ls_fail(err, LS_IO, ...)`.
ls_status ls_fail(struct ls_error *err, ls_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
ls_status ls_failv(struct ls_error *err, ls_status status, const char *format, va_list args);

// As ls_fail, with ": " and the text of errno value `error_number` appended.
ls_status ls_fail_errno(struct ls_error *err, int error_number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "PREFIX: " in front of the text already there. Returns err->status.
ls_status ls_error_prefix(struct ls_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Short lower-case word for a status: "invalid", "i/o error".
const char *ls_status_name(ls_status status);

// Runs `call`, which returns ls_status, and returns its status from the calling function unless it is LS_OK.
#define LS_TRY(call)                                    \
  do {                                                  \
    ls_status ls_try_status_ = (call);                  \
    if (ls_try_status_ != LS_OK) return ls_try_status_; \
  } while (0)

#endif
