// Job and network files: YAML <-> protobuf by reflection over protobuf-c descriptors, JSON out, checks, --help.
//
// The schema stands once, in proto/. Everything here walks descriptors; no field is named twice. An error says file,
// line, key, what was found and what is allowed, with the nearest known key for a typo.
// Pure functions of their inputs; any thread may call.
#ifndef LS_SPEC_SPEC_H
#define LS_SPEC_SPEC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "base/string.h"
#include "lockstep/v1/job.pb-c.h"
#include "lockstep/v1/network.pb-c.h"

// Reads YAML (or JSON, which is YAML) text as a message of `type`. `file_name` is for error messages.
// `settings`: "KEY.KEY=VALUE" from --set, applied over the file. Enum values are written without prefix in lower case;
// a oneof is a mapping with the member's name as key; a scalar is accepted for a list of one; `relu` for `relu: {}`.
// The caller frees *message with protobuf_c_message_free_unpacked(message, NULL).
ls_status ls_spec_parse(const char *text, size_t size, const char *file_name, const ProtobufCMessageDescriptor *type,
                        const char *const *settings, size_t setting_count, ProtobufCMessage **message,
                        struct ls_error *err);

// Loads a network, blocks expanded: by its name, which is looked for in models/ of LOCKSTEP_CONFIGS, else of
// ../share/lockstep beside the program, else of the source tree's configs/; or by a path, beside the folder `relative_to`
// (NULL: the current one).
ls_status ls_spec_load_network(const char *name_or_path, const char *relative_to, Lockstep__V1__Network **network,
                               struct ls_error *err);
// Names of the networks in the search path, sorted; the caller frees the array and each name.
ls_status ls_spec_list_networks(char ***names, size_t *count, struct ls_error *err);

// Loads a job file: parse, settings, model resolved into job->network, defaults filled in (every sub-message present,
// every has_ flag of a field with a default true), data paths made absolute, checked.
ls_status ls_spec_load_job(const char *path, const char *const *settings, size_t setting_count, Lockstep__V1__Job **job,
                           struct ls_error *err);
// Are the job's data sets where it says? LS_NOT_FOUND with every path that was tried; relative ones are looked for beside
// the job file, then in the working folder.
ls_status ls_spec_check_data(const char *path, const Lockstep__V1__Job *job, struct ls_error *err);
// Fills in defaults and checks a job that came by RPC (its paths must be absolute, its network inline).
ls_status ls_spec_complete_job(Lockstep__V1__Job *job, struct ls_error *err);

// Fills in the defaults of a network and checks its numbers (not its shapes: src/graph does).
ls_status ls_spec_complete_network(Lockstep__V1__Network *network, struct ls_error *err);

// Any message as JSON: snake_case keys, enums as lower-case names, 64-bit integers as numbers, fields without a value
// left out, NaN and infinity as null. `indent` 0: one line.
ls_status ls_spec_write_json(const ProtobufCMessage *message, int indent, struct ls_string *out);
// Text as a JSON string, quoted and escaped; NULL as "".
void ls_spec_write_string(const char *text, struct ls_string *out);
// A message as YAML that ls_spec_parse reads back to an equal message.
ls_status ls_spec_write_yaml(const ProtobufCMessage *message, struct ls_string *out);

// "1 epoch", "500 steps", "10 minutes", "never".
enum ls_every_unit { LS_EVERY_NEVER, LS_EVERY_EPOCHS, LS_EVERY_STEPS, LS_EVERY_SECONDS };
struct ls_every {
  enum ls_every_unit unit;
  double count;
};
ls_status ls_spec_parse_every(const char *text, struct ls_every *every, struct ls_error *err);

// The schema for people: the fields below `path` ("" for the job, "optimizer.sgd", "network.layers.convolution") with
// type, default, range and the comment from the .proto file.
ls_status ls_spec_describe(const char *path, FILE *out, struct ls_error *err);

#endif
