/* One frame being scanned: where its entries go, and what has been summed. */
#ifndef XFELMPI_SCAN_H
#define XFELMPI_SCAN_H

#include <stdint.h>

typedef struct {
    const uint8_t *good; /* bits of the pixels that count */
    const uint8_t *roi;
    uint64_t *powder;
    uint32_t *invalid;
    uint32_t *out_pixel;
    uint16_t *out_count;
    int64_t n; /* entries; those from `capacity` on are counted, but not written */
    int64_t capacity;
    uint32_t pixel_offset;
    uint64_t photons;
    uint64_t roi_photons;
    uint32_t lit;
    uint32_t roi_lit;
    uint32_t roi_bad;
    uint32_t n_single;
    uint32_t max_count;
} Scan;

/* Note a pixel with photons; count 0 stands for a pixel that is bad in this frame only. The loops
 * that call it have a Scan of their own, which stays in registers if all of this is inlined. */
static inline __attribute__((always_inline)) void scan_add(Scan *s, uint32_t p, uint32_t count)
{
    if (!(s->good[p >> 3] >> (p & 7) & 1)) return;
    if (s->n < s->capacity) {
        s->out_pixel[s->n] = s->pixel_offset + p;
        s->out_count[s->n] = (uint16_t)count;
    }
    s->n++;
    if (count == 0) {
        s->invalid[p]++;
        s->roi_bad += s->roi[p >> 3] >> (p & 7) & 1;
        return;
    }
    s->powder[p] += count;
    s->lit++;
    s->photons += count;
    s->n_single += count == 1;
    if (count > s->max_count) s->max_count = count;
    if (s->roi[p >> 3] >> (p & 7) & 1) {
        s->roi_lit++;
        s->roi_photons += count;
    }
}

#endif
