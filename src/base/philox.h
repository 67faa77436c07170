// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC 2011). Every draw is a pure function of (seed, purpose, step or epoch, sample, element), so no thread,
// device or resume can change it. The same arithmetic runs in device code. Any thread may call.
#ifndef LS_BASE_PHILOX_H
#define LS_BASE_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define LS_EVERYWHERE __host__ __device__
#else
#define LS_EVERYWHERE
#endif

// What a draw is for; part of the key, so that two uses never share numbers. Append only: the numbers are in files.
enum ls_random_purpose {
  LS_RANDOM_INIT = 1,       // a = parameter index in network order, b = element
  LS_RANDOM_SHUFFLE = 2,    // a = epoch
  LS_RANDOM_AUGMENT = 3,    // a = epoch, b = sample index in the dataset, c = draw number
  LS_RANDOM_DROPOUT = 4,    // a = step, b = layer and image position in the global batch, c = element / 4
  LS_RANDOM_SYNTHETIC = 5,  // generated images of the benchmark
  LS_RANDOM_TEST = 6,
};

struct ls_philox4 {
  uint32_t v[4];
};

// Ten rounds over counter (4 words) and key (2 words).
LS_EVERYWHERE static inline struct ls_philox4 ls_philox(const uint32_t counter[4], const uint32_t key[2]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  struct ls_philox4 result = {{c0, c1, c2, c3}};
  return result;
}

// Four words for (seed, purpose, a, b, c). The key is the seed; the counter holds a (64 bits are folded to 32 by adding
// the high half into the purpose word), b and c.
LS_EVERYWHERE static inline struct ls_philox4 ls_random(uint64_t seed, enum ls_random_purpose purpose, uint64_t a,
                                                        uint64_t b, uint32_t c) {
  uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ ((uint32_t)purpose << 24) ^ (uint32_t)(a >> 32)};
  uint32_t counter[4] = {(uint32_t)a, (uint32_t)b, (uint32_t)(b >> 32), c};
  return ls_philox(counter, key);
}

// A word as a float in [0, 1): 24 bits.
LS_EVERYWHERE static inline float ls_random_unit(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }

// A whole number in [0, n) by multiplication (bias below n / 2^32).
LS_EVERYWHERE static inline uint32_t ls_random_below(uint32_t word, uint32_t n) {
  return (uint32_t)(((uint64_t)word * n) >> 32);
}

#endif
