// gRPC's status codes and our own. Going there and back keeps every ls_status but LS_DIVERGED.
#include <stddef.h>

#include "rpc/internal.h"

enum ls_rpc_code ls_rpc_code_of(ls_status status) {
  switch (status) {
    case LS_OK: return LS_RPC_OK;
    case LS_INVALID: return LS_RPC_INVALID_ARGUMENT;
    case LS_NOT_FOUND: return LS_RPC_NOT_FOUND;
    case LS_EXISTS: return LS_RPC_ALREADY_EXISTS;
    case LS_UNSUPPORTED: return LS_RPC_UNIMPLEMENTED;
    case LS_IO: return LS_RPC_UNKNOWN;
    case LS_CORRUPT: return LS_RPC_DATA_LOSS;
    case LS_NO_MEMORY: return LS_RPC_RESOURCE_EXHAUSTED;
    case LS_UNAVAILABLE: return LS_RPC_UNAVAILABLE;
    case LS_TIMEOUT: return LS_RPC_DEADLINE_EXCEEDED;
    case LS_CANCELLED: return LS_RPC_CANCELLED;
    case LS_DIVERGED: return LS_RPC_FAILED_PRECONDITION;
    case LS_INTERNAL: return LS_RPC_INTERNAL;
  }
  return LS_RPC_UNKNOWN;
}

ls_status ls_rpc_status_of(enum ls_rpc_code code) {
  switch (code) {
    case LS_RPC_OK: return LS_OK;
    case LS_RPC_CANCELLED: return LS_CANCELLED;
    case LS_RPC_UNKNOWN: return LS_IO;
    case LS_RPC_DEADLINE_EXCEEDED: return LS_TIMEOUT;
    case LS_RPC_NOT_FOUND: return LS_NOT_FOUND;
    case LS_RPC_ALREADY_EXISTS: return LS_EXISTS;
    case LS_RPC_RESOURCE_EXHAUSTED: return LS_NO_MEMORY;
    case LS_RPC_UNIMPLEMENTED: return LS_UNSUPPORTED;
    case LS_RPC_INTERNAL: return LS_INTERNAL;
    case LS_RPC_ABORTED:
    case LS_RPC_UNAVAILABLE: return LS_UNAVAILABLE;
    case LS_RPC_DATA_LOSS: return LS_CORRUPT;
    case LS_RPC_INVALID_ARGUMENT:
    case LS_RPC_PERMISSION_DENIED:
    case LS_RPC_FAILED_PRECONDITION:
    case LS_RPC_OUT_OF_RANGE:
    case LS_RPC_UNAUTHENTICATED: return LS_INVALID;
  }
  return LS_IO;  // as UNKNOWN, which the specification wants for codes that a client does not know
}

const char *ls_rpc_code_name(enum ls_rpc_code code) {
  static const char *const names[] = {
      "OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED",
  };
  return (size_t)code < sizeof names / sizeof *names ? names[code] : "UNKNOWN";
}
