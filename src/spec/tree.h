// A YAML file as a tree of our own: what expansion and --set work on before it becomes a message. Every node knows where
// it stands in the file. All nodes of a tree are freed together (an arena); one thread at a time.
#ifndef LS_SPEC_TREE_H
#define LS_SPEC_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum tree_kind { TREE_SCALAR, TREE_MAP, TREE_LIST };

struct tree_node {
  enum tree_kind kind;
  int line, column;  // from 1; line 0: unknown, -1: from --set
  const char *text;  // scalar; "" for null
  bool quoted;       // a string for certain
  int count, capacity;
  const char **keys;            // map
  struct tree_node **children;  // map and list
};

struct tree {
  const char *file;
  void *blocks;  // memory, a list
  struct tree_node *root;
  size_t used_bytes;
};

// Parses YAML. `file` is kept for messages. Refuses more than 1 MiB of text, 64 levels, 64 MiB of tree and duplicate keys.
// The tree must be released even after a failure.
ls_status tree_parse(struct tree *tree, const char *text, size_t size, const char *file, struct ls_error *err);
void tree_release(struct tree *tree);

// NULL when memory runs out. Nodes begin empty, with the place of `like`.
struct tree_node *tree_new(struct tree *tree, enum tree_kind kind, const struct tree_node *like);
char *tree_text(struct tree *tree, const char *text);
bool tree_add(struct tree *tree, struct tree_node *parent, const char *key, struct tree_node *child);
// Child of a map, NULL when there is none.
struct tree_node *tree_find(const struct tree_node *map, const char *key);
// A deep copy in the same tree.
struct tree_node *tree_copy(struct tree *tree, const struct tree_node *node);
// Applies "a.b.0.c=VALUE"; VALUE is YAML.
ls_status tree_set(struct tree *tree, const char *setting, struct ls_error *err);

// Fails with "FILE:LINE:COLUMN: ...".
ls_status tree_fail(const struct tree *tree, const struct tree_node *node, struct ls_error *err, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));

#endif
