/* store: base files, adapters and checkpoints in HDF5; safetensors, GGUF and PEFT directories. */
#ifndef MPILORA_STORE_H
#define MPILORA_STORE_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/grid.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/shard.h"

ML_BEGIN_DECLS

/* ---- base files ---------------------------------------------------------------------------- */

typedef struct ml_base ml_base;

/* Opens and checks a base file: every tensor of the specification is there with shape, type and
 * contiguous storage inside the file, and its description has the hash that it says.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_base_close.
 * Local.
 * Errors: ML_INPUT naming file and tensor; ML_RESOURCE. */
ml_status ml_base_open(ml_base **out, const char *path) ML_NODISCARD;

/* A base that no file has, to plan with: of this specification with its formats, no tokenizer. It
 * takes the memory that an open one does; nothing can be read of it.
 * Shapes: none.
 * Ownership: `spec` is copied; *out is the caller's, who ends it with ml_base_close.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_base_describe(ml_base **out, const char *path, const ml_model_spec *spec) ML_NODISCARD;

/* Closes a base; NULL is fine.
 * Shapes: none.
 * Ownership: takes `base`.
 * Local.
 * Errors: none. */
void ml_base_close(ml_base *base);

/* What a base is: its specification, the path that it was opened by, the hash of exactly these
 * weights (content: specification, tensors and tokenizer), the hash of what was imported (source:
 * the same for every import of it), and the type of the matrices that are not in blocks (their
 * formats stand in the specification); norms and biases are fp32.
 * Shapes: hashes in hexadecimal, ML_SHA256_HEX bytes.
 * Ownership: borrowed from `base`.
 * Local.
 * Errors: none. */
const ml_model_spec *ml_base_spec(const ml_base *base);
const char *ml_base_path(const ml_base *base);
const char *ml_base_content_hash(const ml_base *base);
const char *ml_base_source_hash(const ml_base *base);
ml_dtype ml_base_dtype(const ml_base *base);

/* What one of its tensors is stored as: fp32, the base's dtype, or blocks.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
ml_dtype ml_base_tensor_dtype(const ml_base *base, const ml_model_tensor *tensor);

/* The tokenizer's canonical JSON, "" where there is none, and its hash.
 * Shapes: *length bytes.
 * Ownership: borrowed from `base`.
 * Local.
 * Errors: none. */
const char *ml_base_tokenizer(const ml_base *base, int64_t *length);
const char *ml_base_tokenizer_hash(const ml_base *base);

/* Files of the source that a base keeps byte for byte, by their names as Hugging Face has them: the
 * tokenizer's, the chat template, generation_config.json, and config.json for the special tokens
 * that it names; what sentence-transformers adds to a model's directory. Start from {0}; an empty
 * text is a file that is not there. */
enum { ML_BASE_FILES = 22 };
typedef struct ml_base_files {
    ml_text content[ML_BASE_FILES];
} ml_base_files;

/* The names, in the order of ml_base_files.
 * Shapes: ML_BASE_FILES, then NULL.
 * Ownership: static.
 * Local.
 * Errors: none. */
extern const char *const ml_base_file_names[];

/* Ends what was read into `files`.
 * Shapes: none.
 * Ownership: takes what `files` owns.
 * Local.
 * Errors: none. */
void ml_base_files_destroy(ml_base_files *files);

/* The file of this name among them, NULL where it is not there.
 * Shapes: none.
 * Ownership: borrowed from `files`.
 * Local.
 * Errors: none. */
const ml_text *ml_base_files_find(const ml_base_files *files, const char *name);

/* Where the file of this name, one of ml_base_file_names, has its place, empty as it may be.
 * Shapes: none.
 * Ownership: borrowed from `files`.
 * Local.
 * Errors: none. */
ml_text *ml_base_files_place(ml_base_files *files, const char *name);

/* config.json among the files says that these are the classes, in id2label and label2id; where it
 * is not there it says no more than that.
 * Shapes: names, a JSON list of texts.
 * Ownership: `files` is the caller's; `names` is borrowed.
 * Local.
 * Errors: ML_INPUT where config.json or `names` cannot be read; ML_RESOURCE. */
ml_status ml_base_files_name_labels(ml_base_files *files, const char *names) ML_NODISCARD;

/* The files are those of a directory of sentence-transformers whose texts become vectors so:
 * modules.json, 1_Pooling/config.json, and sentence_bert_config.json where it is not there, with
 * tokenizer_config.json's length and at most the context. `pooling` is mean, cls or last.
 * Shapes: none.
 * Ownership: `files` is the caller's; the rest is borrowed.
 * Local.
 * Errors: ML_INPUT where tokenizer_config.json cannot be read; ML_RESOURCE. */
ml_status ml_base_files_make_vectors(ml_base_files *files, const ml_model_spec *spec,
                                     const char *pooling, bool normalised) ML_NODISCARD;

/* Appends one of a base's files, or all of them; nothing where it is not there.
 * Shapes: bytes.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: ML_INPUT where the base cannot be read; ML_RESOURCE; ML_INTERNAL for another name. */
ml_status ml_base_read_file(const ml_base *base, const char *name, ml_text *out) ML_NODISCARD;
ml_status ml_base_read_files(const ml_base *base, ml_base_files *out) ML_NODISCARD;

/* Reads this rank's part of a tensor straight from the file (pread at the dataset's offset; never
 * the whole tensor), converted to `dtype`. The head of a tied model is its embedding.
 * Shapes: out: the shard's ranges one after the other, contiguous.
 * Ownership: all borrowed; `out` is the caller's.
 * Local.
 * Errors: ML_INPUT where the tensor is not there or cannot be read, or a scale is not finite. */
ml_status ml_base_read(ml_base *base, const char *name, const ml_shard *shard, ml_dtype dtype,
                       void *out) ML_NODISCARD;

/* ml_base_read of many tensors at once, by all threads. What is read are the contents as they
 * stand: they are not hashed here (the file's description is, when it is opened; content_sha256
 * says what they were), only the scales of blocks are looked at. */
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

/* Reads many tensors at once, by all threads; `division` NULL: everything. *bytes: how many of the
 * file's were wanted and read.
 * Shapes: requests[count].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT where one cannot be read; ML_RESOURCE. */
ml_status ml_base_load(ml_base *base, const ml_base_request *requests, int64_t count,
                       const ml_base_division *division, int64_t *bytes) ML_NODISCARD;

/* Whether pages of the file are likely to come and to be used as fast as a copy in memory: it lies
 * on a file system of this machine's own, and the memory is one domain.
 * Shapes: none.
 * Ownership: borrows `base`.
 * Local.
 * Errors: none. */
bool ml_base_maps_well(const ml_base *base);

/* Where the part of each request begins in the file, where its rows lie there as they are wanted; 0
 * where they do not: columns, another type, a place that numbers are not aligned to, no such tensor
 * or no name.
 * Shapes: requests[count], place[count].
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_base_find_places(const ml_base *base, const ml_base_request *requests, int64_t count,
                         int64_t *place);

/* Lays the file's pages over those whole pages of a block that are to hold what they do, in pieces
 * of at least `least` bytes. They can be read, not written. ml_base_load, which is still to be
 * called for all of the block, takes them and reads the rest.
 * Shapes: block[bytes], whole pages of their own; requests[count] with all that lies in the block,
 * in the order of the addresses, `name` NULL for what the base has not.
 * Ownership: the block is borrowed until ml_base_unmap, the rest for the call.
 * Local.
 * Errors: ML_INPUT where the file cannot be mapped or a tensor is missing; ML_RESOURCE. */
ml_status ml_base_map(ml_base *base, void *block, int64_t bytes, int64_t least,
                      const ml_base_request *requests, int64_t count) ML_NODISCARD;

/* What the list of pieces takes while they are mapped (category other): at most a piece for each of
 * so many requests, but for rows in several parts.
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_base_map_bytes(int64_t count);

/* What shows the file so: piece `index`, where there is one, into *out; returns how many there are.
 * Shapes: none.
 * Ownership: borrowed from `base`.
 * Local.
 * Errors: none. */
int64_t ml_base_mapped(const ml_base *base, int64_t index, ml_memory_span *out);

/* Before the block is given up, or the base is closed. The pages stay until the former.
 * Shapes: none.
 * Ownership: gives the block back to its owner.
 * Local.
 * Errors: none. */
void ml_base_unmap(ml_base *base);

/* That what is mapped is what was opened: looks at size and time of the file, and reads it again
 * where the time alone has changed. Before a result leaves; costs a microsecond.
 * Shapes: none.
 * Ownership: borrows `base`.
 * Local.
 * Errors: ML_INPUT where the file was cut, written to or could not be read; ML_RESOURCE. */
ml_status ml_base_check(ml_base *base) ML_NODISCARD;

/* What ml_base_load of so many requests and the list of them hold for a moment (category other).
 * Shapes: bytes.
 * Ownership: none.
 * Local.
 * Errors: none. */
int64_t ml_base_load_bytes(int64_t count, int threads);

/* Writing: create, then every tensor of the specification once, in its order, in pieces of whole
 * rows, then finish. Until finish nothing is seen under the path. */
typedef struct ml_base_writer ml_base_writer;

/* Begins a base file beside `path`, with the files of its source; NULL: none. Matrices become
 * `dtype`, or what `spec->formats` says. source_hash NULL: ml_base_writer_source tells it before
 * the file is finished.
 * Shapes: tokenizer[tokenizer_length] bytes, its canonical JSON; 0: none.
 * Ownership: *out is the caller's, until finish or discard; `files` is borrowed until then; the
 * rest is borrowed and copied.
 * Local.
 * Errors: ML_RESOURCE where it cannot be written. */
ml_status ml_base_writer_create(ml_base_writer **out, const char *path, const ml_model_spec *spec,
                                ml_dtype dtype, const char *tokenizer, int64_t tokenizer_length,
                                const char *source_hash, const ml_base_files *files) ML_NODISCARD;

/* The SHA-256 of the source, which may be known only when it has gone by.
 * Shapes: hash: ML_SHA256_HEX.
 * Ownership: borrowed.
 * Local.
 * Errors: none. */
void ml_base_writer_source(ml_base_writer *writer, const char *hash);

/* Rows [first_row, first_row + nrows) of a tensor, rounded once to the base's type, or to the
 * blocks in which it is kept.
 * Shapes: rows[nrows, columns of the tensor].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT naming tensor, row and block that blocks cannot hold; ML_RESOURCE where it
 * cannot be written; ML_INTERNAL out of order. */
ml_status ml_base_writer_rows(ml_base_writer *writer, const char *name, int64_t first_row,
                              int64_t nrows, const float *rows) ML_NODISCARD;

/* The same of a matrix that is kept in blocks, as they are.
 * Shapes: blocks[nrows, blocks of a row].
 * Ownership: all borrowed.
 * Local.
 * Errors: as ml_base_writer_rows. */
ml_status ml_base_writer_blocks(ml_base_writer *writer, const char *name, int64_t first_row,
                                int64_t nrows, const void *blocks) ML_NODISCARD;

/* What rounding to blocks lost so far: √(Σ (decoded − w)² / Σ w²) over the matrices that came as
 * numbers and are kept in blocks; 0 where there was none.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
double ml_base_writer_error(const ml_base_writer *writer);

/* Syncs the file and renames it into place, over a file that is there.
 * Shapes: none.
 * Ownership: takes `writer`, also on failure.
 * Local.
 * Errors: ML_RESOURCE, and then nothing has changed under the path. */
ml_status ml_base_writer_finish(ml_base_writer *writer) ML_NODISCARD;

/* Removes the temporary file; NULL is fine.
 * Shapes: none.
 * Ownership: takes `writer`.
 * Local.
 * Errors: none. */
void ml_base_writer_discard(ml_base_writer *writer);

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
    char base_source_hash[ML_SHA256_HEX];  /* "" where unknown (PEFT) */
    char base_content_hash[ML_SHA256_HEX]; /* of the only base that it can be added to, since it
                                              began as what that one's blocks have lost; "": any
                                              base from the same source */
    char hash[ML_SHA256_HEX];              /* of the file or directory it came from */
    char kernel[64]; /* product/vector path that trained it; "" where unknown */
    char
        *label_names; /* owned JSON list of the names of the head's classes; NULL: they have none */
    char pooling[8];  /* of objective contrastive: mean, cls or last, how its vectors are made,
                         where the base's directory says nothing or something else; else "" */
    bool normalised;  /* and whether each is divided by its length */
} ml_adapter;

/* Reads adapter.h5 or a PEFT directory, and checks shapes against `spec` and, where the adapter
 * says which base it belongs to, `source_hash` (NULL: not checked).
 * Shapes: as ml_adapter says.
 * Ownership: the caller ends *out with ml_adapter_destroy.
 * Local.
 * Errors: ML_INPUT naming file, tensor, found and expected; ML_RESOURCE. */
ml_status ml_adapter_read(ml_adapter *out, const char *path, const ml_model_spec *spec,
                          const char *source_hash) ML_NODISCARD;

/* The same for a base at hand: embedding and head may stand in a PEFT directory, too, where they
 * are the base's own.
 * Shapes: as ml_adapter says.
 * Ownership: the caller ends *out with ml_adapter_destroy; the rest is borrowed.
 * Local.
 * Errors: as ml_adapter_read; ML_INPUT for an embedding or a head that differs. */
ml_status ml_adapter_read_for(ml_adapter *out, const char *path, ml_base *base) ML_NODISCARD;

/* The tensor of this name beside the pairs, NULL where there is none.
 * Shapes: as ml_adapter_tensor says.
 * Ownership: borrowed from `adapter`.
 * Local.
 * Errors: none. */
ml_adapter_tensor *ml_adapter_find(const ml_adapter *adapter, const char *name);

/* The specification gets the head for labels that the adapter has, if it has one.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT where the base has one of another number of labels. */
ml_status ml_adapter_take_head(const ml_adapter *adapter, ml_model_spec *spec) ML_NODISCARD;

/* Writes adapter.h5 whole or not at all: temporary file, fsync, rename.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_adapter_write(const ml_adapter *adapter, const char *path) ML_NODISCARD;

/* Accounted bytes (category other) that world rank 0 holds while what these parameters trained is
 * collected in an adapter and written, which has `times` as many numbers.
 * Shapes: bytes.
 * Ownership: borrows `parameters`.
 * Local.
 * Errors: none. */
int64_t ml_adapter_write_bytes(const ml_parameters *parameters, int64_t times);

/* Writes a PEFT directory; `base_name` goes to base_model_name_or_path; NULL: null. `base` is read
 * for a new head for masked tokens, whose matrix PEFT saves; NULL where the adapter has none.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE where PEFT has no such method, or the directory holds other files; ML_RESOURCE.
 */
ml_status ml_adapter_export_peft(const ml_adapter *adapter, const ml_model_spec *spec,
                                 ml_base *base, const char *base_name,
                                 const char *directory) ML_NODISCARD;

/* Pairs of a fused projection that are really its parts side by side (q, k or v, gate or up, as
 * ml_adapter_export_peft puts them) become those pairs again, so that a run with such targets can
 * start from them. `targets`: the run's ml_target bits; a pair stays where they have the fused word
 * or none of its parts.
 * Shapes: none.
 * Ownership: changes `adapter`.
 * Local.
 * Errors: ML_USAGE naming the module where B is not block-diagonal in exactly these parts;
 * ML_RESOURCE. */
ml_status ml_adapter_split_fused(ml_adapter *adapter, const ml_model_spec *spec,
                                 unsigned targets) ML_NODISCARD;

/* Ends an adapter; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `adapter` owns.
 * Local.
 * Errors: none. */
void ml_adapter_destroy(ml_adapter *adapter);

ML_END_DECLS

#endif
