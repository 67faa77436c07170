// What training takes in memory: see memory.h. The figures are those of worker/footprint.h.
#include "cli/memory.h"

#include <string.h>
#include <unistd.h>

#include "worker/footprint.h"

static const double gib = 1024.0 * 1024 * 1024;

struct question {
  struct ls_footprint_options options;
  const char *precision;
  double memory_bytes;
};

static double machine_bytes(void) { return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE); }

static int read_question(const struct memory_options *o, uint64_t batch, uint64_t shards, struct question *q) {
  q->precision = o->precision ? o->precision : ls_cli_precisions[0];
  int p = ls_cli_precision(q->precision);
  if (!p) return LS_CLI_USAGE;
  const char *kind = o->kind ? o->kind : p == 1 ? "cpu" : "gpu";
  if (strcmp(kind, "cpu") != 0 && strcmp(kind, "gpu") != 0)
    return ls_cli_complain(LS_CLI_USAGE, "--kind is '%s', allowed are cpu and gpu", kind);
  uint64_t devices = o->devices ? o->devices : 1;
  shards = shards ? shards : 8;
  if (shards > 64 || devices > shards) {
    return ls_cli_complain(LS_CLI_USAGE,
                           "%llu devices and %llu shards: allowed are 1 to 64 shards, and as many devices",
                           (unsigned long long)devices, (unsigned long long)shards);
  }
  q->options = (struct ls_footprint_options){.gpu = strcmp(kind, "gpu") == 0,
                                             .precision = (Lockstep__V1__Precision)p,
                                             .batch = batch ? batch : 256,
                                             .shards = (unsigned)shards,
                                             .devices = (unsigned)devices};
  q->memory_bytes = o->device_gib > 0 ? o->device_gib * gib : q->options.gpu ? 80 * gib : machine_bytes();
  return LS_CLI_OK;
}

static void write_text(const struct question *q, const struct ls_footprint *f, uint64_t largest,
                       struct ls_string *out) {
  char a[32], b[32];
  const struct ls_footprint_options *o = &q->options;
  ls_string_addf(out, "\nMemory of training in %s, batch %s in %u shard%s on %u %s%s%s:\n\n", q->precision,
                 ls_format_count(a, o->batch), o->shards, o->shards == 1 ? "" : "s", o->devices,
                 o->gpu ? "GPU" : "CPU worker", o->devices == 1 ? "" : "s", o->gpu ? ", on each" : ", together");
  for (int i = 0; i < LS_FOOTPRINT_KINDS; i++) {
    if (f->bytes[i] == 0) continue;
    ls_string_addf(out, "  %-32s %10s", ls_footprint_name((enum ls_footprint_kind)i),
                   ls_format_bytes(a, (double)f->bytes[i]));
    if (i == LS_FOOTPRINT_ACTIVATIONS)
      ls_string_addf(out, "   (%s a device without reuse)", ls_format_bytes(b, (double)f->unshared_bytes));
    ls_string_add(out, "\n");
  }
  ls_string_addf(out,
                 "  %-32s %10s\n\nLargest buffers (they share memory where they do not live at the same time):\n\n",
                 "all", ls_format_bytes(a, (double)f->total_bytes));
  for (int i = 0; i < f->largest_count; i++) {
    const struct ls_footprint_buffer *buffer = &f->largest[i];
    ls_string_addf(out, "  %10s  %s of %s, layer '%s'\n", ls_format_bytes(a, (double)buffer->bytes), buffer->what,
                   buffer->operation, buffer->layer);
  }
  bool fits = (double)f->total_bytes <= q->memory_bytes;
  ls_string_addf(out, "\nA batch of %llu %s %s (--device-memory); ", (unsigned long long)o->batch,
                 fits ? "fits into" : "does not fit into", ls_format_bytes(a, q->memory_bytes));
  if (largest)
    ls_string_addf(out, "the largest batch that fits is %s.\n", ls_format_count(a, largest));
  else
    ls_string_addf(out, "not even one image a shard, a batch of %u, fits.\n", o->shards);
  if (o->gpu)
    ls_string_add(
        out, "Scratch is the most that cuDNN may take. Not counted: the driver's and the libraries' own memory.\n");
}

static void write_json(const struct question *q, const struct ls_footprint *f, uint64_t largest,
                       struct ls_string *out) {
  const struct ls_footprint_options *o = &q->options;
  ls_string_addf(out,
                 "{\"kind\": \"%s\", \"precision\": \"%s\", \"batch\": %llu, \"shards\": %u, \"devices\": %u, "
                 "\"device_memory_bytes\": %.0f,\n  \"bytes\": {",
                 o->gpu ? "gpu" : "cpu", q->precision, (unsigned long long)o->batch, o->shards, o->devices,
                 q->memory_bytes);
  for (int i = 0; i < LS_FOOTPRINT_KINDS; i++) {
    ls_string_addf(out, "%s\"%s\": %llu", i ? ", " : "", ls_footprint_key((enum ls_footprint_kind)i),
                   (unsigned long long)f->bytes[i]);
  }
  ls_string_addf(
      out, "},\n  \"total_bytes\": %llu, \"without_reuse_bytes\": %llu, \"largest_batch\": %llu,\n  \"largest\": [",
      (unsigned long long)f->total_bytes, (unsigned long long)f->unshared_bytes, (unsigned long long)largest);
  for (int i = 0; i < f->largest_count; i++) {
    const struct ls_footprint_buffer *buffer = &f->largest[i];
    ls_string_addf(out, "%s{\"layer\": ", i ? ",\n    " : "");
    ls_json_string(out, buffer->layer);
    ls_string_addf(out, ", \"operation\": \"%s\", \"what\": \"%s\", \"bytes\": %llu}", buffer->operation, buffer->what,
                   (unsigned long long)buffer->bytes);
  }
  ls_string_add(out, "]}");
}

int memory_describe(const struct memory_options *options, uint64_t batch, uint64_t shards, const struct ls_graph *graph,
                    enum ls_output_format format, struct ls_string *out) {
  struct question q;
  struct ls_footprint f;
  struct ls_error err = LS_ERROR_INIT;
  uint64_t largest = 0;
  int code = read_question(options, batch, shards, &q);
  if (code != LS_CLI_OK) return code;
  if (ls_footprint_predict(graph, &q.options, &f, &err) != LS_OK ||
      ls_footprint_largest_batch(graph, &q.options, (uint64_t)q.memory_bytes, &largest, &err) != LS_OK) {
    return ls_cli_fail(&err);
  }
  (format == LS_OUTPUT_JSON ? write_json : write_text)(&q, &f, largest, out);
  return LS_CLI_OK;
}
