/* merge: an adapter's factors added into a base's weights, or the base of such a sum again. */
#ifndef MPILORA_MERGE_H
#define MPILORA_MERGE_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* What a merged base is kept in: at most one of them; none: bf16. A matrix that did not change and
 * is in the format already keeps its bytes. */
typedef struct ml_merge_options {
    bool plain; /* matrices become `dtype` */
    ml_dtype dtype;
    bool keep;                       /* each stays in its format, and others in the base's dtype */
    const ml_block_format *quantise; /* as in ml_import_options; others become bf16 */
} ml_merge_options;

typedef struct ml_merge_result {
    int64_t matrices; /* of the base that the adapter changed */
    double error;     /* what rounding to blocks lost, as ml_base_writer_error says it */
} ml_merge_result;

/* Writes a base file with W + s·B·A for every adapted matrix W, all else copied; s·B·A and the sum
 * in fp32, rounded once to what the result is kept in; block of rows by block of rows, so memory
 * stays at the adapter + some 10 MB. The result is another base: its source hash is
 * SHA-256("merge" ‖ base's source hash ‖ adapter's hash).
 *
 * With `original` (else NULL), the base that was merged, the way back: the result is that base bit
 * for bit, whatever the method (DoRA, top, bitfit, too). It is merged again block by block, to what
 * `base` is kept in; ML_INPUT where that is not what `base` holds, or by its source hash it is
 * another base.
 *
 * ML_INPUT where the adapter was trained on another base (by source hash). PEFT directories do not
 * say where they belong: they are only checked by shape. An existing `path` is replaced once the
 * new file is whole.
 *
 * `options` say what the result is kept in; NULL: bf16. Not with `original`.
 * Shapes: W[out, in], B[out, r], A[r, in].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT as said; ML_USAGE where `path` is the base itself, or where nothing is in
 * blocks that could be kept; ML_RESOURCE. */
ml_status ml_merge(ml_base *base, const ml_adapter *adapter, ml_base *original,
                   const ml_merge_options *options, const char *path,
                   ml_merge_result *result) ML_NODISCARD;

ML_END_DECLS

#endif
