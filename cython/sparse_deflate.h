/* One sparse frame made into a zlib stream straight from the list of its non-zero bytes.
 *
 * A frame is runs of zeros with a photon now and then, and a compressor that reads the frame spends
 * its time on the zeros. Here a run is a zero and matches with distance 1, without looking; the one
 * block of the stream has the best code for what it holds. Work per photon, not per pixel.
 *
 * Formats: RFC 1950 (zlib), RFC 1951 (deflate).
 */
#ifndef XFELMPI_SPARSE_DEFLATE_H
#define XFELMPI_SPARSE_DEFLATE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFLATE_LITERALS = 286,  /* symbols: bytes, the end, lengths */
    DEFLATE_END = 256,
    DEFLATE_LONGEST = 258,   /* bytes of a match */
    DEFLATE_MOST_BITS = 15,
    /* what is counted and written: bytes, the end, then matches of 3 … 258 bytes */
    DEFLATE_TOKENS = 257 + DEFLATE_LONGEST - 2,
    DEFLATE_TOKEN_BITS = 24, /* at most: code 15, extra bits 5, distance 1 */
    /* header, code lengths, Adler-32, and what the last word writes beyond the end */
    DEFLATE_FRAME = 320,
};

typedef struct {
    uint32_t bits[DEFLATE_TOKENS];   /* what is written for a token, the first bit lowest */
    uint8_t n_bits[DEFLATE_TOKENS];
    uint8_t lengths[DEFLATE_LITERALS];
} DeflateCode;

typedef struct {
    uint64_t bits;
    unsigned n; /* less than 32 between calls */
    uint8_t *next;
} DeflateWriter;

static inline void deflate_put(DeflateWriter *w, uint32_t bits, unsigned n)
{
    w->bits |= (uint64_t)bits << w->n;
    w->n += n;
    if (w->n >= 32) {
        for (int i = 0; i < 4; i++) w->next[i] = (uint8_t)(w->bits >> 8 * i);
        w->next += 4;
        w->bits >>= 32;
        w->n -= 32;
    }
}

/* Tokens at most of a frame with this many entries. */
static inline size_t deflate_token_room(size_t entries, size_t n_bytes)
{
    /* an entry's byte, and beside the long matches of a run: its first zero, up to two last ones, or
     * a match */
    size_t room = 4 * entries + n_bytes / DEFLATE_LONGEST + 8;
    return room < n_bytes + 1 ? room : n_bytes + 1;
}

/* Note a run of zeros; returns the new number of tokens. */
static inline size_t deflate_zeros(uint16_t *token, size_t n, size_t zeros)
{
    if (zeros == 0) return n;
    token[n++] = 0;
    zeros--;
    for (; zeros >= DEFLATE_LONGEST; zeros -= DEFLATE_LONGEST) token[n++] = DEFLATE_TOKENS - 1;
    if (zeros >= 3)
        token[n++] = (uint16_t)(DEFLATE_END + zeros - 2);
    else
        for (; zeros; zeros--) token[n++] = 0;
    return n;
}

/* The tokens of a frame: `planes` times `n_pixels` bytes, of which plane i holds the i-th bytes of the
 * counts at ascending pixels, as the shuffle filter orders them. Also the frame's Adler-32. */
static inline size_t deflate_tokens(uint16_t *token, const uint32_t *pixel, const uint16_t *count,
                                    size_t entries, unsigned planes, size_t n_pixels,
                                    uint32_t *adler)
{
    const uint64_t n_bytes = planes * n_pixels;
    uint64_t s1 = 1, s2 = n_bytes;
    size_t n = 0, at = 0;
    for (unsigned plane = 0; plane < planes; plane++) {
        for (size_t i = 0; i < entries; i++) {
            unsigned value = count[i] >> 8 * plane & 255;
            if (value == 0) continue;
            size_t position = plane * n_pixels + pixel[i];
            n = deflate_zeros(token, n, position - at);
            token[n++] = (uint16_t)value;
            at = position + 1;
            s1 += value;
            s2 += value * (n_bytes - position);
        }
    }
    n = deflate_zeros(token, n, n_bytes - at);
    token[n++] = DEFLATE_END;
    *adler = (uint32_t)(s2 % 65521) << 16 | (uint32_t)(s1 % 65521);
    return n;
}

/* Symbol, base and extra bits of a match's length (RFC 1951, 3.2.5). */
static inline unsigned deflate_length_symbol(unsigned length, unsigned *extra, unsigned *base)
{
    unsigned over = length - 3, top = 0;
    *extra = 0;
    *base = length;
    if (length == DEFLATE_LONGEST) return 285;
    if (over < 8) return 257 + over;
    while (over >> (top + 1)) top++;
    *extra = top - 2;
    *base = 3 + (over >> *extra << *extra);
    return 257 + 4 * (*extra) + (over >> *extra);
}

static int deflate_ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Code lengths, 0 for symbols that do not occur, of a complete prefix code that is the best one
 * (Huffman 1952) but for codes cut to 15 bits. At least two symbols must occur. */
static inline void deflate_code_lengths(const uint32_t *times, uint8_t *lengths)
{
    enum { N = DEFLATE_LITERALS };
    uint64_t leaf[N], weight[2 * N];
    uint16_t parent[2 * N], depth[2 * N];
    uint32_t number[DEFLATE_MOST_BITS + 1] = {0};
    int n = 0;
    for (int s = 0; s < N; s++)
        if (times[s]) leaf[n++] = (uint64_t)times[s] << 16 | s;
    qsort(leaf, n, sizeof *leaf, deflate_ascending);
    for (int i = 0; i < n; i++) weight[i] = leaf[i] >> 16;
    /* leaves, then the nodes made of two, both ascending: the two lightest come first */
    int next_leaf = 0, next_node = n, end = n;
    for (; end < 2 * n - 1; end++) {
        weight[end] = 0;
        for (int child = 0; child < 2; child++) {
            int lightest = next_node == end ||
                           (next_leaf < n && weight[next_leaf] <= weight[next_node])
                               ? next_leaf++ : next_node++;
            weight[end] += weight[lightest];
            parent[lightest] = (uint16_t)end;
        }
    }
    depth[end - 1] = 0;
    for (int i = end - 2; i >= 0; i--) {
        depth[i] = depth[parent[i]] + 1;
        if (i < n) number[depth[i] < DEFLATE_MOST_BITS ? depth[i] : DEFLATE_MOST_BITS]++;
    }
    /* Kraft's sum in units of the longest code: what is too much is taken back one by one, by a
     * longest code that becomes the sibling of a shorter one */
    int64_t excess = -(1 << DEFLATE_MOST_BITS);
    for (int b = 1; b <= DEFLATE_MOST_BITS; b++)
        excess += (int64_t)number[b] << (DEFLATE_MOST_BITS - b);
    for (; excess > 0; excess--) {
        int b = DEFLATE_MOST_BITS - 1;
        while (number[b] == 0) b--;
        number[b]--;
        number[b + 1] += 2;
        number[DEFLATE_MOST_BITS]--;
    }
    memset(lengths, 0, N);
    int i = 0;
    for (int b = DEFLATE_MOST_BITS; b > 0; b--)
        for (uint32_t k = 0; k < number[b]; k++) lengths[leaf[i++] & 0xffff] = (uint8_t)b;
}

/* Codes from their lengths (RFC 1951, 3.2.2), first bit lowest. */
static inline void deflate_codes(const uint8_t *lengths, int n, int most, uint16_t *codes)
{
    uint32_t code = 0;
    for (int b = 1; b <= most; b++, code <<= 1)
        for (int s = 0; s < n; s++)
            if (lengths[s] == b) {
                uint32_t reversed = 0;
                for (int i = 0; i < b; i++) reversed |= (code >> i & 1) << (b - 1 - i);
                codes[s] = (uint16_t)reversed;
                code++;
            }
}

/* What is to be written for each token, by how often it occurs; returns the bits of all n of them. */
static inline uint64_t deflate_make_code(DeflateCode *c, const uint16_t *token, size_t n)
{
    uint32_t of_token[DEFLATE_TOKENS] = {0}, times[DEFLATE_LITERALS] = {0};
    uint16_t codes[DEFLATE_LITERALS] = {0};
    uint64_t sum = 0;
    unsigned extra, base;
    for (size_t i = 0; i < n; i++) of_token[token[i]]++;
    for (unsigned t = 0; t < DEFLATE_TOKENS; t++)
        times[t <= DEFLATE_END ? t : deflate_length_symbol(t - 254, &extra, &base)] += of_token[t];
    deflate_code_lengths(times, c->lengths);
    deflate_codes(c->lengths, DEFLATE_LITERALS, DEFLATE_MOST_BITS, codes);
    for (unsigned t = 0; t < DEFLATE_TOKENS; t++) {
        if (t <= DEFLATE_END) {
            c->bits[t] = codes[t];
            c->n_bits[t] = c->lengths[t];
        } else {
            unsigned length = t - 254, symbol = deflate_length_symbol(length, &extra, &base);
            /* behind the code come the extra bits, and the one bit 0 that stands for distance 1 */
            c->bits[t] = codes[symbol] | (length - base) << c->lengths[symbol];
            c->n_bits[t] = (uint8_t)(c->lengths[symbol] + extra + 1);
        }
        sum += (uint64_t)of_token[t] * c->n_bits[t];
    }
    return sum;
}

/* The beginning of the only block (RFC 1951, 3.2.7). The code for code lengths is always the same
 * one, 4 bits for 0 … 12 and 5 for the others: a better one would save some bytes of thousands. */
static inline void deflate_begin(DeflateWriter *w, const DeflateCode *c)
{
    static const uint8_t order[19] = {
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    enum { N = DEFLATE_LITERALS + 2 };
    uint8_t precode[19], lengths[N];
    uint16_t codes[19];
    for (int s = 0; s < 19; s++) precode[s] = s < 13 ? 4 : 5;
    deflate_codes(precode, 19, 5, codes);
    deflate_put(w, 1 | 2 << 1, 3);
    deflate_put(w, DEFLATE_LITERALS - 257, 5);
    deflate_put(w, 2 - 1, 5); /* distances 1 and 2: a code with one symbol is not complete */
    deflate_put(w, 19 - 4, 4);
    for (int i = 0; i < 19; i++) deflate_put(w, precode[order[i]], 3);
    memcpy(lengths, c->lengths, DEFLATE_LITERALS);
    lengths[N - 2] = lengths[N - 1] = 1;
    for (int i = 0; i < N;) {
        int zeros = 0;
        while (i + zeros < N && lengths[i + zeros] == 0 && zeros < 138) zeros++;
        int symbol = zeros >= 11 ? 18 : zeros >= 3 ? 17 : lengths[i];
        deflate_put(w, codes[symbol], precode[symbol]);
        if (symbol == 18) deflate_put(w, zeros - 11, 7);
        if (symbol == 17) deflate_put(w, zeros - 3, 3);
        i += symbol >= 17 ? zeros : 1;
    }
}

/* Write the stream of n tokens, which have a code; returns its size. */
static inline size_t deflate_write(const DeflateCode *c, const uint16_t *token, size_t n,
                                   uint32_t adler, uint8_t *out)
{
    /* a window of 32 KiB, fastest compression */
    out[0] = 0x78;
    out[1] = 0x01;
    DeflateWriter w = {0, 0, out + 2};
    deflate_begin(&w, c);
    for (size_t i = 0; i < n; i++) deflate_put(&w, c->bits[token[i]], c->n_bits[token[i]]);
    deflate_put(&w, 0, (8 - w.n % 8) % 8);
    for (; w.n; w.n -= 8, w.bits >>= 8) *w.next++ = (uint8_t)w.bits;
    for (int i = 3; i >= 0; i--) *w.next++ = (uint8_t)(adler >> 8 * i);
    return w.next - out;
}

#endif
