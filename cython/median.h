/* Exact median of up to 4096 finite float32 without sorting them all.
 *
 * A small sorted sample gives pivots; counting passes, which the compiler vectorises, say between
 * which two of them the middle lies; only the few values there are looked at one by one. Pivots are
 * values of the data, so that many equal values (integer signals) end the search at once.
 * The result is that of numpy.median: the middle value, or half the sum of the two middle ones.
 */
#include "wide.h"

#define MOST 4096
#define SAMPLE 32
#define FEW 64

WIDE static void count_around(const float *v, int n, float t, int *below, int *up_to)
{
    int lt = 0, le = 0;
    for (int i = 0; i < n; i++) { lt += v[i] < t; le += v[i] <= t; }
    *below = lt;
    *up_to = le;
}

static float largest_below(const float *v, int n, float t)
{
    float best = -3.402823466e+38f;
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

/* The value at place k > 0 (from 0) in ascending order; *previous: that at place k - 1. */
static float select_kth(const float *values, int n, int k, float *previous)
{
    float sample[SAMPLE], few[MOST];
    const float *v = values;
    float before = 0;  /* the largest value left behind, once there is one */

    while (n > FEW) {
        int first = -1, last = SAMPLE, c_lo = 0, c_hi = n, lt, le;
        float lo = -3.402823466e+38f, hi = 3.402823466e+38f;
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
    if (v != few) memcpy(few, v, n * sizeof(float));
    sort_few(few, n);
    *previous = k > 0 ? few[k - 1] : before;
    return few[k];
}

/* n ≥ 1 */
static float median_of(const float *v, int n)
{
    float lower, upper;
    if (n == 1) return v[0];
    upper = select_kth(v, n, n / 2, &lower);
    return n % 2 ? upper : 0.5f * (lower + upper);
}
