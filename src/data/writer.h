// Writing a data set file: groups of `images` and `labels`, contiguous and 4096-aligned, with mean and deviation as
// attributes. The file stands under a temporary name until it is whole. One thread.
#ifndef LS_DATA_WRITER_H
#define LS_DATA_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ls_data_writer;
struct ls_data_group;
struct ls_import_options;
struct ls_import_result;

struct ls_data_shape {
  int64_t count, height, width, channels;
};

ls_status ls_data_writer_open(const char *path, struct ls_data_writer **writer, struct ls_error *err);
ls_status ls_data_writer_group(struct ls_data_writer *writer, const char *name, const struct ls_data_shape *shape,
                               struct ls_data_group **group, struct ls_error *err);
// Image `index`: pixels [height, width, channels].
ls_status ls_data_group_put(struct ls_data_group *group, int64_t index, const uint8_t *pixels, int64_t label,
                            struct ls_error *err);
// Writes what is left and the statistics, and frees the group.
ls_status ls_data_group_finish(struct ls_data_group *group, struct ls_error *err);
ls_status ls_data_writer_class_names(struct ls_data_writer *writer, const char *const *names, size_t count,
                                     struct ls_error *err);
// `keep`: the file gets its name, durably; else it is removed. Frees the writer.
ls_status ls_data_writer_close(struct ls_data_writer *writer, bool keep, struct ls_error *err);

// Importers: whether `source` is of their kind, and the import itself.
bool ls_import_is_idx(const char *source);
ls_status ls_import_idx(const struct ls_import_options *options, struct ls_data_writer *writer,
                        struct ls_import_result *result, struct ls_error *err);

#endif
