/* Moments of tokens whose parts broadcast: the mean and the reciprocal standard deviation of each token's channels.
 *
 * Each part's mean and sum of squared deviations are taken at the part's own shape; a token's variance follows from those of
 * its parts (parallel-variance formula). An offset that all channels of a sample share is found first and left out, since it
 * would cost precision. See standard.py for the same in plain PyTorch.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kinds.h"
#include "threads.h"

#define LANES 16
#define LINE 1024          /* tokens whose moments stay in the L1 cache */
#define LINES 8            /* lines per job */
#define MOST_SAMPLED 8192  /* approximate number of values from which an offset is estimated */
#define FAR 8.0            /* an offset is left out if it is this many standard deviations from zero */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* A part of the tokens, (samples or 1, n, channels). */
typedef struct {
    const float *data;
    int64_t kind, channels, stride; /* between samples; 0: shared */
} source;

typedef struct {
    int64_t batch, outer, inner, num_parts, threads;
    int64_t steady;                 /* the part from which the offset is estimated; -1: no offset */
    int64_t offsets, masks;         /* samples of the offset and of the mask, each 1 or batch */
    const source *parts;
    const uint8_t *mask;            /* (masks, outer, inner) or NULL */
    float *offset, *mean, *rstd;    /* results: (offsets), (batch, outer, inner) without the offset, (batch, outer, inner) */
    /* Set by the entry point: */
    float *tables;                  /* per part that is not full-size, and sample of it: means, then squared deviations */
    int64_t channels, offset_stride;
    float eps;
} moments_task;

static int64_t low(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t high(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t positions(const moments_task *k, const source *x)
{
    return x->kind == CONSTANT ? 1 : x->kind == OUTER ? k->outer : x->kind == INNER ? k->inner : k->outer * k->inner;
}

INLINE float total(vec x)
{
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

/* Sum of x - shift, or of its squares. */
INLINE float sum_of(const int squares, const float *x, int64_t n, float shift)
{
    vec sum = {0};
    float rest = 0;
    int64_t c = 0;
    for (; c + LANES <= n; c += LANES) {
        vec y = *(const vec *)(x + c) - shift;
        if (squares) sum += y * y;
        else sum += y;
    }
    for (; c < n; c++) {
        float y = x[c] - shift;
        rest += squares ? y * y : y;
    }
    return rest + (n >= LANES ? total(sum) : 0);
}

/* ---------------------------------------------------------------------------------------------- offset */

static int seen_in(const moments_task *k, const source *x, const uint8_t *mask, int64_t position)
{
    int64_t first = 0, count = k->outer * k->inner, step = 1;
    if (x->kind == FULL) return mask[position];
    if (x->kind == OUTER) first = position * k->inner, count = k->inner;
    if (x->kind == INNER) first = position, count = k->outer, step = k->inner;
    for (int64_t i = 0; i < count; i++)
        if (mask[first + i * step]) return 1;
    return 0;
}

/* Whether a valid token sees this position; of a part that samples share, a valid token of any sample. */
static int seen(const moments_task *k, const source *x, int64_t sample, int64_t position)
{
    int64_t tokens = k->outer * k->inner, from = k->masks == 1 ? 0 : sample, to = from + 1;
    if (!k->mask) return 1;
    if (k->offsets == 1) from = 0, to = k->masks;
    for (; from < to; from++)
        if (seen_in(k, x, k->mask + from * tokens, position)) return 1;
    return 0;
}

static void offset_job(const void *argument, int64_t sample, float *work)
{
    (void)work;
    const moments_task *k = argument;
    const source *x = k->parts + k->steady;
    const float *data = x->data + sample * x->stride;
    int64_t n = positions(k, x), step = up(n * x->channels, MOST_SAMPLED), run = x->channels, count = 0;
    if (step == 1 && !k->mask) run *= n, n = 1;
    double sum = 0, squares = 0;
    for (int64_t t = 0; t < n; t += step)
        if (seen(k, x, sample, t)) sum += sum_of(0, data + t * x->channels, run, 0), count += run;
    float mean = count ? (float)(sum / (double)count) : 0;
    for (int64_t t = 0; t < n; t += step)
        if (seen(k, x, sample, t)) squares += sum_of(1, data + t * x->channels, run, mean);
    /* A few values are close to each other by chance, and a single one has no deviation: hence 1 more. */
    double deviation = sqrt((squares + 1) / (double)high(count, 1));
    k->offset[sample] = fabs((double)mean) > FAR * deviation ? mean : 0;
}

/* ---------------------------------------------------------------------------------------------- moments of parts */

INLINE void narrow(const int channels, const float *x, int64_t n, float offset, float *means, float *squares)
{
    for (int64_t i = 0; i < n; i++) {
        float mean = 0, square = 0, rest = 0;
        for (int c = 0; c < channels; c++) mean += x[i * channels + c] - offset;
        mean *= 1.0f / (float)channels;
        for (int c = 0; c < channels; c++) {
            float y = x[i * channels + c] - offset - mean;
            square += y * y, rest += y;
        }
        means[i] = mean, squares[i] = square - rest * rest * (1.0f / (float)channels);
    }
}

/* Mean over the channels of x - offset, and sum of squared deviations from it, at n positions. Far from zero the mean is
   rounded, so what is left of it is taken off the squares. */
static void moments(const float *x, int64_t n, int64_t channels, float offset, float *restrict means, float *restrict squares)
{
    switch (channels) {
    case 1: narrow(1, x, n, offset, means, squares); return;
    case 2: narrow(2, x, n, offset, means, squares); return;
    case 3: narrow(3, x, n, offset, means, squares); return;
    case 4: narrow(4, x, n, offset, means, squares); return;
    case 5: narrow(5, x, n, offset, means, squares); return;
    case 6: narrow(6, x, n, offset, means, squares); return;
    }
    for (int64_t i = 0; i < n; i++) {
        const float *own = x + i * channels;
        means[i] = sum_of(0, own, channels, offset) / (float)channels;
        float rest = sum_of(0, own, channels, offset + means[i]);
        squares[i] = sum_of(1, own, channels, offset + means[i]) - rest * rest / (float)channels;
    }
}

/* Samples for which a part's moments differ. */
static int64_t samples_of(const moments_task *k, const source *x) { return x->stride || k->offset_stride ? k->batch : 1; }

static float *table_of(const moments_task *k, int64_t part, int64_t sample)
{
    float *table = k->tables;
    for (const source *x = k->parts; x < k->parts + part; x++)
        if (x->kind != FULL) table += 2 * samples_of(k, x) * positions(k, x);
    const source *x = k->parts + part;
    return table + (samples_of(k, x) == 1 ? 0 : 2 * sample * positions(k, x));
}

static void table_job(const void *argument, int64_t job, float *work)
{
    (void)work;
    const moments_task *k = argument;
    int64_t part = job % k->num_parts, sample = job / k->num_parts;
    const source *x = k->parts + part;
    if (x->kind == FULL || sample >= samples_of(k, x)) return;
    int64_t n = positions(k, x);
    float *table = table_of(k, part, sample);
    moments(x->data + sample * x->stride, n, x->channels, k->offset[sample * k->offset_stride], table, table + n);
}

/* ---------------------------------------------------------------------------------------------- tokens */

static int64_t lines_per_row(const moments_task *k) { return up(k->inner, LINE); }
static int64_t lines(const moments_task *k) { return k->outer * lines_per_row(k); }

static void line_moments(const moments_task *k, int64_t sample, int64_t outer, int64_t inner, int64_t n, float *work)
{
    float *restrict mean = k->mean + (sample * k->outer + outer) * k->inner + inner;
    float *restrict rstd = k->rstd + (sample * k->outer + outer) * k->inner + inner;
    float constant = 0, share = 1.0f / (float)k->channels;
    const float *means[k->num_parts], *squares[k->num_parts];
    for (int64_t j = 0; j < k->num_parts; j++) {
        const source *x = k->parts + j;
        if (x->kind == FULL) {
            int64_t token = outer * k->inner + inner;
            moments(x->data + sample * x->stride + token * x->channels, n, x->channels, k->offset[sample * k->offset_stride],
                    work, work + LINE);
            means[j] = work, squares[j] = work + LINE, work += 2 * LINE;
            continue;
        }
        int64_t skip = x->kind == OUTER ? outer : x->kind == INNER ? inner : 0;
        means[j] = table_of(k, j, sample) + skip, squares[j] = means[j] + positions(k, x);
        if (x->kind != INNER) constant += (float)x->channels * *means[j];
    }
    for (int64_t i = 0; i < n; i++) mean[i] = constant;
    for (int64_t j = 0; j < k->num_parts; j++) {
        float channels = (float)k->parts[j].channels;
        const float *restrict own = means[j];
        if (k->parts[j].kind >= INNER)
            for (int64_t i = 0; i < n; i++) mean[i] += channels * own[i];
    }
    for (int64_t i = 0; i < n; i++) mean[i] *= share, rstd[i] = 0;
    for (int64_t j = 0; j < k->num_parts; j++) {
        float channels = (float)k->parts[j].channels;
        const float *restrict own = means[j], *restrict within = squares[j];
        if (k->parts[j].kind >= INNER) {
            for (int64_t i = 0; i < n; i++) rstd[i] += within[i] + channels * (own[i] - mean[i]) * (own[i] - mean[i]);
        } else {
            float one = *own, one_within = *within;
            for (int64_t i = 0; i < n; i++) rstd[i] += one_within + channels * (one - mean[i]) * (one - mean[i]);
        }
    }
    for (int64_t i = 0; i < n; i++) rstd[i] = 1.0f / sqrtf(rstd[i] * share + k->eps);
}

static void line_job(const void *argument, int64_t job, float *work)
{
    const moments_task *k = argument;
    int64_t jobs = up(lines(k), LINES), sample = job / jobs, first = job % jobs * LINES;
    for (int64_t line = first; line < low(first + LINES, lines(k)); line++) {
        int64_t inner = line % lines_per_row(k) * LINE;
        line_moments(k, sample, line / lines_per_row(k), inner, low(LINE, k->inner - inner), work);
    }
}

/* ---------------------------------------------------------------------------------------------- entry points */

int64_t perceiver_moments_task_size(void) { return sizeof(moments_task); }

/* Computes offset, mean and rstd. Returns 0, or 1 if out of memory. */
int perceiver_moments(moments_task *k)
{
    int64_t team = k->threads, floats = 0;
    double nanoseconds = 2.0 * (double)k->num_parts * (double)(k->batch * k->outer * k->inner);
    int64_t threads = high(1, low(k->threads, (int64_t)(nanoseconds / 5e4)));
    int failed = 0;
    k->channels = 0;
    for (const source *x = k->parts; x < k->parts + k->num_parts; x++) k->channels += x->channels;
    if (k->steady < 0)
        k->offset[0] = 0;
    else
        failed = parallel(k, offset_job, k->offsets, 0, threads, team);
    k->offset_stride = 0;
    for (int64_t sample = 1; sample < k->offsets; sample++) k->offset_stride |= k->offset[sample] != k->offset[0];
    for (const source *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->kind != FULL) floats += 2 * samples_of(k, x) * positions(k, x);
    k->tables = malloc(high(floats, 1) * sizeof(float));
    failed = failed || !k->tables || parallel(k, table_job, k->num_parts * k->batch, 0, threads, team)
             || parallel(k, line_job, k->batch * up(lines(k), LINES), 2 * LINE * k->num_parts, threads, team);
    free(k->tables);
    return failed;
}
