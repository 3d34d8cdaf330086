#ifndef PERCEIVER_THREADS_H
#define PERCEIVER_THREADS_H
#include <stdint.h>

/* Runs run(k, job, work) for each job, in any order and thread; `work` is a thread's own aligned array of that many floats.
   Returns 0, or 1 if out of memory. Hidden: another library's function of this name must not be called instead. */
__attribute__((visibility("hidden"))) int parallel(const void *k, void (*run)(const void *, int64_t, float *), int64_t jobs,
                                                   int64_t work, int64_t threads, int64_t whole_team);

#endif
