// Convolutions and fully connected layers by cuDNN's graph interface. See cuda_internal.h, cudnn_graph.h.
//
// Forward with bias or ReLU is either one graph or the product alone and an own kernel (lower_product.c): what is faster,
// where that is measured; else one graph where cuDNN has an engine for that under the rules. Any other failure than that
// it has none is a failure: it must not decide about a job's bits.
//
// With statistics there is one graph or nothing: where cuDNN has no engine for it, or the product and own sums of its output
// are faster, it is refused, and the planner describes convolution and batch norm apart. What cuDNN 9.19 has, asked with the
// properties of an A100, an L40, an H200 and a B200 (tests/gpu/test_describe.c): for float16 and C and K divisible by 8,
// all of ResNet-50 but the first convolution, and nothing for bfloat16 and float32; on compute capability 12.0 nothing. No
// engine of them bears the note that it is not deterministic, none bears any note; the workspace is two float32 a channel
// for every tile of 64 to 256 rows of the output and a few counters, which is what sums in fixed order look like. So the
// tuning believes the notes, but compares the bits of several runs too.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/device/cudnn_graph.h"
#include "backend/cuda/device/device.h"

struct cuda_product {
  struct graph graph;
  char name[40];
};

// x [n,c,h,w], w [k,c/groups,r,s], y [n,k,p,q]; then, when fused, + bias [1,k,1,1] and ReLU; or y's sums [1,k,1,1].
void device_describe_product(struct graph *g, const struct cuda_convolution *c, bool fused) {
  const int64_t x[4] = {c->n, c->c, c->h, c->w}, w[4] = {c->k, c->c / c->groups, c->r, c->s};
  const int64_t y[4] = {c->n, c->k, c->p, c->q}, b[4] = {1, c->k, 1, 1};
  bool bias = fused && c->bias, relu = fused && c->relu;
  cudnnBackendDescriptor_t xt = graph_tensor(g, UID_X, c->dtype, x, false);
  cudnnBackendDescriptor_t wt = graph_tensor(g, UID_W, c->dtype, w, false);
  cudnnBackendDescriptor_t yt = graph_tensor(g, UID_Y, c->dtype, y, false);
  cudnnBackendDescriptor_t at = bias || relu ? graph_tensor(g, UID_PRODUCT, LS_F32, y, true) : yt;
  graph_convolution(g, c, xt, wt, at);
  if (bias) {
    cudnnBackendDescriptor_t bt = graph_tensor(g, UID_BIAS, c->dtype, b, false);
    cudnnBackendDescriptor_t to = relu ? graph_tensor(g, UID_BIASED, LS_F32, y, true) : yt;
    graph_pointwise(g, CUDNN_POINTWISE_ADD, at, bt, to);
    at = to;
  }
  if (relu) graph_pointwise(g, CUDNN_POINTWISE_RELU_FWD, at, NULL, yt);
  if (c->statistics)
    graph_statistics(g, yt, graph_tensor(g, UID_SUM, LS_F32, b, false), graph_tensor(g, UID_SQUARES, LS_F32, b, false));
}

ls_status device_run_graph(struct graph *g, const struct cuda_product_args *args, struct ls_error *err) {
  static const int64_t all[] = {UID_X, UID_W, UID_Y, UID_BIAS, UID_SUM, UID_SQUARES};
  void *of_all[] = {args->x, args->w, args->y, (void *)(uintptr_t)args->bias, args->sum, args->squares};
  int64_t uids[GRAPH_TENSORS];
  void *pointers[GRAPH_TENSORS];
  int count = 0;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (!of_all[i]) continue;
    uids[count] = all[i];
    pointers[count++] = of_all[i];
  }
  return graph_run(g, count, uids, pointers, args->scratch, err);
}

static ls_status choose(void *user, char *choice, struct ls_error *err) { return device_tune(user, choice, err); }

// The engine that was chosen for such a convolution once, on such a GPU with this cuDNN.
static ls_status plan_by_choice(struct device_tuning *t, bool fused, struct ls_error *err) {
  char machine[320], key[768], choice[LS_CHOICE_BYTES];
  snprintf(machine, sizeof machine, "%s %d.%d, cudnn %zu", t->context->properties.name, t->context->properties.major,
           t->context->properties.minor, cudnnGetVersion());
  cuda_convolution_key(t->convolution, machine, fused, t->context->base.fast, key, sizeof key);
  LS_TRY(ls_choices_get(t->context->base.choices, key, choose, t, choice, err));
  if (strcmp(choice, DEVICE_SEPARATE) == 0) return ls_fail(err, LS_UNSUPPORTED, "the convolution is faster alone");
  if (strcmp(choice, DEVICE_NO_ENGINE) == 0)
    return ls_fail(err, LS_UNSUPPORTED, "cuDNN has no engine for it%s%s",
                   t->rules->deterministic ? ", deterministic" : "",
                   t->rules->no_tensor_core ? ", in full float32" : "");
  return graph_take_described(t->graph, choice, err);
}

static ls_status plan(struct device_context *context, const struct cuda_convolution *c, bool fused,
                      struct graph *separate, struct graph *graph, struct ls_error *err) {
  struct graph_rules rules = {.deterministic = !context->base.fast,
                              .no_tensor_core = c->dtype == LS_F32 && !c->tf32,
                              .most_workspace_bytes = (int64_t)cuda_workspace_limit(c)};
  struct device_tuning tuning = {context, graph, separate, c, &rules};
  graph_init(graph, context->cudnn);
  device_describe_product(graph, c, fused);
  graph_finish(graph);
  ls_status status = context->base.choices ? plan_by_choice(&tuning, fused, err) : graph_plan(graph, &rules, err);
  if (status == LS_OK) return LS_OK;
  graph_release(graph);
  // Where the GPU itself has failed, that is the reason, and not that no engine could be made ready.
  LS_TRY(device_alive(context, err));
  return status;
}

// With statistics. The choice is between it and the convolution alone, which is therefore planned first: choices are made
// one at a time.
static ls_status plan_statistics(struct device_context *context, const struct cuda_convolution *c, struct graph *graph,
                                 struct ls_error *err) {
  struct cuda_convolution alone = *c;
  struct graph separate;
  if (!context->base.choices) return plan(context, c, false, NULL, graph, err);
  alone.statistics = false;
  LS_TRY(plan(context, &alone, false, NULL, &separate, err));
  ls_status status = plan(context, c, false, &separate, graph, err);
  graph_release(&separate);
  return status;
}

// With bias or ReLU: in the same way, but that the convolution alone is what remains.
static ls_status plan_fused(struct device_context *context, const struct cuda_convolution *c, struct graph *graph,
                            bool *fused, struct ls_error *err) {
  struct cuda_convolution alone = *c;
  struct graph separate;
  ls_status status = LS_UNSUPPORTED;
  alone.bias = alone.relu = false;
  if (context->base.choices) {
    status = plan(context, &alone, false, NULL, &separate, err);
    if (status != LS_OK && status != LS_UNSUPPORTED) return status;
  }
  bool have_separate = status == LS_OK;
  status = plan(context, c, true, have_separate ? &separate : NULL, graph, err);
  *fused = status == LS_OK;
  if (status == LS_UNSUPPORTED && have_separate) {
    *graph = separate;
    return LS_OK;
  }
  if (have_separate) graph_release(&separate);
  if (status == LS_UNSUPPORTED) status = plan(context, &alone, false, NULL, graph, err);
  return status;
}

ls_status device_product_new(struct cuda_context *base, const struct cuda_convolution *c, struct cuda_product **result,
                             size_t *scratch_bytes, bool *fused, const char **kernel, struct ls_error *err) {
  struct device_context *context = (struct device_context *)base;
  struct cuda_product *product = calloc(1, sizeof *product);
  if (!product) return ls_fail(err, LS_NO_MEMORY, "no memory for a convolution");
  *fused = false;
  ls_status status = c->statistics        ? plan_statistics(context, c, &product->graph, err)
                     : c->bias || c->relu ? plan_fused(context, c, &product->graph, fused, err)
                                          : plan(context, c, false, NULL, &product->graph, err);
  if (status != LS_OK) {
    free(product);
    ls_error_prefix(err, "a convolution of %lldx%lldx%lldx%lld by %lldx%lldx%lldx%lld in %s", (long long)c->n,
                    (long long)c->c, (long long)c->h, (long long)c->w, (long long)c->k, (long long)(c->c / c->groups),
                    (long long)c->r, (long long)c->s, ls_dtype_name(c->dtype));
    return status;
  }
  snprintf(product->name, sizeof product->name, "cudnn engine %lld%s", (long long)product->graph.engine,
           c->statistics ? " + statistics"
           : *fused      ? " fused"
                         : "");
  *scratch_bytes = (size_t)product->graph.workspace_bytes;
  *kernel = product->name;
  *result = product;
  return LS_OK;
}

void device_product_free(struct cuda_product *product) {
  graph_release(&product->graph);
  free(product);
}

ls_status device_product_run(struct cuda_context *base, struct ls_stream *stream, struct cuda_product *product,
                             const struct cuda_product_args *args, struct ls_error *err) {
  struct device_context *context = (struct device_context *)base;
  cudaStream_t on = device_stream(context, stream), now = NULL;
  if (cudnnGetStream(context->cudnn, &now) != CUDNN_STATUS_SUCCESS || now != on) {
    if (cudnnSetStream(context->cudnn, on) != CUDNN_STATUS_SUCCESS)
      return ls_fail(err, LS_INTERNAL, "cuDNN does not take the stream");
  }
  ls_status status = device_run_graph(&product->graph, args, err);
  // Where the GPU itself has failed, that is the reason, and not what cuDNN makes of it.
  cudaError_t error = status == LS_OK ? cudaSuccess : cudaPeekAtLastError();
  return error == cudaSuccess ? status : device_error(error, "running a convolution", err);
}
