// What the reflection service looks up: the files of a schema, and which of them holds a symbol or an extension.
#ifndef LS_RPC_REFLECTION_INDEX_H
#define LS_RPC_REFLECTION_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ls_rpc_reflection_file {
  char *name;
  const uint8_t *data;  // serialized FileDescriptorProto, within the descriptor set
  size_t size;
  unsigned *imports;  // indices of files
  size_t import_count;
};

struct ls_rpc_reflection_symbol {
  char *name;  // "lockstep.v1.Job"
  unsigned file;
};

struct ls_rpc_reflection_extension {
  char *type;  // the extended message
  int32_t number;
  unsigned file;
};

struct ls_rpc_reflection {
  struct ls_rpc_reflection_file *files;
  struct ls_rpc_reflection_symbol *symbols;  // sorted by name
  struct ls_rpc_reflection_extension *extensions;
  size_t file_count, symbol_count, symbol_capacity, extension_count;
};

// `set`, a serialized FileDescriptorSet, is referred to, not copied. LS_INVALID when it is none.
ls_status ls_rpc_reflection_new(const uint8_t *set, size_t set_bytes, struct ls_rpc_reflection **reflection,
                                struct ls_error *err);
void ls_rpc_reflection_free(struct ls_rpc_reflection *reflection);

// Index of the file; -1: none. Names may begin with a dot.
int ls_rpc_reflection_find_file(const struct ls_rpc_reflection *reflection, const char *name);
int ls_rpc_reflection_find_symbol(const struct ls_rpc_reflection *reflection, const char *name);
int ls_rpc_reflection_find_extension(const struct ls_rpc_reflection *reflection, const char *type, int32_t number);
// Writes `file` and all that it imports, directly or not, to `order` (room for file_count); returns how many.
size_t ls_rpc_reflection_closure(const struct ls_rpc_reflection *reflection, unsigned file, unsigned *order);

#endif
