// The schema's rules and comments: see schema.h.
#include "spec/schema.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "google/protobuf/descriptor.pb-c.h"
#include "lockstep/v1/descriptor_set.h"
#include "lockstep/v1/options.pb-c.h"

enum { RULE_EXTENSION = 50000, MAX_PATH = 16 };

static struct schema_field *fields;
static size_t field_count, field_capacity;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static struct schema_field *add(const char *name, const char *comment) {
  if (field_count == field_capacity) {
    size_t capacity = field_capacity ? 2 * field_capacity : 256;
    struct schema_field *grown = realloc(fields, capacity * sizeof *fields);
    if (!grown) return NULL;
    fields = grown;
    field_capacity = capacity;
  }
  struct schema_field *f = &fields[field_count];
  *f = (struct schema_field){.name = strdup(name), .comment = strdup(comment)};
  if (!f->name || !f->comment) return NULL;
  // Comments are wrapped in the file; here they are one line.
  char *to = f->comment;
  for (const char *from = f->comment; *from; from++) {
    bool space = *from == '\n' || *from == ' ';
    if (space && (to == f->comment || to[-1] == ' ')) continue;
    *to++ = *from == '\n' ? ' ' : *from;
  }
  while (to > f->comment && to[-1] == ' ') to--;
  *to = 0;
  field_count++;
  return f;
}

static const char *comment_at(const Google__Protobuf__FileDescriptorProto *file, const int32_t *path, size_t length) {
  if (!file->source_code_info) return "";
  for (size_t i = 0; i < file->source_code_info->n_location; i++) {
    const Google__Protobuf__SourceCodeInfo__Location *l = file->source_code_info->location[i];
    if (l->n_path == length && memcmp(l->path, path, length * sizeof *path) == 0) {
      return l->leading_comments ? l->leading_comments : "";
    }
  }
  return "";
}

// protobuf-c knows no extensions: the rule is an unknown field of the options.
static void read_rule(const Google__Protobuf__FieldDescriptorProto *from, struct schema_field *f) {
  if (!from->options) return;
  for (unsigned i = 0; i < from->options->base.n_unknown_fields; i++) {
    const ProtobufCMessageUnknownField *u = &from->options->base.unknown_fields[i];
    if (u->tag != RULE_EXTENSION || u->wire_type != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) continue;
    size_t skip = 0;
    while (skip < u->len && u->data[skip] & 0x80) skip++;
    skip++;  // the length in front of the message
    Lockstep__V1__Rule *r = lockstep__v1__rule__unpack(NULL, u->len - skip, u->data + skip);
    if (!r) continue;
    f->has_min = r->has_min, f->min = r->min;
    f->has_max = r->has_max, f->max = r->max;
    f->has_above = r->has_above, f->above = r->above;
    f->has_below = r->has_below, f->below = r->below;
    f->required = r->required;
    if (r->default_) f->fallback = strdup(r->default_);
    lockstep__v1__rule__free_unpacked(r, NULL);
  }
}

static void add_message(const Google__Protobuf__FileDescriptorProto *file, const Google__Protobuf__DescriptorProto *m,
                        const char *scope, int32_t *path, size_t length) {
  char name[512], full[768];
  snprintf(name, sizeof name, "%s.%s", scope, m->name);
  add(name, comment_at(file, path, length));
  for (size_t i = 0; i < m->n_field; i++) {
    path[length] = 2, path[length + 1] = (int32_t)i;
    snprintf(full, sizeof full, "%s.%s", name, m->field[i]->name);
    struct schema_field *f = add(full, comment_at(file, path, length + 2));
    if (!f) return;
    read_rule(m->field[i], f);
    if (m->field[i]->default_value) f->fallback = strdup(m->field[i]->default_value);
  }
  for (size_t i = 0; i < m->n_nested_type && length + 4 < MAX_PATH; i++) {
    path[length] = 3, path[length + 1] = (int32_t)i;
    add_message(file, m->nested_type[i], name, path, length + 2);
  }
}

static void build(void) {
  Google__Protobuf__FileDescriptorSet *set =
      google__protobuf__file_descriptor_set__unpack(NULL, ls_descriptor_set_bytes, ls_descriptor_set);
  if (!set) return;
  for (size_t i = 0; i < set->n_file; i++) {
    const Google__Protobuf__FileDescriptorProto *file = set->file[i];
    if (!file->package || strncmp(file->package, "lockstep.", 9) != 0) continue;
    int32_t path[MAX_PATH];
    for (size_t j = 0; j < file->n_message_type; j++) {
      path[0] = 4, path[1] = (int32_t)j;
      add_message(file, file->message_type[j], file->package, path, 2);
    }
    for (size_t j = 0; j < file->n_enum_type; j++) {
      for (size_t k = 0; k < file->enum_type[j]->n_value; k++) {
        int32_t at[] = {5, (int32_t)j, 2, (int32_t)k};
        char name[512];
        snprintf(name, sizeof name, "%s.%s.%s", file->package, file->enum_type[j]->name,
                 file->enum_type[j]->value[k]->name);
        add(name, comment_at(file, at, 4));
      }
    }
  }
  google__protobuf__file_descriptor_set__free_unpacked(set, NULL);
}

static const struct schema_field *find(const char *name) {
  pthread_once(&once, build);
  for (size_t i = 0; i < field_count; i++) {
    if (strcmp(fields[i].name, name) == 0) return &fields[i];
  }
  return NULL;
}

const struct schema_field *schema_field(const char *message, const char *field) {
  char name[512];
  snprintf(name, sizeof name, "%s.%s", message, field);
  return find(name);
}

const char *schema_comment(const char *full_name) {
  const struct schema_field *f = find(full_name);
  return f ? f->comment : "";
}
