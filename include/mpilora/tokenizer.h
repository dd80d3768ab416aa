/* tokenizer: texts to tokens and back, and a tokenizer's own text from files of several kinds. */
#ifndef MPILORA_TOKENIZER_H
#define MPILORA_TOKENIZER_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

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

/* Appends the tokens that go before every text: the one of ml_tokenizer_begin_of_text, and those
 * that the post-processor has behind it before the text (GLM-4 has [gMASK]<sop>).
 * Shapes: ids->data[ids->count], which grows.
 * Ownership: `ids` is the caller's; `tokenizer` is borrowed.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_tokenizer_begin(const ml_tokenizer *tokenizer, ml_ids *ids) ML_NODISCARD;

/* The largest id + 1; the token that ends a text (−1: none); the first that goes before every text
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

ML_END_DECLS

#endif
