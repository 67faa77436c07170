// The server's Unix sockets: making them, replacing stale ones, removing them at the end.
//
// A socket file outlives its process. One that nobody listens on refuses connections and is replaced; two servers that
// start on the same path in the same instant are kept apart by the daemon's lock on its state folder, not here.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "rpc/internal.h"

enum { BACKLOG = 128 };

static ls_status address_of(const char *path, struct sockaddr_un *address, struct ls_error *err) {
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  size_t size = strlen(path);
  if (!size || size >= sizeof address->sun_path) {
    return ls_fail(err, LS_INVALID, "cannot listen on '%s': the path of a socket has 1 to %zu bytes, this one has %zu",
                   path, sizeof address->sun_path - 1, size);
  }
  memcpy(address->sun_path, path, size);
  return LS_OK;
}

// Removes the socket file of a server that is gone. LS_EXISTS when it is not gone, or the file is something else.
static ls_status remove_stale(const struct sockaddr_un *address, struct ls_error *err) {
  const char *path = address->sun_path;
  struct stat about;
  if (lstat(path, &about)) {
    return errno == ENOENT ? LS_OK : ls_fail_errno(err, errno, "cannot listen on '%s'", path);
  }
  if (!S_ISSOCK(about.st_mode)) {
    return ls_fail(err, LS_EXISTS, "cannot listen on '%s': the file is there and is no socket", path);
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot listen on '%s'", path);
  int failed = connect(fd, (const struct sockaddr *)address, sizeof *address) ? errno : 0;
  close(fd);
  if (!failed || failed == EAGAIN) {
    return ls_fail(err, LS_EXISTS, "cannot listen on '%s': another process listens there already", path);
  }
  if (failed != ECONNREFUSED) return ls_fail_errno(err, failed, "cannot listen on '%s': the socket is there", path);
  if (unlink(path) && errno != ENOENT) {
    return ls_fail_errno(err, errno, "cannot replace the socket '%s' that nobody listens on", path);
  }
  return LS_OK;
}

// bind, chmod, listen, in this order: nobody can connect before the mode is right.
static ls_status open_socket(const char *path, unsigned mode, int *out, struct ls_error *err) {
  struct sockaddr_un address;
  LS_TRY(address_of(path, &address, err));
  LS_TRY(remove_stale(&address, err));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot listen on '%s'", address.sun_path);
  if (bind(fd, (const struct sockaddr *)&address, sizeof address)) {
    ls_status status = ls_fail_errno(err, errno, "cannot listen on '%s'", address.sun_path);
    close(fd);
    return status;
  }
  if (chmod(address.sun_path, mode & 0777) || listen(fd, BACKLOG)) {
    ls_status status = ls_fail_errno(err, errno, "cannot listen on '%s'", address.sun_path);
    unlink(address.sun_path);
    close(fd);
    return status;
  }
  *out = fd;
  return LS_OK;
}

static void on_connection(uv_stream_t *stream, int status) {
  struct ls_rpc_listener *listener = stream->data;
  if (status < 0 || listener->server->stopping) return;
  listener->waiting = !ls_rpc_connection_accept(listener->server, stream);
}

static void free_listener(struct ls_rpc_listener *listener) {
  if (listener) free(listener->path);
  free(listener);
}

static void on_unused_closed(uv_handle_t *handle) { free_listener(handle->data); }

ls_status ls_rpc_listener_open(struct ls_rpc_server *server, const char *path, unsigned mode, struct ls_error *err) {
  int fd = -1;
  LS_TRY(open_socket(path, mode, &fd, err));
  struct ls_rpc_listener *listener = calloc(1, sizeof *listener);
  struct stat about;
  if (listener) listener->path = strdup(path);
  if (!listener || !listener->path || lstat(path, &about)) {
    free_listener(listener);
    unlink(path);
    close(fd);
    return ls_fail(err, LS_NO_MEMORY, "cannot listen on '%s': out of memory", path);
  }
  listener->server = server;
  listener->device = about.st_dev;
  listener->inode = about.st_ino;
  uv_pipe_init(server->loop, &listener->pipe, 0);
  listener->pipe.data = listener;
  int failed = uv_pipe_open(&listener->pipe, fd);
  if (failed) close(fd);
  if (!failed) failed = uv_listen((uv_stream_t *)&listener->pipe, BACKLOG, on_connection);
  if (failed) {
    unlink(path);
    uv_close((uv_handle_t *)&listener->pipe, on_unused_closed);
    return ls_fail(err, LS_IO, "cannot listen on '%s': %s", path, uv_strerror(failed));
  }
  listener->next = server->listeners;
  server->listeners = listener;
  server->open_handles++;
  return LS_OK;
}

void ls_rpc_listener_remove_file(const struct ls_rpc_listener *listener) {
  struct stat about;
  bool ours = lstat(listener->path, &about) == 0 && about.st_dev == listener->device && about.st_ino == listener->inode;
  if (ours) unlink(listener->path);
}
