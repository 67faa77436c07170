// For LD_PRELOAD: libraries whose path contains the text in HIDE_LIBRARY cannot be loaded at run time.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

void *dlopen(const char *name, int flags) {
  const char *hidden = getenv("HIDE_LIBRARY");
  void *found = dlsym(RTLD_NEXT, "dlopen");
  void *(*next)(const char *, int);
  memcpy(&next, &found, sizeof next);
  return next(hidden && name && strstr(name, hidden) ? "/nowhere/hidden.so" : name, flags);
}
