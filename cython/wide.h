/* Loops that the compiler vectorises, for processors with AVX-512, with AVX2, and without. */
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

/* 64 flags, bytes that are 0 or 1, → 64 bits, the first one lowest. A product gathers the eight
 * bytes of a word as bits. */
static inline uint64_t bits_of_flags(const uint8_t *flag)
{
    uint64_t word[8], bits = 0;
    memcpy(word, flag, 64);
    for (int k = 0; k < 8; k++) bits |= (word[k] * 0x0102040810204080u >> 56) << 8 * k;
    return bits;
}

/* Define a function of PARAMETERS that marks pixels in `words`, a bit each, n of them, a multiple of
 * 64. CONDITION is 0 or 1 for a pixel i + j; BEFORE is done once for every 64 pixels, from i on. */
#define MARK_LOOP(NAME, ATTRIBUTES, GATHER, PARAMETERS, BEFORE, CONDITION)  \
    ATTRIBUTES static void NAME PARAMETERS                                  \
    {                                                                       \
        for (int i = 0; i < n; i += 64) {                                   \
            uint8_t flag[64];                                               \
            BEFORE;                                                         \
            for (int j = 0; j < 64; j++) flag[j] = (CONDITION);             \
            words[i / 64] = GATHER(flag);                                   \
        }                                                                   \
    }

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* the two that gather bits at once, which no compiler finds by itself */
AVX2 static inline uint64_t bits_of_flags_avx2(const uint8_t *flag)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)flag);
    __m256i high = _mm256_loadu_si256((const __m256i *)(flag + 32));
    uint32_t first = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(low, 7));
    uint32_t second = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(high, 7));
    return (uint64_t)second << 32 | first;
}

AVX512 static inline uint64_t bits_of_flags_avx512(const uint8_t *flag)
{
    __m512i all = _mm512_loadu_si512(flag);
    return _mm512_test_epi8_mask(all, all);
}

#define MARK(NAME, PARAMETERS, ARGUMENTS, BEFORE, CONDITION)                                     \
    MARK_LOOP(NAME##_avx512, AVX512, bits_of_flags_avx512, PARAMETERS, BEFORE, CONDITION)        \
    MARK_LOOP(NAME##_avx2, AVX2, bits_of_flags_avx2, PARAMETERS, BEFORE, CONDITION)              \
    MARK_LOOP(NAME##_plain, , bits_of_flags, PARAMETERS, BEFORE, CONDITION)                      \
    static inline void NAME PARAMETERS                                                           \
    {                                                                                            \
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))            \
            NAME##_avx512 ARGUMENTS;                                                             \
        else if (__builtin_cpu_supports("avx2"))                                                 \
            NAME##_avx2 ARGUMENTS;                                                               \
        else                                                                                     \
            NAME##_plain ARGUMENTS;                                                              \
    }
#else
#define MARK(NAME, PARAMETERS, ARGUMENTS, BEFORE, CONDITION) \
    MARK_LOOP(NAME, , bits_of_flags, PARAMETERS, BEFORE, CONDITION)
#endif

#define MOST_WORDS 8192 /* of 64 pixels each, 512 × 1024 together */

/* Write the positions of the set bits of at most MOST_WORDS words to `found`, ascending; returns how
 * many. The words without any are left out first: which ones nobody can guess. */
static inline int list_bits(const uint64_t *words, int n_words, int32_t *found)
{
    uint16_t marked[MOST_WORDS];
    int n_marked = 0, m = 0;
    for (int i = 0; i < n_words; i++) {
        marked[n_marked] = (uint16_t)i;
        n_marked += words[i] != 0;
    }
    for (int k = 0; k < n_marked; k++)
        for (uint64_t bits = words[marked[k]]; bits; bits &= bits - 1)
            found[m++] = 64 * marked[k] + __builtin_ctzll(bits);
    return m;
}

#endif
