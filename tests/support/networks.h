// Networks for tests, made without files. Everything is leaked on purpose: a test is a short process.
#ifndef LS_TESTS_SUPPORT_NETWORKS_H
#define LS_TESTS_SUPPORT_NETWORKS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lockstep/v1/network.pb-c.h"

static inline Lockstep__V1__Network *net_new(uint32_t channels, uint32_t height, uint32_t width) {
  Lockstep__V1__Network *net = malloc(sizeof *net);
  lockstep__v1__network__init(net);
  net->name = strdup("test");
  net->input = malloc(sizeof *net->input);
  lockstep__v1__input__init(net->input);
  net->input->channels = channels;
  net->input->height = height;
  net->input->width = width;
  net->layers = calloc(256, sizeof *net->layers);
  return net;
}

// Appends a layer named NAME reading from the names that follow, up to NULL (none: the layer before).
static inline Lockstep__V1__Layer *net_layer(Lockstep__V1__Network *net, const char *name, ...) {
  Lockstep__V1__Layer *layer = malloc(sizeof *layer);
  lockstep__v1__layer__init(layer);
  layer->name = strdup(name);
  layer->from = calloc(8, sizeof *layer->from);
  va_list args;
  va_start(args, name);
  for (const char *from; (from = va_arg(args, const char *)) != NULL;) layer->from[layer->n_from++] = strdup(from);
  va_end(args);
  net->layers[net->n_layers++] = layer;
  return layer;
}

static inline void *net_init(size_t size, const ProtobufCMessageDescriptor *type) {
  ProtobufCMessage *message = malloc(size);
  protobuf_c_message_init(type, message);
  return message;
}

static inline void net_numbers(uint32_t **values, size_t *count, uint32_t value) {
  *values = malloc(sizeof **values);
  **values = value;
  *count = 1;
}

static inline void net_conv(Lockstep__V1__Network *net, const char *name, const char *from, uint32_t filters,
                            uint32_t kernel, uint32_t stride, uint32_t pad, uint32_t groups, int bias) {
  Lockstep__V1__Layer *layer = net_layer(net, name, from, NULL);
  Lockstep__V1__Convolution *m = net_init(sizeof *m, &lockstep__v1__convolution__descriptor);
  layer->type_case = LOCKSTEP__V1__LAYER__TYPE_CONVOLUTION;
  layer->convolution = m;
  m->filters = filters;
  net_numbers(&m->kernel, &m->n_kernel, kernel);
  net_numbers(&m->stride, &m->n_stride, stride);
  net_numbers(&m->pad, &m->n_pad, pad);
  m->groups = groups;
  m->bias = bias;
}

static inline void net_fc(Lockstep__V1__Network *net, const char *name, uint32_t units) {
  Lockstep__V1__Layer *layer = net_layer(net, name, NULL);
  layer->type_case = LOCKSTEP__V1__LAYER__TYPE_FULLY_CONNECTED;
  layer->fully_connected = net_init(sizeof *layer->fully_connected, &lockstep__v1__fully_connected__descriptor);
  layer->fully_connected->units = units;
}

static inline void net_pool(Lockstep__V1__Network *net, const char *name, int max, uint32_t kernel, uint32_t stride,
                            uint32_t pad, int ceil) {
  Lockstep__V1__Layer *layer = net_layer(net, name, NULL);
  Lockstep__V1__Pool *m = net_init(sizeof *m, &lockstep__v1__pool__descriptor);
  layer->type_case = max ? LOCKSTEP__V1__LAYER__TYPE_MAX_POOL : LOCKSTEP__V1__LAYER__TYPE_AVERAGE_POOL;
  layer->max_pool = m;
  net_numbers(&m->kernel, &m->n_kernel, kernel);
  net_numbers(&m->stride, &m->n_stride, stride);
  net_numbers(&m->pad, &m->n_pad, pad);
  m->ceil = ceil;
}

// Layers whose message needs nothing or has its defaults.
#define NET_PLAIN(net, name, from, CASE, field)                                                        \
  do {                                                                                                 \
    Lockstep__V1__Layer *plain_layer_ = net_layer(net, name, from, NULL);                              \
    plain_layer_->type_case = LOCKSTEP__V1__LAYER__TYPE_##CASE;                                        \
    plain_layer_->field = net_init(sizeof *plain_layer_->field, &lockstep__v1__##field##__descriptor); \
  } while (0)

#endif
