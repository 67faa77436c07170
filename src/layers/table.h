// All layer types, one declaration a file.
#ifndef LS_LAYERS_TABLE_H
#define LS_LAYERS_TABLE_H

#include "layers/layer.h"

extern const struct ls_layer_type ls_layer_convolution, ls_layer_fully_connected, ls_layer_max_pool,
    ls_layer_average_pool, ls_layer_global_average_pool, ls_layer_adaptive_average_pool, ls_layer_relu,
    ls_layer_leaky_relu, ls_layer_batch_norm, ls_layer_local_response_norm, ls_layer_dropout, ls_layer_add,
    ls_layer_identity_shortcut, ls_layer_flatten, ls_layer_softmax_cross_entropy;

#endif
