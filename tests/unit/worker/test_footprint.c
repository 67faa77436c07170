// The predicted memory of a training: on the CPU it is what the trainer allocates; on GPUs it is what the plan says, grows
// with the batch, shrinks with the devices; the largest batch fits and the next does not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
//
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "spec/spec.h"
#include "worker/device.h"
#include "worker/footprint.h"
#include "worker/trainer.h"

static Lockstep__V1__Network *network;
static struct ls_graph *graph;

static void load(const char *name) {
  struct ls_error err = LS_ERROR_INIT;
  if (ls_spec_load_network(name, NULL, &network, &err) != LS_OK) fail_msg("%s", err.text);
  if (ls_graph_build(network, &graph, &err) != LS_OK) fail_msg("%s", err.text);
}

static void unload(void) {
  ls_graph_free(graph);
  lockstep__v1__network__free_unpacked(network, NULL);
}

static struct ls_footprint predict(const struct ls_footprint_options *options) {
  struct ls_footprint f;
  struct ls_error err = LS_ERROR_INIT;
  if (ls_footprint_predict(graph, options, &f, &err) != LS_OK) fail_msg("%s", err.text);
  uint64_t sum = 0;
  for (int i = 0; i < LS_FOOTPRINT_KINDS; i++) sum += f.bytes[i];
  assert_int_equal(sum, f.total_bytes);
  return f;
}

static void test_cpu_is_what_the_trainer_takes(void **state) {
  (void)state;
  static const char *const names[] = {"lenet-caffe", "resnet20"};
  for (size_t n = 0; n < 2; n++) {
    load(names[n]);
    struct ls_footprint_options options = {
        .precision = LOCKSTEP__V1__PRECISION__PRECISION_FLOAT32, .batch = 16, .shards = 4, .devices = 2};
    struct trainer_options how = {
        .network = network, .batch = 16, .shards = 4, .workers = 2, .training = true, .evaluation = true};
    struct ls_footprint f = predict(&options);
    struct trainer *t;
    struct ls_error err = LS_ERROR_INIT;
    if (trainer_new(&how, NULL, &t, &err) != LS_OK) fail_msg("%s", err.text);
    uint64_t activations = t->worker[0].activation_bytes + t->worker[1].activation_bytes;
    assert_int_equal(f.bytes[LS_FOOTPRINT_WEIGHTS], (uint64_t)t->parameter_floats * sizeof(float));
    assert_int_equal(f.bytes[LS_FOOTPRINT_MOMENTUM], (uint64_t)t->learned_floats * sizeof(float));
    assert_int_equal(f.bytes[LS_FOOTPRINT_GRADIENTS], (uint64_t)t->gradient_floats * sizeof(float) * 2 * 2);
    assert_int_equal(
        f.bytes[LS_FOOTPRINT_ACTIVATIONS] + f.bytes[LS_FOOTPRINT_SCRATCH] + f.bytes[LS_FOOTPRINT_EVALUATION],
        activations);
    assert_int_equal(f.bytes[LS_FOOTPRINT_FACTORS] > 0, t->factor_bytes > 0);
    trainer_free(t);
    unload();
  }
}

static struct ls_footprint_options gpus(Lockstep__V1__Precision precision, uint64_t batch, unsigned shards,
                                        unsigned devices) {
  return (struct ls_footprint_options){
      .gpu = true, .precision = precision, .batch = batch, .shards = shards, .devices = devices};
}

// Workers that share a GPU have weights and momentum once, the rest each.
static void test_shared_gpu(void **state) {
  (void)state;
  load("resnet20");
  struct ls_footprint_options one = gpus(LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16, 64, 8, 1), four = one;
  four.workers_each = 4;
  struct ls_footprint a = predict(&one), b = predict(&four);
  assert_int_equal(b.bytes[LS_FOOTPRINT_WEIGHTS], a.bytes[LS_FOOTPRINT_WEIGHTS]);
  assert_int_equal(b.bytes[LS_FOOTPRINT_INPUT], a.bytes[LS_FOOTPRINT_INPUT]);
  assert_int_equal(b.bytes[LS_FOOTPRINT_ACTIVATIONS], 4 * a.bytes[LS_FOOTPRINT_ACTIVATIONS]);
  unload();
}

// Against the plan itself, asked for directly.
static void test_gpu_is_the_plan(void **state) {
  (void)state;
  load("resnet50");
  struct ls_footprint_options options = gpus(LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16, 256, 8, 4);
  struct ls_footprint f = predict(&options);
  struct ls_backend backend;
  struct ls_plan *plan;
  struct ls_error err = LS_ERROR_INIT;
  struct ls_plan_options how = {
      .batch = 32, .training = true, .dtype = LS_BF16, .loss_images = 256, .input_channels_last = true};
  assert_int_equal(ls_backend_cuda_planner()->open(0, &backend, &err), LS_OK);
  if (ls_plan_build(graph, &backend, &how, &plan, &err) != LS_OK) fail_msg("%s", err.text);
  assert_int_equal(f.bytes[LS_FOOTPRINT_WEIGHTS], ls_plan_parameter_bytes(plan));
  assert_in_range(f.bytes[LS_FOOTPRINT_MOMENTUM], ls_plan_learned_bytes(plan) / 4, ls_plan_learned_bytes(plan) / 3);
  assert_int_equal(f.bytes[LS_FOOTPRINT_GRADIENTS], 2 * ls_plan_gradient_bytes(plan));
  assert_int_equal(f.bytes[LS_FOOTPRINT_ACTIVATIONS] + f.bytes[LS_FOOTPRINT_SCRATCH], ls_plan_activation_bytes(plan));
  assert_true(f.unshared_bytes > f.bytes[LS_FOOTPRINT_ACTIVATIONS]);
  assert_int_equal(f.largest_count, LS_FOOTPRINT_LARGEST);
  assert_string_equal(f.largest[0].what, "scratch");  // the most that cuDNN may take for one convolution
  assert_in_range(f.largest[0].bytes, UINT64_C(256) << 20, f.bytes[LS_FOOTPRINT_SCRATCH]);
  assert_int_equal(f.largest[1].bytes, UINT64_C(32) * 64 * 112 * 112 * 2);  // what conv1 writes, bfloat16
  for (int i = 1; i < f.largest_count; i++) assert_true(f.largest[i].bytes <= f.largest[i - 1].bytes);
  ls_plan_free(plan);
  backend.ops->close(&backend);
  unload();
}

// Against the trainer, on the twin of the CUDA backend.
static void test_gpu_is_what_the_trainer_takes(void **state) {
  (void)state;
  load("resnet20");
  struct ls_footprint f[2];
  for (unsigned devices = 1; devices <= 2; devices++) {
    struct ls_footprint_options options = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT32, 16, 4, devices);
    struct trainer_options how = {.ops = ls_backend_cuda_planner(),
                                  .devices = (int)devices,
                                  .network = network,
                                  .batch = 16,
                                  .shards = 4,
                                  .workers = (int)devices,
                                  .training = true,
                                  .evaluation = true};
    f[devices - 1] = predict(&options);
    const uint64_t *bytes = f[devices - 1].bytes;
    struct trainer *t;
    struct ls_error err = LS_ERROR_INIT;
    if (trainer_new(&how, NULL, &t, &err) != LS_OK) fail_msg("%s", err.text);
    assert_int_equal(bytes[LS_FOOTPRINT_WEIGHTS], (uint64_t)t->parameter_floats * sizeof(float));
    assert_int_equal(bytes[LS_FOOTPRINT_GRADIENTS],
                     (uint64_t)t->gradient_floats * sizeof(float) * (uint64_t)ls_tree_buffers(t->shards_each));
    assert_int_equal(bytes[LS_FOOTPRINT_ACTIVATIONS] + bytes[LS_FOOTPRINT_SCRATCH] + bytes[LS_FOOTPRINT_EVALUATION],
                     t->worker[0].activation_bytes + ls_plan_folded_bytes(t->worker[0].evaluation_plan));
    // All of it but the step's few numbers; on both together, of which one holds less momentum: running statistics, at the
    // slab's end, have none.
    uint64_t taken = atomic_load(&t->device_bytes), total = f[devices - 1].total_bytes * devices;
    uint64_t statistics = (uint64_t)(t->parameter_floats - t->learned_floats) * sizeof(float) * (devices - 1);
    assert_in_range(taken, total - statistics, total + 4096 * devices);
    // The optimizer's state is there once.
    int64_t held = 0, begin, end;
    for (int i = 0; i < (int)devices; i++)
      held +=
          device_momentum(&t->exchange, (int)devices, t->learned_floats, false, i, t->exchange.buckets, &begin, &end);
    assert_int_equal(held, t->learned_floats);
    trainer_free(t);
  }
  assert_true(f[1].total_bytes < f[0].total_bytes);
  unload();
}

// Every float's momentum is held by one device, that whose worker updates it, however the slab is cut; `whole`: by each.
static void test_momentum_is_held_once(void **state) {
  (void)state;
  static const int on[][2] = {{1, 1}, {2, 1}, {4, 2}, {4, 3}, {8, 8}, {8, 5}};
  enum { FLOATS = 16 * 333, LEARNED = 16 * 301 };
  for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
    struct ls_exchange x = {.ranks = on[i][0], .buckets = 3, .cut = {0, 16 * 40, 16 * 41, FLOATS}};
    static int held[FLOATS];
    memset(held, 0, sizeof held);
    for (int device = 0; device < on[i][1]; device++) {
      int64_t at = 0, begin, end;
      for (int b = 0; b < x.buckets; b++) {
        assert_int_equal(device_momentum(&x, on[i][1], LEARNED, false, device, b, &begin, &end), at);
        at += end - begin;
        for (int64_t f = begin; f < end; f++) held[f]++;
        for (int w = 0; w < x.ranks; w++) {  // its workers' slices lie in it
          int64_t first, last;
          ls_exchange_slice(&x, b, w, &first, &last);
          if (w * on[i][1] / x.ranks != device || first >= LEARNED || first == last) continue;
          assert_true(begin <= first && (last > LEARNED ? LEARNED : last) <= end);
        }
      }
      assert_int_equal(device_momentum(&x, on[i][1], LEARNED, false, device, x.buckets, &begin, &end), at);
      assert_int_equal(device_momentum(&x, on[i][1], LEARNED, true, device, x.buckets, &begin, &end), LEARNED);
    }
    for (int f = 0; f < FLOATS; f++) assert_int_equal(held[f], f < LEARNED);
  }
}

static void test_monotone(void **state) {
  (void)state;
  static const char *const names[] = {"resnet50", "vgg16", "alexnet", "lenet5"};
  for (size_t n = 0; n < 4; n++) {
    load(names[n]);
    uint64_t before = 0;
    for (uint64_t batch = 64; batch <= 512; batch *= 2) {
      struct ls_footprint_options half = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT16, batch, 8, 1);
      struct ls_footprint_options full = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT32, batch, 8, 1);
      struct ls_footprint_options shared = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT16, batch, 8, 8);
      struct ls_footprint f = predict(&half);
      assert_true(f.total_bytes > before);
      // 16-bit copies of the weights: where those outweigh the activations, float32 takes less.
      if (n == 0) assert_true(predict(&full).total_bytes > f.total_bytes);
      assert_true(predict(&shared).total_bytes < f.total_bytes);
      before = f.total_bytes;
    }
    unload();
  }
}

static void test_largest_batch(void **state) {
  (void)state;
  load("resnet50");
  struct ls_error err = LS_ERROR_INIT;
  struct ls_footprint_options o = gpus(LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16, 256, 8, 1);
  const uint64_t memory_bytes = UINT64_C(8) << 30;
  uint64_t batch;
  assert_int_equal(ls_footprint_largest_batch(graph, &o, memory_bytes, &batch, &err), LS_OK);
  assert_true(batch > 0 && batch % 8 == 0);
  o.batch = batch;
  assert_true(predict(&o).total_bytes <= memory_bytes);
  o.batch = batch + 8;
  assert_true(predict(&o).total_bytes > memory_bytes);
  assert_int_equal(ls_footprint_largest_batch(graph, &o, 1 << 20, &batch, &err), LS_OK);
  assert_int_equal(batch, 0);
  unload();
}

static void test_check(void **state) {
  (void)state;
  load("resnet50");
  struct ls_error err = LS_ERROR_INIT;
  struct ls_footprint_options o = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT32, 2048, 8, 1);
  uint64_t batch;
  char fits[64];
  assert_int_equal(ls_footprint_check(graph, &o, UINT64_C(80) << 30, &err), LS_OK);
  assert_int_equal(ls_footprint_check(graph, &o, UINT64_C(8) << 30, &err), LS_INVALID);
  assert_int_equal(ls_footprint_largest_batch(graph, &o, UINT64_C(8) << 30, &batch, NULL), LS_OK);
  snprintf(fits, sizeof fits, "; the largest batch that fits is %llu", (unsigned long long)batch);
  assert_non_null(strstr(err.text, "key 'batch_size': 2048 images in 8 shards take "));
  assert_non_null(strstr(err.text, " GiB on each GPU, which has 8.0: "));
  assert_non_null(strstr(err.text, ", layer 'conv1', with "));
  assert_non_null(strstr(err.text, fits));
  assert_int_equal(ls_footprint_check(graph, &o, 1 << 20, &err), LS_INVALID);
  assert_non_null(strstr(err.text, "not even one image a shard fits"));
  unload();
}

// Where only the most that cuDNN may take does not fit, it is tried: it may take less.
static void test_scratch_is_no_reason_to_refuse(void **state) {
  (void)state;
  load("resnet50");
  struct ls_error err = LS_ERROR_INIT;
  struct ls_footprint_options o = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT32, 256, 1, 1);
  struct ls_footprint f = predict(&o);
  uint64_t sure = f.total_bytes - f.bytes[LS_FOOTPRINT_SCRATCH];
  assert_true(f.bytes[LS_FOOTPRINT_SCRATCH] > UINT64_C(1) << 30);
  assert_int_equal(ls_footprint_check(graph, &o, sure, &err), LS_OK);
  assert_int_equal(ls_footprint_check(graph, &o, sure - 1, &err), LS_INVALID);
  unload();
}

static void refuses(const struct ls_footprint_options *options, const char *says) {
  struct ls_footprint f;
  struct ls_error err = LS_ERROR_INIT;
  assert_int_not_equal(ls_footprint_predict(graph, options, &f, &err), LS_OK);
  if (!strstr(err.text, says)) fail_msg("%s", err.text);
}

static void test_wrong_questions(void **state) {
  (void)state;
  load("lenet5");
  struct ls_footprint_options cpu = {
      .precision = LOCKSTEP__V1__PRECISION__PRECISION_BFLOAT16, .batch = 16, .shards = 4, .devices = 1};
  struct ls_footprint_options odd = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT16, 100, 8, 1);
  struct ls_footprint_options three = gpus(LOCKSTEP__V1__PRECISION__PRECISION_FLOAT16, 64, 8, 3);
  refuses(&cpu, "the cpu trains in float32 only");
  refuses(&odd, "a batch of 100 images cannot be split into 8 equal shards");
  refuses(&three, "8 shards cannot be split over 3 devices");
  unload();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cpu_is_what_the_trainer_takes),
                                     cmocka_unit_test(test_gpu_is_the_plan),
                                     cmocka_unit_test(test_gpu_is_what_the_trainer_takes),
                                     cmocka_unit_test(test_momentum_is_held_once),
                                     cmocka_unit_test(test_monotone),
                                     cmocka_unit_test(test_largest_batch),
                                     cmocka_unit_test(test_check),
                                     cmocka_unit_test(test_scratch_is_no_reason_to_refuse),
                                     cmocka_unit_test(test_shared_gpu),
                                     cmocka_unit_test(test_wrong_questions)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
