/* The inner function of factored cross-attention and its backward for CPUs, float32, plain C without dependencies.
 *
 * Query rows lie across the vector lanes: ROWS rows are a block, and a panel is an array [n][ROWS]. For each token the
 * kernel broadcasts the token's few numbers (rstd, content) and processes a block of rows at once. So no grid size needs a
 * remainder loop, masked tokens are skipped, and sums over tokens need no shuffles. Scores of parts that are constant
 * along an axis are panels over the other axis, computed beforehand; the marginals of the weights are panels too.
 *
 * A job is a block of rows of one sample (or a fixed group of blocks where gradients are summed over rows). The result does
 * not depend on the thread that runs a job, bit for bit. See read_tokens in eager.py for the mathematics.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kinds.h"
#include "threads.h"
#if defined(__AVX__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef LANES
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif
#define VECTORS (LANES < 8 ? 4 : 2) /* vectors per block of rows, which share each broadcast */
#define ROWS (LANES * VECTORS)
#define TILE 128       /* tokens per line: two panels of this length stay in the L1 cache */
#define BACKWARD_TILE 64
#define MOST_CONTENT 8 /* most channels of full-size parts that the loops over tokens handle, unrolled */
#define UNROLLED 6     /* accumulator vectors per VECTORS in the small matrix products */
#define GROUPS 4       /* partial gradients per sample, at most */
#define GROUP_FLOATS (1 << 22)
#define LOG2E 1.44269504088896341f
#define LN2 0.693147180559945309f
/* The reference of a one-pass softmax lies HEADROOM below an upper bound of a row's scores (log2 units). If the sum stays
   below TRUSTED, the bound was too loose and exponents have lost digits; then the row's maximum is computed as well. */
#define HEADROOM 4.0f
#define TRUSTED 0x1p-28f
#define GROWTH 6.0f    /* the online maximum is updated only when scores exceed it by this much */
#define NEVER -1e30f

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef float few __attribute__((vector_size(4 * MOST_CONTENT)));
typedef uint32_t few_bits __attribute__((vector_size(4 * MOST_CONTENT), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* A part of the tokens, (batch or 1, n, channels) with n = 1, outer, inner or outer * inner depending on its kind. */
typedef struct {
    const float *data;
    float *grad;              /* like data, zeroed by the caller, or NULL */
    int64_t kind, channels, column, stride, grad_stride; /* column: first channel in the queries; strides between samples */
} part;

typedef struct {
    int64_t batch, rows, outer, inner, channels, num_parts, num_content, level, threads;
    int64_t queries_stride, rstd_stride, content_stride, mask_stride, rstd_grad_stride, content_grad_stride;
    int64_t content_column[MOST_CONTENT];
    const float *queries, *rstd, *content; /* (b, rows, channels), (b, outer, inner), (b, outer, inner, num_content) */
    const uint8_t *mask;                   /* (b, outer, inner) or NULL */
    const part *parts;
    float *sums, *lse;                     /* (batch, rows, channels), (batch, rows): results, and inputs of the backward */
    const float *grad_sums, *grad_lse;     /* the same shapes */
    float *queries_grad, *rstd_grad, *content_grad; /* the first (batch, rows, channels) or NULL, the others zeroed or NULL */
    /* Set by the entry points: */
    float *shared;            /* per block of rows: the packed queries and their panels, if all samples share them */
    float *partial;           /* partial gradients of a wave of samples, by groups of blocks */
    float *bounds;            /* per sample: largest |content| and rstd of valid tokens */
    uint8_t *seen;            /* per sample: outer, then inner indices at which it has a valid token; NULL without a mask */
    int64_t blocks, groups, grads, wave, first, team;
    int has_inner, has_full;
} task;

/* ---------------------------------------------------------------------------------------------- vectors */

INLINE int64_t low(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t high(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec most(vec low, vec x) /* maximum; keeps NaN in x */
{
#if LANES == 16 && defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)low, (__m512)x);
#elif LANES == 8 && defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)low, (__m256)x);
#else
    bits lower = (bits)(x < low);
    return (vec)(((bits)low & lower) | ((bits)x & ~lower));
#endif
}

INLINE vec exp2_vec(vec x) /* 2^x for x < 126, relative error 1.3e-7; 2^-125 for x below -125 */
{
    x = most(splat(-125.0f), x);
    vec shifted = x + 12582912.0f; /* 1.5 * 2^23: puts the nearest integer in the low bits */
    vec f = x - (shifted - 12582912.0f);
    vec y = f * 0x1.5c08e6p-10f + 0x1.3d0c52p-7f;
    y = y * f + 0x1.c6b6e4p-5f;
    y = y * f + 0x1.ebf918p-3f;
    y = y * f + 0x1.62e428p-1f;
    y = y * f + 0x1.000002p+0f;
    return (vec)((bits)y + ((bits)shifted << 23));
}

INLINE float total(vec x)
{
#if LANES == 16 && defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#elif LANES == 8 && defined(__AVX__)
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    float lanes[LANES];
    memcpy(lanes, &x, sizeof x);
    UNROLL for (int width = LANES / 2; width; width /= 2)
        UNROLL for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
#endif
}

/* ---------------------------------------------------------------------------------------------- small matrix products */

INLINE void project_some(const int count, float *out, const float *x, const float *rows, int64_t channels)
{
    vec sum[UNROLLED][VECTORS];
    UNROLL for (int t = 0; t < count; t++)
        UNROLL for (int v = 0; v < VECTORS; v++) sum[t][v] = ((vec *)out)[t * VECTORS + v];
    for (int64_t c = 0; c < channels; c++)
        UNROLL for (int t = 0; t < count; t++)
            UNROLL for (int v = 0; v < VECTORS; v++) sum[t][v] += x[t * channels + c] * ((const vec *)rows)[c * VECTORS + v];
    UNROLL for (int t = 0; t < count; t++)
        UNROLL for (int v = 0; v < VECTORS; v++) ((vec *)out)[t * VECTORS + v] = sum[t][v];
}

/* out[n][ROWS] += x[n][channels] @ rows[channels][ROWS] */
static void project(float *out, const float *x, const float *rows, int64_t n, int64_t channels)
{
    int64_t t = 0;
    for (; t + UNROLLED <= n; t += UNROLLED) project_some(UNROLLED, out + t * ROWS, x + t * channels, rows, channels);
    for (; t < n; t++) project_some(1, out + t * ROWS, x + t * channels, rows, channels);
}

INLINE void gather_some(const int count, float *out, const float *weights, const float *x, int64_t n, int64_t channels)
{
    vec sum[UNROLLED][VECTORS] = {0};
    for (int64_t t = 0; t < n; t++)
        UNROLL for (int c = 0; c < count; c++)
            UNROLL for (int v = 0; v < VECTORS; v++) sum[c][v] += x[t * channels + c] * ((const vec *)weights)[t * VECTORS + v];
    UNROLL for (int c = 0; c < count; c++)
        UNROLL for (int v = 0; v < VECTORS; v++) ((vec *)out)[c * VECTORS + v] += sum[c][v];
}

/* out[channels][ROWS] += x[n][channels]^T @ weights[n][ROWS]; partial sums keep rounding errors small */
static void gather(float *out, const float *weights, const float *x, int64_t n, int64_t channels)
{
    for (int64_t t = 0; t < n; t += TILE) {
        int64_t own = n - t < TILE ? n - t : TILE, c = 0;
        const float *w = weights + t * ROWS, *from = x + t * channels;
        for (; c + UNROLLED <= channels; c += UNROLLED) gather_some(UNROLLED, out + c * ROWS, w, from + c, own, channels);
        for (; c < channels; c++) gather_some(1, out + c * ROWS, w, from + c, own, channels);
    }
}

INLINE vec load_first(const float *x, int64_t count)
{
    if (count >= LANES) return (vec) * (const loose *)x;
    vec y = {0};
    memcpy(&y, x, count * sizeof(float));
    return y;
}

/* For `count` tokens and `vectors` vectors of channels, of which only `width` channels are valid. */
INLINE void spread_some(const int count, const int vectors, float *out, const float *dt, const float *w, const float *a,
                        const float *g, int64_t rows, int64_t stride, int64_t channels, int64_t width)
{
    vec sum[4][2];
    UNROLL for (int t = 0; t < count; t++)
        UNROLL for (int v = 0; v < vectors; v++) sum[t][v] = load_first(out + t * channels + v * LANES, width - v * LANES);
    for (int64_t r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) {
            vec own_a = load_first(a + r * stride + v * LANES, width - v * LANES);
            vec own_g = load_first(g + r * stride + v * LANES, width - v * LANES);
            UNROLL for (int t = 0; t < count; t++) sum[t][v] += dt[t * ROWS + r] * own_a + w[t * ROWS + r] * own_g;
        }
    UNROLL for (int t = 0; t < count; t++)
        UNROLL for (int v = 0; v < vectors; v++)
            memcpy(out + t * channels + v * LANES, &sum[t][v], low(LANES, width - v * LANES) * sizeof(float));
}

/* out[n][channels] += dt[n][rows] @ a[rows][channels] + w[n][rows] @ g[rows][channels]; rows of a and g are stride apart */
static void spread(float *out, const float *dt, const float *w, const float *a, const float *g, int64_t rows, int64_t stride,
                   int64_t n, int64_t channels)
{
#define SPREAD(COUNT, VECS, WIDTH) \
    spread_some(COUNT, VECS, out + t * channels + c, dt + t * ROWS, w + t * ROWS, a + c, g + c, rows, stride, channels, WIDTH)
    for (int64_t c = 0; c < channels; c += 2 * LANES) {
        int64_t t = 0, width = channels - c;
        if (width >= 2 * LANES) {
            for (; t + 4 <= n; t += 4) SPREAD(4, 2, 2 * LANES);
            for (; t < n; t++) SPREAD(1, 2, 2 * LANES);
            continue;
        }
        for (; t < n; t++) {
            SPREAD(1, 1, low(width, LANES));
            if (width > LANES) spread_some(1, 1, out + t * channels + c + LANES, dt + t * ROWS, w + t * ROWS, a + c + LANES,
                                           g + c + LANES, rows, stride, channels, width - LANES);
        }
    }
#undef SPREAD
}

/* to[c][r] = from[r][c] */
static void transpose(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows, int64_t columns)
{
    int64_t whole_rows = 0, whole_columns = 0;
#if defined(__AVX__)
    whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
    for (int64_t r = 0; r < whole_rows; r += 8)
        for (int64_t c = 0; c < whole_columns; c += 8) {
            __m256 x[8], y[8];
            UNROLL for (int k = 0; k < 8; k++) x[k] = _mm256_loadu_ps(from + (r + k) * from_stride + c);
            UNROLL for (int k = 0; k < 8; k += 2) {
                y[k] = _mm256_unpacklo_ps(x[k], x[k + 1]);
                y[k + 1] = _mm256_unpackhi_ps(x[k], x[k + 1]);
            }
            UNROLL for (int k = 0; k < 8; k += 4) {
                x[k] = _mm256_shuffle_ps(y[k], y[k + 2], 0x44);
                x[k + 1] = _mm256_shuffle_ps(y[k], y[k + 2], 0xee);
                x[k + 2] = _mm256_shuffle_ps(y[k + 1], y[k + 3], 0x44);
                x[k + 3] = _mm256_shuffle_ps(y[k + 1], y[k + 3], 0xee);
            }
            UNROLL for (int k = 0; k < 4; k++) {
                _mm256_storeu_ps(to + (c + k) * to_stride + r, _mm256_permute2f128_ps(x[k], x[k + 4], 0x20));
                _mm256_storeu_ps(to + (c + k + 4) * to_stride + r, _mm256_permute2f128_ps(x[k], x[k + 4], 0x31));
            }
        }
#endif
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

static void scale_rows(float *panel, const vec *factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        UNROLL for (int v = 0; v < VECTORS; v++) ((vec *)panel)[i * VECTORS + v] *= factor[v];
}

/* Transpose rows of x, channels apart, to a panel [channels][ROWS]; missing rows become zero. */
static void pack(float *panel, const float *x, int64_t rows, int64_t channels)
{
    if (rows < ROWS) memset(panel, 0, channels * ROWS * sizeof(float));
    transpose(panel, ROWS, x, channels, rows, channels);
}

/* ---------------------------------------------------------------------------------------------- lines of tokens */

/* Consecutive tokens along the inner axis, and their data. */
typedef struct {
    int64_t n;
    const float *content, *rstd; /* [n][C], [n] */
    const uint8_t *mask;         /* [n] or NULL */
    const float *inner, *inner_grads; /* panels [n][ROWS] of score terms and of gradient terms */
    float *weights, *dt;         /* panels [n][ROWS] to which weights and score gradients are added */
    float *rstd_grad, *content_grad; /* [n], [n][C] */
} line;

/* A block of rows: values that the loops over tokens keep in registers, if possible. */
typedef struct {
    vec a[MOST_CONTENT][VECTORS], g[MOST_CONTENT][VECTORS]; /* queries and gradients at the content channels */
    vec outer[VECTORS], outer_grads[VECTORS];              /* terms of this line's outer index */
    vec reference[VECTORS], delta[VECTORS];
    vec total[VECTORS], weights[VECTORS], dt[VECTORS];     /* sums over this line: softmax, weights, score gradients */
    vec sums[MOST_CONTENT][VECTORS];                       /* sums of weighted content, or of dt times content */
} block;

/* Weights of a line relative to the block's reference. Scores are computed, or taken from `scores` if scored. */
INLINE void forward_line(const int C, const int scored, const line *l, block *b, const float *scores)
{
    vec a[MOST_CONTENT][VECTORS], outer[VECTORS], reference[VECTORS], all[VECTORS], weights[VECTORS];
    vec sums[MOST_CONTENT][VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
        UNROLL for (int c = 0; c < C; c++) a[c][v] = b->a[c][v], sums[c][v] = splat(0);
        outer[v] = b->outer[v], reference[v] = b->reference[v], all[v] = weights[v] = splat(0);
    }
    const float *restrict content = l->content, *restrict rstd = l->rstd;
    const uint8_t *restrict mask = l->mask;
    const vec *restrict inner = (const vec *)l->inner, *restrict known = (const vec *)scores;
    vec *restrict added = (vec *)l->weights;
    for (int64_t i = 0; i < l->n; i++) {
        if (mask && !mask[i]) continue;
        UNROLL for (int v = 0; v < VECTORS; v++) {
            vec p;
            if (scored) {
                p = exp2_vec(known[i * VECTORS + v] - reference[v]);
            } else {
                vec t = outer[v] + inner[i * VECTORS + v];
                UNROLL for (int c = 0; c < C; c++) t += a[c][v] * content[i * C + c];
                p = exp2_vec(t * rstd[i] - reference[v]);
            }
            vec w = p * rstd[i];
            all[v] += p;
            weights[v] += w;
            added[i * VECTORS + v] += w;
            UNROLL for (int c = 0; c < C; c++) sums[c][v] += w * content[i * C + c];
        }
    }
    UNROLL for (int v = 0; v < VECTORS; v++) {
        b->total[v] = all[v], b->weights[v] = weights[v];
        UNROLL for (int c = 0; c < C; c++) b->sums[c][v] = sums[c][v];
    }
}

/* Scores of a line, in log2 units, and their maximum in b->total. */
INLINE void score_line(const int C, const line *l, block *b, float *scores)
{
    vec top[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) top[v] = splat(NEVER);
    for (int64_t i = 0; i < l->n; i++) {
        if (l->mask && !l->mask[i]) continue;
        UNROLL for (int v = 0; v < VECTORS; v++) {
            vec t = b->outer[v] + ((const vec *)l->inner)[i * VECTORS + v];
            UNROLL for (int c = 0; c < C; c++) t += b->a[c][v] * l->content[i * C + c];
            t *= l->rstd[i];
            ((vec *)scores)[i * VECTORS + v] = t;
            top[v] = most(top[v], t);
        }
    }
    UNROLL for (int v = 0; v < VECTORS; v++) b->total[v] = top[v];
}

/* Levels: 0 gradients for queries; 1 also for rstd and parts that are wide or constant along an axis; 2 also for content. */
INLINE void backward_line(const int C, const int level, const line *l, block *b)
{
    vec a[MOST_CONTENT][VECTORS], g[MOST_CONTENT][VECTORS], sums[MOST_CONTENT][VECTORS];
    vec outer[VECTORS], outer_grads[VECTORS], lse[VECTORS], delta[VECTORS], all[VECTORS], weights[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
        UNROLL for (int c = 0; c < C; c++) a[c][v] = b->a[c][v], g[c][v] = b->g[c][v], sums[c][v] = splat(0);
        outer[v] = b->outer[v], outer_grads[v] = b->outer_grads[v], lse[v] = b->reference[v], delta[v] = b->delta[v];
        all[v] = weights[v] = splat(0);
    }
    const float *restrict content = l->content, *restrict rstd = l->rstd;
    const uint8_t *restrict mask = l->mask;
    const vec *restrict inner = (const vec *)l->inner, *restrict inner_grads = (const vec *)l->inner_grads;
    vec *restrict added = (vec *)l->weights, *restrict added_dt = (vec *)l->dt;
    for (int64_t i = 0; i < l->n; i++) {
        if (mask && !mask[i]) continue;
        vec by_scores = splat(0), by_weights = splat(0), content_scores[MOST_CONTENT], content_weights[MOST_CONTENT];
        UNROLL for (int c = 0; c < C; c++) content_scores[c] = content_weights[c] = splat(0);
        UNROLL for (int v = 0; v < VECTORS; v++) {
            vec t = outer[v] + inner[i * VECTORS + v], dw = outer_grads[v] + inner_grads[i * VECTORS + v];
            UNROLL for (int c = 0; c < C; c++) {
                t += a[c][v] * content[i * C + c];
                dw += g[c][v] * content[i * C + c];
            }
            vec p = exp2_vec(t * rstd[i] - lse[v]);
            vec ds = p * (dw * rstd[i] - delta[v]), dt = ds * rstd[i];
            all[v] += dt;
            added_dt[i * VECTORS + v] += dt;
            UNROLL for (int c = 0; c < C; c++) sums[c][v] += dt * content[i * C + c];
            if (level >= 1) {
                vec w = p * rstd[i];
                weights[v] += w;
                added[i * VECTORS + v] += w;
                by_scores += ds * t;
                by_weights += p * dw;
                if (level >= 2) UNROLL for (int c = 0; c < C; c++) {
                    content_scores[c] += dt * a[c][v];
                    content_weights[c] += w * g[c][v];
                }
            }
        }
        /* Scores and queries are in units of log2. */
        if (level >= 1) l->rstd_grad[i] += total(by_scores * LN2 + by_weights);
        if (level >= 2) UNROLL for (int c = 0; c < C; c++)
            l->content_grad[i * C + c] += total(content_scores[c] * LN2 + content_weights[c]);
    }
    UNROLL for (int v = 0; v < VECTORS; v++) {
        b->dt[v] = all[v], b->weights[v] = weights[v];
        UNROLL for (int c = 0; c < C; c++) b->sums[c][v] = sums[c][v];
    }
}

/* A copy of a line's loop for each number of content channels. */
#define FOR_CONTENT(C, CALL) \
    switch (C) { \
    case 0: CALL(0); break; \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    case 3: CALL(3); break; \
    case 4: CALL(4); break; \
    case 5: CALL(5); break; \
    case 6: CALL(6); break; \
    case 7: CALL(7); break; \
    case 8: CALL(8); break; \
    }

static void forward_unscored(int64_t C, const line *l, block *b)
{
#define CALL(C) forward_line(C, 0, l, b, NULL)
    FOR_CONTENT(C, CALL)
#undef CALL
}

static void forward_scored(int64_t C, const line *l, block *b, const float *scores)
{
#define CALL(C) forward_line(C, 1, l, b, scores)
    FOR_CONTENT(C, CALL)
#undef CALL
}

static void score(int64_t C, const line *l, block *b, float *scores)
{
#define CALL(C) score_line(C, l, b, scores)
    FOR_CONTENT(C, CALL)
#undef CALL
}

static void backward(int64_t C, int64_t level, const line *l, block *b)
{
#define CALL(C) backward_line(C, 0, l, b)
    if (level == 0) FOR_CONTENT(C, CALL)
#undef CALL
#define CALL(C) backward_line(C, 1, l, b)
    if (level == 1) FOR_CONTENT(C, CALL)
#undef CALL
#define CALL(C) backward_line(C, 2, l, b)
    if (level == 2) FOR_CONTENT(C, CALL)
#undef CALL
}

/* ---------------------------------------------------------------------------------------------- panels of a block */

INLINE int64_t inner_size(const task *k) { return k->has_inner ? k->inner : TILE; } /* without inner: a tile of zeros */
INLINE int64_t panels_size(const task *k) { return (k->outer + inner_size(k)) * ROWS; }
INLINE int64_t part_size(const task *k, const part *x)
{
    return x->kind == CONSTANT ? 1 : x->kind == OUTER ? k->outer : x->kind == INNER ? k->inner : k->outer * k->inner;
}

static float *take(float **work, int64_t floats)
{
    float *own = *work;
    *work += up(floats, 16) * 16;
    return own;
}

/* Terms of the packed rows with all parts that are constant along an axis: panels over the outer, then the inner axis. */
static void fill_panels(const task *k, int64_t sample, const float *rows, float *panels)
{
    float *outer = panels, *inner = panels + k->outer * ROWS;
    vec constant[VECTORS] = {0};
    for (const part *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->kind == CONSTANT)
            project((float *)constant, x->data + sample * x->stride, rows + x->column * ROWS, 1, x->channels);
    for (int64_t o = 0; o < k->outer; o++) memcpy(outer + o * ROWS, constant, sizeof constant);
    memset(inner, 0, inner_size(k) * ROWS * sizeof(float));
    for (const part *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->kind == OUTER || x->kind == INNER)
            project(x->kind == OUTER ? outer : inner, x->data + sample * x->stride, rows + x->column * ROWS, part_size(k, x),
                    x->channels);
}

/* Marginals times the parts that are constant along an axis, added to sums [channels][ROWS]. */
static void gather_panels(const task *k, int64_t sample, const float *panels, float *sums)
{
    const float *outer = panels, *inner = panels + k->outer * ROWS;
    vec all[VECTORS] = {0};
    for (int64_t o = 0; o < k->outer; o++)
        UNROLL for (int v = 0; v < VECTORS; v++) all[v] += ((const vec *)outer)[o * VECTORS + v];
    for (const part *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->kind != FULL)
            gather(sums + x->column * ROWS, x->kind == CONSTANT ? (float *)all : x->kind == OUTER ? outer : inner,
                   x->data + sample * x->stride, part_size(k, x), x->channels);
}

/* Gradients of these parts, added to the group's partial gradients. */
static void spread_panels(const task *k, const float *dt, const float *weights, const float *a, const float *g, int64_t rows,
                          float *const *grads)
{
    vec all[2][VECTORS] = {0};
    for (int64_t o = 0; o < k->outer; o++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            all[0][v] += ((const vec *)dt)[o * VECTORS + v];
            all[1][v] += ((const vec *)weights)[o * VECTORS + v];
        }
    for (int64_t j = 0; j < k->num_parts; j++) {
        const part *x = k->parts + j;
        if (!x->grad || x->kind == FULL) continue;
        int64_t skip = x->kind == INNER ? k->outer * ROWS : 0;
        spread(grads[j], x->kind == CONSTANT ? (float *)all[0] : dt + skip, x->kind == CONSTANT ? (float *)all[1] : weights + skip,
               a + x->column, g + x->column, rows, k->channels, part_size(k, x), x->channels);
    }
}

/* The line of n tokens starting at (outer o, inner i), with its terms and weights in their panels. */
static line line_at(const task *k, int64_t sample, int64_t o, int64_t i, int64_t n, const float *inner, float *weights)
{
    int64_t token = o * k->inner + i, skip = k->has_inner ? i * ROWS : 0;
    return (line){
        .n = n,
        .content = k->content + sample * k->content_stride + token * k->num_content,
        .rstd = k->rstd + sample * k->rstd_stride + token,
        .mask = k->mask ? k->mask + sample * k->mask_stride + token : NULL,
        .inner = inner + skip,
        .weights = weights + skip,
    };
}

/* Terms of a line: those of the inner panel plus those of wide full-size parts. */
static void add_full(const task *k, int64_t sample, int64_t token, int64_t n, const float *inner, const float *rows, float *out)
{
    memcpy(out, inner, n * ROWS * sizeof(float));
    for (const part *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->kind == FULL)
            project(out, x->data + sample * x->stride + token * x->channels, rows + x->column * ROWS, n, x->channels);
}

static void gather_full(const task *k, int64_t sample, int64_t token, int64_t n, const float *weights, float *sums)
{
    for (const part *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->kind == FULL)
            gather(sums + x->column * ROWS, weights, x->data + sample * x->stride + token * x->channels, n, x->channels);
}

static void add(float *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* The packed queries times log2(e), so that scores are in units of log2, and their panels: computed for this sample, or the
   prepared ones if all samples share them. */
static void prepare(const task *k, int64_t sample, int64_t number, float *rows, float *panels)
{
    const float *own = k->queries + sample * k->queries_stride + number * ROWS * k->channels;
    vec factor[VECTORS];
    for (int v = 0; v < VECTORS; v++) factor[v] = splat(LOG2E);
    pack(rows, own, low(ROWS, k->rows - number * ROWS), k->channels);
    scale_rows(rows, factor, k->channels);
    fill_panels(k, sample, rows, panels);
}

static void prepare_shared(const void *argument, int64_t job, float *work)
{
    const task *k = argument;
    (void)work;
    float *own = k->shared + job * (k->channels * ROWS + panels_size(k));
    prepare(k, 0, job, own, own + k->channels * ROWS);
}

static const float *prepared(const task *k, int64_t sample, int64_t number, float *work)
{
    if (k->shared) return k->shared + number * (k->channels * ROWS + panels_size(k));
    prepare(k, sample, number, work, work + k->channels * ROWS);
    return work;
}

/* ---------------------------------------------------------------------------------------------- forward */

/* Outer and inner indices at which a sample has a valid token. */
static void find_seen(const task *k, const uint8_t *restrict mask, uint8_t *restrict outer)
{
    uint8_t *restrict inner = outer + k->outer;
    memset(inner, 0, k->inner);
    for (int64_t o = 0; o < k->outer; o++, mask += k->inner) {
        uint8_t any = 0;
        for (int64_t i = 0; i < k->inner; i++) inner[i] |= mask[i] != 0, any |= mask[i] != 0;
        outer[o] = any;
    }
}

/* Largest |x|, or `least`. */
static float largest(const float *x, int64_t n, float least)
{
    vec top = splat(least);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec y = (vec) * (const loose *)(x + i);
        top = most(top, most(y, -y));
    }
    for (int lane = 0; lane < LANES; lane++) least = fmaxf(least, top[lane]);
    for (; i < n; i++) least = fmaxf(least, fabsf(x[i]));
    return least;
}

/* Largest of the positive x at valid tokens, or -1. */
static float largest_valid(const float *x, const uint8_t *mask, int64_t n)
{
    vec top = {0};
    bits any = {0};
    float all = -1;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        bits valid = (bits)(__builtin_convertvector(*(const bytes *)(mask + i), bits) != 0);
        any |= valid;
        top = most(top, (vec)((bits) * (const loose *)(x + i) & valid));
    }
    for (int lane = 0; lane < LANES; lane++)
        if (any[lane]) all = fmaxf(all, top[lane]);
    for (; i < n; i++)
        if (mask[i]) all = fmaxf(all, x[i]);
    return all;
}

/* Largest |content| of valid tokens, each a vector of which the first C values count. */
static float largest_content(const float *content, const uint8_t *mask, int64_t n, int64_t C)
{
    few_bits own, top = {0};
    float all = 0;
    int64_t i = 0;
    for (int c = 0; c < MOST_CONTENT; c++) own[c] = c < C ? 0x7fffffff : 0; /* without the sign */
    for (; i * C + MOST_CONTENT <= n * C; i++) {
        few_bits x = *(const few_bits *)(content + i * C) & own & -(uint32_t)(mask[i] != 0);
        few_bits more = (few_bits)(x > top); /* floats that are not negative are in the order of their bits */
        top = (x & more) | (top & ~more);
    }
    few found = (few)top;
    for (int c = 0; c < MOST_CONTENT; c++) all = fmaxf(all, found[c]);
    for (; i < n; i++)
        for (int c = 0; mask[i] && c < C; c++) all = fmaxf(all, fabsf(content[i * C + c]));
    return all;
}

/* Largest |content| and rstd among the valid tokens of a sample; rstd is -1 without valid tokens. What the mask hides is left
   out: in a part that samples share it may be valid for another sample, and then a result would depend on its neighbours. */
static void bound_job(const void *argument, int64_t sample, float *work)
{
    const task *k = argument;
    (void)work;
    int64_t tokens = k->outer * k->inner, C = k->num_content;
    const float *content = k->content + sample * k->content_stride, *rstd = k->rstd + sample * k->rstd_stride;
    const uint8_t *mask = k->mask ? k->mask + sample * k->mask_stride : NULL;
    if (mask) find_seen(k, mask, k->seen + sample * (k->outer + k->inner));
    k->bounds[2 * sample] = !C ? 0 : mask ? largest_content(content, mask, tokens, C) : largest(content, tokens * C, 0);
    k->bounds[2 * sample + 1] = mask ? largest_valid(rstd, mask, tokens) : largest(rstd, tokens, -1);
}

/* References for which one pass suffices, unless a row's scores stay far below their bound. */
static void one_pass_references(const task *k, int64_t sample, const float *panels, block *b)
{
    vec top[2][VECTORS]; /* over the outer, then the inner axis */
    const uint8_t *seen = k->mask ? k->seen + sample * (k->outer + k->inner) : NULL;
    const float penalty[2] = {NEVER, 0}; /* for indices at which the mask hides all tokens */
    UNROLL for (int v = 0; v < VECTORS; v++) top[0][v] = splat(NEVER), top[1][v] = splat(k->has_inner ? NEVER : 0);
    for (int axis = 0; axis < 1 + k->has_inner; axis++) {
        int64_t from = axis ? k->outer : 0, to = axis ? k->outer + k->inner : k->outer;
        for (int64_t i = from; i < to; i++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                top[axis][v] = most(top[axis][v], ((const vec *)panels)[i * VECTORS + v] + (seen ? penalty[seen[i]] : 0));
    }
    for (int v = 0; v < VECTORS; v++) {
        vec bound = top[0][v] + top[1][v];
        for (int c = 0; c < k->num_content; c++) bound += most(b->a[c][v], -b->a[c][v]) * k->bounds[2 * sample];
        b->reference[v] = most(splat(0), bound) * k->bounds[2 * sample + 1] - HEADROOM;
    }
}

/* All lines of a block: its sums [channels][ROWS], marginal panels, and sum of exponentials. */
static void forward_lines(const task *k, int64_t sample, int online, const float *rows, const float *panels, float *weights,
                          float *sums, vec *all, block *b, float *work)
{
    const float *inner = panels + k->outer * ROWS;
    float *inner_weights = weights + k->outer * ROWS;
    float *scores = take(&work, TILE * ROWS), *own = take(&work, TILE * ROWS), *own_weights = take(&work, TILE * ROWS);
    int64_t tile = up(k->inner, up(k->inner, TILE));
    memset(weights, 0, panels_size(k) * sizeof(float));
    memset(sums, 0, k->channels * ROWS * sizeof(float));
    memset(all, 0, ROWS * sizeof(float));
    for (int64_t i = 0; i < k->inner; i += tile)
        for (int64_t o = 0; o < k->outer; o++) {
            line l = line_at(k, sample, o, i, low(tile, k->inner - i), inner, inner_weights);
            float *panel_weights = l.weights;
            memcpy(b->outer, panels + o * ROWS, sizeof b->outer);
            if (k->has_full) {
                add_full(k, sample, o * k->inner + i, l.n, l.inner, rows, own);
                memset(own_weights, 0, l.n * ROWS * sizeof(float));
                l.inner = own, l.weights = own_weights;
            }
            if (online) {
                vec factor[VECTORS] = {0};
                int outgrown = 0;
                score(k->num_content, &l, b, scores);
                for (int v = 0; v < VECTORS; v++) {
                    for (int lane = 0; lane < LANES; lane++) {
                        float old = b->reference[v][lane], top = b->total[v][lane];
                        int grown = top > old + GROWTH;
                        factor[v][lane] = grown ? exp2f(old - top) : 1.0f;
                        if (grown) b->reference[v][lane] = top, outgrown = 1;
                    }
                }
                if (outgrown) {
                    scale_rows(weights, factor, k->outer + inner_size(k));
                    scale_rows(sums, factor, k->channels);
                    scale_rows((float *)all, factor, 1);
                }
                forward_scored(k->num_content, &l, b, scores);
            } else {
                forward_unscored(k->num_content, &l, b);
            }
            for (int v = 0; v < VECTORS; v++) {
                all[v] += b->total[v];
                ((vec *)weights)[o * VECTORS + v] += b->weights[v];
                for (int c = 0; c < k->num_content; c++)
                    ((vec *)sums)[k->content_column[c] * VECTORS + v] += b->sums[c][v];
            }
            if (k->has_full) {
                gather_full(k, sample, o * k->inner + i, l.n, own_weights, sums);
                if (k->has_inner) add(panel_weights, own_weights, l.n * ROWS);
            }
        }
}

static int64_t forward_work(const task *k) { return 2 * (k->channels * ROWS + panels_size(k)) + 3 * TILE * ROWS + 128; }

static void forward_job(const void *argument, int64_t job, float *work)
{
    const task *k = argument;
    int64_t sample = job / k->blocks, number = job % k->blocks, count = low(ROWS, k->rows - number * ROWS);
    float *sums = k->sums + (sample * k->rows + number * ROWS) * k->channels, *lse = k->lse + sample * k->rows + number * ROWS;
    if (k->bounds[2 * sample + 1] < 0) { /* no valid token */
        memset(sums, 0, count * k->channels * sizeof(float));
        for (int64_t r = 0; r < count; r++) lse[r] = -INFINITY;
        return;
    }
    const float *rows = prepared(k, sample, number, take(&work, k->channels * ROWS + panels_size(k)));
    const float *panels = rows + k->channels * ROWS;
    float *weights = take(&work, panels_size(k)), *own = take(&work, k->channels * ROWS);
    vec all[VECTORS];
    block b;
    for (int c = 0; c < k->num_content; c++) {
        memcpy(b.a[c], rows + k->content_column[c] * ROWS, sizeof b.a[c]);
    }
    int done = 0;
    if (!k->has_full) {
        one_pass_references(k, sample, panels, &b);
        forward_lines(k, sample, 0, rows, panels, weights, own, all, &b, work);
        done = 1;
        for (int64_t r = 0; r < count; r++) done &= ((float *)all)[r] >= TRUSTED;
    }
    if (!done) {
        for (int v = 0; v < VECTORS; v++) b.reference[v] = splat(NEVER);
        forward_lines(k, sample, 1, rows, panels, weights, own, all, &b, work);
    }
    gather_panels(k, sample, weights, own);
    for (int64_t r = 0; r < count; r++)
        lse[r] = (float)((((float *)b.reference)[r] + log2((double)((float *)all)[r])) * 0.69314718055994531);
    for (int v = 0; v < VECTORS; v++) all[v] = 1.0f / all[v];
    scale_rows(own, all, k->channels);
    transpose(sums, k->channels, own, ROWS, k->channels, count);
}

/* ---------------------------------------------------------------------------------------------- backward */

static int64_t backward_work(const task *k)
{
    return 3 * (k->channels * ROWS + panels_size(k)) + panels_size(k) + 4 * BACKWARD_TILE * ROWS + 256;
}

static void backward_block(const task *k, int64_t sample, int64_t number, float *partial, float *const *grads, float *work)
{
    int64_t count = low(ROWS, k->rows - number * ROWS), from = sample * k->rows + number * ROWS;
    int64_t tokens = k->outer * k->inner, C = k->num_content;
    const float *a = prepared(k, sample, number, take(&work, k->channels * ROWS + panels_size(k)));
    const float *panels = a + k->channels * ROWS, *grad_sums = k->grad_sums + from * k->channels;
    float *g = take(&work, k->channels * ROWS), *grad_panels = take(&work, panels_size(k));
    float *dt = take(&work, panels_size(k)), *weights = take(&work, panels_size(k)), *own = take(&work, k->channels * ROWS);
    float *lines[4];
    for (int j = 0; j < 4; j++) lines[j] = take(&work, BACKWARD_TILE * ROWS);
    pack(g, grad_sums, count, k->channels);
    fill_panels(k, sample, g, grad_panels);
    block b = {0};
    for (int64_t r = 0; r < ROWS; r++) {
        vec product = {0};
        float delta = 0, lse = r < count ? k->lse[from + r] : -INFINITY;
        if (r < count) {
            const float *x = k->sums + (from + r) * k->channels, *y = grad_sums + r * k->channels;
            int64_t c = 0;
            for (; c + LANES <= k->channels; c += LANES)
                product += (vec) * (const loose *)(x + c) * (vec) * (const loose *)(y + c);
            for (; c < k->channels; c++) delta += x[c] * y[c];
            delta += total(product) - k->grad_lse[from + r];
        }
        /* Missing rows and rows without a valid token have weight zero. */
        ((float *)b.reference)[r] = lse == -INFINITY ? -NEVER : (float)(lse * 1.4426950408889634);
        ((float *)b.delta)[r] = lse == -INFINITY ? 0.0f : delta;
    }
    for (int c = 0; c < C; c++) {
        memcpy(b.a[c], a + k->content_column[c] * ROWS, sizeof b.a[c]);
        memcpy(b.g[c], g + k->content_column[c] * ROWS, sizeof b.g[c]);
    }
    memset(dt, 0, panels_size(k) * sizeof(float));
    memset(weights, 0, panels_size(k) * sizeof(float));
    memset(own, 0, k->channels * ROWS * sizeof(float));
    const float *queries = k->queries + sample * k->queries_stride + number * ROWS * k->channels;
    int64_t outer_size = k->outer * ROWS, tile = up(k->inner, up(k->inner, BACKWARD_TILE));
    for (int64_t i = 0; i < k->inner; i += tile)
        for (int64_t o = 0; o < k->outer; o++) {
            int64_t token = o * k->inner + i, skip = k->has_inner ? i * ROWS : 0;
            line l = line_at(k, sample, o, i, low(tile, k->inner - i), panels + outer_size, weights + outer_size);
            l.inner_grads = grad_panels + outer_size + skip;
            l.dt = dt + outer_size + skip;
            if (k->level >= 1) l.rstd_grad = partial + token;
            if (k->level >= 2) l.content_grad = partial + tokens + token * C;
            memcpy(b.outer, panels + o * ROWS, sizeof b.outer);
            memcpy(b.outer_grads, grad_panels + o * ROWS, sizeof b.outer_grads);
            if (k->has_full) {
                add_full(k, sample, token, l.n, l.inner, a, lines[0]);
                add_full(k, sample, token, l.n, l.inner_grads, g, lines[1]);
                memset(lines[2], 0, l.n * ROWS * sizeof(float));
                memset(lines[3], 0, l.n * ROWS * sizeof(float));
                l.inner = lines[0], l.inner_grads = lines[1], l.dt = lines[2], l.weights = lines[3];
            }
            backward(C, k->level, &l, &b);
            for (int v = 0; v < VECTORS; v++) {
                ((vec *)dt)[o * VECTORS + v] += b.dt[v];
                ((vec *)weights)[o * VECTORS + v] += b.weights[v];
                for (int c = 0; c < C; c++) ((vec *)own)[k->content_column[c] * VECTORS + v] += b.sums[c][v];
            }
            if (!k->has_full) continue;
            if (k->queries_grad) gather_full(k, sample, token, l.n, lines[2], own);
            for (int64_t j = 0; j < k->num_parts; j++) {
                const part *x = k->parts + j;
                if (x->kind == FULL && x->grad)
                    spread(grads[j] + token * x->channels, lines[2], lines[3], queries + x->column, grad_sums + x->column, count,
                           k->channels, l.n, x->channels);
            }
            if (k->has_inner) {
                add(dt + outer_size + skip, lines[2], l.n * ROWS);
                add(weights + outer_size + skip, lines[3], l.n * ROWS);
            }
        }
    if (k->queries_grad) {
        gather_panels(k, sample, dt, own);
        transpose(k->queries_grad + from * k->channels, k->channels, own, ROWS, k->channels, count);
    }
    if (k->level >= 1) spread_panels(k, dt, weights, queries, grad_sums, count, grads);
}

/* Sum gradients over rows: first within groups of blocks, then over groups in a fixed order. */
static void backward_job(const void *argument, int64_t job, float *work)
{
    const task *k = argument;
    if (k->level == 0) {
        backward_block(k, job / k->blocks, job % k->blocks, NULL, NULL, work);
        return;
    }
    int64_t tokens = k->outer * k->inner, group = job % k->groups;
    float *partial = k->partial + job * k->grads, *rest = partial + tokens + (k->level >= 2 ? tokens * k->num_content : 0);
    float *grads[k->num_parts + 1];
    memset(partial, 0, k->grads * sizeof(float));
    for (int64_t j = 0; j < k->num_parts; j++) {
        grads[j] = rest;
        if (k->parts[j].grad) rest += part_size(k, k->parts + j) * k->parts[j].channels;
    }
    for (int64_t number = group * k->blocks / k->groups; number < (group + 1) * k->blocks / k->groups; number++)
        backward_block(k, k->first + job / k->groups, number, partial, grads, work);
}

static void reduce_into(float *to, int64_t stride, int64_t begin, int64_t end, int64_t from, int64_t size, const task *k)
{
    int64_t start = high(begin, from), stop = low(end, from + size);
    int64_t samples = low(k->batch - k->first, k->wave);
    if (!to || start >= stop) return;
    for (int64_t s = 0; s < samples; s++)
        for (int64_t group = 0; group < k->groups; group++)
            add(to + (k->first + s) * stride + start - from, k->partial + (s * k->groups + group) * k->grads + start, stop - start);
}

#define REDUCED 8192

static void reduce_job(const void *argument, int64_t job, float *work)
{
    const task *k = argument;
    (void)work;
    int64_t begin = job * REDUCED, end = begin + REDUCED, tokens = k->outer * k->inner, from = tokens;
    reduce_into(k->rstd_grad, k->rstd_grad_stride, begin, end, 0, tokens, k);
    if (k->level >= 2) {
        reduce_into(k->content_grad, k->content_grad_stride, begin, end, from, tokens * k->num_content, k);
        from += tokens * k->num_content;
    }
    for (const part *x = k->parts; x < k->parts + k->num_parts; x++)
        if (x->grad) {
            int64_t size = part_size(k, x) * x->channels;
            reduce_into(x->grad, x->grad_stride, begin, end, from, size, k);
            from += size;
        }
}

/* ---------------------------------------------------------------------------------------------- entry points */

static void set_up(task *k)
{
    k->blocks = up(k->rows, ROWS);
    k->has_inner = k->has_full = 0;
    for (int64_t j = 0; j < k->num_parts; j++) {
        k->has_inner |= k->parts[j].kind == INNER;
        k->has_full |= k->parts[j].kind == FULL;
    }
    /* Fewer threads if each would have less work than starting it costs. */
    double nanoseconds = 0.3 * (double)k->batch * (double)k->rows * (double)(k->outer * k->inner);
    k->team = k->threads;
    k->threads = high(1, low(k->threads, (int64_t)(nanoseconds / 5e4)));
}

/* Returns 0, or 1 if out of memory. */
static int share(task *k)
{
    int shared = k->batch > 1 && k->queries_stride == 0;
    for (int64_t j = 0; j < k->num_parts; j++) shared &= k->parts[j].stride == 0 || k->parts[j].kind == FULL;
    k->shared = NULL;
    if (!shared) return 0;
    k->shared = aligned_alloc(64, k->blocks * (k->channels * ROWS + panels_size(k)) * sizeof(float));
    return !k->shared || parallel(k, prepare_shared, k->blocks, 0, k->threads, k->team);
}

int64_t perceiver_task_size(void) { return sizeof(task); }
int64_t perceiver_lanes(void) { return LANES; }

/* Computes sums and lse. Returns 0, or 1 if out of memory. */
int perceiver_forward(task *k)
{
    set_up(k);
    k->bounds = malloc(2 * k->batch * sizeof(float));
    k->seen = k->mask ? malloc(k->batch * (k->outer + k->inner)) : NULL;
    int failed = !k->bounds || (k->mask && !k->seen) || share(k) || parallel(k, bound_job, k->batch, 0, k->threads, k->team)
                 || parallel(k, forward_job, k->batch * k->blocks, forward_work(k), k->threads, k->team);
    free(k->bounds);
    free(k->seen);
    free(k->shared);
    return failed;
}

/* Computes gradients up to the level. Returns 0, or 1 if out of memory. */
int perceiver_backward(task *k)
{
    set_up(k);
    int failed = share(k);
    if (!failed && k->level == 0) failed = parallel(k, backward_job, k->batch * k->blocks, backward_work(k), k->threads, k->team);
    if (!failed && k->level >= 1) {
        int64_t tokens = k->outer * k->inner;
        k->grads = tokens * (1 + (k->level >= 2 ? k->num_content : 0));
        for (const part *x = k->parts; x < k->parts + k->num_parts; x++) k->grads += x->grad ? part_size(k, x) * x->channels : 0;
        /* Groups depend on the shapes of a single sample, so that its gradients are the same in every batch. */
        k->groups = high(1, low(low(GROUPS, k->blocks), GROUP_FLOATS / high(k->grads, 1)));
        k->wave = low(k->batch, up(2 * k->threads, k->groups));
        k->partial = aligned_alloc(64, up(k->wave * k->groups * k->grads, 16) * 64);
        failed = !k->partial;
        for (k->first = 0; !failed && k->first < k->batch; k->first += k->wave) {
            int64_t samples = low(k->wave, k->batch - k->first);
            failed = parallel(k, backward_job, samples * k->groups, backward_work(k), k->threads, k->team)
                     || parallel(k, reduce_job, up(k->grads, REDUCED), 0, k->threads, k->team);
        }
        free(k->partial);
    }
    free(k->shared);
    return failed;
}
