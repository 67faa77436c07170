// Is cuDNN whole? It loads its parts when they are first needed: without one of them it ends the process, or has no engine
// for anything. Asked before anything is done with it, so that the part can be named.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/device/device.h"

#define MAJOR_OF(n) #n
#define MAJOR(n) MAJOR_OF(n)

// Stays loaded: it is used later.
static bool load(const char *folder, const char *name, const char *suffix) {
  char path[1024];
  snprintf(path, sizeof path, "%s%slibcudnn_%s.so%s", folder, *folder ? "/" : "", name, suffix);
  return dlopen(path, RTLD_LAZY | RTLD_LOCAL) != NULL;
}

ls_status device_check_library(const char *name, struct ls_error *err) {
  static const char *const suffixes[] = {"." MAJOR(CUDNN_MAJOR), ""};
  char beside[768] = "";
  Dl_info info;
  if (dladdr((void *)(uintptr_t)cudnnCreate, &info) && info.dli_fname && strchr(info.dli_fname, '/')) {
    snprintf(beside, sizeof beside, "%s", info.dli_fname);
    *strrchr(beside, '/') = 0;
  }
  for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
    if (load("", name, suffixes[i]) || (*beside && load(beside, name, suffixes[i]))) return LS_OK;
  }
  return ls_fail(
      err, LS_UNSUPPORTED,
      "cuDNN is not whole here: its library libcudnn_%s.so.%d cannot be loaded, neither beside libcudnn.so.%d "
      "in '%s' nor from the loader's path; install all of cuDNN %d",
      name, CUDNN_MAJOR, CUDNN_MAJOR, beside, CUDNN_MAJOR);
}

ls_status ls_backend_cuda_check(struct ls_error *err) {
  static const char *const names[] = {"graph", "heuristic", "engines_precompiled", "engines_runtime_compiled"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) LS_TRY(device_check_library(names[i], err));
  return LS_OK;
}
