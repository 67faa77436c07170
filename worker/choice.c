// Which devices a job runs on, and how many workers share them out.
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "worker/footprint.h"
#include "worker/trainer.h"

int trainer_core_count(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

ls_status trainer_backend(Lockstep__V1__DeviceKind kind, const struct ls_backend_ops **ops, int *devices,
                          struct ls_error *err) {
  const struct ls_backend_ops *cuda = ls_backend_cuda();
  bool asked = kind == LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_GPU;
  *ops = ls_backend_cpu();
  *devices = 0;
  if (kind == LOCKSTEP__V1__DEVICE_KIND__DEVICE_KIND_CPU || (!cuda && !asked)) return LS_OK;
  if (!cuda) {
    return ls_fail(
        err, LS_UNSUPPORTED,
        "key 'devices.kind': gpu was asked for, but this build has no CUDA backend: it was made without %s; use "
        "cpu or auto",
        ls_backend_cuda_missing());
  }
  LS_TRY(cuda->devices(NULL, 0, devices, err));
  if (*devices > 0) {
    *ops = cuda;
    return LS_OK;
  }
  if (!asked) return LS_OK;
  struct ls_backend backend = {.ops = NULL};
  struct ls_error why = LS_ERROR_INIT;
  if (cuda->open(0, &backend, &why) == LS_OK) {  // it came just now
    cuda->close(&backend);
    *devices = 1;
    *ops = cuda;
    return LS_OK;
  }
  return ls_fail(err, LS_UNSUPPORTED, "key 'devices.kind': gpu was asked for, but %s; use cpu or auto", why.text);
}

ls_status trainer_check_precision(Lockstep__V1__Precision precision, int devices, struct ls_error *err) {
  bool plain = trainer_dtype(precision) == LS_F32 && precision != LOCKSTEP__V1__PRECISION__PRECISION_TF32;
  if (devices > 0 || plain) return LS_OK;
  return ls_fail(err, LS_UNSUPPORTED, "key 'precision': the CPU computes in float32 only");
}

enum ls_dtype trainer_dtype(Lockstep__V1__Precision precision) {
  if (precision == LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16) return LS_BF16;
  return precision == LOCKSTEP__V1__PRECISION__PRECISION_FLOAT16 ? LS_F16 : LS_F32;
}

char *trainer_choice_cache(void) {
  const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  char *folder = NULL, *path = NULL;
  if (base && base[0] == '/')
    folder = ls_path_join(base, "lockstep");
  else if (home && home[0] == '/')
    folder = ls_path_join(home, ".cache/lockstep");
  if (folder && ls_folder_make(folder, 0755, NULL) == LS_OK) path = ls_path_join(folder, "choices");
  free(folder);
  return path;
}

ls_status trainer_worker_count(unsigned wanted, bool oversubscribe, int shards, int devices, int *workers,
                               struct ls_error *err) {
  int places = devices > 0 ? devices : trainer_core_count(), most = 1;
  while (2 * most <= places && 2 * most <= shards) most *= 2;
  if (wanted == 0) {
    *workers = most;
    return LS_OK;
  }
  if (wanted & (wanted - 1))
    return ls_fail(err, LS_INVALID, "%u devices were asked for; the number must be a power of two", wanted);
  if ((int)wanted > shards)
    return ls_fail(err, LS_INVALID, "%u devices are more than the %d shards of a batch", wanted, shards);
  if ((int)wanted > places && !oversubscribe) {
    return ls_fail(
        err, LS_INVALID,
        "%u devices were asked for, this machine has %d %s; devices.oversubscribe: true lets workers share them",
        wanted, places, devices > 0 ? "GPUs" : "cores");
  }
  *workers = (int)wanted;
  return LS_OK;
}

// What such a trainer takes, on the smallest of its GPUs. *memory_bytes: UINT64_MAX where no GPU says how much it has.
static ls_status footprint_of(const struct trainer_options *o, struct ls_footprint_options *options,
                              uint64_t *memory_bytes, struct ls_error *err) {
  struct ls_device_info info[LS_MAX_WORKERS];
  int count = 0, devices = o->devices < o->workers ? o->devices : o->workers;
  LS_TRY(o->ops->devices(info, LS_MAX_WORKERS, &count, err));
  *memory_bytes = UINT64_MAX;
  for (int i = 0; i < devices && i < count && i < LS_MAX_WORKERS; i++) {
    if (info[i].memory_bytes && info[i].memory_bytes < *memory_bytes) *memory_bytes = info[i].memory_bytes;
  }
  *options = (struct ls_footprint_options){.gpu = true,
                                           .precision = o->precision,
                                           .batch = (uint64_t)o->batch,
                                           .shards = (unsigned)o->shards,
                                           .devices = (unsigned)devices,
                                           .workers_each = (unsigned)(o->workers / devices),
                                           .fast = o->fast};
  // Workers that do not divide evenly: what one of a device's takes, at least.
  if (o->workers % devices) options->devices = (unsigned)o->workers, options->workers_each = 1;
  return LS_OK;
}

ls_status trainer_check_memory(const struct trainer_options *o, struct ls_error *err) {
  struct ls_footprint_options options;
  uint64_t memory_bytes;
  struct ls_graph *graph = NULL;
  if (o->devices == 0) return LS_OK;
  LS_TRY(footprint_of(o, &options, &memory_bytes, err));
  LS_TRY(ls_graph_build(o->network, &graph, err));
  ls_status status = ls_footprint_check(graph, &options, memory_bytes, err);
  ls_graph_free(graph);
  return status;
}

void trainer_explain_memory(const struct trainer_options *o, struct ls_error *err) {
  struct ls_footprint_options options;
  uint64_t memory_bytes;
  struct ls_graph *graph = NULL;
  char text[LS_ERROR_TEXT_BYTES], first[LS_ERROR_TEXT_BYTES];
  if (o->devices == 0 || !err || err->status != LS_NO_MEMORY) return;
  if (footprint_of(o, &options, &memory_bytes, NULL) != LS_OK || memory_bytes == UINT64_MAX) return;
  if (ls_graph_build(o->network, &graph, NULL) != LS_OK) return;
  if (ls_footprint_explain(graph, &options, memory_bytes, text, sizeof text, NULL) == LS_OK) {
    snprintf(first, sizeof first, "%s", err->text);
    ls_fail(err, LS_NO_MEMORY, "%s; %s", first, text);
  }
  ls_graph_free(graph);
}
