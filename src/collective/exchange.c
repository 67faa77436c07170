// The schedule of an exchange between ranks: see exchange.h.
#include "collective/exchange.h"

void ls_exchange_slice(const struct ls_exchange *x, int bucket, int rank, int64_t *begin, int64_t *end) {
  int64_t first = x->cut[bucket] / LS_EXCHANGE_LINE, count = x->cut[bucket + 1] / LS_EXCHANGE_LINE - first;
  *begin = (first + count * rank / x->ranks) * LS_EXCHANGE_LINE;
  *end = (first + count * (rank + 1) / x->ranks) * LS_EXCHANGE_LINE;
}

static int64_t slice_floats(const struct ls_exchange *x, int bucket, int rank) {
  int64_t begin, end;
  ls_exchange_slice(x, bucket, rank, &begin, &end);
  return end - begin;
}

// Place of rank `of` among the others of `rank`.
static int place(int rank, int of) { return of < rank ? of : of - 1; }

static int64_t staging_of_bucket(const struct ls_exchange *x, int bucket, int rank) {
  int64_t at = 0;
  for (int b = 0; b < bucket; b++) at += slice_floats(x, b, rank) * (x->ranks - 1);
  return at;
}

int64_t ls_exchange_part(const struct ls_exchange *x, int bucket, int rank, int of) {
  if (of == rank) return -1;
  return staging_of_bucket(x, bucket, rank) + slice_floats(x, bucket, rank) * place(rank, of);
}

int64_t ls_exchange_tail(const struct ls_exchange *x, int rank, int of) {
  return of == rank ? -1 : staging_of_bucket(x, x->buckets, rank) + x->tail * place(rank, of);
}

int64_t ls_exchange_staging(const struct ls_exchange *x, int rank) {
  return staging_of_bucket(x, x->buckets, rank) + x->tail * (x->ranks - 1);
}

static int add(struct ls_transfer *transfers, int count, struct ls_transfer transfer) {
  if (transfer.count == 0) return count;
  transfers[count] = transfer;
  return count + 1;
}

int ls_exchange_scatter(const struct ls_exchange *x, int bucket, int rank,
                        struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS]) {
  int count = 0;
  int64_t mine = slice_floats(x, bucket, rank);
  for (int peer = 0; peer < x->ranks; peer++) {
    int64_t begin, end;
    if (peer == rank) continue;
    ls_exchange_slice(x, bucket, peer, &begin, &end);
    count = add(transfers, count, (struct ls_transfer){peer, true, false, begin, end - begin});
    int64_t to = ls_exchange_part(x, bucket, rank, peer);
    count = add(transfers, count, (struct ls_transfer){peer, false, true, to, mine});
  }
  return count;
}

int ls_exchange_tails(const struct ls_exchange *x, int rank, struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS]) {
  int count = 0;
  for (int peer = 0; peer < x->ranks; peer++) {
    if (peer == rank) continue;
    count = add(transfers, count, (struct ls_transfer){peer, true, false, x->cut[x->buckets], x->tail});
    int64_t to = ls_exchange_tail(x, rank, peer);
    count = add(transfers, count, (struct ls_transfer){peer, false, true, to, x->tail});
  }
  return count;
}

int ls_exchange_gather(const struct ls_exchange *x, int bucket, int rank,
                       struct ls_transfer transfers[LS_EXCHANGE_TRANSFERS]) {
  int count = 0;
  int64_t begin, end;
  ls_exchange_slice(x, bucket, rank, &begin, &end);
  for (int peer = 0; peer < x->ranks; peer++) {
    int64_t from, to;
    if (peer == rank) continue;
    ls_exchange_slice(x, bucket, peer, &from, &to);
    count = add(transfers, count, (struct ls_transfer){peer, true, false, begin, end - begin});
    count = add(transfers, count, (struct ls_transfer){peer, false, false, from, to - from});
  }
  return count;
}
