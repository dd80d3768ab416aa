/* Matrices that a Hugging Face directory holds packed: codes of 8 or fewer bits and their scales.
 * Local; an internal module.
 *
 * A packed matrix is several tensors beside each other: "X.weight_packed", "X.weight_scale", …
 * Which of them there are, and their types, says the layout; config.json says whose layouts they
 * are. A layout gives codes and scales of some rows, and what is common is done once: weight =
 * (value of the code − zero) · scale, rounded as the program that wrote the file rounds it, so that
 * it is that program's number bit for bit. What the layouts are to the bit stands in
 * docs/file-formats.md. */
#ifndef MPILORA_STORE_FORMATS_PACKED_PACKED_H
#define MPILORA_STORE_FORMATS_PACKED_PACKED_H

#include "mpilora/blocks.h"
#include "store/formats/huggingface/shards.h"

/* ---- what config.json says ----------------------------------------------------------------- */

typedef enum packed_method {
    PACKED_NONE,
    PACKED_FP8, /* "fp8", as DeepSeek has it */
    PACKED_BITSANDBYTES,
    PACKED_COMPRESSED, /* "compressed-tensors" */
    PACKED_AWQ,
    PACKED_GPTQ,
    PACKED_MODELOPT
} packed_method;

/* What config_groups of compressed-tensors says of matrices of one kind. */
typedef struct packed_kind {
    bool whole; /* integers; else FP8 */
    int64_t bits;
    int64_t group; /* columns under one scale; 0: all of a row or of the matrix; -1: not said */
    bool zeros, ordered;
} packed_kind;
enum { PACKED_KINDS = 16 };

typedef struct packed_config {
    packed_method method;
    int64_t block_rows, block_cols; /* under one scale of FP8; 0: no such blocks */
    int64_t group;                  /* AWQ and GPTQ: columns under one scale; -1: all */
    unsigned widths;                /* bit b: there are integers of b bits */
    bool less_one;                  /* GPTQ's first version: zeros are stored less 1 */
    bool ordered;                   /* GPTQ: columns have an order, which must be there */
    packed_kind kind[PACKED_KINDS]; /* compressed-tensors */
    int64_t kinds;
} packed_config;

/* The value of "quantization_config". NULL, null and false: *out has PACKED_NONE. ML_INPUT naming
 * the key: a method that is not known, and what changes a layout in a way that is not. */
ml_status packed_config_read(const json_t *value, packed_config *out) ML_NODISCARD;
/* The contents of hf_quant_config.json, which ModelOpt writes beside config.json, and older
 * versions alone. */
ml_status packed_config_read_modelopt(const json_t *root, packed_config *out) ML_NODISCARD;

/* ---- a matrix ------------------------------------------------------------------------------ */

typedef enum packed_part {
    PACKED_CODES,
    PACKED_SCALES,
    PACKED_ZEROS,
    PACKED_FACTOR, /* one number that belongs to all scales */
    PACKED_ORDER,  /* the group of each column */
    PACKED_SHAPE,
    PACKED_STATE, /* bitsandbytes: what else there is to say, as JSON */
    PACKED_MAP,
    PACKED_NESTED_SCALES,
    PACKED_NESTED_MAP,
    PACKED_BEFORE, /* what activations are multiplied with first, a number for each column */
    PACKED_REST,   /* says nothing of the weights */
    PACKED_PARTS
} packed_part;

enum { PACKED_GROUPS_AT_ONCE = 256 };
struct packed_layout;

typedef struct packed_matrix {
    const hf_shards *shards;
    const struct packed_layout *layout;
    char name[128]; /* of the module */
    int64_t rows, cols;
    hf_place part[PACKED_PARTS]; /* entry NULL: there is none */
    float value[256];            /* of each code */
    int64_t groups;              /* scales of a row */
    int64_t group;               /* columns under one scale, but for a last group that is cut */
    int64_t block_rows;          /* rows that share their scales */
    int32_t *order;              /* the group of each column; NULL: column / group. Owned */
    float *before;               /* of each column, a last factor; NULL: none. Owned */
    float factor;                /* a last factor of every weight */
    ml_dtype rounding;           /* of the weight: bf16, or fp32 for none */
    bool half;                   /* the weight is rounded to fp16 */
    int bits;                    /* of a code */
    int64_t per_word;            /* codes of a word of 32 bits; 0: without gaps, across words */
    int64_t nested_group;        /* bitsandbytes: scales under one scale of scales; 0: none */
    float nested_offset;
    ml_dtype kept; /* what the codes are in the formats here, where the scales allow it; fp32:
                      nothing */
} packed_matrix;

/* Opens the matrix `rows` × `cols` (out × in) of a module, "model.layers.0.mlp.up_proj", where it
 * is packed; else *found is false and there is nothing to close. Checks types and shapes of its
 * parts. ML_INPUT naming the tensor. */
ml_status packed_open(packed_matrix *out, bool *found, const packed_config *config,
                      const hf_shards *shards, const char *module, int64_t rows,
                      int64_t cols) ML_NODISCARD;
void packed_close(packed_matrix *m);

/* Rows [first, first + count) as numbers. ML_INPUT naming row and block of a scale that is Inf or
 * NaN, row and column of a weight that is. */
ml_status packed_rows(const packed_matrix *m, int64_t first, int64_t count,
                      float *out) ML_NODISCARD;

/* The format that says exactly the same: the same codes, every scale without rounding. Where there
 * is none, one that stands for the layout: its name, several weights, and the dtype bf16, which
 * they become. ML_INPUT where scales cannot be read. */
ml_status packed_format(const packed_matrix *m, const ml_block_format **out) ML_NODISCARD;
/* Rows in the blocks of packed_format, which is one that is kept. */
ml_status packed_blocks(const packed_matrix *m, int64_t first, int64_t count,
                        void *out) ML_NODISCARD;

/* ---- layouts ------------------------------------------------------------------------------- */

typedef struct packed_layout {
    const char *name;         /* for messages */
    ml_block_format stand_in; /* with this name, of packed_format */
    packed_method method;
    const char *codes_type;         /* of the codes' tensor; NULL: any */
    const char *part[PACKED_PARTS]; /* "weight_scale"; NULL: the layout has none */
    unsigned optional;              /* bit p: part p may be missing */
    ml_status (*open)(packed_matrix *m, const packed_config *config);
    /* Of rows [first, first + count): a code for each weight; a scale for each group of each row;
     * what is taken off the values of the group's codes (NULL: nothing). */
    ml_status (*codes)(const packed_matrix *m, int64_t first, int64_t count, uint8_t *out);
    ml_status (*scales)(const packed_matrix *m, int64_t first, int64_t count, float *out);
    ml_status (*zeros)(const packed_matrix *m, int64_t first, int64_t count, float *out);
    /* In the place of all three, where blocks cross rows. */
    ml_status (*rows)(const packed_matrix *m, int64_t first, int64_t count, float *out);
} packed_layout;

/* Name and what stands for it among formats. */
#define PACKED_NAMED(word)                         \
    .name = (word), .stand_in = {.dtype = ML_BF16, \
                                 .name = (word),   \
                                 .number = -1,     \
                                 .weights = 2,     \
                                 .bytes = 2,       \
                                 .scales = {-1, -1}}

/* The layouts of each file, ended by one without a name. */
extern const packed_layout packed_scaled_layouts[];       /* scaled.c: FP8, int8 */
extern const packed_layout packed_bitsandbytes_layouts[]; /* bitsandbytes.c: NF4, FP4 */
extern const packed_layout packed_word_layouts[];         /* words.c: compressed-tensors' ints */
extern const packed_layout packed_turned_layouts[];       /* turned.c: AWQ, GPTQ */
extern const packed_layout packed_fp4_layouts[];          /* fp4.c: MXFP4, NVFP4 */
extern const packed_layout packed_int4_layouts[]; /* int4.c: ModelOpt's; behind NVFP4, whose codes
                                                     have the same name and type */

/* ---- parts.c: what layouts read ------------------------------------------------------------ */

/* Bytes of a part; its numbers, in fp32: fp32, fp16, bf16, E4M3, and E8M0 (also as uint8), whose
 * 255 is NaN. */
ml_status packed_read(const packed_matrix *m, packed_part part, int64_t offset, int64_t bytes,
                      void *out) ML_NODISCARD;
ml_status packed_numbers(const packed_matrix *m, packed_part part, int64_t first, int64_t count,
                         float *out) ML_NODISCARD;
/* That the part has one of these types ("F32 BF16") and this shape; cols -1: of one dimension. */
#define PACKED_REALS "F32 F16 BF16"
ml_status packed_expect(const packed_matrix *m, packed_part part, const char *types, int64_t rows,
                        int64_t cols) ML_NODISCARD;
bool packed_is(const packed_matrix *m, packed_part part, const char *type);
/* That the part is one number of one of these types. */
ml_status packed_expect_one(const packed_matrix *m, packed_part part,
                            const char *types) ML_NODISCARD;

/* Scales as a grid: one number; a column [rows] or [rows, 1]; or [rows, groups] with groups that
 * divide the columns. Sets groups, group and block_rows. */
ml_status packed_grid(packed_matrix *m, const char *types) ML_NODISCARD;
ml_status packed_grid_scales(const packed_matrix *m, int64_t first, int64_t count, float *out);
/* The weight is rounded to the type of its scales, as PyTorch multiplies; a weight so rounded. */
void packed_round_as_scales(packed_matrix *m);
float packed_rounded(const packed_matrix *m, float weight);
/* The factors of columns, where the part is there. */
ml_status packed_read_before(packed_matrix *m) ML_NODISCARD;
/* The order of columns, where the part is there and says anything. */
ml_status packed_read_order(packed_matrix *m) ML_NODISCARD;
/* That groups, zeros and order of an opened matrix of compressed-tensors are those of a kind of its
 * bits that config_groups has; ML_INPUT where it has kinds, but none that fits: something of the
 * matrix is missing, or its weights are others than the file means. */
ml_status packed_expect_kind(const packed_matrix *m, const packed_config *config, bool whole,
                             int bits) ML_NODISCARD;
void packed_values_e4m3(float value[256]);
void packed_values_int(int bits, float value[256]); /* of two's complement in a byte */
ml_status packed_bad_scale(const packed_matrix *m, int64_t row, int64_t block) ML_NODISCARD;
ml_status packed_bad_weight(const packed_matrix *m, int64_t row, int64_t column) ML_NODISCARD;
bool packed_is_finite(float x);

#endif
