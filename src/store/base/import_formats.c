/* Which format each matrix gets when a model is quantised: the one that was asked for, with
 * llama.cpp's rules for the head and for rows that do not fit. Its mixtures (Q4_K_M: some matrices
 * in Q6_K) and its rule for Falcon's head are not followed. */
#include <inttypes.h>

#include "mpilora/family.h"
#include "store/base/import_private.h"

static bool fits(const ml_block_format *f, int64_t cols) { return cols % f->weights == 0; }

/* What takes the format's place in rows that it does not fit; NULL: nothing does. */
static const ml_block_format *fallback(const ml_block_format *f, int64_t cols)
{
    ml_dtype other = f->dtype == ML_Q4_K   ? ML_Q5_0
                     : f->dtype == ML_Q5_K ? ML_Q5_1
                     : f->dtype == ML_Q6_K ? ML_Q8_0
                                           : f->dtype;
    if (fits(f, cols)) return f;
    f = ml_block_format_of(other);
    return fits(f, cols) ? f : NULL;
}

/* The matrix that makes logits: the head, or a tied model's embedding. */
static bool is_head(const ml_model_spec *spec, const ml_model_tensor *t)
{
    return t->row->role == (spec->tied_head ? ML_ROLE_EMBED : ML_ROLE_HEAD);
}

static const ml_block_format *wanted_for(const ml_model_spec *spec,
                                         const ml_import_options *options, const ml_model_tensor *t)
{
    const ml_block_format *f = options->quantise;
    if (!is_head(spec, t)) return f;
    if (options->head) return options->head;
    bool large = f->dtype == ML_Q8_0 || f->dtype == ML_MXFP4 || !fits(f, t->cols);
    return ml_block_format_of(large ? ML_Q8_0 : ML_Q6_K);
}

typedef struct fallen {
    int64_t count, cols;
    const ml_block_format *wanted;
} fallen;

/* One line for each pair of formats. */
static void say_fallen(fallen counts[ML_DTYPES][ML_DTYPES], ml_dtype plain)
{
    for (int from = 0; from < ML_DTYPES; from++)
        for (int to = 0; to < ML_DTYPES; to++) {
            const fallen *c = &counts[from][to];
            if (c->count > 0)
                ml_log("%" PRId64 " %s %s in the place of %s, whose blocks of %" PRId64
                       " do not fit their rows (%" PRId64 " weights)",
                       c->count, c->count == 1 ? "matrix becomes" : "matrices become",
                       ml_dtype_name(to == ML_FP32 ? plain : (ml_dtype)to),
                       ml_dtype_name((ml_dtype)from), c->wanted->weights, c->cols);
        }
}

void ml_import_formats(const ml_model_spec *spec, const ml_import_options *options,
                       ml_dtype *formats)
{
    fallen counts[ML_DTYPES][ML_DTYPES] = {{{0}}};
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        if (t.norm_or_bias || t.vector || t.row->role == ML_ROLE_POSITION ||
            t.row->role == ML_ROLE_TOKEN_TYPE || t.row->role == ML_ROLE_RELATIVE)
            continue;
        const ml_block_format *wanted = wanted_for(spec, options, &t);
        if (!ml_dtype_is_block(wanted->dtype)) continue; /* --head-dtype bf16 */
        const ml_block_format *given = fallback(wanted, t.cols);
        ml_dtype format = given ? given->dtype : ML_FP32;
        formats[ml_model_format_place(spec, &t)] = format;
        if (given == wanted) continue;
        fallen *c = &counts[wanted->dtype][format];
        *c = (fallen){c->count + 1, t.cols, wanted};
    }
    say_fallen(counts, options->dtype);
}

void import_say_error(const ml_base_writer *w, const ml_import_options *options)
{
    if (options->quantise)
        ml_log("rounding to blocks changed the weights by %.3g of their size (root mean square)",
               ml_base_writer_error(w));
}
