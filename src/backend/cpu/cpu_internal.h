// The CPU backend's insides. cpu.c: context, memory, layouts, dispatch. cpu_dnnl.c: operations that oneDNN runs.
// cpu_batch16.c: operations of the sixteen-image kernels. cpu_loops.c: own elementwise loops.
// cpu_fold.c: batch norm folded into weights.
#ifndef LS_BACKEND_CPU_CPU_INTERNAL_H
#define LS_BACKEND_CPU_CPU_INTERNAL_H

#include <dnnl.h>

#include "backend/backend.h"

// A layout is a oneDNN memory descriptor; the sixteen-image layout is one too, blocked along N (see batch16.h), so that
// oneDNN's reorders know the way in and out.
struct ls_layout {
  dnnl_memory_desc_t md;
  struct ls_layout *next;
};

struct cpu_context {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  struct ls_layout *layouts;  // interned
};

// A prepared operation: release and run are its own.
struct cpu_op {
  ls_status (*run)(struct cpu_context *context, struct ls_op *op, const struct ls_op_args *args, struct ls_error *err);
  void (*release)(struct cpu_op *state);
};

// The one layout of this context equal to `md`; NULL when memory runs out.
const struct ls_layout *cpu_layout(struct cpu_context *context, const dnnl_memory_desc_t *md);
// Row-major, or N,H,W,C.
dnnl_memory_desc_t cpu_plain_md(enum ls_dtype dtype, const struct ls_shape *shape, bool channels_last);
// The sixteen-image layout; shape is [N,C] or [N,C,H,W], N a multiple of 16.
dnnl_memory_desc_t cpu_batch16_md(const struct ls_shape *shape);
bool cpu_is_batch16(const struct ls_layout *layout);
// One descriptor where oneDNN shall choose.
dnnl_memory_desc_t cpu_any_md(const struct ls_tensor_desc *tensor);
ls_status cpu_dnnl_error(dnnl_status_t status, const char *what, struct ls_error *err);

// Each prepares one kind of operation; *op is zeroed but for ops and desc. LS_UNSUPPORTED from cpu_batch16_prepare:
// not one for these kernels, try oneDNN.
ls_status cpu_batch16_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err);
ls_status cpu_dnnl_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err);
ls_status cpu_fold_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err);  // LS_OP_BN_FOLD
ls_status cpu_loops_prepare(struct cpu_context *context, struct ls_op *op, struct ls_error *err);

#endif
