/* A zlib stream of one sparse frame, inflated straight into the list of its non-zero bytes.
 *
 * The stream of a sparse frame is matches ("copy `length` bytes from `distance` back"), which repeat
 * runs of zeros with a photon now and then. To write the zeros, and to look for the photons
 * afterwards, takes longer than to decode; here a match copies what the list has in its range.
 *
 * A list that is returned is right: the stream was decoded to its end, has the exact length, and its
 * Adler-32 fits. What is damaged, or unusual (stored blocks, fixed or incomplete codes, a preset
 * dictionary), is declined, and the caller asks libdeflate, which also says what is an error.
 *
 * Formats: RFC 1950 (zlib), RFC 1951 (deflate).
 */
#ifndef XFELMPI_SPARSE_INFLATE_H
#define XFELMPI_SPARSE_INFLATE_H

#include <stdint.h>
#include <string.h>

enum {
    SPARSE_MOST = 131072, /* bytes of a frame */
    SPARSE_PAD = 32,     /* bytes behind the stream that are loaded, but never used */
    SPARSE_BACK = 4,     /* entries that are looked at from the end; most matches reach less far */
    SPARSE_WEAK = 700,   /* bytes of a stream in which looking for repeated matches pays */
    LONGEST_CODE = 15,
    LENGTH_SYMBOLS = 286,
    DISTANCE_SYMBOLS = 30,
    END_OF_BLOCK = 256,
    LENGTH_INDEX = 11,   /* longest codes that one look-up decodes; few are longer */
    DISTANCE_INDEX = 10,
    PRECODE_INDEX = 7,
};

/* What a code stands for: bits 0 … 7 its length and that of the extra bits behind it together,
 * 8 … 13 its length alone, 14 and 15 the flags, 16 … 31 the base value or the symbol, 32 … the mask
 * of the extra bits. A flag alone stands for the beginning of a code longer than the index. */
typedef uint64_t SparseMeaning;
#define NO_MATCH 0x4000u
#define IS_END 0x8000u
#define BITS_IN_ALL(e) ((e) & 63)
#define VALUE(e, bits) ((int)((uint16_t)((e) >> 16) + ((bits) >> ((e) >> 8 & 63) & (e) >> 32)))

typedef SparseMeaning MeaningOf(unsigned symbol, unsigned bits);

typedef struct {
    SparseMeaning meaning[1 << LENGTH_INDEX]; /* by the next `index` bits of the stream */
    int index;
    uint16_t number[LONGEST_CODE + 1];        /* codes of every length */
    uint16_t symbol[LENGTH_SYMBOLS];          /* in the order of their codes */
} SparseCode;

typedef struct {
    /* SPARSE_BACK times -1, less than any entry, then position << 8 | value, ascending, and room for
     * what is written behind the end without looking */
    int32_t list[SPARSE_BACK + SPARSE_MOST + 2];
    SparseCode length, distance;
} SparseInflater;

typedef struct {
    uint64_t bits;       /* of the stream, the next one lowest */
    unsigned n;          /* how many are counted; those above are right, or 0 */
    const uint8_t *next; /* holds the bit above the counted ones */
    const uint8_t *limit;
} SparseStream;

/* At least 56 bits, enough for a match (48); no more than 7 bytes on, 8 loaded. */
static inline void sparse_refill(SparseStream *s)
{
    uint64_t word;
    memcpy(&word, s->next, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    s->bits |= word << s->n;
    s->next += (63 - s->n) >> 3;
    s->n |= 56;
}

static inline void sparse_drop(SparseStream *s, unsigned n)
{
    s->bits >>= n;
    s->n -= n;
}

static inline unsigned sparse_take(SparseStream *s, unsigned n)
{
    unsigned value = (unsigned)s->bits & ((1u << n) - 1);
    sparse_drop(s, n);
    return value;
}

static inline SparseMeaning sparse_meaning(unsigned bits, unsigned extra, unsigned base)
{
    return (bits + extra) | bits << 8 | base << 16 | (SparseMeaning)((1u << extra) - 1) << 32;
}

/* Base values and extra bits (RFC 1951, 3.2.5) follow from the symbol's number. */
static inline SparseMeaning length_meaning(unsigned symbol, unsigned bits)
{
    if (symbol <= END_OF_BLOCK)
        return sparse_meaning(bits, 0, symbol) | NO_MATCH | (symbol == END_OF_BLOCK ? IS_END : 0);
    unsigned s = symbol - 257;
    if (s < 8 || s == 28) return sparse_meaning(bits, 0, s < 8 ? 3 + s : 258);
    unsigned extra = (s >> 2) - 1;
    return sparse_meaning(bits, extra, 3 + ((4 + (s & 3)) << extra));
}

static inline SparseMeaning distance_meaning(unsigned s, unsigned bits)
{
    if (s < 4) return sparse_meaning(bits, 0, 1 + s);
    unsigned extra = (s >> 1) - 1;
    return sparse_meaning(bits, extra, 1 + ((2 + (s & 1)) << extra));
}

static inline SparseMeaning precode_meaning(unsigned symbol, unsigned bits)
{
    return sparse_meaning(bits, 0, symbol);
}

/* Codes are sent from their highest bit on, everything else from its lowest. */
static inline unsigned sparse_reversed(unsigned code, int n)
{
    unsigned r = 0;
    for (; n > 0; n--, code >>= 1) r = r << 1 | (code & 1);
    return r;
}

/* Set up a code from n symbols (symbol << 4 | bits, ascending); 0 if they do not make a complete
 * one. RFC 1951, 3.2.2. */
static inline int sparse_build(SparseCode *c, const uint16_t *given, int n, int most_index,
                               MeaningOf meaning_of)
{
    uint16_t place[LONGEST_CODE + 2];
    int left = 1, longest = 0, done = 0;
    unsigned code = 0;
    memset(c->number, 0, sizeof c->number);
    for (int i = 0; i < n; i++) c->number[given[i] & 15]++;
    place[1] = 0;
    for (int bits = 1; bits <= LONGEST_CODE; bits++) {
        left = 2 * left - c->number[bits]; /* once negative, it remains so */
        if (c->number[bits]) longest = bits;
        place[bits + 1] = place[bits] + c->number[bits];
    }
    if (left) return 0;
    for (int i = 0; i < n; i++) c->symbol[place[given[i] & 15]++] = given[i] >> 4;
    c->index = longest < most_index ? longest : most_index;
    for (int bits = 1; bits <= c->index; bits++) {
        /* what one bit fewer has settled holds whichever this bit is */
        size_t size = (size_t)1 << (bits - 1);
        memcpy(c->meaning + size, c->meaning, size * sizeof *c->meaning);
        code <<= 1;
        for (int last = done + c->number[bits]; done < last; done++, code++)
            c->meaning[sparse_reversed(code, bits)] = meaning_of(c->symbol[done], bits);
    }
    if (longest > c->index)
        for (; code < 1u << c->index; code++)
            c->meaning[sparse_reversed(code, c->index)] = NO_MATCH;
    return 1;
}

/* What the next code stands for, if it is longer than the index. */
static __attribute__((noinline)) SparseMeaning sparse_long_code(
    const SparseCode *c, uint64_t stream, MeaningOf meaning_of)
{
    unsigned code = 0, smallest = 0, place = 0;
    for (int bits = 1; bits <= LONGEST_CODE; bits++, stream >>= 1) {
        code = code << 1 | (stream & 1);
        smallest <<= 1;
        if (code - smallest < c->number[bits])
            return meaning_of(c->symbol[place + code - smallest], bits);
        smallest += c->number[bits];
        place += c->number[bits];
    }
    return NO_MATCH; /* not reached, as the code is complete */
}

/* Read the two codes of a block (RFC 1951, 3.2.7); 0 if they are damaged or unusual. */
static int sparse_codes(SparseInflater *z, SparseStream *stream)
{
    static const uint8_t order[19] = {
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    SparseStream s = *stream;
    SparseCode *precode = &z->distance; /* whose own code comes later */
    uint16_t given[LENGTH_SYMBOLS + DISTANCE_SYMBOLS];
    uint8_t bits_of[19] = {0};
    int n = 0, n_length = 0, bits = 0;
    sparse_refill(&s);
    unsigned lengths = 257 + sparse_take(&s, 5), all = lengths + 1 + sparse_take(&s, 5);
    int sent = 4 + sparse_take(&s, 4);
    if (lengths > LENGTH_SYMBOLS || all - lengths > DISTANCE_SYMBOLS) return 0;
    for (int i = 0; i < sent; i++) {
        if (i == 14) sparse_refill(&s);
        bits_of[order[i]] = sparse_take(&s, 3);
    }
    for (int i = 0; i < 19; i++)
        if (bits_of[i]) given[n++] = i << 4 | bits_of[i];
    if (!sparse_build(precode, given, n, PRECODE_INDEX, precode_meaning)) return 0;
    n = 0;
    /* only symbols that have a code are noted: a few tens of 316 */
    for (unsigned i = 0, times; i < all; i += times) {
        sparse_refill(&s);
        if (s.next > s.limit) return 0;
        SparseMeaning e = precode->meaning[s.bits & ((1u << precode->index) - 1)];
        unsigned symbol = VALUE(e, s.bits);
        sparse_drop(&s, BITS_IN_ALL(e));
        times = 1;
        if (symbol < 16) {
            bits = symbol;
        } else if (symbol == 16) {
            if (i == 0) return 0;
            times = 3 + sparse_take(&s, 2);
        } else {
            bits = 0;
            times = symbol == 17 ? 3 + sparse_take(&s, 3) : 11 + sparse_take(&s, 7);
        }
        if (times > all - i) return 0;
        if (bits == 0) continue;
        for (unsigned k = i; k < i + times; k++) {
            given[n++] = (k < lengths ? k : k - lengths) << 4 | bits;
            n_length += k < lengths;
        }
    }
    *stream = s;
    return sparse_build(&z->length, given, n_length, LENGTH_INDEX, length_meaning) &&
           sparse_build(&z->distance, given + n_length, n - n_length, DISTANCE_INDEX,
                        distance_meaning);
}

/* The first of n entries from a position on, which is not behind the last entry. */
static __attribute__((noinline)) int sparse_find(const SparseInflater *z, int n, int32_t from)
{
    const int32_t *entry = z->list + SPARSE_BACK;
    int k = 0;
    while (n > 0) {
        int half = n >> 1, below = entry[k + half] < from;
        k += below ? half + 1 : 0;
        n = below ? n - half - 1 : half;
    }
    return k;
}

/* Append what a match copies to the n entries; returns their new number. Which entries these are
 * follows no pattern, and a branch guessed wrong takes as long as all of this: so there is none for
 * matches that reach a few entries back and copy one or none. */
static inline int sparse_match(SparseInflater *z, int n, int32_t from, int32_t shift, int32_t end)
{
    int32_t *entry = z->list + SPARSE_BACK;
    int k = n;
    for (int i = 1; i <= SPARSE_BACK; i++) k -= entry[n - i] >= from;
    if (__builtin_expect(k == n - SPARSE_BACK, 0)) k = sparse_find(z, n, from);
    entry[n] = SPARSE_MOST << 8; /* beyond any end, if it is this one */
    int32_t copy = entry[k] + shift;
    entry[n] = copy;
    /* a match that reaches into itself copies what it has just written */
    int32_t next = entry[k + 1] + shift;
    int any = copy < end;
    n += any;
    if (any & (next < end)) {
        do {
            entry[n++] = next;
            next = entry[++k + 1] + shift;
        } while (next < end);
    }
    return n;
}

/* How often the codes of a match, which took `bits` bits, come again right behind it, given how the
 * stream differs from itself so many bits later. */
static __attribute__((noinline)) int sparse_again(SparseStream *s, uint64_t differs, unsigned bits)
{
    unsigned again = (unsigned)__builtin_ctzll(differs) / bits;
    sparse_drop(s, again * bits);
    return (int)again;
}

/* Decode a block; returns the new number of entries, -1 if it is damaged. Of a weak frame the same
 * match comes again and again between the photons: it copies what one as long as all would. */
static inline __attribute__((always_inline)) int sparse_block(
    SparseInflater *z, SparseStream *stream, int n, int *position, int n_bytes, int weak)
{
    SparseStream s = *stream;
    int32_t *entry = z->list + SPARSE_BACK;
    int at = *position;
    const unsigned length_mask = (1u << z->length.index) - 1;
    const unsigned distance_mask = (1u << z->distance.index) - 1;
    sparse_refill(&s);
    SparseMeaning e = z->length.meaning[s.bits & length_mask];
    for (;;) {
        if (__builtin_expect(s.next > s.limit, 0)) return -1;
        if (__builtin_expect(e & NO_MATCH, 0)) {
            if (BITS_IN_ALL(e) == 0) e = sparse_long_code(&z->length, s.bits, length_meaning);
            if (e & IS_END) break;
            if (e & NO_MATCH) {
                if (at >= n_bytes) return -1;
                int value = VALUE(e, s.bits);
                entry[n] = at << 8 | value;
                n += value != 0;
                at++;
                sparse_drop(&s, BITS_IN_ALL(e));
                sparse_refill(&s);
                e = z->length.meaning[s.bits & length_mask];
                continue;
            }
        }
        int length = VALUE(e, s.bits);
        uint64_t whole = s.bits;
        unsigned counted = s.n;
        sparse_drop(&s, BITS_IN_ALL(e));
        e = z->distance.meaning[s.bits & distance_mask];
        if (__builtin_expect(e & NO_MATCH, 0))
            e = sparse_long_code(&z->distance, s.bits, distance_meaning);
        int distance = VALUE(e, s.bits);
        sparse_drop(&s, BITS_IN_ALL(e));
        if (weak) {
            /* behind the counted bits nothing is the same */
            unsigned used = counted - s.n;
            uint64_t differs = (whole ^ s.bits) | (uint64_t)1 << s.n;
            if ((differs & (((uint64_t)1 << used) - 1)) == 0)
                length *= 1 + sparse_again(&s, differs, used);
        }
        /* looked up before the copying, so that a wrong guess there does not delay it */
        sparse_refill(&s);
        e = z->length.meaning[s.bits & length_mask];
        if (__builtin_expect(distance > at || length > n_bytes - at, 0)) return -1;
        n = sparse_match(z, n, (at - distance) << 8, distance << 8, (at + length) << 8);
        at += length;
    }
    sparse_drop(&s, BITS_IN_ALL(e));
    *stream = s;
    *position = at;
    return n;
}

/* Whether the Adler-32 (RFC 1950) of the frame is this one; only non-zeros add to its sums. */
static inline int sparse_adler_fits(const int32_t *entry, int n, int n_bytes,
                                    const uint8_t *stored)
{
    uint64_t s1 = 1, s2 = n_bytes;
    for (int i = 0; i < n; i++) {
        uint32_t value = entry[i] & 255, still = n_bytes - (entry[i] >> 8);
        s1 += value;
        s2 += value * still;
    }
    s1 %= 65521;
    s2 %= 65521;
    return s2 == ((unsigned)stored[0] << 8 | stored[1]) &&
           s1 == ((unsigned)stored[2] << 8 | stored[3]);
}

static inline void sparse_init(SparseInflater *z)
{
    for (int i = 0; i < SPARSE_BACK; i++) z->list[i] = -1;
}

/* Inflate a frame of n_bytes from packed[0 … size - 1]; SPARSE_PAD bytes more can be loaded. Returns
 * the number of entries in `z->list + SPARSE_BACK`, -1 if libdeflate should be asked. */
static inline int sparse_inflate(SparseInflater *z, const uint8_t *packed, size_t size, int n_bytes)
{
    int n = 0, at = 0, is_last = 0;
    if (n_bytes > SPARSE_MOST || size < 8) return -1;
    /* deflate, a window of 32 KiB at most, no preset dictionary, and the check bits */
    if ((packed[0] & 15) != 8 || packed[0] >> 4 > 7 || packed[1] & 32 ||
        (packed[0] << 8 | packed[1]) % 31 != 0)
        return -1;
    const uint8_t *adler = packed + size - 4;
    /* what is counted is at most 8 bytes ahead of what is used */
    SparseStream s = {0, 0, packed + 2, adler + 8};
    while (!is_last) {
        sparse_refill(&s);
        if (s.next > s.limit) return -1;
        is_last = sparse_take(&s, 1);
        if (sparse_take(&s, 2) != 2 || !sparse_codes(z, &s)) return -1;
        n = size < SPARSE_WEAK ? sparse_block(z, &s, n, &at, n_bytes, 1)
                               : sparse_block(z, &s, n, &at, n_bytes, 0);
        if (n < 0) return -1;
    }
    /* other bytes may stand between the stream's Adler-32 and the end */
    const uint8_t *end = s.next - (s.n >> 3);
    if (at != n_bytes || end > adler) return -1;
    return sparse_adler_fits(z->list + SPARSE_BACK, n, n_bytes, end) ? n : -1;
}

#undef NO_MATCH
#undef IS_END
#undef BITS_IN_ALL
#undef VALUE

#endif
