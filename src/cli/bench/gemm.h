/* The options of `mpilora bench gemm`, and its measurement of several types. */
#ifndef MPILORA_CLI_BENCH_GEMM_H
#define MPILORA_CLI_BENCH_GEMM_H

#include "cli/bench/bench.h"

enum { GEMM_TYPES_MOST = 16 };

typedef struct gemm_options {
    bool json;
    int64_t tokens, rows, cols;
    const char *dtype_names; /* as given */
    ml_dtype dtypes[GEMM_TYPES_MOST];
    int64_t ndtypes;
} gemm_options;

/* The types in turn, each by the path that a run would take. */
ml_status gemm_compare_types(const gemm_options *o) ML_NODISCARD;

#endif
