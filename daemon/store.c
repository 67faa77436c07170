// The job store: see store.h. A table of jobs, whose specification is a packed lockstep.v1.Job, and one of failed devices.
#include "daemon/store.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT = 3 };

struct store {
  sqlite3 *db;
  sqlite3_stmt *insert, *save;
  char *path;
};

#define DEVICE_REST             \
  "CREATE TABLE device_rest ("  \
  " uuid TEXT PRIMARY KEY,"     \
  " until_us INTEGER NOT NULL," \
  " failures INTEGER NOT NULL," \
  " failure TEXT NOT NULL"      \
  ") STRICT;"                   \
  "PRAGMA user_version = 3;"

static const char schema[] =
    "CREATE TABLE job ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " request_key TEXT UNIQUE,"
    " user TEXT NOT NULL,"
    " spec BLOB NOT NULL,"
    " state INTEGER NOT NULL,"
    " reason TEXT NOT NULL,"
    " submitted_us INTEGER NOT NULL,"
    " started_us INTEGER NOT NULL DEFAULT 0,"
    " ended_us INTEGER NOT NULL DEFAULT 0,"
    " attempt INTEGER NOT NULL DEFAULT 0,"
    " failures INTEGER NOT NULL DEFAULT 0,"
    " not_before_us INTEGER NOT NULL DEFAULT 0,"
    " devices_wanted INTEGER NOT NULL DEFAULT 0,"
    " stop INTEGER NOT NULL DEFAULT 0,"
    " device_mask INTEGER NOT NULL DEFAULT 0,"
    " gpu_mask INTEGER NOT NULL DEFAULT 0"
    ") STRICT;" DEVICE_REST;

// From format 1, which knew no GPUs, and 2, which forgot that they had failed.
static const char from_1[] = "ALTER TABLE job ADD COLUMN gpu_mask INTEGER NOT NULL DEFAULT 0;" DEVICE_REST;
static const char from_2[] = DEVICE_REST;

static ls_status failed(struct store *s, const char *what, struct ls_error *err) {
  int code = sqlite3_errcode(s->db);
  ls_status status = code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? LS_CORRUPT
                     : code == SQLITE_NOMEM                          ? LS_NO_MEMORY
                     : code == SQLITE_BUSY                           ? LS_UNAVAILABLE
                                                                     : LS_IO;
  return ls_fail(err, status, "cannot %s the job store '%s': %s", what, s->path, sqlite3_errmsg(s->db));
}

static bool run(struct store *s, const char *sql) { return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK; }

static int64_t pragma(struct store *s, const char *sql) {
  sqlite3_stmt *statement = NULL;
  int64_t value = -1;
  if (sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
    value = sqlite3_column_int64(statement, 0);
  sqlite3_finalize(statement);
  return value;
}

static ls_status prepare_store(struct store *s, struct ls_error *err) {
  // WAL with FULL: a commit is one fsync of the log.
  if (!run(s, "PRAGMA journal_mode = WAL") || !run(s, "PRAGMA synchronous = FULL")) return failed(s, "open", err);
  int64_t format = pragma(s, "PRAGMA user_version");
  if (format < 0) return failed(s, "read", err);
  if (format > FORMAT) {
    return ls_fail(err, LS_UNSUPPORTED, "the job store '%s' has format %" PRId64 ", this lockstepd knows up to %d",
                   s->path, format, FORMAT);
  }
  const char *change = format == 0 ? schema : format == 1 ? from_1 : format == 2 ? from_2 : NULL;
  if (change && (!run(s, "BEGIN IMMEDIATE") || !run(s, change) || !run(s, "COMMIT"))) {
    return failed(s, "set up", err);
  }
  static const char insert[] =
      "INSERT INTO job (request_key, user, spec, state, reason, submitted_us) VALUES (?,?,?,?,'',?)";
  static const char save[] =
      "UPDATE job SET state=?, reason=?, started_us=?, ended_us=?, attempt=?, failures=?, not_before_us=?,"
      " devices_wanted=?, stop=?, device_mask=?, gpu_mask=? WHERE id=?";
  if (sqlite3_prepare_v3(s->db, insert, -1, SQLITE_PREPARE_PERSISTENT, &s->insert, NULL) != SQLITE_OK ||
      sqlite3_prepare_v3(s->db, save, -1, SQLITE_PREPARE_PERSISTENT, &s->save, NULL) != SQLITE_OK) {
    return failed(s, "open", err);
  }
  return LS_OK;
}

ls_status store_open(const char *path, struct store **store, struct ls_error *err) {
  *store = NULL;
  struct store *s = calloc(1, sizeof *s);
  if (!s || !(s->path = strdup(path))) {
    free(s);
    return ls_fail(err, LS_NO_MEMORY, "no memory for the job store");
  }
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  ls_status status = sqlite3_open_v2(path, &s->db, flags, NULL) == SQLITE_OK ? LS_OK : failed(s, "open", err);
  if (status == LS_OK) status = prepare_store(s, err);
  if (status != LS_OK) {
    store_close(s);
    return status;
  }
  *store = s;
  return LS_OK;
}

void store_close(struct store *s) {
  if (!s) return;
  sqlite3_finalize(s->insert);
  sqlite3_finalize(s->save);
  sqlite3_close(s->db);
  free(s->path);
  free(s);
}

static char *text(sqlite3_stmt *row, int column) {
  const char *value = (const char *)sqlite3_column_text(row, column);
  return strdup(value ? value : "");
}

static ls_status unreadable(const struct store *s, sqlite3_stmt *row, const char *why, struct ls_error *err) {
  return ls_fail(err, LS_CORRUPT, "job %" PRId64 " in the store '%s' cannot be read: %s",
                 (int64_t)sqlite3_column_int64(row, 0), s->path, why);
}

static ls_status job_of_row(const struct store *s, sqlite3_stmt *row, const char *folder_of_jobs, struct job **result,
                            struct ls_error *err) {
  int64_t state = sqlite3_column_int64(row, 4), stop = sqlite3_column_int64(row, 13);
  if (state < LOCKSTEP__V1__JOB_STATE__QUEUED || state > LOCKSTEP__V1__JOB_STATE__CANCELLED)
    return unreadable(s, row, "there is no such state", err);
  if (stop < STOP_NONE || stop > STOP_CANCEL) return unreadable(s, row, "there is no such request to stop", err);
  const uint8_t *spec = sqlite3_column_blob(row, 3);
  Lockstep__V1__Job *message = lockstep__v1__job__unpack(NULL, (size_t)sqlite3_column_bytes(row, 3), spec);
  if (!message) return unreadable(s, row, "its specification is damaged", err);
  struct job *job = job_new((uint64_t)sqlite3_column_int64(row, 0), folder_of_jobs, message);
  if (!job) {
    lockstep__v1__job__free_unpacked(message, NULL);
    return ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  }
  free(job->user);
  free(job->reason);
  bool keyed = sqlite3_column_type(row, 1) != SQLITE_NULL;
  job->request_key = keyed ? text(row, 1) : NULL;
  job->user = text(row, 2);
  job->state = (Lockstep__V1__JobState)state;
  job->reason = text(row, 5);
  if (!job->user || !job->reason || (keyed && !job->request_key)) {
    job_free(job);
    return ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  }
  job->submitted_us = sqlite3_column_int64(row, 6);
  job->started_us = sqlite3_column_int64(row, 7);
  job->ended_us = sqlite3_column_int64(row, 8);
  job->attempt = (uint32_t)sqlite3_column_int64(row, 9);
  job->failures = (uint32_t)sqlite3_column_int64(row, 10);
  job->not_before_us = sqlite3_column_int64(row, 11);
  job->devices_wanted = (uint32_t)sqlite3_column_int64(row, 12);
  job->stop = (enum stop_request)stop;
  job->device_mask = (uint64_t)sqlite3_column_int64(row, 14);
  job->gpu_mask = (uint64_t)sqlite3_column_int64(row, 15);
  *result = job;
  return LS_OK;
}

ls_status store_load(struct store *s, const char *folder_of_jobs,
                     ls_status (*each)(void *user, struct job *job, struct ls_error *err), void *user,
                     struct ls_error *err) {
  static const char sql[] =
      "SELECT id, request_key, user, spec, state, reason, submitted_us, started_us, ended_us, attempt, failures,"
      " not_before_us, devices_wanted, stop, device_mask, gpu_mask FROM job ORDER BY id";
  sqlite3_stmt *rows = NULL;
  if (sqlite3_prepare_v2(s->db, sql, -1, &rows, NULL) != SQLITE_OK) return failed(s, "read", err);
  ls_status status = LS_OK;
  int code;
  while (status == LS_OK && (code = sqlite3_step(rows)) == SQLITE_ROW) {
    struct job *job = NULL;
    status = job_of_row(s, rows, folder_of_jobs, &job, err);
    if (status == LS_OK) status = each(user, job, err);
  }
  if (status == LS_OK && code != SQLITE_DONE) status = failed(s, "read", err);
  sqlite3_finalize(rows);
  return status;
}

ls_status store_begin(struct store *s, const char *request_key, const Lockstep__V1__Job *spec, const char *user,
                      int64_t submitted_us, uint64_t *id, struct ls_error *err) {
  size_t size = lockstep__v1__job__get_packed_size(spec);
  uint8_t *packed = malloc(size + 1);
  if (!packed) return ls_fail(err, LS_NO_MEMORY, "no memory for a job");
  lockstep__v1__job__pack(spec, packed);
  bool good = run(s, "BEGIN IMMEDIATE");
  sqlite3_reset(s->insert);
  if (request_key && *request_key)
    sqlite3_bind_text(s->insert, 1, request_key, -1, SQLITE_STATIC);
  else
    sqlite3_bind_null(s->insert, 1);
  sqlite3_bind_text(s->insert, 2, user, -1, SQLITE_STATIC);
  sqlite3_bind_blob64(s->insert, 3, packed, size, SQLITE_STATIC);
  sqlite3_bind_int(s->insert, 4, LOCKSTEP__V1__JOB_STATE__QUEUED);
  sqlite3_bind_int64(s->insert, 5, submitted_us);
  good = good && sqlite3_step(s->insert) == SQLITE_DONE;
  ls_status status = good ? LS_OK : failed(s, "write to", err);
  *id = (uint64_t)sqlite3_last_insert_rowid(s->db);
  sqlite3_reset(s->insert);
  sqlite3_clear_bindings(s->insert);
  free(packed);
  if (!good) store_roll_back(s);
  return status;
}

ls_status store_commit(struct store *s, struct ls_error *err) {
  if (run(s, "COMMIT")) return LS_OK;
  ls_status status = failed(s, "write to", err);
  store_roll_back(s);
  return status;
}

void store_roll_back(struct store *s) {
  if (!sqlite3_get_autocommit(s->db)) run(s, "ROLLBACK");
}

ls_status store_save(struct store *s, const struct job *job, struct ls_error *err) {
  sqlite3_stmt *row = s->save;
  sqlite3_reset(row);
  sqlite3_bind_int(row, 1, (int)job->state);
  sqlite3_bind_text(row, 2, job->reason, -1, SQLITE_STATIC);
  sqlite3_bind_int64(row, 3, job->started_us);
  sqlite3_bind_int64(row, 4, job->ended_us);
  sqlite3_bind_int64(row, 5, job->attempt);
  sqlite3_bind_int64(row, 6, job->failures);
  sqlite3_bind_int64(row, 7, job->not_before_us);
  sqlite3_bind_int64(row, 8, job->devices_wanted);
  sqlite3_bind_int(row, 9, (int)job->stop);
  sqlite3_bind_int64(row, 10, (int64_t)job->device_mask);
  sqlite3_bind_int64(row, 11, (int64_t)job->gpu_mask);
  sqlite3_bind_int64(row, 12, (int64_t)job->id);
  ls_status status = sqlite3_step(row) == SQLITE_DONE ? LS_OK : failed(s, "write to", err);
  sqlite3_reset(row);
  return status;
}

ls_status store_save_rest(struct store *s, const struct device_rest *rest, struct ls_error *err) {
  static const char sql[] = "INSERT OR REPLACE INTO device_rest (uuid, until_us, failures, failure) VALUES (?,?,?,?)";
  sqlite3_stmt *row = NULL;
  bool good = sqlite3_prepare_v2(s->db, sql, -1, &row, NULL) == SQLITE_OK &&
              sqlite3_bind_text(row, 1, rest->uuid, -1, SQLITE_STATIC) == SQLITE_OK &&
              sqlite3_bind_int64(row, 2, rest->until_us) == SQLITE_OK &&
              sqlite3_bind_int64(row, 3, rest->failures) == SQLITE_OK &&
              sqlite3_bind_text(row, 4, rest->failure, -1, SQLITE_STATIC) == SQLITE_OK &&
              sqlite3_step(row) == SQLITE_DONE;
  ls_status status = good ? LS_OK : failed(s, "write to", err);
  sqlite3_finalize(row);
  return status;
}

ls_status store_load_rests(struct store *s, void (*each)(void *user, const struct device_rest *rest), void *user,
                           struct ls_error *err) {
  static const char sql[] = "SELECT uuid, until_us, failures, failure FROM device_rest ORDER BY until_us";
  sqlite3_stmt *rows = NULL;
  if (sqlite3_prepare_v2(s->db, sql, -1, &rows, NULL) != SQLITE_OK) return failed(s, "read", err);
  int code;
  while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
    struct device_rest rest = {.until_us = sqlite3_column_int64(rows, 1),
                               .failures = (unsigned)sqlite3_column_int64(rows, 2)};
    snprintf(rest.uuid, sizeof rest.uuid, "%s", (const char *)sqlite3_column_text(rows, 0));
    snprintf(rest.failure, sizeof rest.failure, "%s", (const char *)sqlite3_column_text(rows, 3));
    each(user, &rest);
  }
  ls_status status = code == SQLITE_DONE ? LS_OK : failed(s, "read", err);
  sqlite3_finalize(rows);
  return status;
}
