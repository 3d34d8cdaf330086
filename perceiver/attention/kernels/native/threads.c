/* Jobs spread over threads: those of the OpenMP runtime in this process, or threads that live for one call. */
#include "threads.h"

#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    const void *k;
    void (*run)(const void *, int64_t, float *);
    int64_t jobs, work;
    atomic_llong next;
    atomic_int failed;
    fenv_t modes; /* the caller's treatment of denormals, applied in every thread */
} crew;

static void serve(void *argument)
{
    crew *c = argument;
    float *work = aligned_alloc(64, (c->work + 15) / 16 * 64);
    if (!work) {
        atomic_store(&c->failed, 1);
        return;
    }
    fenv_t own;
    fegetenv(&own);
    fesetenv(&c->modes);
    for (int64_t job; (job = atomic_fetch_add(&c->next, 1)) < c->jobs;) c->run(c->k, job, work);
    fesetenv(&own);
    free(work);
}

static void *serve_once(void *argument)
{
    serve(argument);
    return NULL;
}

/* GOMP_parallel of the OpenMP runtime in this process: runs fn(data) in the given number of threads, including the caller's.
 * OpenMP's threads busy-wait for milliseconds after each parallel loop, so separate threads would compete with them for
 * cores. Not used in a forked child, where these threads do not exist. */
static void (*team)(void (*fn)(void *), void *data, unsigned threads, unsigned flags);
static pid_t team_of;

void perceiver_use_team(void *gomp_parallel)
{
    *(void **)&team = gomp_parallel;
    team_of = getpid();
}

/* Without a team, threads live for a single call, which is safe with forks. They cost about 20 microseconds each. */
int parallel(const void *k, void (*run)(const void *, int64_t, float *), int64_t jobs, int64_t work, int64_t threads,
             int64_t whole_team)
{
    crew c = {.k = k, .run = run, .jobs = jobs, .work = work > 0 ? work : 16};
    pthread_t others[64];
    int64_t started = 0;
    fegetenv(&c.modes);
    if (threads > jobs) threads = jobs;
    if (threads > 64) threads = 64;
    if (threads > 1 && team && team_of == getpid()) {
        /* Always the whole team: a smaller team would end threads that the next loop would have to start again. */
        team(serve, &c, (unsigned)whole_team, 0);
    } else {
        while (started < threads - 1 && !pthread_create(&others[started], NULL, serve_once, &c)) started++;
        serve(&c);
        while (started) pthread_join(others[--started], NULL);
    }
    return atomic_load(&c.failed) && atomic_load(&c.next) < jobs;
}
