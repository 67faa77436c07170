// A growing string: see string.h.
#include "base/string.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(struct ls_string *s, size_t more) {
  size_t wanted = s->size + more + 1;
  if (wanted <= s->capacity) return true;
  size_t capacity = s->capacity ? s->capacity : 64;
  while (capacity < wanted) capacity *= 2;
  char *data = realloc(s->data, capacity);
  if (!data) {
    s->failed = true;
    return false;
  }
  s->data = data;
  s->capacity = capacity;
  return true;
}

void ls_string_add_bytes(struct ls_string *s, const void *data, size_t size) {
  if (!reserve(s, size)) return;
  if (size) memcpy(s->data + s->size, data, size);
  s->size += size;
  s->data[s->size] = 0;
}

void ls_string_add(struct ls_string *s, const char *text) { ls_string_add_bytes(s, text, strlen(text)); }

void ls_string_addf(struct ls_string *s, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int size = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (size >= 0 && reserve(s, (size_t)size)) {
    vsnprintf(s->data + s->size, (size_t)size + 1, format, again);
    s->size += (size_t)size;
  }
  va_end(again);
}

void ls_string_clear(struct ls_string *s) {
  s->size = 0;
  s->failed = false;
  if (s->data) s->data[0] = 0;
}

void ls_string_release(struct ls_string *s) {
  free(s->data);
  *s = (struct ls_string)LS_STRING_INIT;
}

const char *ls_string_text(const struct ls_string *s) { return s->data ? s->data : ""; }

char *ls_string_take(struct ls_string *s) {
  char *data = s->data ? s->data : calloc(1, 1);
  *s = (struct ls_string)LS_STRING_INIT;
  return data;
}
