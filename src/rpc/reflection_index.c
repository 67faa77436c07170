// See reflection_index.h.
#include "rpc/reflection_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/string.h"
#include "google/protobuf/descriptor.pb-c.h"

typedef Google__Protobuf__FileDescriptorProto file_descriptor;
typedef Google__Protobuf__DescriptorProto message_descriptor;
typedef Google__Protobuf__FieldDescriptorProto field_descriptor;

// ---- building. A false result: out of memory.

static bool add_symbol(struct ls_rpc_reflection *r, unsigned file, const char *scope, const char *name) {
  if (r->symbol_count == r->symbol_capacity) {
    size_t capacity = r->symbol_capacity ? 2 * r->symbol_capacity : 256;
    struct ls_rpc_reflection_symbol *symbols = realloc(r->symbols, capacity * sizeof *symbols);
    if (!symbols) return false;
    r->symbols = symbols;
    r->symbol_capacity = capacity;
  }
  struct ls_string full = LS_STRING_INIT;
  ls_string_addf(&full, "%s%s%s", scope, *scope ? "." : "", name);
  r->symbols[r->symbol_count] = (struct ls_rpc_reflection_symbol){ls_string_take(&full), file};
  return r->symbols[r->symbol_count++].name != NULL;
}

static bool add_extensions(struct ls_rpc_reflection *r, unsigned file, const char *scope,
                           field_descriptor *const *extensions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    struct ls_rpc_reflection_extension *list = realloc(r->extensions, (r->extension_count + 1) * sizeof *r->extensions);
    if (!list) return false;
    r->extensions = list;
    const char *type = extensions[i]->extendee ? extensions[i]->extendee : "";
    list[r->extension_count] =
        (struct ls_rpc_reflection_extension){strdup(*type == '.' ? type + 1 : type), extensions[i]->number, file};
    if (!list[r->extension_count++].type || !add_symbol(r, file, scope, extensions[i]->name)) return false;
  }
  return true;
}

static bool add_message(struct ls_rpc_reflection *r, unsigned file, const char *scope, const message_descriptor *m) {
  if (!add_symbol(r, file, scope, m->name)) return false;
  char *name = strdup(r->symbols[r->symbol_count - 1].name);
  bool fine = name && add_extensions(r, file, name, m->extension, m->n_extension);
  for (size_t i = 0; fine && i < m->n_nested_type; i++) fine = add_message(r, file, name, m->nested_type[i]);
  for (size_t i = 0; fine && i < m->n_enum_type; i++) fine = add_symbol(r, file, name, m->enum_type[i]->name);
  free(name);
  return fine;
}

static bool add_service(struct ls_rpc_reflection *r, unsigned file, const char *scope,
                        const Google__Protobuf__ServiceDescriptorProto *service) {
  if (!add_symbol(r, file, scope, service->name)) return false;
  char *name = strdup(r->symbols[r->symbol_count - 1].name);
  bool fine = name != NULL;
  for (size_t i = 0; fine && i < service->n_method; i++) fine = add_symbol(r, file, name, service->method[i]->name);
  free(name);
  return fine;
}

// Imports come before the files that import them in a descriptor set; what is missing is left out.
static bool add_imports(struct ls_rpc_reflection *r, struct ls_rpc_reflection_file *file,
                        const file_descriptor *about) {
  file->imports = calloc(about->n_dependency + 1, sizeof *file->imports);
  for (size_t i = 0; file->imports && i < about->n_dependency; i++) {
    int import = ls_rpc_reflection_find_file(r, about->dependency[i]);
    if (import >= 0) file->imports[file->import_count++] = (unsigned)import;
  }
  return file->imports != NULL;
}

static bool add_file(struct ls_rpc_reflection *r, const uint8_t *data, size_t size, const file_descriptor *about) {
  struct ls_rpc_reflection_file *files = realloc(r->files, (r->file_count + 1) * sizeof *files);
  if (!files) return false;
  r->files = files;
  unsigned index = (unsigned)r->file_count;
  struct ls_rpc_reflection_file *file = &files[index];
  *file = (struct ls_rpc_reflection_file){.name = strdup(about->name ? about->name : ""), .data = data, .size = size};
  bool fine = file->name && add_imports(r, file, about);
  r->file_count++;
  const char *scope = about->package ? about->package : "";
  for (size_t i = 0; fine && i < about->n_message_type; i++)
    fine = add_message(r, index, scope, about->message_type[i]);
  for (size_t i = 0; fine && i < about->n_enum_type; i++) fine = add_symbol(r, index, scope, about->enum_type[i]->name);
  for (size_t i = 0; fine && i < about->n_service; i++) fine = add_service(r, index, scope, about->service[i]);
  return fine && add_extensions(r, index, scope, about->extension, about->n_extension);
}

static int compare_symbols(const void *a, const void *b) {
  return strcmp(((const struct ls_rpc_reflection_symbol *)a)->name, ((const struct ls_rpc_reflection_symbol *)b)->name);
}

// Reads tag and length of the set's next `file` field. False: these are no such bytes.
static bool next_file(const uint8_t *set, size_t set_bytes, size_t *at, size_t *size) {
  if (set[(*at)++] != (1 << 3 | 2)) return false;
  *size = 0;
  for (unsigned shift = 0; *at < set_bytes && shift < 35; shift += 7) {
    uint8_t byte = set[(*at)++];
    *size |= (size_t)(byte & 0x7F) << shift;
    if (!(byte & 0x80)) return *size <= set_bytes - *at;
  }
  return false;
}

ls_status ls_rpc_reflection_new(const uint8_t *set, size_t set_bytes, struct ls_rpc_reflection **out,
                                struct ls_error *err) {
  struct ls_rpc_reflection *r = calloc(1, sizeof *r);
  bool fine = r != NULL, readable = true;
  for (size_t at = 0, size = 0; fine && readable && at < set_bytes; at += size) {
    readable = next_file(set, set_bytes, &at, &size);
    file_descriptor *about = readable ? google__protobuf__file_descriptor_proto__unpack(NULL, size, set + at) : NULL;
    readable = about != NULL;
    if (readable) fine = add_file(r, set + at, size, about);
    google__protobuf__file_descriptor_proto__free_unpacked(about, NULL);
  }
  if (fine && readable) {
    qsort(r->symbols, r->symbol_count, sizeof *r->symbols, compare_symbols);
    *out = r;
    return LS_OK;
  }
  ls_rpc_reflection_free(r);
  if (!fine) return ls_fail(err, LS_NO_MEMORY, "cannot set up server reflection: out of memory");
  return ls_fail(err, LS_INVALID, "cannot set up server reflection: the schema is no FileDescriptorSet");
}

void ls_rpc_reflection_free(struct ls_rpc_reflection *r) {
  if (!r) return;
  for (size_t i = 0; i < r->file_count; i++) {
    free(r->files[i].name);
    free(r->files[i].imports);
  }
  for (size_t i = 0; i < r->symbol_count; i++) free(r->symbols[i].name);
  for (size_t i = 0; i < r->extension_count; i++) free(r->extensions[i].type);
  free(r->files);
  free(r->symbols);
  free(r->extensions);
  free(r);
}

// ---- looking up

int ls_rpc_reflection_find_file(const struct ls_rpc_reflection *r, const char *name) {
  for (size_t i = 0; i < r->file_count; i++) {
    if (strcmp(r->files[i].name, name) == 0) return (int)i;
  }
  return -1;
}

int ls_rpc_reflection_find_symbol(const struct ls_rpc_reflection *r, const char *name) {
  size_t low = 0, high = r->symbol_count;
  if (*name == '.') name++;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(name, r->symbols[middle].name);
    if (order == 0) return (int)r->symbols[middle].file;
    if (order < 0) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return -1;
}

int ls_rpc_reflection_find_extension(const struct ls_rpc_reflection *r, const char *type, int32_t number) {
  if (*type == '.') type++;
  for (size_t i = 0; i < r->extension_count; i++) {
    if (r->extensions[i].number == number && strcmp(r->extensions[i].type, type) == 0)
      return (int)r->extensions[i].file;
  }
  return -1;
}

size_t ls_rpc_reflection_closure(const struct ls_rpc_reflection *r, unsigned file, unsigned *order) {
  size_t count = 0;
  order[count++] = file;
  for (size_t next = 0; next < count; next++) {
    const struct ls_rpc_reflection_file *about = &r->files[order[next]];
    for (size_t i = 0; i < about->import_count; i++) {
      bool seen = false;
      for (size_t j = 0; j < count && !seen; j++) seen = order[j] == about->imports[i];
      if (!seen) order[count++] = about->imports[i];
    }
  }
  return count;
}
