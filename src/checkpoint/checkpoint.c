// Checkpoints: see checkpoint.h.
#include "checkpoint/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/file.h"
#include "data/locate.h"
#include "spec/spec.h"

enum { USER_BLOCK_BYTES = 512, FORMAT_VERSION = 1, DIGEST_AT = 12 };

static const char magic[8] = {'L', 'O', 'C', 'K', 'S', 'T', 'E', 'P'};

ls_status ls_snapshot_new(const struct ls_graph *graph, struct ls_snapshot **result, struct ls_error *err) {
  *result = NULL;
  int count = ls_graph_parameter_count(graph);
  struct ls_snapshot *s = calloc(1, sizeof *s);
  if (s) {
    s->graph = graph;
    s->last_accuracy = NAN;
    s->parameters = calloc((size_t)count + 1, sizeof(float *));
    s->momentum = calloc((size_t)count + 1, sizeof(float *));
  }
  bool good = s && s->parameters && s->momentum;
  for (int i = 0; i < count && good; i++) {
    const struct ls_parameter *p = ls_graph_parameter(graph, i);
    size_t n = (size_t)ls_shape_elements(&p->shape);
    s->parameters[i] = calloc(n, sizeof(float));
    if (p->learned) s->momentum[i] = calloc(n, sizeof(float));
    good = s->parameters[i] && (!p->learned || s->momentum[i]);
  }
  if (!good) {
    ls_snapshot_free(s);
    return ls_fail(err, LS_NO_MEMORY, "no memory for a checkpoint's copy of the parameters");
  }
  ls_schedule_begin(&s->schedule);
  *result = s;
  return LS_OK;
}

void ls_snapshot_free(struct ls_snapshot *s) {
  if (!s) return;
  for (int i = 0; i < ls_graph_parameter_count(s->graph); i++) {
    if (s->parameters) free(s->parameters[i]);
    if (s->momentum) free(s->momentum[i]);
  }
  free(s->parameters);
  free(s->momentum);
  free(s);
}

ls_status ls_snapshot_sha256(const struct ls_snapshot *s, char hex[65], struct ls_error *err) {
  struct ls_sha256 *sha = ls_sha256_new();
  if (!sha) return ls_fail(err, LS_NO_MEMORY, "no memory for a digest");
  for (int i = 0; i < ls_graph_parameter_count(s->graph); i++) {
    ls_sha256_update(sha, s->parameters[i],
                     (size_t)ls_shape_elements(&ls_graph_parameter(s->graph, i)->shape) * sizeof(float));
  }
  ls_sha256_finish(sha, hex);
  return LS_OK;
}

ls_status ls_snapshot_check(const struct ls_snapshot *s, struct ls_error *err) {
  for (int i = 0; i < ls_graph_parameter_count(s->graph); i++) {
    const struct ls_parameter *p = ls_graph_parameter(s->graph, i);
    for (int64_t j = 0; j < ls_shape_elements(&p->shape); j++) {
      float value = s->parameters[i][j];
      if (isfinite(value)) continue;
      return ls_fail(err, LS_DIVERGED,
                     "parameter '%s' has become %s by step %" PRIu64
                     "; a lower learning rate, or a longer warm-up, usually helps",
                     p->name, isnan(value) ? "NaN" : "infinite", s->step);
    }
  }
  return LS_OK;
}

// --- writing ------------------------------------------------------------------------------------------------------------

static bool write_floats(hid_t group, const struct ls_parameter *p, const float *values) {
  hsize_t dim[LS_MAX_RANK];
  for (int i = 0; i < p->shape.rank; i++) dim[i] = (hsize_t)p->shape.dim[i];
  hid_t space = H5Screate_simple(p->shape.rank, dim, NULL);
  hid_t id = H5Dcreate2(group, p->name, H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  bool good = id >= 0 && H5Dwrite(id, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  if (id >= 0) H5Dclose(id);
  H5Sclose(space);
  return good;
}

static bool write_number(hid_t file, const char *name, hid_t file_type, hid_t memory_type, const void *value) {
  hid_t space = H5Screate(H5S_SCALAR), id = H5Acreate2(file, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
  bool good = id >= 0 && H5Awrite(id, memory_type, value) >= 0;
  if (id >= 0) H5Aclose(id);
  H5Sclose(space);
  return good;
}

static bool write_text(hid_t file, const char *name, const char *text) {
  hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
  H5Tset_size(type, strlen(text) + 1);
  hid_t id = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  bool good = id >= 0 && H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0;
  if (id >= 0) H5Dclose(id);
  H5Sclose(space);
  H5Tclose(type);
  return good;
}

// State that is one number each; the same table writes and reads.
struct number_field {
  const char *name;
  bool whole;
  size_t offset;
  bool may_lack;  // older checkpoints do
};
static const struct number_field numbers[] = {
    {"step", true, offsetof(struct ls_snapshot, step), false},
    {"seed", true, offsetof(struct ls_snapshot, seed), false},
    {"epoch", false, offsetof(struct ls_snapshot, epoch), false},
    {"schedule_factor", false, offsetof(struct ls_snapshot, schedule.factor), false},
    {"schedule_best", false, offsetof(struct ls_snapshot, schedule.best), false},
    {"schedule_epoch_loss", false, offsetof(struct ls_snapshot, schedule.epoch_loss), false},
    {"schedule_epoch_images", false, offsetof(struct ls_snapshot, schedule.epoch_images), false},
    {"last_accuracy", false, offsetof(struct ls_snapshot, last_accuracy), false},
    {"loss_scale", false, offsetof(struct ls_snapshot, loss_scale.scale), true},
    {"loss_scale_good_steps", true, offsetof(struct ls_snapshot, loss_scale.good_steps), true},
    {"loss_scale_skipped", true, offsetof(struct ls_snapshot, loss_scale.skipped), true},
};

static bool write_contents(hid_t file, const struct ls_snapshot *s, const char *job_json) {
  hid_t parameters = H5Gcreate2(file, "parameters", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  hid_t momentum = H5Gcreate2(file, "momentum", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  bool good = parameters >= 0 && momentum >= 0 && write_text(file, "job", job_json);
  for (int i = 0; i < ls_graph_parameter_count(s->graph) && good; i++) {
    const struct ls_parameter *p = ls_graph_parameter(s->graph, i);
    good = write_floats(parameters, p, s->parameters[i]) && (!p->learned || write_floats(momentum, p, s->momentum[i]));
  }
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers && good; i++) {
    const void *value = (const char *)s + numbers[i].offset;
    good = numbers[i].whole ? write_number(file, numbers[i].name, H5T_STD_U64LE, H5T_NATIVE_UINT64, value)
                            : write_number(file, numbers[i].name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, value);
  }
  uint64_t bad_epochs = s->schedule.bad_epochs;
  good = good && write_number(file, "schedule_bad_epochs", H5T_STD_U64LE, H5T_NATIVE_UINT64, &bad_epochs);
  char sha[65];
  good = good && ls_snapshot_sha256(s, sha, NULL) == LS_OK;
  if (good) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, sizeof sha);
    good = write_number(file, "parameters_sha256", type, type, sha);
    H5Tclose(type);
  }
  if (parameters >= 0) H5Gclose(parameters);
  if (momentum >= 0) H5Gclose(momentum);
  return good;
}

// Digest of a file from the end of the user block on. The file is mapped: nobody writes it meanwhile.
static ls_status digest_of(int fd, const char *path, struct ls_digest128 *digest, uint64_t *bytes,
                           struct ls_error *err) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ls_fail_errno(err, errno, "cannot look at '%s'", path);
  if (info.st_size <= USER_BLOCK_BYTES) return ls_fail(err, LS_CORRUPT, "checkpoint '%s' is cut short", path);
  void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) return ls_fail_errno(err, errno, "cannot map '%s'", path);
  *digest = ls_xxh3_128((const char *)map + USER_BLOCK_BYTES, (size_t)info.st_size - USER_BLOCK_BYTES);
  munmap(map, (size_t)info.st_size);
  *bytes = (uint64_t)info.st_size;
  return LS_OK;
}

static ls_status seal(const char *temporary, uint64_t *bytes, struct ls_error *err) {
  int fd = open(temporary, O_RDWR | O_CLOEXEC);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open '%s'", temporary);
  uint8_t head[USER_BLOCK_BYTES] = {0};
  struct ls_digest128 digest;
  ls_status status = digest_of(fd, temporary, &digest, bytes, err);
  memcpy(head, magic, sizeof magic);
  head[8] = FORMAT_VERSION;
  memcpy(head + DIGEST_AT, digest.bytes, sizeof digest.bytes);
  if (status == LS_OK && pwrite(fd, head, sizeof head, 0) != sizeof head)
    status = ls_fail_errno(err, errno, "cannot write '%s'", temporary);
  close(fd);
  return status;
}

ls_status ls_checkpoint_write(const struct ls_snapshot *s, const char *job_json, const char *path, uint64_t *bytes,
                              struct ls_error *err) {
  char temporary[4200];
  snprintf(temporary, sizeof temporary, "%s.part", path);
  ls_hdf5_quiet();
  hid_t plist = H5Pcreate(H5P_FILE_CREATE);
  H5Pset_userblock(plist, USER_BLOCK_BYTES);
  errno = 0;
  hid_t file = H5Fcreate(temporary, H5F_ACC_TRUNC, plist, H5P_DEFAULT);
  H5Pclose(plist);
  bool good = file >= 0 && write_contents(file, s, job_json);
  if (file >= 0 && H5Fclose(file) < 0) good = false;
  ls_status status = LS_OK;
  if (!good) {
    int reason = errno;
    status = reason ? ls_fail_errno(err, reason, "cannot write checkpoint '%s'", path)
                    : ls_fail(err, LS_IO, "cannot write checkpoint '%s': is the disk full?", path);
    if (status != LS_IO && err) status = err->status = LS_IO;
  }
  if (status == LS_OK) status = seal(temporary, bytes, err);
  if (status == LS_OK) return ls_file_commit(temporary, path, err);
  unlink(temporary);
  return status;
}

// --- reading ------------------------------------------------------------------------------------------------------------

static ls_status check_file(const char *path, struct ls_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ls_fail_errno(err, errno, "cannot open checkpoint '%s'", path);
  uint8_t head[DIGEST_AT + 16];
  struct ls_digest128 digest;
  uint64_t bytes;
  ls_status status = LS_OK;
  if (pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head || memcmp(head, magic, sizeof magic) != 0) {
    status = ls_fail(err, LS_CORRUPT, "'%s' is no checkpoint of Lockstep's: it does not begin with LOCKSTEP", path);
  } else if (head[8] != FORMAT_VERSION) {
    status = ls_fail(err, LS_UNSUPPORTED, "checkpoint '%s' has format version %d, this program reads %d", path, head[8],
                     FORMAT_VERSION);
  } else {
    status = digest_of(fd, path, &digest, &bytes, err);
  }
  if (status == LS_OK && memcmp(head + DIGEST_AT, digest.bytes, sizeof digest.bytes) != 0) {
    status = ls_fail(err, LS_CORRUPT, "checkpoint '%s' is damaged: its contents do not match their digest", path);
  }
  close(fd);
  return status;
}

static bool read_floats(hid_t group, const struct ls_parameter *p, float *values) {
  hid_t id = H5Dopen2(group, p->name, H5P_DEFAULT);
  if (id < 0) return false;
  hid_t space = H5Dget_space(id);
  hsize_t dim[LS_MAX_RANK] = {0};
  bool good = H5Sget_simple_extent_ndims(space) == p->shape.rank;
  if (good) H5Sget_simple_extent_dims(space, dim, NULL);
  for (int i = 0; i < p->shape.rank && good; i++) good = dim[i] == (hsize_t)p->shape.dim[i];
  good = good && H5Dread(id, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  H5Sclose(space);
  H5Dclose(id);
  return good;
}

static bool read_number(hid_t file, const char *name, hid_t type, void *value) {
  hid_t id = H5Aexists(file, name) > 0 ? H5Aopen(file, name, H5P_DEFAULT) : -1;
  if (id < 0) return false;
  bool good = H5Aread(id, type, value) >= 0;
  H5Aclose(id);
  return good;
}

static ls_status read_contents(hid_t file, const char *path, struct ls_snapshot *s, struct ls_error *err) {
  hid_t parameters = H5Gopen2(file, "parameters", H5P_DEFAULT), momentum = H5Gopen2(file, "momentum", H5P_DEFAULT);
  ls_status status = LS_OK;
  for (int i = 0; i < ls_graph_parameter_count(s->graph) && status == LS_OK; i++) {
    const struct ls_parameter *p = ls_graph_parameter(s->graph, i);
    if (read_floats(parameters, p, s->parameters[i]) && (!p->learned || read_floats(momentum, p, s->momentum[i])))
      continue;
    status = ls_fail(err, LS_INVALID,
                     "checkpoint '%s' does not fit the network: parameter '%s' is missing or has another shape", path,
                     p->name);
  }
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == LS_OK; i++) {
    void *value = (char *)s + numbers[i].offset;
    if (numbers[i].may_lack && H5Aexists(file, numbers[i].name) <= 0) continue;
    if (read_number(file, numbers[i].name, numbers[i].whole ? H5T_NATIVE_UINT64 : H5T_NATIVE_DOUBLE, value)) continue;
    status = ls_fail(err, LS_CORRUPT, "checkpoint '%s' lacks its '%s'", path, numbers[i].name);
  }
  uint64_t bad_epochs = 0;
  read_number(file, "schedule_bad_epochs", H5T_NATIVE_UINT64, &bad_epochs);
  s->schedule.bad_epochs = (uint32_t)bad_epochs;
  if (parameters >= 0) H5Gclose(parameters);
  if (momentum >= 0) H5Gclose(momentum);
  return status;
}

ls_status ls_checkpoint_read(const char *path, struct ls_snapshot *s, struct ls_error *err) {
  LS_TRY(check_file(path, err));
  ls_hdf5_quiet();
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) return ls_fail(err, LS_CORRUPT, "checkpoint '%s' is no HDF5 file", path);
  ls_status status = read_contents(file, path, s, err);
  H5Fclose(file);
  return status;
}

ls_status ls_checkpoint_read_job(const char *path, Lockstep__V1__Job **job, struct ls_error *err) {
  *job = NULL;
  LS_TRY(check_file(path, err));
  ls_hdf5_quiet();
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), id = file >= 0 ? H5Dopen2(file, "job", H5P_DEFAULT) : -1;
  ls_status status = id >= 0 ? LS_OK : ls_fail(err, LS_CORRUPT, "checkpoint '%s' holds no job", path);
  if (id >= 0) {
    hid_t type = H5Dget_type(id);
    size_t size = H5Tget_size(type);
    char *text = calloc(1, size + 1);
    ProtobufCMessage *message = NULL;
    if (!text || H5Dread(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0)
      status = ls_fail(err, LS_CORRUPT, "checkpoint '%s': its job cannot be read", path);
    if (status == LS_OK)
      status = ls_spec_parse(text, strlen(text), path, &lockstep__v1__job__descriptor, NULL, 0, &message, err);
    *job = (Lockstep__V1__Job *)message;
    if (status == LS_OK) status = ls_spec_complete_job(*job, err);
    free(text);
    H5Tclose(type);
    H5Dclose(id);
  }
  if (file >= 0) H5Fclose(file);
  if (status != LS_OK && *job) {
    lockstep__v1__job__free_unpacked(*job, NULL);
    *job = NULL;
  }
  return status;
}

// --- the folder ---------------------------------------------------------------------------------------------------------

#define CHECKPOINT_NAME "step-%012" PRIu64 ".h5"

char *ls_checkpoint_path(const char *folder, uint64_t step) {
  char *path = NULL;
  return asprintf(&path, "%s/" CHECKPOINT_NAME, folder, step) < 0 ? NULL : path;
}

// Whether `name` is that of a checkpoint, followed by `ending`: as it is written, not step-5.h5, which could not be opened
// by its step.
static bool is_checkpoint(const char *name, const char *ending, uint64_t *step) {
  char expected[64];
  if (sscanf(name, "step-%" SCNu64, step) != 1) return false;
  snprintf(expected, sizeof expected, CHECKPOINT_NAME "%s", *step, ending);
  return strcmp(name, expected) == 0;
}

static int newest_first(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x < y) - (x > y);
}

ls_status ls_checkpoint_list(const char *folder, uint64_t **steps, int *count, struct ls_error *err) {
  *steps = NULL;
  *count = 0;
  DIR *dir = opendir(folder);
  if (!dir) return errno == ENOENT ? LS_OK : ls_fail_errno(err, errno, "cannot list '%s'", folder);
  int capacity = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    uint64_t step;
    if (!is_checkpoint(entry->d_name, "", &step)) continue;
    if (*count == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      uint64_t *grown = realloc(*steps, (size_t)capacity * sizeof *grown);
      if (!grown) {
        closedir(dir);
        free(*steps);
        *steps = NULL;
        *count = 0;
        return ls_fail(err, LS_NO_MEMORY, "no memory for the list of checkpoints");
      }
      *steps = grown;
    }
    (*steps)[(*count)++] = step;
  }
  closedir(dir);
  if (*count) qsort(*steps, (size_t)*count, sizeof **steps, newest_first);
  return LS_OK;
}

// What writers that died in mid-write left: step-N.h5.part.
static void remove_parts(const char *folder) {
  DIR *dir = opendir(folder);
  if (!dir) return;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    uint64_t step;
    if (!is_checkpoint(entry->d_name, ".part", &step)) continue;
    unlinkat(dirfd(dir), entry->d_name, 0);
  }
  closedir(dir);
}

void ls_checkpoint_prune(const char *folder, int keep) {
  uint64_t *steps;
  int count;
  remove_parts(folder);
  if (ls_checkpoint_list(folder, &steps, &count, NULL) != LS_OK) return;
  for (int i = keep; i < count; i++) {
    char *path = ls_checkpoint_path(folder, steps[i]);
    if (path) unlink(path);
    free(path);
  }
  free(steps);
}
