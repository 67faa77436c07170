// A YAML file as a tree: see tree.h. libfyaml reads it.
#include "spec/tree.h"

#include <libfyaml.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT_BYTES = 1 << 20, MAX_DEPTH = 64, MAX_TREE_BYTES = 64 << 20, BLOCK_BYTES = 1 << 16, FROM_SETTING = -1 };

struct block {
  struct block *next;
  size_t used, size;
  _Alignas(16) char data[];
};

static void *take(struct tree *tree, size_t size) {
  size = (size + 15) / 16 * 16;
  struct block *block = tree->blocks;
  if (!block || block->size - block->used < size) {
    size_t bytes = size > BLOCK_BYTES ? size : BLOCK_BYTES;
    if (tree->used_bytes + bytes > MAX_TREE_BYTES || !(block = malloc(sizeof *block + bytes))) return NULL;
    *block = (struct block){.next = tree->blocks, .size = bytes};
    tree->blocks = block;
    tree->used_bytes += bytes;
  }
  void *memory = block->data + block->used;
  block->used += size;
  return memset(memory, 0, size);
}

void tree_release(struct tree *tree) {
  for (struct block *block = tree->blocks, *next; block; block = next) {
    next = block->next;
    free(block);
  }
  tree->blocks = NULL;
  tree->root = NULL;
}

ls_status tree_fail(const struct tree *tree, const struct tree_node *node, struct ls_error *err, const char *format,
                    ...) {
  va_list args;
  va_start(args, format);
  ls_failv(err, LS_INVALID, format, args);
  va_end(args);
  if (node && node->line > 0) return ls_error_prefix(err, "%s:%d:%d", tree->file, node->line, node->column);
  return ls_error_prefix(err, "%s", node && node->line == FROM_SETTING ? "--set" : tree->file);
}

struct tree_node *tree_new(struct tree *tree, enum tree_kind kind, const struct tree_node *like) {
  struct tree_node *node = take(tree, sizeof *node);
  if (!node) return NULL;
  node->kind = kind;
  node->text = "";
  node->line = like ? like->line : 0;
  node->column = like ? like->column : 0;
  return node;
}

char *tree_text(struct tree *tree, const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = take(tree, size);
  return copy ? memcpy(copy, text, size) : NULL;
}

bool tree_add(struct tree *tree, struct tree_node *parent, const char *key, struct tree_node *child) {
  if (!child) return false;
  if (parent->count == parent->capacity) {
    int capacity = parent->capacity ? 2 * parent->capacity : 4;
    const char **keys = take(tree, (size_t)capacity * sizeof *keys);
    struct tree_node **children = take(tree, (size_t)capacity * sizeof *children);
    if (!keys || !children) return false;
    if (parent->count) {
      memcpy(keys, parent->keys, (size_t)parent->count * sizeof *keys);
      memcpy(children, parent->children, (size_t)parent->count * sizeof *children);
    }
    parent->keys = keys;
    parent->children = children;
    parent->capacity = capacity;
  }
  parent->keys[parent->count] = key;
  parent->children[parent->count++] = child;
  return true;
}

struct tree_node *tree_find(const struct tree_node *map, const char *key) {
  if (!map || map->kind != TREE_MAP) return NULL;
  for (int i = 0; i < map->count; i++) {
    if (strcmp(map->keys[i], key) == 0) return map->children[i];
  }
  return NULL;
}

struct tree_node *tree_copy(struct tree *tree, const struct tree_node *node) {
  struct tree_node *copy = tree_new(tree, node->kind, node);
  if (!copy) return NULL;
  copy->text = node->text;
  copy->quoted = node->quoted;
  for (int i = 0; i < node->count; i++) {
    if (!tree_add(tree, copy, node->keys[i], tree_copy(tree, node->children[i]))) return NULL;
  }
  return copy;
}

static ls_status no_memory(const struct tree *tree, struct ls_error *err) {
  return ls_fail(err, LS_INVALID, "%s: too large, its %d MiB of memory are used up", tree->file, MAX_TREE_BYTES >> 20);
}

static const char *node_text(struct tree *tree, struct fy_node *node) {
  size_t length = 0;
  const char *text = fy_node_get_scalar(node, &length);
  char *copy = take(tree, length + 1);
  if (copy && length) memcpy(copy, text, length);
  return copy;
}

static ls_status convert(struct tree *tree, struct fy_node *from, int depth, struct tree_node *node,
                         struct ls_error *err);

// Where a scalar stands; a map, a list and an empty value have no mark of their own.
static void set_place(struct tree_node *node, struct fy_node *scalar) {
  struct fy_token *token = fy_node_get_scalar_token(scalar);
  const struct fy_mark *mark = token ? fy_token_start_mark(token) : NULL;
  if (!mark) return;
  node->line = mark->line + 1;
  node->column = mark->column + 1;
}

static ls_status convert_map(struct tree *tree, struct fy_node *from, int depth, struct tree_node *map,
                             struct ls_error *err) {
  void *at = NULL;
  for (struct fy_node_pair *pair; (pair = fy_node_mapping_iterate(from, &at)) != NULL;) {
    struct fy_node *key = fy_node_pair_key(pair);
    if (!key || fy_node_get_type(key) != FYNT_SCALAR || fy_node_is_alias(key))
      return tree_fail(tree, map, err, "a key must be a plain word");
    const char *name = node_text(tree, key);
    struct tree_node *child = tree_new(tree, TREE_SCALAR, map);
    if (!name || !child) return no_memory(tree, err);
    set_place(child, key);
    if (map->line == 0) {  // the root stands where its first key does
      map->line = child->line;
      map->column = child->column;
    }
    if (tree_find(map, name)) return tree_fail(tree, child, err, "key '%s' stands here a second time", name);
    LS_TRY(convert(tree, fy_node_pair_value(pair), depth + 1, child, err));
    if (!tree_add(tree, map, name, child)) return no_memory(tree, err);
  }
  return LS_OK;
}

// Fills in `node`, which stands where its key or its list does until its own place is known. Aliases become copies of what
// they name: one that is inside itself ends at the depth, many of many at the tree's memory.
static ls_status convert(struct tree *tree, struct fy_node *from, int depth, struct tree_node *node,
                         struct ls_error *err) {
  if (depth > MAX_DEPTH) return tree_fail(tree, node, err, "nested more than %d levels deep", MAX_DEPTH);
  if (from && fy_node_is_alias(from)) {
    from = fy_node_resolve_alias(from);
    if (!from) return tree_fail(tree, node, err, "an alias names no anchor before it");
  }
  enum fy_node_type type = from ? fy_node_get_type(from) : FYNT_SCALAR;
  if (type == FYNT_MAPPING) {
    node->kind = TREE_MAP;
    return convert_map(tree, from, depth, node, err);
  }
  if (type == FYNT_SEQUENCE) {
    node->kind = TREE_LIST;
    void *at = NULL;
    for (struct fy_node *item; (item = fy_node_sequence_iterate(from, &at)) != NULL;) {
      struct tree_node *child = tree_new(tree, TREE_SCALAR, node);
      if (!child) return no_memory(tree, err);
      LS_TRY(convert(tree, item, depth + 1, child, err));
      if (!tree_add(tree, node, NULL, child)) return no_memory(tree, err);
    }
    return LS_OK;
  }
  if (!from) return LS_OK;
  set_place(node, from);
  node->text = node_text(tree, from);
  if (!node->text) return no_memory(tree, err);
  enum fy_node_style style = fy_node_get_style(from);
  node->quoted = style == FYNS_SINGLE_QUOTED || style == FYNS_DOUBLE_QUOTED || style == FYNS_LITERAL;
  return LS_OK;
}

// libfyaml reports through a diagnostic object; its first line is the error, with position.
static ls_status parse_error(struct tree *tree, struct fy_diag *diag, struct ls_error *err) {
  void *at = NULL;
  struct fy_diag_error *error = diag ? fy_diag_errors_iterate(diag, &at) : NULL;
  if (!error) return ls_fail(err, LS_INVALID, "%s: holds nothing, or no YAML", tree->file);
  return ls_fail(err, LS_INVALID, "%s:%d:%d: this is no YAML: %s", tree->file, error->line, error->column, error->msg);
}

ls_status tree_parse(struct tree *tree, const char *text, size_t size, const char *file, struct ls_error *err) {
  *tree = (struct tree){.file = file};
  if (size > MAX_TEXT_BYTES)
    return ls_fail(err, LS_INVALID, "%s: larger than the %d bytes allowed", file, MAX_TEXT_BYTES);
  if (memchr(text, 0, size)) return ls_fail(err, LS_INVALID, "%s: has a zero byte in it", file);
  struct fy_diag_cfg diag_cfg;
  fy_diag_cfg_default(&diag_cfg);
  diag_cfg.fp = NULL;
  struct fy_diag *diag = fy_diag_create(&diag_cfg);
  if (diag) fy_diag_set_collect_errors(diag, true);
  struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_ALLOW_DUPLICATE_KEYS, .diag = diag};
  struct fy_document *document = fy_document_build_from_string(&cfg, text, size);
  ls_status status;
  if (!document) {
    status = parse_error(tree, diag, err);
  } else {
    tree->root = tree_new(tree, TREE_SCALAR, NULL);
    status = tree->root ? convert(tree, fy_document_root(document), 0, tree->root, err) : no_memory(tree, err);
  }
  fy_document_destroy(document);
  fy_diag_destroy(diag);
  return status;
}

// Nothing of a setting stands in the file.
static void forget_place(struct tree_node *node) {
  node->line = FROM_SETTING;
  for (int i = 0; i < node->count; i++) forget_place(node->children[i]);
}

// The value of a setting, as a node of `tree` without a place.
static ls_status setting_value(struct tree *tree, const char *text, struct tree_node **value, struct ls_error *err) {
  struct tree parsed;
  ls_status status = tree_parse(&parsed, text, strlen(text), "--set", err);
  if (status == LS_OK) {
    *value = tree_copy(tree, parsed.root);
    if (!*value) status = no_memory(tree, err);
  }
  // Texts of the copy still point into `parsed`; keep its memory by joining the lists.
  if (status == LS_OK && parsed.blocks) {
    struct block *last = parsed.blocks;
    while (last->next) last = last->next;
    last->next = tree->blocks;
    tree->blocks = parsed.blocks;
    forget_place(*value);
    return LS_OK;
  }
  tree_release(&parsed);
  return status;
}

ls_status tree_set(struct tree *tree, const char *setting, struct ls_error *err) {
  const char *equals = strchr(setting, '=');
  if (!equals || equals == setting) {
    return ls_fail(err, LS_INVALID, "--set '%s': expected KEY=VALUE, such as optimizer.sgd.learning_rate=0.1", setting);
  }
  struct tree_node *value = NULL;
  LS_TRY(setting_value(tree, equals + 1, &value, err));
  char *path = tree_text(tree, setting);
  if (!path) return no_memory(tree, err);
  path[equals - setting] = 0;
  struct tree_node *at = tree->root;
  for (char *part = path, *next; part; part = next) {
    next = strchr(part, '.');
    if (next) *next++ = 0;
    struct tree_node **slot = NULL;
    if (at->kind == TREE_LIST) {
      char *end;
      long index = strtol(part, &end, 10);
      if (*end || end == part || index < 0 || index >= at->count) {
        return ls_fail(err, LS_INVALID, "--set '%s': '%s' is no place in a list of %d", setting, part, at->count);
      }
      slot = &at->children[index];
    } else {
      if (at->kind == TREE_SCALAR) {  // nothing becomes a map, and `cosine` becomes {cosine: {}}
        at->kind = TREE_MAP;
        if (at->text[0] && !tree_add(tree, at, at->text, tree_new(tree, TREE_MAP, at))) return no_memory(tree, err);
      }
      struct tree_node *empty = tree_find(at, part) ? NULL : tree_new(tree, TREE_MAP, NULL);
      if (empty) empty->line = FROM_SETTING;
      if (!tree_find(at, part) && !tree_add(tree, at, part, empty)) return no_memory(tree, err);
      for (int i = 0; i < at->count; i++) {
        if (strcmp(at->keys[i], part) == 0) slot = &at->children[i];
      }
    }
    if (!next) *slot = value;
    at = *slot;
  }
  return LS_OK;
}
