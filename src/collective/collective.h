// Sums over shards in one fixed order, and the barrier of the worker threads.
//
// Gradients are summed in a balanced binary tree over the shards, ((0+1)+(2+3))+((4+5)+(6+7)), whoever computed them. A
// worker owns contiguous shards, a whole subtree, and sums that itself as it goes (ls_tree_*); then each worker sums one
// slice of the workers' results in the tree's upper part (ls_tree_sum). Both counts are powers of two.
#ifndef LS_COLLECTIVE_COLLECTIVE_H
#define LS_COLLECTIVE_COLLECTIVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

// A worker's subtree over `count` shards: shard i of it is computed into buffer ls_tree_buffer(i); afterwards buffer b-1
// takes the sum of b-1 and b, ls_tree_merges(i) times, b falling from ls_tree_buffer(i). After the last shard buffer 0
// holds the sum. Buffers needed: ls_tree_buffers(count).
int ls_tree_buffer(int i);
int ls_tree_merges(int i);
int ls_tree_buffers(int count);

// a[i] = a[i] + b[i]
void ls_tree_merge(float *a, const float *b, int64_t n);
// out[i] = balanced tree sum over parts[0..count) of part[offset + i]. `out` may be a part's own memory.
void ls_tree_sum(float *out, const float *const *parts, int count, int64_t offset, int64_t n);

// A barrier for a fixed number of threads that spins briefly and then sleeps. `broken` ends it for all: whoever waits or
// comes later gets false.
struct ls_barrier {
  int threads;
  _Atomic uint32_t arrived, generation;
  _Atomic bool broken;
  bool spin;
};
void ls_barrier_init(struct ls_barrier *barrier, int threads, bool spin);
// Everything written before is seen by everyone after. False when the barrier is broken.
bool ls_barrier_wait(struct ls_barrier *barrier);
void ls_barrier_break(struct ls_barrier *barrier);

#endif
