// What a layer type is: one C file, one struct ls_layer_type, one line in table.c.
//
// A layer never runs anything. `infer` reads its message, checks the shapes of its inputs, says its output shape, its
// parameters and its cost; `forward` and `backward` write operations into a program. Pure functions; any thread.
//
// To add a layer: a message in proto/lockstep/v1/network.proto, a file here, a line in table.c, a gradient test in
// tests/gradient; a new operation also needs its place in backend.h and in each backend.
#ifndef LS_LAYERS_LAYER_H
#define LS_LAYERS_LAYER_H

#include "layers/program.h"
#include "lockstep/v1/network.pb-c.h"

enum { LS_NO_LAYER = -1 };
enum { LS_LAYER_MAX_INPUTS = 8, LS_LAYER_MAX_PARAMETERS = 6 };

enum ls_parameter_kind {
  LS_PARAMETER_WEIGHT,
  LS_PARAMETER_BIAS,
  LS_PARAMETER_GAMMA,
  LS_PARAMETER_BETA,
  LS_PARAMETER_RUNNING_MEAN,      // not learned: moved towards the mean over shards after each step
  LS_PARAMETER_RUNNING_VARIANCE,  // takes the unbiased variance (n/(n-1)), as PyTorch does
};

struct ls_parameter {
  char name[96];  // "conv1.weight": layer name, dot, kind
  int layer;      // index of its layer
  enum ls_parameter_kind kind;
  struct ls_shape shape;                  // weight [K,C/groups,R,S] or [K,C]; others [C]
  const Lockstep__V1__Initializer *init;  // NULL: the kind's default
  int64_t fan_in, fan_out;
  bool learned;
  float running_momentum;  // running statistics: share of the new value
};

struct ls_layer_type;

struct ls_layer {
  const Lockstep__V1__Layer *message;
  const struct ls_layer_type *type;
  const char *name;
  int number;
  int inputs;
  int input[LS_LAYER_MAX_INPUTS];                    // layer indices; -1: the image
  struct ls_shape input_shape[LS_LAYER_MAX_INPUTS];  // of one image: [C,H,W] or [C]
  struct ls_shape output_shape;
  int parameters;
  int first_parameter;                                     // index in the graph
  struct ls_parameter parameter[LS_LAYER_MAX_PARAMETERS];  // filled by infer
  int64_t multiply_adds;
  char detail[64];
  struct ls_op_attributes attributes;  // filled by infer, the starting point of its operations
};

// The layer's place in a program being written.
struct ls_layer_instance {
  const struct ls_layer *layer;
  bool relu;        // a ReLU that follows is part of this layer's operation
  bool fused;       // part of the operation of a layer before it: its output is that input
  int fused_input;  // which input
  // Inference, convolutions: the batch norm behind it is folded in, and the addend is added (LS_NO_LAYER: none).
  bool folded;
  int addend;  // layer
  int addend_value;
  int folded_weight, folded_bias;
  // Training, batch norms: what is added to the result before `sum_relu`, instead of by the sum behind it.
  int added;  // layer; LS_NO_LAYER: nothing
  int added_value;
  bool sum_relu;
  // Training, convolutions: the batch norm behind it takes the statistics from it. Batch norms: the convolution.
  bool sums;
  int summed_by;  // layer; LS_NO_LAYER: nobody, it reads its input twice
  int sum_value[2];
  int x[LS_LAYER_MAX_INPUTS];  // values
  int y;
  int op;             // index of the forward operation
  int statistics[2];  // batch norm: mean and variance
};

struct ls_layer_type {
  const char *name;  // the key in a network file
  Lockstep__V1__Layer__TypeCase type_case;
  int min_inputs, max_inputs;
  bool can_fuse_relu;
  ls_status (*infer)(struct ls_layer *layer, struct ls_error *err);
  // Writes the operations; fills in instance->y and ->op.
  void (*forward)(struct ls_layer_instance *instance, struct ls_program *program);
  // dy: gradient of the output. dx[i]: LS_NO_VALUE where the gradient of input i is not wanted, else anything; replaced
  // by the value that holds it.
  void (*backward)(struct ls_layer_instance *instance, struct ls_program *program, int dy, int *dx);
};

// NULL when the layer's message has no type.
const struct ls_layer_type *ls_layer_type_of(const Lockstep__V1__Layer *message);

// Helpers for layer files.
// A new activation with the batch in front of a one-image shape.
int ls_layer_activation(struct ls_program *program, const struct ls_shape *image_shape);
int ls_layer_like(struct ls_program *program, int value);  // an activation of the same shape
int ls_layer_parameter(struct ls_layer_instance *instance, struct ls_program *program, int which);
int ls_layer_gradient(struct ls_layer_instance *instance, struct ls_program *program, int which);
// dy as it was before a fused ReLU: adds LS_OP_RELU_BACKWARD when the instance has one, else dy itself.
int ls_layer_before_relu(struct ls_layer_instance *instance, struct ls_program *program, int dy);
// Registers a parameter in infer.
struct ls_parameter *ls_layer_add_parameter(struct ls_layer *layer, enum ls_parameter_kind kind,
                                            const struct ls_shape *shape);
// Output size of a window over a padded axis; an error naming the layer when the window is larger.
ls_status ls_layer_window(struct ls_layer *layer, int axis, int64_t input, int64_t pad_before, int64_t pad_after,
                          int64_t kernel, int64_t dilation, int64_t stride, bool ceil, int64_t *output,
                          struct ls_error *err);
// The input as [C,H,W]; an error naming the layer when it is flat.
ls_status ls_layer_need_image(const struct ls_layer *layer, struct ls_error *err);
// Value i of a list of one or two numbers (height, width), `absent` when the list is empty.
int64_t ls_layer_pair(const uint32_t *values, size_t count, int i, int64_t absent);

#endif
