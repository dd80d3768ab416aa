/* data: byte-level BPE, tokenised data sets, the sampler.  */
#ifndef MPILORA_DATA_H
#define MPILORA_DATA_H

#include "mpilora/grid.h"

/* ---- tokenizer ----------------------------------------------------------------------------- */

typedef struct ml_tokenizer ml_tokenizer;

/* A tokenizer travels as one canonical JSON text (stored in base files; made by the readers
 * below), so its SHA-256 names it. */
ml_status ml_tokenizer_create(ml_tokenizer **out, const char *json, int64_t length) ML_NODISCARD;
void ml_tokenizer_destroy(ml_tokenizer *tokenizer);

/* tokenizer.json, or vocab.json + merges.txt, or encoder.json + vocab.bpe in `directory`, to the
 * canonical JSON. ML_INPUT where none is there or it is malformed. *found false (and ML_OK) where
 * the directory has no tokenizer at all. */
ml_status ml_tokenizer_from_directory(const char *directory, ml_text *json,
                                      bool *found) ML_NODISCARD;

/* From GGUF's metadata arrays. `pre` is tokenizer.ggml.pre ("gpt-2", "smollm", "llama-bpe", …);
 * types as GGUF has them (3 = control). */
typedef struct ml_gguf_vocabulary {
    const char *model, *pre;
    int64_t ntokens, nmerges;
    const char *const *tokens;
    const char *const *merges;
    const int32_t *types; /* may be NULL */
    int64_t bos, eos;     /* −1: none */
    bool add_bos, add_space_prefix;
} ml_gguf_vocabulary;
ml_status ml_tokenizer_from_gguf(const ml_gguf_vocabulary *vocabulary, ml_text *json) ML_NODISCARD;

/* Appends the ids of `bytes` to *ids (grown with ml_memory_resize, owned by the caller).
 * `specials`: text that spells a special token becomes that token; false: it stays text. Never
 * fails on any byte string, only for want of memory. A byte for which the vocabulary has no token
 * (SmolLM2 lacks 21 of the 256) is left out, as `tokenizers` does, and counted. */
typedef struct ml_ids {
    int32_t *data;
    int64_t count, capacity;
} ml_ids;
ml_status ml_tokenizer_encode(ml_tokenizer *tokenizer, const char *bytes, int64_t length,
                              bool specials, ml_ids *ids) ML_NODISCARD;
int64_t ml_tokenizer_lost(const ml_tokenizer *tokenizer); /* bytes left out so far */
/* Appends the bytes of the tokens. decode(encode(x)) = x for every byte string of bytes that the
 * vocabulary has. ML_INPUT for an id out of range. */
ml_status ml_tokenizer_decode(const ml_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              ml_text *bytes) ML_NODISCARD;
int64_t ml_tokenizer_size(const ml_tokenizer *tokenizer);        /* largest id + 1 */
int32_t ml_tokenizer_end_of_text(const ml_tokenizer *tokenizer); /* −1: none */
int32_t ml_tokenizer_begin_of_text(
    const ml_tokenizer *tokenizer); /* what goes before every text (Llama-3); −1: nothing */
bool ml_tokenizer_is_special(const ml_tokenizer *tokenizer, int32_t id);
void ml_ids_destroy(ml_ids *ids);

/* The same tokenizer as Hugging Face's tokenizer.json and tokenizer_config.json, appended to the
 * two texts. */
ml_status ml_tokenizer_to_huggingface(const char *json, int64_t length, ml_text *tokenizer_json,
                                      ml_text *tokenizer_config_json) ML_NODISCARD;

/* ---- data sets ----------------------------------------------------------------------------- */

typedef struct ml_dataset ml_dataset;

/* Opens and checks a tokenised data set (*.h5), its content against the stored hash, by reading the
 * file once. In memory stay 8 bytes a sequence and a bit a token. Local; owned by the caller.
 * ML_INPUT naming file and fault. */
ml_status ml_dataset_open(ml_dataset **out, const char *path) ML_NODISCARD;
/* The same for all ranks of each node: its first rank reads and checks the file, and the others get
 * from it what they would have found. Collective over NODE, whose ranks get the same status. */
ml_status ml_dataset_open_together(ml_dataset **out, const char *path,
                                   const ml_grid *grid) ML_NODISCARD;
void ml_dataset_destroy(ml_dataset *data);
int64_t ml_dataset_sequences(const ml_dataset *data);
int64_t ml_dataset_tokens(const ml_dataset *data);
int64_t ml_dataset_vocab(const ml_dataset *data);              /* ids are < this */
const char *ml_dataset_hash(const ml_dataset *data);           /* SHA-256 of the content, hex */
const char *ml_dataset_tokenizer_hash(const ml_dataset *data); /* "" for ids without a tokenizer */
/* Length and number of targets of sequence i cut to max_len tokens (targets: mask set at positions
 * ≥ 1). */
int64_t ml_dataset_length(const ml_dataset *data, int64_t i, int64_t max_len);
int64_t ml_dataset_targets(const ml_dataset *data, int64_t i, int64_t max_len);
/* Copies the first ml_dataset_length tokens and mask bytes (1: this token is a target). ML_INPUT
 * on a read error. */
ml_status ml_dataset_read(const ml_dataset *data, int64_t i, int64_t max_len, int32_t *tokens,
                          uint8_t *mask) ML_NODISCARD;

/* Writing: create, add every sequence, finish. Nothing is seen under `path` until finish has
 * renamed the synced file into place; a file that was there stays until then. Memory: the offsets
 * and some buffers. `tokenizer_hash`: "" for ids without a tokenizer; `max_len`: that the
 * sequences were made for, 0: none, kept for information. */
typedef struct ml_dataset_writer ml_dataset_writer;
ml_status ml_dataset_writer_create(ml_dataset_writer **out, const char *path, int64_t vocab,
                                   const char *tokenizer_hash, int64_t max_len) ML_NODISCARD;
/* One sequence of count ≥ 1 tokens; mask[t] ≠ 0: token t is a target. ML_INPUT for an id outside
 * the vocabulary. */
ml_status ml_dataset_writer_add(ml_dataset_writer *writer, const int32_t *tokens,
                                const uint8_t *mask, int64_t count) ML_NODISCARD;
ml_status ml_dataset_writer_finish(ml_dataset_writer *writer)
    ML_NODISCARD;                                          /* and destroys it, also on failure */
void ml_dataset_writer_discard(ml_dataset_writer *writer); /* NULL is fine */

/* ---- from a text file to a data set -------------------------------------------------------- */

typedef enum ml_text_format {
    ML_FORMAT_GUESS, /* by the first line: ids or jsonl where it is a JSON object, e2e where it has
                        "||", else text */
    ML_FORMAT_JSONL, /* {"prompt": …, "completion": …} or {"text": …} a line */
    ML_FORMAT_E2E,   /* prompt||completion a line */
    ML_FORMAT_TEXT,  /* documents with an empty line between them; one longer than the limit becomes
                        several sequences */
    ML_FORMAT_IDS /* {"input_ids": […], "labels": […]} a line, labels −100 or the token itself;
                     without labels all are targets */
} ml_text_format;

typedef struct ml_tokenize_options {
    const char *in, *out;
    ml_text_format format;
    ml_tokenizer *tokenizer;    /* NULL: ids only */
    const char *tokenizer_hash; /* "" without a tokenizer */
    int64_t vocab, context;     /* of the base */
    int64_t max_len;            /* 0: the context */
} ml_tokenize_options;

typedef struct ml_tokenize_report {
    ml_text_format format; /* as given or guessed */
    int64_t sequences, tokens, targets;
    int64_t shortest, longest, p95;
    double median, mean;
    int64_t limit; /* max_len or the context */
    int64_t longer,
        cut_tokens; /* sequences beyond the limit, which training cuts, and the tokens beyond it */
    int64_t without_target;  /* of these: how many lose every target */
    int64_t split_documents; /* text: documents that became several sequences */
    int64_t lost_bytes;      /* for which the vocabulary has no token */
} ml_tokenize_report;

const char *ml_text_format_name(ml_text_format format); /* "jsonl", "e2e", "text", "ids"; "guess" */
/* Reads `in` as a stream and writes the data set `out`. Loss is on completions only, the
 * end-of-text token after them included; text that spells a special token stays text. ML_INPUT
 * naming file and line for bad input, and for a sequence without a target; ML_USAGE for a max_len
 * beyond the context; nothing is written then. */
ml_status ml_tokenize_file(const ml_tokenize_options *options,
                           ml_tokenize_report *report) ML_NODISCARD;

/* ---- sampler ------------------------------------------------------------------------------- */

/* The order of the sequences: position p (from 0, unbounded) → sequence. Without shuffle p mod n
 * over the n usable sequences (those with a target after cutting) in file order; with it a new
 * keyed permutation each epoch (seed, epoch). A pure function of its arguments: the cursor of a
 * run is one number, and nothing depends on the grid. With group_prompts the sequences of one
 * prompt (the same tokens up to the first target) follow each other in file order, groups in the
 * order of their first sequences, and a shuffle permutes the groups. */
typedef struct ml_sampler ml_sampler;
typedef struct ml_sampler_order {
    bool shuffle, group_prompts;
    uint64_t seed;
} ml_sampler_order;
ml_status ml_sampler_create(ml_sampler **out, const ml_dataset *data, int64_t max_len,
                            const ml_sampler_order *order) ML_NODISCARD;
void ml_sampler_destroy(ml_sampler *sampler);
int64_t ml_sampler_usable(const ml_sampler *sampler);  /* sequences with a target */
int64_t ml_sampler_skipped(const ml_sampler *sampler); /* left without one by cutting */
int64_t ml_sampler_cut(const ml_sampler *sampler);     /* sequences longer than max_len */
int64_t ml_sampler_at(ml_sampler *sampler, int64_t position);
/* The most tokens that the sequences at `micro` consecutive positions can have together after
 * cutting: sizes the activations. Where two epochs meet a shuffled order may repeat a sequence, so
 * the longest ones count twice. */
int64_t ml_sampler_most_tokens(const ml_sampler *sampler, int64_t micro);

#endif
