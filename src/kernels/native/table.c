/* The native table of one instruction set, and whether this processor can run it. */
#include "kernels/native/attention.h"

#if defined(__AVX2__)
#include <cpuid.h>

/* clang's __builtin_cpu_supports does not know F16C before version 16. That the system keeps the
 * wide registers is what the question for AVX2 has answered. */
static bool has_f16c(void)
{
    static _Atomic int known; /* ±1; the question takes long on a virtual machine */
    unsigned a, b, c, d;
    if (known == 0) known = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) ? 1 : -1;
    return known > 0;
}
#endif

#define ML_TEXT_(x) #x
#define ML_TEXT(x) ML_TEXT_(x)

static bool available(void)
{
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && has_f16c();
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#else
    return true;
#endif
}

static void fill(ml_kernels *table)
{
    ML_NATIVE(native_norms)(table);
    ML_NATIVE(native_query_key_norms)(table);
    ML_NATIVE(native_exponentials)(table);
    ML_NATIVE(native_vectors)(table);
    table->attention_forward = ML_NATIVE(attention_forward);
    table->attention_backward = ML_NATIVE(attention_backward);
    table->attention_decode = ML_NATIVE(attention_decode);
    ml_kernels_owner_of(table)->attention_dots = ML_NATIVE(attention_dots);
    ml_kernels_owner_of(table)->small_forward = ML_NATIVE(small_forward);
    ml_kernels_owner_of(table)->product_function = ML_NATIVE(product);
    ml_kernels_owner_of(table)->decode_narrow = ML_NATIVE(decode_narrow);
#if defined(__AVX512F__)
    if (__builtin_cpu_supports("avx512bf16"))
        ml_kernels_owner_of(table)->decode_narrow = ML_NATIVE(decode_narrow_at_once);
#endif
    ml_kernels_owner_of(table)->peak_gflops = ML_NATIVE(peak_gflops);
    ml_kernels_owner_of(table)->read_memory = ML_NATIVE(read_memory);
}

const ml_vector_path ML_NATIVE(vector_path) = {ML_TEXT(ML_NATIVE_NAME), available, fill};
