/* data: tokenised data sets, how they are made of texts, and the sampler. */
#ifndef MPILORA_DATA_H
#define MPILORA_DATA_H

#include "mpilora/grid.h"
#include "mpilora/labels.h"
#include "mpilora/tokenizer.h"

ML_BEGIN_DECLS

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
 * Errors: ML_INPUT where vocabularies or tokenizers differ, ML_USAGE where two have the same
 * sequences, naming two files; ML_RESOURCE. */
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

/* One more owner of a data set, which is only ever read.
 * Shapes: none.
 * Ownership: each owner ends it with ml_dataset_destroy.
 * Local, on one thread, as ml_dataset_destroy.
 * Errors: none. */
ml_dataset *ml_dataset_share(ml_dataset *data);

/* Ends a data set where no other owner is left; NULL is fine.
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
    const char *chat_fault;     /* why there is none, behind "no chat template"; NULL: not known */
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
    int64_t labels_met; /* how many of the classes occur; 0 where they have names */
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
