// `lockstep model show --memory`: what training takes in memory, as text or JSON.
#ifndef LS_CLI_MEMORY_H
#define LS_CLI_MEMORY_H

#include "cli/cli.h"
#include "graph/graph.h"

struct memory_options {
  const char *kind, *precision;  // NULL: chosen
  uint64_t devices;              // 0: 1
  double device_gib;             // 0: chosen
};

// Adds a paragraph or one JSON object to `out`. batch, shards 0: the defaults. Complains and returns an exit code.
int memory_describe(const struct memory_options *options, uint64_t batch, uint64_t shards, const struct ls_graph *graph,
                    enum ls_output_format format, struct ls_string *out);

#endif
