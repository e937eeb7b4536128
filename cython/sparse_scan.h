/* Which pixels of a corrected frame may have photons; n is a multiple of 64, at most
 * 64 * MOST_WORDS, and `found` has room for n positions. */
#ifndef XFELMPI_SPARSE_SCAN_H
#define XFELMPI_SPARSE_SCAN_H

#include <float.h>

#include "wide.h"

MARK(mark_lit_u1, (const uint8_t *v, int n, uint64_t *words), (v, n, words), , v[i + j] != 0)

MARK(mark_lit_u2, (const uint16_t *v, int n, uint64_t *words), (v, n, words), , v[i + j] != 0)

/* Whatever is not an ordinary number below `one_photon`: a photon, NaN or ±inf. */
MARK(mark_lit_f4, (const float *v, float one_photon, int n, uint64_t *words),
     (v, one_photon, n, words), ,
     !(v[i + j] < one_photon) | !(v[i + j] >= -FLT_MAX))

static int find_lit_u1(const uint8_t *v, int n, int32_t *found)
{
    uint64_t words[MOST_WORDS];
    mark_lit_u1(v, n, words);
    return list_bits(words, n / 64, found);
}

static int find_lit_u2(const uint16_t *v, int n, int32_t *found)
{
    uint64_t words[MOST_WORDS];
    mark_lit_u2(v, n, words);
    return list_bits(words, n / 64, found);
}

static int find_lit_f4(const float *v, float one_photon, int n, int32_t *found)
{
    uint64_t words[MOST_WORDS];
    mark_lit_f4(v, one_photon, n, words);
    return list_bits(words, n / 64, found);
}

#endif
