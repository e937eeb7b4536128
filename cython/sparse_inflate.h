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
    SPARSE_PAD = 32,      /* bytes behind the stream that are loaded, but never used */
    SPARSE_BACK = 4,      /* entries that are looked at from the end; most matches reach less far */
    SPARSE_WEAK = 700,    /* bytes of a stream in which looking for repeated matches pays */
    LONGEST_CODE = 15,
    LENGTH_SYMBOLS = 286,
    DISTANCE_SYMBOLS = 30,
    END_OF_BLOCK = 256,
    LENGTH_INDEX = 11,    /* longest codes that one look-up decodes; few are longer */
    DISTANCE_INDEX = 10,
    PRECODE_INDEX = 7,
};

/* What a code stands for: bits 0 … 7 its length and that of the extra bits behind it together,
 * 8 … 13 its length alone, 14 and 15 the flags, 16 … 47 the base value or the symbol, 48 … the mask
 * of the extra bits. A flag alone stands for the beginning of a code longer than the index. */
typedef uint64_t SparseMeaning;
#define NO_MATCH 0x4000u
#define IS_END 0x8000u
#define BITS_IN_ALL(e) ((e) & 63)
#define VALUE(e, bits) \
    ((int)((uint32_t)((e) >> 16) + (uint32_t)((bits) >> ((e) >> 8 & 63) & (e) >> 48)))

/* Where a byte of the frame is in the list: above its value. The first one has 1, so that 0 is
 * below all of them. */
#define PLACE(at) (((at) + 1) << 8)

typedef SparseMeaning MeaningOf(unsigned symbol, unsigned bits);

typedef struct {
    SparseMeaning meaning[1 << LENGTH_INDEX]; /* by the next `index` bits of the stream */
    int index;
    uint16_t number[LONGEST_CODE + 1];        /* codes of every length */
    uint16_t symbol[LENGTH_SYMBOLS];          /* in the order of their codes */
} SparseCode;

typedef struct {
    /* SPARSE_BACK times 0, less than any entry, then position << 8 | value, ascending, and room for
     * what is written behind the end without looking; PLACE(position) meanwhile */
    int32_t list[SPARSE_BACK + SPARSE_MOST + 2];
    SparseCode length, distance;
} SparseInflater;

typedef struct {
    const uint8_t *packed;
    size_t at, limit; /* bits: how many were used, and where the Adler-32 begins at the latest */
    uint64_t bits;    /* of the stream, the next one lowest; 0 above the last one loaded */
} SparseStream;

/* How far a stream has been decoded. */
typedef struct {
    SparseStream s;
    SparseMeaning e; /* of the next symbol, as far as the index tells */
    unsigned length_mask, distance_mask;
    int n;           /* entries */
    int32_t place;   /* of the next byte of the frame */
    int is_last, weak;
} SparseWalk;

typedef enum { SPARSE_GOES_ON, SPARSE_END, SPARSE_DAMAGED } SparseState;

/* At least 57 bits, enough for a match (48) and the index of the next code behind a usual one. */
static inline void sparse_refill(SparseStream *s)
{
    uint64_t word;
    memcpy(&word, s->packed + (s->at >> 3), 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    s->bits = word >> (s->at & 7);
}

static inline void sparse_drop(SparseStream *s, unsigned n)
{
    s->bits >>= n;
    s->at += n;
}

static inline unsigned sparse_take(SparseStream *s, unsigned n)
{
    unsigned value = (unsigned)s->bits & ((1u << n) - 1);
    sparse_drop(s, n);
    return value;
}

static inline SparseMeaning sparse_meaning(unsigned bits, unsigned extra, unsigned base)
{
    SparseMeaning mask = (1u << extra) - 1;
    return (bits + extra) | bits << 8 | (SparseMeaning)base << 16 | mask << 48;
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

/* The code after this one of n bits, not all of them 1. Codes are sent from their highest bit on,
 * everything else from its lowest: here they are in the order of the stream. */
static inline unsigned sparse_next_code(unsigned code, int n)
{
    unsigned highest = 1u << (31 - __builtin_clz(~code & ((1u << n) - 1)));
    return (code & (highest - 1)) | highest;
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
        for (int last = done + c->number[bits]; done < last; done++) {
            c->meaning[code] = meaning_of(c->symbol[done], bits);
            if (done < n - 1) code = sparse_next_code(code, bits);
        }
    }
    if (longest > c->index)
        for (unsigned all = (1u << c->index) - 1;; code = sparse_next_code(code, c->index)) {
            c->meaning[code] = NO_MATCH;
            if (code == all) break;
        }
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
        if (s.at > s.limit) return 0;
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
    int k = n - SPARSE_BACK;
    /* comparisons without sign add their carry, which takes half the instructions */
    for (int i = SPARSE_BACK; i >= 1; i--) k += (uint32_t)entry[n - i] < (uint32_t)from;
    if (__builtin_expect(k == n - SPARSE_BACK, 0)) k = sparse_find(z, n, from);
    entry[n] = PLACE(SPARSE_MOST); /* beyond any end, if it is this one */
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

/* Decode one symbol of a block. Of a weak frame the same match comes again and again between the
 * photons: it copies what one as long as all would. */
static inline __attribute__((always_inline)) SparseState sparse_step(
    SparseInflater *z, SparseWalk *w, int32_t end, int weak)
{
    int32_t *entry = z->list + SPARSE_BACK;
    SparseMeaning e = w->e;
    if (__builtin_expect(w->s.at > w->s.limit, 0)) return SPARSE_DAMAGED;
    if (__builtin_expect(e & NO_MATCH, 0)) {
        if (BITS_IN_ALL(e) == 0) e = sparse_long_code(&z->length, w->s.bits, length_meaning);
        if (e & IS_END) {
            sparse_drop(&w->s, BITS_IN_ALL(e));
            return SPARSE_END;
        }
        if (e & NO_MATCH) {
            if (w->place >= end) return SPARSE_DAMAGED;
            int value = VALUE(e, w->s.bits);
            entry[w->n] = w->place | value;
            w->n += value != 0;
            w->place += 1 << 8;
            sparse_drop(&w->s, BITS_IN_ALL(e));
            sparse_refill(&w->s);
            w->e = z->length.meaning[w->s.bits & w->length_mask];
            return SPARSE_GOES_ON;
        }
    }
    uint64_t bits = w->s.bits;
    size_t at = w->s.at;
    int length = VALUE(e, bits);
    sparse_drop(&w->s, BITS_IN_ALL(e));
    e = z->distance.meaning[w->s.bits & w->distance_mask];
    if (__builtin_expect(e & NO_MATCH, 0))
        e = sparse_long_code(&z->distance, w->s.bits, distance_meaning);
    int32_t shift = VALUE(e, w->s.bits) << 8;
    sparse_drop(&w->s, BITS_IN_ALL(e));
    if (weak) {
        /* behind the bits that were loaded nothing is the same */
        unsigned used = (unsigned)(w->s.at - at);
        uint64_t differs = (bits ^ w->s.bits) | (uint64_t)1 << (64 - (at & 7) - used);
        if ((differs & (((uint64_t)1 << used) - 1)) == 0)
            length *= 1 + sparse_again(&w->s, differs, used);
    }
    /* looked up before the copying, so that a wrong guess there does not delay it */
    sparse_refill(&w->s);
    w->e = z->length.meaning[w->s.bits & w->length_mask];
    int32_t from = w->place - shift;
    w->place += length << 8;
    if (__builtin_expect(from < PLACE(0) || w->place > end, 0)) return SPARSE_DAMAGED;
    w->n = sparse_match(z, w->n, from, shift, w->place);
    return SPARSE_GOES_ON;
}

/* Decode what is left of a block. */
static inline __attribute__((always_inline)) SparseState sparse_block(
    SparseInflater *z, SparseWalk *walk, int32_t end, int weak)
{
    SparseWalk w = *walk;
    SparseState state;
    do state = sparse_step(z, &w, end, weak);
    while (state == SPARSE_GOES_ON);
    *walk = w;
    return state;
}

/* Decode two blocks symbol by symbol in turn, until one of them ends. A symbol has to wait for the
 * look-ups of the one before; that of the other stream need not. */
static inline __attribute__((always_inline)) void sparse_two_blocks(
    SparseInflater *z[2], SparseWalk walk[2], SparseState state[2], int32_t end, int weak)
{
    SparseInflater *z0 = z[0], *z1 = z[1];
    SparseWalk a = walk[0], b = walk[1];
    SparseState of_a, of_b;
    do {
        of_a = sparse_step(z0, &a, end, weak);
        of_b = sparse_step(z1, &b, end, weak);
    } while (of_a == SPARSE_GOES_ON && of_b == SPARSE_GOES_ON);
    walk[0] = a, walk[1] = b;
    state[0] = of_a, state[1] = of_b;
}

/* Whether the Adler-32 (RFC 1950) of the frame is this one; only non-zeros add to its sums. Entries
 * get their positions. */
static inline int sparse_adler_fits(int32_t *entry, int n, int n_bytes, const uint8_t *stored)
{
    uint64_t s1 = 1, s2 = n_bytes;
    for (int i = 0; i < n; i++) {
        entry[i] -= PLACE(0);
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
    for (int i = 0; i < SPARSE_BACK; i++) z->list[i] = 0;
}

/* Begin to inflate packed[0 … size - 1]; 0 if it is no zlib stream as expected. */
static inline int sparse_open(SparseWalk *w, const uint8_t *packed, size_t size, int n_bytes)
{
    if (n_bytes > SPARSE_MOST || size < 8) return 0;
    /* deflate, a window of 32 KiB at most, no preset dictionary, and the check bits */
    if ((packed[0] & 15) != 8 || packed[0] >> 4 > 7 || packed[1] & 32 ||
        (packed[0] << 8 | packed[1]) % 31 != 0)
        return 0;
    w->s = (SparseStream){packed, 16, 8 * (size - 4), 0};
    w->weak = size < SPARSE_WEAK;
    w->n = w->is_last = 0;
    w->place = PLACE(0);
    return 1;
}

/* Read the beginning of a block; 0 if it is damaged or unusual. */
static inline int sparse_begin(SparseInflater *z, SparseWalk *w)
{
    sparse_refill(&w->s);
    if (w->s.at > w->s.limit) return 0;
    w->is_last = sparse_take(&w->s, 1);
    if (sparse_take(&w->s, 2) != 2 || !sparse_codes(z, &w->s)) return 0;
    w->length_mask = (1u << z->length.index) - 1;
    w->distance_mask = (1u << z->distance.index) - 1;
    sparse_refill(&w->s);
    w->e = z->length.meaning[w->s.bits & w->length_mask];
    return 1;
}

/* Inflate the rest of a stream, given how its block stands; returns the number of entries, or -1. */
static inline int sparse_rest(SparseInflater *z, SparseWalk *w, SparseState state, int n_bytes)
{
    for (;;) {
        if (state == SPARSE_GOES_ON)
            state = w->weak ? sparse_block(z, w, PLACE(n_bytes), 1)
                            : sparse_block(z, w, PLACE(n_bytes), 0);
        if (state == SPARSE_DAMAGED) return -1;
        if (w->is_last) break;
        if (!sparse_begin(z, w)) return -1;
        state = SPARSE_GOES_ON;
    }
    /* other bytes may stand between the stream's Adler-32 and the end */
    if (w->place != PLACE(n_bytes) || w->s.at > w->s.limit) return -1;
    const uint8_t *adler = w->s.packed + (w->s.at + 7) / 8;
    return sparse_adler_fits(z->list + SPARSE_BACK, w->n, n_bytes, adler) ? w->n : -1;
}

/* Inflate a frame of n_bytes from packed[0 … size - 1]; SPARSE_PAD bytes more can be loaded. Returns
 * the number of entries in `z->list + SPARSE_BACK`, -1 if libdeflate should be asked. */
static inline int sparse_inflate(SparseInflater *z, const uint8_t *packed, size_t size, int n_bytes)
{
    SparseWalk w;
    if (!sparse_open(&w, packed, size, n_bytes) || !sparse_begin(z, &w)) return -1;
    return sparse_rest(z, &w, SPARSE_GOES_ON, n_bytes);
}

/* The same of two frames at once, which takes a fifth less time; `n` gets what it returns of each. */
static __attribute__((noinline)) void sparse_inflate_two(
    SparseInflater *z[2], const uint8_t *packed[2], const size_t size[2], int n_bytes, int n[2])
{
    SparseWalk w[2];
    SparseState state[2];
    for (int i = 0; i < 2; i++) {
        int begun = sparse_open(&w[i], packed[i], size[i], n_bytes) && sparse_begin(z[i], &w[i]);
        state[i] = begun ? SPARSE_GOES_ON : SPARSE_DAMAGED;
    }
    if (state[0] == SPARSE_GOES_ON && state[1] == SPARSE_GOES_ON) {
        if (w[0].weak && w[1].weak) sparse_two_blocks(z, w, state, PLACE(n_bytes), 1);
        else sparse_two_blocks(z, w, state, PLACE(n_bytes), 0);
    }
    for (int i = 0; i < 2; i++)
        n[i] = state[i] == SPARSE_DAMAGED ? -1 : sparse_rest(z[i], &w[i], state[i], n_bytes);
}

#undef NO_MATCH
#undef IS_END
#undef BITS_IN_ALL
#undef VALUE
#undef PLACE

#endif
