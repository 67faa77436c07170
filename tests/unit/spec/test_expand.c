// Network files: blocks, repetition, parameters, conditions, names and `from`, and what goes wrong with them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spec/spec.h"

#define INPUT "input: {channels: 3, height: 8, width: 8}\n"

static Lockstep__V1__Network *network(const char *text) {
  ProtobufCMessage *message;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_spec_parse(text, strlen(text), "n.yaml", &lockstep__v1__network__descriptor, NULL, 0, &message, &err) != LS_OK)
    fail_msg("%s", err.text);
  return (Lockstep__V1__Network *)message;
}

// The layers as "name<from,from ...": one word a layer.
static void expect_layers(const char *text, const char *expected) {
  Lockstep__V1__Network *n = network(text);
  struct ls_string found = LS_STRING_INIT;
  for (size_t i = 0; i < n->n_layers; i++) {
    ls_string_addf(&found, "%s%s", i ? " " : "", n->layers[i]->name);
    for (size_t j = 0; j < n->layers[i]->n_from; j++)
      ls_string_addf(&found, "%s%s", j ? "," : "<", n->layers[i]->from[j]);
  }
  assert_string_equal(ls_string_text(&found), expected);
  ls_string_release(&found);
  lockstep__v1__network__free_unpacked(n, NULL);
}

static void refused(const char *text, const char *words) {
  ProtobufCMessage *message;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_equal(
      ls_spec_parse(text, strlen(text), "n.yaml", &lockstep__v1__network__descriptor, NULL, 0, &message, &err),
      LS_INVALID);
  if (!strstr(err.text, words)) fail_msg("'%s' lacks '%s'", err.text, words);
}

static void test_plain_list(void **state) {
  (void)state;
  expect_layers(INPUT
                "layers:\n"
                "  - relu\n"
                "  - {name: a, fully_connected: {units: 3}}\n"
                "  - fully_connected: {units: 3}\n"
                "  - {name: sum, from: [a, input], add: {}}\n"
                "  - {from: a, relu: {}}\n",
                "relu1 a fully_connected3 sum<a,input relu5<a");
}

// Whoever reads the block's name reads its last layer; inside, `input` is what the block reads.
static void test_block(void **state) {
  (void)state;
  expect_layers(INPUT
                "blocks:\n"
                "  res:\n"
                "    layers:\n"
                "      - {name: a, relu: {}}\n"
                "      - {name: sum, from: [a, input], add: {}}\n"
                "layers:\n"
                "  - {name: first, relu: {}}\n"
                "  - {block: res, name: one}\n"
                "  - {block: res}\n"
                "  - {name: end, from: [one, first], add: {}}\n",
                "first one.a one.sum<one.a,first res3.a res3.sum<res3.a,one.sum end<one.sum,first");
  // A block that reads another layer than the one before it; at the top `input` is the image.
  expect_layers(INPUT
                "blocks: {b: {layers: [{name: x, relu: {}}, {name: y, from: [x, input], add: {}}]}}\n"
                "layers: [{name: l, relu: {}}, {block: b, name: m, from: input}, {block: b, name: n, from: l}]\n",
                "l m.x<input m.y<m.x,input n.x<l n.y<n.x,l");
}

static void test_repeat(void **state) {
  (void)state;
  expect_layers(INPUT
                "blocks:\n"
                "  b: {layers: [{name: a, relu: {}}, {name: s, from: [a, input], add: {}}]}\n"
                "layers:\n"
                "  - {name: in, relu: {}}\n"
                "  - {block: b, name: r, repeat: 3}\n"
                "  - {name: out, from: [r], relu: {}}\n",
                "in r.1.a r.1.s<r.1.a,in r.2.a r.2.s<r.2.a,r.1.s r.3.a r.3.s<r.3.a,r.2.s out<r.3.s");
}

static void test_parameters(void **state) {
  (void)state;
  Lockstep__V1__Network *n = network(INPUT
                                     "blocks:\n"
                                     "  b:\n"
                                     "    parameters: {filters: 16, stride: 1}\n"
                                     "    layers:\n"
                                     "      - {convolution: {filters: $filters, kernel: 3, stride: $stride}}\n"
                                     "      - {convolution: {filters: \"${filters * 4 - (2 + 1) % 2}\", kernel: 1}}\n"
                                     "  c:\n"
                                     "    parameters: [n]\n"
                                     "    layers: [{block: b, name: inner, filters: \"${2 * n}\", repeat: $n}]\n"
                                     "layers:\n"
                                     "  - {block: b, stride: 2, repeat: 2, later: {stride: 1}}\n"
                                     "  - {block: c, n: 2}\n");
  static const uint32_t filters[] = {16, 63, 16, 63, 4, 15, 4, 15}, strides[] = {2, 0, 1, 0, 1, 0, 1, 0};
  assert_int_equal(n->n_layers, 8);
  for (size_t i = 0; i < n->n_layers; i++) {
    assert_int_equal(n->layers[i]->convolution->filters, filters[i]);
    if (strides[i]) assert_int_equal(n->layers[i]->convolution->stride[0], strides[i]);
  }
  assert_string_equal(n->layers[6]->name, "c2.inner.2.convolution1");
  lockstep__v1__network__free_unpacked(n, NULL);
}

static void test_conditions(void **state) {
  (void)state;
  expect_layers(INPUT
                "blocks:\n"
                "  b:\n"
                "    parameters: {s: 1, last: false}\n"
                "    layers:\n"
                "      - {name: a, relu: {}}\n"
                "      - {name: two, if: \"${s == 2}\", relu: {}}\n"
                "      - {name: not_two, if: \"${s != 2}\", relu: {}}\n"
                "      - {name: end, if: $last, relu: {}}\n"
                "layers:\n"
                "  - {block: b, name: x}\n"
                "  - {block: b, name: y, s: 2, last: true}\n",
                "x.a x.not_two y.a y.two y.end");
}

static void test_operators(void **state) {
  (void)state;
  static const struct {
    const char *expression;
    uint32_t value;
  } cases[] = {{"1 + 2 * 3", 7},    {"(1 + 2) * 3", 9}, {"10 - 4 - 3", 3},   {"12 / 4 / 3", 1},
               {"7 % 4", 3},        {"1 + (3 < 4)", 2}, {"1 + (4 <= 3)", 1}, {"1 + (3 > 4)", 1},
               {"1 + (4 >= 4)", 2}, {"-3 + 5", 2},      {"p * $p", 25},      {"1+(p==5)*2", 3}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ls_string text = LS_STRING_INIT;
    ls_string_addf(&text,
                   INPUT
                   "blocks: {b: {parameters: {p: 5}, layers: [fully_connected: {units: \"${%s}\"}]}}\n"
                   "layers: [{block: b}]\n",
                   cases[i].expression);
    Lockstep__V1__Network *n = network(ls_string_text(&text));
    if (n->layers[0]->fully_connected->units != cases[i].value)
      fail_msg("%s is %u", cases[i].expression, n->layers[0]->fully_connected->units);
    lockstep__v1__network__free_unpacked(n, NULL);
    ls_string_release(&text);
  }
}

// One block, one use of it, and an expression in its only layer.
#define WITH(expression, use)                                                                    \
  INPUT "blocks: {b: {parameters: {p: 5, w: x}, layers: [fully_connected: {units: \"" expression \
        "\"}]}}\n"                                                                               \
        "layers: [{block: b" use "}]\n"

static void test_mistakes(void **state) {
  (void)state;
  refused(WITH("$q", ""), "n.yaml:2:");
  refused(WITH("$q", ""), "'$q': no parameter of this block has this name");
  refused(WITH("${q + 1}", ""), "no parameter of this block is called 'q'");
  refused(WITH("${p +}", ""), "no parameter of this block is called ''");
  refused(WITH("${w + 1}", ""), "in arithmetic only whole numbers are allowed, found x");
  refused(WITH("${p / 0}", ""), "division by 0");
  refused(WITH("${p / 2}", ""), "the division leaves a remainder");
  refused(WITH("${p % 0}", ""), "division by 0");
  refused(WITH("${9223372036854775807 + p}", ""), "the number is too large");
  refused(WITH("${9223372036854775807 * p}", ""), "the number is too large");
  refused(WITH("${(p}", ""), "a closing parenthesis is missing");
  refused(WITH("${p p}", ""), "the expression does not end in '}'");
  refused(WITH("${p", ""), "the expression does not end in '}'");
  refused(WITH("${p - 6}", ""), "key 'units': found '-1'");
  refused(WITH("$p", ", q: 3"), "the block has no parameter 'q'; known: p, w");
  refused(WITH("$p", ", p: [3]"), "parameter 'p' takes a single value");
  refused(WITH("$p", ", repeat: 0"), "key 'repeat': found '0', expected a whole number of at least 1");
  refused(WITH("$p", ", repeat: many"), "key 'repeat': found 'many'");
  refused(WITH("$p", ", repeat: 20000}, {block: b"), "the network has more than 20000 layers");
  refused(INPUT "layers: [{block: b}]\n", "n.yaml:2:18: no block is called 'b'");
  refused(INPUT "blocks: {b: {}}\nlayers: [{block: b}]\n", "block 'b' has no list of layers");
  refused(INPUT "blocks: {b: {parameters: [p], layers: [relu]}}\nlayers: [{block: b}]\n",
          "the block needs a value for 'p'");
  refused(INPUT "blocks: {b: {layers: [{block: b}]}}\nlayers: [{block: b}]\n",
          "blocks use each other more than 16 deep");
  refused(INPUT "layers: [{name: a, relu: {}}, {name: a, relu: {}}]\n", "n.yaml:2:");
  refused(INPUT "layers: [{name: a, relu: {}}, {name: a, relu: {}}]\n", "the name 'a' is given to two layers");
  refused(INPUT "layers: [{name: a, from: b, relu: {}}, {name: b, relu: {}}]\n",
          "n.yaml:2:26: 'from: b' names no layer before this one");
  refused(INPUT "layers: [{from: {a: 1}, relu: {}}]\n", "'from' takes names of layers");
  refused(INPUT "layers: [{from: [[a]], relu: {}}]\n", "'from' takes names of layers");
  refused(INPUT "layers: [[relu]]\n", "a layer must be a mapping or a type's name");
  refused(INPUT "layers: [rellu]\n", "unknown key 'rellu'; did you mean 'relu'?");
  refused(INPUT "layers: [{relu: {}, dropout: {}}]\n", "both 'relu' and 'dropout' are given here");
}

// Parentheses in a hostile file do not use up the stack.
static void test_deep_expression(void **state) {
  (void)state;
  struct ls_string text = LS_STRING_INIT;
  ls_string_add(&text, INPUT "blocks: {b: {layers: [fully_connected: {units: \"${");
  for (int i = 0; i < 900000; i++) ls_string_add(&text, "(");
  ls_string_add(&text, "}\"}]}}\nlayers: [{block: b}]\n");
  refused(ls_string_text(&text), "parentheses are nested too deep");
  ls_string_release(&text);
}

// Names are names of parameters in files: plain, and short enough that none is cut and takes another's place.
static void test_names(void **state) {
  (void)state;
#define S10 "0123456789"
#define S64 S10 S10 S10 S10 S10 S10 "abcd"
  expect_layers(INPUT "layers: [{name: " S64 ", relu: {}}, {name: a_B-9.c, relu: {}}]\n", S64 " a_B-9.c");
  refused(INPUT "layers: [{name: x" S64 ", relu: {}}]\n", "n.yaml:2");
  refused(INPUT "layers: [{name: x" S64 ", relu: {}}]\n", "'x" S64 "' is no name for a layer; names have 1 to 64");
  static const char *const bad[] = {"a/b", "'a b'", "'a\"'", "\"a\\n\"", "\"\\xc3\\xa4\"", "'%s'", "'a\\'", "'a,b'"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char text[256];
    snprintf(text, sizeof text, INPUT "layers: [{name: %s, relu: {}}]\n", bad[i]);
    refused(text, "is no name for a layer");
  }
  refused(INPUT "blocks: {b: {layers: [{name: i" S10 S10 S10
                ", relu: {}}]}}\nlayers: [{block: b, name: x" S10 S10 S10 S10 "}]\n",
          "is no name for a layer");
  refused(INPUT "blocks: {b: {layers: [relu]}}\nlayers: [{block: b, name: a/b}]\n",
          "'a/b.relu1' is no name for a layer");
}

// Names inside a block belong to it: the same name around it and in it are two layers, the inner one is nearer.
static void test_scopes(void **state) {
  (void)state;
  expect_layers(INPUT
                "blocks:\n"
                "  b: {layers: [{name: a, relu: {}}, {name: s, from: [a, outside], add: {}}]}\n"
                "layers:\n"
                "  - {name: a, relu: {}}\n"
                "  - {name: outside, relu: {}}\n"
                "  - {block: b, name: x}\n"
                "  - {name: t, from: [a, x], add: {}}\n",
                "a outside x.a x.s<x.a,outside t<a,x.s");
  refused(INPUT
          "blocks: {b: {layers: [{name: inner, relu: {}}]}}\n"
          "layers: [{block: b, name: x}, {from: inner, relu: {}}]\n",
          "'from: inner' names no layer before this one");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain_list), cmocka_unit_test(test_block),
                                     cmocka_unit_test(test_repeat),     cmocka_unit_test(test_parameters),
                                     cmocka_unit_test(test_conditions), cmocka_unit_test(test_operators),
                                     cmocka_unit_test(test_mistakes),   cmocka_unit_test(test_deep_expression),
                                     cmocka_unit_test(test_scopes),     cmocka_unit_test(test_names)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
