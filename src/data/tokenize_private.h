/* What the formats share while a text file becomes a data set. */
#ifndef MPILORA_DATA_TOKENIZE_PRIVATE_H
#define MPILORA_DATA_TOKENIZE_PRIVATE_H

#include "data/ahead.h"
#include "data/chat_private.h"
#include "data/label_reader.h"
#include "data/rows.h"
#include "data/tokenizer/models/model.h"
#include "io/line_reader.h"
#include "mpilora/data.h"

typedef struct ml_tokenize_job {
    const ml_tokenize_options *options;
    ml_tokenize_report *report;
    ml_line_reader reader;
    ml_rows rows;    /* of JSON: over the reader */
    ml_ahead *ahead; /* over either, while rows are taken */
    int64_t line;    /* of the row in hand, from 1 */
    int64_t lost;    /* bytes of texts that were encoded ahead */
    json_t *ignored; /* names of columns that nothing reads, as keys */
    ml_dataset_writer *writer;
    ml_ids ids; /* of the sequence in hand */
    uint8_t *mask;
    int64_t mask_capacity;
    int64_t pairs;          /* written so far: two sequences each */
    int64_t related;        /* rows so far of texts that belong together */
    int64_t row_texts;      /* sequences of each of them */
    int64_t labelled;       /* sequences so far that have a label, or labels of tokens */
    bool two_texts;         /* those have two texts */
    ml_text text;           /* of a word */
    bool warned_of_prompts; /* that a chat template changes */
    bool judged;            /* the labels say of answers whether they are wanted */
    label_reader labels;
    int64_t *of_length; /* [capacity]: how many sequences are so long */
    int64_t of_length_capacity;
} ml_tokenize_job;

/* One sequence more in the report: its length, and how many targets it has, and keeps when it is
 * cut. */
ml_status ml_tokenize_count(ml_tokenize_job *job, int64_t count, int64_t targets,
                            int64_t kept) ML_NODISCARD;
/* Room for `count` mask bytes. */
ml_status ml_tokenize_make_mask(ml_tokenize_job *job, int64_t count) ML_NODISCARD;
/* Writes one sequence. ML_INPUT where none of its tokens after the first is a target, or an id is
 * outside the vocabulary. */
ml_status ml_tokenize_emit(ml_tokenize_job *job, const int32_t *tokens, const uint8_t *mask,
                           int64_t count) ML_NODISCARD;

/* Writes a pair of answers to a prompt, prompt.count tokens that stand before both. ML_INPUT where
 * they are equal, one is empty, or rows before it were no pairs. */
ml_status ml_tokenize_emit_pair(ml_tokenize_job *job, const ml_ids *prompt, const ml_ids *chosen,
                                const ml_ids *rejected) ML_NODISCARD;

/* Part of a text. */
typedef struct ml_slice {
    const char *data;
    int64_t length;
} ml_slice;

/* labelled_texts.c: how many tokens of a text, or of two, the limit leaves beside the template's
 * special ones. */
int64_t ml_tokenize_room(const ml_tokenize_job *job, bool pair);
/* One text, or a `pair`, as the template has it, cut to the limit with its special tokens kept:
 * ids into *out, types into *types, an array that is allocated anew and the caller's. ML_INPUT
 * where there is no room. */
ml_status ml_tokenize_fill(ml_tokenize_job *job, const ml_ids text[2], bool pair, ml_ids *out,
                           uint8_t **types) ML_NODISCARD;
/* Writes one text, or two where b is not NULL, with a label. ML_INPUT where one has no token, and
 * for two after one or the other way round. */
ml_status ml_tokenize_labelled_text(ml_tokenize_job *job, const ml_slice *a, const ml_slice *b,
                                    const json_t *label) ML_NODISCARD;
/* A row of jsonl: whether it is one of these, and it. */
bool ml_tokenize_is_labelled(const json_t *row);
ml_status ml_tokenize_labelled_row(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;
/* glue.c: that a table's task is known, and that none is given for another format. ML_USAGE. */
ml_status ml_tokenize_check_task(ml_text_format format, const char *name) ML_NODISCARD;
/* preference_chats.c. A row whose prompt is what chosen and rejected begin with in common: a copy
 * that has it apart; the caller ends it with json_decref. ML_INPUT where they do not begin alike.
 */
ml_status ml_tokenize_find_prompt(const json_t *row, json_t **out) ML_NODISCARD;
/* Of chosen and rejected that are lists of messages: whether they differ first in answers.
 * ML_INPUT naming the message that is none. */
ml_status ml_tokenize_check_prompts(const json_t *row) ML_NODISCARD;
/* The conversation of a row's prompt and the answer under `key`, or of the prompt alone where that
 * is NULL; the caller ends it with json_decref. ML_RESOURCE. */
ml_status ml_tokenize_part(const json_t *row, const char *key, json_t **out) ML_NODISCARD;
/* The tokens of a rendered text of the row in hand, where other threads have found them, and what
 * the row was rendered to. */
ml_chat_found ml_tokenize_find_rendered(ml_tokenize_job *job, const json_t *text);
/* The tokens of `count` lists of messages of a row, the first of them a prompt, the others answers
 * to it, each added to its part. ML_INPUT as the chat template. */
ml_status ml_tokenize_render_parts(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                                   int64_t count, ml_ids *part) ML_NODISCARD;

/* A row with a prompt, an answer and whether it is wanted: of texts, and of ids. */
ml_status ml_tokenize_judged(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;
ml_status ml_tokenize_judged_ids(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;

/* labelled.c: writes one sequence with its label. `types`: its token types; NULL: all 0. ML_INPUT
 * where rows before it had no label. */
ml_status ml_tokenize_emit_labelled(ml_tokenize_job *job, const int32_t *tokens,
                                    const uint8_t *types, int64_t count,
                                    const json_t *label) ML_NODISCARD;
/* The same with a class, or ML_LABEL_IGNORED, for each of its tokens: of one in the first `limit`
 * at least there has to be a class. */
ml_status ml_tokenize_emit_classes(ml_tokenize_job *job, const int32_t *tokens,
                                   const uint8_t *types, int64_t count,
                                   const int32_t *classes) ML_NODISCARD;
/* A column that may stand beside `count` ids where it has this number for each of them; `why`: what
 * is to be done. ML_INPUT. */
ml_status ml_tokenize_check_constant(const json_t *row, const char *key, json_int_t value,
                                     size_t count, const char *why) ML_NODISCARD;
/* A row of ids with a label, or with labels of its tokens. */
ml_status ml_tokenize_labelled_ids(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;

/* preferences.c: a row of texts, and one of ids, with a prompt, what was chosen and what was
 * rejected. */
ml_status ml_tokenize_preference(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;
ml_status ml_tokenize_preference_ids(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;

/* related.c: a row of an anchor, its positive and negatives: whether it is one, of texts, and of
 * ids. */
bool ml_tokenize_is_related(const json_t *row);
ml_status ml_tokenize_related(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;
ml_status ml_tokenize_related_ids(ml_tokenize_job *job, const json_t *row) ML_NODISCARD;

/* tokenize_rows.c: calls `one` for every row of a source, in order, with job->line at its line. */
ml_status ml_tokenize_each(ml_tokenize_job *job, const ml_ahead_source *source,
                           ml_status (*one)(void *self, ml_ahead_row *row),
                           void *self) ML_NODISCARD;
/* The lines of job->reader as a source, to which the caller adds what it encodes. */
ml_ahead_source ml_tokenize_lines(ml_tokenize_job *job);
bool ml_tokenize_is_blank(const char *line, int64_t length);
/* What nobody has called text is not learnt as such where it is none: a line with a zero byte is
 * ML_INPUT, wherever it stands in the file. */
ml_status ml_tokenize_check_text(const ml_tokenize_job *job, const ml_text *line) ML_NODISCARD;
/* Calls `one` for every row of job->rows. */
ml_status ml_tokenize_rows(ml_tokenize_job *job,
                           ml_status (*one)(ml_tokenize_job *job, const json_t *row)) ML_NODISCARD;
/* That no column of the row has a meaning of its own that is not known here; the others, but for
 * `keys`, are kept for one warning. `refused` and `keys` end with NULL; `hint`: what is expected.
 */
ml_status ml_tokenize_columns(ml_tokenize_job *job, const json_t *row, const char *const *keys,
                              const char *const *refused, const char *hint) ML_NODISCARD;
/* What is wrong with the value of a column: "is missing", "is null", or else as it is `otherwise`.
 */
const char *ml_tokenize_fault(const json_t *value, const char *otherwise);
/* ML_INPUT with `hint` for a row that lacks its columns, and with a column that may be meant for
 * one of `keys`. */
ml_status ml_tokenize_lacks(const json_t *row, const char *const *keys,
                            const char *hint) ML_NODISCARD;
/* Appends a text's ids to job->ids, those that were found ahead where they were, and counts the
 * special tokens that it spells. */
ml_status ml_tokenize_encode(ml_tokenize_job *job, const char *bytes, int64_t length) ML_NODISCARD;
/* What ends a text: end-of-text, and where a tokenizer has none, what its template puts there (an
 * encoder's [SEP]); −1: nothing. */
int32_t ml_tokenize_end(const ml_tokenizer *tokenizer);

/* ML_INPUT: `what` needs a chat template. */
ml_status ml_tokenize_no_chat(const ml_tokenize_job *job, const char *what) ML_NODISCARD;

/* The formats: each reads all of job->reader. Messages name the line but not the file. */
ml_status ml_tokenize_jsonl(ml_tokenize_job *job) ML_NODISCARD;
ml_status ml_tokenize_e2e(ml_tokenize_job *job) ML_NODISCARD;
ml_status ml_tokenize_ids(ml_tokenize_job *job) ML_NODISCARD;
ml_status ml_tokenize_text(ml_tokenize_job *job) ML_NODISCARD;
ml_status ml_tokenize_glue(ml_tokenize_job *job) ML_NODISCARD;
ml_status ml_tokenize_conll(ml_tokenize_job *job) ML_NODISCARD;

#endif
