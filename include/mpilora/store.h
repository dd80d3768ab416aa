/* store: base files, adapters and checkpoints in HDF5; safetensors, GGUF and PEFT directories. */
#ifndef MPILORA_STORE_H
#define MPILORA_STORE_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/grid.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/shard.h"

/* ---- base files ---------------------------------------------------------------------------- */

typedef struct ml_base ml_base;

/* Opens and checks a base file: every tensor of the specification is there with shape, type and
 * contiguous storage inside the file. Local. ML_INPUT naming file and tensor. */
ml_status ml_base_open(ml_base **out, const char *path) ML_NODISCARD;
void ml_base_close(ml_base *base);
const ml_model_spec *ml_base_spec(const ml_base *base);
const char *ml_base_path(const ml_base *base);
const char *ml_base_content_hash(
    const ml_base *base); /* of specification, tensors and tokenizer: exactly these weights */
const char *ml_base_source_hash(
    const ml_base *base); /* of what was imported: the same for its fp32 and bf16 imports */
ml_dtype ml_base_dtype(const ml_base *base); /* of the matrices; norms and biases are fp32 */
/* The tokenizer's canonical JSON, "" where there is none. Borrowed. Its hash beside it. */
const char *ml_base_tokenizer(const ml_base *base, int64_t *length);
const char *ml_base_tokenizer_hash(const ml_base *base);
/* Reads this rank's part of a tensor straight from the file (pread at the dataset's offset; never
 * the whole tensor), converted to `dtype`, into `out` (contiguous, the shard's ranges one after
 * the other). Local. */
ml_status ml_base_read(ml_base *base, const char *name, const ml_shard *shard, ml_dtype dtype,
                       void *out) ML_NODISCARD;

/* ml_base_read of many tensors at once, by all threads. What is read are the contents as they
 * stand: they are not hashed here (the file's description is, when it is opened; content_sha256
 * says what they were). */
typedef struct ml_base_request {
    const char *name;
    const ml_shard *shard;
    ml_dtype dtype;
    void *out;
} ml_base_request;

/* How ranks that fill the same memory divide the work: each reads one of `parts` runs of about as
 * many bytes. */
typedef struct ml_base_division {
    int part, parts;
} ml_base_division;

/* `division` NULL: everything. *bytes: how many of the file's were wanted and read. Local. */
ml_status ml_base_load(ml_base *base, const ml_base_request *requests, int64_t count,
                       const ml_base_division *division, int64_t *bytes) ML_NODISCARD;
/* What ml_base_load of so many requests and the list of them hold for a moment (category other). */
int64_t ml_base_load_bytes(int64_t count, int threads);

/* Writing: create, then every tensor of the specification once, in its order, in pieces of whole
 * rows; finish renames the temporary file into place after fsync. `path` must not exist unless
 * `replace`. Until finish nothing is seen under `path`. */
typedef struct ml_base_writer ml_base_writer;
ml_status ml_base_writer_create(ml_base_writer **out, const char *path, const ml_model_spec *spec,
                                ml_dtype dtype, const char *tokenizer, int64_t tokenizer_length,
                                const char *source_hash) ML_NODISCARD;
ml_status ml_base_writer_rows(ml_base_writer *writer, const char *name, int64_t first_row,
                              int64_t nrows, const float *rows) ML_NODISCARD;
ml_status
ml_base_writer_finish(ml_base_writer *writer) ML_NODISCARD; /* and destroys it, also on failure */
void ml_base_writer_discard(ml_base_writer *writer); /* removes the temporary file; NULL is fine */

/* ---- adapters ------------------------------------------------------------------------------ */

/* One LoRA pair, global shapes, fp32: ΔW = scale·B·A. */
typedef struct ml_adapter_pair {
    char module[64]; /* "layers.3.attn.q", or ".qkv" for GPT-2's fused projection, … */
    int64_t rank, in, out;
    double alpha;
    float scale;
    float *a; /* [rank, in] */
    float *b; /* [out, rank] */
    float *m; /* [out] DoRA's magnitudes, of all pairs; NULL: plain LoRA */
} ml_adapter_pair;

/* A tensor that another method trained, whole, under the name that training has for it; a vector
 * is n × 1. */
typedef struct ml_adapter_tensor {
    char name[96];
    int64_t rows, cols;
    float *value;
} ml_adapter_tensor;

/* What a method made: LoRA's pairs, the tensors of the others, or both (lora+prefix_embed). */
typedef struct ml_adapter {
    ml_method method;
    ml_method_sizes sizes; /* of the method, where it is not LoRA alone */
    int64_t count;
    ml_adapter_pair *pairs;
    int64_t ntensors;
    ml_adapter_tensor *tensors;
    bool rslora;
    double dropout;
    char base_source_hash[ML_SHA256_HEX]; /* "" where unknown (PEFT) */
    char hash[ML_SHA256_HEX];             /* of the file or directory it came from */
    char kernel[64]; /* product/vector path that trained it; "" where unknown */
} ml_adapter;

/* adapter.h5 or a PEFT directory. ML_INPUT naming file, tensor, found and expected; checks shapes
 * against `spec`, and, where the adapter says which base it belongs to, `source_hash` (NULL: not
 * checked). Local. */
ml_status ml_adapter_read(ml_adapter *out, const char *path, const ml_model_spec *spec,
                          const char *source_hash) ML_NODISCARD;
/* Atomically: temporary file, fsync, rename. */
ml_status ml_adapter_write(const ml_adapter *adapter, const char *path) ML_NODISCARD;
/* PEFT directory; `base_name` goes to base_model_name_or_path. Refuses an existing directory that
 * holds other files. */
ml_status ml_adapter_export_peft(const ml_adapter *adapter, const ml_model_spec *spec,
                                 const char *base_name, const char *directory) ML_NODISCARD;
/* GPT-2: pairs of the fused projection that are really q, k or v side by side (what
 * ml_adapter_export_peft makes of them) become those pairs again, so that a run with such targets
 * can start from them. `targets`: the run's ml_target bits; nothing happens where they have qkv or
 * none of q, k, v, or the adapter has no fused pair. ML_USAGE naming the module where B is not
 * block-diagonal in exactly these parts. Local. */
ml_status ml_adapter_split_qkv(ml_adapter *adapter, const ml_model_spec *spec,
                               unsigned targets) ML_NODISCARD;
void ml_adapter_destroy(ml_adapter *adapter);

#endif
