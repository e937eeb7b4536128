/* Exact median of the numbers among 4096 float32, finite or NaN, without sorting them all.
 *
 * Signals of integers are equal in many pixels, and the median of an ASIC is often the very one of
 * the frame before: one counting pass, which the compiler vectorises, says so. If not, a small sorted
 * sample gives pivots; counting passes say between which two of them the middle lies; only the few
 * values there are sorted. Pivots are values of the data, so that many equal values end the search at
 * once. The result is that of numpy.median: the middle value, or half the sum of the two middle ones.
 */
#include <math.h>

#include "wide.h"

#define MOST 4096
#define FEW 64

WIDE static void count_around(const float *v, int n, float t, int *below, int *up_to)
{
    int lt = 0, le = 0;
    for (int i = 0; i < n; i++) { lt += v[i] < t; le += v[i] <= t; }
    *below = lt;
    *up_to = le;
}

/* n is at least FEW. */
WIDE static float largest_below(const float *v, int n, float t)
{
    float best[FEW], largest = -INFINITY;
    for (int j = 0; j < FEW; j++) best[j] = -INFINITY;
    for (int i = 0; i < n; i += FEW) {
        /* the last ones overlap those before */
        const float *u = v + (i + FEW <= n ? i : n - FEW);
        for (int j = 0; j < FEW; j++) best[j] = (u[j] < t) & (u[j] > best[j]) ? u[j] : best[j];
    }
    for (int j = 0; j < FEW; j++) largest = best[j] > largest ? best[j] : largest;
    return largest;
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

/* Sort v[FEW]: how many values come before one says where it belongs, with nothing to guess. */
WIDE static void sort_few(float *v)
{
    float sorted[FEW];
    for (int i = 0; i < FEW; i++) {
        int before = 0;
        for (int j = 0; j < FEW; j++) before += (v[j] < v[i]) | ((v[j] == v[i]) & (j < i));
        sorted[before] = v[i];
    }
    memcpy(v, sorted, sizeof sorted);
}

/* Pivots from v[n], ascending, as many as are numbers; the rest of pivot[FEW] is +inf. */
static int choose_pivots(const float *v, int n, float *pivot)
{
    int m = 0, step = n / FEW;
    for (int i = 0; i < FEW; i++) {
        /* not always the same columns, of which one may be bad */
        float x = v[step * (FEW * i + i * 11 % FEW) / FEW];
        pivot[m] = x;
        m += x == x;
    }
    for (int i = m; i < FEW; i++) pivot[i] = INFINITY;
    sort_few(pivot);
    return m;
}

/* The value at place k (from 0) in ascending order of v[size], of which n are numbers; *previous:
 * that at place k - 1 if k > 0. */
static float select_kth(const float *v, int size, int n, int k, float *previous)
{
    float pivot[FEW], some[MOST], few[FEW];
    float before = 0;  /* the largest value left behind, once there is one */

    while (n > FEW) {
        int first = -1, last = choose_pivots(v, size, pivot), c_lo = 0, c_hi = n, lt, le;
        float lo = -INFINITY, hi = INFINITY;
        while (last - first > 1) {
            int i = first + 1 + (int)((long)(k - c_lo) * (last - first - 1) / (c_hi - c_lo));
            float t = pivot[i];
            count_around(v, size, t, &lt, &le);
            if (k < lt) {
                last = i; c_hi = lt; hi = t;
            } else if (k >= le) {
                /* a pivot is a value of the data: nothing lies between it and what follows */
                first = i; c_lo = le; lo = before = t;
            } else {
                *previous = k > lt ? t
                    : (lt == c_lo && k == lt ? before : largest_below(v, size, t));
                return t;
            }
        }
        n = size = collect_between(v, size, lo, hi, some);
        v = some;
        k -= c_lo;
    }
    for (int i = 0; i < FEW; i++) few[i] = INFINITY;
    collect_between(v, size, -INFINITY, INFINITY, few);
    sort_few(few);
    *previous = k > 0 ? few[k - 1] : before;
    return few[k];
}

/* Of v[MOST], of which n ≥ 1 are numbers; *last is the median of the frame before, and becomes this
 * one, or nearly so. */
static float median_of(const float *v, int n, float *last)
{
    float lower, upper;
    int below, up_to, k = n / 2;
    count_around(v, MOST, *last, &below, &up_to);
    /* both middle values, or the one that there is, are equal to it */
    if (below < k + n % 2 && up_to > k) return *last;
    *last = upper = select_kth(v, MOST, n, k, &lower);
    return n % 2 ? upper : 0.5f * (lower + upper);
}
