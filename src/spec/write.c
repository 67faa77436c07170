// Messages as JSON, and as YAML that reads back to an equal message. YAML here is JSON's block style: the same walk.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spec/spec_internal.h"

struct writer {
  struct ls_string *out;
  int indent;  // spaces a level; 0: all on one line
};

static void new_line(struct writer *w, int level) {
  if (w->indent == 0) return;
  ls_string_addf(w->out, "\n%*s", w->indent * level, "");
}

void ls_spec_write_string(const char *text, struct ls_string *out) {
  ls_string_add(out, "\"");
  for (; text && *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\')
      ls_string_addf(out, "\\%c", c);
    else if (c < 0x20 || c == 0x7f)
      ls_string_addf(out, "\\u%04x", c);
    else
      ls_string_add_bytes(out, text, 1);
  }
  ls_string_add(out, "\"");
}

// The shortest decimal that reads back to the same value.
static void write_number(struct writer *w, double value, bool single) {
  if (!isfinite(value)) {
    ls_string_add(w->out, "null");
    return;
  }
  char text[40];
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (single ? strtof(text, NULL) == (float)value : strtod(text, NULL) == value) break;
  }
  ls_string_add(w->out, text);
}

static void write_bytes(struct writer *w, const ProtobufCBinaryData *bytes) {
  ls_string_add(w->out, "\"");
  for (size_t i = 0; i < bytes->len; i++) ls_string_addf(w->out, "%02x", bytes->data[i]);
  ls_string_add(w->out, "\"");
}

static void write_message(struct writer *w, const ProtobufCMessage *message, int level);

static void write_value(struct writer *w, const ProtobufCFieldDescriptor *field, const void *memory, int level) {
  char word[64];
  const ProtobufCEnumValue *value;
  switch (field->type) {
    case PROTOBUF_C_TYPE_MESSAGE: write_message(w, *(ProtobufCMessage *const *)memory, level); break;
    case PROTOBUF_C_TYPE_STRING: ls_spec_write_string(*(char *const *)memory, w->out); break;
    case PROTOBUF_C_TYPE_BYTES: write_bytes(w, memory); break;
    case PROTOBUF_C_TYPE_BOOL: ls_string_add(w->out, *(const protobuf_c_boolean *)memory ? "true" : "false"); break;
    case PROTOBUF_C_TYPE_DOUBLE: write_number(w, *(const double *)memory, false); break;
    case PROTOBUF_C_TYPE_FLOAT: write_number(w, *(const float *)memory, true); break;
    case PROTOBUF_C_TYPE_ENUM:
      value = protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)memory);
      if (value) enum_value_word(field->descriptor, value, word, sizeof word);
      if (value)
        ls_spec_write_string(word, w->out);
      else
        ls_string_addf(w->out, "%d", *(const int *)memory);
      break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64: ls_string_addf(w->out, "%" PRIu64, *(const uint64_t *)memory); break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64: ls_string_addf(w->out, "%" PRId64, *(const int64_t *)memory); break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: ls_string_addf(w->out, "%" PRIu32, *(const uint32_t *)memory); break;
    default: ls_string_addf(w->out, "%" PRId32, *(const int32_t *)memory);
  }
}

static void write_list(struct writer *w, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                       int level) {
  size_t count = *(size_t *)quantifier_memory(message, field);
  const char *values = *(char **)field_memory(message, field);
  bool lines = field->type == PROTOBUF_C_TYPE_MESSAGE;
  ls_string_add(w->out, "[");
  for (size_t i = 0; i < count; i++) {
    if (i) ls_string_add(w->out, lines && w->indent ? "," : ", ");
    if (lines) new_line(w, level + 1);
    write_value(w, field, values + i * field_element_bytes(field), level + 1);
  }
  if (lines && count) new_line(w, level);
  ls_string_add(w->out, "]");
}

static void write_message(struct writer *w, const ProtobufCMessage *message, int level) {
  bool first = true;
  ls_string_add(w->out, "{");
  for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
    if (!field_is_set(message, field)) continue;
    if (!first) ls_string_add(w->out, w->indent ? "," : ", ");
    first = false;
    new_line(w, level + 1);
    ls_string_addf(w->out, "\"%s\": ", field->name);
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
      write_list(w, message, field, level + 1);
    else
      write_value(w, field, field_memory(message, field), level + 1);
  }
  if (!first) new_line(w, level);
  ls_string_add(w->out, "}");
}

ls_status ls_spec_write_json(const ProtobufCMessage *message, int indent, struct ls_string *out) {
  struct writer w = {out, indent};
  write_message(&w, message, 0);
  return out->failed ? LS_NO_MEMORY : LS_OK;
}

// Block style, with flow style for lists of plain values and messages without fields.
static void write_yaml_message(struct writer *w, const ProtobufCMessage *message, int level, bool inside_list);

static void write_yaml_field(struct writer *w, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                             int level) {
  ls_string_addf(w->out, "%s:", field->name);
  if (field->label == PROTOBUF_C_LABEL_REPEATED && field->type == PROTOBUF_C_TYPE_MESSAGE) {
    ProtobufCMessage **items = *(ProtobufCMessage ***)field_memory(message, field);
    for (size_t i = 0; i < *(size_t *)quantifier_memory(message, field); i++) {
      ls_string_addf(w->out, "\n%*s- ", 2 * (level + 1), "");
      write_yaml_message(w, items[i], level + 2, true);
    }
  } else if (field->label == PROTOBUF_C_LABEL_REPEATED) {
    ls_string_add(w->out, " ");
    write_list(w, message, field, level);
  } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
    write_yaml_message(w, *(ProtobufCMessage **)field_memory(message, field), level + 1, false);
  } else {
    ls_string_add(w->out, " ");
    write_value(w, field, field_memory(message, field), level);
  }
}

static void write_yaml_message(struct writer *w, const ProtobufCMessage *message, int level, bool inside_list) {
  bool first = true;
  for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
    if (!field_is_set(message, field)) continue;
    if (!(first && (inside_list || w->out->size == 0))) ls_string_addf(w->out, "\n%*s", 2 * level, "");
    first = false;
    write_yaml_field(w, message, field, level);
  }
  if (first) ls_string_add(w->out, inside_list ? "{}" : " {}");
}

ls_status ls_spec_write_yaml(const ProtobufCMessage *message, struct ls_string *out) {
  struct ls_string own = LS_STRING_INIT;
  struct writer w = {&own, 0};
  write_yaml_message(&w, message, 0, false);
  ls_string_add(out, ls_string_text(&own));
  ls_string_add(out, "\n");
  bool failed = own.failed || out->failed;
  ls_string_release(&own);
  return failed ? LS_NO_MEMORY : LS_OK;
}
