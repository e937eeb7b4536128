/* Masks of frames, 32 bits a pixel → one bit a pixel. */
#ifndef XFELMPI_MASK_FOLD_H
#define XFELMPI_MASK_FOLD_H

#include "wide.h"

static inline int trailing_zeros(uint64_t word) { return __builtin_ctzll(word); }

/* Eight flags, bytes that are 0 or not, → eight bits, the first one lowest. */
static inline uint8_t pack_flags(const uint8_t *flag)
{
    uint64_t w;
    memcpy(&w, flag, 8);
    /* bit 0 of every byte becomes the OR of its bits; what comes from the next byte stays above */
    w |= w >> 4;
    w |= w >> 2;
    w |= w >> 1;
    w &= 0x0101010101010101ULL;
    /* the flag of byte i arrives at bit i of the highest byte, and nothing else does */
    return (uint8_t)((w * 0x0102040810204080ULL) >> 56);
}

/* Pixels of which any of `bits` is set; n is a multiple of 64. */
WIDE static void fold_words(const uint32_t *mask, uint32_t bits, int n, uint8_t *bad)
{
    for (int i = 0; i < n; i += 64) {
        uint8_t flag[64];
        for (int j = 0; j < 64; j++) flag[j] = (mask[i + j] & bits) != 0;
        for (int j = 0; j < 64; j += 8) bad[(i + j) / 8] = pack_flags(flag + j);
    }
}

/* The same of what the shuffle filter makes of them: byte 0 of all pixels, `stride` bytes further on
 * byte 1 of all, … */
WIDE static void fold_planes(const uint8_t *plane, size_t stride, uint32_t bits, int n, uint8_t *bad)
{
    const uint8_t *p1 = plane + stride, *p2 = p1 + stride, *p3 = p2 + stride;
    const uint8_t b0 = bits, b1 = bits >> 8, b2 = bits >> 16, b3 = bits >> 24;
    for (int i = 0; i < n; i += 64) {
        uint8_t flag[64];
        for (int j = i; j < i + 64; j++)
            flag[j - i] = (plane[j] & b0) | (p1[j] & b1) | (p2[j] & b2) | (p3[j] & b3);
        for (int j = 0; j < 64; j += 8) bad[(i + j) / 8] = pack_flags(flag + j);
    }
}

#endif
