// Files that survive a crash: see file.h. The order of steps: temporary file in the same folder, fsync,
// rename, fsync of the folder; after a failed fsync the kernel counts the pages as clean, so the file is given up, never
// synced again.
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ls_status ls_file_read(const char *path, size_t limit_bytes, char **data, size_t *size, struct ls_error *err) {
  *data = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open '%s'", path);
  ls_status status = LS_OK;
  size_t used = 0, capacity = 4096;
  char *buffer = malloc(capacity);
  for (;;) {
    if (!buffer) {
      status = ls_fail(err, LS_NO_MEMORY, "no memory to read '%s'", path);
      break;
    }
    ssize_t got = read(fd, buffer + used, capacity - used - 1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      status = ls_fail_errno(err, errno, "cannot read '%s'", path);
      break;
    }
    if (got == 0) break;
    used += (size_t)got;
    if (used > limit_bytes) {
      status = ls_fail(err, LS_INVALID, "'%s' is larger than the %zu bytes allowed", path, limit_bytes);
      break;
    }
    if (capacity - used < 2) {
      capacity *= 2;
      char *grown = realloc(buffer, capacity);
      if (!grown) free(buffer);
      buffer = grown;
    }
  }
  close(fd);
  if (status != LS_OK) {
    free(buffer);
    return status;
  }
  buffer[used] = 0;
  *data = buffer;
  *size = used;
  return LS_OK;
}

ls_status ls_file_sync_folder_of(const char *path, struct ls_error *err) {
  char folder[4096];
  const char *slash = strrchr(path, '/');
  if (slash && (size_t)(slash - path) >= sizeof folder) return ls_fail(err, LS_INVALID, "path '%s' is too long", path);
  if (slash) {
    snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
  } else {
    strcpy(folder, ".");
  }
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open folder '%s'", folder);
  ls_status status = fsync(fd) == 0 ? LS_OK : ls_fail_errno(err, errno, "cannot sync folder '%s'", folder);
  close(fd);
  return status;
}

ls_status ls_file_commit(const char *temporary, const char *path, struct ls_error *err) {
  ls_status status = LS_OK;
  int fd = open(temporary, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open '%s'", temporary);
  if (fsync(fd) != 0) status = ls_fail_errno(err, errno, "cannot write '%s' to disk", temporary);
  close(fd);
  if (status == LS_OK && rename(temporary, path) != 0) {
    status = ls_fail_errno(err, errno, "cannot rename '%s' to '%s'", temporary, path);
  }
  if (status != LS_OK) {
    unlink(temporary);
    return status;
  }
  return ls_file_sync_folder_of(path, err);
}

static int write_all(int fd, const char *data, size_t size) {
  while (size) {
    ssize_t written = write(fd, data, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    data += written;
    size -= (size_t)written;
  }
  return 0;
}

ls_status ls_file_write_atomic(const char *path, const void *data, size_t size, struct ls_error *err) {
  char temporary[4096];
  int length = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
  if (length < 0 || (size_t)length >= sizeof temporary) return ls_fail(err, LS_INVALID, "path '%s' is too long", path);
  int fd = mkostemp(temporary, O_CLOEXEC);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot create a file beside '%s'", path);
  int failed = fchmod(fd, 0640) != 0 ? errno : write_all(fd, data, size);
  if (close(fd) != 0 && !failed) failed = errno;
  if (failed) {
    unlink(temporary);
    return ls_fail_errno(err, failed, "cannot write '%s'", path);
  }
  return ls_file_commit(temporary, path, err);
}

ls_status ls_folder_make(const char *path, unsigned mode, struct ls_error *err) {
  char part[4096];
  size_t length = strlen(path);
  if (length == 0 || length >= sizeof part)
    return ls_fail(err, LS_INVALID, "folder name '%s' is empty or too long", path);
  memcpy(part, path, length + 1);
  for (char *c = part + 1;; c++) {
    if (*c != '/' && *c != 0) continue;
    char kept = *c;
    *c = 0;
    if (mkdir(part, (mode_t)mode) != 0 && errno != EEXIST) {
      return ls_fail_errno(err, errno, "cannot make folder '%s'", part);
    }
    if (kept == 0) break;
    *c = kept;
  }
  struct stat info;
  if (stat(path, &info) != 0) return ls_fail_errno(err, errno, "cannot look at folder '%s'", path);
  if (!S_ISDIR(info.st_mode)) return ls_fail(err, LS_EXISTS, "'%s' is there, but is no folder", path);
  return LS_OK;
}

char *ls_path_join(const char *folder, const char *name) {
  char *joined = NULL;
  if (name[0] == '/' || !folder[0]) return strdup(name);
  const char *separator = folder[strlen(folder) - 1] == '/' ? "" : "/";
  return asprintf(&joined, "%s%s%s", folder, separator, name) < 0 ? NULL : joined;
}

char *ls_path_whole(const char *path) {
  char *here = path[0] == '/' ? NULL : getcwd(NULL, 0);
  while (here && strncmp(path, "./", 2) == 0) path += 2;
  char *whole = here ? ls_path_join(here, path) : strdup(path);
  free(here);
  return whole;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw) {
  (void)info;
  (void)type;
  (void)ftw;
  return remove(path);
}

ls_status ls_folder_remove(const char *path, struct ls_error *err) {
  if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT) {
    return ls_fail_errno(err, errno, "cannot remove '%s'", path);
  }
  return LS_OK;
}
