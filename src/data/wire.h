// Reading protobuf messages field by field, without a schema: for Caffe's Datum and TensorFlow's Example. Internal to
// src/data. Any thread.
#ifndef LS_DATA_WIRE_H
#define LS_DATA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ls_wire {
  const uint8_t *at, *end;
  bool damaged;  // the message ends inside a field, or has an unknown wire type
};

struct ls_wire_field {
  uint32_t number;
  bool is_bytes;        // a string, bytes or message
  const uint8_t *data;  // of bytes; else of 4 or 8 bytes of a fixed number
  size_t size;
  uint64_t value;  // of a varint
};

static inline struct ls_wire ls_wire_of(const uint8_t *data, size_t size) {
  return (struct ls_wire){data, data + size, false};
}

static inline bool ls_wire_varint(struct ls_wire *w, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
    uint8_t byte = *w->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return true;
  }
  w->damaged = true;
  return false;
}

// The next field; false at the end and when the message is damaged.
static inline bool ls_wire_next(struct ls_wire *w, struct ls_wire_field *f) {
  uint64_t key, length = 0;
  *f = (struct ls_wire_field){0};
  if (w->at >= w->end || !ls_wire_varint(w, &key)) return false;
  f->number = (uint32_t)(key >> 3);
  switch (key & 7) {
    case 0: return ls_wire_varint(w, &f->value);
    case 1: length = 8; break;
    case 2:
      f->is_bytes = true;
      if (!ls_wire_varint(w, &length)) return false;
      break;
    case 5: length = 4; break;
    default: w->damaged = true; return false;
  }
  if (length > (uint64_t)(w->end - w->at)) {
    w->damaged = true;
    return false;
  }
  f->data = w->at;
  f->size = (size_t)length;
  w->at += length;
  return true;
}

static inline bool ls_wire_equals(const struct ls_wire_field *f, const char *text) {
  size_t i = 0;
  for (; i < f->size && text[i]; i++) {
    if (f->data[i] != (uint8_t)text[i]) return false;
  }
  return f->is_bytes && i == f->size && !text[i];
}

#endif
