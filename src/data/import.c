// Importing: which kind a source is, and the writing of its parts. See import.h; the work of the threads is in
// import_work.c.
#include "data/import.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/data_internal.h"
#include "data/import_work.h"
#include "data/sampler.h"
#include "data/source.h"
#include "data/writer.h"

// In the order in which they are tried.
static const struct ls_source_kind *const kinds[] = {
    &ls_source_hdf5, &ls_source_idx, &ls_source_cifar10,  &ls_source_cifar100, &ls_source_npy,
    &ls_source_lmdb, &ls_source_tar, &ls_source_tfrecord, &ls_source_folder,   &ls_source_list,
};

enum { KINDS = sizeof kinds / sizeof *kinds };

const char *ls_import_kind(int i) { return i >= 0 && i < KINDS ? kinds[i]->what : NULL; }

static void describe_existing(const char *path, struct ls_import_result *result) {
  static const char *const groups[] = {"/train", "/validation", "/test"};
  uint64_t *const counts[] = {&result->train, &result->validation, &result->test};
  for (int i = 0; i < 3; i++) {
    char *location = NULL;
    struct ls_dataset *dataset;
    if (asprintf(&location, "%s:%s", path, groups[i]) < 0) return;
    ls_status status = ls_dataset_open(location, NULL, NULL, &dataset, NULL);
    free(location);
    if (status != LS_OK) continue;
    const struct ls_dataset_info *info = ls_dataset_info(dataset);
    *counts[i] = (uint64_t)info->count;
    result->height = info->height, result->width = info->width, result->channels = info->channels;
    if (info->classes > result->classes) result->classes = info->classes;
    ls_dataset_close(dataset);
  }
}

static ls_status check_options(const struct ls_import_options *o, struct ls_error *err) {
  if (o->resize < 0 || o->crop < 0 || o->resize > LS_MAX_SIDE || o->crop > LS_MAX_SIDE)
    return ls_fail(err, LS_INVALID, "a side of images is 1 to %d pixels", LS_MAX_SIDE);
  if (o->resize && o->crop > o->resize) {
    return ls_fail(err, LS_INVALID,
                   "--crop %" PRId64 " does not fit: --resize makes the shorter side %" PRId64 " pixels", o->crop,
                   o->resize);
  }
  if (o->encoded && (o->resize || o->crop))
    return ls_fail(err, LS_INVALID, "--encoded keeps the files as they are; it goes with neither --resize nor --crop");
  if (!(o->validation >= 0 && o->validation < 1))
    return ls_fail(err, LS_INVALID, "--validation %g: a share of the training images from 0 to below 1", o->validation);
  return LS_OK;
}

// One group of the new file: positions [first, first + count) of a part of the source, in some order.
struct output {
  const char *group;
  int part;
  int64_t first, count;
  bool permuted;
  uint64_t *written;  // in the result
};

static int plan_outputs(const struct ls_import_options *o, const struct ls_source *source,
                        struct ls_import_result *result, struct output outputs[LS_MAX_PARTS + 1]) {
  int count = 0;
  for (int p = 0; p < source->part_count; p++) {
    const struct ls_source_part *part = &source->parts[p];
    bool train = strcmp(part->group, "/train") == 0;
    int64_t kept = part->count;
    if (train && o->validation > 0) {
      kept -= (int64_t)((double)part->count * o->validation + 0.5);
      outputs[count++] = (struct output){"/validation", p, kept, part->count - kept, true, &result->validation};
    }
    uint64_t *written = train                                     ? &result->train
                        : strcmp(part->group, "/validation") == 0 ? &result->validation
                                                                  : &result->test;
    outputs[count++] = (struct output){part->group, p, 0, kept, part->sorted || kept < part->count, written};
  }
  return count;
}

static ls_status write_output(const struct ls_import_options *o, struct ls_source *source,
                              struct ls_data_writer *writer, const struct output *out, struct ls_import_result *result,
                              struct ls_error *err) {
  if (out->count < 1) return ls_fail(err, LS_INVALID, "'%s' has no image for %s", o->source, out->group);
  struct ls_import_work work = {.options = o,
                                .source = source,
                                .part = out->part,
                                .first = out->first,
                                .count = out->count,
                                .permuted = out->permuted,
                                .group_name = out->group,
                                .writer = writer};
  LS_TRY(ls_import_work(&work, err));
  *out->written = (uint64_t)work.written;
  result->skipped += (uint64_t)work.skipped;
  result->height = work.shape.height, result->width = work.shape.width, result->channels = work.shape.channels;
  if (work.largest_label + 1 > result->classes) result->classes = work.largest_label + 1;
  return LS_OK;
}

static ls_status write_all(const struct ls_import_options *o, struct ls_source *source, struct ls_data_writer *writer,
                           struct ls_import_result *result, struct ls_error *err) {
  struct output outputs[LS_MAX_PARTS + 1];
  int count = plan_outputs(o, source, result, outputs);
  for (int i = 0; i < count; i++) LS_TRY(write_output(o, source, writer, &outputs[i], result, err));
  if (o->class_names) {
    ls_source_free_classes(source);
    LS_TRY(ls_source_read_classes(source, o->class_names, err));
  }
  if (!source->class_count) return LS_OK;
  if ((int64_t)source->class_count < result->classes) {
    return ls_fail(err, LS_INVALID, "there are %zu class names, but labels up to %" PRId64, source->class_count,
                   result->classes - 1);
  }
  result->classes = (int64_t)source->class_count;
  return ls_data_writer_class_names(writer, (const char *const *)source->class_names, source->class_count, err);
}

static ls_status import_from(const struct ls_source_kind *kind, const struct ls_import_options *options,
                             struct ls_import_result *result, struct ls_error *err) {
  struct ls_source *source = NULL;
  struct ls_data_writer *writer = NULL;
  snprintf(result->kind, sizeof result->kind, "%s", kind->name);
  result->encoded = options->encoded;
  ls_status status = kind->open(options, &source, err);
  if (status == LS_OK) status = ls_data_writer_open(options->destination, &writer, err);
  if (status == LS_OK) status = write_all(options, source, writer, result, err);
  ls_status closed = ls_data_writer_close(writer, status == LS_OK, status == LS_OK ? err : NULL);
  if (source) {
    ls_source_free_classes(source);
    kind->close(source);
  }
  return status == LS_OK ? closed : status;
}

ls_status ls_import(const struct ls_import_options *options, struct ls_import_result *result, struct ls_error *err) {
  *result = (struct ls_import_result){.classes = 0};
  LS_TRY(check_options(options, err));
  if (access(options->source, R_OK) != 0) {
    char *whole = ls_path_whole(options->source);
    ls_fail(err, LS_NOT_FOUND, "there is no source '%s', or it may not be read", whole ? whole : options->source);
    free(whole);
    return LS_NOT_FOUND;
  }
  if (access(options->destination, F_OK) == 0 && !options->replace) {
    describe_existing(options->destination, result);
    result->unchanged = true;
    if (result->train + result->test) return LS_OK;
    return ls_fail(err, LS_EXISTS, "'%s' is there already and holds no data set; remove it or use --replace",
                   options->destination);
  }
  for (int i = 0; i < KINDS; i++) {
    if (kinds[i]->is(options->source)) return import_from(kinds[i], options, result, err);
  }
  struct ls_error list = LS_ERROR_INIT;
  size_t at = 0;
  for (int i = 0; i < KINDS && at < sizeof list.text; i++) {
    at += (size_t)snprintf(list.text + at, sizeof list.text - at, "%s%s", i ? "; " : "", kinds[i]->name);
  }
  return ls_fail(err, LS_UNSUPPORTED, "'%s' is nothing that can be imported; known are: %s", options->source,
                 list.text);
}
