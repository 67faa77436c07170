// Defaults and checks of a job, from a file or from the network.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spec/spec_internal.h"

// Ranges, required keys and enum values of a message and all below it; has_ flags and list defaults filled in.
static ls_status complete_message(ProtobufCMessage *message, const char *path, int depth, struct ls_error *err);

static ls_status fill_list(const ProtobufCFieldDescriptor *field, const struct schema_field *rule,
                           ProtobufCMessage *message, struct ls_error *err) {
  if (!rule || !rule->fallback || field->type != PROTOBUF_C_TYPE_UINT32) return LS_OK;
  uint32_t *value = malloc(sizeof *value);
  if (!value) return ls_fail(err, LS_NO_MEMORY, "no memory for '%s'", field->name);
  *value = (uint32_t)strtoul(rule->fallback, NULL, 10);
  *(void **)field_memory(message, field) = value;
  *(size_t *)quantifier_memory(message, field) = 1;
  return LS_OK;
}

static ls_status check_value(const ProtobufCFieldDescriptor *field, const struct schema_field *rule, const void *memory,
                             const char *path, int depth, struct ls_error *err) {
  if (field->type == PROTOBUF_C_TYPE_MESSAGE)
    return complete_message(*(ProtobufCMessage *const *)memory, path, depth, err);
  if (field->type == PROTOBUF_C_TYPE_STRING) {
    const char *text = *(const char *const *)memory;
    for (; text && *text; text++) {
      if ((unsigned char)*text < 0x20 || *text == 0x7f) {
        return ls_fail(err, LS_INVALID, "key '%s' has a control character in it", path);
      }
    }
    return LS_OK;
  }
  if (field->type == PROTOBUF_C_TYPE_ENUM) {
    if (protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)memory)) return LS_OK;
    return ls_fail(err, LS_INVALID, "key '%s': there is no value number %d", path, *(const int *)memory);
  }
  if (field->type == PROTOBUF_C_TYPE_BOOL || field->type == PROTOBUF_C_TYPE_BYTES) return LS_OK;
  double value = field_number(field, memory);
  char allowed[128];
  if (!isfinite(value)) return ls_fail(err, LS_INVALID, "key '%s': found %g, expected a finite number", path, value);
  if (!breaks_rule(rule, value, allowed, sizeof allowed)) return LS_OK;
  return ls_fail(err, LS_INVALID, "key '%s': found %.12g, expected a number %s", path, value, allowed);
}

static ls_status complete_field(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, const char *path,
                                int depth, struct ls_error *err) {
  const struct schema_field *rule = schema_field(message->descriptor->name, field->name);
  bool set = field_is_set(message, field);
  if (rule && rule->required && !set) return ls_fail(err, LS_INVALID, "the key '%s' is missing", path);
  if (field->label == PROTOBUF_C_LABEL_REPEATED) {
    if (!set) return fill_list(field, rule, message, err);
    char *values = *(char **)field_memory(message, field);
    for (size_t i = 0; i < *(size_t *)quantifier_memory(message, field); i++) {
      LS_TRY(check_value(field, rule, values + i * field_element_bytes(field), path, depth, err));
    }
    return LS_OK;
  }
  if (set) return check_value(field, rule, field_memory(message, field), path, depth, err);
  bool flag = !is_oneof(field) && field->label == PROTOBUF_C_LABEL_OPTIONAL && field->default_value &&
              field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE;
  if (flag) *(protobuf_c_boolean *)quantifier_memory(message, field) = 1;  // the value is the default already
  return LS_OK;
}

static ls_status complete_message(ProtobufCMessage *message, const char *path, int depth, struct ls_error *err) {
  if (depth > 32) return ls_fail(err, LS_INVALID, "key '%s' is nested too deep", path);
  for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
    char inner[512];
    snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", field->name);
    LS_TRY(complete_field(message, field, inner, depth + 1, err));
  }
  return LS_OK;
}

static bool power_of_two(uint32_t n) { return n && (n & (n - 1)) == 0; }

static ls_status check_at_least(const Lockstep__V1__Devices *devices, struct ls_error *err) {
  if (!devices->has_at_least) return LS_OK;
  if (!power_of_two(devices->at_least)) {
    return ls_fail(err, LS_INVALID, "key 'devices.at_least': found %u, expected a power of two", devices->at_least);
  }
  if (devices->has_count && devices->at_least > devices->count) {
    return ls_fail(err, LS_INVALID, "key 'devices.at_least': %u devices are more than the %u of 'devices.count'",
                   devices->at_least, devices->count);
  }
  return LS_OK;
}

static ls_status check_batch(const Lockstep__V1__Job *job, struct ls_error *err) {
  if (!power_of_two(job->shards)) {
    return ls_fail(err, LS_INVALID, "key 'shards': found %u, expected a power of two", job->shards);
  }
  if (job->batch_size % job->shards) {
    uint32_t below = job->batch_size / job->shards * job->shards;
    char nearest[64];
    if (below)
      snprintf(nearest, sizeof nearest, "the next that do are %u and %u", below, below + job->shards);
    else
      snprintf(nearest, sizeof nearest, "the next that do begin at %u", job->shards);
    return ls_fail(err, LS_INVALID, "key 'batch_size': %u images do not divide into %u equal shards; %s",
                   job->batch_size, job->shards, nearest);
  }
  if (job->devices->has_count && !power_of_two(job->devices->count)) {
    return ls_fail(err, LS_INVALID, "key 'devices.count': found %u, expected a power of two", job->devices->count);
  }
  if (job->devices->has_count && job->devices->count > job->shards) {
    return ls_fail(err, LS_INVALID, "key 'devices.count': %u devices are more than the %u shards of a batch",
                   job->devices->count, job->shards);
  }
  return check_at_least(job->devices, err);
}

static ls_status check_job(const Lockstep__V1__Job *job, struct ls_error *err) {
  struct ls_every every;
  LS_TRY(check_batch(job, err));
  if (!job->network) {
    return ls_fail(err, LS_INVALID,
                   "the job carries no network (key 'network'); 'model: %s' is resolved by the command that submits it",
                   job->model ? job->model : "");
  }
  if (job->network->n_layers == 0) return ls_fail(err, LS_INVALID, "key 'network.layers': the network has no layers");
  if (!job->data->train || !*job->data->train) return ls_fail(err, LS_INVALID, "the key 'data.train' is missing");
  if (ls_spec_parse_every(job->checkpoint->every, &every, err) != LS_OK)
    return ls_error_prefix(err, "key 'checkpoint.every'");
  if (ls_spec_parse_every(job->evaluation->every, &every, err) != LS_OK)
    return ls_error_prefix(err, "key 'evaluation.every'");
  const Lockstep__V1__Schedule *s = job->schedule;
  if (s->warm_up_epochs > 0 && !job->has_steps && s->warm_up_epochs >= job->epochs) {
    return ls_fail(err, LS_INVALID,
                   "key 'schedule.warm_up_epochs': %g epochs of warm-up are not less than the %g epochs of the job",
                   s->warm_up_epochs, job->epochs);
  }
  if (job->data->n_mean != job->data->n_deviation) {
    return ls_fail(err, LS_INVALID,
                   "keys 'data.mean' and 'data.deviation' must be given together, with one number a channel");
  }
  for (size_t i = 0; s->kind_case == LOCKSTEP__V1__SCHEDULE__KIND_STEP && i + 1 < s->step->n_epochs; i++) {
    if (s->step->epochs[i] >= s->step->epochs[i + 1])
      return ls_fail(err, LS_INVALID, "key 'schedule.step.epochs' must rise");
  }
  return LS_OK;
}

// A sub-message that is not there, with its defaults.
static void *default_message(const ProtobufCMessageDescriptor *type) {
  ProtobufCMessage *message = calloc(1, type->sizeof_message);
  if (message) protobuf_c_message_init(type, message);
  return message;
}

static bool fill_messages(Lockstep__V1__Job *job) {
  if (!job->devices) job->devices = default_message(&lockstep__v1__devices__descriptor);
  if (!job->optimizer) job->optimizer = default_message(&lockstep__v1__optimizer__descriptor);
  if (!job->schedule) job->schedule = default_message(&lockstep__v1__schedule__descriptor);
  if (!job->checkpoint) job->checkpoint = default_message(&lockstep__v1__checkpoint__descriptor);
  if (!job->retry) job->retry = default_message(&lockstep__v1__retry__descriptor);
  if (!job->prefetch) job->prefetch = default_message(&lockstep__v1__prefetch__descriptor);
  if (!job->evaluation) job->evaluation = default_message(&lockstep__v1__evaluation__descriptor);
  if (job->optimizer && job->optimizer->kind_case == LOCKSTEP__V1__OPTIMIZER__KIND__NOT_SET) {
    job->optimizer->sgd = default_message(&lockstep__v1__sgd__descriptor);
    job->optimizer->kind_case = LOCKSTEP__V1__OPTIMIZER__KIND_SGD;
  }
  if (job->schedule && job->schedule->kind_case == LOCKSTEP__V1__SCHEDULE__KIND__NOT_SET) {
    job->schedule->constant = default_message(&lockstep__v1__constant_schedule__descriptor);
    job->schedule->kind_case = LOCKSTEP__V1__SCHEDULE__KIND_CONSTANT;
  }
  if (!job->name || !*job->name) job->name = strdup("job");
  return job->devices && job->optimizer && job->optimizer->sgd && job->schedule && job->schedule->constant &&
         job->checkpoint && job->retry && job->prefetch && job->evaluation && job->name;
}

ls_status ls_spec_complete_job(Lockstep__V1__Job *job, struct ls_error *err) {
  if (!fill_messages(job)) return ls_fail(err, LS_NO_MEMORY, "no memory for the job's defaults");
  LS_TRY(complete_message(&job->base, "", 0, err));
  return check_job(job, err);
}

ls_status ls_spec_complete_network(Lockstep__V1__Network *network, struct ls_error *err) {
  return complete_message(&network->base, "", 0, err);
}

ls_status ls_spec_parse_every(const char *text, struct ls_every *every, struct ls_error *err) {
  *every = (struct ls_every){LS_EVERY_NEVER, 0};
  if (strcmp(text, "never") == 0) return LS_OK;
  static const struct {
    const char *word;
    enum ls_every_unit unit;
    double factor;
  } units[] = {{"epoch", LS_EVERY_EPOCHS, 1},    {"epochs", LS_EVERY_EPOCHS, 1},    {"step", LS_EVERY_STEPS, 1},
               {"steps", LS_EVERY_STEPS, 1},     {"second", LS_EVERY_SECONDS, 1},   {"seconds", LS_EVERY_SECONDS, 1},
               {"minute", LS_EVERY_SECONDS, 60}, {"minutes", LS_EVERY_SECONDS, 60}, {"hour", LS_EVERY_SECONDS, 3600},
               {"hours", LS_EVERY_SECONDS, 3600}};
  char *end;
  double count = strtod(text, &end);
  while (*end == ' ') end++;
  for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++) {
    if (strcmp(end, units[i].word) != 0) continue;
    bool whole = units[i].unit != LS_EVERY_STEPS || count == floor(count);
    if (!(count > 0) || !isfinite(count) || !whole) break;
    *every = (struct ls_every){units[i].unit, count * units[i].factor};
    return LS_OK;
  }
  return ls_fail(err, LS_INVALID, "found '%s', expected for example '1 epoch', '500 steps', '10 minutes' or 'never'",
                 text);
}
