// Where job and network files are found, and how a job file becomes a complete job.
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "spec/spec_internal.h"

enum { MAX_FILE_BYTES = 1 << 20 };

#ifndef LS_SOURCE_CONFIGS
#define LS_SOURCE_CONFIGS ""
#endif

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

// The folder with models/ and jobs/: LOCKSTEP_CONFIGS, ../share/lockstep beside the program, the source tree's. The caller
// frees it; NULL when there is none.
static char *configs_folder(void) {
  const char *given = getenv("LOCKSTEP_CONFIGS");
  if (given && *given) return strdup(given);
  char program[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length > 0) {
    program[length] = 0;
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    char *share = ls_path_join(program, "../share/lockstep");
    if (share && is_folder(share)) return share;
    free(share);
  }
  return LS_SOURCE_CONFIGS[0] && is_folder(LS_SOURCE_CONFIGS) ? strdup(LS_SOURCE_CONFIGS) : NULL;
}

static char *folder_of(const char *file) {
  const char *slash = strrchr(file, '/');
  return slash ? strndup(file, slash == file ? 1 : (size_t)(slash - file)) : strdup(".");
}

static bool has_suffix(const char *text, const char *suffix) {
  size_t n = strlen(text), m = strlen(suffix);
  return n > m && strcmp(text + n - m, suffix) == 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

ls_status ls_spec_list_networks(char ***names, size_t *count, struct ls_error *err) {
  *names = NULL;
  *count = 0;
  char *configs = configs_folder(), *models = configs ? ls_path_join(configs, "models") : NULL;
  DIR *folder = models ? opendir(models) : NULL;
  ls_status status = folder
                         ? LS_OK
                         : ls_fail(err, LS_NOT_FOUND,
                                   "no folder of networks found; set LOCKSTEP_CONFIGS to the one that holds models/");
  size_t capacity = 0;
  for (struct dirent *entry; status == LS_OK && (entry = readdir(folder)) != NULL;) {
    if (!has_suffix(entry->d_name, ".yaml")) continue;
    if (*count == capacity) {
      capacity = capacity ? 2 * capacity : 32;
      char **grown = realloc(*names, capacity * sizeof *grown);
      if (grown) *names = grown;
      if (!grown) status = LS_NO_MEMORY;
    }
    char *name = status == LS_OK ? strndup(entry->d_name, strlen(entry->d_name) - 5) : NULL;
    if (name)
      (*names)[(*count)++] = name;
    else
      status = ls_fail(err, LS_NO_MEMORY, "no memory for the names of the networks");
  }
  if (folder) closedir(folder);
  if (status != LS_OK) {
    for (size_t i = 0; i < *count; i++) free((*names)[i]);
    free(*names);
    *names = NULL;
    *count = 0;
  }
  if (*count) qsort(*names, *count, sizeof **names, by_name);
  free(models);
  free(configs);
  return status;
}

static ls_status unknown_network(const char *name, struct ls_error *err) {
  char **names;
  size_t count;
  if (ls_spec_list_networks(&names, &count, err) != LS_OK) return err ? err->status : LS_NOT_FOUND;
  char known[512] = "";
  size_t used = 0;
  for (size_t i = 0; i < count; i++) {
    if (used + strlen(names[i]) + 3 < sizeof known) {
      used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", names[i]);
    }
  }
  const char *near = nearest_word(name, (const char *const *)names, count);
  ls_status status = ls_fail(err, LS_NOT_FOUND, "no network is called '%s'%s%s%s; known: %s", name,
                             near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "", known);
  for (size_t i = 0; i < count; i++) free(names[i]);
  free(names);
  return status;
}

ls_status ls_spec_load_network(const char *name, const char *relative_to, Lockstep__V1__Network **network,
                               struct ls_error *err) {
  *network = NULL;
  bool is_path =
      strchr(name, '/') || has_suffix(name, ".yaml") || has_suffix(name, ".yml") || has_suffix(name, ".json");
  char *path = NULL;
  if (is_path) {
    path = ls_path_join(relative_to ? relative_to : "", name);
  } else {
    char *configs = configs_folder(), *models = configs ? ls_path_join(configs, "models/") : NULL;
    struct ls_string file = LS_STRING_INIT;
    if (models) ls_string_addf(&file, "%s%s.yaml", models, name);
    path = ls_string_take(&file);
    free(models);
    free(configs);
    if (path && access(path, F_OK) != 0) {
      free(path);
      return unknown_network(name, err);
    }
  }
  if (!path) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  char *text;
  size_t size;
  ls_status status = ls_file_read(path, MAX_FILE_BYTES, &text, &size, err);
  if (status == LS_OK) {
    ProtobufCMessage *message = NULL;
    status = ls_spec_parse(text, size, path, &lockstep__v1__network__descriptor, NULL, 0, &message, err);
    *network = (Lockstep__V1__Network *)message;
    free(text);
  }
  if (status == LS_OK) {
    status = ls_spec_complete_network(*network, err);
    if (status != LS_OK) ls_error_prefix(err, "%s", path);
  }
  if (status == LS_OK && !(*network)->name) (*network)->name = strdup(name);
  if (status != LS_OK && *network) {
    lockstep__v1__network__free_unpacked(*network, NULL);
    *network = NULL;
  }
  free(path);
  return status;
}

// "FILE:/group" with FILE made absolute, beside `folder` unless it stands in the current one.
static ls_status make_absolute(char **location, const char *folder, struct ls_error *err) {
  if (!*location || (*location)[0] == '/' || !**location) return LS_OK;
  char *beside = ls_path_join(folder, *location), resolved[PATH_MAX];
  if (!beside) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  char *colon = strrchr(beside, ':'), *group = colon ? strdup(colon) : strdup("");
  if (colon) *colon = 0;
  char *name =
      strrchr(*location, ':') ? strndup(*location, (size_t)(strrchr(*location, ':') - *location)) : strdup(*location);
  const char *file = access(beside, F_OK) == 0 ? beside : name && access(name, F_OK) == 0 ? name : NULL;
  struct ls_string absolute = LS_STRING_INIT;
  if (file && realpath(file, resolved)) {
    ls_string_addf(&absolute, "%s%s", resolved, group ? group : "");
    free(*location);
    *location = ls_string_take(&absolute);
  }  // else left as it is: ls_spec_check_data tells it, where the data are needed
  free(name);
  free(group);
  free(beside);
  return LS_OK;
}

// `key`: "train", `location`: as make_absolute left it.
static ls_status check_location(const char *path, const char *key, const char *location, struct ls_error *err) {
  const char *colon = location ? strrchr(location, ':') : NULL;
  char *file = !location ? strdup("") : colon ? strndup(location, (size_t)(colon - location)) : strdup(location);
  char *folder = folder_of(path), *beside = file && folder ? ls_path_join(folder, file) : NULL;
  char *first = beside ? ls_path_whole(beside) : NULL, *second = file ? ls_path_whole(file) : NULL;
  ls_status status = LS_OK;
  if (!first || !second)
    status = ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  else if (*file == '/' && access(file, F_OK) != 0)
    status = ls_fail(err, LS_NOT_FOUND, "%s: key 'data.%s': there is no data set '%s'", path, key, file);
  else if (*file && *file != '/' && strcmp(first, second) == 0)
    status = ls_fail(err, LS_NOT_FOUND, "%s: key 'data.%s': there is no data set '%s'", path, key, first);
  else if (*file && *file != '/')
    status = ls_fail(err, LS_NOT_FOUND,
                     "%s: key 'data.%s': data set '%s' is neither beside the job file ('%s') nor in the working folder "
                     "('%s')",
                     path, key, file, first, second);
  free(file);
  free(folder);
  free(beside);
  free(first);
  free(second);
  return status;
}

ls_status ls_spec_check_data(const char *path, const Lockstep__V1__Job *job, struct ls_error *err) {
  LS_TRY(check_location(path, "train", job->data->train, err));
  return check_location(path, "validation", job->data->validation, err);
}

static ls_status resolve_model(Lockstep__V1__Job *job, const char *folder, struct ls_error *err) {
  bool model = job->model && *job->model;
  if (model && job->network)
    return ls_fail(err, LS_INVALID, "both 'model' and 'network' are given; only one of them is allowed");
  if (!model && !job->network)
    return ls_fail(err, LS_INVALID,
                   "the key 'model' is missing: a network's name, a path, or 'network' with the network itself");
  return model ? ls_spec_load_network(job->model, folder, &job->network, err) : LS_OK;
}

static ls_status finish_job(Lockstep__V1__Job *job, const char *path, struct ls_error *err) {
  char *folder = folder_of(path);
  if (!folder) return ls_fail(err, LS_NO_MEMORY, "no memory for a path");
  ls_status status = LS_OK;
  if (!job->name || !*job->name) {
    const char *stem = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    const char *dot = strrchr(stem, '.');
    job->name = dot && dot > stem ? strndup(stem, (size_t)(dot - stem)) : strdup(stem);
  }
  if (resolve_model(job, folder, err) != LS_OK) status = ls_error_prefix(err, "%s", path);
  if (status == LS_OK && job->data) status = make_absolute(&job->data->train, folder, err);
  if (status == LS_OK && job->data) status = make_absolute(&job->data->validation, folder, err);
  if (status == LS_OK && ls_spec_complete_job(job, err) != LS_OK) status = ls_error_prefix(err, "%s", path);
  free(folder);
  return status;
}

ls_status ls_spec_load_job(const char *path, const char *const *settings, size_t setting_count, Lockstep__V1__Job **job,
                           struct ls_error *err) {
  *job = NULL;
  char *text;
  size_t size;
  LS_TRY(ls_file_read(path, MAX_FILE_BYTES, &text, &size, err));
  ProtobufCMessage *message = NULL;
  ls_status status =
      ls_spec_parse(text, size, path, &lockstep__v1__job__descriptor, settings, setting_count, &message, err);
  free(text);
  if (status != LS_OK) return status;
  status = finish_job((Lockstep__V1__Job *)message, path, err);
  if (status != LS_OK) {
    protobuf_c_message_free_unpacked(message, NULL);
    return status;
  }
  *job = (Lockstep__V1__Job *)message;
  return LS_OK;
}
