/* The rows of a module's weight, straight from the base file. */
#include "analyze/weights.h"

#include <inttypes.h>
#include <math.h>

static ml_status check_finite(const float *x, int64_t first, int64_t rows, int64_t cols,
                              const char *tensor, const char *path)
{
    for (int64_t i = 0; i < rows * cols; i++)
        if (!isfinite(x[i]))
            return ml_fail(ML_INPUT, "%s: %s[%" PRId64 ", %" PRId64 "] is %g", path, tensor,
                           first + i / cols, i % cols, (double)x[i]);
    return ML_OK;
}

/* Rows of one tensor. */
static ml_status read_tensor(const weight_reader *w, const char *tensor, int64_t first,
                             int64_t count, float *out)
{
    const ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, count}}};
    ml_status st = ml_base_read(w->study->base, tensor, &rows, ML_FP32, out);
    if (st != ML_OK) return st;
    return check_finite(out, first, count, w->module->in, tensor, ml_base_path(w->study->base));
}

ml_status weight_reader_rows(void *context, int64_t first, int64_t count, float *out)
{
    const weight_reader *w = context;
    const ml_model_spec *spec = ml_base_spec(w->study->base);
    char tensor[96];
    if (strcmp(w->module->target, "qkv") != 0) {
        snprintf(tensor, sizeof tensor, "%s.weight", w->module->name);
        return read_tensor(w, tensor, first, count, out);
    }
    static const char *const part[] = {"q", "k", "v"};
    const int64_t kv = spec->kv_heads * spec->head_dim,
                  rows[] = {spec->heads * spec->head_dim, kv, kv};
    for (int64_t i = 0, start = 0; i < 3; start += rows[i++]) {
        int64_t from = ml_max(first, start), end = ml_min(first + count, start + rows[i]);
        if (from >= end) continue;
        snprintf(tensor, sizeof tensor, "layers.%" PRId64 ".attn.%s.weight", w->module->layer,
                 part[i]);
        ml_status st =
            read_tensor(w, tensor, from - start, end - from, out + (from - first) * w->module->in);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}
