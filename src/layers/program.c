// A program of operations on symbolic values: see program.h.
#include "layers/program.h"

#include <stdlib.h>
#include <string.h>

static bool grow(struct ls_program *program, void **array, int count, int *capacity, size_t size) {
  if (program->failed) return false;
  if (count < *capacity) return true;
  int larger = *capacity ? 2 * *capacity : 64;
  void *grown = realloc(*array, (size_t)larger * size);
  if (!grown) {
    program->failed = true;
    return false;
  }
  *array = grown;
  *capacity = larger;
  return true;
}

int ls_program_value(struct ls_program *program, enum ls_value_kind kind, enum ls_dtype dtype,
                     const struct ls_shape *shape, int index) {
  if (!grow(program, (void **)&program->values, program->value_count, &program->value_capacity,
            sizeof *program->values)) {
    return LS_NO_VALUE;
  }
  program->values[program->value_count] =
      (struct ls_value){.kind = kind, .dtype = dtype, .shape = *shape, .index = index};
  return program->value_count++;
}

int ls_program_slab_value(struct ls_program *program, enum ls_value_kind kind, const struct ls_shape *shape,
                          int index) {
  for (int i = 0; i < program->value_count; i++) {
    if (program->values[i].kind == kind && program->values[i].index == index) return i;
  }
  return ls_program_value(program, kind, ls_program_full(program), shape, index);
}

int ls_program_step(struct ls_program *program) {
  return ls_program_slab_value(program, LS_VALUE_STEP, &LS_SHAPE((int64_t)sizeof(struct ls_step_parameters)), 0);
}

int ls_program_add(struct ls_program *program, enum ls_op_kind kind, int layer, int inputs, int outputs,
                   const int *values, const struct ls_op_attributes *attributes) {
  if (!grow(program, (void **)&program->ops, program->op_count, &program->op_capacity, sizeof *program->ops)) return -1;
  struct ls_program_op *op = &program->ops[program->op_count];
  *op = (struct ls_program_op){.kind = kind, .layer = layer, .forward = -1, .inputs = inputs, .outputs = outputs};
  memcpy(op->value, values, (size_t)(inputs + outputs) * sizeof *values);
  if (attributes) op->attributes = *attributes;
  return program->op_count++;
}

void ls_program_drop_statistics(struct ls_program *program, int op) {
  struct ls_program_op *from = &program->ops[op];
  int sum = from->value[from->inputs + 1];
  from->attributes.statistics = false;
  from->outputs = 1;
  for (int i = op + 1; i < program->op_count; i++) {
    struct ls_program_op *norm = &program->ops[i];
    if (!norm->attributes.statistics || norm->value[LS_BN_SUM] != sum) continue;
    int behind = norm->inputs + norm->outputs - LS_BN_SUM - 2;
    memmove(&norm->value[LS_BN_SUM], &norm->value[LS_BN_SUM + 2], (size_t)behind * sizeof *norm->value);
    norm->attributes.statistics = false;
    norm->inputs -= 2;
  }
}

void ls_program_release(struct ls_program *program) {
  free(program->values);
  free(program->ops);
  *program = (struct ls_program){0};
}
