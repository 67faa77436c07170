// Importing JPEG and PNG files that lie around as files: a folder with one folder a class (as torchvision's ImageFolder;
// also with train/, val/ and test/ above), or a text file of lines "PATH LABEL" (as Caffe's).
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "data/source.h"

enum { MAX_DEPTH = 8 };

struct entry {
  char *path;
  int32_t label;
};

struct entries {
  struct entry *all;
  int64_t count, capacity;
};

struct files_source {
  struct ls_source source;
  struct entries parts[LS_MAX_PARTS];
};

static ls_status add_entry(struct files_source *s, int part, char *path, int64_t label, struct ls_error *err) {
  struct entries *e = &s->parts[part];
  if (path && e->count == e->capacity) {
    int64_t capacity = e->capacity ? 2 * e->capacity : 1024;
    struct entry *all = realloc(e->all, (size_t)capacity * sizeof *all);
    if (all) e->all = all, e->capacity = capacity;
  }
  if (!path || e->count == e->capacity) {
    free(path);
    return ls_fail(err, LS_NO_MEMORY, "no memory for the list of images");
  }
  e->all[e->count++] = (struct entry){path, (int32_t)label};
  s->source.parts[part].count = e->count;
  return LS_OK;
}

static bool is_image_name(const char *name) {
  static const char *const endings[] = {".jpg", ".jpeg", ".png", ".jpe"};
  const char *dot = strrchr(name, '.');
  for (int i = 0; dot && i < 4; i++) {
    if (strcasecmp(dot, endings[i]) == 0) return true;
  }
  return false;
}

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

// ---- folder of folders

// Images of a class, also in folders below, sorted by name so that the order is the same everywhere.
static ls_status scan_class(struct files_source *s, int part, const char *folder, int64_t label, int depth,
                            struct ls_error *err) {
  struct dirent **names;
  int count = scandir(folder, &names, ls_source_visible, ls_source_by_name);
  if (count < 0) return ls_fail_errno(err, errno, "cannot read folder '%s'", folder);
  ls_status status = LS_OK;
  for (int i = 0; i < count; i++) {
    if (status == LS_OK) {
      char *path = ls_path_join(folder, names[i]->d_name);
      if (path && is_image_name(names[i]->d_name)) {
        status = add_entry(s, part, path, label, err);
        path = NULL;
      } else if (path && depth < MAX_DEPTH && is_folder(path)) {
        status = scan_class(s, part, path, label, depth + 1, err);
      }
      free(path);
    }
    free(names[i]);
  }
  free(names);
  return status;
}

static int64_t class_of(const struct ls_source *source, const char *name) {
  for (size_t i = 0; i < source->class_count; i++) {
    if (strcmp(source->class_names[i], name) == 0) return (int64_t)i;
  }
  return -1;
}

// The folders of one part are its classes. The first part (/train) names them, the others must agree.
static ls_status scan_part(struct files_source *s, int part, const char *folder, struct ls_error *err) {
  struct dirent **names;
  int count = scandir(folder, &names, ls_source_visible, ls_source_by_name);
  if (count < 0) return ls_fail_errno(err, errno, "cannot read folder '%s'", folder);
  ls_status status = LS_OK;
  for (int i = 0; i < count; i++) {
    char *path = status == LS_OK ? ls_path_join(folder, names[i]->d_name) : NULL;
    if (path && is_folder(path)) {
      if (part == 0) status = ls_source_add_class(&s->source, names[i]->d_name, err);
      int64_t label = part == 0 ? (int64_t)s->source.class_count - 1 : class_of(&s->source, names[i]->d_name);
      if (status == LS_OK && label < 0)
        status = ls_fail(err, LS_INVALID, "'%s' is a class that the training images do not have", path);
      if (status == LS_OK) status = scan_class(s, part, path, label, 0, err);
    }
    free(path);
    free(names[i]);
  }
  free(names);
  if (status == LS_OK && s->parts[part].count == 0)
    return ls_fail(err, LS_INVALID, "'%s' has no JPEG or PNG files in folders named after their classes", folder);
  return status;
}

// Upper limit of the bytes, for --encoded.
static void sum_sizes(struct files_source *s) {
  for (int p = 0; p < s->source.part_count; p++) {
    for (int64_t i = 0; i < s->parts[p].count; i++) {
      struct stat info;
      if (stat(s->parts[p].all[i].path, &info) == 0) s->source.parts[p].encoded_bytes += (uint64_t)info.st_size;
    }
  }
}

static const char *const part_folders[][2] = {
    {"train", "/train"},      {"val", "/validation"}, {"validation", "/validation"},
    {"valid", "/validation"}, {"test", "/test"},
};

static ls_status open_folder(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct files_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = &ls_source_folder;
  char *train = ls_path_join(o->source, "train");
  bool split = train && is_folder(train);
  free(train);
  ls_status status = LS_OK;
  for (size_t i = 0; split && status == LS_OK && i < sizeof part_folders / sizeof *part_folders; i++) {
    char *path = ls_path_join(o->source, part_folders[i][0]);
    bool again =
        s->source.part_count && strcmp(s->source.parts[s->source.part_count - 1].group, part_folders[i][1]) == 0;
    if (path && is_folder(path) && !again) {
      s->source.parts[s->source.part_count] = (struct ls_source_part){.group = part_folders[i][1], .sorted = true};
      status = scan_part(s, s->source.part_count++, path, err);
    }
    free(path);
  }
  if (!split) {
    s->source.part_count = 1;
    s->source.parts[0] = (struct ls_source_part){.group = "/train", .sorted = true};
    status = scan_part(s, 0, o->source, err);
  }
  if (status == LS_OK && o->encoded) sum_sizes(s);
  return status;
}

// A folder is one of images when some folder in it (or in its train/) has an image.
static bool has_class(const char *path) {
  struct dirent **names;
  int count = scandir(path, &names, ls_source_visible, ls_source_by_name);
  bool found = false;
  for (int i = 0; i < count; i++) {
    char *below = found ? NULL : ls_path_join(path, names[i]->d_name);
    DIR *folder = below && is_folder(below) ? opendir(below) : NULL;
    for (struct dirent *entry; folder && !found && (entry = readdir(folder));) found = is_image_name(entry->d_name);
    if (folder) closedir(folder);
    free(below);
    free(names[i]);
  }
  if (count >= 0) free(names);
  return found;
}

static bool is_image_folder(const char *path) {
  char *train = ls_path_join(path, "train");
  bool found = has_class(path) || (train && has_class(train));
  free(train);
  return found;
}

// ---- list file

static ls_status parse_line(struct files_source *s, const char *list, const char *folder, int64_t number, char *line,
                            struct ls_error *err) {
  char *end = line + strlen(line);
  while (end > line && isspace((unsigned char)end[-1])) *--end = 0;
  if (!*line) return LS_OK;
  // The label is the last word: paths may hold spaces.
  char *space = end;
  while (space > line && !isspace((unsigned char)space[-1])) space--;
  char *rest;
  errno = 0;
  long long label = strtoll(space, &rest, 10);
  if (space == line || *rest || rest == space || errno || label < 0 || label > INT32_MAX - 1) {
    return ls_fail(err, LS_INVALID, "'%s', line %" PRId64 ": a path and a label from 0 on are needed, not '%.80s'",
                   list, number, line);
  }
  while (space > line && isspace((unsigned char)space[-1])) *--space = 0;
  return add_entry(s, 0, folder ? ls_path_join(folder, line) : strdup(line), label, err);
}

static ls_status open_list(const struct ls_import_options *o, struct ls_source **source, struct ls_error *err) {
  struct files_source *s = calloc(1, sizeof *s);
  if (!s) return ls_fail(err, LS_NO_MEMORY, "no memory for a source");
  *source = &s->source;
  s->source.kind = &ls_source_list;
  s->source.part_count = 1;
  s->source.parts[0].group = "/train";
  FILE *file = fopen(o->source, "re");
  if (!file) return ls_fail_errno(err, errno, "cannot open '%s'", o->source);
  const char *slash = strrchr(o->source, '/');
  char *folder = slash ? strndup(o->source, (size_t)(slash - o->source + 1)) : NULL;
  char *line = NULL;
  size_t size = 0;
  ls_status status = slash && !folder ? ls_fail(err, LS_NO_MEMORY, "no memory for a path") : LS_OK;
  for (int64_t number = 1; status == LS_OK && getline(&line, &size, file) >= 0; number++)
    status = parse_line(s, o->source, folder, number, line, err);
  free(line);
  free(folder);
  fclose(file);
  if (status == LS_OK && s->parts[0].count == 0) return ls_fail(err, LS_INVALID, "'%s' lists no image", o->source);
  if (status == LS_OK && o->encoded) sum_sizes(s);
  return status;
}

// An ordinary file whose first line ends with a space and a number, and whose path before it looks like an image's.
static bool is_list(const char *path) {
  struct stat info;
  if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
  FILE *file = fopen(path, "re");
  char line[4200] = "";
  bool text = file && fgets(line, sizeof line, file);
  if (file) fclose(file);
  char *end = line + strlen(line);
  while (end > line && isspace((unsigned char)end[-1])) *--end = 0;
  char *space = strrchr(line, ' ');
  char *tab = strrchr(line, '\t');
  if (tab > space) space = tab;
  if (!text || !space) return false;
  while (space > line && isspace((unsigned char)space[-1])) space--;
  *space = 0;
  return is_image_name(line);
}

// ---- both

static ls_status fetch(struct ls_source *source, int part, int64_t index, struct ls_item *item, struct ls_error *err) {
  const struct entry *e = &((struct files_source *)source)->parts[part].all[index];
  struct stat info;
  snprintf(item->name, sizeof item->name, "%s", e->path);
  int fd = open(e->path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
    return ls_fail(err, LS_NOT_FOUND, "there is no image '%s'", e->path);
  if (fd < 0 || fstat(fd, &info) != 0) {
    ls_status status = ls_fail_errno(err, errno, "cannot open '%s'", e->path);
    if (fd >= 0) close(fd);
    return status;
  }
  enum { LIMIT = 1 << 30 };
  ls_status status = S_ISREG(info.st_mode) && info.st_size <= LIMIT
                         ? ls_item_read(item, fd, 0, (size_t)info.st_size, e->path, err)
                         : ls_fail(err, LS_CORRUPT, "'%s' is no ordinary file of at most 1 GiB", e->path);
  close(fd);
  item->form = LS_ITEM_ENCODED;
  item->label = e->label;
  return status;
}

static void close_source(struct ls_source *source) {
  struct files_source *s = (struct files_source *)source;
  for (int p = 0; p < LS_MAX_PARTS; p++) {
    for (int64_t i = 0; i < s->parts[p].count; i++) free(s->parts[p].all[i].path);
    free(s->parts[p].all);
  }
  free(s);
}

const struct ls_source_kind ls_source_folder = {
    .name = "image folder",
    .what = "a folder with one folder of JPEG and PNG files a class; or with train/, val/ and test/ of that form",
    .is = is_image_folder,
    .open = open_folder,
    .fetch = fetch,
    .close = close_source,
};

const struct ls_source_kind ls_source_list = {
    .name = "image list",
    .what = "a text file with lines of the form PATH LABEL (paths of JPEG and PNG files, beside the text file)",
    .is = is_list,
    .open = open_list,
    .fetch = fetch,
    .close = close_source,
};
