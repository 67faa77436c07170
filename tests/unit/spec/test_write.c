// Messages as JSON and YAML and back: every job and network in configs/, and messages with every field of the schema set.
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lockstep/v1/event.pb-c.h"
#include "spec/spec.h"

static void expect_same(const ProtobufCMessage *a, const ProtobufCMessage *b, const char *text) {
  size_t size = protobuf_c_message_get_packed_size(a);
  if (size != protobuf_c_message_get_packed_size(b)) fail_msg("another message came back from\n%s", text);
  uint8_t *bytes_a = malloc(size), *bytes_b = malloc(size);
  protobuf_c_message_pack(a, bytes_a);
  protobuf_c_message_pack(b, bytes_b);
  if (memcmp(bytes_a, bytes_b, size) != 0) fail_msg("another message came back from\n%s", text);
  free(bytes_a);
  free(bytes_b);
}

// Through JSON on one line, indented JSON, and YAML.
static void round_trips(const ProtobufCMessage *message) {
  for (int form = 0; form < 3; form++) {
    struct ls_string text = LS_STRING_INIT;
    struct ls_error err = LS_ERROR_INIT;
    ProtobufCMessage *back;
    assert_int_equal(form < 2 ? ls_spec_write_json(message, 2 * form, &text) : ls_spec_write_yaml(message, &text),
                     LS_OK);
    if (form == 0) assert_null(strchr(ls_string_text(&text), '\n'));
    if (ls_spec_parse(ls_string_text(&text), text.size, "back", message->descriptor, NULL, 0, &back, &err) != LS_OK)
      fail_msg("%s in\n%s", err.text, ls_string_text(&text));
    expect_same(message, back, ls_string_text(&text));
    protobuf_c_message_free_unpacked(back, NULL);
    ls_string_release(&text);
  }
}

static void test_jobs(void **state) {
  (void)state;
  DIR *folder = opendir(LS_SOURCE_DIR "/configs/jobs");
  assert_non_null(folder);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    if (!strstr(entry->d_name, ".yaml")) continue;
    char path[512];
    Lockstep__V1__Job *job;
    struct ls_error err = LS_ERROR_INIT;
    snprintf(path, sizeof path, LS_SOURCE_DIR "/configs/jobs/%s", entry->d_name);
    if (ls_spec_load_job(path, NULL, 0, &job, &err) != LS_OK) fail_msg("%s", err.text);
    round_trips(&job->base);
    lockstep__v1__job__free_unpacked(job, NULL);
    count++;
  }
  closedir(folder);
  assert_true(count > 0);
}

static void test_networks(void **state) {
  (void)state;
  char **names;
  size_t count;
  assert_int_equal(ls_spec_list_networks(&names, &count, NULL), LS_OK);
  assert_true(count > 5);
  for (size_t i = 0; i < count; i++) {
    Lockstep__V1__Network *network;
    struct ls_error err = LS_ERROR_INIT;
    if (ls_spec_load_network(names[i], NULL, &network, &err) != LS_OK) fail_msg("%s", err.text);
    round_trips(&network->base);
    lockstep__v1__network__free_unpacked(network, NULL);
    free(names[i]);
  }
  free(names);
}

// Odd values: numbers without a short decimal, the largest integers, text that needs escapes.
static void test_odd_values(void **state) {
  (void)state;
  Lockstep__V1__Job job = LOCKSTEP__V1__JOB__INIT;
  Lockstep__V1__Data data = LOCKSTEP__V1__DATA__INIT;
  Lockstep__V1__Optimizer optimizer = LOCKSTEP__V1__OPTIMIZER__INIT;
  Lockstep__V1__Sgd sgd = LOCKSTEP__V1__SGD__INIT;
  float mean[] = {0.1f, 1e-45f, 3.4028235e38f, 123.456789f};
  job.data = &data;
  data.train = "a \"quoted\" \\ path\twith: #odd {things} \xc3\xa4, - and 'more'";
  data.mean = mean;
  data.n_mean = 4;
  job.has_seed = 1;
  job.seed = UINT64_MAX;
  job.has_epochs = 1;
  job.epochs = 1.0 / 3;
  job.optimizer = &optimizer;
  optimizer.kind_case = LOCKSTEP__V1__OPTIMIZER__KIND_SGD;
  optimizer.sgd = &sgd;
  sgd.has_learning_rate = 1;
  sgd.learning_rate = 5e-324;
  sgd.has_nesterov = 1;
  static char *const names[] = {"true", "5", "null", "~", "", "- a", "1e3", "a\nb", "\x01", "x: y", "%", "@x", "!tag"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    job.name = names[i];
    round_trips(&job.base);
  }
}

static void test_json_form(void **state) {
  (void)state;
  Lockstep__V1__Event event = LOCKSTEP__V1__EVENT__INIT;
  Lockstep__V1__StepReport step = LOCKSTEP__V1__STEP_REPORT__INIT;
  event.time_us = 1700000000000001;
  event.kind_case = LOCKSTEP__V1__EVENT__KIND_STEP;
  event.step = &step;
  step.step = 3;
  step.loss = NAN;
  step.accuracy = INFINITY;
  step.learning_rate = 0.1;
  struct ls_string text = LS_STRING_INIT;
  ls_spec_write_json(&event.base, 0, &text);
  assert_non_null(
      strstr(ls_string_text(&text), "{\"time_us\": 1700000000000001, \"attempt\": 0, \"step\": {\"step\": 3, "));
  assert_non_null(strstr(ls_string_text(&text), "\"loss\": null, \"accuracy\": null, \"learning_rate\": 0.1,"));
  ls_string_release(&text);
  Lockstep__V1__Devices devices = LOCKSTEP__V1__DEVICES__INIT;
  ls_spec_write_json(&devices.base, 2, &text);
  assert_string_equal(ls_string_text(&text), "{}");
  devices.has_kind = devices.has_count = 1;
  devices.kind = LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU;
  devices.count = 4;
  ls_string_clear(&text);
  ls_spec_write_json(&devices.base, 2, &text);
  assert_string_equal(ls_string_text(&text), "{\n  \"count\": 4,\n  \"kind\": \"cpu\"\n}");
  ls_string_release(&text);
}

static void test_yaml_form(void **state) {
  (void)state;
  Lockstep__V1__Network *network;
  ProtobufCMessage *message;
  static const char text[] =
      "{input: {channels: 1, height: 2, width: 3}, layers: [relu, {name: f, from: [relu1], "
      "fully_connected: {units: 2}}]}";
  assert_int_equal(ls_spec_parse(text, strlen(text), "t", &lockstep__v1__network__descriptor, NULL, 0, &message, NULL),
                   LS_OK);
  network = (Lockstep__V1__Network *)message;
  struct ls_string yaml = LS_STRING_INIT;
  ls_spec_write_yaml(message, &yaml);
  assert_string_equal(ls_string_text(&yaml),
                      "input:\n"
                      "  channels: 1\n"
                      "  height: 2\n"
                      "  width: 3\n"
                      "layers:\n"
                      "  - name: \"relu1\"\n"
                      "    relu: {}\n"
                      "  - name: \"f\"\n"
                      "    from: [\"relu1\"]\n"
                      "    fully_connected:\n"
                      "      units: 2\n");
  ls_string_release(&yaml);
  lockstep__v1__network__free_unpacked(network, NULL);
}

// Help for every message of the schema exists and says default and range.
static void test_describe(void **state) {
  (void)state;
  char *text;
  size_t size;
  struct ls_error err = LS_ERROR_INIT;
  FILE *out = open_memstream(&text, &size);
  assert_int_equal(ls_spec_describe("", out, &err), LS_OK);
  assert_int_equal(ls_spec_describe("optimizer.sgd", out, &err), LS_OK);
  assert_int_equal(ls_spec_describe("network.layers.convolution", out, &err), LS_OK);
  fclose(out);
  assert_non_null(strstr(text, "batch_size"));
  assert_non_null(strstr(text, "learning_rate"));
  assert_non_null(strstr(text, "filters"));
  assert_non_null(strstr(text, "at most 1048576"));
  free(text);
  out = open_memstream(&text, &size);
  assert_int_equal(ls_spec_describe("optimizer.sdg", out, &err), LS_NOT_FOUND);
  assert_non_null(strstr(err.text, "sdg"));
  fclose(out);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_jobs),       cmocka_unit_test(test_networks),
                                     cmocka_unit_test(test_odd_values), cmocka_unit_test(test_json_form),
                                     cmocka_unit_test(test_yaml_form),  cmocka_unit_test(test_describe)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
