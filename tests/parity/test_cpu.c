// The CPU backend against the reference backend: every layer type, odd sizes, batches that fit the sixteen-image kernels
// and batches that do not, both input layouts, fused and not.
#include "support/compare.h"

static void check(const struct compare *like) {
  for (int i = 0; i < NET_CASES; i++) {
    struct compare c = *like;
    c.name = net_cases[i].name;
    c.ops = ls_backend_cpu();
    c.tolerance = 1e-5;
    net *network = net_cases[i].make(c.channels, c.height, c.width);
    compare_network(&c, network);
    lockstep__v1__network__free_unpacked(network, NULL);
  }
}

static void test_one_image(void **state) {
  (void)state;
  check(&(struct compare){.batch = 1, .channels = 5, .height = 9, .width = 8});
}

static void test_three_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 3, .channels = 16, .height = 9, .width = 14, .channels_last = true});
}

static void test_sixteen_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 16, .channels = 5, .height = 9, .width = 8});
}

static void test_sixteen_images_whole_blocks(void **state) {
  (void)state;
  check(&(struct compare){.batch = 16, .channels = 16, .height = 8, .width = 9});
}

static void test_seventeen_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 17, .channels = 3, .height = 12, .width = 10});
}

static void test_thirty_two_images(void **state) {
  (void)state;
  check(&(struct compare){.batch = 32, .channels = 3, .height = 8, .width = 9, .channels_last = true});
}

// Blocks of channels that are not full.
static void test_padded_blocks(void **state) {
  (void)state;
  check(&(struct compare){.batch = 2, .channels = 20, .height = 9, .width = 8});
}

static void test_without_fusion(void **state) {
  (void)state;
  check(&(struct compare){.batch = 2, .channels = 20, .height = 9, .width = 8, .no_fusion = true});
  check(&(struct compare){.batch = 16, .channels = 4, .height = 8, .width = 8, .no_fusion = true});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_image),        cmocka_unit_test(test_three_images),
      cmocka_unit_test(test_sixteen_images),   cmocka_unit_test(test_sixteen_images_whole_blocks),
      cmocka_unit_test(test_seventeen_images), cmocka_unit_test(test_thirty_two_images),
      cmocka_unit_test(test_padded_blocks),    cmocka_unit_test(test_without_fusion)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
