// Choices made by measuring: which of several kernels for one operation is the fastest. Another run might measure
// otherwise, and another kernel rounds otherwise, so that a choice is part of what decides a job's bits. It is therefore
// made once, by whichever worker comes first, taken over by all others, and written into the job's folder, from where
// every resume has it. A second file, the user's cache, saves other jobs of the machine the measuring; the job's own record
// goes before it. Keys name everything that a choice depends on: device model, library version, operation, shapes, types.
//
// Files: one choice a line, KEY, a tab, CHOICE; lines in the order in which they were made.
// Threads: all functions but new and free may be called from any thread.
#ifndef LS_BACKEND_CHOICES_H
#define LS_BACKEND_CHOICES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

struct ls_choices;

enum { LS_CHOICE_BYTES = 256 };

// Reads both files; either may be NULL or missing. A record that cannot be read is an error (going on without would change
// the job's bits), a cache that cannot be read is none.
ls_status ls_choices_new(const char *record, const char *cache, struct ls_choices **choices, struct ls_error *err);
void ls_choices_free(struct ls_choices *choices);

// The choice for `key`: an earlier one, or what `choose` says, which runs alone: whoever asks meanwhile waits. `choose`
// writes at most LS_CHOICE_BYTES, without tabs and line ends.
ls_status ls_choices_get(struct ls_choices *choices, const char *key,
                         ls_status (*choose)(void *user, char *choice, struct ls_error *err), void *user,
                         char choice[LS_CHOICE_BYTES], struct ls_error *err);
// Writes the record durably, if there is a file for it and something new; and the cache, as well as it goes.
ls_status ls_choices_save(struct ls_choices *choices, struct ls_error *err);

#endif
