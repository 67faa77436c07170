// Listening, connecting, shutting down: sockets on disk, the sentences of a client that cannot connect, draining.
#include <sys/stat.h>
#include <sys/wait.h>

#include "raw.h"

static void make_folder(char *folder, size_t size) {
  snprintf(folder, size, "/tmp/lockstep-rpc-XXXXXX");
  assert_non_null(mkdtemp(folder));
}

static void connect_fails(const char *address, ls_status wanted, const char *sentence) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_rpc_client *client = (struct ls_rpc_client *)&err;
  assert_int_equal(ls_rpc_client_connect(address, &client, &err), wanted);
  assert_null(client);
  assert_int_equal(err.status, wanted);
  if (!strstr(err.text, sentence)) fail_msg("'%s' lacks '%s'", err.text, sentence);
}

static int bind_socket(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  assert_true(strlen(path) < sizeof address.sun_path);
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

// A socket file whose process is gone.
static void make_stale(const char *path) { close(bind_socket(path)); }

static void test_connect_sentences(void **state) {
  (void)state;
  char folder[64], path[128];
  make_folder(folder, sizeof folder);
  snprintf(path, sizeof path, "%s/socket", folder);
  connect_fails(path, LS_UNAVAILABLE, "the daemon is not running: there is no socket '/tmp/lockstep-rpc-");
  make_stale(path);
  connect_fails(path, LS_UNAVAILABLE, "the daemon is not running: nobody listens on the socket '/tmp/lockstep-rpc-");
  // Somebody without the right, tried in a child because root has every right.
  assert_int_equal(chmod(path, 0), 0);
  pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (chmod(folder, 0755) || setresuid(65534, 65534, 65534))) _exit(2);
    struct ls_error err = LS_ERROR_INIT;
    struct ls_rpc_client *client;
    bool right = ls_rpc_client_connect(path, &client, &err) == LS_UNAVAILABLE &&
                 strstr(err.text, "this user may not open the daemon's socket") && strstr(err.text, path);
    _exit(right ? 0 : 1);
  }
  int result;
  assert_int_equal(waitpid(child, &result, 0), child);
  assert_int_equal(result, 0);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(folder), 0);

  connect_fails("relative/path", LS_INVALID, "it must be unix:/PATH or /PATH");
  connect_fails("localhost:50051", LS_INVALID, "it must be unix:/PATH or /PATH");
  char long_path[300] = "/";
  memset(long_path + 1, 'a', sizeof long_path - 2);
  long_path[sizeof long_path - 1] = 0;
  connect_fails(long_path, LS_INVALID, "at most 107 bytes long");
}

// A server that answers only with silence, or with nonsense.
static void test_no_server(void **state) {
  (void)state;
  char folder[64], path[128];
  make_folder(folder, sizeof folder);
  snprintf(path, sizeof path, "%s/socket", folder);
  int listener = bind_socket(path);
  assert_int_equal(listen(listener, 5), 0);
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  static const char *const answers[] = {NULL, "", "HTTP/1.1 400 Bad Request\r\n\r\n"};
  static const ls_status wanted[] = {LS_TIMEOUT, LS_UNAVAILABLE, LS_UNAVAILABLE};
  for (size_t i = 0; i < 3; i++) {
    struct ls_rpc_client *client;
    assert_int_equal(ls_rpc_client_connect(path, &client, &err), LS_OK);
    int fd = accept(listener, NULL, NULL);
    if (answers[i]) {
      assert_int_equal(write(fd, answers[i], strlen(answers[i])), (ssize_t)strlen(answers[i]));
      shutdown(fd, SHUT_RDWR);
    }
    assert_int_equal(fixture_call(client, "Echo", "", 0, answers[i] ? LS_TEST_WAIT_MS : 30, &text, &err), wanted[i]);
    ls_rpc_client_free(client);
    close(fd);
  }
  close(listener);
  unlink(path);
  rmdir(folder);
}

static void listen_fails(struct fixture *f, const char *path, ls_status wanted, const char *sentence) {
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_rpc_server_listen_unix(f->server, path, 0600, &err), wanted);
  assert_int_equal(err.status, wanted);
  if (!strstr(err.text, sentence)) fail_msg("'%s' lacks '%s'", err.text, sentence);
}

static void test_listen(void **state) {
  (void)state;
  struct fixture f = {0};
  struct ls_error err = LS_ERROR_INIT;
  char folder[64], path[128], file[128], long_path[200] = "/";
  make_folder(folder, sizeof folder);
  snprintf(path, sizeof path, "%s/socket", folder);
  snprintf(file, sizeof file, "%s/file", folder);
  fclose(fopen(file, "w"));
  memset(long_path + 1, 'a', sizeof long_path - 2);
  f.options.methods = fixture_methods(&f.options.method_count);
  assert_int_equal(uv_loop_init(&f.loop), 0);

  // Never listened: nothing to shut down.
  assert_int_equal(ls_rpc_server_new(&f.loop, &f.options, &f.server, &err), LS_OK);
  listen_fails(&f, "/nonexistent/folder/socket", LS_NOT_FOUND, "cannot listen on '/nonexistent/folder/socket'");
  listen_fails(&f, file, LS_EXISTS, "the file is there and is no socket");
  listen_fails(&f, long_path, LS_INVALID, "1 to 107 bytes, this one has 199");
  ls_rpc_server_free(f.server);

  assert_int_equal(ls_rpc_server_new(&f.loop, &f.options, &f.server, &err), LS_OK);
  make_stale(path);
  assert_int_equal(ls_rpc_server_listen_unix(f.server, path, 0620, &err), LS_OK);
  struct stat about;
  assert_int_equal(stat(path, &about), 0);
  assert_int_equal(about.st_mode & 0777, 0620);
  listen_fails(&f, path, LS_EXISTS, "another process listens there already");
  // Somebody else's file under our path is left alone.
  assert_int_equal(unlink(path), 0);
  fclose(fopen(path, "w"));
  ls_rpc_server_shutdown(f.server, 0, fixture_done, &f);
  uv_run(&f.loop, UV_RUN_DEFAULT);
  assert_true(atomic_load(&f.stopped));
  assert_int_equal(access(path, F_OK), 0);

  // Shut down without ever having listened.
  atomic_store(&f.stopped, false);
  assert_int_equal(ls_rpc_server_new(&f.loop, &f.options, &f.server, &err), LS_OK);
  ls_rpc_server_shutdown(f.server, 0, fixture_done, &f);
  uv_run(&f.loop, UV_RUN_DEFAULT);
  assert_true(atomic_load(&f.stopped));

  f.options.descriptor_set = (const uint8_t *)"\x0A\x7Fnonsense";
  f.options.descriptor_set_bytes = 10;
  assert_int_equal(ls_rpc_server_new(&f.loop, &f.options, &f.server, &err), LS_INVALID);
  assert_int_equal(uv_loop_close(&f.loop), 0);
  unlink(path);
  unlink(file);
  assert_int_equal(rmdir(folder), 0);
}

struct caller {
  struct fixture *f;
  const char *method;
  unsigned tail;
  ls_status status;
  char *text;
  struct ls_error err;
};

static void *call_in_thread(void *user) {
  struct caller *caller = user;
  struct ls_rpc_client *client = fixture_connect(caller->f);
  caller->status = fixture_call(client, caller->method, "x", caller->tail, 0, &caller->text, &caller->err);
  ls_rpc_client_free(client);
  return NULL;
}

static void test_drain(void **state) {
  (void)state;
  // A call that ends in the drain time is answered, and the end is not waited for.
  struct fixture f = {.drain_ms = 60000};
  fixture_start(&f);
  struct ls_rpc_client *idle = fixture_connect(&f);
  struct caller caller = {.f = &f, .method = "Late", .tail = 100};
  pthread_t thread;
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  assert_int_equal(fixture_call(idle, "Echo", "", 0, 0, &text, &err), LS_OK);
  free(text);
  pthread_create(&thread, NULL, call_in_thread, &caller);
  fixture_wait(&f.handled, 2);
  int64_t start_ns = ls_clock_ns();
  fixture_stop(&f);
  assert_true(ls_clock_ns() - start_ns < 30000000000);
  pthread_join(thread, NULL);
  assert_int_equal(caller.status, LS_OK);
  free(caller.text);
  // The idle connection was ended with GOAWAY.
  assert_int_equal(fixture_call(idle, "Echo", "", 0, 0, &text, &err), LS_UNAVAILABLE);
  assert_non_null(strstr(err.text, "the connection to the daemon at"));
  ls_rpc_client_free(idle);

  // One that does not is told so.
  struct fixture g = {.drain_ms = 50};
  fixture_start(&g);
  struct caller never = {.f = &g, .method = "Never"};
  pthread_create(&thread, NULL, call_in_thread, &never);
  fixture_wait(&g.handled, 1);
  fixture_stop(&g);
  pthread_join(thread, NULL);
  assert_int_equal(never.status, LS_UNAVAILABLE);
  assert_string_equal(never.err.text, "the server is stopping");
  assert_int_equal(atomic_load(&g.closed), 1);

  // A peer that neither reads nor goes does not hold up the end.
  struct fixture h = {.drain_ms = 0};
  fixture_start(&h);
  int silent = raw_socket(&h);
  fixture_stop(&h);
  close(silent);
}

static void test_goaway(void **state) {
  (void)state;
  struct fixture f = {.drain_ms = 60000};
  fixture_start(&f);
  struct raw raw;
  raw_open(&raw, &f);
  bool never = false;
  static const char *const headers[] = {":method", "POST", ":scheme", "http", ":path", "/", ":authority", "x", NULL};
  raw_request(&raw, headers, NULL, 0);
  fixture_begin_stop(&f);
  raw_run_until(&raw, &never);
  assert_true(raw.goaway);
  raw_close(&raw);
  fixture_end_stop(&f);
}

static void test_connection_limit(void **state) {
  (void)state;
  struct fixture f = {.options = {.max_connections = 2}};
  fixture_start(&f);
  struct ls_error err = LS_ERROR_INIT;
  char *text;
  struct ls_rpc_client *clients[3];
  for (int i = 0; i < 3; i++) {
    clients[i] = fixture_connect(&f);
    assert_int_equal(fixture_call(clients[i], "Echo", "", 0, 0, &text, &err), i < 2 ? LS_OK : LS_UNAVAILABLE);
    free(text);
  }
  ls_rpc_client_free(clients[0]);
  int64_t deadline_ns = ls_clock_ns() + (int64_t)LS_TEST_WAIT_MS * 1000000;
  ls_status status;
  do {
    struct ls_rpc_client *again = fixture_connect(&f);
    status = fixture_call(again, "Echo", "", 0, 0, &text, &err);
    free(text);
    ls_rpc_client_free(again);
  } while (status != LS_OK && ls_clock_ns() < deadline_ns);
  assert_int_equal(status, LS_OK);
  ls_rpc_client_free(clients[1]);
  ls_rpc_client_free(clients[2]);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_connect_sentences),
      cmocka_unit_test(test_no_server),
      cmocka_unit_test(test_listen),
      cmocka_unit_test(test_drain),
      cmocka_unit_test(test_connection_limit),
      cmocka_unit_test(test_goaway),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
