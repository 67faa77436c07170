// Who sends which part of the slabs to whom, when the ranks' memories are apart: the schedule of the reduce-scatter in fixed
// order and of the all-gather behind it, as pure functions of (ranks, cuts of the slab). A transport (transport.h) carries it out.
//
// The slab is cut into buckets, each bucket into one slice a rank, all at whole lines. In the reduce-scatter of a bucket
// every rank sends each other rank the slice that that one owns, and receives the others' values of its own slice into a
// staging area; then it sums them in the order of the ranks, in the balanced tree of collective.h, its own values where they
// lie. A rank's values are the sum over the subtree of its shards, so the tree over the ranks is the upper part of the tree
// over the shards, and the bits are those of any other number of ranks. In the all-gather every rank sends its slice of the
// new parameters to all others, in place. Behind the slab lie a few floats (`tail`: metrics and flags), which every rank
// gets from all others.
//
// Staging of one rank: for each bucket, the slices of the other ranks in their order; at its end their tails.
#ifndef LS_COLLECTIVE_EXCHANGE_H
#define LS_COLLECTIVE_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

enum { LS_EXCHANGE_RANKS = 64, LS_EXCHANGE_BUCKETS = 8, LS_EXCHANGE_LINE = 16 };

struct ls_exchange {
  int ranks, buckets;
  int64_t cut[LS_EXCHANGE_BUCKETS + 1];  // bucket b is [cut[b], cut[b + 1]) of the slab, in floats; whole lines
  int64_t tail;
};

// One message. Both sides list them in the same order for each pair.
struct ls_transfer {
  int peer;
  bool send;
  bool staging;       // `at` counts in the staging area, else in the slab
  int64_t at, count;  // in floats
};
enum { LS_EXCHANGE_TRANSFERS = 2 * LS_EXCHANGE_RANKS };

void ls_exchange_slice(const struct ls_exchange *exchange, int bucket, int rank, int64_t *begin, int64_t *end);
// Fill in what `rank` sends and receives; return how many messages. Those of no floats are left out.
int ls_exchange_scatter(const struct ls_exchange *exchange, int bucket, int rank,
                        struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS]);
int ls_exchange_gather(const struct ls_exchange *exchange, int bucket, int rank,
                       struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS]);
// The tails, from all to all.
int ls_exchange_tails(const struct ls_exchange *exchange, int rank,
                      struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS]);

int64_t ls_exchange_staging(const struct ls_exchange *exchange, int rank);  // floats
// Where `rank` finds the values of rank `of` for its slice of a bucket, in the staging area; -1: in its own slab.
int64_t ls_exchange_part(const struct ls_exchange *exchange, int bucket, int rank, int of);
// Where `rank` finds the tail of rank `of`, in the staging area; -1: behind its own slab.
int64_t ls_exchange_tail(const struct ls_exchange *exchange, int rank, int of);

#endif
