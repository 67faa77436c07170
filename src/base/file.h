// Files that survive a crash. Blocking; any thread may call.
#ifndef LS_BASE_FILE_H
#define LS_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// Reads a whole file of at most `limit_bytes`. *data has a zero byte after its *size bytes; the caller frees it.
ls_status ls_file_read(const char *path, size_t limit_bytes, char **data, size_t *size, struct ls_error *err);

// Writes PATH by way of a temporary file in the same folder: write, fsync, rename, fsync of the folder. On failure
// nothing stands under PATH that did not stand there before.
ls_status ls_file_write_atomic(const char *path, const void *data, size_t size, struct ls_error *err);

// The second half of the above for a file that somebody else wrote: fsync of `temporary`, rename to `path`, fsync of
// the folder. A failed fsync is never tried again: `temporary` is removed.
ls_status ls_file_commit(const char *temporary, const char *path, struct ls_error *err);

// fsync of the folder that holds `path`.
ls_status ls_file_sync_folder_of(const char *path, struct ls_error *err);

// mkdir -p with `mode`.
ls_status ls_folder_make(const char *path, unsigned mode, struct ls_error *err);

// "DIR/NAME", or NAME when it is absolute; the caller frees it. NULL when memory runs out.
char *ls_path_join(const char *folder, const char *name);

// The same file by a path from the root, for people: the working folder in front of a relative one; the caller frees it.
// NULL when memory runs out.
char *ls_path_whole(const char *path);

// rm -rf. Missing is success.
ls_status ls_folder_remove(const char *path, struct ls_error *err);

#endif
