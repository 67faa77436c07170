// Checkpoints: bit-exact round trip, every kind of damage refused, the folder, and writers that die or find no room.
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/digest.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "spec/spec.h"
#include "support/networks.h"

// Stands in for the library's: a process that is to die between writing and renaming dies here.
static bool die_at_rename;
int rename(const char *from, const char *to) {
  if (die_at_rename) raise(SIGKILL);
  return (int)syscall(SYS_rename, from, to);
}

static struct world {
  char folder[64];
  Lockstep__V1__Network *network;
  struct ls_graph *graph;
} world;

#define TRY(call)                                              \
  do {                                                         \
    struct ls_error err_ = LS_ERROR_INIT, *err = &err_;        \
    if ((call) != LS_OK) fail_msg("%s: %s", #call, err->text); \
  } while (0)

static Lockstep__V1__Network *small_network(uint32_t filters) {
  Lockstep__V1__Network *n = net_new(3, 8, 8);
  net_conv(n, "conv", NULL, filters, 3, 1, 1, 1, 1);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  net_fc(n, "fc", 10);
  NET_PLAIN(n, "loss", NULL, SOFTMAX_CROSS_ENTROPY, softmax_cross_entropy);
  return n;
}

static int make_world(void **state) {
  (void)state;
  strcpy(world.folder, "/tmp/lockstep-checkpoint-XXXXXX");
  if (!mkdtemp(world.folder)) return -1;
  world.network = small_network(5);
  return ls_graph_build(world.network, &world.graph, NULL) == LS_OK ? 0 : -1;
}

static int remove_world(void **state) {
  (void)state;
  ls_graph_free(world.graph);
  lockstep__v1__network__free_unpacked(world.network, NULL);
  return ls_folder_remove(world.folder, NULL) == LS_OK ? 0 : -1;
}

// Every value another one, among them what float32 has that is odd: -0, the smallest, infinity, NaN with a payload.
static struct ls_snapshot *snapshot_of(uint64_t step) {
  struct ls_snapshot *s;
  TRY(ls_snapshot_new(world.graph, &s, err));
  static const uint32_t odd[] = {0x80000000, 1, 0x7f800000, 0x7fc12345, 0xff7fffff};
  uint32_t bits = (uint32_t)step * 2654435761u + 1;
  for (int i = 0; i < ls_graph_parameter_count(world.graph); i++) {
    for (int64_t j = 0; j < ls_shape_elements(&ls_graph_parameter(world.graph, i)->shape); j++) {
      for (int m = 0; m < 2; m++) {
        float *to = m ? s->momentum[i] : s->parameters[i];
        bits = bits * 1664525u + 1013904223u;
        uint32_t value = j < 5 ? odd[j] : (bits & 0x80ffffffu) | 0x3f000000u;
        if (to) memcpy(&to[j], &value, sizeof value);
      }
    }
  }
  s->step = step;
  s->epoch = (double)step / 7;
  s->seed = UINT64_MAX - 3;
  s->schedule.factor = 0.1;
  s->schedule.best = 0.123456789012345678;
  s->schedule.bad_epochs = 4;
  s->schedule.epoch_loss = 1e300;
  s->schedule.epoch_images = 12345;
  s->last_accuracy = 0.9;
  return s;
}

static void write_step(uint64_t step) {
  struct ls_snapshot *s = snapshot_of(step);
  char *path = ls_checkpoint_path(world.folder, step);
  uint64_t bytes = 0;
  struct stat info;
  TRY(ls_checkpoint_write(s, "{\"name\": \"x\"}", path, &bytes, err));
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_size, bytes);
  free(path);
  ls_snapshot_free(s);
}

static void expect_equal(const struct ls_snapshot *a, const struct ls_snapshot *b) {
  for (int i = 0; i < ls_graph_parameter_count(world.graph); i++) {
    size_t bytes = (size_t)ls_shape_elements(&ls_graph_parameter(world.graph, i)->shape) * sizeof(float);
    assert_memory_equal(a->parameters[i], b->parameters[i], bytes);
    assert_int_equal(a->momentum[i] != NULL, ls_graph_parameter(world.graph, i)->learned);
    if (a->momentum[i]) assert_memory_equal(a->momentum[i], b->momentum[i], bytes);
  }
  assert_int_equal(a->step, b->step);
  assert_int_equal(a->seed, b->seed);
  assert_memory_equal(&a->epoch, &b->epoch, sizeof a->epoch);
  assert_memory_equal(&a->schedule.factor, &b->schedule.factor, sizeof(double));
  assert_memory_equal(&a->schedule.best, &b->schedule.best, sizeof(double));
  assert_memory_equal(&a->schedule.epoch_loss, &b->schedule.epoch_loss, sizeof(double));
  assert_memory_equal(&a->schedule.epoch_images, &b->schedule.epoch_images, sizeof(double));
  assert_int_equal(a->schedule.bad_epochs, b->schedule.bad_epochs);
  assert_memory_equal(&a->last_accuracy, &b->last_accuracy, sizeof(double));
}

static ls_status read_path(const char *path, struct ls_snapshot **s, struct ls_error *err) {
  assert_int_equal(ls_snapshot_new(world.graph, s, err), LS_OK);
  return ls_checkpoint_read(path, *s, err);
}

static void expect_step(uint64_t step) {
  struct ls_snapshot *found, *expected = snapshot_of(step);
  char *path = ls_checkpoint_path(world.folder, step);
  TRY(read_path(path, &found, err));
  expect_equal(found, expected);
  free(path);
  ls_snapshot_free(found);
  ls_snapshot_free(expected);
}

// Reading must fail with `status`, in a sentence that holds `text` and the path.
static void expect_refused(const char *path, ls_status status, const char *text) {
  struct ls_error err = LS_ERROR_INIT;
  struct ls_snapshot *s;
  assert_int_equal(read_path(path, &s, &err), status);
  if (!strstr(err.text, text) || !strstr(err.text, path)) fail_msg("'%s' lacks '%s' or the path", err.text, text);
  ls_snapshot_free(s);
}

static void test_round_trip(void **state) {
  (void)state;
  write_step(1234);
  expect_step(1234);
}

// The beginnings that only a first run has: best error infinite, accuracy unknown.
static void test_fresh_state(void **state) {
  (void)state;
  struct ls_snapshot *s, *found;
  uint64_t bytes;
  char *path = ls_checkpoint_path(world.folder, 0);
  TRY(ls_snapshot_new(world.graph, &s, err));
  TRY(ls_checkpoint_write(s, "{}", path, &bytes, err));
  TRY(read_path(path, &found, err));
  expect_equal(s, found);
  assert_true(isinf(found->schedule.best) && isnan(found->last_accuracy));
  ls_snapshot_free(s);
  ls_snapshot_free(found);
  free(path);
}

// Writing the same state twice gives the same digest of parameters; one bit more gives another.
static void test_sha256(void **state) {
  (void)state;
  struct ls_snapshot *s = snapshot_of(3);
  char first[65], second[65];
  TRY(ls_snapshot_sha256(s, first, err));
  struct ls_sha256 *sha = ls_sha256_new();
  for (int i = 0; i < ls_graph_parameter_count(world.graph); i++) {
    ls_sha256_update(sha, s->parameters[i], (size_t)ls_shape_elements(&ls_graph_parameter(world.graph, i)->shape) * 4);
  }
  ls_sha256_finish(sha, second);
  assert_string_equal(first, second);
  ((uint8_t *)s->parameters[ls_graph_parameter_count(world.graph) - 1])[0] ^= 1;
  TRY(ls_snapshot_sha256(s, second, err));
  assert_string_not_equal(first, second);
  ls_snapshot_free(s);
}

// A state with a value that is no number is not worth keeping: whoever writes checkpoints asks first.
static void test_check(void **state) {
  (void)state;
  struct ls_snapshot *s;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_snapshot_new(world.graph, &s, &err), LS_OK);
  s->step = 7;
  assert_int_equal(ls_snapshot_check(s, &err), LS_OK);
  s->parameters[3][4] = INFINITY;
  assert_int_equal(ls_snapshot_check(s, &err), LS_DIVERGED);
  assert_non_null(strstr(err.text, "parameter 'bn.beta' has become infinite by step 7"));
  s->parameters[0][9] = NAN;
  assert_int_equal(ls_snapshot_check(s, &err), LS_DIVERGED);
  assert_non_null(strstr(err.text, "parameter 'conv.weight' has become NaN by step 7"));
  ls_snapshot_free(s);
}

static void test_damage_is_refused(void **state) {
  (void)state;
  write_step(1);
  char *path = ls_checkpoint_path(world.folder, 1), *data;
  size_t size;
  TRY(ls_file_read(path, 1 << 20, &data, &size, err));
  // A bit anywhere behind the user block, or in the digest itself.
  for (size_t at = 512; at < size; at += size / 37) {
    data[at] ^= 4;
    TRY(ls_file_write_atomic(path, data, size, err));
    expect_refused(path, LS_CORRUPT, "damaged");
    data[at] ^= 4;
  }
  data[12] ^= 1;
  TRY(ls_file_write_atomic(path, data, size, err));
  expect_refused(path, LS_CORRUPT, "damaged");
  data[12] ^= 1;
  // Cut anywhere.
  static const size_t left[] = {0, 7, 100, 512, 513};
  for (size_t i = 0; i < sizeof left / sizeof *left + 2; i++) {
    size_t n = i < 5 ? left[i] : i == 5 ? size / 2 : size - 1;
    TRY(ls_file_write_atomic(path, data, n, err));
    expect_refused(path, LS_CORRUPT, "");
  }
  data[0] = 'l';
  TRY(ls_file_write_atomic(path, data, size, err));
  expect_refused(path, LS_CORRUPT, "does not begin with LOCKSTEP");
  data[0] = 'L';
  data[8] = 99;
  TRY(ls_file_write_atomic(path, data, size, err));
  expect_refused(path, LS_UNSUPPORTED, "version 99");
  data[8] = 1;
  TRY(ls_file_write_atomic(path, data, size, err));
  expect_step(1);
  assert_int_equal(unlink(path), 0);
  expect_refused(path, LS_NOT_FOUND, "cannot open");
  free(data);
  free(path);
}

static void test_other_network_is_refused(void **state) {
  (void)state;
  write_step(1);
  Lockstep__V1__Network *other = small_network(6), *kept_network = world.network;
  struct ls_graph *kept = world.graph;
  TRY(ls_graph_build(other, &world.graph, err));
  char *path = ls_checkpoint_path(world.folder, 1);
  expect_refused(path, LS_INVALID, "'conv.weight'");
  ls_graph_free(world.graph);
  free(other->layers[2]->name);
  other->layers[2]->name = strdup("classes");
  other->layers[0]->convolution->filters = 5;
  TRY(ls_graph_build(other, &world.graph, err));
  expect_refused(path, LS_INVALID, "'classes.weight'");
  ls_graph_free(world.graph);
  lockstep__v1__network__free_unpacked(other, NULL);
  world.graph = kept;
  world.network = kept_network;
  free(path);
}

static void expect_steps(int count, const uint64_t *expected) {
  uint64_t *steps;
  int found;
  TRY(ls_checkpoint_list(world.folder, &steps, &found, err));
  assert_int_equal(found, count);
  for (int i = 0; i < count; i++) assert_int_equal(steps[i], expected[i]);
  free(steps);
}

static void touch(const char *name) {
  char *path = ls_path_join(world.folder, name);
  TRY(ls_file_write_atomic(path, "x", 1, err));
  free(path);
}

static bool exists(const char *name) {
  char *path = ls_path_join(world.folder, name);
  bool found = access(path, F_OK) == 0;
  free(path);
  return found;
}

static void test_list_and_prune(void **state) {
  (void)state;
  expect_steps(0, NULL);
  static const uint64_t written[] = {900, 10, 1000000000000000, 11}, sorted[] = {1000000000000000, 900, 11, 10};
  for (int i = 0; i < 4; i++) write_step(written[i]);
  touch("step-000000000012.h5.part");
  touch("step-x.h5");
  touch("step-1.h5.bak");
  touch("step-5.h5");
  touch("step-0000000000013.h5");
  touch("step-+00000000014.h5");
  touch("step-5.h5.part");
  touch("notes.txt");
  expect_steps(4, sorted);
  ls_checkpoint_prune(world.folder, 2);
  expect_steps(2, sorted);
  expect_step(1000000000000000);
  expect_step(900);
  assert_false(exists("step-000000000012.h5.part"));
  assert_true(exists("step-x.h5") && exists("step-1.h5.bak") && exists("notes.txt") && exists("step-5.h5") &&
              exists("step-5.h5.part"));  // not ours to remove
  ls_checkpoint_prune(world.folder, 5);
  expect_steps(2, sorted);
  uint64_t *steps;
  int count = -1;
  char *missing = ls_path_join(world.folder, "missing");
  TRY(ls_checkpoint_list(missing, &steps, &count, err));
  assert_int_equal(count, 0);
  ls_checkpoint_prune(missing, 1);
  free(missing);
}

// Of a writer killed between writing and renaming nothing is seen: the checkpoint before it is still the newest.
static void test_killed_writer(void **state) {
  (void)state;
  write_step(5);
  pid_t child = fork();
  if (child == 0) {
    struct ls_snapshot *s = snapshot_of(6);
    char *path = ls_checkpoint_path(world.folder, 6);
    uint64_t bytes;
    die_at_rename = true;
    ls_checkpoint_write(s, "{}", path, &bytes, NULL);
    _exit(1);
  }
  int how = 0;
  assert_int_equal(waitpid(child, &how, 0), child);
  assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
  assert_true(exists("step-000000000006.h5.part"));
  expect_steps(1, (uint64_t[]){5});
  expect_step(5);
  write_step(6);  // over what the dead one left
  expect_step(6);
  ls_checkpoint_prune(world.folder, 2);
  assert_false(exists("step-000000000006.h5.part"));
  expect_steps(2, (uint64_t[]){6, 5});
}

// No room for the file: an error with the path, nothing left behind, what was there stays. In a child process, because
// the limit on file size is the process's.
static void test_no_room(void **state) {
  (void)state;
  write_step(7);
  pid_t child = fork();
  if (child == 0) {
    struct ls_snapshot *s = snapshot_of(8);
    struct ls_error err = LS_ERROR_INIT;
    uint64_t bytes;
    char *path = ls_checkpoint_path(world.folder, 8);
    struct rlimit limit = {3000, 3000};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    bool right = ls_checkpoint_write(s, "{}", path, &bytes, &err) == LS_IO && strstr(err.text, path);
    _exit(right ? 0 : 1);
  }
  int how = 0;
  assert_int_equal(waitpid(child, &how, 0), child);
  assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
  assert_false(exists("step-000000000008.h5.part"));
  expect_steps(1, (uint64_t[]){7});
  expect_step(7);
}

static void test_job(void **state) {
  (void)state;
  Lockstep__V1__Job *job, *found;
  ProtobufCMessage *message;
  static const char text[] =
      "{network: {name: n, input: {channels: 3, height: 8, width: 8}, layers: [{fully_connected: "
      "{units: 2}}, softmax_cross_entropy]}, data: {train: '/a.h5:/t'}, seed: "
      "18446744073709551615}";
  TRY(ls_spec_parse(text, strlen(text), "t", &lockstep__v1__job__descriptor, NULL, 0, &message, err));
  job = (Lockstep__V1__Job *)message;
  TRY(ls_spec_complete_job(job, err));
  struct ls_string json = LS_STRING_INIT, again = LS_STRING_INIT;
  TRY(ls_spec_write_json(&job->base, 0, &json));
  struct ls_snapshot *s = snapshot_of(2);
  char *path = ls_checkpoint_path(world.folder, 2);
  uint64_t bytes;
  TRY(ls_checkpoint_write(s, ls_string_text(&json), path, &bytes, err));
  TRY(ls_checkpoint_read_job(path, &found, err));
  TRY(ls_spec_write_json(&found->base, 0, &again));
  assert_string_equal(ls_string_text(&json), ls_string_text(&again));
  assert_true(found->seed == UINT64_MAX);
  lockstep__v1__job__free_unpacked(job, NULL);
  lockstep__v1__job__free_unpacked(found, NULL);
  ls_string_release(&json);
  ls_string_release(&again);
  ls_snapshot_free(s);
  free(path);
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, make_world, remove_world)

int main(void) {
  const struct CMUnitTest tests[] = {IN_WORLD(test_round_trip),
                                     IN_WORLD(test_fresh_state),
                                     IN_WORLD(test_sha256),
                                     IN_WORLD(test_check),
                                     IN_WORLD(test_damage_is_refused),
                                     IN_WORLD(test_other_network_is_refused),
                                     IN_WORLD(test_list_and_prune),
                                     IN_WORLD(test_killed_writer),
                                     IN_WORLD(test_no_room),
                                     IN_WORLD(test_job)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
