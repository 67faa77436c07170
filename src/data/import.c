// Importing: which importer a source is for. See import.h. To add one: a file import_KIND.c with its two functions,
// declared in writer.h, and a line in the table below.
#include "data/import.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/data_internal.h"
#include "data/writer.h"

static const struct {
  const char *kind;
  bool (*is)(const char *source);
  ls_status (*run)(const struct ls_import_options *options, struct ls_data_writer *writer,
                   struct ls_import_result *result, struct ls_error *err);
} importers[] = {
    {"a folder of IDX files (train-images-idx3-ubyte[.gz], ...)", ls_import_is_idx, ls_import_idx},
};

static void describe_existing(const char *path, struct ls_import_result *result) {
  static const char *const groups[] = {"/train", "/test"};
  for (int i = 0; i < 2; i++) {
    char location[4200];
    struct ls_dataset *dataset;
    strncpy(location, path, sizeof location - 16);
    location[sizeof location - 16] = 0;
    strcat(strcat(location, ":"), groups[i]);
    if (ls_dataset_open(location, NULL, NULL, &dataset, NULL) != LS_OK) continue;
    const struct ls_dataset_info *info = ls_dataset_info(dataset);
    *(i ? &result->test : &result->train) = (uint64_t)info->count;
    result->height = info->height, result->width = info->width, result->channels = info->channels;
    if (info->classes > result->classes) result->classes = info->classes;
    ls_dataset_close(dataset);
  }
}

ls_status ls_import(const struct ls_import_options *options, struct ls_import_result *result, struct ls_error *err) {
  *result = (struct ls_import_result){.classes = 0};
  if (access(options->source, R_OK) != 0)
    return ls_fail(err, LS_NOT_FOUND, "there is no source '%s', or it may not be read", options->source);
  if (access(options->destination, F_OK) == 0 && !options->replace) {
    describe_existing(options->destination, result);
    result->unchanged = true;
    if (result->train) return LS_OK;
    return ls_fail(err, LS_EXISTS, "'%s' is there already and holds no data set; remove it or use --replace",
                   options->destination);
  }
  for (size_t i = 0; i < sizeof importers / sizeof *importers; i++) {
    if (!importers[i].is(options->source)) continue;
    struct ls_data_writer *writer;
    LS_TRY(ls_data_writer_open(options->destination, &writer, err));
    ls_status status = importers[i].run(options, writer, result, err);
    ls_status closed = ls_data_writer_close(writer, status == LS_OK, err);
    return status == LS_OK ? closed : status;
  }
  return ls_fail(err, LS_UNSUPPORTED, "'%s' is nothing that can be imported; known: %s", options->source,
                 importers[0].kind);
}
