// Reading YAML as messages: forms of values, --set, and what an error says.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spec/spec.h"

static ls_status parse_as(const ProtobufCMessageDescriptor *type, const char *text, const char *setting,
                          ProtobufCMessage **message, struct ls_error *err) {
  return ls_spec_parse(text, strlen(text), "f.yaml", type, &setting, setting != NULL, message, err);
}

static Lockstep__V1__Job *job(const char *text, const char *setting) {
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message;
  if (parse_as(&lockstep__v1__job__descriptor, text, setting, &message, &err) != LS_OK) fail_msg("%s", err.text);
  return (Lockstep__V1__Job *)message;
}

static void release(Lockstep__V1__Job *j) { lockstep__v1__job__free_unpacked(j, NULL); }

// Reading fails with exactly this sentence.
static void refused(const char *text, const char *setting, const char *sentence) {
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message = (ProtobufCMessage *)&err;
  assert_int_equal(parse_as(&lockstep__v1__job__descriptor, text, setting, &message, &err), LS_INVALID);
  assert_null(message);
  assert_string_equal(err.text, sentence);
}

// The sentence has these words in it: for long lists of known keys.
static void refused_with(const char *text, const char *setting, const char *words) {
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message;
  assert_int_equal(parse_as(&lockstep__v1__job__descriptor, text, setting, &message, &err), LS_INVALID);
  if (!strstr(err.text, words)) fail_msg("'%s' lacks '%s'", err.text, words);
}

#define DATA "data: {train: a.h5}\n"

static void test_values(void **state) {
  (void)state;
  Lockstep__V1__Job *j =
      job("# a comment\n"
          "name: \"a \\\"b\\\"\"\n" DATA
          "batch_size: 128\n"
          "seed: 18446744073709551615\n"
          "epochs: 2.5\n"
          "precision: bfloat16\n"
          "devices: {oversubscribe: true, kind: gpu}\n"
          "schedule: {step: {epochs: [10, 20.5], factor: 0.2}}\n"
          "augment: [{random_crop: {pad: 4}}, horizontal_flip]\n"
          "optimizer: sgd\n",
          NULL);
  assert_string_equal(j->name, "a \"b\"");
  assert_string_equal(j->data->train, "a.h5");
  assert_int_equal(j->batch_size, 128);
  assert_true(j->has_batch_size && !j->has_shards && j->shards == 8);
  assert_true(j->seed == UINT64_MAX);
  assert_true(j->epochs == 2.5);
  assert_int_equal(j->precision, LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16);
  assert_true(j->devices->oversubscribe);
  assert_int_equal(j->devices->kind, LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_GPU);
  assert_int_equal(j->schedule->kind_case, LOCKSTEP__V1__SCHEDULE__KIND_STEP);
  assert_int_equal(j->schedule->step->n_epochs, 2);
  assert_true(j->schedule->step->epochs[1] == 20.5);
  assert_int_equal(j->n_augment, 2);
  assert_int_equal(j->augment[0]->random_crop->pad, 4);
  assert_int_equal(j->augment[1]->kind_case, LOCKSTEP__V1__AUGMENTATION__KIND_HORIZONTAL_FLIP);
  assert_int_equal(j->optimizer->kind_case, LOCKSTEP__V1__OPTIMIZER__KIND_SGD);
  release(j);
}

// One value stands for a list of one; JSON is YAML; anchors and aliases work.
static void test_forms(void **state) {
  (void)state;
  Lockstep__V1__Job *j =
      job("{\"data\": {\"train\": \"x\", \"mean\": 3}, \"schedule\": {\"step\": {\"epochs\": 7}}}", NULL);
  assert_int_equal(j->data->n_mean, 1);
  assert_true(j->data->mean[0] == 3);
  assert_int_equal(j->schedule->step->n_epochs, 1);
  release(j);
  j = job("data: {train: &file a.h5, validation: *file}", NULL);
  assert_string_equal(j->data->validation, "a.h5");
  release(j);
}

static void test_set(void **state) {
  (void)state;
  Lockstep__V1__Job *j = job(DATA "batch_size: 1\n", "batch_size=64");
  assert_int_equal(j->batch_size, 64);
  release(j);
  j = job(DATA, "optimizer.sgd.learning_rate=0.5");
  assert_true(j->optimizer->sgd->learning_rate == 0.5);
  release(j);
  j = job(DATA "optimizer: {sgd: {momentum: 0.5}}\n", "optimizer.sgd.learning_rate=0.5");
  assert_true(j->optimizer->sgd->learning_rate == 0.5 && j->optimizer->sgd->momentum == 0.5);
  release(j);
  j = job(DATA "augment: [{random_crop: {pad: 4}}, horizontal_flip]\n", "augment.0.random_crop.pad=8");
  assert_int_equal(j->augment[0]->random_crop->pad, 8);
  assert_int_equal(j->n_augment, 2);
  release(j);
  j = job(DATA, "schedule={step: {epochs: [1, 2]}}");
  assert_int_equal(j->schedule->step->n_epochs, 2);
  release(j);
  j = job(DATA, "data.train=b=c.h5");
  assert_string_equal(j->data->train, "b=c.h5");
  release(j);
  // A word that stands for a mapping keeps its meaning when a key is set beside it or in it.
  j = job(DATA "schedule: cosine\n", "schedule.warm_up_epochs=0.5");
  assert_int_equal(j->schedule->kind_case, LOCKSTEP__V1__SCHEDULE__KIND_COSINE);
  assert_true(j->schedule->warm_up_epochs == 0.5);
  release(j);
  j = job(DATA "schedule: cosine\n", "schedule.cosine.final=0.5");
  assert_true(j->schedule->cosine->final == 0.5);
  release(j);
}

// Later settings win.
static void test_settings_in_order(void **state) {
  (void)state;
  static const char *const settings[] = {"batch_size=8", "shards=2", "batch_size=16"};
  ProtobufCMessage *message;
  assert_int_equal(ls_spec_parse(DATA, strlen(DATA), "f", &lockstep__v1__job__descriptor, settings, 3, &message, NULL),
                   LS_OK);
  assert_int_equal(((Lockstep__V1__Job *)message)->batch_size, 16);
  assert_int_equal(((Lockstep__V1__Job *)message)->shards, 2);
  release((Lockstep__V1__Job *)message);
}

static void test_bad_settings(void **state) {
  (void)state;
  refused(DATA, "batch_size", "--set 'batch_size': expected KEY=VALUE, such as optimizer.sgd.learning_rate=0.1");
  refused(DATA, "=3", "--set '=3': expected KEY=VALUE, such as optimizer.sgd.learning_rate=0.1");
  refused(DATA, "batch_size=0", "--set: key 'batch_size': found '0', expected a number at least 1 and at most 1048576");
  refused(DATA, "batch_size=many", "--set: key 'batch_size': found 'many', expected a whole number");
  refused(DATA "augment: [horizontal_flip]\n", "augment.3.random_crop.pad=1",
          "--set 'augment.3.random_crop.pad=1': '3' is no place in a list of 1");
  // No line of the file is blamed, however deep the value.
  refused(DATA, "optimizer={sgd: {momentum: 2}}",
          "--set: key 'momentum': found '2', expected a number at least 0 and less than 1");
  refused_with(DATA, "batchsize=3", "--set: unknown key 'batchsize'; did you mean 'batch_size'?");
  refused_with(DATA, "schedule={", "--set:2:1: this is no YAML");
}

static void test_places(void **state) {
  (void)state;
  refused(DATA "batch_size: none\n", NULL, "f.yaml:2:13: key 'batch_size': found 'none', expected a whole number");
  refused(DATA "\n\noptimizer:\n  sgd:\n    momentum: 1.0\n", NULL,
          "f.yaml:6:15: key 'momentum': found '1.0', expected a number at least 0 and less than 1");
  refused_with(DATA "optimiser: {sgd: {}}\n", NULL, "f.yaml:2:1: unknown key 'optimiser'; did you mean 'optimizer'?");
  refused_with(DATA "zzzzzzzz: 1\n", NULL, "f.yaml:2:11: unknown key 'zzzzzzzz'; known: name, model,");
}

static void test_wrong_kinds(void **state) {
  (void)state;
  refused(DATA "batch_size: -5\n", NULL,
          "f.yaml:2:13: key 'batch_size': found '-5', expected a whole number of at least 0 that fits");
  refused(DATA "batch_size: 4294967296\n", NULL,
          "f.yaml:2:13: key 'batch_size': found '4294967296', expected a whole number of at least 0 that fits");
  refused(DATA "seed: 18446744073709551616\n", NULL,
          "f.yaml:2:7: key 'seed': found '18446744073709551616', expected a whole number of at least 0 that fits");
  refused(DATA "batch_size: 1.5\n", NULL, "f.yaml:2:13: key 'batch_size': found '1.5', expected a whole number");
  refused(DATA "batch_size: '5'\n", NULL, "f.yaml:2:14: key 'batch_size': found '5', expected a whole number");
  refused(DATA "batch_size:\n", NULL, "f.yaml:2:1: key 'batch_size': found nothing, expected a whole number");
  refused_with(DATA "batch_size: {a: 1}\n", NULL, "key 'batch_size': found a mapping, expected a single value");
  refused_with(DATA "batch_size: [1]\n", NULL, "key 'batch_size': found a list, expected a single value");
  refused(DATA "epochs: nan\n", NULL, "f.yaml:2:9: key 'epochs': found 'nan', expected a number");
  refused(DATA "epochs: .inf\n", NULL, "f.yaml:2:9: key 'epochs': found '.inf', expected a number");
  refused(DATA "epochs: 1e999\n", NULL, "f.yaml:2:9: key 'epochs': found '1e999', expected a number");
  refused(DATA "epochs: 0\n", NULL,
          "f.yaml:2:9: key 'epochs': found '0', expected a number more than 0 and at most 1000000");
  refused(DATA "precision: float8\n", NULL,
          "f.yaml:2:12: key 'precision': found 'float8', expected one of float32, tf32, bfloat16, float16");
  refused(DATA "devices: {oversubscribe: yes}\n", NULL,
          "f.yaml:2:26: key 'oversubscribe': found 'yes', expected true or false");
  refused(DATA "optimizer: [1]\n", NULL, "f.yaml:2:1: key 'optimizer': found a list, expected a mapping");
  refused(DATA "devices: 3\n", NULL, "f.yaml:2:10: key 'devices': found '3', expected a mapping");
  refused_with(DATA "schedule: cosin\n", NULL, "f.yaml:2:11: unknown key 'cosin'; did you mean 'cosine'?");
  refused(DATA "schedule: {cosine: {}, step: {epochs: 1}}\n", NULL,
          "f.yaml:2:24: both 'cosine' and 'step' are given here; only one of them is allowed");
  refused_with("data: {}\n", NULL, "'data' lacks the key 'train'");
  refused_with("name: x\n", NULL, "lacks the key 'data'");
}

static void test_no_yaml(void **state) {
  (void)state;
  refused_with("a: [1\n", NULL, "f.yaml:");
  refused_with("a: b: c\n", NULL, "this is no YAML");
  refused(DATA "name: a\nname: b\n", NULL, "f.yaml:3:1: key 'name' stands here a second time");
  refused_with("? [a]\n: b\n", NULL, "a key must be a plain word");
  refused_with("- a\n- b\n", NULL, "found a list, expected a mapping");
  refused("", NULL, "f.yaml: holds nothing, or no YAML");
  refused("# only a comment\n", NULL, "f.yaml: holds nothing, or no YAML");
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message;
  assert_int_equal(ls_spec_parse("a\0b", 3, "f", &lockstep__v1__job__descriptor, NULL, 0, &message, &err), LS_INVALID);
  assert_string_equal(err.text, "f: has a zero byte in it");
}

// Hostile files end in an error, soon: nesting, aliases of aliases, sheer size.
static void test_limits(void **state) {
  (void)state;
  char *deep = malloc(400001);
  memset(deep, '[', 400000);
  deep[400000] = 0;
  refused_with(deep, NULL, "f.yaml");
  memset(deep, ']', 400000);
  memset(deep, '[', 200000);
  refused_with(deep, NULL, "f.yaml");
  memcpy(deep, "x: ", 3);
  memset(deep + 3, '[', 100);
  memset(deep + 103, ']', 100);
  deep[203] = 0;
  refused_with(deep, NULL, "Max depth");
  free(deep);
  struct ls_string laughs = LS_STRING_INIT;
  ls_string_add(&laughs, "a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
  for (int i = 1; i < 9; i++) {
    ls_string_addf(&laughs, "a%d: &a%d [", i, i);
    for (int j = 0; j < 9; j++) ls_string_addf(&laughs, "%s*a%d", j ? ", " : "", i - 1);
    ls_string_add(&laughs, "]\n");
  }
  refused_with(ls_string_text(&laughs), NULL, "f.yaml");
  ls_string_release(&laughs);
  refused_with("a: &a [*a]\n", NULL, "f.yaml");
  size_t size = (1 << 20) + 1;
  char *large = malloc(size);
  memset(large, ' ', size);
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message;
  assert_int_equal(ls_spec_parse(large, size, "f", &lockstep__v1__job__descriptor, NULL, 0, &message, &err),
                   LS_INVALID);
  assert_string_equal(err.text, "f: larger than the 1048576 bytes allowed");
  free(large);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_values),       cmocka_unit_test(test_forms),
                                     cmocka_unit_test(test_set),          cmocka_unit_test(test_settings_in_order),
                                     cmocka_unit_test(test_bad_settings), cmocka_unit_test(test_places),
                                     cmocka_unit_test(test_wrong_kinds),  cmocka_unit_test(test_no_yaml),
                                     cmocka_unit_test(test_limits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
