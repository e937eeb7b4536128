/* Exact median of the numbers among 4096 float32, the others NaN, without sorting them all.
 *
 * Signals of integers are equal in many pixels, and the median of an ASIC is often the very one of
 * the frame before: one counting pass, which the compiler vectorises, says so. If not, the middles of
 * five values each say about where the median is and how densely the values lie there. A pass counts
 * the values up to both ends of a range about it, or at one value if many are equal. What is left
 * between bounds is copied once it is some hundred values, and narrowed further; of the last few, it
 * is counted how many are less than each. Guesses cost time only: the bounds are always counted, and
 * after some rounds they are halved. The result is that of numpy.median: the middle value, or half
 * the sum of the two middle ones.
 */
#ifndef XFELMPI_MEDIAN_H
#define XFELMPI_MEDIAN_H

#include <math.h>

#include "wide.h"

#define N_VALUES 4096       /* pixels of an ASIC */
#define MOST_COPIED 400     /* values that are copied, so that counting costs nothing any more */
#define MOST_COMPARED 32    /* values of which each is compared with each */
#define LANES 16
#define MIDDLES 128         /* of five values each */
#define USUALLY_COPIED 8    /* the most of 64 values that are usually copied */
#define GUESSES 7           /* rounds before bounds are halved instead */

/* Keys: whole numbers in the order of the floats. Neighbouring floats have neighbouring keys, and
 * both zeros have 0. */
#define FIRST_KEY (-0x7f800000) /* of -INFINITY */
#define LAST_KEY 0x7f800000

static inline int32_t key_of(float f)
{
    int32_t i;
    memcpy(&i, &f, sizeof i);
    return i < 0 ? -(i & INT32_MAX) : i;
}

/* The float of a key; of FIRST_KEY - 1, NaN: nothing is up to it. */
static inline float value_of(int32_t key)
{
    float f;
    key = key < 0 ? -key | INT32_MIN : key;
    memcpy(&f, &key, sizeof f);
    return f;
}

static inline int32_t clamp(int32_t i, int32_t lo, int32_t hi)
{
    return i < lo ? lo : i > hi ? hi : i;
}

WIDE static void count_up_to(const float *v, int n, float s, float t, int *up_to_s, int *up_to_t)
{
    int m_s = 0, m_t = 0;
    for (int i = 0; i < n; i++) { m_s += v[i] <= s; m_t += v[i] <= t; }
    *up_to_s = m_s;
    *up_to_t = m_t;
}

WIDE static float largest_below(const float *v, float t)
{
    float best[2 * LANES], largest = -INFINITY;
    for (int j = 0; j < 2 * LANES; j++) best[j] = -INFINITY;
    for (int i = 0; i < N_VALUES; i += 2 * LANES)
        for (int j = 0; j < 2 * LANES; j++)
            best[j] = (v[i + j] < t) & (v[i + j] > best[j]) ? v[i + j] : best[j];
    for (int j = 0; j < 2 * LANES; j++) largest = best[j] > largest ? best[j] : largest;
    return largest;
}

MARK(mark_between, (const float *v, float lo, float hi, int n, uint64_t *words),
     (v, lo, hi, n, words), , !(v[i + j] <= lo) & (v[i + j] <= hi))

/* Copy the values above `lo` and up to `hi`, and NaN up to a multiple of `lanes`; returns how many
 * that makes. n is a multiple of 64; `out` has room for USUALLY_COPIED and `lanes` more than there
 * are. */
WIDE static int collect_between(const float *v, int n, float lo, float hi, int lanes, float *out)
{
    uint64_t words[N_VALUES / 64];
    int m = 0;
    mark_between(v, lo, hi, n, words);
    for (int i = 0; i < n / 64; i++) {
        /* how many of 64 nobody can guess: a fixed number, of which those too many are overwritten */
        uint64_t bits = words[i];
        int next = m + __builtin_popcountll(bits);
        for (int j = 0; j < USUALLY_COPIED; j++, bits &= bits - 1)
            out[m + j] = v[64 * i + __builtin_ctzll(bits | (uint64_t)1 << 63)];
        for (m += USUALLY_COPIED; bits; bits &= bits - 1) out[m++] = v[64 * i + __builtin_ctzll(bits)];
        m = next;
    }
    for (int j = 0; j < lanes; j++) out[m + j] = NAN;
    return (m + lanes - 1) / lanes * lanes;
}

/* The value at place k (from 0) of those in v[n], with NaN as the last; n is a multiple of LANES, at
 * most MOST_COMPARED. *previous: that at place k - 1, -INFINITY if there is none. */
WIDE static float kth_of_few(const float *v, int n, int k, float *previous)
{
    float kth = -INFINITY, before = -INFINITY;
    int less[MOST_COMPARED];
    for (int i = 0; i < n; i += LANES) {
        int m[LANES] = {0};
        for (int j = 0; j < n; j++)
            for (int l = 0; l < LANES; l++) m[l] += v[j] < v[i + l];
        memcpy(less + i, m, sizeof m);
    }
    for (int i = 0; i < n; i++) {
        kth = (less[i] <= k) & (v[i] > kth) ? v[i] : kth;
        before = (less[i] < k) & (v[i] > before) ? v[i] : before;
    }
    *previous = before;
    return kth;
}

#define LESS(a, b) ((a) < (b) ? (a) : (b))
#define MORE(a, b) ((a) > (b) ? (a) : (b))

/* The middle one of every five values, of rows that are spread over the ASIC: photons are not among
 * them. NaN makes some of them others than the middle. */
WIDE static void find_middles(const float *v, float *middle)
{
    const float *a = v + 2 * MIDDLES, *b = v + 9 * MIDDLES, *c = v + 16 * MIDDLES;
    const float *d = v + 22 * MIDDLES, *e = v + 28 * MIDDLES;
    for (int j = 0; j < MIDDLES; j++) {
        float p = LESS(a[j], b[j]), q = MORE(a[j], b[j]), r = LESS(d[j], e[j]), s = MORE(d[j], e[j]);
        /* neither the least of four nor the greatest: the middle one of the two others and c */
        p = MORE(p, r);
        q = LESS(q, s);
        r = LESS(p, q);
        s = MORE(p, q);
        s = LESS(s, c[j]);
        middle[j] = MORE(r, s);
    }
}

WIDE static float mean_of(const float *v)
{
    float sum[LANES] = {0}, number[LANES] = {0};
    for (int i = 0; i < MIDDLES; i += LANES)
        for (int j = 0; j < LANES; j++) {
            int is = v[i + j] == v[i + j];
            sum[j] += is ? v[i + j] : 0;
            number[j] += is ? 1 : 0;
        }
    for (int j = 1; j < LANES; j++) { sum[0] += sum[j]; number[0] += number[j]; }
    return sum[0] / number[0];
}

/* The mean distance of middles from t. */
static float mean_distance(const float *middle, float t)
{
    float apart[MIDDLES];
    for (int j = 0; j < MIDDLES; j++) apart[j] = fabsf(middle[j] - t);
    return mean_of(apart);
}

/* That of the middles above `lo` and up to `hi` which is nearest to t; NaN if there is none. */
WIDE static float nearest(const float *middle, float t, float lo, float hi)
{
    float best[LANES], apart[LANES];
    int at = 0;
    for (int j = 0; j < LANES; j++) { best[j] = NAN; apart[j] = INFINITY; }
    for (int i = 0; i < MIDDLES; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float x = middle[i + j], distance = fabsf(x - t);
            int is = (distance < apart[j]) & !(x <= lo) & (x <= hi);
            best[j] = is ? x : best[j];
            apart[j] = is ? distance : apart[j];
        }
    for (int j = 1; j < LANES; j++) at = apart[j] < apart[at] ? j : at;
    return best[at];
}

/* Whether more than two of the middles are x: then many values are equal. */
WIDE static int is_tied(const float *middle, float x)
{
    int m = 0;
    for (int j = 0; j < MIDDLES; j++) m += middle[j] == x;
    return m > 2;
}

/* The value sought is above `lo` and up to `hi` (keys); how many are up to each of them. */
typedef struct { int32_t lo, hi; int up_to_lo, up_to_hi; } Bounds;

/* Where the value is supposed: at `value` if it is a number, else about `at`. */
typedef struct { float at, width, per_place, value; } Guess;

/* The signal per place in ascending order is that of a normal distribution: middles of five have
 * 0.536 of its width, and 0.798 of that is their mean distance from its mean. */
static Guess guess_first(const float *middle, int n, int *tied)
{
    Guess g = {.at = mean_of(middle), .value = NAN};
    float x = nearest(middle, g.at, NAN, INFINITY);
    g.per_place = mean_distance(middle, g.at) * 5.86f / n;
    g.width = 80 * g.per_place;
    *tied = is_tied(middle, x);
    if (*tied) g.value = x;
    return g;
}

static void guess_again(Guess *g, Bounds in, int k)
{
    float lo = value_of(in.lo), hi = value_of(in.hi);
    int m = in.up_to_hi - in.up_to_lo, has_lo = in.lo >= FIRST_KEY, has_hi = in.hi < LAST_KEY;
    if (has_lo && has_hi) g->per_place = (hi - lo) / m;
    g->at = has_lo ? lo + (k + 0.5f - in.up_to_lo) * g->per_place
                   : hi - (in.up_to_hi - k - 0.5f) * g->per_place;
    g->width = MORE(8, m / 8) * g->per_place;
}

static void narrow(Bounds *in, int k, int32_t s, int32_t t, int up_to_s, int up_to_t)
{
    if (k >= up_to_s) { in->lo = s; in->up_to_lo = up_to_s; }
    else { in->hi = s; in->up_to_hi = up_to_s; return; }
    if (k >= up_to_t) { in->lo = t; in->up_to_lo = up_to_t; }
    else { in->hi = t; in->up_to_hi = up_to_t; }
}

/* The value at place k (from 0) in ascending order of v[N_VALUES], of which n are numbers; *previous:
 * that at place k - 1 if there is one. *tied: whether many values seem to be equal. */
static float select_kth(const float *v, int n, int k, int *tied, float *previous)
{
    float middle[MIDDLES], kth;
    float some[MOST_COPIED + USUALLY_COPIED + 64], few[MOST_COMPARED + USUALLY_COPIED + LANES];
    int size = N_VALUES, left_out = 0, up_to_s, up_to_t;
    const float *all = v;
    Bounds in = {FIRST_KEY - 1, LAST_KEY, 0, n};
    find_middles(v, middle);
    Guess g = guess_first(middle, n, tied);

    for (int round = 0; in.up_to_hi - in.up_to_lo > MOST_COMPARED && in.hi - 1 > in.lo; round++) {
        int32_t s = (int32_t)(((int64_t)in.lo + in.hi) >> 1), t = s;
        if (size == N_VALUES && in.up_to_hi - in.up_to_lo <= MOST_COPIED) {
            size = collect_between(v, N_VALUES, value_of(in.lo), value_of(in.hi), 64, some);
            left_out = in.up_to_lo;
            v = some;
        }
        if (round < GUESSES && g.value == g.value) {
            t = key_of(g.value);
            s = t - 1;
        } else if (round < GUESSES) {
            s = clamp(key_of(g.at - g.width), in.lo, in.hi);
            t = clamp(key_of(g.at + g.width), s, in.hi);
        }
        count_up_to(v, size, value_of(s), value_of(t), &up_to_s, &up_to_t);
        narrow(&in, k, s, t, left_out + up_to_s, left_out + up_to_t);
        guess_again(&g, in, k);
        if (g.value == g.value)
            g.value = nearest(middle, g.at, value_of(in.lo), value_of(in.hi));
    }
    if (in.hi - 1 == in.lo) {
        kth = *previous = value_of(in.hi);
    } else {
        int m = collect_between(v, size, value_of(in.lo), value_of(in.hi), LANES, few);
        kth = kth_of_few(few, m, k - in.up_to_lo, previous);
    }
    if (k == in.up_to_lo && n % 2 == 0) *previous = largest_below(all, kth);
    return kth;
}

/* Of v[N_VALUES], of which n ≥ 1 are numbers; *last is NaN, or the median of the frame before if many
 * values were equal then, and becomes this one, or nearly so. It has no influence on the result. */
static float median_of(const float *v, int n, float *last)
{
    float lower = *last, upper = *last;
    int below = 0, up_to = 0, tied, k = n / 2;
    if (*last == *last) count_up_to(v, N_VALUES, value_of(key_of(*last) - 1), *last, &below, &up_to);
    /* unless both middle values, or the one that there is, are equal to it */
    if (below >= k + n % 2 || up_to <= k) {
        upper = select_kth(v, n, k, &tied, &lower);
        *last = tied ? upper : NAN;
    }
    return n % 2 ? upper : 0.5f * (lower + upper);
}

#endif
