// Shared by the files of src/spec.
#ifndef LS_SPEC_SPEC_INTERNAL_H
#define LS_SPEC_SPEC_INTERNAL_H

#include "spec/schema.h"
#include "spec/spec.h"
#include "spec/tree.h"

// Replaces every {block: ...} entry by its layers and checks the layers' names: expand.c.
ls_status expand_network(struct tree *tree, struct tree_node *network, struct ls_error *err);

// A tree as a message: decode.c.
ls_status decode_tree(const struct tree *tree, const struct tree_node *node, const ProtobufCMessageDescriptor *type,
                      ProtobufCMessage **message, struct ls_error *err);

// An enum's value as people write it: "full" for SHUFFLE_FULL.
void enum_value_word(const ProtobufCEnumDescriptor *type, const ProtobufCEnumValue *value, char *word, size_t size);

// Whether `value` breaks the rule; then `allowed` says what is allowed.
bool breaks_rule(const struct schema_field *rule, double value, char *allowed, size_t size);

// The nearest of `count` words, NULL when none is near.
const char *nearest_word(const char *word, const char *const *words, size_t count);

// Access to fields by offset, as protobuf-c lays them out.
static inline void *field_memory(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
  return (char *)(uintptr_t)message + field->offset;
}
static inline void *quantifier_memory(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
  return (char *)(uintptr_t)message + field->quantifier_offset;
}
static inline bool is_oneof(const ProtobufCFieldDescriptor *field) {
  return field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;
}
// Whether a singular field holds a value that was set.
bool field_is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);
size_t field_element_bytes(const ProtobufCFieldDescriptor *field);
// A number field's value.
double field_number(const ProtobufCFieldDescriptor *field, const void *memory);

#endif
