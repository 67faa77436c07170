// How a sum over the rows of [rows, c] is split into stages: a pure function of the shape, so that the same rows meet in
// the same order on every run. Each stage sums runs of rows; the last leaves one.
#ifndef LS_BACKEND_CUDA_REDUCE_H
#define LS_BACKEND_CUDA_REDUCE_H

#include <stddef.h>
#include <stdint.h>

enum { LS_REDUCE_STAGES = 6 };

struct ls_reduce {
  int stages;                          // at least 1
  int64_t rows[LS_REDUCE_STAGES + 1];  // before each stage; rows[stages] is 1
  int64_t run[LS_REDUCE_STAGES];       // rows that one value of a stage's output sums
};

// About 512 Ki values wide first (64 Ki threads of 8 values: enough loads under way for the largest GPU), then 64 to one.
static inline struct ls_reduce ls_reduce_of(int64_t rows, int64_t c) {
  enum { WIDTH = 524288, LEAST_RUN = 16, FAN_IN = 64, MOST_ROWS = 4096 };
  struct ls_reduce r = {.rows = {rows}};
  while (r.stages == 0 || r.rows[r.stages] > 1) {
    int64_t left = r.rows[r.stages], run = FAN_IN;
    if (r.stages == 0) {
      int64_t parts = WIDTH / c < 1 ? 1 : WIDTH / c > MOST_ROWS ? MOST_ROWS : WIDTH / c;
      run = (left + parts - 1) / parts < LEAST_RUN ? LEAST_RUN : (left + parts - 1) / parts;
    }
    r.run[r.stages] = run;
    r.rows[++r.stages] = (left + run - 1) / run;
  }
  return r;
}

// Values between the stages: what one such sum needs in scratch memory.
static inline int64_t ls_reduce_scratch(const struct ls_reduce *r, int64_t c) {
  int64_t values = 0;
  for (int s = 1; s < r->stages; s++) values += r->rows[s] * c;
  return values;
}

#endif
