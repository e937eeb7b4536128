/* The sparse inflater against libdeflate, on made, mutated and random streams.
 *
 *     gcc -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I cython
 *         tests/fuzz/sparse_inflate.c -ldeflate -o fuzz
 *     ./fuzz EXECUTIONS SEED [CORPUS]
 *
 * CORPUS holds streams of other encoders, each behind its size (4 bytes, native order). Every number
 * follows from the seed. Aborts, with the stream in `difference.zlib`, if
 *
 *   - a list is given out for a stream that libdeflate refuses, or another list than its bytes say,
 *   - a stream with complete dynamic codes, which is all that the pass needs to be fast, is declined,
 *   - two streams inflated at once make anything else than each alone.
 *
 * Almost every mutated stream fails the Adler-32, which would hide what was decoded wrongly, so most
 * of those that still make a frame get the Adler-32 that fits.
 */
#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>

#include "draw.h"
#include "sparse_inflate.h"

enum { PIXELS = 65536, ROOM = 1 << 20, MOST_STREAMS = 4096 };

typedef struct {
    uint8_t *bytes;
    size_t size;
} Stream;

static struct libdeflate_decompressor *reference;
static SparseInflater *sparse, *pair[2];
static uint8_t dense[2 * PIXELS], made[3 * PIXELS], work[ROOM + 64];
static int n_bytes = PIXELS; /* of a frame: u1, or the two planes of u2 */
static Stream corpus[MOST_STREAMS];
static int n_corpus;
static long n_valid, n_accepted;

static void fail(const char *what, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen("difference.zlib", "wb");
    if (file) {
        fwrite(bytes, 1, size, file);
        fclose(file);
    }
    fprintf(stderr, "%s: a stream of %zu bytes, see difference.zlib\n", what, size);
    abort();
}

/* Compare what is made of a stream; SPARSE_PAD bytes stand behind it, which must not matter. */
static void check(const uint8_t *bytes, size_t size, int must_accept)
{
    /* a block of its own, so that a byte too many is seen */
    uint8_t *packed = malloc(size + SPARSE_PAD);
    memcpy(packed, bytes, size + SPARSE_PAD);
    int valid = !libdeflate_zlib_decompress(reference, packed, size, dense, n_bytes, NULL);
    int n = sparse_inflate(sparse, packed, size, n_bytes), found = 0;
    n_valid += valid;
    n_accepted += n >= 0;
    if (n >= 0 && !valid) fail("accepted", bytes, size);
    if (n < 0 && must_accept) fail(valid ? "declined" : "made wrongly", bytes, size);
    for (int p = 0; n >= 0 && p < n_bytes; p++) {
        if (!dense[p]) continue;
        if (found >= n || sparse->list[SPARSE_BACK + found] != (p << 8 | dense[p]))
            fail("another list", bytes, size);
        found++;
    }
    if (n >= 0 && found != n) fail("too long a list", bytes, size);
    free(packed);
}

/* Compare what two streams inflated at once make with what each makes alone. */
static void check_two(const uint8_t *bytes, size_t size)
{
    static uint8_t before[ROOM];
    static size_t size_before;
    static int n_bytes_before;
    if (n_bytes_before == n_bytes) {
        const uint8_t *packed[2] = {NULL, NULL};
        size_t sizes[2] = {size_before, size};
        int n[2], order = any(2);
        for (int i = 0; i < 2; i++) {
            uint8_t *copy = malloc(sizes[i] + SPARSE_PAD);
            memcpy(copy, i ? bytes : before, sizes[i] + (i ? SPARSE_PAD : 0));
            if (!i) memset(copy + size_before, 0xa5, SPARSE_PAD);
            packed[i] = copy;
        }
        const uint8_t *turned[2] = {packed[order], packed[!order]};
        const size_t turned_sizes[2] = {sizes[order], sizes[!order]};
        sparse_inflate_two(pair, turned, turned_sizes, n_bytes, n);
        for (int i = 0; i < 2; i++) {
            int alone = sparse_inflate(sparse, turned[i], turned_sizes[i], n_bytes);
            if (alone != n[i]) fail("another number with a second stream", bytes, size);
            if (alone > 0 && memcmp(sparse->list, pair[i]->list, (SPARSE_BACK + alone) * sizeof(int32_t)))
                fail("another list with a second stream", bytes, size);
        }
        free((void *)packed[0]), free((void *)packed[1]);
    }
    memcpy(before, bytes, size);
    size_before = size, n_bytes_before = n_bytes;
}

/* ---- streams with any complete codes, and matches of any length and distance ---- */

static const int length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                    31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const int length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                     2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const int distance_base[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                      33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                      1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const int distance_extra[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                       6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

typedef struct {
    int symbol, extra, n_extra;             /* literal, end, or length */
    int distance_symbol, distance, n_distance; /* -1: none */
} Token;

typedef struct {
    int bits[288], code[288];
} Code;

/* what is wrong with a made stream; libdeflate says whether that is allowed */
enum { NOTHING, MISSING_CODE, SHORT_CODE, WRONG_PRECODE, LONG_REPEAT, REPEAT_FIRST, UNKNOWN_SYMBOLS,
       TOO_MANY_BYTES, WRONG_HEADER, N_FAULTS };

static Token token[3 * PIXELS];
static size_t n_bits;
static int fault;

static void put(unsigned value, int n)
{
    for (int i = 0; i < n; i++, n_bits++) {
        if (n_bits % 8 == 0) work[n_bits / 8] = 0;
        work[n_bits / 8] |= (value >> i & 1) << n_bits % 8;
    }
}

static void put_code(const Code *c, int symbol)
{
    for (int i = c->bits[symbol] - 1; i >= 0; i--) put(c->code[symbol] >> i, 1);
}

/* Make up a complete code of those symbols that have bits, two at least. */
static void make_code(Code *c, int n, int longest)
{
    int leaf[288], used = 0, code = 0, skew = any(4), odd = any(n);
    if (fault == (longest == 7 ? WRONG_PRECODE : MISSING_CODE)) c->bits[odd] = 1;
    for (int s = 0; s < n; s++) used += c->bits[s] > 0;
    for (; used < 2; used++) {
        int s = any(n);
        while (c->bits[s]) s = (s + 1) % n;
        c->bits[s] = 1;
    }
    leaf[0] = 0;
    for (int leaves = 1; leaves < used; leaves++) {
        /* long codes come from splitting the same leaf again and again */
        int i = chance(1 + skew) ? (int)any(leaves) : leaves - 1;
        while (leaf[i] >= longest) i = (i + 1) % leaves;
        leaf[leaves] = ++leaf[i];
    }
    for (int s = 0; s < n; s++) {
        if (!c->bits[s]) continue;
        int i = any(used);
        c->bits[s] = leaf[i];
        leaf[i] = leaf[--used];
    }
    for (int bits = 1; bits <= longest; bits++, code <<= 1)
        for (int s = 0; s < n; s++)
            if (c->bits[s] == bits) c->code[s] = code++;
    if (fault == (longest == 7 ? WRONG_PRECODE : MISSING_CODE)) c->bits[odd] = 0;
    if (fault == SHORT_CODE && c->bits[odd] > 1) c->bits[odd]--;
}

static void put_codes(const Code *lengths, const Code *distances)
{
    static const int order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    int all[320], symbol[320], extra[320], n = 0, m = 0, n_lengths = 288, n_distances = 32, sent = 19;
    Code precode = {{0}, {0}};
    while (n_lengths > 257 && !lengths->bits[n_lengths - 1]) n_lengths--;
    while (n_distances > 1 && !distances->bits[n_distances - 1]) n_distances--;
    for (int i = 0; i < n_lengths; i++) all[n++] = lengths->bits[i];
    for (int i = 0; i < n_distances; i++) all[n++] = distances->bits[i];
    for (int i = 0, run; i < n; i += run, m++) {
        run = 1;
        while (i + run < n && all[i + run] == all[i] && run < 138) run++;
        if (run >= 3 && fault == REPEAT_FIRST && i == 0) {
            run = run < 6 ? run : 6;
            symbol[m] = 16, extra[m] = run - 3;
        } else if (run >= 3 && i && all[i] == all[i - 1] && !chance(4)) {
            run = run < 6 ? run : 6;
            symbol[m] = 16, extra[m] = fault == LONG_REPEAT && i + run == n ? 3 : run - 3;
        } else if (run >= 3 && !all[i] && !chance(4)) {
            symbol[m] = run < 11 ? 17 : 18, extra[m] = run - (run < 11 ? 3 : 11);
        } else {
            symbol[m] = all[i], run = 1;
        }
        precode.bits[symbol[m]] = 1;
    }
    make_code(&precode, 19, 7);
    while (sent > 4 && !precode.bits[order[sent - 1]]) sent--;
    put(n_lengths - 257, 5), put(n_distances - 1, 5), put(sent - 4, 4);
    for (int i = 0; i < sent; i++) put(precode.bits[order[i]], 3);
    for (int i = 0; i < m; i++) {
        put_code(&precode, symbol[i]);
        if (symbol[i] > 15) put(extra[i], symbol[i] == 16 ? 2 : symbol[i] == 17 ? 3 : 7);
    }
}

static void put_block(const Token *t, int n, int is_last)
{
    Code lengths = {{0}, {0}}, distances = {{0}, {0}};
    lengths.bits[256] = 1;
    for (int i = 0; i < n; i++) {
        lengths.bits[t[i].symbol] = 1;
        if (t[i].distance_symbol >= 0) distances.bits[t[i].distance_symbol] = 1;
    }
    while (chance(2)) lengths.bits[any(286)] = distances.bits[any(30)] = 1;
    if (fault == UNKNOWN_SYMBOLS) lengths.bits[286 + any(2)] = distances.bits[30 + any(2)] = 1;
    make_code(&lengths, fault == UNKNOWN_SYMBOLS ? 288 : 286, 15);
    make_code(&distances, fault == UNKNOWN_SYMBOLS ? 32 : 30, 15);
    put(is_last | 2 << 1, 3);
    put_codes(&lengths, &distances);
    for (int i = 0; i < n; i++) {
        put_code(&lengths, t[i].symbol);
        put(t[i].extra, t[i].n_extra);
        if (t[i].distance_symbol < 0) continue;
        put_code(&distances, t[i].distance_symbol);
        put(t[i].distance, t[i].n_distance);
    }
    put_code(&lengths, 256);
}

static int any_distance(int at)
{
    int most = at < 32768 ? at : 32768, shape = any(4);
    if (shape == 0) return 1;
    if (shape == 1 && most > 300) return 1 + any(300);
    if (shape == 2 && most > 8) return 1 + any(8);
    return 1 + any(most);
}

static void put_adler(uint8_t *to, const uint8_t *bytes)
{
    uint32_t adler = libdeflate_adler32(1, bytes, n_bytes);
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(adler >> (24 - 8 * i));
}

/* Make a stream in `work`; returns its size. */
static size_t make_stream(void)
{
    int n = 0, lit = 1 + any(3), literals = chance(50) ? 1 : 2 << any(9), longest = 3 + any(256);
    int ended = 0, end = n_bytes + (fault == TOO_MANY_BYTES ? 1 + (int)any(9999) : 0);
    for (int at = 0, length; at < end; at += length, n++) {
        Token *t = &token[n];
        length = chance(4) ? longest : 3 + (int)any(longest - 2);
        if (chance(3)) length = 258;
        if (at == 0 || chance(literals) || length > end - at) {
            *t = (Token){literals > 1 && chance(1 + lit) ? 0 : (int)any(256), 0, 0, -1, 0, 0};
            made[at] = (uint8_t)t->symbol;
            length = 1;
            continue;
        }
        int distance = any_distance(at), s = 28, d = 29;
        while (length_base[s] > length || (s == 28 && chance(3))) s--;
        while (distance_base[d] > distance) d--;
        *t = (Token){257 + s, length - length_base[s], length_extra[s],
                     d, distance - distance_base[d], distance_extra[d]};
        for (int i = at; i < at + length; i++) made[i] = made[i - distance];
    }
    work[0] = 0x78, work[1] = 0x01;
    if (fault == WRONG_HEADER) {
        work[0] = (uint8_t)(any(16) << 4 | (chance(4) ? any(16) : 8)), work[1] = (uint8_t)(any(8) << 5);
        work[1] += 31 - (work[0] << 8 | work[1]) % 31;
    }
    n_bits = 16;
    while (ended < n) {
        int m = chance(2) ? n - ended : (int)any(n - ended + 1);
        put_block(token + ended, m, ended + m == n);
        ended += m;
    }
    put_adler(work + (n_bits + 7) / 8, made);
    return (n_bits + 7) / 8 + 4;
}

/* Give the stream in `work` the Adler-32 that fits, if it makes a frame; returns its size. */
static size_t repair(size_t size)
{
    size_t used, got;
    if (size < 6 ||
        libdeflate_deflate_decompress_ex(reference, work + 2, size - 2, dense, n_bytes, &used, &got) ||
        got != (size_t)n_bytes)
        return size;
    put_adler(work + 2 + used, dense);
    return used + 6 > size ? used + 6 : size;
}

static size_t mutate(size_t size)
{
    for (int times = 1 + any(3); times; times--) {
        size_t at = any((uint32_t)size), n = 1 + any(4);
        switch (any(8)) {
        case 0: work[at] = (uint8_t)any(256); break;
        case 1: if (size > 8) size -= any((uint32_t)(size < 40 ? size - 1 : 40)); break;
        case 2: /* bytes behind the end */
            for (; n; n--) work[size++] = (uint8_t)any(256);
            break;
        case 3: /* bytes left out */
            if (size > at + n) {
                size -= n;
                memmove(work + at, work + at + n, size - at);
            }
            break;
        case 4: /* the front of one stream and the end of another */
            if (n_corpus) {
                const Stream *other = &corpus[any(n_corpus)];
                size_t from = any((uint32_t)other->size);
                memcpy(work + at, other->bytes + from, other->size - from);
                size = at + other->size - from;
            }
            break;
        default: work[chance(2) ? at : any(size < 90 ? (uint32_t)size : 90)] ^= 1 << any(8);
        }
    }
    return chance(4) ? size : repair(size);
}

static void read_corpus(const char *path)
{
    uint32_t size;
    FILE *file = fopen(path, "rb");
    if (!file) exit(2);
    while (n_corpus < MOST_STREAMS && fread(&size, sizeof size, 1, file) == 1) {
        Stream *s = &corpus[n_corpus++];
        s->bytes = calloc(size + SPARSE_PAD, 1);
        s->size = size;
        if (size > ROOM / 8 || fread(s->bytes, 1, size, file) != size) exit(2);
        check(s->bytes, size, 0);
    }
    fclose(file);
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    long executions = atol(argv[1]);
    seed(argv[2]);
    reference = libdeflate_alloc_decompressor();
    sparse = calloc(1, sizeof *sparse);
    sparse_init(sparse);
    for (int i = 0; i < 2; i++) {
        pair[i] = calloc(1, sizeof *pair[i]);
        sparse_init(pair[i]);
    }
    if (argc > 3) read_corpus(argv[3]);
    size_t size = 0;
    for (long i = 0; i < executions; i++) {
        int kind = any(8);
        if (kind == 0 || size == 0) {
            n_bytes = chance(4) ? 2 * PIXELS : PIXELS;
            fault = chance(2) ? NOTHING : (int)any(N_FAULTS);
            size = make_stream();
            check(work, size, fault == NOTHING);
        } else if (kind < 5 && n_corpus) {
            const Stream *s = &corpus[any(n_corpus)];
            n_bytes = PIXELS;
            memcpy(work, s->bytes, s->size);
            size = mutate(s->size);
            check(work, size, 0);
        } else if (kind == 5) {
            size = 8 + any(400);
            for (size_t k = 0; k < size; k++) work[k] = (uint8_t)any(256);
            if (!chance(4)) work[0] = 0x78, work[1] = 0x01, work[2] = (work[2] & ~7) | 5;
            check(work, size, 0);
        } else {
            /* again and again, until another one is made */
            if (size > 8) size = mutate(size);
            if (size > ROOM / 2) size = ROOM / 2;
            check(work, size, 0);
        }
        if (chance(2)) check_two(work, size);
    }
    printf("%ld executions, %ld valid, %ld accepted\n", executions, n_valid, n_accepted);
    for (int i = 0; i < n_corpus; i++) free(corpus[i].bytes);
    free(sparse), free(pair[0]), free(pair[1]);
    libdeflate_free_decompressor(reference);
    return 0;
}
