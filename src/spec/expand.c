// Blocks of a network file: macros of the YAML tree, gone before it becomes a message.
//
//   blocks:
//     basic:
//       parameters: {filters: 16, stride: 1}      or a list of names: all must be given
//       layers:
//         - {name: conv1, convolution: {filters: $filters, kernel: 3, stride: $stride, pad: 1, bias: false}}
//         - {name: shortcut, from: input, if: ${stride != 1}, convolution: {filters: "${filters * 4}", ...}}
//   layers:
//     - {block: basic, name: stage1, filters: 16, repeat: 3, later: {stride: 1}}
//
// `repeat` writes the block several times, each reading from the one before; `later` overrides parameters from the second
// time on. Inside a block names are its own: layer conv1 of the second repetition of stage1 becomes stage1.2.conv1 (without
// repeat: stage1.conv1); `from` looks in the block first, then around it; `input` is what the block reads. A layer without
// a name gets its type and number. Whoever reads `from: stage1` reads the block's last layer.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"
#include "spec/spec_internal.h"

enum { MAX_LAYERS = 20000, MAX_NESTING = 16, MAX_PARAMETERS = 32 };

struct scope {
  const struct scope *outer;
  const struct tree_node *definition;  // of the block
  const char *names[MAX_PARAMETERS];
  const char *values[MAX_PARAMETERS];
  int count;
  const char *prefix;  // "stage1.2."
  const char *input;   // name of the layer the block reads; "input" at the top
  // Local names so far and what they became.
  struct tree_node *known;  // map: local name -> scalar with the full name
  int depth;
};

struct expander {
  struct tree *tree;
  struct ls_error *err;
  const struct tree_node *blocks;
  struct tree_node *out;  // the flat list
  const char *last;       // name of the layer written last
};

static ls_status fail_memory(struct expander *x) {
  return ls_fail(x->err, LS_INVALID, "%s: the network is too large", x->tree->file);
}

// --- values: $name, ${expression} -----------------------------------------------------------------------------------

struct parser {
  struct expander *x;
  const struct scope *scope;
  const struct tree_node *node;
  const char *at;
  bool failed;
  int depth;  // of parentheses
};

static ls_status bad_expression(struct parser *p, const char *what, const char *detail) {
  if (!p->failed) tree_fail(p->x->tree, p->node, p->x->err, "'%.80s': %s%.80s", p->node->text, what, detail);
  p->failed = true;
  return LS_INVALID;
}

static const char *parameter_value(const struct scope *scope, const char *name, size_t length) {
  for (int i = 0; scope && i < scope->count; i++) {
    if (strlen(scope->names[i]) == length && memcmp(scope->names[i], name, length) == 0) return scope->values[i];
  }
  return NULL;
}

static void skip_spaces(struct parser *p) {
  while (isspace((unsigned char)*p->at)) p->at++;
}

static long long expression(struct parser *p, int level);

static long long operand(struct parser *p) {
  skip_spaces(p);
  if (*p->at == '(') {
    p->at++;
    if (++p->depth > MAX_NESTING) {
      bad_expression(p, "parentheses are nested too deep", "");
      return 0;
    }
    long long value = expression(p, 0);
    p->depth--;
    skip_spaces(p);
    if (*p->at != ')')
      bad_expression(p, "a closing parenthesis is missing", "");
    else
      p->at++;
    return value;
  }
  if (isdigit((unsigned char)*p->at) || *p->at == '-') {
    char *end;
    long long value = strtoll(p->at, &end, 10);
    if (end == p->at) bad_expression(p, "a number was expected", "");
    p->at = end;
    return value;
  }
  if (*p->at == '$') p->at++;
  const char *name = p->at;
  while (isalnum((unsigned char)*p->at) || *p->at == '_') p->at++;
  const char *value = parameter_value(p->scope, name, (size_t)(p->at - name));
  if (p->at == name || !value) {
    char text[64];
    snprintf(text, sizeof text, "'%.*s'", (int)(p->at - name), name);
    bad_expression(p, "no parameter of this block is called ", text);
    return 0;
  }
  if (strcmp(value, "true") == 0) return 1;
  if (strcmp(value, "false") == 0) return 0;
  char *end;
  long long number = strtoll(value, &end, 10);
  if (*end || end == value) bad_expression(p, "in arithmetic only whole numbers are allowed, found ", value);
  return number;
}

// Operators by level, loosest first.
static const char *const operators[][6] = {{"==", "!=", "<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/", "%"}};

static long long apply(struct parser *p, const char *op, long long a, long long b) {
  if (strcmp(op, "==") == 0) return a == b;
  if (strcmp(op, "!=") == 0) return a != b;
  if (strcmp(op, "<=") == 0) return a <= b;
  if (strcmp(op, ">=") == 0) return a >= b;
  long long result = 0;
  switch (op[0]) {
    case '<': return a < b;
    case '>': return a > b;
    case '+':
      if (__builtin_add_overflow(a, b, &result)) bad_expression(p, "the number is too large", "");
      return result;
    case '-':
      if (__builtin_sub_overflow(a, b, &result)) bad_expression(p, "the number is too large", "");
      return result;
    case '*':
      if (__builtin_mul_overflow(a, b, &result)) bad_expression(p, "the number is too large", "");
      return result;
    default:
      if (b == 0 || b == -1) {
        bad_expression(p, "division by ", b ? "-1" : "0");
        return 0;
      }
      if (op[0] == '/' && a % b) bad_expression(p, "the division leaves a remainder", "");
      return op[0] == '/' ? a / b : a % b;
  }
}

static long long expression(struct parser *p, int level) {
  if (level == 3) return operand(p);
  long long value = expression(p, level + 1);
  while (!p->failed) {
    skip_spaces(p);
    const char *found = NULL;
    for (int i = 0; i < 6 && operators[level][i] && !found; i++) {
      if (strncmp(p->at, operators[level][i], strlen(operators[level][i])) == 0) found = operators[level][i];
    }
    if (!found) break;
    p->at += strlen(found);
    value = apply(p, found, value, expression(p, level + 1));
  }
  return value;
}

// A scalar with its parameters put in.
static ls_status substitute(struct expander *x, const struct scope *scope, const struct tree_node *node,
                            const char **text) {
  *text = node->text;
  if (node->text[0] != '$') return LS_OK;
  struct parser p = {x, scope, node, node->text + 1, false, 0};
  if (node->text[1] != '{') {
    const char *value = parameter_value(scope, node->text + 1, strlen(node->text + 1));
    if (!value) return bad_expression(&p, "no parameter of this block has this name", "");
    *text = value;
    return LS_OK;
  }
  p.at++;
  long long value = expression(&p, 0);
  skip_spaces(&p);
  if (!p.failed && strcmp(p.at, "}") != 0) bad_expression(&p, "the expression does not end in '}'", "");
  if (p.failed) return LS_INVALID;
  char number[32];
  snprintf(number, sizeof number, "%lld", value);
  *text = tree_text(x->tree, number);
  return *text ? LS_OK : fail_memory(x);
}

static ls_status substitute_all(struct expander *x, const struct scope *scope, struct tree_node *node) {
  if (node->kind == TREE_SCALAR) {
    if (node->text[0] == '$') node->quoted = false;  // "${filters * 4}" is quoted for YAML's sake only
    return substitute(x, scope, node, &node->text);
  }
  for (int i = 0; i < node->count; i++) LS_TRY(substitute_all(x, scope, node->children[i]));
  return LS_OK;
}

// --- layers -----------------------------------------------------------------------------------------------------------

static struct tree_node *scalar(struct expander *x, const char *text, const struct tree_node *like) {
  struct tree_node *node = tree_new(x->tree, TREE_SCALAR, like);
  if (node) node->text = text;
  return node;
}

static ls_status remember(struct expander *x, struct scope *scope, const char *local, const char *full,
                          const struct tree_node *at) {
  if (tree_find(scope->known, local)) {
    return tree_fail(x->tree, at, x->err, "the name '%s' is given to two layers", local);
  }
  return tree_add(x->tree, scope->known, local, scalar(x, full, at)) ? LS_OK : fail_memory(x);
}

// The full name behind a `from`: in this block, then around it.
static ls_status resolve(struct expander *x, const struct scope *scope, struct tree_node *from) {
  LS_TRY(substitute(x, scope, from, &from->text));
  if (strcmp(from->text, "input") == 0) {
    from->text = scope->input;
    return LS_OK;
  }
  for (const struct scope *s = scope; s; s = s->outer) {
    const struct tree_node *known = tree_find(s->known, from->text);
    if (known) {
      from->text = known->text;
      return LS_OK;
    }
  }
  return tree_fail(x->tree, from, x->err, "'from: %s' names no layer before this one", from->text);
}

static ls_status resolve_from(struct expander *x, const struct scope *scope, struct tree_node *from) {
  if (from->kind == TREE_SCALAR) return resolve(x, scope, from);
  if (from->kind == TREE_MAP) return tree_fail(x->tree, from, x->err, "'from' takes names of layers");
  for (int i = 0; i < from->count; i++) {
    if (from->children[i]->kind != TREE_SCALAR) return tree_fail(x->tree, from, x->err, "'from' takes names of layers");
    LS_TRY(resolve(x, scope, from->children[i]));
  }
  return LS_OK;
}

static const char *format_name(struct expander *x, const char *prefix, const char *name) {
  char full[256];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  return tree_text(x->tree, full);
}

static ls_status expand_list(struct expander *x, struct scope *scope, const struct tree_node *list);

// The type of a layer: the key that is neither name nor from.
static const char *type_of(const struct tree_node *layer) {
  for (int i = 0; i < layer->count; i++) {
    if (strcmp(layer->keys[i], "name") && strcmp(layer->keys[i], "from")) return layer->keys[i];
  }
  return "layer";
}

static ls_status write_layer(struct expander *x, struct scope *scope, struct tree_node *layer, int position) {
  if (x->out->count >= MAX_LAYERS) {
    return tree_fail(x->tree, layer, x->err, "the network has more than %d layers", MAX_LAYERS);
  }
  LS_TRY(substitute_all(x, scope, layer));
  struct tree_node *name = tree_find(layer, "name"), *from = tree_find(layer, "from");
  char automatic[96];
  snprintf(automatic, sizeof automatic, "%.60s%d", type_of(layer), position + 1);
  const char *local = name && name->text[0] ? name->text : tree_text(x->tree, automatic);
  const char *full = local ? format_name(x, scope->prefix, local) : NULL;
  if (!full) return fail_memory(x);
  if (!ls_name_good(full)) {
    return tree_fail(x->tree, name ? name : layer, x->err, "'%.80s' is no name for a layer; " LS_NAME_RULE, full);
  }
  const char *before = x->out->count ? x->out->children[x->out->count - 1]->text : "input";
  if (from) {
    LS_TRY(resolve_from(x, scope, from));
  } else if (strcmp(before, x->last) != 0 && !tree_add(x->tree, layer, "from", scalar(x, x->last, layer))) {
    return fail_memory(x);  // the block reads another layer than the one written last
  }
  if (name)
    name->text = full;
  else if (!tree_add(x->tree, layer, "name", scalar(x, full, layer)))
    return fail_memory(x);
  LS_TRY(remember(x, scope, local, full, layer));
  layer->text = full;  // a map's own text is free: the layer's name, for the check above
  x->last = full;
  return tree_add(x->tree, x->out, NULL, layer) ? LS_OK : fail_memory(x);
}

static bool is_reserved(const char *key) {
  static const char *const reserved[] = {"block", "name", "from", "repeat", "later", "if"};
  for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++) {
    if (strcmp(key, reserved[i]) == 0) return true;
  }
  return false;
}

static ls_status give(struct expander *x, struct scope *inner, const struct scope *outer, const char *name,
                      const struct tree_node *value) {
  for (int i = 0; i < inner->count; i++) {
    if (strcmp(inner->names[i], name) != 0) continue;
    if (value->kind != TREE_SCALAR)
      return tree_fail(x->tree, value, x->err, "parameter '%s' takes a single value", name);
    return substitute(x, outer, value, &inner->values[i]);
  }
  char known[256] = "";
  size_t used = 0;
  for (int i = 0; i < inner->count && used < 200; i++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%.60s", i ? ", " : "", inner->names[i]);
  return tree_fail(x->tree, value, x->err, "the block has no parameter '%s'; known: %s", name, known);
}

static ls_status bind_parameters(struct expander *x, struct scope *inner, const struct scope *outer,
                                 const struct tree_node *use, bool later) {
  const struct tree_node *declared = tree_find(inner->definition, "parameters");
  inner->count = 0;
  for (int i = 0; declared && i < declared->count; i++) {
    if (inner->count == MAX_PARAMETERS)
      return tree_fail(x->tree, declared, x->err, "more than %d parameters", MAX_PARAMETERS);
    bool map = declared->kind == TREE_MAP;
    inner->names[inner->count] = map ? declared->keys[i] : declared->children[i]->text;
    inner->values[inner->count++] = map ? declared->children[i]->text : NULL;
  }
  for (int i = 0; i < use->count; i++) {
    if (!is_reserved(use->keys[i])) LS_TRY(give(x, inner, outer, use->keys[i], use->children[i]));
  }
  const struct tree_node *overrides = tree_find(use, "later");
  for (int i = 0; later && overrides && i < overrides->count; i++) {
    LS_TRY(give(x, inner, outer, overrides->keys ? overrides->keys[i] : "", overrides->children[i]));
  }
  for (int i = 0; i < inner->count; i++) {
    if (!inner->values[i]) return tree_fail(x->tree, use, x->err, "the block needs a value for '%s'", inner->names[i]);
  }
  return LS_OK;
}

static ls_status expand_block(struct expander *x, struct scope *scope, const struct tree_node *use, int position) {
  const struct tree_node *block = tree_find(use, "block"), *name = tree_find(use, "name"),
                         *repeat = tree_find(use, "repeat");
  struct scope inner = {.outer = NULL, .definition = tree_find(x->blocks, block->text), .depth = scope->depth + 1};
  if (!inner.definition) return tree_fail(x->tree, block, x->err, "no block is called '%s'", block->text);
  if (inner.depth > MAX_NESTING)
    return tree_fail(x->tree, block, x->err, "blocks use each other more than %d deep", MAX_NESTING);
  const struct tree_node *layers = tree_find(inner.definition, "layers");
  if (!layers || layers->kind != TREE_LIST)
    return tree_fail(x->tree, block, x->err, "block '%s' has no list of layers", block->text);
  const char *count_text = "1", *local = NULL;
  if (repeat) LS_TRY(substitute(x, scope, repeat, &count_text));
  char *end;
  long count = strtol(count_text, &end, 10);
  if (*end || count < 1 || count > MAX_LAYERS) {
    return tree_fail(x->tree, repeat, x->err, "key 'repeat': found '%s', expected a whole number of at least 1",
                     count_text);
  }
  if (name) LS_TRY(substitute(x, scope, name, &local));
  char automatic[96], prefix[256];
  snprintf(automatic, sizeof automatic, "%.60s%d", block->text, position + 1);
  if (!local && !(local = tree_text(x->tree, automatic))) return fail_memory(x);
  struct tree_node *from = tree_find(use, "from");
  if (from) {
    struct tree_node *source = tree_copy(x->tree, from);
    if (!source || source->kind != TREE_SCALAR) return tree_fail(x->tree, from, x->err, "a block reads from one layer");
    LS_TRY(resolve(x, scope, source));
    x->last = source->text;
  }
  inner.outer = scope;
  for (long i = 0; i < count; i++) {
    LS_TRY(bind_parameters(x, &inner, scope, use, i > 0));
    if (count > 1)
      snprintf(prefix, sizeof prefix, "%s%s.%ld.", scope->prefix, local, i + 1);
    else
      snprintf(prefix, sizeof prefix, "%s%s.", scope->prefix, local);
    inner.prefix = tree_text(x->tree, prefix);
    inner.input = x->last;
    inner.known = tree_new(x->tree, TREE_MAP, use);
    if (!inner.prefix || !inner.known) return fail_memory(x);
    LS_TRY(expand_list(x, &inner, layers));
  }
  return remember(x, scope, local, x->last, use);
}

static ls_status expand_list(struct expander *x, struct scope *scope, const struct tree_node *list) {
  for (int i = 0; i < list->count; i++) {
    struct tree_node *entry = tree_copy(x->tree, list->children[i]);
    if (!entry) return fail_memory(x);
    if (entry->kind == TREE_SCALAR && entry->text[0]) {  // `- relu`
      struct tree_node *map = tree_new(x->tree, TREE_MAP, entry);
      if (!map || !tree_add(x->tree, map, entry->text, tree_new(x->tree, TREE_MAP, entry))) return fail_memory(x);
      entry = map;
    }
    if (entry->kind != TREE_MAP) return tree_fail(x->tree, entry, x->err, "a layer must be a mapping or a type's name");
    struct tree_node *condition = tree_find(entry, "if");
    if (condition) {
      const char *value;
      LS_TRY(substitute(x, scope, condition, &value));
      if (strcmp(value, "0") == 0 || strcmp(value, "false") == 0) continue;
      for (int j = 0; j < entry->count; j++) {
        if (entry->children[j] != condition) continue;
        entry->count--;
        memmove(&entry->keys[j], &entry->keys[j + 1], (size_t)(entry->count - j) * sizeof *entry->keys);
        memmove(&entry->children[j], &entry->children[j + 1], (size_t)(entry->count - j) * sizeof *entry->children);
      }
    }
    if (tree_find(entry, "block"))
      LS_TRY(expand_block(x, scope, entry, i));
    else
      LS_TRY(write_layer(x, scope, entry, i));
  }
  return LS_OK;
}

ls_status expand_network(struct tree *tree, struct tree_node *network, struct ls_error *err) {
  if (network->kind != TREE_MAP) return LS_OK;  // decoding says what is wrong
  struct tree_node *layers = tree_find(network, "layers");
  if (!layers || layers->kind != TREE_LIST) return LS_OK;
  struct expander x = {.tree = tree, .err = err, .blocks = tree_find(network, "blocks"), .last = "input"};
  x.out = tree_new(tree, TREE_LIST, layers);
  struct scope top = {.prefix = "", .input = "input", .known = tree_new(tree, TREE_MAP, layers)};
  if (!x.out || !top.known) return fail_memory(&x);
  LS_TRY(expand_list(&x, &top, layers));
  int kept = 0;
  for (int i = 0; i < network->count; i++) {
    if (strcmp(network->keys[i], "blocks") == 0) continue;
    network->keys[kept] = network->keys[i];
    network->children[kept++] = strcmp(network->keys[i], "layers") == 0 ? x.out : network->children[i];
  }
  network->count = kept;
  return LS_OK;
}
