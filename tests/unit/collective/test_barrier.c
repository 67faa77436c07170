// The barrier under threads: nobody passes before all have come, what was written before is seen after, and a broken
// barrier lets everybody go. ThreadSanitizer watches the memory.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "collective/collective.h"

enum { THREADS = 5, ROUNDS = 400 };

struct shared {
  struct ls_barrier barrier;
  int value[THREADS];  // not atomic: the barrier alone orders access
  int wrong[THREADS];
  int rounds[THREADS];
  int break_at;
};

struct thread {
  struct shared *shared;
  int index;
  pthread_t id;
};

static void *work(void *argument) {
  struct thread *t = argument;
  struct shared *s = t->shared;
  for (int round = 0; round < ROUNDS; round++) {
    s->value[t->index] = round;
    if (!ls_barrier_wait(&s->barrier)) return NULL;
    for (int i = 0; i < THREADS; i++) s->wrong[t->index] += s->value[i] != round;
    if (t->index == 0 && round == s->break_at) {
      ls_barrier_break(&s->barrier);
      return NULL;
    }
    if (!ls_barrier_wait(&s->barrier)) return NULL;
    s->rounds[t->index]++;
  }
  return NULL;
}

static void run(struct shared *s, bool spin) {
  struct thread thread[THREADS];
  ls_barrier_init(&s->barrier, THREADS, spin);
  for (int i = 0; i < THREADS; i++) {
    thread[i] = (struct thread){.shared = s, .index = i};
    assert_int_equal(pthread_create(&thread[i].id, NULL, work, &thread[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(thread[i].id, NULL);
  for (int i = 0; i < THREADS; i++) assert_int_equal(s->wrong[i], 0);
}

static void test_rounds(void **state) {
  (void)state;
  for (int spin = 0; spin < 2; spin++) {
    struct shared s = {.break_at = -1};
    run(&s, spin);
    for (int i = 0; i < THREADS; i++) assert_int_equal(s.rounds[i], ROUNDS);
  }
}

// Everybody comes back, with false, whether it was waiting then or came later; the barrier stays broken.
static void test_broken(void **state) {
  (void)state;
  for (int i = 0; i < 40; i++) {
    struct shared s = {.break_at = i};
    run(&s, i % 2);
    for (int j = 0; j < THREADS; j++) assert_int_equal(s.rounds[j], i);
    assert_false(ls_barrier_wait(&s.barrier));
  }
}

static void test_alone(void **state) {
  (void)state;
  struct ls_barrier barrier;
  ls_barrier_init(&barrier, 1, false);
  for (int i = 0; i < 3; i++) assert_true(ls_barrier_wait(&barrier));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounds), cmocka_unit_test(test_broken),
                                     cmocka_unit_test(test_alone)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
