// The schema itself as data: a serialized google.protobuf.FileDescriptorSet with comments, embedded by the build.
#ifndef LS_PROTO_DESCRIPTOR_SET_H
#define LS_PROTO_DESCRIPTOR_SET_H

#include <stdint.h>

extern const uint8_t ls_descriptor_set[];
extern const uint64_t ls_descriptor_set_bytes;

#endif
