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
    SPARSE_BACK = 5,      /* entries that are looked at from the end; most matches reach less far */
    SPARSE_WEAK = 600,    /* bytes of a stream in which looking for repeated matches pays */
    LONGEST_CODE = 15,
    LONGEST_MATCH = 48,   /* bits: two codes, with 5 and 13 extra bits */
    LENGTH_SYMBOLS = 286,
    DISTANCE_SYMBOLS = 30,
    END_OF_BLOCK = 256,
    LENGTH_INDEX = 11,    /* longest codes that one look-up decodes; few are longer */
    DISTANCE_INDEX = 10,
    PRECODE_INDEX = 7,
    PRECODE_SYMBOLS = 19,
    GIVEN_WORDS = 5,      /* of 64 symbols each: all lengths and distances */
    NO_MATCH = 64,        /* flags of a SparseMeaning */
    IS_END = 128,
    IS_REPEAT = 64,       /* as many bits as the code before has */
};

/* What a code stands for; a flag alone: the beginning of a code longer than the index. */
typedef struct {
    uint8_t bits;  /* of the code, and the flags */
    uint8_t all;   /* with the extra bits behind it */
    uint16_t mask; /* of the extra bits */
    uint32_t base; /* value without them */
} SparseMeaning;

/* The flags are above the six bits by which processors shift: & 63 takes no instruction. */
#define VALUE(e, stream) ((int)((e)->base + ((uint32_t)((stream) >> ((e)->bits & 63)) & (e)->mask)))

/* Where a byte of the frame is in the list: above its value. The first one has 1, so that 0 is
 * below all of them. */
#define PLACE(at) (((at) + 1) << 8)

typedef struct {
    SparseMeaning meaning[1 << LENGTH_INDEX]; /* by the next `index` bits of the stream */
    SparseMeaning longer;                     /* of the last code that was longer than that */
    int index;
    uint16_t number[LONGEST_CODE + 1];        /* codes of every length */
    uint16_t symbol[LENGTH_SYMBOLS];          /* in the order of their codes */
} SparseCode;

typedef struct {
    /* SPARSE_BACK times 0, less than any entry, then position << 8 | value, ascending, and room for
     * what is written behind the end without looking; PLACE(position) meanwhile */
    int32_t list[SPARSE_BACK + SPARSE_MOST + 2];
    SparseCode length, distance;
    /* what symbols stand for, before the bits of their codes are known */
    SparseMeaning of_length[LENGTH_SYMBOLS], of_distance[DISTANCE_SYMBOLS], of_precode[PRECODE_SYMBOLS];
    uint16_t reversed[1 << LENGTH_INDEX]; /* these bits in the other order */
    uint16_t part[LONGEST_MATCH + 1];     /* of 65536: to divide numbers up to 64 by a few */
} SparseInflater;

typedef struct {
    const uint8_t *packed;
    size_t at, limit; /* bits: how many were used, and where the Adler-32 begins at the latest */
    uint64_t bits;    /* of the stream, the next one lowest; 0 above the last one loaded */
} SparseStream;

/* How far a stream has been decoded. */
typedef struct {
    SparseStream s;
    const SparseMeaning *e; /* of the next symbol, as far as the index tells */
    unsigned length_mask, distance_mask;
    int32_t *behind; /* the entries */
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

static inline SparseMeaning sparse_meaning(unsigned extra, unsigned base)
{
    return (SparseMeaning){0, (uint8_t)extra, (uint16_t)((1u << extra) - 1), base};
}

/* Base values and extra bits (RFC 1951, 3.2.5) follow from the symbol's number. */
static inline SparseMeaning length_meaning(unsigned symbol)
{
    if (symbol <= END_OF_BLOCK)
        return (SparseMeaning){NO_MATCH | (symbol == END_OF_BLOCK ? IS_END : 0), 0, 0, symbol};
    unsigned s = symbol - 257;
    if (s < 8 || s == 28) return sparse_meaning(0, s < 8 ? 3 + s : 258);
    unsigned extra = (s >> 2) - 1;
    return sparse_meaning(extra, 3 + ((4 + (s & 3)) << extra));
}

static inline SparseMeaning distance_meaning(unsigned s)
{
    if (s < 4) return sparse_meaning(0, 1 + s);
    unsigned extra = (s >> 1) - 1;
    return sparse_meaning(extra, 1 + ((2 + (s & 1)) << extra));
}

/* Of a code of codes (3.2.7): how often a number of bits comes, and above it that number. */
static inline SparseMeaning precode_meaning(unsigned symbol)
{
    if (symbol < 16) return sparse_meaning(0, 1 | symbol << 8);
    SparseMeaning e = sparse_meaning(symbol == 16 ? 2 : symbol == 17 ? 3 : 7, symbol == 18 ? 11 : 3);
    if (symbol == 16) e.bits = IS_REPEAT;
    return e;
}

/* The same if the code has so many bits. */
static inline SparseMeaning sparse_with_bits(SparseMeaning e, unsigned bits)
{
    e.bits += bits;
    e.all += bits;
    return e;
}

/* Symbols that have a code, ascending, and which of them have one of so many bits. To sort them with
 * a counter for each number of bits takes longer: to count on, a counter must have been stored. */
typedef struct {
    uint16_t symbol[64 * GIVEN_WORDS];
    uint64_t which[LONGEST_CODE + 1][GIVEN_WORDS];
} SparseGiven;

static inline void sparse_give(SparseGiven *given, int n, unsigned symbol, unsigned bits)
{
    given->symbol[n] = symbol;
    given->which[bits][n >> 6] |= (uint64_t)1 << (n & 63);
}

/* Set up a code from the given symbols `from` … `to` - 1; returns how many of them make a complete one
 * (RFC 1951, 3.2.2), -1: none do. Codes are sent from their highest bit on, everything else from its
 * lowest. */
static inline int sparse_build(SparseInflater *z, SparseCode *c, const SparseGiven *given, int from,
                               int to, int most_index, const SparseMeaning *of)
{
    /* the next code, with zeros behind its bits */
    unsigned code = 0, end = 1u << LONGEST_CODE;
    const int more = LONGEST_CODE - LENGTH_INDEX, mask = (1 << LENGTH_INDEX) - 1;
    int done = 0, bits = 0;
    while (code < end && bits < LONGEST_CODE) {
        int before = done;
        bits++;
        if (bits <= most_index) {
            /* what one bit fewer has settled holds whichever this bit is; one more does no harm */
            size_t size = (size_t)1 << (bits - 1);
            for (size_t i = 0; i < size; i += 2)
                memmove(c->meaning + size + i, c->meaning + i, 2 * sizeof *c->meaning);
        } else if (bits == most_index + 1) {
            for (unsigned i = code; i < end; i += end >> most_index)
                c->meaning[z->reversed[i >> more]] = (SparseMeaning){NO_MATCH, 0, 0, 0};
        }
        for (int word = from >> 6; 64 * word < to; word++) {
            uint64_t which = given->which[bits][word];
            if (64 * word < from) which &= ~(uint64_t)0 << (from - 64 * word);
            if (64 * word + 64 > to) which &= ~(~(uint64_t)0 << (to - 64 * word));
            for (; which; which &= which - 1) {
                unsigned symbol = given->symbol[64 * word + __builtin_ctzll(which)];
                c->symbol[done++] = symbol;
                if (bits <= most_index)
                    c->meaning[z->reversed[code >> more & mask]] = sparse_with_bits(of[symbol], bits);
                code += end >> bits;
            }
        }
        c->number[bits] = done - before;
    }
    c->index = bits < most_index ? bits : most_index;
    return code == end ? done : -1;
}

/* What the next code stands for, if it is longer than the index. */
static __attribute__((noinline)) const SparseMeaning *sparse_long_code(
    SparseCode *c, uint64_t stream, const SparseMeaning *of)
{
    unsigned code = 0, smallest = 0, place = 0;
    for (int bits = 1; bits <= LONGEST_CODE; bits++, stream >>= 1) {
        code = code << 1 | (stream & 1);
        smallest <<= 1;
        if (code - smallest < c->number[bits]) {
            c->longer = sparse_with_bits(of[c->symbol[place + code - smallest]], bits);
            break; /* always, as the code is complete */
        }
        smallest += c->number[bits];
        place += c->number[bits];
    }
    return &c->longer;
}

/* Read the two codes of a block (RFC 1951, 3.2.7); 0 if they are damaged or unusual. */
static int sparse_codes(SparseInflater *z, SparseStream *stream)
{
    static const uint8_t order[PRECODE_SYMBOLS] = {
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    SparseStream s = *stream;
    SparseCode *precode = &z->distance; /* whose own code comes later */
    SparseGiven given;
    int n = 0, n_length = 0;
    unsigned bits = 0;
    sparse_refill(&s);
    unsigned lengths = 257 + sparse_take(&s, 5), all = lengths + 1 + sparse_take(&s, 5);
    int sent = 4 + sparse_take(&s, 4);
    if (lengths > LENGTH_SYMBOLS || all - lengths > DISTANCE_SYMBOLS) return 0;
    sparse_refill(&s);
    uint64_t threes = s.bits & (((uint64_t)1 << 3 * sent) - 1);
    sparse_drop(&s, 3 * sent);
    for (int i = 0; i <= LONGEST_CODE; i++) given.which[i][0] = 0;
    for (int i = 0; i < PRECODE_SYMBOLS; i++, threes >>= 3)
        n += (threes & 7) != 0, given.which[threes & 7][0] |= (uint64_t)1 << order[i];
    for (int i = 0; i < PRECODE_SYMBOLS; i++) given.symbol[i] = i; /* those without a code, too */
    if (sparse_build(z, precode, &given, 0, PRECODE_SYMBOLS, PRECODE_INDEX, z->of_precode) != n)
        return 0;
    unsigned mask = (1u << precode->index) - 1;
    n = 0;
    memset(given.which, 0, sizeof given.which);
    /* only symbols that have a code are noted: a few tens of 316 */
    for (unsigned i = 0; i < all;) {
        sparse_refill(&s);
        if (s.at > s.limit) return 0;
        /* four take 56 bits at most */
        for (int k = 0; k < 4 && i < all; k++) {
            const SparseMeaning *e = &precode->meaning[s.bits & mask];
            unsigned value = VALUE(e, s.bits), times = value & 255;
            sparse_drop(&s, e->all);
            if (e->bits & IS_REPEAT) {
                if (i == 0 || times > all - i) return 0;
                for (unsigned j = i; bits && j < i + times; j++) {
                    sparse_give(&given, n++, j, bits);
                    n_length += j < lengths;
                }
            } else {
                /* without a branch: what has no code is overwritten by the next one */
                bits = value >> 8;
                sparse_give(&given, n, i, bits);
                n += bits != 0;
                n_length += (bits != 0) & (i < lengths);
            }
            i += times;
        }
        if (i > all) return 0;
    }
    for (int i = n_length; i < n; i++) given.symbol[i] -= lengths;
    *stream = s;
    return sparse_build(z, &z->length, &given, 0, n_length, LENGTH_INDEX, z->of_length) == n_length &&
           sparse_build(z, &z->distance, &given, n_length, n, DISTANCE_INDEX, z->of_distance) ==
               n - n_length;
}

/* The first entry from a position on, which is not behind the last one. How many steps that takes
 * depends on the number of entries alone, and no branch on the half: it could not be guessed. */
static __attribute__((noinline)) const int32_t *sparse_find(
    const int32_t *first, const int32_t *behind, int32_t from)
{
    size_t n = behind - first;
    while (n > 1) {
        size_t half = n >> 1;
        first += half & -(size_t)((uint32_t)first[half - 1] < (uint32_t)from);
        n -= half;
    }
    return first + (*first < from);
}

/* Append what a match copies to the entries before `behind`; returns the new end. Which entries these
 * are follows no pattern, and a branch guessed wrong takes as long as all of this: so there is none
 * for matches that reach a few entries back and copy one or none. */
static inline int32_t *sparse_match(SparseInflater *z, int32_t *behind, int32_t from, int32_t shift,
                                    int32_t end)
{
    size_t k = 0;
    /* comparisons without sign add their carry, which takes half the instructions */
    for (int i = SPARSE_BACK; i >= 1; i--) k += (uint32_t)behind[-i] < (uint32_t)from;
    const int32_t *source = behind - SPARSE_BACK + k;
    if (__builtin_expect(k == 0, 0)) source = sparse_find(z->list + SPARSE_BACK, behind, from);
    behind[0] = behind[1] = PLACE(SPARSE_MOST); /* beyond any end, if it is these */
    int32_t copy = source[0] + shift;
    behind[0] = copy;
    /* a match that reaches into itself copies what it has just written */
    int32_t next = source[1] + shift;
    behind += copy < end;
    if (next < end) {
        do {
            *behind++ = next;
            next = *(++source + 1) + shift;
        } while (next < end);
    }
    return behind;
}

/* How often a match of n bits comes again right behind itself, given how the stream differs from
 * itself so many bits later. Between the photons of a weak frame the number follows no pattern, so
 * that there is no branch for 0; and a division would take longer. */
static inline unsigned sparse_again(const SparseInflater *z, uint64_t differs, unsigned n)
{
    return ((unsigned)__builtin_ctzll(differs) * z->part[n]) >> 16;
}

/* Decode one symbol of a block. Of a weak frame the same match comes again and again between the
 * photons: it copies what one as long as all would. */
static inline __attribute__((always_inline)) SparseState sparse_step(
    SparseInflater *z, SparseWalk *w, int32_t end, int weak)
{
    const SparseMeaning *e = w->e;
    if (__builtin_expect(w->s.at > w->s.limit, 0)) return SPARSE_DAMAGED;
    if (__builtin_expect(e->bits & NO_MATCH, 0)) {
        if (e->all == 0) e = sparse_long_code(&z->length, w->s.bits, z->of_length);
        if (e->bits & IS_END) {
            sparse_drop(&w->s, e->all);
            return SPARSE_END;
        }
        if (e->bits & NO_MATCH) {
            if (w->place >= end) return SPARSE_DAMAGED;
            int value = e->base;
            *w->behind = w->place | value;
            w->behind += value != 0;
            w->place += 1 << 8;
            sparse_drop(&w->s, e->all);
            sparse_refill(&w->s);
            w->e = &z->length.meaning[w->s.bits & w->length_mask];
            return SPARSE_GOES_ON;
        }
    }
    uint64_t bits = w->s.bits;
    size_t at = w->s.at;
    int length = VALUE(e, bits);
    sparse_drop(&w->s, e->all);
    e = &z->distance.meaning[w->s.bits & w->distance_mask];
    if (__builtin_expect(e->bits & NO_MATCH, 0))
        e = sparse_long_code(&z->distance, w->s.bits, z->of_distance);
    int32_t shift = VALUE(e, w->s.bits) << 8;
    sparse_drop(&w->s, e->all);
    if (weak) {
        /* behind the bits that were loaded nothing is the same */
        unsigned used = (unsigned)(w->s.at - at);
        uint64_t differs = (bits ^ w->s.bits) | (uint64_t)1 << (64 - (at & 7) - used);
        unsigned again = sparse_again(z, differs, used);
        length *= 1 + again;
        w->s.at += again * used;
    }
    /* looked up before the copying, so that a wrong guess there does not delay it */
    sparse_refill(&w->s);
    w->e = &z->length.meaning[w->s.bits & w->length_mask];
    int32_t from = w->place - shift;
    w->place += length << 8;
    if (__builtin_expect(from < PLACE(0) || w->place > end, 0)) return SPARSE_DAMAGED;
    w->behind = sparse_match(z, w->behind, from, shift, w->place);
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
    SparseState of_a, of_b = SPARSE_GOES_ON;
    do {
        of_a = sparse_step(z0, &a, end, weak);
        if (of_a != SPARSE_GOES_ON) break;
        of_b = sparse_step(z1, &b, end, weak);
    } while (of_b == SPARSE_GOES_ON);
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
    for (int i = 0; i < LENGTH_SYMBOLS; i++) z->of_length[i] = length_meaning(i);
    for (int i = 0; i < DISTANCE_SYMBOLS; i++) z->of_distance[i] = distance_meaning(i);
    for (int i = 0; i < PRECODE_SYMBOLS; i++) z->of_precode[i] = precode_meaning(i);
    for (int i = 2; i <= LONGEST_MATCH; i++) z->part[i] = (65535 + i) / i;
    for (int i = 0; i < 1 << LENGTH_INDEX; i++) {
        z->reversed[i] = 0;
        for (int bit = 0; bit < LENGTH_INDEX; bit++)
            z->reversed[i] |= (i >> bit & 1) << (LENGTH_INDEX - 1 - bit);
    }
}

/* Begin to inflate packed[0 … size - 1]; 0 if it is no zlib stream as expected. */
static inline int sparse_open(SparseInflater *z, SparseWalk *w, const uint8_t *packed, size_t size,
                              int n_bytes)
{
    if (n_bytes > SPARSE_MOST || size < 8) return 0;
    /* deflate, a window of 32 KiB at most, no preset dictionary, and the check bits */
    if ((packed[0] & 15) != 8 || packed[0] >> 4 > 7 || packed[1] & 32 ||
        (packed[0] << 8 | packed[1]) % 31 != 0)
        return 0;
    w->s = (SparseStream){packed, 16, 8 * (size - 4), 0};
    w->weak = size < SPARSE_WEAK;
    w->is_last = 0;
    w->behind = z->list + SPARSE_BACK;
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
    w->e = &z->length.meaning[w->s.bits & w->length_mask];
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
    int n = (int)(w->behind - z->list) - SPARSE_BACK;
    return sparse_adler_fits(z->list + SPARSE_BACK, n, n_bytes, adler) ? n : -1;
}

/* Inflate a frame of n_bytes from packed[0 … size - 1]; SPARSE_PAD bytes more can be loaded. Returns
 * the number of entries in `z->list + SPARSE_BACK`, -1 if libdeflate should be asked. */
static inline int sparse_inflate(SparseInflater *z, const uint8_t *packed, size_t size, int n_bytes)
{
    SparseWalk w;
    if (!sparse_open(z, &w, packed, size, n_bytes) || !sparse_begin(z, &w)) return -1;
    return sparse_rest(z, &w, SPARSE_GOES_ON, n_bytes);
}

/* The same of two frames at once, which takes a fifth less time or more; `n` gets what it returns of each. */
static __attribute__((noinline)) void sparse_inflate_two(
    SparseInflater *z[2], const uint8_t *packed[2], const size_t size[2], int n_bytes, int n[2])
{
    SparseWalk w[2];
    SparseState state[2];
    for (int i = 0; i < 2; i++) {
        int begun = sparse_open(z[i], &w[i], packed[i], size[i], n_bytes) && sparse_begin(z[i], &w[i]);
        state[i] = begun ? SPARSE_GOES_ON : SPARSE_DAMAGED;
    }
    if (state[0] == SPARSE_GOES_ON && state[1] == SPARSE_GOES_ON) {
        if (w[0].weak && w[1].weak) sparse_two_blocks(z, w, state, PLACE(n_bytes), 1);
        else sparse_two_blocks(z, w, state, PLACE(n_bytes), 0);
    }
    for (int i = 0; i < 2; i++)
        n[i] = state[i] == SPARSE_DAMAGED ? -1 : sparse_rest(z[i], &w[i], state[i], n_bytes);
}

#undef VALUE
#undef PLACE

#endif
