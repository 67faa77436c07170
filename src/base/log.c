// Log lines: see log.h.
#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static _Atomic int minimum_level = LS_LOG_INFO;

void ls_log_set_level(enum ls_log_level level) { atomic_store(&minimum_level, (int)level); }

// Is standard error the journal? systemd says which one it connected, "DEVICE:INODE", so that a child whose standard error
// goes elsewhere does not take the inherited variable for its own (systemd.exec(5)).
static bool goes_to_journal(void) {
  static _Atomic int known = -1;
  int journal = atomic_load(&known);
  if (journal >= 0) return journal;
  const char *stream = getenv("JOURNAL_STREAM");
  struct stat info;
  uint64_t device, inode;
  journal = stream && sscanf(stream, "%" SCNu64 ":%" SCNu64, &device, &inode) == 2 &&
            fstat(STDERR_FILENO, &info) == 0 && info.st_dev == device && info.st_ino == inode;
  atomic_store(&known, journal);
  return journal;
}

static size_t line_prefix(char *line, size_t size, enum ls_log_level level) {
  static const int priority[] = {7, 6, 4, 3};
  static const char *const name[] = {"debug", "info", "warning", "error"};
  if (goes_to_journal()) return (size_t)snprintf(line, size, "<%d>", priority[level]);
  struct timespec now;
  struct tm parts;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &parts);
  size_t used = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &parts);
  return used + (size_t)snprintf(line + used, size - used, ".%03ldZ %s: ", now.tv_nsec / 1000000, name[level]);
}

void ls_log(enum ls_log_level level, const char *format, ...) {
  if ((int)level < atomic_load(&minimum_level)) return;
  char text[2048];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  char line[sizeof text * 4 + 64];
  size_t used = line_prefix(line, 64, level);
  for (const char *c = text; *c; c++) {
    if ((unsigned char)*c < 0x20 || *c == 0x7f) {
      used += (size_t)snprintf(line + used, sizeof line - used, "\\x%02x", (unsigned char)*c);
    } else {
      line[used++] = *c;
    }
  }
  line[used++] = '\n';
  ssize_t written = write(STDERR_FILENO, line, used);
  (void)written;  // nobody is left to tell
}
