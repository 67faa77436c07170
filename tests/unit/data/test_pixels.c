// Rows of pixels: the vector forms against the plain meaning, at every width up to a few vectors, every alignment of the
// output, and without a byte written outside.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/augment.h"

enum { WIDEST = 150, MOST_CHANNELS = 4, GUARD = 64, ROOM = WIDEST * MOST_CHANNELS + 2 * GUARD };

static void fill(uint8_t *row, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) row[i] = (uint8_t)(i * 131 + (i >> 8) * 7 + 1);
}

static void expect_untouched(const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) assert_int_equal(bytes[i], 0xee);
}

static void test_reverse(void **state) {
  (void)state;
  for (int64_t c = 1; c <= MOST_CHANNELS; c++) {
    for (int64_t n = 0; n <= WIDEST; n++) {
      // Exactly as many bytes as there are, so that the address sanitizer sees a byte read outside.
      size_t bytes = (size_t)(n * c);
      uint8_t *row = malloc(bytes ? bytes : 1), out[ROOM];
      fill(row, bytes);
      memset(out, 0xee, sizeof out);
      ls_pixels_reverse(row, n, c, out + GUARD);
      for (int64_t i = 0; i < n; i++) assert_memory_equal(out + GUARD + i * c, row + (n - 1 - i) * c, (size_t)c);
      expect_untouched(out, GUARD);
      expect_untouched(out + GUARD + bytes, sizeof out - GUARD - bytes);
      free(row);
    }
  }
}

static void test_store(void **state) {
  (void)state;
  uint8_t row[ROOM], out[ROOM + GUARD];
  fill(row, sizeof row);
  for (int64_t bytes = 0; bytes <= WIDEST * MOST_CHANNELS; bytes += bytes < 130 ? 1 : 32) {
    for (size_t from = 0; from < 32; from += 16) {
      uint8_t *to = (uint8_t *)(((uintptr_t)out + 63) / 32 * 32) + from;
      memset(out, 0xee, sizeof out);
      ls_pixels_store(row, bytes, to);
      ls_pixels_stored();
      assert_memory_equal(to, row, (size_t)bytes);
      expect_untouched(out, (size_t)(to - out));
      expect_untouched(to + bytes, (size_t)(out + sizeof out - (to + bytes)));
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_reverse), cmocka_unit_test(test_store)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
