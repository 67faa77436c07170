// The schema for people: fields, types, defaults, ranges and the comments of the .proto files.
#include <stdio.h>
#include <string.h>

#include "spec/spec_internal.h"

static const char *type_word(const ProtobufCFieldDescriptor *field, char *text, size_t size) {
  switch (field->type) {
    case PROTOBUF_C_TYPE_MESSAGE: return "mapping";
    case PROTOBUF_C_TYPE_STRING: return "text";
    case PROTOBUF_C_TYPE_BOOL: return "true or false";
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FLOAT: return "number";
    case PROTOBUF_C_TYPE_ENUM: {
      const ProtobufCEnumDescriptor *type = field->descriptor;
      size_t used = 0;
      for (unsigned i = 0; i < type->n_values; i++) {
        char word[64];
        enum_value_word(type, &type->values[i], word, sizeof word);
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? " | " : "", word);
        if (used >= size) break;
      }
      return text;
    }
    default: return "whole number";
  }
}

static void print_default(const struct schema_field *rule, const ProtobufCFieldDescriptor *field, FILE *out) {
  if (!rule || !rule->fallback) return;
  char word[64];
  snprintf(word, sizeof word, "%s", rule->fallback);
  if (field->type == PROTOBUF_C_TYPE_ENUM) {
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value_by_name(field->descriptor, rule->fallback);
    if (value) enum_value_word(field->descriptor, value, word, sizeof word);
  }
  fprintf(out, ", default %s", word);
}

static void describe_field(const ProtobufCMessageDescriptor *owner, const ProtobufCFieldDescriptor *field, FILE *out) {
  const struct schema_field *rule = schema_field(owner->name, field->name);
  char words[256], allowed[128];
  fprintf(out, "  %-22s %s%s", field->name, field->label == PROTOBUF_C_LABEL_REPEATED ? "list of " : "",
          type_word(field, words, sizeof words));
  print_default(rule, field, out);
  if (rule && rule->required) fprintf(out, ", required");
  if (rule && (rule->has_min || rule->has_max || rule->has_above || rule->has_below)) {
    breaks_rule(rule, 0.0 / 0.0, allowed, sizeof allowed);  // NaN breaks every rule: this asks only what is allowed
    fprintf(out, ", %s", allowed);
  }
  fprintf(out, "\n");
  const char *comment = rule ? rule->comment : "";
  if (!*comment && field->type == PROTOBUF_C_TYPE_MESSAGE) {
    comment = schema_comment(((const ProtobufCMessageDescriptor *)field->descriptor)->name);
  }
  if (*comment) fprintf(out, "  %-22s   %s\n", "", comment);
}

ls_status ls_spec_describe(const char *path, FILE *out, struct ls_error *err) {
  const ProtobufCMessageDescriptor *type = &lockstep__v1__job__descriptor;
  char part[128];
  for (const char *at = path; *at;) {
    size_t length = strcspn(at, ".");
    snprintf(part, sizeof part, "%.*s", (int)length, at);
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(type, part);
    if (!field) {
      const char *names[128];
      size_t count = 0;
      for (unsigned i = 0; i < type->n_fields && i < 128; i++) names[count++] = type->fields[i].name;
      const char *near = nearest_word(part, names, count);
      return ls_fail(err, LS_NOT_FOUND, "'%s' has no key '%s'%s%s%s", type->short_name, part,
                     near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    at += length + (at[length] == '.');
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
      describe_field(type, field, out);
      return LS_OK;
    }
    type = field->descriptor;
  }
  const char *comment = schema_comment(type->name);
  if (*comment) fprintf(out, "%s\n\n", comment);
  for (unsigned i = 0; i < type->n_fields; i++) describe_field(type, &type->fields[i], out);
  return LS_OK;
}
