// The transport between GPUs by NCCL, with non-blocking communicators: see transport.h.
#include "collective/transport.h"

#ifdef LS_HAVE_CUDA

#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda/device/device.h"
#include "base/clock.h"

enum {
  POLL_NS = 20000,
  SPIN_NS = 50000000,
  OPEN_LIMITS = 6
};  // making communicators may take six times as long as a step

// NCCL's functions, found in the library at run time.
static struct {
  ncclResult_t (*get_unique_id)(ncclUniqueId *id);
  ncclResult_t (*init_rank)(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config);
  ncclResult_t (*finalize)(ncclComm_t comm);
  ncclResult_t (*destroy)(ncclComm_t comm);
  ncclResult_t (*abort)(ncclComm_t comm);
  ncclResult_t (*get_async_error)(ncclComm_t comm, ncclResult_t *error);
  const char *(*get_error_string)(ncclResult_t result);
  const char *(*get_last_error)(ncclComm_t comm);
  ncclResult_t (*group_start)(void);
  ncclResult_t (*group_end)(void);
  ncclResult_t (*send)(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t);
  ncclResult_t (*receive)(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t);
  ncclResult_t (*all_reduce)(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                             ncclComm_t comm, cudaStream_t);
} lib;

static char lib_problem[256];
static pthread_once_t lib_once = PTHREAD_ONCE_INIT;

static const struct {
  const char *name;
  void *function;
} lib_functions[] = {
    {"ncclGetUniqueId", &lib.get_unique_id},
    {"ncclCommInitRankConfig", &lib.init_rank},
    {"ncclCommFinalize", &lib.finalize},
    {"ncclCommDestroy", &lib.destroy},
    {"ncclCommAbort", &lib.abort},
    {"ncclCommGetAsyncError", &lib.get_async_error},
    {"ncclGetErrorString", &lib.get_error_string},
    {"ncclGetLastError", &lib.get_last_error},
    {"ncclGroupStart", &lib.group_start},
    {"ncclGroupEnd", &lib.group_end},
    {"ncclSend", &lib.send},
    {"ncclRecv", &lib.receive},
    {"ncclAllReduce", &lib.all_reduce},
};

static void load(void) {
  const char *name = getenv("LOCKSTEP_NCCL");
  if (!name || !*name) name = "libnccl.so.2";
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(lib_problem, sizeof lib_problem,
             "these GPUs cannot reach each other's memory, and NCCL is not there ('%s' cannot be loaded)", name);
    return;
  }
  for (size_t i = 0; i < sizeof lib_functions / sizeof *lib_functions; i++) {
    void *function = dlsym(library, lib_functions[i].name);
    if (!function) {
      snprintf(lib_problem, sizeof lib_problem, "NCCL in '%s' is too old: it has no %s", name, lib_functions[i].name);
      return;
    }
    memcpy(lib_functions[i].function, &function, sizeof function);
  }
  setenv("NCCL_RAS_ENABLE", "0", 0);  // its port is the same for all jobs of a machine
}

struct ls_transport {
  struct ls_transport_options options;
  ncclComm_t comm;
  bool broken;
};

static void close_rank(struct ls_transport *n);

static const char *device_name(const struct ls_transport *n) { return n->options.watch->rank[n->options.rank].device; }

static ls_status nccl_error(struct ls_transport *n, ncclResult_t result, const char *what, struct ls_error *err) {
  n->broken = true;
  const char *more = n->comm ? lib.get_last_error(n->comm) : "";
  return ls_fail(err, result == ncclInvalidArgument || result == ncclInvalidUsage ? LS_INTERNAL : LS_UNAVAILABLE,
                 "NCCL, %s, rank %d (%s): %s%s%.300s", what, n->options.rank, device_name(n),
                 lib.get_error_string(result), more && *more ? "; " : "", more ? more : "");
}

static void rest(void) { nanosleep(&(struct timespec){0, POLL_NS}, NULL); }

// Short waits are not slept through.
static void pause_after(int64_t begin_ns) {
  if (ls_clock_ns() - begin_ns > SPIN_NS) rest();
}

static bool somebody_waits_for_images(const struct ls_watch *w) {
  for (int i = 0; i < w->ranks; i++) {
    if (atomic_load(&w->rank[i].phase) == LS_WATCH_INPUT) return true;
  }
  return false;
}

// What the communicator has been about since a call that answered ncclInProgress.
static ls_status settle(struct ls_transport *n, ncclResult_t result, const char *what, int64_t limit_ns,
                        struct ls_error *err) {
  int64_t asked_ns = ls_clock_ns(), begin = asked_ns;
  while (result == ncclInProgress && n->comm) {
    if (lib.get_async_error(n->comm, &result) != ncclSuccess) result = ncclInternalError;
    if (result != ncclInProgress) break;
    int blamed = atomic_load(&n->options.watch->blamed);
    if (blamed >= 0 && blamed != n->options.rank) {
      n->broken = true;
      return ls_fail(err, LS_CANCELLED, "another worker failed");
    }
    if (somebody_waits_for_images(n->options.watch)) begin = ls_clock_ns();
    if (ls_clock_ns() - begin > limit_ns) {
      n->broken = true;
      return ls_fail(err, LS_UNAVAILABLE, "NCCL, %s: rank %d (%s) has waited %.1f s for the others", what,
                     n->options.rank, device_name(n), (double)limit_ns * 1e-9);
    }
    pause_after(asked_ns);
  }
  return result == ncclSuccess ? LS_OK : nccl_error(n, result, what, err);
}

static ls_status id_new(struct ls_transport_id *id, struct ls_error *err) {
  ncclUniqueId unique;
  _Static_assert(sizeof unique == sizeof id->bytes, "NCCL's id has another size");
  pthread_once(&lib_once, load);
  if (lib_problem[0]) return ls_fail(err, LS_UNSUPPORTED, "%s", lib_problem);
  ncclResult_t result = lib.get_unique_id(&unique);
  if (result != ncclSuccess)
    return ls_fail(err, LS_UNAVAILABLE, "NCCL does not start: %s", lib.get_error_string(result));
  memcpy(id->bytes, &unique, sizeof unique);
  return LS_OK;
}

static ls_status open_rank(const struct ls_transport_id *id, const struct ls_transport_options *options,
                           struct ls_transport **nccl, struct ls_error *err) {
  ncclUniqueId unique;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  struct ls_transport *n = *nccl = calloc(1, sizeof *n);
  if (!n) return ls_fail(err, LS_NO_MEMORY, "no memory for a communicator");
  n->options = *options;
  config.blocking = 0;
  memcpy(&unique, id->bytes, sizeof unique);
  ncclResult_t result = lib.init_rank(&n->comm, options->ranks, unique, options->rank, &config);
  ls_status status = settle(n, result, "making the communicator", OPEN_LIMITS * options->watch->patience_ns, err);
  if (status == LS_OK) return LS_OK;
  close_rank(n);
  *nccl = NULL;
  return status;
}

static void close_rank(struct ls_transport *n) {
  if (!n) return;
  if (n->comm && !n->broken)
    settle(n, lib.finalize(n->comm), "ending the communicator", atomic_load(&n->options.watch->limit_ns), NULL);
  if (n->comm) (n->broken ? lib.abort : lib.destroy)(n->comm);
  free(n);
}

static ls_status exchange(struct ls_transport *n, struct ls_stream *stream, const struct ls_transfer *transfers,
                          int count, float *slab, float *staging, struct ls_error *err) {
  cudaStream_t on = device_stream(n->options.backend->state, stream);
  ncclResult_t result = lib.group_start(), failed = ncclSuccess;
  if (result != ncclSuccess) return nccl_error(n, result, "beginning a group", err);
  for (int i = 0; i < count && failed == ncclSuccess; i++) {
    const struct ls_transfer *t = &transfers[i];
    float *at = (t->staging ? staging : slab) + t->at;
    result = t->send ? lib.send(at, (size_t)t->count, ncclFloat32, t->peer, n->comm, on)
                     : lib.receive(at, (size_t)t->count, ncclFloat32, t->peer, n->comm, on);
    if (result != ncclSuccess && result != ncclInProgress) failed = result;
  }
  result = lib.group_end();
  return settle(n, failed == ncclSuccess ? result : failed, "exchanging slices",
                atomic_load(&n->options.watch->limit_ns), err);
}

static ls_status sum(struct ls_transport *n, struct ls_stream *stream, float *values, int64_t count,
                     struct ls_error *err) {
  cudaStream_t on = device_stream(n->options.backend->state, stream);
  ncclResult_t result = lib.all_reduce(values, values, (size_t)count, ncclFloat32, ncclSum, n->comm, on);
  return settle(n, result, "summing gradients", atomic_load(&n->options.watch->limit_ns), err);
}

// Sets *idle once everything on the stream is done.
static ls_status look(struct ls_transport *n, cudaStream_t on, bool *idle, struct ls_error *err) {
  ncclResult_t result = ncclSuccess;
  cudaError_t error = cudaStreamQuery(on);
  *idle = error == cudaSuccess;
  if (error != cudaSuccess && error != cudaErrorNotReady) {
    n->broken = true;
    return device_error(error, "waiting for the GPU", err);
  }
  ncclResult_t asked = lib.get_async_error(n->comm, &result);
  if (asked == ncclSuccess && (result == ncclSuccess || result == ncclInProgress)) return LS_OK;
  return nccl_error(n, asked == ncclSuccess ? result : asked, "exchanging slices", err);
}

static ls_status wait_for(struct ls_transport *n, struct ls_stream *stream, struct ls_event *const *computed,
                          uint64_t step, struct ls_error *err) {
  cudaStream_t on = device_stream(n->options.backend->state, stream);
  const struct ls_transport_options *o = &n->options;
  bool idle = false;
  int passed = 0, places = n->options.watch->places;
  int64_t begin_ns = ls_clock_ns();
  for (;; pause_after(begin_ns)) {
    ls_status status = look(n, on, &idle, err);
    if (status != LS_OK)
      return ls_error_prefix(err, "rank %d (%s), step %llu", o->rank, device_name(n), (unsigned long long)step);
    if (idle) return LS_OK;
    while (passed < places && cudaEventQuery((cudaEvent_t)(void *)computed[places - 1 - passed]) == cudaSuccess)
      passed++;
    status = ls_watch_check(o->watch, o->rank, step, passed, ls_clock_ns(), err);
    if (status == LS_OK) continue;
    n->broken = true;
    return status;
  }
}

static const struct ls_transport_ops nccl_ops = {
    .id_new = id_new, .open = open_rank, .close = close_rank, .exchange = exchange, .sum = sum, .wait = wait_for};

const struct ls_transport_ops *ls_transport_nccl(void) { return &nccl_ops; }

#else

const struct ls_transport_ops *ls_transport_nccl(void) { return NULL; }

#endif
