/* Vector loops over raw frames of an AGIPD module; n is a multiple of 64, at most 64 * MOST_WORDS, and
 * `found` has room for n positions. */
#ifndef XFELMPI_RAW_SCAN_H
#define XFELMPI_RAW_SCAN_H

#include <math.h>

#include "wide.h"

#define ASIC_PIXELS 4096
#define BAND_WORDS 128 /* of the 64-bit masks of two ASICs side by side */

/* Pixels that may have a photon, or may not be in the high stage. `one_photon` is the smallest analogue
 * value that is a photon there. `lowest` is the smallest level of every 64 pixels: it settles almost
 * all of them without touching the levels, which saves a quarter of the memory traffic, and a cache
 * miss for every photon. */
MARK(mark_candidates,
     (const uint16_t *analogue, const uint16_t *digital, const uint16_t *one_photon,
      const uint16_t *lowest, int n, uint64_t *words),
     (analogue, digital, one_photon, lowest, n, words), uint16_t low = lowest[i / 64],
     (analogue[i + j] >= one_photon[i + j]) | (digital[i + j] >= low))

MARK(mark_maybe_switched,
     (const uint16_t *digital, const uint16_t *lowest, int n, uint64_t *words),
     (digital, lowest, n, words), uint16_t low = lowest[i / 64], digital[i + j] >= low)

/* Two ASICs side by side are processed one after the other: where pixel j of both is then. */
static inline int in_asic(int j) { return (j >> 6 & 1) * ASIC_PIXELS + (j >> 7) * 64 + (j & 63); }

/* Pixels whose signal less the median of their ASIC is at least `one_photon`. */
MARK(mark_bright,
     (const float *signal, const float *median, float one_photon, int n, uint64_t *words),
     (signal, median, one_photon, n, words),
     float middle = median[i / 64 & 1]; const float *v = signal + in_asic(i),
     v[j] - middle >= one_photon)

static int find_candidates(const uint16_t *analogue, const uint16_t *digital,
                           const uint16_t *one_photon, const uint16_t *lowest, int n,
                           int32_t *found)
{
    uint64_t words[MOST_WORDS];
    mark_candidates(analogue, digital, one_photon, lowest, n, words);
    return list_bits(words, n / 64, found);
}

/* Pixels that are not in the high stage. */
static int find_switched(const uint16_t *digital, const uint16_t *level, const uint16_t *lowest,
                         int n, int32_t *found)
{
    uint64_t words[MOST_WORDS];
    int m = 0, n_maybe;
    mark_maybe_switched(digital, lowest, n, words);
    n_maybe = list_bits(words, n / 64, found);
    for (int k = 0; k < n_maybe; k++) {
        int j = found[k];
        found[m] = j;
        m += digital[j] >= level[j];
    }
    return m;
}

/* Bright pixels of two ASICs, and those marked in `also`. */
static int find_bright(const float *signal, const float *median, float one_photon,
                       const uint64_t *also, int32_t *found)
{
    uint64_t words[BAND_WORDS];
    mark_bright(signal, median, one_photon, 64 * BAND_WORDS, words);
    for (int i = 0; i < BAND_WORDS; i++) words[i] |= also[i];
    return list_bits(words, BAND_WORDS, found);
}

/* Pixels of two ASICs that are not marked in `good`. */
static int find_bad(const uint8_t *good, int32_t *found)
{
    uint64_t words[BAND_WORDS];
    memcpy(words, good, sizeof words);
    for (int i = 0; i < BAND_WORDS; i++) words[i] = ~words[i];
    return list_bits(words, BAND_WORDS, found);
}

/* Signals of two ASICs by the constants of the high stage, first those of one, then of the other. */
#define HIGH_STAGE(NAME, TYPE)                                                                  \
WIDE static void NAME(const uint16_t *a, const TYPE *offset, const float *gain, int gain_step,  \
                      float *signal)                                                            \
{                                                                                               \
    for (int i = 0; i < 64 * BAND_WORDS; i += 64) {                                             \
        float *out = signal + in_asic(i);                                                       \
        if (gain_step)                                                                          \
            for (int j = 0; j < 64; j++)                                                        \
                out[j] = ((float)a[i + j] - offset[i + j]) * gain[i + j];                       \
        else                                                                                    \
            for (int j = 0; j < 64; j++) out[j] = ((float)a[i + j] - offset[i + j]) * gain[0];  \
    }                                                                                           \
}
HIGH_STAGE(high_stage_i2, int16_t)
HIGH_STAGE(high_stage_f4, float)

static inline void prefetch(const void *address) { __builtin_prefetch(address); }

#endif
