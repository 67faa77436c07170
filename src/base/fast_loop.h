// LS_FAST_LOOP: a function of plain loops compiled for several instruction sets; the loader picks one at start. Where
// nothing contracts or reorders floating-point arithmetic (C17 as GCC compiles it), all of them give the same bits.
//
// Under ThreadSanitizer only once: the function that picks runs before the sanitizer's own start and would crash in it.
#ifndef LS_BASE_FAST_LOOP_H
#define LS_BASE_FAST_LOOP_H

#ifdef __SANITIZE_THREAD__
#define LS_FAST_LOOP
#else
#define LS_FAST_LOOP __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

#endif
