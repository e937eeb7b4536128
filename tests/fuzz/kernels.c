/* The loops of the kernels over dense frames, each against a plain loop, on all kinds of values.
 *
 *     gcc -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I cython
 *         tests/fuzz/kernels.c -o fuzz
 *     ./fuzz EXECUTIONS SEED
 *
 * Every number follows from the seed. Arrays are blocks of their own, exactly as long as a loop may
 * touch and aligned for one item only, so that the sanitizers see a byte too many. Aborts at the
 * first difference, and names the loop and the execution.
 */
#define _XOPEN_SOURCE 700 /* for pread */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "chunk_bytes.h"
#include "draw.h"
#include "mask_fold.h"
#include "median.h"
#include "raw_scan.h"
#include "sparse_scan.h"

enum { PIXELS = 65536, MOST_BLOCKS = 64 };

static const char *loop;
static long execution;
static void *block[MOST_BLOCKS];
static int n_blocks;

static void expect(int right)
{
    if (right) return;
    fprintf(stderr, "%s: another result in execution %ld\n", loop, execution);
    abort();
}

/* An array that ends where its block ends. */
static void *array(size_t n, size_t itemsize)
{
    size_t shift = any(8) * itemsize;
    char *made = malloc(shift + n * itemsize);
    block[n_blocks++] = made;
    return made + shift;
}

static int any_length(void) { return chance(400) ? PIXELS : 64 * (1 + (int)any(chance(8) ? 64 : 6)); }

/* One of the two floats next to it. */
static float beside(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof f);
    bits += chance(2) ? 1 : -1;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float any_float(float edge)
{
    static const float odd[] = {0, -0.0f, 1, -1, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, FLT_MIN,
                                1e-45f, 65535, 65536, 3e9f};
    uint32_t bits = any(65536) << 16 | any(65536);
    float f;
    switch (any(6)) {
    case 0: return odd[any(sizeof odd / sizeof *odd)];
    case 1: return edge;
    case 2: return beside(edge);
    case 3: return NAN;
    case 4: return edge * (float)any(1000) / 500;
    default: memcpy(&f, &bits, sizeof f); return f;
    }
}

/* Some values are odd ones, the others are all the same: none, few, half, or all are odd. */
static uint32_t how_odd(void)
{
    static const uint32_t one_in[] = {1, 2, 10, 64, 1000, 1u << 31};
    return one_in[any(6)];
}

static float *floats(int n, float edge)
{
    float *v = array(n, sizeof *v), usual = chance(3) ? any_float(edge) : 0;
    uint32_t odd = how_odd();
    for (int i = 0; i < n; i++) v[i] = chance(odd) ? any_float(edge) : usual;
    return v;
}

static float *ordinary_floats(int n, float spread)
{
    float *v = array(n, sizeof *v);
    uint32_t steps = chance(2) ? 1 + any(5) : 1u << 24;
    for (int i = 0; i < n; i++)
        v[i] = spread * (((float)any(steps) - (float)(steps / 2)) / (float)steps);
    return v;
}

static uint16_t *shorts(int n, uint16_t edge)
{
    uint16_t *v = array(n, sizeof *v), usual = chance(3) ? (uint16_t)any(65536) : edge;
    uint32_t odd = how_odd();
    for (int i = 0; i < n; i++)
        v[i] = !chance(odd) ? usual : chance(2) ? (uint16_t)any(65536) : (uint16_t)(edge + any(3) - 1);
    return v;
}

static uint8_t *bytes(size_t n)
{
    uint8_t *v = array(n, 1), usual = chance(3) ? (uint8_t)any(256) : 0;
    uint32_t odd = how_odd();
    for (size_t i = 0; i < n; i++) v[i] = chance(odd) ? (uint8_t)any(256) : usual;
    return v;
}

/* Assert that exactly the pixels of `wanted` were found, in their order. */
static void expect_found(const uint8_t *wanted, int n, const int32_t *found, int m)
{
    int k = 0;
    for (int i = 0; i < n; i++)
        if (wanted[i]) expect(k < m && found[k] == i), k++;
    expect(k == m);
}

static void try_find_lit(void)
{
    int n = any_length(), m;
    int32_t *found = array(n, sizeof *found);
    uint8_t *wanted = array(n, 1);
    int kind = any(3);
    if (kind == 0) {
        loop = "find_lit_u1";
        const uint8_t *v = bytes(n);
        for (int i = 0; i < n; i++) wanted[i] = v[i] > 0;
        m = find_lit_u1(v, n, found);
    } else if (kind == 1) {
        loop = "find_lit_u2";
        const uint16_t *v = shorts(n, 0);
        for (int i = 0; i < n; i++) wanted[i] = v[i] > 0;
        m = find_lit_u2(v, n, found);
    } else {
        loop = "find_lit_f4";
        float cut = chance(4) ? 55.0f * 0.7f : (float)(1 + any(70)) / 100;
        const float *v = floats(n, cut);
        for (int i = 0; i < n; i++) wanted[i] = !isfinite(v[i]) || v[i] >= cut;
        m = find_lit_f4(v, cut, n, found);
    }
    expect_found(wanted, n, found, m);
}

static void try_find_raw(void)
{
    int n = any_length(), m;
    uint16_t edge = (uint16_t)any(65536);
    const uint16_t *digital = shorts(n, edge), *level = shorts(n, edge);
    int32_t *found = array(n + 1, sizeof *found);
    uint16_t *lowest = array(n / 64, sizeof *lowest);
    uint8_t *wanted = array(n, 1);
    for (int i = 0; i < n / 64; i++) {
        lowest[i] = 65535;
        for (int j = 64 * i; j < 64 * i + 64; j++) if (level[j] < lowest[i]) lowest[i] = level[j];
    }
    if (chance(2)) {
        loop = "find_switched";
        for (int i = 0; i < n; i++) wanted[i] = digital[i] >= level[i];
        m = find_switched(digital, level, lowest, n, found);
    } else {
        loop = "find_candidates";
        const uint16_t *analogue = shorts(n, edge), *cut = shorts(n, edge);
        for (int i = 0; i < n; i++) wanted[i] = analogue[i] >= cut[i] || digital[i] >= lowest[i / 64];
        m = find_candidates(analogue, digital, cut, lowest, n, found);
    }
    expect_found(wanted, n, found, m);
}

/* Where a pixel of two ASICs side by side is when these stand one after the other. */
static int place(int i) { return i % 128 / 64 * ASIC_PIXELS + i / 128 * 64 + i % 64; }

static void try_find_bright(void)
{
    loop = "find_bright";
    int n = 2 * ASIC_PIXELS;
    float median[2] = {any_float(6000), any_float(6000)}, cut = (float)(1 + any(100));
    const float *v = floats(n, median[any(2)] + cut);
    const uint8_t *marked = bytes(n / 8);
    uint64_t *also = array(BAND_WORDS, sizeof *also);
    int32_t *found = array(n, sizeof *found);
    uint8_t *wanted = array(n, 1);
    memcpy(also, marked, n / 8);
    for (int i = 0; i < n; i++)
        wanted[i] = v[place(i)] - median[i % 128 >= 64] >= cut || marked[i / 8] >> i % 8 & 1;
    expect_found(wanted, n, found, find_bright(v, median, cut, also, found));
}

static void try_find_bad(void)
{
    loop = "find_bad";
    int n = 2 * ASIC_PIXELS;
    const uint8_t *good = bytes(n / 8);
    int32_t *found = array(n, sizeof *found);
    uint8_t *wanted = array(n, 1);
    for (int i = 0; i < n; i++) wanted[i] = !(good[i / 8] >> i % 8 & 1);
    expect_found(wanted, n, found, find_bad(good, found));
}

static int same(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static void try_high_stage(void)
{
    int n = 2 * ASIC_PIXELS, step = any(2);
    const uint16_t *analogue = shorts(n, 6000), *integers = shorts(n, 32767);
    const float *gain = floats(step ? n : 1, 1), *offset = floats(n, 6000);
    float *signal = array(n, sizeof *signal);
    int is_float = any(2);
    loop = is_float ? "high_stage_f4" : "high_stage_i2";
    if (is_float) high_stage_f4(analogue, offset, gain, step, signal);
    else high_stage_i2(analogue, (const int16_t *)integers, gain, step, signal);
    for (int i = 0; i < n; i++) {
        float o = is_float ? offset[i] : (float)(int16_t)integers[i], a = analogue[i];
        a -= o;
        expect(same(signal[place(i)], a * gain[step ? i : 0]));
    }
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The signals of an ASIC, as of a detector: noise about a drift, photons, gains by pixel or not. */
static float *signals(void)
{
    float *v = array(N_VALUES, sizeof *v), spread = (float)(1 + any(40));
    float middle = (float)any(4000) - 2000;
    int photons = (int)any(chance(4) ? 60 : 5), gains = chance(2);
    for (int i = 0; i < N_VALUES; i++) {
        float noise = 0;
        for (int j = 0; j < 4; j++) noise += (float)any(1000) / 500 - 1;
        v[i] = rintf(middle / 100 + spread * noise + ((int)any(100) < photons ? 60 : 0));
        if (gains) v[i] *= 1 + (float)any(1000) / 10000;
    }
    return v;
}

/* Frames one after the other: what is remembered of one must not change the next one's median. */
static void try_median(void)
{
    loop = "median_of";
    float last = any_float(1000);
    for (int frame = 0; frame < 3; frame++) {
        int n = 1 + (int)any(chance(3) ? N_VALUES : 100), m = 0;
        float *v = chance(2) ? signals()
            : chance(2) ? ordinary_floats(N_VALUES, chance(4) ? FLT_MAX : 1000.0f)
                        : floats(N_VALUES, 1000);
        float *sorted = array(n, sizeof *v);
        if (chance(2)) last = v[any(N_VALUES)];
        /* all but n become NaN, and some are already */
        for (int i = 0, left = n; i < N_VALUES; i++) {
            if (any(N_VALUES - i) >= (uint32_t)left) { v[i] = NAN; continue; }
            left--;
            if (v[i] == v[i]) sorted[m++] = v[i];
        }
        if (!m) continue;
        qsort(sorted, m, sizeof *v, ascending);
        float upper = sorted[m / 2], lower = sorted[(m - 1) / 2];
        float wanted = m % 2 ? upper : 0.5f * (lower + upper), median = median_of(v, m, &last);
        expect(median == wanted || (median != median && wanted != wanted));
    }
}

static void try_fold(void)
{
    int n = any_length(), in_planes = any(2);
    uint32_t bits = chance(3) ? UINT32_MAX : any(65536) << 16 | any(65536);
    /* a chunk of more frames: the planes of one lie further apart */
    size_t stride = n + 64 * (size_t)any(3);
    const uint8_t *plane = bytes(in_planes ? 3 * stride + n : 4 * (size_t)n);
    uint8_t *bad = array(n / 8, 1);
    uint32_t *mask = array(n, sizeof *mask);
    for (int i = 0; i < n; i++) {
        mask[i] = 0;
        for (int k = 0; k < 4; k++)
            mask[i] |= (uint32_t)plane[in_planes ? k * stride + i : 4 * (size_t)i + k] << 8 * k;
    }
    loop = in_planes ? "fold_planes" : "fold_words";
    if (in_planes) fold_planes(plane, stride, bits, n, bad);
    else fold_words(mask, bits, n, bad);
    for (int i = 0; i < n; i++) expect((bad[i / 8] >> i % 8 & 1) == !!(mask[i] & bits));
}

static void try_unshuffle(void)
{
    loop = "unshuffle";
    int itemsize = chance(2) ? 2 : 4;
    size_t n = any(chance(3) ? 5000 : 70);
    const uint8_t *from = bytes(n * itemsize);
    uint8_t *to = array(n * itemsize, 1);
    unshuffle(from, to, n, itemsize);
    for (size_t i = 0; i < n * itemsize; i++) expect(to[i] == from[i % itemsize * n + i / itemsize]);
}

int main(int argc, char **argv)
{
    static void (*const trials[])(void) = {try_find_lit, try_find_lit, try_find_raw, try_find_bright,
                                           try_high_stage, try_median, try_find_bad, try_fold,
                                           try_unshuffle};
    if (argc < 3) return 2;
    long executions = atol(argv[1]);
    seed(argv[2]);
    for (execution = 0; execution < executions; execution++) {
        trials[any(sizeof trials / sizeof *trials)]();
        while (n_blocks) free(block[--n_blocks]);
    }
    printf("%ld executions\n", executions);
    return 0;
}
