/* Vector loops over raw frames; `found` has room for n + 1 positions, n is a multiple of 64. */
#include "wide.h"

/* Pixels that may have a photon, or may not be in the high stage. `lowest` is the smallest level of
 * every 64 pixels: it settles almost all of them without touching the levels, which saves a quarter
 * of the memory traffic, and a cache miss for every photon. */
WIDE static int find_candidates(const uint16_t *analogue, const uint16_t *digital,
                                const uint16_t *cut, const uint16_t *lowest, int n,
                                int32_t *found)
{
    int m = 0;
#define CANDIDATE(j) ((analogue[j] >= cut[j]) | (digital[j] >= lowest[i / 64]))
    FIND(CANDIDATE, ALWAYS)
    return m;
}

/* Pixels that are not in the high stage. */
WIDE static int find_switched(const uint16_t *digital, const uint16_t *level,
                              const uint16_t *lowest, int n, int32_t *found)
{
    int m = 0;
#define MAYBE_SWITCHED(j) (digital[j] >= lowest[i / 64])
#define SWITCHED(j) (digital[j] >= level[j])
    FIND(MAYBE_SWITCHED, SWITCHED)
    return m;
}

/* Pixels whose signal less the median of their ASIC is at least `cut`; every other 64 pixels belong
 * to the same of two ASICs. */
WIDE static int find_bright(const float *signal, const float *median, float cut, int n,
                            int32_t *found)
{
    int m = 0;
    for (int i = 0; i < n; i += 64) {
        float middle = median[i / 64 & 1];
        int any = 0;
        for (int j = i; j < i + 64; j++) any |= signal[j] - middle >= cut;
        if (!any) continue;
#define BRIGHT(j) (signal[j] - middle >= cut)
        FIND_IN_64(BRIGHT, ALWAYS)
    }
    return m;
}

#define HIGH_STAGE(NAME, TYPE)                                                                  \
WIDE static void NAME(const uint16_t *a, const TYPE *offset, const float *gain, int gain_step,  \
                      int n, float *signal)                                                     \
{                                                                                               \
    if (gain_step) {                                                                            \
        for (int i = 0; i < n; i++) signal[i] = ((float)a[i] - offset[i]) * gain[i];            \
    } else {                                                                                    \
        float g = gain[0];                                                                      \
        for (int i = 0; i < n; i++) signal[i] = ((float)a[i] - offset[i]) * g;                  \
    }                                                                                           \
}
HIGH_STAGE(high_stage_i2, int16_t)
HIGH_STAGE(high_stage_f4, float)

static inline void prefetch(const void *address) { __builtin_prefetch(address); }

/* Copy the 64 values whose bit in `usable` is set, in any order; returns how many. */
static inline int gather_usable(const float *signal, const uint8_t *usable, float *values)
{
    uint64_t bad;
    int n = 64;
    memcpy(&bad, usable, 8);
    bad = ~bad;
    memcpy(values, signal, 64 * sizeof(float));
    /* from the end, so that the value that fills a hole is a usable one */
    while (bad) {
        int hole = 63 - __builtin_clzll(bad);
        values[hole] = values[--n];
        bad &= ~(1ull << hole);
    }
    return n;
}
