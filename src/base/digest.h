// Digests: XXH3-128 for stored data (xxhash), SHA-256 for what people compare (OpenSSL). Any thread may call.
#ifndef LS_BASE_DIGEST_H
#define LS_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

struct ls_digest128 {
  uint8_t bytes[16];  // canonical (big-endian) XXH3-128
};

struct ls_digest128 ls_xxh3_128(const void *data, size_t size);
uint64_t ls_xxh3_64(const void *data, size_t size);

// Incremental SHA-256.
struct ls_sha256;
struct ls_sha256 *ls_sha256_new(void);  // NULL when memory runs out
void ls_sha256_update(struct ls_sha256 *sha, const void *data, size_t size);
// Writes 64 hexadecimal digits and a zero byte, and frees `sha`.
void ls_sha256_finish(struct ls_sha256 *sha, char hex[65]);

#endif
