// Digests: see digest.h.
#include "base/digest.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

struct ls_digest128 ls_xxh3_128(const void *data, size_t size) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
  struct ls_digest128 digest;
  memcpy(digest.bytes, canonical.digest, sizeof digest.bytes);
  return digest;
}

uint64_t ls_xxh3_64(const void *data, size_t size) { return XXH3_64bits(data, size); }

// struct ls_sha256 is OpenSSL's EVP_MD_CTX under our name.
struct ls_sha256 *ls_sha256_new(void) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  if (context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
    EVP_MD_CTX_free(context);
    context = NULL;
  }
  return (struct ls_sha256 *)context;
}

void ls_sha256_update(struct ls_sha256 *sha, const void *data, size_t size) {
  EVP_DigestUpdate((EVP_MD_CTX *)sha, data, size);
}

void ls_sha256_finish(struct ls_sha256 *sha, char hex[65]) {
  unsigned char digest[32];
  EVP_DigestFinal_ex((EVP_MD_CTX *)sha, digest, NULL);
  EVP_MD_CTX_free((EVP_MD_CTX *)sha);
  for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}
