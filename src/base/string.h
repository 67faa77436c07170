// A growing string. Embedded in its owner; one thread at a time.
#ifndef LS_BASE_STRING_H
#define LS_BASE_STRING_H

#include <stdbool.h>
#include <stddef.h>

struct ls_string {
  char *data;  // zero-terminated once anything was added; NULL before
  size_t size;
  size_t capacity;
  bool failed;  // memory ran out at some point: what was added since is lost, `data` stays valid
};

#define LS_STRING_INIT \
  { NULL, 0, 0, false }

void ls_string_add(struct ls_string *s, const char *text);
void ls_string_add_bytes(struct ls_string *s, const void *data, size_t size);
void ls_string_addf(struct ls_string *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void ls_string_clear(struct ls_string *s);              // keeps the memory
void ls_string_release(struct ls_string *s);            // frees it
const char *ls_string_text(const struct ls_string *s);  // "" when empty
// Hands the memory over to the caller, who frees it; never NULL unless memory ran out.
char *ls_string_take(struct ls_string *s);

#endif
