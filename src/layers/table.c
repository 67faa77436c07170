// The table of layer types: see layer.h for how to add one.
#include "layers/table.h"

static const struct ls_layer_type *const types[] = {
    &ls_layer_convolution,
    &ls_layer_fully_connected,
    &ls_layer_max_pool,
    &ls_layer_average_pool,
    &ls_layer_global_average_pool,
    &ls_layer_adaptive_average_pool,
    &ls_layer_relu,
    &ls_layer_leaky_relu,
    &ls_layer_batch_norm,
    &ls_layer_local_response_norm,
    &ls_layer_dropout,
    &ls_layer_add,
    &ls_layer_identity_shortcut,
    &ls_layer_flatten,
    &ls_layer_softmax_cross_entropy,
};

const struct ls_layer_type *ls_layer_type_of(const Lockstep__V1__Layer *message) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    if (types[i]->type_case == message->type_case) return types[i];
  }
  return NULL;
}
