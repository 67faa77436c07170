// Importing HDF5 files as others make them (h5py): chunked, compressed, big-endian. Every group with datasets of the given
// names (images and labels) becomes one of the new file, by its name: /train, /validation or /test.
//
// Values are read through the HDF5 library, one image at a time under a lock: it undoes whatever the file's layout is.
// What refers to other files is refused (locate.c).
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/data_internal.h"
#include "data/inspect.h"
#include "data/shards.h"

struct hdf5_part {
  char *group;
  hid_t images;
  int rank;
  hsize_t dim[4];
  bool planes;  // [N,C,H,W]
  int64_t *labels;
};

struct hdf5_source {
  struct ls_source source;
  const char *path;
  hid_t file;
  pthread_mutex_t lock;
  struct hdf5_part parts[LS_MAX_PARTS];
};

static ls_status take_images(struct hdf5_part *p, const char *path, const char *name, const struct ls_located *l,
                             struct ls_error *err) {
  if (strcmp(l->type_name, "uint8") != 0)
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' of '%s' must hold uint8 values, not %s", path, name, p->group,
                   l->type_name);
  if (l->rank != 3 && l->rank != 4) {
    return ls_fail(err, LS_INVALID,
                   "'%s': dataset '%s' of '%s' has %d axes; images are [N,height,width,channels], "
                   "[N,channels,height,width] or [N,height,width]",
                   path, name, p->group, l->rank);
  }
  p->rank = l->rank;
  for (int i = 0; i < l->rank; i++) p->dim[i] = l->dim[i];
  p->planes = l->rank == 4 && l->dim[3] > LS_MAX_CHANNELS && l->dim[1] <= LS_MAX_CHANNELS;
  int64_t channels = l->rank == 3 ? 1 : (int64_t)l->dim[p->planes ? 1 : 3];
  int64_t height = (int64_t)l->dim[p->planes ? 2 : 1], width = (int64_t)l->dim[p->planes ? 3 : 2];
  if (l->dim[0] >= 1 && ls_image_size_good(height, width, channels)) return LS_OK;
  return ls_fail(err, LS_INVALID,
                 "'%s': dataset '%s' of '%s' has %" PRIu64 " images of %" PRId64 "x%" PRId64 "x%" PRId64
                 "; allowed are at least one image of " LS_IMAGE_SIZES,
                 path, name, p->group, (uint64_t)l->dim[0], height, width, channels);
}

static ls_status take_labels(struct hdf5_part *p, hid_t group, const char *path, const char *name,
                             const struct ls_located *l, struct ls_error *err) {
  uint64_t a_sample = 1;
  for (int i = 1; i < l->rank; i++) a_sample *= l->dim[i];
  if (l->type_class != H5T_INTEGER || a_sample != 1)
    return ls_fail(err, LS_INVALID, "'%s': dataset '%s' of '%s' must hold one whole number a sample", path, name,
                   p->group);
  if (l->dim[0] != p->dim[0]) {
    return ls_fail(err, LS_INVALID, "'%s': %" PRIu64 " images in '%s', but %" PRIu64 " labels in '%s'", path,
                   (uint64_t)p->dim[0], p->group, (uint64_t)l->dim[0], name);
  }
  p->labels = malloc((size_t)l->dim[0] * sizeof *p->labels);
  if (!p->labels) return ls_fail(err, LS_NO_MEMORY, "no memory for the labels of '%s'", path);
  hid_t id = H5Dopen2(group, name, H5P_DEFAULT);
  herr_t failed = id >= 0 ? H5Dread(id, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, p->labels) : -1;
  if (id >= 0) H5Dclose(id);
  return failed < 0 ? ls_fail(err, LS_CORRUPT, "'%s': dataset '%s' of '%s' cannot be read", path, name, p->group)
                    : LS_OK;
}

static ls_status open_part(struct hdf5_source *s, const char *group_name, const char *images, const char *labels,
                           uint64_t file_bytes, struct ls_error *err) {
  int before = s->source.part_count, part = ls_source_part_of(&s->source, group_name);
  struct hdf5_part *p = &s->parts[part];
  if (part < before) {
    return ls_fail(err, LS_INVALID, "'%s': groups '%s' and '%s' would both become '%s'", s->path, p->group, group_name,
                   s->source.parts[part].group);
  }
  p->images = -1;
  p->group = strdup(group_name);
  if (!p->group) return ls_fail(err, LS_NO_MEMORY, "no memory for a name");
  hid_t group;
  LS_TRY(ls_hdf5_open_group(s->file, s->path, group_name, &group, err));
  struct ls_located l;
  ls_status status = ls_locate(group, s->path, group_name, images, file_bytes, &l, err);
  if (status == LS_OK) status = take_images(p, s->path, images, &l, err);
  if (status == LS_OK) p->images = H5Dopen2(group, images, H5P_DEFAULT);
  if (status == LS_OK) status = ls_locate(group, s->path, group_name, labels, file_bytes, &l, err);
  if (status == LS_OK) status = take_labels(p, group, s->path, labels, &l, err);
  if (status == LS_OK && !s->source.class_count) {
    size_t count;
    char **names = ls_hdf5_class_names(s->file, group, &count);
    for (size_t i = 0; i < count; i++) {
      if (status == LS_OK) status = ls_source_add_class(&s->source, names[i], err);
      free(names[i]);
    }
    free(names);
  }
  H5Gclose(group);
  s->source.parts[part].count = (int64_t)p->dim[0];
  return status;
}

static bool has_dataset(const struct ls_inspected_group *group, const char *name) {
  for (size_t i = 0; i < group->dataset_count; i++) {
    if (strcmp(group->datasets[i].name, name) == 0) return true;
  }
  return false;
}

static ls_status open_groups(struct hdf5_source *s, const struct ls_inspection *inspection, const char *images,
                             const char *labels, uint64_t file_bytes, struct ls_error *err) {
  for (size_t g = 0; g < inspection->group_count; g++) {
    const struct ls_inspected_group *group = &inspection->groups[g];
    if (has_dataset(group, images) && has_dataset(group, labels))
      LS_TRY(open_part(s, group->name, images, labels, file_bytes, err));
  }
  if (s->source.part_count) return LS_OK;
  return ls_fail(
      err, LS_NOT_FOUND,
      "'%s' has no group with datasets '%s' and '%s'; name them with --images and --labels, see: lockstep data "
      "inspect '%s'",
      s->path, images, labels, s->path);
}

static ls_status open_source(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct hdf5_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = &ls_source_hdf5;
  s->path = o->source;
  s->file = -1;
  pthread_mutex_init(&s->lock, NULL);
  uint64_t file_bytes;
  struct ls_inspection *inspection;
  LS_TRY(ls_hdf5_open(o->source, &s->file, NULL, &file_bytes, err));
  LS_TRY(ls_inspect(o->source, NULL, &inspection, err));
  ls_status status =
      open_groups(s, inspection, o->images ? o->images : "images", o->labels ? o->labels : "labels", file_bytes, err);
  ls_inspection_free(inspection);
  return status;
}

static herr_t read_image(const struct hdf5_part *p, int64_t index, uint8_t *to) {
  hsize_t start[4] = {(hsize_t)index}, count[4] = {1, p->dim[1], p->dim[2], p->dim[3]};
  hid_t file_space = H5Dget_space(p->images), memory = H5Screate_simple(p->rank, count, NULL);
  H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL);
  herr_t failed = H5Dread(p->images, H5T_NATIVE_UINT8, memory, file_space, H5P_DEFAULT, to);
  H5Sclose(memory);
  H5Sclose(file_space);
  return failed;
}

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  struct hdf5_source *s = (struct hdf5_source *)source;
  const struct hdf5_part *p = &s->parts[part];
  snprintf(item->name, sizeof item->name, "%.300s:%.100s, image %" PRId64, s->path, p->group, index);
  item->form = p->planes ? LS_ITEM_PLANES : LS_ITEM_ROWS;
  item->channels = p->rank == 3 ? 1 : (int64_t)p->dim[p->planes ? 1 : 3];
  item->height = (int64_t)p->dim[p->planes ? 2 : 1];
  item->width = (int64_t)p->dim[p->planes ? 3 : 2];
  item->label = p->labels[index];
  LS_TRY(ls_item_need(item, (size_t)(item->height * item->width * item->channels), err));
  pthread_mutex_lock(&s->lock);
  ls_hdf5_quiet();  // what is said about errors is said a thread
  herr_t failed = read_image(p, index, item->memory);
  pthread_mutex_unlock(&s->lock);
  if (failed >= 0) return LS_OK;
  return ls_fail(err, LS_CORRUPT, "'%s' cannot be read: it is damaged, or compressed in a way that is not known here",
                 item->name);
}

static void close_source(struct ls_source *source) {
  struct hdf5_source *s = (struct hdf5_source *)source;
  for (int i = 0; i < s->source.part_count; i++) {
    if (s->parts[i].group && s->parts[i].images >= 0) H5Dclose(s->parts[i].images);
    free(s->parts[i].labels);
    free(s->parts[i].group);
  }
  if (s->file >= 0) H5Fclose(s->file);
  pthread_mutex_destroy(&s->lock);
  free(s);
}

static bool is(const char *path) {
  static const uint8_t magic[] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  FILE *file = fopen(path, "re");
  bool found = false;
  // The signature stands at byte 0, or behind a user block of 512, 1024, ... bytes.
  for (long at = 0; file && !found && at <= 65536; at = at ? 2 * at : 512) {
    uint8_t head[8];
    found = fseek(file, at, SEEK_SET) == 0 && fread(head, 1, 8, file) == 8 && memcmp(head, magic, 8) == 0;
  }
  if (file) fclose(file);
  return found;
}

const struct ls_source_kind ls_source_hdf5 = {
    .name = "HDF5",
    .what = "an HDF5 file with images and labels, as h5py makes them",
    .is = is,
    .open = open_source,
    .fetch = fetch,
    .close = close_source,
};
