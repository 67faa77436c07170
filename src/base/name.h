// Names of layers. They are also names of parameters in checkpoints, words in tables, in traces and in records of choices, so
// they are short and plain, and none needs an escape or is cut. No state; any thread.
#ifndef LS_BASE_NAME_H
#define LS_BASE_NAME_H

#include <stdbool.h>
#include <string.h>

#define LS_NAME_RULE "names have 1 to 64 letters, digits, '_', '.' or '-'"
enum { LS_MAX_NAME = 64 };

static inline bool ls_name_good(const char *name) {
  size_t length = strlen(name);
  return length > 0 && length <= LS_MAX_NAME &&
         strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == length;
}

#endif
