/* The layout of a base file, shared by its writer and its reader.
 *
 *   user block      magic, seal, and one line "offset bytes" for every tensor (and the tokenizer):
 *     where contents lie in the file
 *   HDF5            /tensors/<name> contiguous, /tokenizer (canonical JSON, bytes); attributes of
 *     the root: format, version, architecture (JSON), dtype,
 *                   source_sha256, content_sha256, tokenizer_sha256
 *     /files/<name>   bytes of the source's files; no contents, so under the seal
 *
 * A matrix that is kept in blocks is a dataset [rows, blocks of a row] of an opaque type of a
 * block's bytes, whose tag is the format's word: "q4_k". Files without one are of version 1.
 *
 * A malformed file can crash the HDF5 library. The contents are too large to be hashed at each
 * start, so the seal is the SHA-256 of everything else: the user block's lines and all bytes
 * outside the contents. It is checked before HDF5 sees the file.
 */
#ifndef MPILORA_STORE_BASE_BASE_PRIVATE_H
#define MPILORA_STORE_BASE_BASE_PRIVATE_H

#include <hdf5.h>
#include <sys/stat.h>

#include "mpilora/blocks.h"
#include "mpilora/store.h"

#define BASE_FORMAT "mpilora-base"
enum {
    BASE_VERSION = 2, /* what is written where a matrix is in blocks; else 1 */
    BASE_PATH = 4096,
    BASE_PIECE = 256 << 10 /* what is read at once to be converted */
};

typedef struct extent {
    int64_t offset, bytes;
} extent;

/* Whole pages of memory that are pages of the file. */
typedef struct base_span {
    char *start;
    int64_t bytes, offset;
} base_span;

struct ml_base {
    char *path;
    int fd;
    struct {
        int64_t bytes, seconds, nanoseconds;
    } opened;         /* its size and time then */
    base_span *spans; /* [nspans], ascending; NULL: nothing is mapped */
    int64_t nspans;
    int watch;          /* ml_memory_watch's, where there are spans */
    char *architecture; /* the file's text, whose words may be fewer than this version's */
    ml_model_spec spec;
    ml_dtype dtype;
    char content[ML_SHA256_HEX], source[ML_SHA256_HEX], tokenizer_hash[ML_SHA256_HEX];
    char *tokenizer;
    int64_t tokenizer_length;
    int64_t ntensors;
    int64_t *offset;   /* [ntensors] */
    ml_dtype *formats; /* the specification's, as ml_model_formats counts them; NULL: no blocks */
    extent files[ML_BASE_FILES]; /* 0 bytes: not there */
};

/* files.c: the source's files. `put` makes a data set whose bytes are written later. */
typedef bool (*base_put_dataset)(hid_t where, const char *name, hid_t type, int rank,
                                 const hsize_t *dims, extent *place);
bool base_files_lay_out(hid_t file, const ml_base_files *files, base_put_dataset put,
                        extent place[ML_BASE_FILES]);
ml_status base_files_write(int fd, const char *path, const ml_base_files *files,
                           const extent place[ML_BASE_FILES]) ML_NODISCARD;
/* Where they lie in an open file of `bytes` bytes: b->files. ML_INPUT. */
ml_status base_files_locate(ml_base *b, hid_t file, int64_t bytes) ML_NODISCARD;

/* What a tensor is stored as, in a file whose matrices are `dtype` where they are in no blocks. */
static inline ml_dtype base_stored(const ml_model_spec *spec, ml_dtype dtype,
                                   const ml_model_tensor *tensor)
{
    ml_dtype format = ml_model_format(spec, tensor);
    return tensor->norm_or_bias ? ML_FP32 : ml_dtype_is_block(format) ? format : dtype;
}

/* spec_json.c */
ml_status base_spec_to_json(const ml_model_spec *spec, ml_text *out) ML_NODISCARD;
ml_status base_spec_from_json(const char *json, ml_model_spec *out) ML_NODISCARD;
/* The first field in which a model that was written for others and what they would read of it
 * differ in meaning, reals by more than 1e-6 of their size, with both values: appended to `out`,
 * nothing where there is none. */
ml_status base_spec_compare(const ml_model_spec *said, const ml_model_spec *read,
                            ml_text *out) ML_NODISCARD;

/* content.c: begin with the description's text, then name and bytes of every tensor, then finish,
 * which ends the hash. */
ml_status base_content_begin(ml_sha256 **hash, const char *architecture) ML_NODISCARD;
void base_content_name(ml_sha256 *hash, const char *name);
void base_content_finish(ml_sha256 *hash, const char *tokenizer, int64_t length,
                         char hex[ML_SHA256_HEX]);
/* The same of an open file, which is read whole. */
ml_status base_content_hash(const ml_base *base, char hex[ML_SHA256_HEX]) ML_NODISCARD;

/* seal.c */
int64_t base_user_block(int64_t extents); /* its size: a power of two ≥ 512 */
/* The seal's hash of an open file of `bytes` bytes; extents ascend and do not overlap. */
ml_status base_seal_hash(int fd, const char *path, int64_t bytes, int64_t user_block,
                         const extent *contents, int64_t n, char hex[ML_SHA256_HEX]) ML_NODISCARD;
ml_status base_seal_write(int fd, const char *path, int version, int64_t bytes,
                          const extent *contents, int64_t n) ML_NODISCARD;
/* Checks an open file of `size` bytes; *contents (owned by the caller) and *n as written. ML_INPUT
 * naming `path`. */
ml_status base_seal_check(int fd, const char *path, int64_t size, extent **contents,
                          int64_t *n) ML_NODISCARD;

/* read.c: a request in numbers, and rows of it. */
typedef struct base_slice {
    int64_t number;             /* the tensor's, as ml_model_tensor_at counts */
    int64_t offset, rows, cols; /* of the whole tensor in the file */
    ml_dtype stored, wanted;
    const ml_shard *shard; /* borrowed */
} base_slice;

/* *near: the tensor's number where the search begins, and where it ended. */
ml_status base_slice_find(const ml_base *b, const ml_base_request *request, int64_t *near,
                          base_slice *out) ML_NODISCARD;
int64_t base_slice_rows(const base_slice *s); /* of the part that is wanted */
int64_t base_slice_row(const base_slice *s);  /* elements of each */
/* Rows [first, first + rows) of the wanted part into `to`; `piece` has BASE_PIECE bytes.
 * Thread-safe. */
ml_status base_slice_read(const ml_base *b, const base_slice *s, int64_t first, int64_t rows,
                          void *to, char *piece) ML_NODISCARD;

/* Where the wanted part begins in the file, where its rows lie there as they are wanted; else 0. */
int64_t base_slice_place(const base_slice *s);

/* map.c: the first span that ends behind `at`, or NULL; the pages of a part of a span, which begins
 * at the file's place `offset`, thread-safe, ML_INPUT; size and time of the file when it is
 * opened. */
const base_span *base_span_behind(const ml_base *b, const char *at);
ml_status base_span_take(const ml_base *b, char *at, int64_t bytes, int64_t offset) ML_NODISCARD;
void base_note_opened(ml_base *b, const struct stat *about);

/* file_type.c: the file's type of a dtype, closed by the caller; and the dtype that a type stands
 * for, false where it is none of them. */
hid_t base_file_type(ml_dtype dtype);
bool base_dtype_of(hid_t type, ml_dtype *out);

#endif
