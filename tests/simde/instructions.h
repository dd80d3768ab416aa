/* AVX-512 made of AVX2: what src/kernels/native uses of it, by SIMDe's
 * functions, and what SIMDe 0.7 lacks. cmake/NativeKernels.cmake puts it in front of each of these
 * files (-include), so that the tests run what is written for AVX-512 on any processor with AVX2,
 * to the bit. What the compiler itself makes for AVX-512, and its speed, they do not see.
 *
 * An instruction that is missing here does not compile ("target specific option mismatch"). */
#ifndef MPILORA_TESTS_SIMDE_INSTRUCTIONS_H
#define MPILORA_TESTS_SIMDE_INSTRUCTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* All of avx512.h takes longer to read than a file of kernels to compile. insert.h stands on
 * setzero.h without saying so. */
#include <simde/x86/avx512/setzero.h>

#include <simde/x86/avx512/abs.h>
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/blend.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/cmp.h>
#include <simde/x86/avx512/cmpgt.h>
#include <simde/x86/avx512/div.h>
#include <simde/x86/avx512/fmadd.h>
#include <simde/x86/avx512/insert.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/max.h>
#include <simde/x86/avx512/min.h>
#include <simde/x86/avx512/mov.h>
#include <simde/x86/avx512/mov_mask.h>
#include <simde/x86/avx512/mul.h>
#include <simde/x86/avx512/or.h>
#include <simde/x86/avx512/permutexvar.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setr.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/sqrt.h>
#include <simde/x86/avx512/srli.h>
#include <simde/x86/avx512/store.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/sub.h>
#include <simde/x86/avx512/test.h>
#include <simde/x86/avx512/unpackhi.h>
#include <simde/x86/avx512/unpacklo.h>

/* ---- what SIMDe lacks ---------------------------------------------------------------------- */

typedef int8_t simulated_bytes __attribute__((vector_size(16)));
typedef uint16_t simulated_halves __attribute__((vector_size(32)));
typedef int32_t simulated_words __attribute__((vector_size(64)));
typedef float simulated_floats __attribute__((vector_size(64)));
typedef float simulated_half_floats __attribute__((vector_size(32)));
typedef double simulated_doubles __attribute__((vector_size(64)));

static inline __m512i simulated_cvtepi8_epi32(__m128i a)
{
    return (__m512i) __builtin_convertvector((simulated_bytes)a, simulated_words);
}

static inline __m512i simulated_cvtepu16_epi32(__m256i a)
{
    return (__m512i) __builtin_convertvector((simulated_halves)a, simulated_words);
}

static inline __m512 simulated_cvtepi32_ps(__m512i a)
{
    return (__m512) __builtin_convertvector((simulated_words)a, simulated_floats);
}

static inline __m512i simulated_cvttps_epi32(__m512 a)
{
    return (__m512i) __builtin_convertvector((simulated_floats)a, simulated_words);
}

static inline __m128i simulated_cvtepi32_epi8(__m512i a)
{
    return (__m128i) __builtin_convertvector((simulated_words)a, simulated_bytes);
}

static inline __m512d simulated_cvtps_pd(__m256 a)
{
    return (__m512d) __builtin_convertvector((simulated_half_floats)a, simulated_doubles);
}

static inline __m256 simulated_half_of(__m512 a, int which)
{
    __m256 half[2];
    memcpy(half, &a, sizeof half);
    return half[which];
}

static inline __m256i simulated_cvtps_ph(__m512 a)
{
    __m128i half[2] = {_mm256_cvtps_ph(simulated_half_of(a, 0), _MM_FROUND_TO_NEAREST_INT),
                       _mm256_cvtps_ph(simulated_half_of(a, 1), _MM_FROUND_TO_NEAREST_INT)};
    __m256i both;
    memcpy(&both, half, sizeof both);
    return both;
}

static inline __m512 simulated_cvtph_ps(__m256i a)
{
    __m128i half[2];
    memcpy(half, &a, sizeof half);
    __m256 wide[2] = {_mm256_cvtph_ps(half[0]), _mm256_cvtph_ps(half[1])};
    __m512 both;
    memcpy(&both, wide, sizeof both);
    return both;
}

static inline uint32_t simulated_test_epi8_mask(__m256i a, __m256i b)
{
    const __m256i none = _mm256_cmpeq_epi8(_mm256_and_si256(a, b), _mm256_setzero_si256());
    return ~(uint32_t)_mm256_movemask_epi8(none);
}

static inline __m256i simulated_mask_add_epi8(__m256i from, uint32_t mask, __m256i a, __m256i b)
{
    uint8_t old[32], sum[32];
    const __m256i both = _mm256_add_epi8(a, b);
    memcpy(old, &from, sizeof old);
    memcpy(sum, &both, sizeof sum);
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) old[i] = sum[i];
    memcpy(&from, old, sizeof from);
    return from;
}

/* Without optimisation the compiler's headers have macros of those that take a constant. */
#undef _mm512_cmp_ps_mask
#undef _mm512_cvtps_ph
#undef _mm512_extractf32x8_ps
#undef _mm512_inserti32x4
#undef _mm512_setr_ps
#undef _mm512_shuffle_f32x4
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32

#define _mm512_cvtepi8_epi32 simulated_cvtepi8_epi32
#define _mm512_cvtepu16_epi32 simulated_cvtepu16_epi32
#define _mm512_cvtepi32_ps simulated_cvtepi32_ps
#define _mm512_cvttps_epi32 simulated_cvttps_epi32
#define _mm512_cvtepi32_epi8 simulated_cvtepi32_epi8
#define _mm512_cvtps_pd simulated_cvtps_pd
#define _mm512_cvtps_ph(a, rounding) simulated_cvtps_ph(a)
#define _mm512_cvtph_ps simulated_cvtph_ps
#define _mm512_extractf32x8_ps simulated_half_of
#define _mm256_test_epi8_mask simulated_test_epi8_mask
#define _mm256_mask_add_epi8 simulated_mask_add_epi8

/* ---- what SIMDe has ------------------------------------------------------------------------ */

#define _mm512_abs_ps simde_mm512_abs_ps
#define _mm512_add_epi32 simde_mm512_add_epi32
#define _mm512_add_pd simde_mm512_add_pd
#define _mm512_add_ps simde_mm512_add_ps
#define _mm512_and_ps simde_mm512_and_ps
#define _mm512_and_si512 simde_mm512_and_si512
#define _mm512_castps512_ps256 simde_mm512_castps512_ps256
#define _mm512_castps_si512 simde_mm512_castps_si512
#define _mm512_castsi128_si512 simde_mm512_castsi128_si512
#define _mm512_cmp_ps_mask simde_mm512_cmp_ps_mask
#define _mm512_cmpgt_epi32_mask simde_mm512_cmpgt_epi32_mask
#define _mm512_div_ps simde_mm512_div_ps
#define _mm512_fmadd_ps simde_mm512_fmadd_ps
#define _mm512_inserti32x4 simde_mm512_inserti32x4
#define _mm512_loadu_pd simde_mm512_loadu_pd
#define _mm512_loadu_ps simde_mm512_loadu_ps
#define _mm512_loadu_si512 simde_mm512_loadu_si512
#define _mm512_mask_add_epi32 simde_mm512_mask_add_epi32
#define _mm512_mask_blend_ps simde_mm512_mask_blend_ps
#define _mm512_mask_mov_ps simde_mm512_mask_mov_ps
#define _mm512_mask_sub_epi32 simde_mm512_mask_sub_epi32
#define _mm512_max_epi32 simde_mm512_max_epi32
#define _mm512_max_ps simde_mm512_max_ps
#define _mm512_min_epi32 simde_mm512_min_epi32
#define _mm512_min_ps simde_mm512_min_ps
#define _mm512_movepi32_mask simde_mm512_movepi32_mask
#define _mm512_mul_pd simde_mm512_mul_pd
#define _mm512_mul_ps simde_mm512_mul_ps
#define _mm512_or_ps simde_mm512_or_ps
#define _mm512_or_si512 simde_mm512_or_si512
#define _mm512_permutexvar_ps simde_mm512_permutexvar_ps
#define _mm512_set1_epi32 simde_mm512_set1_epi32
#define _mm512_set1_ps simde_mm512_set1_ps
#define _mm512_setr_ps simde_mm512_setr_ps
#define _mm512_setzero_ps simde_mm512_setzero_ps
#define _mm512_setzero_si512 simde_mm512_setzero_si512
#define _mm512_shuffle_f32x4 simde_mm512_shuffle_f32x4
#define _mm512_slli_epi32 simde_mm512_slli_epi32
#define _mm512_sqrt_ps simde_mm512_sqrt_ps
#define _mm512_srli_epi32 simde_mm512_srli_epi32
#define _mm512_store_si512 simde_mm512_store_si512
#define _mm512_storeu_pd simde_mm512_storeu_pd
#define _mm512_storeu_ps simde_mm512_storeu_ps
#define _mm512_storeu_si512 simde_mm512_storeu_si512
#define _mm512_sub_epi32 simde_mm512_sub_epi32
#define _mm512_sub_pd simde_mm512_sub_pd
#define _mm512_sub_ps simde_mm512_sub_ps
#define _mm512_test_epi32_mask simde_mm512_test_epi32_mask
#define _mm512_unpackhi_epi32 simde_mm512_unpackhi_epi32
#define _mm512_unpackhi_epi64 simde_mm512_unpackhi_epi64
#define _mm512_unpackhi_ps simde_mm512_unpackhi_ps
#define _mm512_unpacklo_epi32 simde_mm512_unpacklo_epi32
#define _mm512_unpacklo_epi64 simde_mm512_unpacklo_epi64
#define _mm512_unpacklo_ps simde_mm512_unpacklo_ps

/* ---- and that it is there ------------------------------------------------------------------ */

/* BF16's instructions are not simulated for native/ (for narrow/ they are: narrow.h): their sums
 * are not those of other additions. */
static inline bool simulated_supports(const char *name)
{
    return strcmp(name, "avx512bf16") != 0 && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}
#define __builtin_cpu_supports simulated_supports

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define MPILORA_SIMULATES_VECTORS /* native.h: no assembly */

#endif
