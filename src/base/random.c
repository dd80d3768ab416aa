/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC
 * 2011). */
#include <math.h>

#include "mpilora/base.h"

ml_random_key ml_random_key_make(uint64_t seed, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, 64 bit */
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        hash = (hash ^ *c) * 0x100000001b3u;
    uint64_t mixed = hash ^ (seed + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2));
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u; /* splitmix64's finaliser */
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    mixed ^= mixed >> 31;
    return (ml_random_key){{(uint32_t)mixed, (uint32_t)(mixed >> 32)}};
}

void ml_random_block(ml_random_key key, uint64_t stream, uint64_t index, uint32_t out[4])
{
    uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream,
                     (uint32_t)(stream >> 32)};
    uint32_t k0 = key.k[0], k1 = key.k[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k0, (uint32_t)p1,
                            (uint32_t)(p0 >> 32) ^ c[3] ^ k1, (uint32_t)p0};
        memcpy(c, next, sizeof c);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

uint64_t ml_random_u64(ml_random_key key, uint64_t stream, uint64_t index)
{
    uint32_t word[4];
    ml_random_block(key, stream, index, word);
    return (uint64_t)word[1] << 32 | word[0];
}

double ml_random_uniform(ml_random_key key, uint64_t stream, uint64_t index)
{
    return (double)(ml_random_u64(key, stream, index) >> 11) * 0x1p-53;
}

double ml_random_normal(ml_random_key key, uint64_t stream, uint64_t index)
{
    uint32_t word[4];
    ml_random_block(key, stream, index, word);
    double u = ((double)word[0] + 0.5) * 0x1p-32,
           angle = (double)word[1] * 0x1p-32 * 6.283185307179586;
    return sqrt(-2.0 * log(u)) * cos(angle);
}

/* Box–Muller twice: the four words of a block give four numbers. */
static void four_normals(ml_random_key key, uint64_t stream, uint64_t block, double out[4])
{
    uint32_t word[4];
    ml_random_block(key, stream, block, word);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2.0 * log(((double)word[i] + 0.5) * 0x1p-32)),
               angle = (double)word[i + 1] * 0x1p-32 * 6.283185307179586;
        out[i] = radius * cos(angle);
        out[i + 1] = radius * sin(angle);
    }
}

void ml_random_normals(ml_random_key key, uint64_t stream, uint64_t first, int64_t count,
                       double deviation, float *out)
{
    uint64_t end = first + (uint64_t)count;
#pragma omp parallel for schedule(static)
    for (uint64_t block = first / 4; block < (end + 3) / 4; block++) {
        double four[4];
        four_normals(key, stream, block, four);
        for (uint64_t i = 0; i < 4; i++) {
            uint64_t index = 4 * block + i;
            if (index >= first && index < end) out[index - first] = (float)(deviation * four[i]);
        }
    }
}
