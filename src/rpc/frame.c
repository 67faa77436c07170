// The bytes that gRPC adds to HTTP/2: see internal.h and "gRPC over HTTP2" at grpc.io.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/internal.h"

uint8_t *ls_rpc_buffer_grow(struct ls_rpc_buffer *buffer, size_t size) {
  // Moving to the front only when at least half is gone costs each byte at most one move.
  if (buffer->begin && buffer->begin >= buffer->end - buffer->begin) {
    memmove(buffer->data, buffer->data + buffer->begin, buffer->end - buffer->begin);
    buffer->end -= buffer->begin;
    buffer->begin = 0;
  }
  if (buffer->capacity - buffer->end < size) {
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity - buffer->end < size) {
      if (capacity > SIZE_MAX / 2) return NULL;
      capacity *= 2;
    }
    uint8_t *data = realloc(buffer->data, capacity);
    if (!data) return NULL;
    buffer->data = data;
    buffer->capacity = capacity;
  }
  uint8_t *place = buffer->data + buffer->end;
  buffer->end += size;
  return place;
}

bool ls_rpc_buffer_add(struct ls_rpc_buffer *buffer, const void *data, size_t size) {
  if (!size) return true;
  uint8_t *place = ls_rpc_buffer_grow(buffer, size);
  if (!place) return false;
  memcpy(place, data, size);
  return true;
}

void ls_rpc_buffer_take(struct ls_rpc_buffer *buffer, size_t size) {
  buffer->begin += size;
  if (buffer->begin == buffer->end) buffer->begin = buffer->end = 0;
}

void ls_rpc_buffer_release(struct ls_rpc_buffer *buffer) {
  free(buffer->data);
  *buffer = (struct ls_rpc_buffer){0};
}

ls_status ls_rpc_frame_add(struct ls_rpc_buffer *buffer, const ProtobufCMessage *message) {
  size_t size = protobuf_c_message_get_packed_size(message);
  if (size > INT32_MAX) return LS_INVALID;
  uint8_t *place = ls_rpc_buffer_grow(buffer, LS_RPC_PREFIX_BYTES + size);
  if (!place) return LS_NO_MEMORY;
  place[0] = 0;
  for (int i = 0; i < 4; i++) place[1 + i] = (uint8_t)(size >> (24 - 8 * i));
  protobuf_c_message_pack(message, place + LS_RPC_PREFIX_BYTES);
  return LS_OK;
}

uint32_t ls_rpc_frame_length(const uint8_t *prefix) {
  return (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 | prefix[4];
}

// protobuf-c needs up to some 30 bytes for each byte of a hostile message: the budget ends that.
static void *budget_alloc(void *data, size_t size) {
  size_t *left = data;
  if (size > *left) return NULL;
  *left -= size;
  return malloc(size ? size : 1);
}

static void budget_free(void *data, void *block) {
  (void)data;
  free(block);
}

ProtobufCMessage *ls_rpc_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size) {
  size_t left = LS_RPC_DECODE_BUDGET_BYTES;
  ProtobufCAllocator allocator = {budget_alloc, budget_free, &left};
  return protobuf_c_message_unpack(type, &allocator, size, data);
}

char *ls_rpc_percent_encode(const char *text) {
  enum { TEXT_LIMIT_BYTES = 2048 };  // clients take 8 KiB of headers; three characters for a byte at worst
  size_t size = strnlen(text, TEXT_LIMIT_BYTES);
  char *out = malloc(3 * size + 1), *p = out;
  if (!out) return NULL;
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c >= 0x20 && c <= 0x7E && c != '%') {
      *p++ = (char)c;
    } else {
      p += sprintf(p, "%%%02X", c);
    }
  }
  *p = 0;
  return out;
}

static int hex_digit(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

void ls_rpc_percent_decode(const uint8_t *text, size_t size, char *out, size_t out_bytes) {
  size_t used = 0;
  for (size_t i = 0; i < size && used + 1 < out_bytes; i++) {
    uint8_t c = text[i];
    if (c == '%' && i + 2 < size && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
      c = (uint8_t)(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
      i += 2;
    }
    if (c) out[used++] = (char)c;
  }
  if (out_bytes) out[used] = 0;
}

int64_t ls_rpc_timeout_parse(const uint8_t *text, size_t size) {
  if (size < 2 || size > 9) return -1;
  int64_t value = 0;
  for (size_t i = 0; i + 1 < size; i++) {
    if (text[i] < '0' || text[i] > '9') return -1;
    value = 10 * value + (text[i] - '0');
  }
  switch (text[size - 1]) {
    case 'H': return value * 3600 * 1000;
    case 'M': return value * 60 * 1000;
    case 'S': return value * 1000;
    case 'm': return value;
    case 'u': return (value + 999) / 1000;
    case 'n': return (value + 999999) / 1000000;
    default: return -1;
  }
}

void ls_rpc_timeout_format(unsigned timeout_ms, char text[LS_RPC_TIMEOUT_BYTES]) {
  if (timeout_ms <= 99999999) {
    snprintf(text, LS_RPC_TIMEOUT_BYTES, "%um", timeout_ms);
  } else {
    snprintf(text, LS_RPC_TIMEOUT_BYTES, "%uS", timeout_ms / 1000);
  }
}

nghttp2_nv ls_rpc_header(const char *name, const char *value) {
  // nghttp2 copies both; its fields are not const only because callers may hand memory over.
  return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value),
                      NGHTTP2_NV_FLAG_NONE};
}
