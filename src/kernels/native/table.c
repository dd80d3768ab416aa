/* The native table of one instruction set, and whether this processor can run it. */
#include "kernels/native/attention.h"

#define ML_TEXT_(x) #x
#define ML_TEXT(x) ML_TEXT_(x)

static bool available(void)
{
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return true;
#endif
}

static void fill(ml_kernels *table)
{
    ML_NATIVE(native_norms)(table);
    ML_NATIVE(native_activations)(table);
    ML_NATIVE(native_cross_entropy)(table);
    ML_NATIVE(native_vectors)(table);
    table->attention_forward = ML_NATIVE(attention_forward);
    table->attention_backward = ML_NATIVE(attention_backward);
    table->attention_decode = ML_NATIVE(attention_decode);
    ml_kernels_owner_of(table)->small_forward = ML_NATIVE(small_forward);
    ml_kernels_owner_of(table)->product_function = ML_NATIVE(product);
    ml_kernels_owner_of(table)->peak_gflops = ML_NATIVE(peak_gflops);
    ml_kernels_owner_of(table)->read_memory = ML_NATIVE(read_memory);
}

const ml_vector_path ML_NATIVE(vector_path) = {ML_TEXT(ML_NATIVE_NAME), available, fill};
