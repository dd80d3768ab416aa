/* merge: an adapter's factors added into a base's weights, or taken out again. */
#ifndef MPILORA_MERGE_H
#define MPILORA_MERGE_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* What a merged base is kept in. */
typedef struct ml_merge_options {
    bool plain; /* matrices become `dtype`; false, and nothing else: they become the base's */
    ml_dtype dtype;
    bool keep; /* each stays in its block format; what did not change keeps its bytes */
    const ml_block_format *quantise; /* as in ml_import_options; NULL: no blocks */
} ml_merge_options;

typedef struct ml_merge_result {
    int64_t matrices; /* of the base that the adapter changed */
    double error;     /* what rounding to blocks lost, as ml_base_writer_error says it */
    bool original;    /* subtract: the source hash is that of the base which was merged */
} ml_merge_result;

/* Writes a base file with W + s·B·A for every adapted matrix W (with `subtract` W − s·B·A), all
 * else copied; s·B·A and the sum in fp32, rounded once to the base's dtype; block of rows by block
 * of rows, so memory stays at the adapter + some 10 MB.
 *
 * The result is another base: its source hash is SHA-256("merge" ‖ base's source hash ‖ adapter's
 * hash). Subtracting the same adapter file from it gives the original's source hash back. s·B·A is
 * computed the same both ways, so what remains are the two roundings of the sums: the weights come
 * back within 2⁻²³·(|W| + |s·B·A|) in fp32, 2⁻⁷·(|W| + |s·B·A|) in bf16, and in bf16 exactly
 * wherever the merged weight has no larger exponent than W.
 *
 * `original` (only with `subtract`; else NULL) is the base that was merged: then the result is
 * that base bit for bit, whatever the method (DoRA, top, bitfit, too). It is merged again block by
 * block; ML_INPUT where that is not what `base` holds, or by its source hash it is another base.
 *
 * ML_INPUT where the adapter belongs to another base: to merge, it must have been trained on this
 * one (by source hash); to subtract, this must be the merge of that one with this very adapter.
 * PEFT directories do not say where they belong: they are only checked by shape. An existing
 * `path` is replaced once the new file is whole.
 *
 * `options`, not with `subtract`, say what the result is kept in; sums that are kept in blocks are
 * rounded to them once. NULL: the base's dtype.
 * Shapes: W[out, in], B[out, r], A[r, in].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT as said; ML_USAGE where `path` is the base itself, where nothing is in blocks
 * that could be kept, or where a changed matrix is in a format that numbers cannot be rounded to
 * here; ML_RESOURCE. */
ml_status ml_merge(ml_base *base, const ml_adapter *adapter, bool subtract, ml_base *original,
                   const ml_merge_options *options, const char *path,
                   ml_merge_result *result) ML_NODISCARD;

ML_END_DECLS

#endif
