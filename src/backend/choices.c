// See choices.h.
#include "backend/choices.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { MOST_FILE_BYTES = 16 << 20 };

struct entry {
  char *key, *choice;
  bool recorded;  // asked for in this job: belongs into its record
};

struct ls_choices {
  pthread_mutex_t lock;
  char *record, *cache;  // paths or NULL
  struct entry *entries;
  int count, capacity;
  bool new_in_record, new_in_cache;
};

static struct entry *find(struct ls_choices *c, const char *key) {
  for (int i = 0; i < c->count; i++) {
    if (strcmp(c->entries[i].key, key) == 0) return &c->entries[i];
  }
  return NULL;
}

static ls_status add(struct ls_choices *c, const char *key, const char *choice, bool recorded, struct ls_error *err) {
  if (c->count == c->capacity) {
    int capacity = c->capacity ? 2 * c->capacity : 64;
    void *grown = realloc(c->entries, (size_t)capacity * sizeof *c->entries);
    if (!grown) return ls_fail(err, LS_NO_MEMORY, "no memory for choices");
    c->entries = grown;
    c->capacity = capacity;
  }
  struct entry *e = &c->entries[c->count];
  *e = (struct entry){strdup(key), strdup(choice), recorded};
  if (!e->key || !e->choice) {
    free(e->key);
    free(e->choice);
    return ls_fail(err, LS_NO_MEMORY, "no memory for choices");
  }
  c->count++;
  return LS_OK;
}

static ls_status read_lines(struct ls_choices *c, char *text, const char *path, bool recorded, struct ls_error *err) {
  int number = 0;
  for (char *line = text, *next; *line; line = next) {
    char *end = strchr(line, '\n'), *tab = strchr(line, '\t');
    number++;
    if (!end || !tab || tab > end || end - tab > LS_CHOICE_BYTES)
      return ls_fail(err, LS_CORRUPT, "line %d of '%s' is no choice (KEY, a tab, CHOICE)", number, path);
    *end = *tab = '\0';
    next = end + 1;
    if (!find(c, line)) LS_TRY(add(c, line, tab + 1, recorded, err));
  }
  return LS_OK;
}

static ls_status read_file(struct ls_choices *c, const char *path, bool recorded, struct ls_error *err) {
  char *text = NULL;
  size_t size = 0;
  struct ls_error own = LS_ERROR_INIT;
  ls_status status = ls_file_read(path, MOST_FILE_BYTES, &text, &size, &own);
  if (status == LS_NOT_FOUND) return LS_OK;
  if (status == LS_OK) status = read_lines(c, text, path, recorded, &own);
  free(text);
  if (status != LS_OK && err) *err = own;
  return status;
}

ls_status ls_choices_new(const char *record, const char *cache, struct ls_choices **result, struct ls_error *err) {
  struct ls_choices *c = calloc(1, sizeof *c);
  *result = NULL;
  if (!c) return ls_fail(err, LS_NO_MEMORY, "no memory for choices");
  pthread_mutex_init(&c->lock, NULL);
  ls_status status = LS_OK;
  if (record && !(c->record = strdup(record))) status = ls_fail(err, LS_NO_MEMORY, "no memory for choices");
  if (cache && !(c->cache = strdup(cache))) status = ls_fail(err, LS_NO_MEMORY, "no memory for choices");
  if (status == LS_OK && record) status = read_file(c, record, true, err);
  if (status == LS_OK && cache) read_file(c, cache, false, NULL);  // what was read before a bad line still serves
  if (status != LS_OK) {
    ls_choices_free(c);
    return status;
  }
  *result = c;
  return LS_OK;
}

void ls_choices_free(struct ls_choices *c) {
  if (!c) return;
  for (int i = 0; i < c->count; i++) {
    free(c->entries[i].key);
    free(c->entries[i].choice);
  }
  free(c->entries);
  free(c->record);
  free(c->cache);
  pthread_mutex_destroy(&c->lock);
  free(c);
}

static ls_status get(struct ls_choices *c, const char *key,
                     ls_status (*choose)(void *user, char *choice, struct ls_error *err), void *user, char *choice,
                     struct ls_error *err) {
  struct entry *e = find(c, key);
  if (!e) {
    LS_TRY(choose(user, choice, err));
    c->new_in_record = c->new_in_cache = true;
    return add(c, key, choice, true, err);
  }
  if (!e->recorded) c->new_in_record = e->recorded = true;
  snprintf(choice, LS_CHOICE_BYTES, "%s", e->choice);
  return LS_OK;
}

ls_status ls_choices_get(struct ls_choices *c, const char *key,
                         ls_status (*choose)(void *user, char *choice, struct ls_error *err), void *user,
                         char choice[LS_CHOICE_BYTES], struct ls_error *err) {
  pthread_mutex_lock(&c->lock);
  ls_status status = get(c, key, choose, user, choice, err);
  pthread_mutex_unlock(&c->lock);
  return status;
}

static ls_status write_file(const struct ls_choices *c, const char *path, bool all, struct ls_error *err) {
  size_t bytes = 1;
  for (int i = 0; i < c->count; i++) bytes += strlen(c->entries[i].key) + strlen(c->entries[i].choice) + 2;
  char *text = malloc(bytes), *at = text;
  if (!text) return ls_fail(err, LS_NO_MEMORY, "no memory for choices");
  for (int i = 0; i < c->count; i++) {
    const struct entry *e = &c->entries[i];
    if (all || e->recorded) at += sprintf(at, "%s\t%s\n", e->key, e->choice);
  }
  ls_status status = ls_file_write_atomic(path, text, (size_t)(at - text), err);
  free(text);
  return status;
}

ls_status ls_choices_save(struct ls_choices *c, struct ls_error *err) {
  ls_status status = LS_OK;
  pthread_mutex_lock(&c->lock);
  if (c->cache && c->new_in_cache) c->new_in_cache = write_file(c, c->cache, true, NULL) != LS_OK;
  if (c->record && c->new_in_record) {
    status = write_file(c, c->record, false, err);
    c->new_in_record = status != LS_OK;
  }
  pthread_mutex_unlock(&c->lock);
  return status;
}
