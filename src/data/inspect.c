// Walks over the groups of a file, never into another one. See inspect.h.
#include "data/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/data_internal.h"

enum { MAX_DEPTH = 16, MAX_GROUPS = 10000, MAX_DATASETS = 100000, MAX_CLASSES_SHOWN = 1 << 20 };

struct walk {
  struct ls_inspection *result;
  const char *path;
  size_t datasets;
  ls_status status;
  struct ls_error *err;
};

static void name_shape(const hsize_t *dim, int rank, char *text, size_t size) {
  size_t at = 0;
  text[0] = 0;
  for (int i = 0; i < rank && at < size; i++) {
    at += (size_t)snprintf(text + at, size - at, "%s%" PRIu64, i ? "x" : "", (uint64_t)dim[i]);
  }
  if (rank == 0) snprintf(text, size, "scalar");
}

static void name_storage(hid_t id, int rank, char *text, size_t size) {
  hid_t plist = H5Dget_create_plist(id);
  switch (H5Pget_layout(plist)) {
    case H5D_CONTIGUOUS:
      snprintf(text, size, "%s", H5Pget_external_count(plist) > 0 ? "external (other files)" : "contiguous");
      break;
    case H5D_COMPACT: snprintf(text, size, "compact"); break;
    case H5D_VIRTUAL: snprintf(text, size, "virtual"); break;
    case H5D_CHUNKED: {
      hsize_t chunk[H5S_MAX_RANK];
      char shape[40];
      H5Pget_chunk(plist, rank, chunk);
      name_shape(chunk, rank, shape, sizeof shape);
      size_t at = (size_t)snprintf(text, size, "chunked %s", shape);
      for (int i = 0; i < H5Pget_nfilters(plist) && at < size; i++) {
        char name[32] = "";
        size_t values = 0;
        H5Pget_filter2(plist, (unsigned)i, NULL, &values, NULL, sizeof name, name, NULL);
        name[sizeof name - 1] = 0;
        at += (size_t)snprintf(text + at, size - at, ", %s", name);
      }
      break;
    }
    default: snprintf(text, size, "unknown"); break;
  }
  H5Pclose(plist);
}

static void add_dataset(struct walk *walk, struct ls_inspected_group *group, const char *name, hid_t id) {
  struct ls_inspected_dataset *all = realloc(group->datasets, (group->dataset_count + 1) * sizeof *group->datasets);
  char *copy = strdup(name);
  if (all) group->datasets = all;
  if (!all || !copy) {
    free(copy);
    walk->status = ls_fail(walk->err, LS_NO_MEMORY, "no memory to inspect '%s'", walk->path);
    return;
  }
  struct ls_inspected_dataset *d = &all[group->dataset_count++];
  *d = (struct ls_inspected_dataset){.name = copy};
  walk->datasets++;
  if (id < 0) {
    strcpy(d->storage, "link to another file");
    return;
  }
  hsize_t dim[H5S_MAX_RANK];
  hid_t space = H5Dget_space(id);
  int rank = H5Sget_simple_extent_dims(space, dim, NULL);
  H5Sclose(space);
  hid_t type = H5Dget_type(id);
  ls_hdf5_type_name(type, d->type, sizeof d->type);
  H5Tclose(type);
  name_shape(dim, rank, d->shape, sizeof d->shape);
  name_storage(id, rank, d->storage, sizeof d->storage);
  d->bytes = H5Dget_storage_size(id);
}

// Members of one group: datasets are noted, the names of groups collected for later.
struct members {
  struct walk *walk;
  size_t group;  // index; the array moves when it grows
  char **below;
  size_t below_count;
};

static herr_t visit(hid_t where, const char *name, const H5L_info_t *link, void *user) {
  struct members *m = user;
  struct walk *walk = m->walk;
  if (walk->datasets >= MAX_DATASETS) return 1;
  if (link->type == H5L_TYPE_EXTERNAL) {
    add_dataset(walk, &walk->result->groups[m->group], name, -1);
  } else if (link->type == H5L_TYPE_HARD || link->type == H5L_TYPE_SOFT) {
    hid_t id = H5Oopen(where, name, H5P_DEFAULT);
    if (id < 0) return 0;
    H5I_type_t type = H5Iget_type(id);
    if (type == H5I_DATASET) {
      add_dataset(walk, &walk->result->groups[m->group], name, id);
    } else if (type == H5I_GROUP && link->type == H5L_TYPE_HARD) {
      char **all = realloc(m->below, (m->below_count + 1) * sizeof *m->below);
      if (all && (m->below = all, all[m->below_count] = strdup(name))) m->below_count++;
    }
    H5Oclose(id);
  }
  return walk->status != LS_OK;
}

static void take_usable(struct walk *walk, struct ls_inspected_group *group) {
  struct ls_error why = LS_ERROR_INIT;
  struct ls_dataset *dataset = NULL;
  char *location;
  if (asprintf(&location, "%s:%s", walk->path, group->name) < 0) return;
  ls_status status = ls_dataset_open(location, NULL, NULL, &dataset, &why);
  free(location);
  if (status != LS_OK) {
    group->reason = strdup(why.text);
    return;
  }
  group->usable = true;
  group->info = *ls_dataset_info(dataset);
  group->info.path = group->info.group = NULL;
  if (group->info.classes > MAX_CLASSES_SHOWN) group->info.classes = 0;
  size_t classes = (size_t)group->info.classes;
  group->histogram = calloc(classes + 1, sizeof *group->histogram);
  group->class_names = calloc(classes + 1, sizeof *group->class_names);
  for (int64_t i = 0; i < group->info.count && group->histogram && classes; i++) {
    int32_t label;
    if (ls_dataset_read_label(dataset, i, &label, NULL) == LS_OK && (size_t)label < classes) group->histogram[label]++;
  }
  for (size_t c = 0; c < classes && group->class_names; c++) {
    group->class_names[c] = strdup(ls_dataset_class_name(dataset, (int64_t)c));
  }
  ls_dataset_close(dataset);
}

// The group at `name` and those below it, one after another: names wait in a list, so that depth costs no stack.
static void walk_group(struct walk *walk, hid_t file, const char *name, char ***waiting, size_t *waiting_count) {
  hid_t id = H5Gopen2(file, name, H5P_DEFAULT);
  if (id < 0) return;
  struct ls_inspected_group *all =
      realloc(walk->result->groups, (walk->result->group_count + 1) * sizeof *walk->result->groups);
  char *copy = strdup(name);
  if (all) walk->result->groups = all;
  if (!all || !copy) {
    free(copy);
    walk->status = ls_fail(walk->err, LS_NO_MEMORY, "no memory to inspect '%s'", walk->path);
    H5Gclose(id);
    return;
  }
  size_t index = walk->result->group_count++;
  all[index] = (struct ls_inspected_group){.name = copy};
  struct members members = {.walk = walk, .group = index};
  hsize_t position = 0;
  H5Literate(id, H5_INDEX_NAME, H5_ITER_NATIVE, &position, visit, &members);
  H5Gclose(id);
  struct ls_inspected_group *group = &walk->result->groups[index];
  if (group->dataset_count) {
    take_usable(walk, group);
  } else {
    free(group->name);
    walk->result->group_count--;
  }
  int depth = 0;
  for (const char *c = name; *c; c++) depth += *c == '/';
  for (size_t i = 0; i < members.below_count; i++) {
    char *path = NULL;
    if (depth < MAX_DEPTH && *waiting_count < MAX_GROUPS &&
        asprintf(&path, "%s/%s", strcmp(name, "/") == 0 ? "" : name, members.below[i]) >= 0) {
      char **more = realloc(*waiting, (*waiting_count + 1) * sizeof **waiting);
      if (more) {
        *waiting = more;
        more[(*waiting_count)++] = path;
      } else {
        free(path);
      }
    }
    free(members.below[i]);
  }
  free(members.below);
}

ls_status ls_inspect(const char *path, const char *group, struct ls_inspection **inspection, struct ls_error *err) {
  *inspection = NULL;
  hid_t file;
  uint64_t file_bytes;
  LS_TRY(ls_hdf5_open(path, &file, NULL, &file_bytes, err));
  struct ls_inspection *result = calloc(1, sizeof *result);
  char **waiting = calloc(1, sizeof *waiting);
  size_t count = 0;
  struct walk walk = {.result = result, .path = path, .status = LS_OK, .err = err};
  if (!result || !waiting || !(waiting[count++] = strdup(group ? group : "/")))
    walk.status = ls_fail(err, LS_NO_MEMORY, "no memory to inspect '%s'", path);
  if (group && walk.status == LS_OK && H5Oexists_by_name(file, group, H5P_DEFAULT) <= 0)
    walk.status = ls_fail(err, LS_NOT_FOUND, "'%s' has no group '%s'", path, group);
  if (result) result->file_bytes = file_bytes;
  for (size_t i = 0; i < count && walk.status == LS_OK; i++) walk_group(&walk, file, waiting[i], &waiting, &count);
  for (size_t i = 0; i < count; i++) free(waiting[i]);
  free(waiting);
  H5Fclose(file);
  if (walk.status != LS_OK) {
    ls_inspection_free(result);
    return walk.status;
  }
  *inspection = result;
  return LS_OK;
}

void ls_inspection_free(struct ls_inspection *inspection) {
  if (!inspection) return;
  for (size_t g = 0; g < inspection->group_count; g++) {
    struct ls_inspected_group *group = &inspection->groups[g];
    for (size_t i = 0; i < group->dataset_count; i++) free(group->datasets[i].name);
    for (int64_t c = 0; group->class_names && c < group->info.classes; c++) free(group->class_names[c]);
    free(group->datasets);
    free(group->class_names);
    free(group->histogram);
    free(group->name);
    free(group->reason);
  }
  free(inspection->groups);
  free(inspection);
}
