// A job's event log: append-only file of protobuf Events, the truth about the job's progress.
//
// Record: u32 little-endian payload length, u64 little-endian XXH3-64 of the payload, payload (lockstep.v1.Event).
// A torn record at the end (crash in mid-write) is cut off by the next writer and never shown by a reader.
// One writer at a time (the coordinator; it holds an exclusive flock), any number of readers.
#ifndef LS_SPEC_EVENT_LOG_H
#define LS_SPEC_EVENT_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "lockstep/v1/event.pb-c.h"

struct ls_event_log;

// Opens for appending, creates it when missing, cuts a torn tail. LS_UNAVAILABLE when another process is writing it.
ls_status ls_event_log_open(const char *path, struct ls_event_log **log, struct ls_error *err);
void ls_event_log_close(struct ls_event_log *log);
// Appends one event with a single write; `durable`: fdatasync before returning (outcomes, checkpoints). Fills in
// event->time_us when it is 0. Any thread of the writer.
ls_status ls_event_log_append(struct ls_event_log *log, Lockstep__V1__Event *event, int durable, struct ls_error *err);

// Reads whole records from *offset on and calls `event` for each; *offset ends behind the last whole record, or before
// the one for which `event` returned false (not now), which ends the reading. A missing file is an empty one. A bad record
// with none behind it counts as torn; LS_CORRUPT (with the offset) where a whole record stands behind it.
ls_status ls_event_log_read(const char *path, uint64_t *offset,
                            bool (*event)(void *user, const Lockstep__V1__Event *event), void *user,
                            struct ls_error *err);

#endif
