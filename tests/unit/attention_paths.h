/* The paths by which attention is computed, of the tests that hold each to the reference. Products
 * in bf16 take attention with them; the vector path does what stays fp32. */
#ifndef MPILORA_TESTS_ATTENTION_PATHS_H
#define MPILORA_TESTS_ATTENTION_PATHS_H

#include <stdbool.h>
#include <string.h>

typedef struct manner {
    const char *vector_path, *backend;
} manner;

static const manner manners[] = {
#ifndef NARROW_IS_SIMULATED
    {"generic", "ref"},
    {"avx2", "ref"},
    {"avx512", "ref"},
#endif
    {"avx2", "native-bf16"},
    {"avx2", "native-amx"}};

/* Does it multiply numbers narrowed to bf16? */
static inline bool is_narrow(const char *backend)
{
    return backend && (!strcmp(backend, "native-bf16") || !strcmp(backend, "native-amx"));
}

static bool inputs_are_narrow; /* numbers that bf16 holds */

#endif
