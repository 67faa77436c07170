// From a tree to a message, by walking the message's descriptor: nothing here knows a field by name.
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spec/spec_internal.h"

struct context {
  const struct tree *tree;
  struct ls_error *err;
};

static ls_status decode_message(struct context *c, const struct tree_node *node, const ProtobufCMessageDescriptor *type,
                                const char *key, ProtobufCMessage **message);

static const char *kind_word(const struct tree_node *node) {
  return node->kind == TREE_MAP    ? "a mapping"
         : node->kind == TREE_LIST ? "a list"
         : node->text[0]           ? node->text
                                   : "nothing";
}

static ls_status wrong(struct context *c, const struct tree_node *node, const char *key, const char *expected) {
  return tree_fail(c->tree, node, c->err, "key '%s': found %s%.200s%s, expected %s", key,
                   node->kind == TREE_SCALAR && node->text[0] ? "'" : "", kind_word(node),
                   node->kind == TREE_SCALAR && node->text[0] ? "'" : "", expected);
}

static ls_status unknown_key(struct context *c, const struct tree_node *node, const char *key,
                             const ProtobufCMessageDescriptor *type) {
  char known[512] = "";
  const char *names[128];
  size_t used = 0, count = 0;
  for (unsigned i = 0; i < type->n_fields && i < 128; i++) {
    names[count++] = type->fields[i].name;
    if (used + strlen(type->fields[i].name) + 3 < sizeof known) {
      used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", type->fields[i].name);
    }
  }
  const char *near = nearest_word(key, names, count);
  if (near)
    return tree_fail(c->tree, node, c->err, "unknown key '%.80s'; did you mean '%s'? known: %s", key, near, known);
  return tree_fail(c->tree, node, c->err, "unknown key '%.80s'; known: %s", key, type->n_fields ? known : "none");
}

static ls_status decode_integer(struct context *c, const struct tree_node *node, const ProtobufCFieldDescriptor *field,
                                void *memory) {
  char *end;
  errno = 0;
  bool wide = field_element_bytes(field) == 8;
  bool is_unsigned = field->type == PROTOBUF_C_TYPE_UINT32 || field->type == PROTOBUF_C_TYPE_UINT64;
  if (!node->text[0] || node->quoted) return wrong(c, node, field->name, "a whole number");
  if (is_unsigned) {
    uint64_t value = strtoull(node->text, &end, 10);
    if (*end) return wrong(c, node, field->name, "a whole number");
    if (errno || node->text[0] == '-' || (!wide && value > UINT32_MAX))
      return wrong(c, node, field->name, "a whole number of at least 0 that fits");
    if (wide)
      *(uint64_t *)memory = value;
    else
      *(uint32_t *)memory = (uint32_t)value;
    return LS_OK;
  }
  int64_t value = strtoll(node->text, &end, 10);
  if (*end) return wrong(c, node, field->name, "a whole number");
  if (errno || (!wide && (value > INT32_MAX || value < INT32_MIN)))
    return wrong(c, node, field->name, "a whole number that fits");
  if (wide)
    *(int64_t *)memory = value;
  else
    *(int32_t *)memory = (int32_t)value;
  return LS_OK;
}

static ls_status decode_enum(struct context *c, const struct tree_node *node, const ProtobufCFieldDescriptor *field,
                             void *memory) {
  const ProtobufCEnumDescriptor *type = field->descriptor;
  char words[256] = "", word[64];
  size_t used = 0;
  for (unsigned i = 0; i < type->n_values; i++) {
    enum_value_word(type, &type->values[i], word, sizeof word);
    if (strcmp(word, node->text) == 0) {
      *(uint32_t *)memory = (uint32_t)type->values[i].value;
      return LS_OK;
    }
    used += (size_t)snprintf(words + used, sizeof words - used, "%s%s", i ? ", " : "one of ", word);
  }
  return wrong(c, node, field->name, words);
}

// One value of a field, not of a list, into `memory`.
static ls_status decode_value(struct context *c, const struct tree_node *node, const ProtobufCFieldDescriptor *field,
                              const ProtobufCMessageDescriptor *owner, void *memory) {
  if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
    ProtobufCMessage *message;
    ls_status status = decode_message(c, node, field->descriptor, field->name, &message);
    if (status != LS_OK && message) protobuf_c_message_free_unpacked(message, NULL);
    *(ProtobufCMessage **)memory = status == LS_OK ? message : NULL;
    return status;
  }
  if (node->kind != TREE_SCALAR) return wrong(c, node, field->name, "a single value");
  char *end;
  switch (field->type) {
    case PROTOBUF_C_TYPE_STRING: {
      char *copy = strdup(node->text);
      if (!copy) return ls_fail(c->err, LS_NO_MEMORY, "no memory for '%s'", field->name);
      *(char **)memory = copy;
      return LS_OK;
    }
    case PROTOBUF_C_TYPE_BOOL:
      if (strcmp(node->text, "true") && strcmp(node->text, "false"))
        return wrong(c, node, field->name, "true or false");
      *(protobuf_c_boolean *)memory = node->text[0] == 't';
      return LS_OK;
    case PROTOBUF_C_TYPE_ENUM: return decode_enum(c, node, field, memory);
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FLOAT: {
      double value = strtod(node->text, &end);
      if (!node->text[0] || *end || node->quoted || !isfinite(value)) return wrong(c, node, field->name, "a number");
      if (field->type == PROTOBUF_C_TYPE_DOUBLE)
        *(double *)memory = value;
      else
        *(float *)memory = (float)value;
      break;
    }
    default: LS_TRY(decode_integer(c, node, field, memory));
  }
  char allowed[128], expected[192];
  double value = field_number(field, memory);
  if (breaks_rule(schema_field(owner->name, field->name), value, allowed, sizeof allowed)) {
    snprintf(expected, sizeof expected, "a number %s", allowed);
    return wrong(c, node, field->name, expected);
  }
  return LS_OK;
}

static ls_status decode_list(struct context *c, const struct tree_node *node, const ProtobufCFieldDescriptor *field,
                             ProtobufCMessage *message) {
  bool list = node->kind == TREE_LIST;
  int count = list ? node->count : 1;
  size_t bytes = field_element_bytes(field);
  char *values = calloc((size_t)count + 1, bytes);
  if (!values) return ls_fail(c->err, LS_NO_MEMORY, "no memory for '%s'", field->name);
  *(void **)field_memory(message, field) = values;
  for (int i = 0; i < count; i++) {
    ls_status status =
        decode_value(c, list ? node->children[i] : node, field, message->descriptor, values + (size_t)i * bytes);
    if (status != LS_OK) return status;
    *(size_t *)quantifier_memory(message, field) = (size_t)i + 1;
  }
  return LS_OK;
}

static ls_status decode_field(struct context *c, const struct tree_node *node, const ProtobufCFieldDescriptor *field,
                              ProtobufCMessage *message) {
  if (field->label == PROTOBUF_C_LABEL_REPEATED) return decode_list(c, node, field, message);
  if (is_oneof(field)) {
    uint32_t *which = quantifier_memory(message, field);
    if (*which) {
      const ProtobufCFieldDescriptor *other = protobuf_c_message_descriptor_get_field(message->descriptor, *which);
      return tree_fail(c->tree, node, c->err, "both '%s' and '%s' are given here; only one of them is allowed",
                       other->name, field->name);
    }
    union {
      void *pointer;
      uint64_t number;
    } value = {0};
    LS_TRY(decode_value(c, node, field, message->descriptor, &value));
    memcpy(field_memory(message, field), &value, field_element_bytes(field));
    *which = field->id;
    return LS_OK;
  }
  LS_TRY(decode_value(c, node, field, message->descriptor, field_memory(message, field)));
  bool has_flag = field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_MESSAGE &&
                  field->type != PROTOBUF_C_TYPE_STRING;
  if (has_flag) *(protobuf_c_boolean *)quantifier_memory(message, field) = 1;
  return LS_OK;
}

static ls_status decode_message(struct context *c, const struct tree_node *node, const ProtobufCMessageDescriptor *type,
                                const char *key, ProtobufCMessage **result) {
  ProtobufCMessage *message = calloc(1, type->sizeof_message);
  if (!message) return ls_fail(c->err, LS_NO_MEMORY, "no memory for '%s'", key);
  protobuf_c_message_init(type, message);
  *result = message;  // freed by whoever frees the whole
  if (node->kind == TREE_LIST) return wrong(c, node, key, "a mapping");
  if (node->kind == TREE_SCALAR && node->text[0]) {
    // `relu` stands for `relu: {}` where the word names a member of a oneof.
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(type, node->text);
    if (!field || !is_oneof(field) || field->type != PROTOBUF_C_TYPE_MESSAGE) {
      bool choice = false;
      for (unsigned i = 0; i < type->n_fields; i++) choice |= is_oneof(&type->fields[i]);
      return choice ? unknown_key(c, node, node->text, type) : wrong(c, node, key, "a mapping");
    }
    struct tree_node nothing = {.kind = TREE_MAP, .line = node->line, .column = node->column};
    return decode_field(c, &nothing, field, message);
  }
  for (int i = 0; i < node->count; i++) {
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(type, node->keys[i]);
    if (!field) return unknown_key(c, node->children[i], node->keys[i], type);
    LS_TRY(decode_field(c, node->children[i], field, message));
  }
  for (unsigned i = 0; i < type->n_fields; i++) {
    const struct schema_field *rule = schema_field(type->name, type->fields[i].name);
    if (rule && rule->required && !field_is_set(message, &type->fields[i])) {
      return tree_fail(c->tree, node, c->err, "'%s' lacks the key '%s'", key, type->fields[i].name);
    }
  }
  return LS_OK;
}

ls_status decode_tree(const struct tree *tree, const struct tree_node *node, const ProtobufCMessageDescriptor *type,
                      ProtobufCMessage **message, struct ls_error *err) {
  struct context c = {tree, err};
  *message = NULL;
  ls_status status = decode_message(&c, node, type, type->short_name, message);
  if (status != LS_OK && *message) {
    protobuf_c_message_free_unpacked(*message, NULL);
    *message = NULL;
  }
  return status;
}

ls_status ls_spec_parse(const char *text, size_t size, const char *file_name, const ProtobufCMessageDescriptor *type,
                        const char *const *settings, size_t setting_count, ProtobufCMessage **message,
                        struct ls_error *err) {
  struct tree tree;
  *message = NULL;
  ls_status status = tree_parse(&tree, text, size, file_name, err);
  for (size_t i = 0; i < setting_count && status == LS_OK; i++) status = tree_set(&tree, settings[i], err);
  struct tree_node *network = NULL;
  if (status == LS_OK) {
    network = type == &lockstep__v1__network__descriptor ? tree.root : tree_find(tree.root, "network");
  }
  if (network) status = expand_network(&tree, network, err);
  if (status == LS_OK) status = decode_tree(&tree, tree.root, type, message, err);
  tree_release(&tree);
  return status;
}
