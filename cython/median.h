/* Exact median of the numbers among 4096 float32, finite or NaN, without sorting them.
 *
 * The medians of an ASIC in two frames differ little: counting passes, which the compiler vectorises,
 * narrow the place of this one down from that of the last; only the few values there are compared
 * with each other. What was guessed decides how many passes there are, never the result, which is
 * that of numpy.median: the middle value, or half the sum of the two middle ones.
 */
#include <math.h>

#include "wide.h"

#define MOST 4096
#define SAMPLE 32
#define FEW 64
#define GUESSES 6

/* The last median of an ASIC, and how many values there were around it for an interval of 1. */
typedef struct {
    float median, density;
} Guess;

WIDE static void count_around(const float *v, int n, float t, int *below, int *up_to)
{
    int lt = 0, le = 0;
    for (int i = 0; i < n; i++) { lt += v[i] < t; le += v[i] <= t; }
    *below = lt;
    *up_to = le;
}

static float largest_below(const float *v, int n, float t)
{
    float best = -INFINITY;
    for (int i = 0; i < n; i++) if (v[i] < t && v[i] > best) best = v[i];
    return best;
}

MARK(mark_between, (const float *v, float lo, float hi, int n, uint64_t *words),
     (v, lo, hi, n, words), , (v[i + j] > lo) & (v[i + j] < hi))

/* Copy the values between `lo` and `hi`, in order; returns how many. */
static int collect_between(const float *v, int n, float lo, float hi, float *out)
{
    uint64_t words[MOST / 64];
    int32_t found[MOST];
    int whole = n & ~63, m;
    mark_between(v, lo, hi, whole, words);
    m = list_bits(words, whole / 64, found);
    for (int k = 0; k < m; k++) out[k] = v[found[k]];
    for (int i = whole; i < n; i++)
        if (v[i] > lo && v[i] < hi) out[m++] = v[i];
    return m;
}

static void sort_few(float *v, int n)
{
    for (int i = 1; i < n; i++) {
        float x = v[i];
        int j = i - 1;
        while (j >= 0 && v[j] > x) { v[j + 1] = v[j]; j--; }
        v[j + 1] = x;
    }
}

/* The values at places k and k - 1 of at most FEW: how many are smaller says which ones they are. */
WIDE static float rank_few(const float *values, int n, int k, float *previous)
{
    float v[FEW], result = 0;
    for (int i = 0; i < FEW; i++) v[i] = i < n ? values[i] : INFINITY;
    for (int i = 0; i < n; i++) {
        int lt = 0, le = 0;
        for (int j = 0; j < FEW; j++) { lt += v[j] < v[i]; le += v[j] <= v[i]; }
        if (lt <= k && k < le) result = v[i];
        if (lt < k && k <= le) *previous = v[i];
    }
    return result;
}

/* The value at place k (from 0) in ascending order; *previous: that at place k - 1 if k > 0.
 * Pivots are values of the data, so that many equal ones end the search at once. */
static float select_kth(const float *values, int n, int k, float *previous)
{
    float sample[SAMPLE], few[MOST];
    const float *v = values;
    float before = 0;  /* the largest value left behind, once there is one */

    while (n > FEW) {
        int first = -1, last = SAMPLE, c_lo = 0, c_hi = n, lt, le;
        float lo = -INFINITY, hi = INFINITY;
        for (int i = 0; i < SAMPLE; i++) sample[i] = v[(long)i * n / SAMPLE];
        sort_few(sample, SAMPLE);
        while (last - first > 1) {
            int i = first + 1 + (int)((long)(k - c_lo) * (last - first - 1) / (c_hi - c_lo));
            float t = sample[i];
            count_around(v, n, t, &lt, &le);
            if (k < lt) {
                last = i; c_hi = lt; hi = t;
            } else if (k >= le) {
                /* a pivot is a value of the data: nothing lies between it and what follows */
                first = i; c_lo = le; lo = before = t;
            } else {
                *previous = k > lt ? t : (lt == c_lo && k == lt ? before : largest_below(v, n, t));
                return t;
            }
        }
        n = collect_between(v, n, lo, hi, few);
        v = few;
        k -= c_lo;
    }
    *previous = before;
    return rank_few(v, n, k, previous);
}

/* Any value between lo and hi, if there is one. */
static float value_between(const float *v, float lo, float hi)
{
    int i = 0;
    while (i < MOST - 1 && !(v[i] > lo && v[i] < hi)) i++;
    return v[i];
}

/* Of v[MOST], of which n ≥ 1 are numbers. */
static float median_of(const float *v, int n, Guess *guess)
{
    float some[MOST], lower, upper, lo = -INFINITY, hi = INFINITY;
    float t = guess->median, density = guess->density;
    int k = n / 2, j = k - (n % 2 == 0), n_lo = 0, n_hi = n, lt, le;

    /* places j … k are between lo, up to which there are n_lo values, and hi, below which n_hi */
    for (int i = 0; i < GUESSES && n_hi - n_lo > FEW; i++) {
        int before = n_hi - n_lo;
        count_around(v, MOST, t, &lt, &le);
        if (lt <= j && k < le) return guess->median = t;
        if (le <= j) { lo = t; n_lo = le; }
        if (lt > k) { hi = t; n_hi = lt; }
        if (n_lo && n_hi < n) {
            if (i > 2 && 2 * (n_hi - n_lo) > before) { t = value_between(v, lo, hi); continue; }
            density = (float)(n_hi - n_lo) / (hi - lo);
        } else if (i) {
            density /= 4;
        }
        /* a little beyond, so that the median lies between */
        t = le <= j ? lo + (float)(k - n_lo + FEW / 4) / density
                    : hi - (float)(n_hi - k + FEW / 4) / density;
    }
    n_hi = collect_between(v, MOST, lo, hi, some);
    upper = select_kth(some, n_hi, k - n_lo, &lower);
    guess->median = upper;
    if (isfinite(lo) && isfinite(hi)) guess->density = (float)n_hi / (hi - lo);
    return n % 2 ? upper : 0.5f * (lower + upper);
}
