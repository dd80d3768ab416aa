/* data: tokenizers, tokenised data sets, the sampler.  */
#ifndef MPILORA_DATA_H
#define MPILORA_DATA_H

#include "mpilora/grid.h"
#include "mpilora/labels.h"

ML_BEGIN_DECLS

/* ---- tokenizer ----------------------------------------------------------------------------- */

typedef struct ml_tokenizer ml_tokenizer;

/* A tokenizer from its canonical text: a line of JSON and a tokenizer.json of Hugging Face's
 * `tokenizers` behind it. A tokenizer travels as this one text (stored in base files; made by the
 * readers below), so its SHA-256 names it. Texts of older base files are read as well.
 * Shapes: json[length] bytes.
 * Ownership: *out is the caller's, who ends it with ml_tokenizer_destroy; `json` is borrowed for
 * the call.
 * Local.
 * Errors: ML_INPUT where the text is malformed; ML_RESOURCE. */
ml_status ml_tokenizer_create(ml_tokenizer **out, const char *json, int64_t length) ML_NODISCARD;

/* The same tokenizer for another thread: it has what encoding writes for itself and borrows the
 * rest from `of`, which is only read and may encode at the same time.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_tokenizer_destroy before `of`.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_tokenizer_share(ml_tokenizer **out, const ml_tokenizer *of) ML_NODISCARD;

/* Ends a tokenizer; NULL is fine.
 * Shapes: none.
 * Ownership: takes `tokenizer`.
 * Local.
 * Errors: none. */
void ml_tokenizer_destroy(ml_tokenizer *tokenizer);

/* Appends the canonical text of tokenizer.json in `directory`, or of what stands in its place:
 * vocab.json + merges.txt, encoder.json + vocab.bpe, vocab.txt (BERT), or a SentencePiece model.
 * *found false (and ML_OK) where the directory has no tokenizer at all.
 * Shapes: none.
 * Ownership: `json` is the caller's.
 * Local.
 * Errors: ML_INPUT where one is malformed, unsupported, or has but one of its two files, naming
 * the file; ML_RESOURCE. */
ml_status ml_tokenizer_from_directory(const char *directory, ml_text *json,
                                      bool *found) ML_NODISCARD;

/* GGUF's metadata. `model` and `pre` are tokenizer.ggml.model ("gpt2", "llama", "t5", "bert") and
 * tokenizer.ggml.pre ("gpt-2", "smollm", "llama-bpe", …); types as GGUF has them (1 normal, 2
 * unknown, 3 control, 4 user-defined, 5 unused, 6 byte). Flags: 1, 0, or −1 where the file says
 * nothing; ids: −1 likewise. */
typedef struct ml_gguf_vocabulary {
    const char *model, *pre;
    int64_t ntokens, nmerges;
    const char *const *tokens;
    const char *const *merges; /* may be NULL */
    const int32_t *types;      /* may be NULL */
    const float *scores;       /* may be NULL */
    const char *charsmap;      /* the precompiled character map, or NULL */
    int64_t charsmap_length;
    int64_t bos, eos, unk, sep;
    int add_bos, add_eos, add_space_prefix, remove_extra_whitespaces, lowercase, strip_accents;
} ml_gguf_vocabulary;

/* Appends the canonical text of a tokenizer in GGUF's metadata, with llama.cpp's meaning of what
 * the file leaves out. A missing `pre` and "default" give a warning that says what is assumed.
 * Shapes: tokens[ntokens], types[ntokens], scores[ntokens], merges[nmerges],
 * charsmap[charsmap_length] bytes.
 * Ownership: `vocabulary` is borrowed; `json` is the caller's.
 * Local.
 * Errors: ML_INPUT where it is malformed, or of a model or a split pattern that is not known;
 * ML_RESOURCE. */
ml_status ml_tokenizer_from_gguf(const ml_gguf_vocabulary *vocabulary, ml_text *json) ML_NODISCARD;

/* The other way: what GGUF's metadata say of a tokenizer, with the texts that they point to. */
typedef struct ml_gguf_tokenizer {
    ml_gguf_vocabulary vocabulary;
    const char *caveat; /* what the format cannot say and a reader therefore does otherwise: a part
                           of a sentence; NULL: nothing */
    ml_text pool;       /* the texts, zero-ended */
    ml_text charsmap;   /* what the vocabulary's points to */
    const char **texts; /* tokens, then merges */
    int32_t *types;
    float *scores;
} ml_gguf_tokenizer;

/* The metadata of a canonical text: byte-level BPE whose split patterns llama.cpp has a name for,
 * SentencePiece's BPE or Unigram, or BERT's WordPiece. `tokens`: rows of the embedding; ids without
 * a token become "[PAD<id>]", unused. `bos` is what goes before a text, −1 where nothing does;
 * `unk` and add_bos, add_eos are filled in; `sep` is what ends a text of WordPiece, else −1.
 * Shapes: json[length] bytes; tokens[tokens].
 * Ownership: *out is the caller's, who ends it with ml_gguf_tokenizer_destroy, after a failure,
 * too; `json` is borrowed.
 * Local.
 * Errors: ML_INPUT naming the stage of the tokenizer that the format has no word for; ML_RESOURCE.
 */
ml_status ml_tokenizer_to_gguf(const char *json, int64_t length, int64_t tokens,
                               ml_gguf_tokenizer *out) ML_NODISCARD;

/* Ends what ml_tokenizer_to_gguf made; {0} is fine.
 * Shapes: none.
 * Ownership: takes what `tokenizer` owns.
 * Local.
 * Errors: none. */
void ml_gguf_tokenizer_destroy(ml_gguf_tokenizer *tokenizer);

/* What became of a file of tokens: ids from `before` on, below `after`, are new; `known` of the
 * file's tokens had been added before and are as they were. */
typedef struct ml_tokens_added {
    int64_t before, after, known;
} ml_tokens_added;

/* Appends the canonical text of a tokenizer that has the tokens of the file `path`, too: a token a
 * line, or JSON as tokenizer.json has it under added_tokens, a list of texts or of {content,
 * special, single_word, lstrip, rstrip, normalized, id}. What is left out, and ids, are as
 * `tokenizers` has them: normalized where it is not special, a text of the vocabulary keeps its
 * id, any other token gets the next one behind all that are there.
 * Shapes: json[length] bytes.
 * Ownership: `json` is borrowed; `out` is the caller's.
 * Local.
 * Errors: ML_INPUT naming file and line or token where a token is empty, no UTF-8, there twice, or
 * has another id; where the file has none; as ml_tokenizer_create; ML_RESOURCE. */
ml_status ml_tokenizer_grow(const char *json, int64_t length, const char *path, ml_text *out,
                            ml_tokens_added *added) ML_NODISCARD;

/* A growing list of token ids. Start from {0}; end with ml_ids_destroy. */
typedef struct ml_ids {
    int32_t *data;
    int64_t count, capacity;
} ml_ids;

/* Appends the ids of `bytes` to *ids, without what begins and ends a text. `specials`: text that
 * spells a special token becomes that token; false: it stays text. A byte for which
 * a byte-level vocabulary has no token (SmolLM2 lacks 21 of the 256) is left out, as `tokenizers`
 * does, and counted; for other vocabularies a byte that is no UTF-8 becomes U+FFFD, and is counted.
 * Shapes: bytes[length], any byte string.
 * Ownership: `ids` is the caller's, grown with ml_memory_resize; the rest is borrowed.
 * Local.
 * Errors: ML_RESOURCE: it never fails on any byte string, only for want of memory (or of time for a
 * split pattern). */
ml_status ml_tokenizer_encode(ml_tokenizer *tokenizer, const char *bytes, int64_t length,
                              bool specials, ml_ids *ids) ML_NODISCARD;

/* How many bytes were left out so far.
 * Shapes: bytes.
 * Ownership: borrows `tokenizer`.
 * Local.
 * Errors: none. */
int64_t ml_tokenizer_lost(const ml_tokenizer *tokenizer);

/* How many special tokens a text spells.
 * Shapes: bytes[length], any byte string.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
int64_t ml_tokenizer_spelled(const ml_tokenizer *tokenizer, const char *bytes, int64_t length);

/* Appends the text of the tokens, special ones included. Ids that no token has, as those of a
 * padded vocabulary, have none. Of a byte-level vocabulary decode(encode(x)) = x for every byte
 * string of bytes that it has; others give the text that `tokenizers` or SentencePiece gives.
 * Shapes: ids[count].
 * Ownership: `bytes` is the caller's; the rest is borrowed.
 * Local.
 * Errors: ML_INPUT for a negative id; ML_RESOURCE. */
ml_status ml_tokenizer_decode(const ml_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                              ml_text *bytes) ML_NODISCARD;

/* A part of what the tokenizer's post-processor makes of one text or of two: a special token, or
 * one of the texts (ML_TEMPLATE_A, ML_TEMPLATE_B); with its token type. */
enum { ML_TEMPLATE_A = -1, ML_TEMPLATE_B = -2 };
typedef struct ml_template_part {
    int32_t id, type;
} ml_template_part;

/* The parts for one text, or for a `pair`, in order.
 * Shapes: [*count] parts.
 * Ownership: borrowed from `tokenizer`.
 * Local.
 * Errors: none. */
const ml_template_part *ml_tokenizer_template(const ml_tokenizer *tokenizer, bool pair,
                                              int64_t *count);

/* The largest id + 1; the token that ends a text (−1: none); the one that goes before every text
 * (Llama-3; −1: nothing); whether an id, which may be out of range, is a special token.
 * Shapes: none.
 * Ownership: borrows `tokenizer`.
 * Local.
 * Errors: none. */
int64_t ml_tokenizer_size(const ml_tokenizer *tokenizer);
int32_t ml_tokenizer_end_of_text(const ml_tokenizer *tokenizer);
int32_t ml_tokenizer_begin_of_text(const ml_tokenizer *tokenizer);
bool ml_tokenizer_is_special(const ml_tokenizer *tokenizer, int32_t id);

/* Ends a list of ids, which is {0} then.
 * Shapes: none.
 * Ownership: takes what `ids` owns.
 * Local.
 * Errors: none. */
void ml_ids_destroy(ml_ids *ids);

/* The same tokenizer as Hugging Face's tokenizer.json, byte for byte the file that it came from
 * where it came from one, and tokenizer_config.json, appended to the two texts. SentencePiece's
 * models become what transformers makes of them.
 * Shapes: json[length] bytes.
 * Ownership: `json` is borrowed; the texts are the caller's.
 * Local.
 * Errors: ML_INPUT as ml_tokenizer_create; ML_RESOURCE. */
ml_status ml_tokenizer_to_huggingface(const char *json, int64_t length, ml_text *tokenizer_json,
                                      ml_text *tokenizer_config_json) ML_NODISCARD;

/* ---- data sets ----------------------------------------------------------------------------- */

typedef struct ml_dataset ml_dataset;

/* Opens and checks a tokenised data set (*.h5), its content against the stored hash, by reading
 * the file once. In memory stay 8 bytes a sequence and a bit a token.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_dataset_destroy.
 * Local.
 * Errors: ML_INPUT naming file and fault; ML_RESOURCE. */
ml_status ml_dataset_open(ml_dataset **out, const char *path) ML_NODISCARD;

/* The same for all ranks of each node: its first rank reads and checks the file, and the others
 * get from it what they would have found; where `path` is not one file to them, each reads its
 * own.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_dataset_destroy.
 * Collective over NODE.
 * Errors: as ml_dataset_open, the same on every rank of the node. */
ml_status ml_dataset_open_together(ml_dataset **out, const char *path,
                                   const ml_grid *grid) ML_NODISCARD;

/* Several data sets as one, the sequences of one after those of the other; a sampler takes them by
 * weight. Its hash is that of the parts' hashes and shares (weight over the sum of all).
 * Shapes: part[parts], weight[parts], each > 0 and at least a thousandth of their sum.
 * Ownership: takes the parts, which are NULL then, on success; *out is the caller's.
 * Local.
 * Errors: ML_INPUT where vocabularies or tokenizers differ, naming two files; ML_RESOURCE. */
ml_status ml_dataset_join(ml_dataset **out, int64_t parts, ml_dataset **part,
                          const double *weight) ML_NODISCARD;

/* Of a joined data set: how many parts it has (else 0), one of them with the number of sequences
 * before it, and its weight; of one that was opened: its file.
 * Shapes: sequences.
 * Ownership: borrowed from `data`.
 * Local.
 * Errors: none. */
int64_t ml_dataset_parts(const ml_dataset *data);
const ml_dataset *ml_dataset_part(const ml_dataset *data, int64_t part, int64_t *first);
double ml_dataset_weight(const ml_dataset *data, int64_t part);
const char *ml_dataset_path(const ml_dataset *data);

/* Ends a data set; NULL is fine.
 * Shapes: none.
 * Ownership: takes `data`.
 * Local.
 * Errors: none. */
void ml_dataset_destroy(ml_dataset *data);

/* How many sequences and tokens there are, and the vocabulary: ids are < this.
 * Shapes: none.
 * Ownership: borrows `data`.
 * Local.
 * Errors: none. */
int64_t ml_dataset_sequences(const ml_dataset *data);
int64_t ml_dataset_tokens(const ml_dataset *data);
int64_t ml_dataset_vocab(const ml_dataset *data);

/* Whether the sequences are pairs: 2k is the answer that is preferred to 2k + 1, of one prompt.
 * Shapes: none.
 * Ownership: borrows `data`.
 * Local.
 * Errors: none. */
bool ml_dataset_has_pairs(const ml_dataset *data);

/* How many sequences, one behind the other, are a row of texts that belong together: an anchor, its
 * positive, and as many negatives as there are more. 0: the sequences are no such rows.
 * Shapes: sequences.
 * Ownership: borrows `data`.
 * Local.
 * Errors: none. */
int64_t ml_dataset_related(const ml_dataset *data);

/* The date that the chat template wrote into the conversations, YYYY-MM-DDTHH:MM:SS; "" where it
 * wrote none. Only of a data set that this rank has read by itself.
 * Shapes: none.
 * Ownership: borrowed from `data`.
 * Local.
 * Errors: none. */
const char *ml_dataset_date(const ml_dataset *data);

/* SHA-256 of the content, and of the tokenizer, "" for ids without one; in hex.
 * Shapes: none.
 * Ownership: borrowed from `data`.
 * Local.
 * Errors: none. */
const char *ml_dataset_hash(const ml_dataset *data);
const char *ml_dataset_tokenizer_hash(const ml_dataset *data);

/* Length and number of targets of sequence i cut to max_len tokens (targets: mask set at positions
 * ≥ 1; where sequences have labels 1; where tokens have, how many).
 * Shapes: tokens; max_len 0: not cut.
 * Ownership: borrows `data`.
 * Local.
 * Errors: none. */
int64_t ml_dataset_length(const ml_dataset *data, int64_t i, int64_t max_len);
int64_t ml_dataset_targets(const ml_dataset *data, int64_t i, int64_t max_len);

/* Copies the first ml_dataset_length tokens and mask bytes (1: this token is a target) of sequence
 * i.
 * Shapes: tokens and mask: [ml_dataset_length(data, i, max_len)].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT on a read error. */
ml_status ml_dataset_read(const ml_dataset *data, int64_t i, int64_t max_len, int32_t *tokens,
                          uint8_t *mask) ML_NODISCARD;

/* Writing: create, add every sequence, finish. Nothing is seen under `path` until finish has
 * renamed the synced file into place; a file that was there stays until then. Memory: some
 * buffers. */
typedef struct ml_dataset_writer ml_dataset_writer;

/* Begins a data set. `tokenizer_hash`: "" for ids without a tokenizer; `max_len`: that the
 * sequences were made for, 0: none, kept for information.
 * Shapes: tokens.
 * Ownership: *out is the caller's until finish or discard; the texts are copied.
 * Local.
 * Errors: ML_RESOURCE, also where no file can be written beside `path`. */
ml_status ml_dataset_writer_create(ml_dataset_writer **out, const char *path, int64_t vocab,
                                   const char *tokenizer_hash, int64_t max_len) ML_NODISCARD;

/* Adds one sequence of count ≥ 1 tokens; mask[t] ≠ 0: token t is a target.
 * Shapes: tokens[count], mask[count].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT for an id outside the vocabulary; ML_RESOURCE; ML_INTERNAL for an empty
 * sequence. */
ml_status ml_dataset_writer_add(ml_dataset_writer *writer, const int32_t *tokens,
                                const uint8_t *mask, int64_t count) ML_NODISCARD;

/* Before finish: the date that a chat template wrote (ml_dataset_date), at most 63 characters.
 * Shapes: none.
 * Ownership: borrows both.
 * Local.
 * Errors: none. */
void ml_dataset_writer_set_date(ml_dataset_writer *writer, const char *date);

/* Before finish: the sequences, an even number, are pairs (ml_dataset_has_pairs).
 * Shapes: none.
 * Ownership: borrows `writer`.
 * Local.
 * Errors: none. */
void ml_dataset_writer_mark_pairs(ml_dataset_writer *writer);

enum { ML_MOST_RELATED = 64 };

/* Before finish: the sequences, a multiple of `count`, are rows of that many texts
 * (ml_dataset_related), 2 to ML_MOST_RELATED.
 * Shapes: none.
 * Ownership: borrows `writer`.
 * Local.
 * Errors: none. */
void ml_dataset_writer_mark_related(ml_dataset_writer *writer, int64_t count);

/* Puts the data set in its place and destroys the writer, also on failure.
 * Shapes: none.
 * Ownership: takes `writer`.
 * Local.
 * Errors: ML_INPUT where there is not one sequence; ML_RESOURCE; the file that was there stays
 * then. */
ml_status ml_dataset_writer_finish(ml_dataset_writer *writer) ML_NODISCARD;

/* Ends a writer without a data set; NULL is fine.
 * Shapes: none.
 * Ownership: takes `writer`.
 * Local.
 * Errors: none. */
void ml_dataset_writer_discard(ml_dataset_writer *writer);

/* ---- from a text file to a data set -------------------------------------------------------- */

typedef enum ml_text_format {
    ML_FORMAT_GUESS, /* by the first line: ids or jsonl where it begins as JSON does, e2e where it
                        has "||", else text */
    ML_FORMAT_JSONL, /* {"prompt": …, "completion": …}, {"text": …} or a conversation (chat.h): an
                        object a line, or over several, or in one array */
    ML_FORMAT_E2E,  /* prompt||completion a line */
    ML_FORMAT_TEXT, /* documents with an empty line between them; one longer than the limit becomes
                       several sequences */
    ML_FORMAT_IDS, /* {"input_ids": […], "labels": […]}, as jsonl; labels −100 or the token itself;
                      without labels all are targets */
    ML_FORMAT_GLUE, /* a table of GLUE's, with a task */
    ML_FORMAT_CONLL /* a word a line, its class in the last column; an empty line ends a sentence */
} ml_text_format;

typedef struct ml_tokenize_options {
    const char *in, *out;
    ml_text_format format;
    ml_tokenizer *tokenizer;    /* NULL: ids only */
    const char *tokenizer_hash; /* "" without a tokenizer */
    int64_t vocab, context;     /* of the base */
    int64_t max_len;            /* 0: the context */
    bool specials;              /* text that spells a special token becomes it */
    struct ml_chat *chat;       /* for conversations (chat.h), borrowed; NULL: there is no template,
                                   and they are refused */
    const char *task;           /* of a table: "cola", … (score --task); NULL for other formats */
    const ml_label_names *labels; /* what is known of them before, borrowed; NULL: nothing */
} ml_tokenize_options;

typedef struct ml_tokenize_report {
    ml_text_format format; /* as given or guessed */
    int64_t sequences, tokens, targets;
    int64_t shortest, longest, p95;
    double median, mean;
    int64_t limit; /* max_len or the context */
    int64_t longer,
        cut_tokens; /* sequences beyond the limit, which training cuts, and the tokens beyond it; of
                       texts with labels those that are left out of the data set */
    int64_t cut_texts;       /* with labels: cut to the limit, special tokens kept */
    int64_t left_out;        /* glue: lines without a text or label; conll: words without a token */
    int64_t without_target;  /* of these: how many lose every target */
    int64_t split_documents; /* text: documents that became several sequences */
    int64_t lost_bytes;      /* for which the vocabulary has no token */
    int64_t spelled;         /* special tokens that the texts spell */
    ml_label_kind label_kind;
    int64_t label_count;
} ml_tokenize_report;

/* The word of a format: "jsonl", "e2e", "text", "ids", "glue", "conll"; "guess".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_text_format_name(ml_text_format format);

/* Reads `in` as a stream and writes the data set `out`. Loss is on completions only, the
 * end-of-text token after them included; text that spells a special token stays text unless
 * options->specials. Columns of JSON that nothing reads are named in one warning.
 * Shapes: the report counts sequences, tokens and bytes.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT naming file and line for bad input, and for a sequence without a target, and
 * where text comes without a tokenizer; ML_USAGE for a max_len beyond the context or of 1 or less
 * than 0, and where `in` and `out` are one file; ML_RESOURCE. Nothing is written then. */
ml_status ml_tokenize_file(const ml_tokenize_options *options,
                           ml_tokenize_report *report) ML_NODISCARD;

/* ---- sampler ------------------------------------------------------------------------------- */

/* The order of the sequences: position p (from 0, unbounded) → sequence. Without shuffle p mod n
 * over the n usable sequences (those with a target after cutting) in file order; with it a new
 * keyed permutation each epoch (seed, epoch). A pure function of its arguments: the cursor of a
 * run is one number, and nothing depends on the grid. With group_prompts the sequences of one
 * prompt (the same tokens up to the first target) follow each other in file order, groups in the
 * order of their first sequences, and a shuffle permutes the groups. Of a joined data set each part
 * has its own order and epochs, and its share of the positions, exact to a sequence in every 4096
 * of them; without shuffle the parts alternate as evenly as their shares allow. */
typedef struct ml_sampler ml_sampler;
enum { ML_PAIR_BLOCK = 1000 };
typedef struct ml_sampler_order {
    bool shuffle, group_prompts;
    uint64_t seed;
    bool whole;  /* a pair of which a sequence would be cut is left out */
    bool apart;  /* the answers of a pair are sequences of their own */
    bool blocks; /* of these: the chosen answers of ML_PAIR_BLOCK pairs, then their rejected ones */
} ml_sampler_order;

/* The sampler of a data set whose sequences are cut to max_len tokens. Pairs stay together, the
 * chosen one at an even position, unless the order takes them apart; they have no groups of
 * prompts.
 * Shapes: max_len in tokens; 0: not cut.
 * Ownership: *out is the caller's, who ends it with ml_sampler_destroy; `data` is borrowed until
 * then.
 * Local.
 * Errors: ML_USAGE where no sequence keeps a target; ML_INPUT on a read error; ML_RESOURCE. */
ml_status ml_sampler_create(ml_sampler **out, const ml_dataset *data, int64_t max_len,
                            const ml_sampler_order *order) ML_NODISCARD;

/* Ends a sampler; NULL is fine.
 * Shapes: none.
 * Ownership: takes `sampler`.
 * Local.
 * Errors: none. */
void ml_sampler_destroy(ml_sampler *sampler);

/* How many sequences have a target, are left without one by cutting, and are longer than max_len.
 * Shapes: sequences.
 * Ownership: borrows `sampler`.
 * Local.
 * Errors: none. */
int64_t ml_sampler_usable(const ml_sampler *sampler);
int64_t ml_sampler_skipped(const ml_sampler *sampler);
int64_t ml_sampler_cut(const ml_sampler *sampler);

/* Whether the answers of pairs that were taken apart follow each other pair by pair.
 * Shapes: none.
 * Ownership: borrows `sampler`.
 * Local.
 * Errors: none. */
bool ml_sampler_alternates(const ml_sampler *sampler);

/* The i-th of the usable sequences as they lie in the files, whatever their order; with
 * group_prompts group by group.
 * Shapes: i from 0 to ml_sampler_usable − 1.
 * Ownership: borrows `sampler`.
 * Local.
 * Errors: none. */
int64_t ml_sampler_member(const ml_sampler *sampler, int64_t i);

/* The sequence at a position ≥ 0; the order of its epoch is made where it is not the one kept.
 * Shapes: none.
 * Ownership: borrows `sampler`.
 * Local.
 * Errors: none. */
int64_t ml_sampler_at(ml_sampler *sampler, int64_t position);

/* The most tokens that the sequences at `micro` consecutive positions can have together after
 * cutting: sizes the activations. Where two epochs meet a shuffled order may repeat a sequence, so
 * the longest ones count twice.
 * Shapes: tokens.
 * Ownership: borrows `sampler`.
 * Local.
 * Errors: none. */
int64_t ml_sampler_most_tokens(const ml_sampler *sampler, int64_t micro);

ML_END_DECLS

#endif
