// Where the time of a step goes: every operation and phase of every worker, as a Chrome trace (chrome://tracing, Perfetto)
// and as a table on standard error. Off: a NULL pointer.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/trainer.h"

enum { MAX_EVENTS = 400000, MAX_ROWS = 4096 };

struct mark {
  const char *name, *category, *kernel;
  int64_t begin_ns, end_ns;
};

struct lane {
  struct profile *profile;
  struct mark *marks;
  int count;
};

struct profile {
  char *path;
  int workers;
  struct lane *lanes;
};

ls_status profile_new(const char *path, int workers, struct profile **result, struct ls_error *err) {
  struct profile *p = calloc(1, sizeof *p);
  if (p) {
    p->path = strdup(path);
    p->workers = workers;
    p->lanes = calloc((size_t)workers, sizeof *p->lanes);
  }
  bool good = p && p->path && p->lanes;
  for (int i = 0; good && i < workers; i++) {
    p->lanes[i].profile = p;
    p->lanes[i].marks = malloc(MAX_EVENTS * sizeof *p->lanes[i].marks);
    good = p->lanes[i].marks != NULL;
  }
  if (!good) return ls_fail(err, LS_NO_MEMORY, "no memory for a profile");
  *result = p;
  return LS_OK;
}

static void add(struct lane *lane, struct mark mark) {
  if (lane->count < MAX_EVENTS) lane->marks[lane->count++] = mark;
}

static void on_operation(void *user, const struct ls_plan_op_info *info, int64_t begin_ns, int64_t end_ns) {
  add(user, (struct mark){info->layer, info->kind, info->kernel, begin_ns, end_ns});
}

void profile_attach(struct profile *p, struct worker *w, struct ls_binding *binding) {
  if (p && binding) ls_binding_profile(binding, on_operation, &p->lanes[w->index]);
}

void profile_add(struct profile *p, int worker, const char *what, const char *category, int64_t begin_ns,
                 int64_t end_ns) {
  if (p) add(&p->lanes[worker], (struct mark){what, category, "", begin_ns, end_ns});
}

struct row {
  const char *name, *category, *kernel;
  int64_t ns;
  int count;
};

static int larger_first(const void *a, const void *b) {
  const struct row *x = a, *y = b;
  return (x->ns < y->ns) - (x->ns > y->ns);
}

static void print_table(const struct profile *p) {
  struct row *rows = calloc(MAX_ROWS, sizeof *rows);
  int count = 0;
  int64_t total = 0;
  for (int i = 0; rows && i < p->workers; i++) {
    for (int j = 0; j < p->lanes[i].count; j++) {
      const struct mark *m = &p->lanes[i].marks[j];
      int k = 0;
      while (k < count && (strcmp(rows[k].name, m->name) || strcmp(rows[k].category, m->category))) k++;
      if (k == count && count < MAX_ROWS)
        rows[count++] = (struct row){m->name, m->category, m->kernel ? m->kernel : "", 0, 0};
      if (k == MAX_ROWS) continue;
      rows[k].ns += m->end_ns - m->begin_ns;
      rows[k].count++;
      total += m->end_ns - m->begin_ns;
    }
  }
  if (rows) qsort(rows, (size_t)count, sizeof *rows, larger_first);
  fprintf(stderr, "%-28s %-24s %-26s %8s %10s %8s\n", "layer or phase", "operation", "kernel", "times", "ms each",
          "share");
  for (int i = 0; i < count; i++) {
    fprintf(stderr, "%-28.28s %-24s %-26.26s %8d %10.3f %7.2f%%\n", rows[i].name, rows[i].category, rows[i].kernel,
            rows[i].count, (double)rows[i].ns * 1e-6 / rows[i].count, 100.0 * (double)rows[i].ns / (double)total);
  }
  free(rows);
}

ls_status profile_finish(struct profile *p, struct ls_error *err) {
  FILE *out = fopen(p->path, "we");
  if (!out) return ls_fail_errno(err, errno, "cannot write the profile '%s'", p->path);
  fprintf(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
  const char *comma = "";
  for (int i = 0; i < p->workers; i++) {
    fprintf(out, "%s\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"args\":{\"name\":\"worker %d\"}}",
            comma, i, i);
    comma = ",";
    for (int j = 0; j < p->lanes[i].count; j++) {
      const struct mark *m = &p->lanes[i].marks[j];
      fprintf(out,
              ",\n{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{"
              "\"kernel\":\"%s\"}}",
              m->name, m->category, i, (double)m->begin_ns * 1e-3, (double)(m->end_ns - m->begin_ns) * 1e-3,
              m->kernel ? m->kernel : "");
    }
  }
  fprintf(out, "\n]}\n");
  bool failed = ferror(out) != 0;
  if (fclose(out) != 0 || failed) return ls_fail_errno(err, errno, "cannot write the profile '%s'", p->path);
  print_table(p);
  for (int i = 0; i < p->workers; i++) free(p->lanes[i].marks);
  free(p->lanes);
  free(p->path);
  free(p);
  return LS_OK;
}
