// Every rule of the schema, taken from the schema itself: a value just outside each bound of each field is refused in a
// sentence with file, line, key and what is allowed; the bound itself passes. In a file and in a message that came by RPC.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spec/schema.h"
#include "spec/spec.h"

enum { MAX_DEPTH = 12 };

struct place {
  const ProtobufCMessageDescriptor *root;
  const ProtobufCFieldDescriptor *field[MAX_DEPTH];
  int depth, rules;
};

static bool is_whole(const ProtobufCFieldDescriptor *f) {
  return f->type != PROTOBUF_C_TYPE_DOUBLE && f->type != PROTOBUF_C_TYPE_FLOAT;
}

static bool is_list(const ProtobufCFieldDescriptor *f) { return f->label == PROTOBUF_C_LABEL_REPEATED; }

// One key a line, each inside the one before; the last has `value`. The value's line is the number of keys.
static void write_file(const struct place *at, const char *value, struct ls_string *text) {
  int indent = 0;
  for (int i = 0; i < at->depth; i++) {
    bool dash = i > 0 && is_list(at->field[i - 1]);
    ls_string_addf(text, "%*s%s%s:", indent, "", dash ? "- " : "", at->field[i]->name);
    if (i + 1 == at->depth) ls_string_addf(text, " %s", value);
    ls_string_add(text, "\n");
    indent += dash ? 4 : 2;
  }
}

static void format_number(char *text, const ProtobufCFieldDescriptor *f, double value) {
  sprintf(text, is_whole(f) ? "%.0f" : "%.12g", value);
}

static void expect(const struct place *at, double value, bool refused, const char *allowed) {
  const ProtobufCFieldDescriptor *field = at->field[at->depth - 1];
  struct ls_string text = LS_STRING_INIT;
  char number[64], sentence[256], start[64];
  format_number(number, field, value);
  write_file(at, number, &text);
  struct ls_error err = LS_ERROR_INIT;
  ProtobufCMessage *message = NULL;
  ls_status status = ls_spec_parse(ls_string_text(&text), text.size, "rules.yaml", at->root, NULL, 0, &message, &err);
  if (message) protobuf_c_message_free_unpacked(message, NULL);
  bool negative = value < 0 && is_whole(field);
  snprintf(sentence, sizeof sentence, "key '%s': found '%s', expected %s%s", field->name, number,
           negative ? "" : "a number ", negative ? "a whole number of at least 0 that fits" : allowed);
  snprintf(start, sizeof start, "rules.yaml:%d:", at->depth);
  bool said = status == LS_INVALID && strstr(err.text, sentence) && strncmp(err.text, start, strlen(start)) == 0;
  bool blamed = status != LS_OK && strstr(err.text, "found") != NULL;  // a missing neighbour is another matter
  if (refused ? !said : blamed) {
    fail_msg("%s%s: said '%s' instead of '%s%s'", ls_string_text(&text), refused ? "" : "should pass", err.text, start,
             sentence);
  }
  ls_string_release(&text);
}

static void check_field(struct place *at, const struct schema_field *rule) {
  const ProtobufCFieldDescriptor *field = at->field[at->depth - 1];
  double step = is_whole(field) ? 1 : 0.001;
  char allowed[128] = "";
  size_t used = 0;
  if (rule->has_min) used += (size_t)sprintf(allowed, "at least %.12g", rule->min);
  if (rule->has_above) used += (size_t)sprintf(allowed, "more than %.12g", rule->above);
  if (rule->has_max) used += (size_t)sprintf(allowed + used, "%sat most %.12g", used ? " and " : "", rule->max);
  if (rule->has_below) sprintf(allowed + used, "%sless than %.12g", used ? " and " : "", rule->below);
  if (rule->has_min) expect(at, rule->min - step, true, allowed), expect(at, rule->min, false, "");
  if (rule->has_max) expect(at, rule->max + step, true, allowed), expect(at, rule->max, false, "");
  if (rule->has_above) expect(at, rule->above, true, allowed), expect(at, rule->above + step, false, "");
  if (rule->has_below) expect(at, rule->below, true, allowed), expect(at, rule->below - step, false, "");
  at->rules += *allowed != 0;
}

static void walk(struct place *at, const ProtobufCMessageDescriptor *type) {
  for (unsigned i = 0; i < type->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &type->fields[i];
    assert_in_range(at->depth, 0, MAX_DEPTH - 1);
    at->field[at->depth++] = field;
    const struct schema_field *rule = schema_field(type->name, field->name);
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
      walk(at, field->descriptor);
    else if (rule && field->type != PROTOBUF_C_TYPE_STRING)
      check_field(at, rule);
    at->depth--;
  }
}

static void test_every_rule_in_files(void **state) {
  (void)state;
  struct place at = {.root = &lockstep__v1__job__descriptor};
  walk(&at, at.root);
  assert_in_range(at.rules, 60, 10000);  // the network's once more inside the job
}

// --- the same rules in messages that did not come from a file ------------------------------------------------------------

static Lockstep__V1__Job *good_job(void) {
  static const char text[] =
      "network: {input: {channels: 1, height: 8, width: 8}, layers: [{convolution: {filters: 4, kernel: 3}}, "
      "{max_pool: {kernel: 2}}, {fully_connected: {units: 10}}, softmax_cross_entropy]}\n"
      "data: {train: /a.h5}\n"
      "schedule: {step: {epochs: [1, 2]}}\n"
      "augment: [{random_crop: {pad: 4}}]\n";
  ProtobufCMessage *message;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_spec_parse(text, strlen(text), "good", &lockstep__v1__job__descriptor, NULL, 0, &message, &err) != LS_OK)
    fail_msg("%s", err.text);
  Lockstep__V1__Job *job = (Lockstep__V1__Job *)message;
  if (ls_spec_complete_job(job, &err) != LS_OK) fail_msg("%s", err.text);
  return job;
}

// Completing the changed job fails with this sentence; then the job is freed.
static void refused(Lockstep__V1__Job *job, const char *sentence) {
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(ls_spec_complete_job(job, &err), LS_INVALID);
  assert_string_equal(err.text, sentence);
  lockstep__v1__job__free_unpacked(job, NULL);
}

#define REFUSED(change, sentence)      \
  do {                                 \
    Lockstep__V1__Job *j = good_job(); \
    change;                            \
    refused(j, sentence);              \
  } while (0)

static void test_defaults(void **state) {
  (void)state;
  Lockstep__V1__Job *j = good_job();
  assert_true(j->devices && j->optimizer->sgd && j->schedule && j->checkpoint && j->retry && j->prefetch &&
              j->evaluation);
  assert_true(j->has_batch_size && j->batch_size == 256 && j->has_shards && j->shards == 8 && j->has_seed);
  assert_false(j->has_steps || j->devices->has_count || j->prefetch->has_readers);
  assert_string_equal(j->name, "job");
  assert_int_equal(j->network->layers[0]->convolution->n_stride, 1);
  assert_int_equal(j->network->layers[0]->convolution->stride[0], 1);
  assert_int_equal(j->network->layers[1]->max_pool->n_stride, 0);  // the kernel's size: no default of its own
  struct ls_string first = LS_STRING_INIT, second = LS_STRING_INIT;
  ls_spec_write_json(&j->base, 1, &first);
  assert_int_equal(ls_spec_complete_job(j, NULL), LS_OK);  // once more changes nothing
  ls_spec_write_json(&j->base, 1, &second);
  assert_string_equal(ls_string_text(&first), ls_string_text(&second));
  ls_string_release(&first);
  ls_string_release(&second);
  lockstep__v1__job__free_unpacked(j, NULL);
}

static void test_messages(void **state) {
  (void)state;
  REFUSED(j->batch_size = 0, "key 'batch_size': found 0, expected a number at least 1 and at most 1048576");
  REFUSED(j->optimizer->sgd->momentum = 1,
          "key 'optimizer.sgd.momentum': found 1, expected a number at least 0 and less "
          "than 1");
  REFUSED(j->optimizer->sgd->learning_rate = NAN,
          "key 'optimizer.sgd.learning_rate': found nan, expected a finite number");
  REFUSED(j->optimizer->sgd->learning_rate = -INFINITY,
          "key 'optimizer.sgd.learning_rate': found -inf, expected a finite number");
  REFUSED(j->network->layers[0]->convolution->kernel[0] = 2000,
          "key 'network.layers.convolution.kernel': found 2000, expected a number at least 1 and at most 1024");
  REFUSED(j->network->layers[0]->convolution->has_filters = 0,
          "the key 'network.layers.convolution.filters' is missing");
  REFUSED(j->augment[0]->random_crop->pad = 1025,
          "key 'augment.random_crop.pad': found 1025, expected a number at most 1024");
  REFUSED(j->precision = 77, "key 'precision': there is no value number 77");
  REFUSED(j->name[0] = '\n', "key 'name' has a control character in it");
  REFUSED((free(j->data->train), j->data->train = NULL), "the key 'data.train' is missing");
}

static void drop_layers(Lockstep__V1__Network *n) {
  while (n->n_layers) lockstep__v1__layer__free_unpacked(n->layers[--n->n_layers], NULL);
}

// Rules between fields.
static void test_fields_together(void **state) {
  (void)state;
  REFUSED(j->shards = 12, "key 'shards': found 12, expected a power of two");
  REFUSED(j->batch_size = 100,
          "key 'batch_size': 100 images do not divide into 8 equal shards; the next that do are 96 and 104");
  REFUSED(j->batch_size = 3,
          "key 'batch_size': 3 images do not divide into 8 equal shards; the next that do begin at 8");
  REFUSED((j->devices->count = 3, j->devices->has_count = 1), "key 'devices.count': found 3, expected a power of two");
  REFUSED((j->devices->count = 16, j->devices->has_count = 1),
          "key 'devices.count': 16 devices are more than the 8 shards of a batch");
  REFUSED((j->devices->at_least = 6, j->devices->has_at_least = 1),
          "key 'devices.at_least': found 6, expected a power of two");
  REFUSED((j->devices->count = 2, j->devices->has_count = 1, j->devices->at_least = 4, j->devices->has_at_least = 1),
          "key 'devices.at_least': 4 devices are more than the 2 of 'devices.count'");
  REFUSED(j->schedule->step->epochs[1] = 1, "key 'schedule.step.epochs' must rise");
  REFUSED(j->schedule->warm_up_epochs = 1,
          "key 'schedule.warm_up_epochs': 1 epochs of warm-up are not less than the 1 epochs of the job");
  REFUSED(drop_layers(j->network), "key 'network.layers': the network has no layers");
  REFUSED(
      j->checkpoint->every = strdup("2 weeks"),
      "key 'checkpoint.every': found '2 weeks', expected for example '1 epoch', '500 steps', '10 minutes' or 'never'");
  REFUSED(
      j->evaluation->every = strdup("0 steps"),
      "key 'evaluation.every': found '0 steps', expected for example '1 epoch', '500 steps', '10 minutes' or 'never'");
}

static void test_every(void **state) {
  (void)state;
  static const struct {
    const char *text;
    enum ls_every_unit unit;
    double count;
  } good[] = {{"never", LS_EVERY_NEVER, 0},          {"1 epoch", LS_EVERY_EPOCHS, 1},
              {"0.5 epochs", LS_EVERY_EPOCHS, 0.5},  {"500 steps", LS_EVERY_STEPS, 500},
              {"1step", LS_EVERY_STEPS, 1},          {"10 minutes", LS_EVERY_SECONDS, 600},
              {"1.5 hours", LS_EVERY_SECONDS, 5400}, {"30 seconds", LS_EVERY_SECONDS, 30}};
  struct ls_every every;
  struct ls_error err = LS_ERROR_INIT;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    if (ls_spec_parse_every(good[i].text, &every, &err) != LS_OK) fail_msg("%s", err.text);
    assert_int_equal(every.unit, good[i].unit);
    assert_true(every.count == good[i].count);
  }
  static const char *const bad[] = {"",          "epoch",     "1",        "-1 epoch",    "0 epochs",  "1.5 steps",
                                    "nan epoch", "inf steps", "1 epoch ", "1 fortnight", "one epoch", "1  epochsteps"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (ls_spec_parse_every(bad[i], &every, &err) != LS_INVALID) fail_msg("'%s' passes", bad[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_rule_in_files), cmocka_unit_test(test_defaults),
                                     cmocka_unit_test(test_messages), cmocka_unit_test(test_fields_together),
                                     cmocka_unit_test(test_every)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
