/* Masks that were folded before, found again by their packed bytes.
 *
 * The mask of a memory cell is often the same to the byte in train after train. The whole packed
 * chunk is compared, so that what is found is what inflating and folding would give. */
#ifndef XFELMPI_MASK_MEMORY_H
#define XFELMPI_MASK_MEMORY_H

#include <stdint.h>
#include <string.h>

/* What is known of a mask of n bytes. Behind it follow `n_bytes` of uint32, (number of a byte that is
 * not 0) << 8 | its value, and the `size` packed bytes. */
typedef struct {
    uint64_t hash;
    uint32_t size, filters, bits;
    uint32_t n, n_bytes, unused; /* the last one makes it a multiple of 8 bytes */
} MaskRecord;

typedef struct {
    uint8_t *arena; /* records one after the other, each at a multiple of 8 */
    size_t room, used;
    uint32_t *place; /* by hash: where the record begins, in units of 8 bytes, plus 1; 0: none */
    uint32_t n_places; /* a power of 2, at most half of them in use */
    uint32_t n; /* records */
    int64_t found, refused; /* since the memory was empty */
} MaskMemory;

static inline uint64_t mask_hash(const uint8_t *packed, size_t size, uint32_t filters, uint32_t bits)
{
    uint64_t h = size ^ (uint64_t)filters << 60 ^ (uint64_t)bits << 28, w;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        memcpy(&w, packed + i, 8);
        h = (h ^ w) * 0x9E3779B97F4A7C15ULL;
        h ^= h >> 29;
    }
    w = 0;
    memcpy(&w, packed + i, size - i);
    h = (h ^ w) * 0xBF58476D1CE4E5B9ULL;
    return h ^ h >> 32;
}

static inline const uint32_t *mask_bytes(const MaskRecord *r) { return (const uint32_t *)(r + 1); }

/* The record of these packed bytes, or where its place would be noted if there is none. */
static inline const MaskRecord *mask_find(
    const MaskMemory *m, const uint8_t *packed, size_t size, uint32_t filters, uint32_t bits,
    size_t n, uint64_t hash, uint32_t *place)
{
    uint32_t i = hash & (m->n_places - 1);
    for (; m->place[i]; i = (i + 1) & (m->n_places - 1)) {
        const MaskRecord *r = (const MaskRecord *)(m->arena + 8 * (size_t)(m->place[i] - 1));
        if (r->hash == hash && r->size == size && r->filters == filters && r->bits == bits &&
            r->n == n && memcmp(mask_bytes(r) + r->n_bytes, packed, size) == 0)
            return r;
    }
    *place = i;
    return 0;
}

/* Fill in the bits of bad pixels, n bytes, if these packed bytes are known; 0 if they are not. */
static inline int mask_recall(
    MaskMemory *m, const uint8_t *packed, size_t size, uint32_t filters, uint32_t bits,
    uint8_t *bad, size_t n)
{
    uint32_t place;
    const MaskRecord *r = mask_find(
        m, packed, size, filters, bits, n, mask_hash(packed, size, filters, bits), &place);
    if (!r) return 0;
    const uint32_t *byte = mask_bytes(r);
    memset(bad, 0, n);
    for (uint32_t i = 0; i < r->n_bytes; i++) bad[byte[i] >> 8] = (uint8_t)byte[i];
    m->found++;
    return 1;
}

/* Remember a mask that is not known, if there is room. If those that fill it are hardly ever found,
 * while as many others twice over were refused, they are forgotten: the next ones may come again. */
static inline void mask_remember(
    MaskMemory *m, const uint8_t *packed, size_t size, uint32_t filters, uint32_t bits,
    const uint8_t *bad, size_t n)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < n; i++) n_bytes += bad[i] != 0;
    size_t length = (sizeof(MaskRecord) + 4 * n_bytes + size + 7) & ~(size_t)7;
    if (length > m->room) return;
    if (m->used + length > m->room || 2 * m->n >= m->n_places) {
        if (++m->refused <= 2 * (int64_t)m->n || 4 * m->found >= m->refused) return;
        memset(m->place, 0, m->n_places * sizeof *m->place);
        m->used = m->n = 0;
        m->found = m->refused = 0;
    }
    uint64_t hash = mask_hash(packed, size, filters, bits);
    uint32_t place;
    if (mask_find(m, packed, size, filters, bits, n, hash, &place)) return;
    MaskRecord *r = (MaskRecord *)(m->arena + m->used);
    *r = (MaskRecord){hash, (uint32_t)size, filters, bits, (uint32_t)n, (uint32_t)n_bytes, 0};
    uint32_t *byte = (uint32_t *)(r + 1);
    for (size_t i = 0; i < n; i++)
        if (bad[i]) *byte++ = (uint32_t)(i << 8 | bad[i]);
    memcpy(byte, packed, size);
    m->place[place] = (uint32_t)(m->used / 8 + 1);
    m->used += length;
    m->n++;
}

#endif
