// A job's event log: see event_log.h.
#include "spec/event_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/digest.h"

enum { HEADER_BYTES = 12, MAX_EVENT_BYTES = 1 << 20 };

struct ls_event_log {
  int fd;
  char *path;
  pthread_mutex_t lock;
};

static void put(uint8_t *to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *from, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; i++) value |= (uint64_t)from[i] << (8 * i);
  return value;
}

static bool record_at(const uint8_t *bytes, size_t available) {
  if (available < HEADER_BYTES) return false;
  uint64_t size = get(bytes, 4);
  return size > 0 && size <= MAX_EVENT_BYTES && size <= available - HEADER_BYTES &&
         ls_xxh3_64(bytes + HEADER_BYTES, size) == get(bytes + 4, 8);
}

// Tells damage from a torn end: whether a whole record begins anywhere behind a bad one at `offset`. The next one begins
// within the largest record's size, whatever the bad one says of its own.
static ls_status record_follows(int fd, const char *path, uint64_t offset, bool *follows, struct ls_error *err) {
  size_t window = 2 * ((size_t)MAX_EVENT_BYTES + HEADER_BYTES), size = 0;
  uint8_t *bytes = malloc(window);
  if (!bytes) return ls_fail(err, LS_NO_MEMORY, "no memory to read '%s'", path);
  for (ssize_t got; (got = pread(fd, bytes + size, window - size, (off_t)(offset + size))) > 0;) size += (size_t)got;
  *follows = false;
  for (size_t at = 1; at < size && !*follows; at++) *follows = record_at(bytes + at, size - at);
  free(bytes);
  return LS_OK;
}

static ls_status read_records(int fd, const char *path, uint64_t *offset,
                              bool (*event)(void *user, const Lockstep__V1__Event *event), void *user,
                              struct ls_error *err) {
  uint8_t *payload = malloc(MAX_EVENT_BYTES);
  ls_status status = payload ? LS_OK : ls_fail(err, LS_NO_MEMORY, "no memory to read '%s'", path);
  while (status == LS_OK) {
    uint8_t header[HEADER_BYTES];
    ssize_t got = pread(fd, header, sizeof header, (off_t)*offset);
    if (got < 0) status = ls_fail_errno(err, errno, "cannot read '%s'", path);
    if (got <= 0) break;
    uint64_t size = got == HEADER_BYTES ? get(header, 4) : UINT64_MAX;
    bool whole = size <= MAX_EVENT_BYTES &&
                 pread(fd, payload, size, (off_t)(*offset + HEADER_BYTES)) == (ssize_t)size &&
                 ls_xxh3_64(payload, size) == get(header + 4, 8);
    Lockstep__V1__Event *message = whole ? lockstep__v1__event__unpack(NULL, size, payload) : NULL;
    if (!message) {  // torn in a crash, or being written just now, unless something follows
      bool damaged = false;
      status = record_follows(fd, path, *offset, &damaged, err);
      if (damaged) {
        status =
            ls_fail(err, LS_CORRUPT, "'%s' is damaged: the record at byte %" PRIu64 " fails its check", path, *offset);
      }
      break;
    }
    bool taken = !event || event(user, message);
    lockstep__v1__event__free_unpacked(message, NULL);
    if (!taken) break;
    *offset += HEADER_BYTES + size;
  }
  free(payload);
  return status;
}

ls_status ls_event_log_read(const char *path, uint64_t *offset,
                            bool (*event)(void *user, const Lockstep__V1__Event *event), void *user,
                            struct ls_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return LS_OK;
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open '%s'", path);
  ls_status status = read_records(fd, path, offset, event, user, err);
  close(fd);
  return status;
}

ls_status ls_event_log_open(const char *path, struct ls_event_log **result, struct ls_error *err) {
  *result = NULL;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open '%s'", path);
  ls_status status = LS_OK;
  uint64_t end = 0;
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    status = ls_fail(err, LS_UNAVAILABLE, "'%s' is being written by another process: the job runs already", path);
  }
  if (status == LS_OK) status = read_records(fd, path, &end, NULL, NULL, err);
  if (status == LS_OK && (ftruncate(fd, (off_t)end) != 0 || lseek(fd, (off_t)end, SEEK_SET) < 0)) {
    status = ls_fail_errno(err, errno, "cannot cut the torn end off '%s'", path);
  }
  struct ls_event_log *log = status == LS_OK ? calloc(1, sizeof *log) : NULL;
  if (status == LS_OK && (!log || !(log->path = strdup(path)))) {
    free(log);
    status = ls_fail(err, LS_NO_MEMORY, "no memory for the event log");
  }
  if (status != LS_OK) {
    close(fd);
    return status;
  }
  log->fd = fd;
  pthread_mutex_init(&log->lock, NULL);
  *result = log;
  return LS_OK;
}

void ls_event_log_close(struct ls_event_log *log) {
  if (!log) return;
  close(log->fd);
  pthread_mutex_destroy(&log->lock);
  free(log->path);
  free(log);
}

// One write, so that a reader never sees half a record other than at the end. A short write (disk full) is taken back.
static ls_status write_record(struct ls_event_log *log, const uint8_t *record, size_t size, struct ls_error *err) {
  off_t begin = lseek(log->fd, 0, SEEK_CUR);
  ssize_t written = write(log->fd, record, size);
  if (written == (ssize_t)size) return LS_OK;
  int reason = written < 0 ? errno : ENOSPC;
  if (written > 0 && begin >= 0 && (ftruncate(log->fd, begin) != 0 || lseek(log->fd, begin, SEEK_SET) < 0)) {
    reason = errno;
  }
  return ls_fail_errno(err, reason, "cannot append to '%s'", log->path);
}

ls_status ls_event_log_append(struct ls_event_log *log, Lockstep__V1__Event *event, int durable, struct ls_error *err) {
  if (event->time_us == 0) event->time_us = ls_time_us();
  size_t size = lockstep__v1__event__get_packed_size(event);
  if (size > MAX_EVENT_BYTES)
    return ls_fail(err, LS_INVALID, "an event of %zu bytes is too large for '%s'", size, log->path);
  uint8_t *record = malloc(HEADER_BYTES + size);
  if (!record) return ls_fail(err, LS_NO_MEMORY, "no memory for an event");
  lockstep__v1__event__pack(event, record + HEADER_BYTES);
  put(record, size, 4);
  put(record + 4, ls_xxh3_64(record + HEADER_BYTES, size), 8);
  pthread_mutex_lock(&log->lock);
  ls_status status = write_record(log, record, HEADER_BYTES + size, err);
  if (status == LS_OK && durable && fdatasync(log->fd) != 0) {
    status = ls_fail_errno(err, errno, "cannot write '%s' to disk", log->path);
  }
  pthread_mutex_unlock(&log->lock);
  free(record);
  return status;
}
