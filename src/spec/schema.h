// The rules of the schema (proto/lockstep/v1/options.proto) and its comments, read from the embedded descriptor set.
// Built once, at first use; read-only afterwards; any thread.
#ifndef LS_SPEC_SCHEMA_H
#define LS_SPEC_SCHEMA_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

struct schema_field {
  char *name;      // "lockstep.v1.Job.batch_size"
  char *comment;   // one line; "" when there is none
  char *fallback;  // default, as written in YAML; NULL
  bool has_min, has_max, has_above, has_below, required;
  double min, max, above, below;
};

// NULL for a field without rule and comment.
const struct schema_field *schema_field(const char *message, const char *field);
// Comment of an enum's value or a message ("lockstep.v1.Sgd"); "" when there is none.
const char *schema_comment(const char *full_name);

#endif
