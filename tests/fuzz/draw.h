/* Random numbers of the fuzz programs: all of them follow from the seed. */
#include <stdint.h>
#include <stdlib.h>

static uint64_t state;

static void seed(const char *text) { state = strtoull(text, NULL, 10) * 0x9E3779B97F4A7C15u + 1; }

static uint32_t any(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) * below >> 32);
}

static int chance(uint32_t one_in) { return any(one_in) == 0; }
