/* Loops that the compiler vectorises, for processors with and without AVX2. */
#ifndef XFELMPI_WIDE_H
#define XFELMPI_WIDE_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
/* SSE2 is the baseline; wider registers take half the time in these loops (measured) */
#if __GNUC__ >= 12
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define WIDE __attribute__((target_clones("avx2", "default")))
#endif
#else
#define WIDE
#endif

#define ALWAYS(j) 1

/* Write the positions i … i + 63 for which CONDITION holds to `found`; m counts them. LIKELY is
 * cheaper and holds wherever the condition does: it makes bytes 0 or 1, which as eight words say at
 * once that there are none. A product gathers the eight bytes of a word as bits, first byte lowest;
 * with one loop over 64 bits, not eight over 8, less is guessed wrong about where loops end. */
#define FIND_IN_64(LIKELY, CONDITION)                                                      \
    {                                                                                      \
        uint8_t flag[64];                                                                  \
        uint64_t word[8], bits = 0;                                                        \
        for (int j = 0; j < 64; j++) flag[j] = LIKELY(i + j);                              \
        memcpy(word, flag, 64);                                                            \
        if (!(word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7])) \
            continue;                                                                      \
        for (int k = 0; k < 8; k++)                                                        \
            bits |= (word[k] * 0x0102040810204080u >> 56) << 8 * k;                        \
        for (; bits; bits &= bits - 1) {                                                   \
            int j = i + __builtin_ctzll(bits);                                             \
            found[m] = j;                                                                  \
            m += CONDITION(j);                                                             \
        }                                                                                  \
    }

#define FIND(LIKELY, CONDITION) \
    for (int i = 0; i < n; i += 64) FIND_IN_64(LIKELY, CONDITION)

#endif
