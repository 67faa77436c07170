// Vector clocks over streams, and shadows of memory: who last wrote and who read each line of 64 bytes, and whether that came
// before what touches it now. One lock around all of it; what is told is counted, the first race in words.
//
// A line of time ("actor") is a stream of a device. Hosts have no line of their own: a host's clock is what it knows to be
// done on the streams (it waited for them, or met another host that did), and work that it enqueues comes behind that.
#ifndef LS_TESTS_RACES_CLOCKS_H
#define LS_TESTS_RACES_CLOCKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ACTORS = 32, HOSTS = 32, BLOCKS = 512, LINE = 64 };

typedef uint32_t clock_of[ACTORS];

struct cell {
  int writer;
  uint32_t written;
  const char *by;  // what wrote it
  clock_of read;
};

struct block {
  char *base;
  size_t bytes;
  struct cell *cells;
};

static struct {
  pthread_mutex_t lock;
  bool on;         // between commands nothing is checked
  unsigned epoch;  // commands so far
  int actors, hosts, blocks;
  char name[ACTORS][24];
  clock_of now[ACTORS];
  clock_of host[HOSTS];
  struct block block[BLOCKS];
  uint64_t accesses;
  int races;
  char first[200];
} order = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct {
  unsigned epoch;
  int host;
} me = {UINT32_MAX, 0};

static void join(clock_of to, const clock_of from) {
  for (int i = 0; i < ACTORS; i++) to[i] = from[i] > to[i] ? from[i] : to[i];
}

// What the calling thread knows to be done. Lock held.
static uint32_t *host_clock(void) {
  if (me.epoch != order.epoch) {
    me.epoch = order.epoch;
    me.host = order.hosts++ % HOSTS;
    memset(order.host[me.host], 0, sizeof(clock_of));
  }
  return order.host[me.host];
}

static int new_actor(const char *name, int index) {
  pthread_mutex_lock(&order.lock);
  int actor = order.actors++ % ACTORS;
  snprintf(order.name[actor], sizeof order.name[actor], "%s %d", name, index);
  pthread_mutex_unlock(&order.lock);
  return actor;
}

static void add_block(void *base, size_t bytes) {
  pthread_mutex_lock(&order.lock);
  struct cell *cells = calloc(bytes / LINE + 2, sizeof *cells);
  if (order.blocks == BLOCKS || !cells) abort();
  order.block[order.blocks++] = (struct block){base, bytes, cells};
  pthread_mutex_unlock(&order.lock);
}

static void remove_block(const void *base) {
  pthread_mutex_lock(&order.lock);
  for (int i = 0; i < order.blocks; i++) {
    if (order.block[i].base != base) continue;
    free(order.block[i].cells);
    order.block[i] = order.block[--order.blocks];
    break;
  }
  pthread_mutex_unlock(&order.lock);
}

static void race(int actor, const char *what, const struct cell *cell, const char *how) {
  if (order.races++ > 0) return;
  snprintf(order.first, sizeof order.first, "'%s' on %s %s, last written by '%s' on %s", what, order.name[actor], how,
           cell->by ? cell->by : "nobody", order.name[cell->writer]);
}

// Work on `actor`, which began just now, reads or writes. Lock held.
static void access_line(int actor, const char *what, struct cell *cell, bool write) {
  const uint32_t *now = order.now[actor];
  if (cell->written > now[cell->writer]) race(actor, what, cell, write ? "writes over a write" : "reads");
  for (int i = 0; i < ACTORS && write; i++) {
    if (cell->read[i] > now[i]) race(actor, what, cell, "writes what another reads");
  }
  if (!write) {
    cell->read[actor] = now[actor];
    return;
  }
  cell->writer = actor;
  cell->written = now[actor];
  cell->by = what;
}

struct access {
  const void *at;
  size_t bytes;
  bool write;
};

static void do_access(int actor, const char *what, const struct access *a) {
  const char *at = a->at;
  if (!at || a->bytes == 0) return;
  for (int i = 0; i < order.blocks; i++) {
    struct block *b = &order.block[i];
    if (at < b->base || at >= b->base + b->bytes) continue;
    size_t first = (size_t)(at - b->base) / LINE, last = (size_t)(at - b->base + (ptrdiff_t)a->bytes - 1) / LINE;
    if (last > b->bytes / LINE) abort();  // beyond its memory
    for (size_t l = first; l <= last; l++) access_line(actor, what, &b->cells[l], a->write);
    order.accesses++;
    return;
  }
}

// A piece of work on a stream, behind all that is on it and all that its host knows to be done.
static void do_work(int actor, const char *what, const struct access *accesses, int count) {
  pthread_mutex_lock(&order.lock);
  if (order.on) {
    join(order.now[actor], host_clock());
    order.now[actor][actor]++;
    for (int i = 0; i < count; i++) do_access(actor, what, &accesses[i]);
  }
  pthread_mutex_unlock(&order.lock);
}

// A command begins, everything is at rest; it ends: everything that was enqueued must have been waited for by somebody.
static void begin_watching(void) {
  pthread_mutex_lock(&order.lock);
  memset(order.now, 0, sizeof order.now);
  for (int i = 0; i < order.blocks; i++)
    memset(order.block[i].cells, 0, (order.block[i].bytes / LINE + 2) * sizeof(struct cell));
  order.epoch++;
  order.hosts = 0;
  order.on = true;
  pthread_mutex_unlock(&order.lock);
}

static void end_watching(bool good) {
  pthread_mutex_lock(&order.lock);
  order.on = false;
  clock_of known = {0};
  for (int i = 0; i < order.hosts && i < HOSTS; i++) join(known, order.host[i]);
  for (int a = 0; a < ACTORS && good; a++) {
    if (order.now[a][a] <= known[a] || order.races++ > 0) continue;
    snprintf(order.first, sizeof order.first, "nobody waited for the end of %s", order.name[a]);
  }
  pthread_mutex_unlock(&order.lock);
}

#endif
