// Small things about fields, enums and words that reading, writing and checking share.
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "spec/spec_internal.h"

bool field_is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
  if (is_oneof(field)) return *(uint32_t *)quantifier_memory(message, field) == field->id;
  if (field->label == PROTOBUF_C_LABEL_REPEATED) return *(size_t *)quantifier_memory(message, field) > 0;
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) return *(void **)field_memory(message, field) != NULL;
  if (field->type == PROTOBUF_C_TYPE_STRING) {
    const char *text = *(char **)field_memory(message, field);
    return text && text != (const char *)field->default_value && (field->label == PROTOBUF_C_LABEL_OPTIONAL || *text);
  }
  if (field->type == PROTOBUF_C_TYPE_BYTES) return ((ProtobufCBinaryData *)field_memory(message, field))->len > 0;
  if (field->label == PROTOBUF_C_LABEL_OPTIONAL) return *(protobuf_c_boolean *)quantifier_memory(message, field);
  return true;  // proto3: always there
}

size_t field_element_bytes(const ProtobufCFieldDescriptor *field) {
  switch (field->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    default: return 4;
  }
}

double field_number(const ProtobufCFieldDescriptor *field, const void *memory) {
  switch (field->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64: return (double)*(const int64_t *)memory;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64: return (double)*(const uint64_t *)memory;
    case PROTOBUF_C_TYPE_DOUBLE: return *(const double *)memory;
    case PROTOBUF_C_TYPE_FLOAT: return *(const float *)memory;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: return *(const uint32_t *)memory;
    default: return *(const int32_t *)memory;
  }
}

void enum_value_word(const ProtobufCEnumDescriptor *type, const ProtobufCEnumValue *value, char *word, size_t size) {
  // The prefix is the enum's name in capitals: DeviceKind -> DEVICE_KIND_.
  char prefix[128];
  size_t used = 0;
  for (const char *c = type->short_name; *c && used + 3 < sizeof prefix; c++) {
    if (isupper((unsigned char)*c) && c != type->short_name) prefix[used++] = '_';
    prefix[used++] = (char)toupper((unsigned char)*c);
  }
  prefix[used++] = '_';
  const char *name = value->name;
  if (strncmp(name, prefix, used) == 0) name += used;
  size_t i = 0;
  for (; name[i] && i + 1 < size; i++) word[i] = (char)tolower((unsigned char)name[i]);
  word[i] = 0;
}

bool breaks_rule(const struct schema_field *r, double value, char *allowed, size_t size) {
  if (!r) return false;
  bool bad = (r->has_min && !(value >= r->min)) || (r->has_max && !(value <= r->max)) ||
             (r->has_above && !(value > r->above)) || (r->has_below && !(value < r->below));
  if (!bad) return false;
  char low[48] = "", high[48] = "";
  if (r->has_min) snprintf(low, sizeof low, "at least %.12g", r->min);
  if (r->has_above) snprintf(low, sizeof low, "more than %.12g", r->above);
  if (r->has_max) snprintf(high, sizeof high, "at most %.12g", r->max);
  if (r->has_below) snprintf(high, sizeof high, "less than %.12g", r->below);
  snprintf(allowed, size, "%s%s%s", low, *low && *high ? " and " : "", high);
  return true;
}

// Edit distance of two short words (Levenshtein), cut off at 3.
static int distance(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  int row[64];
  if (n > 62 || m > 62) return 99;
  for (size_t j = 0; j <= m; j++) row[j] = (int)j;
  for (size_t i = 1; i <= n; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= m; j++) {
      int kept = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      row[j] = best;
      diagonal = kept;
    }
  }
  return row[m];
}

const char *nearest_word(const char *word, const char *const *words, size_t count) {
  const char *best = NULL;
  int least = strlen(word) < 4 ? 2 : 4;
  for (size_t i = 0; i < count; i++) {
    int d = distance(word, words[i]);
    if (d < least) {
      least = d;
      best = words[i];
    }
  }
  return best;
}
