// Small networks that together hold every layer type in every way it is used: for the gradient test and for the parity
// test of backends. Each begins with a 1x1 convolution ("stem"), so that gradients flow through the layer it is about.
#ifndef LS_TESTS_SUPPORT_LAYER_NETWORKS_H
#define LS_TESTS_SUPPORT_LAYER_NETWORKS_H

#include "support/networks.h"

typedef Lockstep__V1__Network net;

// Input of 3 x height x width, and a convolution to `channels`.
static inline net *net_stem(uint32_t channels, uint32_t height, uint32_t width) {
  net *n = net_new(3, height, width);
  net_conv(n, "stem", NULL, channels, 1, 1, 0, 1, 1);
  return n;
}

// Seven classes: more than the five that the top-5 metric counts.
static inline net *net_head(net *n) {
  net_fc(n, "head", 7);
  NET_PLAIN(n, "loss", NULL, SOFTMAX_CROSS_ENTROPY, softmax_cross_entropy);
  return n;
}

static inline void net_two(uint32_t **values, size_t *count, uint32_t height, uint32_t width) {
  free(*values);
  *values = malloc(2 * sizeof **values);
  (*values)[0] = height;
  (*values)[1] = width;
  *count = 2;
}

static inline net *case_conv(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, c + 1, 3, 1, 1, 1, 1);
  return net_head(n);
}
static inline net *case_conv_valid_no_bias(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, c, 5, 1, 0, 1, 0);
  return net_head(n);
}
static inline net *case_conv_stride(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, 2 * c, 3, 2, 1, 1, 1);
  net_conv(n, "narrow", NULL, c, 1, 2, 0, 1, 0);
  return net_head(n);
}
static inline net *case_conv_large_stride(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, c, 7, 3, 3, 1, 1);
  return net_head(n);
}
static inline net *case_conv_dilated(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, c, 3, 1, 2, 1, 1);
  Lockstep__V1__Convolution *m = n->layers[n->n_layers - 1]->convolution;
  net_numbers(&m->dilation, &m->n_dilation, 2);
  return net_head(n);
}
static inline net *case_conv_groups(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(2 * c, h, w);
  net_conv(n, "conv", NULL, 4 * c, 3, 1, 1, 2, 1);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  net_conv(n, "conv2", NULL, 2 * c, 3, 2, 0, 2, 0);
  return net_head(n);
}
static inline net *case_conv_depthwise(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, c, 3, 1, 1, c, 1);
  return net_head(n);
}
// Height and width differ in kernel, stride and padding.
static inline net *case_conv_oblong(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "conv", NULL, c + 2, 3, 1, 1, 1, 1);
  Lockstep__V1__Convolution *m = n->layers[n->n_layers - 1]->convolution;
  net_two(&m->kernel, &m->n_kernel, 1, 4);
  net_two(&m->stride, &m->n_stride, 2, 1);
  net_two(&m->pad, &m->n_pad, 0, 2);
  return net_head(n);
}
static inline net *case_fully_connected(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_fc(n, "fc1", 3 * c);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  net_fc(n, "fc2", c + 3);
  n->layers[n->n_layers - 1]->fully_connected->bias = 0;
  return net_head(n);
}
static inline net *case_flatten(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "flatten", NULL, FLATTEN, flatten);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  return net_head(n);
}
static inline net *case_max_pool(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_pool(n, "pool", 1, 2, 2, 0, 0);
  return net_head(n);
}
// Overlapping windows, padding, then an output rounded up.
static inline net *case_max_pool_overlapping(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_pool(n, "pool", 1, 3, 2, 1, 0);
  net_pool(n, "pool2", 1, 3, 2, 0, 1);
  return net_head(n);
}
static inline net *case_average_pool(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_pool(n, "pool", 0, 3, 2, 1, 0);
  return net_head(n);
}
static inline net *case_average_pool_ceil(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_pool(n, "pool", 0, 3, 2, 0, 1);
  return net_head(n);
}
static inline net *case_average_pool_without_pad(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_pool(n, "pool", 0, 3, 2, 1, 1);
  n->layers[n->n_layers - 1]->average_pool->count_pad = 0;
  return net_head(n);
}
// The loss reads an image of 1x1.
static inline net *case_global_average_pool(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "classes", NULL, 7, 3, 1, 0, 1, 1);
  NET_PLAIN(n, "pool", NULL, GLOBAL_AVERAGE_POOL, global_average_pool);
  NET_PLAIN(n, "loss", NULL, SOFTMAX_CROSS_ENTROPY, softmax_cross_entropy);
  return n;
}
static inline uint32_t net_tiles(uint32_t size) {  // the largest number of equal windows of more than one value
  uint32_t window = 2;
  while (size % window) window++;
  return size / window;
}
static inline net *case_adaptive_average_pool(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "pool", NULL, ADAPTIVE_AVERAGE_POOL, adaptive_average_pool);
  n->layers[n->n_layers - 1]->adaptive_average_pool->height = net_tiles(h);
  n->layers[n->n_layers - 1]->adaptive_average_pool->width = net_tiles(w);
  return net_head(n);
}
// Behind a convolution, behind a pooling layer, and with two readers of what it reads.
static inline net *case_relu(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  net_pool(n, "pool", 0, 2, 1, 0, 0);
  net_conv(n, "conv", NULL, c, 3, 1, 1, 1, 1);
  NET_PLAIN(n, "relu2", NULL, RELU, relu);
  Lockstep__V1__Layer *sum = net_layer(n, "sum", "conv", "relu2", NULL);
  sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
  sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
  net_pool(n, "pool2", 0, 2, 2, 0, 0);
  NET_PLAIN(n, "relu3", NULL, RELU, relu);
  return net_head(n);
}
// Three gradients meet behind one ReLU.
static inline net *case_relu_three_readers(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  net_conv(n, "a", "relu", c, 3, 1, 1, 1, 0);
  net_conv(n, "b", "relu", c, 1, 1, 0, 1, 0);
  Lockstep__V1__Layer *sum = net_layer(n, "sum", "a", "b", "relu", NULL);
  sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
  sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
  NET_PLAIN(n, "relu2", NULL, RELU, relu);
  return net_head(n);
}
static inline net *case_leaky_relu(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "leaky", NULL, LEAKY_RELU, leaky_relu);
  return net_head(n);
}
static inline net *case_batch_norm(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  return net_head(n);
}
static inline net *case_batch_norm_relu(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  net_conv(n, "conv", NULL, c, 3, 1, 1, 1, 0);
  NET_PLAIN(n, "bn2", NULL, BATCH_NORM, batch_norm);
  NET_PLAIN(n, "relu2", NULL, RELU, relu);
  return net_head(n);
}
static inline net *case_batch_norm_first(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_new(c, h, w);
  NET_PLAIN(n, "bn", NULL, BATCH_NORM, batch_norm);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  return net_head(n);
}
static inline net *case_local_response_norm(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c + 3, h, w);
  NET_PLAIN(n, "lrn", NULL, LOCAL_RESPONSE_NORM, local_response_norm);
  Lockstep__V1__LocalResponseNorm *m = n->layers[n->n_layers - 1]->local_response_norm;
  m->alpha = 0.5f;  // large enough for the sum to matter
  m->k = 2;
  NET_PLAIN(n, "lrn2", NULL, LOCAL_RESPONSE_NORM, local_response_norm);
  m = n->layers[n->n_layers - 1]->local_response_norm;
  m->size = 3;
  m->alpha = 0.25f;
  m->beta = 0.5f;
  return net_head(n);
}
// On an image whose values are needed again (so not in place), on flat values, and with rate 0.
static inline net *case_dropout(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "relu0", NULL, RELU, relu);
  NET_PLAIN(n, "drop", NULL, DROPOUT, dropout);
  n->layers[n->n_layers - 1]->dropout->rate = 0.3f;
  net_conv(n, "conv", NULL, c, 3, 1, 1, 1, 1);
  net_fc(n, "fc", 19);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  NET_PLAIN(n, "drop2", NULL, DROPOUT, dropout);
  NET_PLAIN(n, "drop3", NULL, DROPOUT, dropout);
  n->layers[n->n_layers - 1]->dropout->rate = 0;
  return net_head(n);
}
// Three readers of the stem, one of them twice in one sum; a first summand that comes again; a ReLU behind the last sum.
static inline net *case_add(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  net_conv(n, "a", "stem", c, 3, 1, 1, 1, 1);
  net_conv(n, "b", "stem", c, 1, 1, 0, 1, 0);
  Lockstep__V1__Layer *sum = net_layer(n, "sum", "a", "stem", "b", "stem", NULL);
  sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
  sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
  net_conv(n, "c", "sum", c, 3, 1, 1, 1, 1);
  sum = net_layer(n, "sum2", "c", "sum", NULL);
  sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
  sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
  net_conv(n, "d", "sum2", c, 1, 1, 0, 1, 1);
  sum = net_layer(n, "sum3", "d", "sum2", "d", NULL);
  sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
  sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
  NET_PLAIN(n, "relu", NULL, RELU, relu);
  return net_head(n);
}
static inline net *case_identity_shortcut(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "short", NULL, IDENTITY_SHORTCUT, identity_shortcut);
  n->layers[n->n_layers - 1]->identity_shortcut->channels = 2 * c;
  n->layers[n->n_layers - 1]->identity_shortcut->stride = 2;
  return net_head(n);
}
// Two residual blocks of ResNet-20, the second of which halves the image and doubles the channels.
static inline net *case_residual(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_stem(c, h, w);
  NET_PLAIN(n, "bn0", NULL, BATCH_NORM, batch_norm);
  NET_PLAIN(n, "relu0", NULL, RELU, relu);
  static const char *const names[2][9] = {
      {"relu0", "conv1", "bn1", "relu1", "conv2", "bn2", "short1", "sum1", "relu2"},
      {"relu2", "conv3", "bn3", "relu3", "conv4", "bn4", "short2", "sum2", "relu4"}};
  for (uint32_t block = 0; block < 2; block++) {
    const char *const *name = names[block];
    uint32_t filters = c * (block + 1), stride = block + 1;
    net_conv(n, name[1], name[0], filters, 3, stride, 1, 1, 0);
    NET_PLAIN(n, name[2], NULL, BATCH_NORM, batch_norm);
    NET_PLAIN(n, name[3], NULL, RELU, relu);
    net_conv(n, name[4], NULL, filters, 3, 1, 1, 1, 0);
    NET_PLAIN(n, name[5], NULL, BATCH_NORM, batch_norm);
    NET_PLAIN(n, name[6], name[0], IDENTITY_SHORTCUT, identity_shortcut);
    n->layers[n->n_layers - 1]->identity_shortcut->channels = filters;
    n->layers[n->n_layers - 1]->identity_shortcut->stride = stride;
    Lockstep__V1__Layer *sum = net_layer(n, name[7], name[5], name[6], NULL);
    sum->type_case = LOCKSTEP__V1__LAYER__TYPE_ADD;
    sum->add = net_init(sizeof *sum->add, &lockstep__v1__add__descriptor);
    NET_PLAIN(n, name[8], NULL, RELU, relu);
  }
  NET_PLAIN(n, "pool", NULL, GLOBAL_AVERAGE_POOL, global_average_pool);
  return net_head(n);
}
// AlexNet in small: LRN behind a fused ReLU, overlapping pools, groups, dropout between fully connected layers.
static inline net *case_alexnet(uint32_t c, uint32_t h, uint32_t w) {
  net *n = net_new(3, h, w);
  net_conv(n, "conv1", NULL, 2 * c, 5, 1, 2, 1, 1);
  NET_PLAIN(n, "relu1", NULL, RELU, relu);
  NET_PLAIN(n, "norm1", NULL, LOCAL_RESPONSE_NORM, local_response_norm);
  n->layers[n->n_layers - 1]->local_response_norm->alpha = 0.1f;
  net_pool(n, "pool1", 1, 3, 2, 0, 0);
  net_conv(n, "conv2", NULL, 2 * c, 3, 1, 1, 2, 1);
  NET_PLAIN(n, "relu2", NULL, RELU, relu);
  net_pool(n, "pool2", 1, 2, 2, 0, 1);
  net_fc(n, "fc3", 24);
  NET_PLAIN(n, "relu3", NULL, RELU, relu);
  NET_PLAIN(n, "drop3", NULL, DROPOUT, dropout);
  return net_head(n);
}

static const struct net_case {
  const char *name;
  net *(*make)(uint32_t channels, uint32_t height, uint32_t width);
} net_cases[] = {
    {"conv", case_conv},
    {"conv_valid_no_bias", case_conv_valid_no_bias},
    {"conv_stride", case_conv_stride},
    {"conv_large_stride", case_conv_large_stride},
    {"conv_dilated", case_conv_dilated},
    {"conv_groups", case_conv_groups},
    {"conv_depthwise", case_conv_depthwise},
    {"conv_oblong", case_conv_oblong},
    {"fully_connected", case_fully_connected},
    {"flatten", case_flatten},
    {"max_pool", case_max_pool},
    {"max_pool_overlapping", case_max_pool_overlapping},
    {"average_pool", case_average_pool},
    {"average_pool_ceil", case_average_pool_ceil},
    {"average_pool_without_pad", case_average_pool_without_pad},
    {"global_average_pool", case_global_average_pool},
    {"adaptive_average_pool", case_adaptive_average_pool},
    {"relu", case_relu},
    {"relu_three_readers", case_relu_three_readers},
    {"leaky_relu", case_leaky_relu},
    {"batch_norm", case_batch_norm},
    {"batch_norm_relu", case_batch_norm_relu},
    {"batch_norm_first", case_batch_norm_first},
    {"local_response_norm", case_local_response_norm},
    {"dropout", case_dropout},
    {"add", case_add},
    {"identity_shortcut", case_identity_shortcut},
    {"residual", case_residual},
    {"alexnet", case_alexnet},
};

enum { NET_CASES = (int)(sizeof net_cases / sizeof *net_cases) };

#endif
