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
#define GUESSES 5

/* Where the median of an ASIC was found last, and how far around it some hundred values were. */
typedef struct {
    float middle, half;
} Window;

WIDE static void count_around(const float *v, int n, float a, float b, int *below_b, int *up_to_a)
{
    int lt = 0, le = 0;
    for (int i = 0; i < n; i++) { lt += v[i] < b; le += v[i] <= a; }
    *below_b = lt;
    *up_to_a = le;
}

static float largest_below(const float *v, int n, float t)
{
    float best = -INFINITY;
    for (int i = 0; i < n; i++) if (v[i] < t && v[i] > best) best = v[i];
    return best;
}

WIDE static int collect_between(const float *v, int n, float lo, float hi, float *out)
{
    int m = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        int any = 0;
        for (int j = 0; j < 16; j++) any |= (v[i + j] > lo) & (v[i + j] < hi);
        if (!any) continue;
        for (int j = 0; j < 16; j++) { out[m] = v[i + j]; m += (v[i + j] > lo) & (v[i + j] < hi); }
    }
    for (; i < n; i++) { out[m] = v[i]; m += (v[i] > lo) & (v[i] < hi); }
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
            count_around(v, n, t, t, &lt, &le);
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

/* Of v[MOST], of which n ≥ 1 are numbers. */
static float median_of(const float *v, int n, Window *w)
{
    float some[MOST], lower, upper, lo = -INFINITY, hi = INFINITY;
    float middle = w->middle, half = w->half;
    int k = n / 2, n_lo = 0, n_hi = n;

    for (int i = 0; i < GUESSES && n_hi - n_lo > FEW; i++) {
        float a = middle - half, b = middle + half, density;
        int up_to_a, below_b, before = n_hi - n_lo;
        count_around(v, MOST, a, b, &below_b, &up_to_a);
        /* both middle values must lie between lo and hi */
        if (up_to_a < k && a > lo) { lo = a; n_lo = up_to_a; }
        if (below_b > k && b < hi) { hi = b; n_hi = below_b; }
        /* a heap of equal values never gets smaller */
        if (i && 2 * (n_hi - n_lo) > before && before < n / 2) break;
        if (below_b <= up_to_a) { half *= 16; continue; }
        density = (float)(below_b - up_to_a) / (b - a);
        middle = a + ((float)(k - up_to_a) + 0.5f) / density;
        half = 0.35f * FEW / density;
    }
    n_hi = collect_between(v, MOST, lo, hi, some);
    upper = select_kth(some, n_hi, k - n_lo, &lower);
    if (half < 1e30f) {
        w->middle = upper;
        w->half = fmaxf(6 * half, 1e-30f);
    }
    return n % 2 ? upper : 0.5f * (lower + upper);
}
