/* blocks: the formats in which frozen weights are published, 32 or 256 weights in a block of bytes.
 *
 * A row of a matrix is a whole number of blocks, one after the other; a block never crosses rows.
 * The layouts are GGUF's (ggml's dequantize_row_*), decoded to fp32 with its order of operations,
 * so that the values are those of the gguf package bit for bit. docs/file-formats.md has each
 * layout to the byte.
 */
#ifndef MPILORA_BLOCKS_H
#define MPILORA_BLOCKS_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

enum { ML_BLOCK_WEIGHTS_MOST = 256, ML_BLOCK_BYTES_MOST = 256 };

/* fp32, fp16 and bf16 are blocks of one weight here, so that a table of types has one kind of
 * row. */
typedef struct ml_block_format {
    ml_dtype dtype;   /* what a base keeps it as: itself, or bf16 where no kernel multiplies it */
    const char *name; /* "Q4_K", as GGUF has it */
    int number;       /* GGUF's */
    int64_t weights, bytes;                            /* of a block */
    void (*decode)(const uint8_t *block, float *out);  /* out[weights] */
    void (*quantise)(const float *in, uint8_t *block); /* in[weights], finite; NULL: none */
    int scales[2]; /* where the block has its fp16 factors; −1: none; the byte of MXFP4's is no
                      fp16 */
} ml_block_format;

/* The format of a dtype, of GGUF's number, or of a name in any case; NULL: there is none.
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const ml_block_format *ml_block_format_of(ml_dtype dtype);
const ml_block_format *ml_block_format_numbered(int64_t number);
const ml_block_format *ml_block_format_named(const char *name);

/* Whether weights of the dtype lie in blocks of more than one.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
bool ml_dtype_is_block(ml_dtype dtype);

/* Bytes of `count` weights, whole blocks of them.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_dtype_bytes(ml_dtype dtype, int64_t count);

/* Weights [first, first + count) of an array as fp32; they may begin and end inside a block.
 * Shapes: data: whole blocks; out[count].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_dtype_decode(ml_dtype dtype, const void *data, int64_t first, int64_t count, float *out);

/* The first of `count` blocks whose scale is Inf or NaN (MXFP4: 255); −1 where all are finite. A
 * block with finite scales decodes to finite weights unless their product overflows.
 * Shapes: blocks[count · format->bytes].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
int64_t ml_block_find_bad(const ml_block_format *format, const void *blocks, int64_t count);

/* What rounding to blocks lost: Σ (decoded − w)² and Σ w². */
typedef struct ml_block_error {
    double lost, whole;
} ml_block_error;

/* Numbers to blocks: the bytes of the gguf package in Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and MXFP4; in
 * Q4_K, Q5_K and Q6_K with ggml's search for scales. Returns the first block whose numbers are not
 * finite or too large for the format (of these three: beyond ±65,536); −1 where there is none. The
 * errors of all blocks but these are added to `error`.
 * Shapes: in[count · format->weights]; out[count · format->bytes].
 * Ownership: all borrowed; format->quantise is not NULL.
 * Local.
 * Errors: none. */
int64_t ml_block_quantise(const ml_block_format *format, const float *in, int64_t count, void *out,
                          ml_block_error *error);

ML_END_DECLS

#endif
