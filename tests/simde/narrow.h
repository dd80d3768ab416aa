/* The instructions for pairs of bf16 made of AVX2: what src/kernels/narrow/ uses of AVX-512 BF16
 * and, where MPILORA_SIMULATES_TILES is given, of AMX. cmake/NativeKernels.cmake puts it in front
 * of each of these files (-include), so that the tests run how they cut, pack and multiply on any
 * processor with AVX2. Sums are the instructions' own, to the bit, and what would be a fault ends
 * the process. Their speed, and what the compiler itself makes of the files, the tests do not see.
 *
 * An instruction that is missing here does not compile ("target specific option mismatch"). */
#ifndef MPILORA_TESTS_SIMDE_NARROW_H
#define MPILORA_TESTS_SIMDE_NARROW_H

#include "instructions.h"

#include <float.h>

#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/permutex2var.h>
#include <simde/x86/avx512/shuffle.h>

/* ---- what SIMDe has ------------------------------------------------------------------------ */

#undef _mm512_shuffle_i32x4

#define _mm512_add_epi16 simde_mm512_add_epi16
#define _mm512_loadu_si512 simde_mm512_loadu_si512
#define _mm512_permutex2var_epi16 simde_mm512_permutex2var_epi16
#define _mm512_permutexvar_epi16 simde_mm512_permutexvar_epi16
#define _mm512_set1_epi16 simde_mm512_set1_epi16
#define _mm512_set1_epi32 simde_mm512_set1_epi32
#define _mm512_setzero_ps simde_mm512_setzero_ps
#define _mm512_setzero_si512 simde_mm512_setzero_si512
#define _mm512_shuffle_i32x4 simde_mm512_shuffle_i32x4
#define _mm512_storeu_ps simde_mm512_storeu_ps

/* ---- masked loads: only what the mask names is read ------------------------------------------ */

static inline __m512 simulated_maskz_loadu_ps(uint16_t mask, const void *from)
{
    float x[16] = {0};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) memcpy(&x[i], (const char *)from + 4 * i, sizeof x[i]);
    return simde_mm512_loadu_ps(x);
}

static inline __m512i simulated_maskz_loadu_epi16(uint32_t mask, const void *from)
{
    uint16_t x[32] = {0};
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) memcpy(&x[i], (const char *)from + 2 * i, sizeof x[i]);
    return simde_mm512_loadu_si512(x);
}

#define _mm512_maskz_loadu_ps simulated_maskz_loadu_ps
#define _mm512_maskz_loadu_epi16 simulated_maskz_loadu_epi16

/* ---- bf16: denormal numbers are zeros, before and after, and sums are rounded to even -------- */

static inline float simulated_flushed(float x)
{
    return __builtin_fabsf(x) < FLT_MIN ? __builtin_copysignf(0, x) : x;
}

static inline float simulated_widened(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return simulated_flushed(wide);
}

static inline uint16_t simulated_narrowed(float x)
{
    const float flushed = simulated_flushed(x);
    uint32_t bits;
    memcpy(&bits, &flushed, sizeof bits);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40); /* stays one, and quiet */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float simulated_add_product(float sum, float a, float b)
{
    return simulated_flushed(__builtin_fmaf(a, b, sum));
}

static inline __m512bh simulated_cvtne2ps_pbh(__m512 high, __m512 low)
{
    float x[32];
    uint16_t narrow[32];
    __m512bh all;
    memcpy(x, &low, sizeof low);
    memcpy(x + 16, &high, sizeof high);
    for (int i = 0; i < 32; i++) narrow[i] = simulated_narrowed(x[i]);
    memcpy(&all, narrow, sizeof all);
    return all;
}

/* The even numbers of 16 pairs, and the odd ones. */
static inline void simulated_parted(const void *pairs, float number[2][16])
{
    for (int i = 0; i < 16; i++) {
        uint32_t pair;
        memcpy(&pair, (const char *)pairs + 4 * i, sizeof pair);
        number[0][i] = simulated_widened((uint16_t)pair);
        number[1][i] = simulated_widened((uint16_t)(pair >> 16));
    }
}

/* The odd products are added first. A function of its own, without which gcc takes minutes for a
 * register tile. */
__attribute__((noinline, unused)) static __m512 simulated_dpbf16_ps(__m512 from, __m512bh a,
                                                                    __m512bh b)
{
    float sum[16], x[2][16], y[2][16];
    memcpy(sum, &from, sizeof sum);
    simulated_parted(&a, x);
    simulated_parted(&b, y);
    for (int i = 0; i < 16; i++) {
        const float odd = simulated_add_product(simulated_flushed(sum[i]), x[1][i], y[1][i]);
        sum[i] = simulated_add_product(odd, x[0][i], y[0][i]);
    }
    return simde_mm512_loadu_ps(sum);
}

#define _mm512_cvtne2ps_pbh simulated_cvtne2ps_pbh
#define _mm512_dpbf16_ps simulated_dpbf16_ps

/* ---- tiles ---------------------------------------------------------------------------------- */

#if defined(MPILORA_SIMULATES_TILES)

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* As the instruction that loads it has it. */
typedef struct simulated_config {
    uint8_t palette, start, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} simulated_config;

typedef struct simulated_tiles {
    simulated_config config; /* palette 0: there are none */
    uint8_t tile[8][16][64];
} simulated_tiles;

/* Each file has its own; only one of narrow/ uses them. */
static _Thread_local simulated_tiles simulated_registers;

static inline void simulated_demand(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "an instruction for tiles would be a fault here: expected %s\n", what);
    abort();
}

static inline simulated_tiles *simulated_own_tiles(int tile)
{
    simulated_tiles *own = &simulated_registers;
    simulated_demand(own->config.palette == 1 && own->config.rows[tile] > 0,
                     "a tile that was configured, and not yet released");
    return own;
}

static inline void simulated_loadconfig(const void *from)
{
    simulated_tiles *own = &simulated_registers;
    memset(own, 0, sizeof *own);
    memcpy(&own->config, from, sizeof own->config);
    for (int i = 0; i < 16; i++)
        simulated_demand(own->config.palette == 1 && own->config.rows[i] <= (i < 8 ? 16 : 0) &&
                             own->config.row_bytes[i] <= (i < 8 ? 64 : 0) &&
                             !own->config.rows[i] == !own->config.row_bytes[i],
                         "palette 1, eight tiles of up to 16 rows of up to 64 bytes");
}

static inline void simulated_release(void)
{
    memset(&simulated_registers, 0, sizeof simulated_registers);
}

static inline void simulated_zero(int tile)
{
    memset(simulated_own_tiles(tile)->tile[tile], 0, sizeof simulated_registers.tile[tile]);
}

static inline void simulated_loadd(int tile, const void *from, size_t stride)
{
    simulated_tiles *own = simulated_own_tiles(tile);
    simulated_zero(tile);
    for (size_t i = 0; i < own->config.rows[tile]; i++)
        memcpy(own->tile[tile][i], (const char *)from + i * stride, own->config.row_bytes[tile]);
}

static inline void simulated_stored(int tile, void *to, size_t stride)
{
    const simulated_tiles *own = simulated_own_tiles(tile);
    for (size_t i = 0; i < own->config.rows[tile]; i++)
        memcpy((char *)to + i * stride, own->tile[tile][i], own->config.row_bytes[tile]);
}

/* Of a row of numbers the even and the odd products have a sum each, both from zero; then they are
 * added to one another, and that to what there was. */
__attribute__((noinline, unused)) static void simulated_dpbf16ps(int to, int left, int right)
{
    simulated_tiles *own = simulated_own_tiles(to);
    const simulated_config *size = &own->config;
    simulated_demand(size->rows[left] == size->rows[to] &&
                         size->row_bytes[right] == size->row_bytes[to] &&
                         size->row_bytes[left] == 4 * size->rows[right],
                     "tiles whose sizes fit together");
    float b[16][2][16];
    for (int k = 0; k < size->rows[right]; k++) simulated_parted(own->tile[right][k], b[k]);
    for (int m = 0; m < size->rows[to]; m++) {
        float a[2][16], sum[2][16] = {{0}}, all[16];
        simulated_parted(own->tile[left][m], a);
        for (int k = 0; k < size->rows[right]; k++)
            for (int j = 0; j < 2; j++)
                for (int n = 0; n < 16; n++)
                    sum[j][n] = simulated_add_product(sum[j][n], a[j][k], b[k][j][n]);
        memcpy(all, own->tile[to][m], sizeof all);
        for (int n = 0; n < 16; n++)
            all[n] = simulated_flushed(simulated_flushed(all[n]) +
                                       simulated_flushed(sum[0][n] + sum[1][n]));
        memcpy(own->tile[to][m], all, size->row_bytes[to]);
    }
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps

#define _tile_loadconfig simulated_loadconfig
#define _tile_release simulated_release
#define _tile_zero simulated_zero
#define _tile_loadd simulated_loadd
#define _tile_stream_loadd simulated_loadd
#define _tile_stored simulated_stored
#define _tile_dpbf16ps simulated_dpbf16ps

/* What set.c asks of the processor and of the system: both have tiles. */
static inline int simulated_cpuid_count(unsigned leaf, unsigned part, unsigned *a, unsigned *b,
                                        unsigned *c, unsigned *d)
{
    *a = *b = *c = 0;
    *d = leaf == 7 && part == 0 ? 1U << 22 | 1U << 24 : 0;
    return 1;
}

static inline long simulated_syscall(long number, int what, int state)
{
    (void)number;
    return what == 0x1023 && state == 18 ? 0 : -1;
}

#define __get_cpuid_count simulated_cpuid_count
#define syscall simulated_syscall

#define __AMX_BF16__ 1

#endif

#define __AVX512BF16__ 1

/* ---- and that it is there ------------------------------------------------------------------ */

#undef __builtin_cpu_supports
static inline bool simulated_supports_narrow(const char *name)
{
    return simulated_supports(strcmp(name, "avx512bf16") == 0 ? "avx512f" : name);
}
#define __builtin_cpu_supports simulated_supports_narrow

#endif
