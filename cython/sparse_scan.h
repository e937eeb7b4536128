/* Which pixels of a corrected frame may have photons; n is a multiple of 64, and `found` has room
 * for n positions. */
#ifndef XFELMPI_SPARSE_SCAN_H
#define XFELMPI_SPARSE_SCAN_H

#include <float.h>

#include "wide.h"

#define LIT(j) (v[j] != 0)

WIDE static int find_lit_u1(const uint8_t *v, int n, int32_t *found)
{
    int m = 0;
    FIND(LIT, ALWAYS)
    return m;
}

WIDE static int find_lit_u2(const uint16_t *v, int n, int32_t *found)
{
    int m = 0;
    FIND(LIT, ALWAYS)
    return m;
}

/* Whatever is not an ordinary number below `cut`: a photon, NaN or ±inf. */
WIDE static int find_lit_f4(const float *v, float cut, int n, int32_t *found)
{
    int m = 0;
#define LIT_OR_BAD(j) (!(v[j] < cut) | !(v[j] >= -FLT_MAX))
    FIND(LIT_OR_BAD, ALWAYS)
    return m;
}

#endif
