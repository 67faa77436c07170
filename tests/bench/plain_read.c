// What the machine itself can do: random crops of 224 out of stored images 256x256x3, by pread and a copy of each row, on
// one thread; no flip, no order, no queue. data_compare.py compiles and runs it beside the loader.
//
//   plain_read FILE OFFSET IMAGES SECONDS     prints images a second
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SIDE = 256, CROP = 224, CHANNELS = 3, STRIDE = SIDE * CHANNELS, ROW = CROP * CHANNELS, RING = 768 };
enum { HUGE_PAGE = 2 << 20 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  int fd = argc == 5 ? open(argv[1], O_RDONLY) : -1;
  if (fd < 0) return 1;
  const long long offset = atoll(argv[2]), images = atoll(argv[3]);
  const double seconds = atof(argv[4]);
  // As many crops as three batches of 256, in huge pages, as a loader's ring.
  size_t bytes = ((size_t)RING * CROP * ROW + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  unsigned char *ring = aligned_alloc(HUGE_PAGE, bytes), *window = malloc(CROP * STRIDE);
  if (!ring || !window) return 1;
  madvise(ring, bytes, MADV_HUGEPAGE);
  memset(ring, 0, bytes);
  unsigned random = 1;
  long long done = 0;
  double start = now(), end = start;
  for (; end - start < seconds; end = now()) {
    random = random * 1664525 + 1013904223;
    long long image = (random >> 8) % images;
    unsigned top = (random >> 3) % (SIDE - CROP + 1), left = (random >> 20) % (SIDE - CROP + 1);
    off_t at = (off_t)(offset + image * SIDE * STRIDE + top * STRIDE);
    if (pread(fd, window, CROP * STRIDE, at) != CROP * STRIDE) return 1;
    unsigned char *out = ring + done % RING * CROP * ROW;
    for (int y = 0; y < CROP; y++) memcpy(out + y * ROW, window + y * STRIDE + left * CHANNELS, ROW);
    done++;
  }
  printf("%.1f\n", (double)done / (end - start));
  return 0;
}
