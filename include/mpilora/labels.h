/* labels: what the sequences of a data set are to be told apart by, and token types.
 *
 * A labelled data set has one target a sequence, its label: a class, a number, or a bit for each of
 * several classes that do not exclude each other. Or it has a class a token, −100 where there is
 * none. Its mask says of which tokens there is a class, and is zero of the other kinds. Or it has
 * answers to prompts, which its mask tells apart, and of each whether it is wanted. */
#ifndef MPILORA_LABELS_H
#define MPILORA_LABELS_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

typedef struct ml_dataset ml_dataset; /* data.h */
typedef struct ml_dataset_writer ml_dataset_writer;

/* The numbers are those of the file's attribute label_kind. */
typedef enum ml_label_kind {
    ML_LABEL_NONE = 0,
    ML_LABEL_CLASS = 1,  /* 0 … count − 1 */
    ML_LABEL_NUMBER = 2, /* to regress; count is 1 */
    ML_LABEL_BITS = 3,   /* count of them, 0 or 1 */
    ML_LABEL_TOKENS = 4, /* a class a token, or ML_LABEL_IGNORED */
    ML_LABEL_WANTED = 5  /* 1: such an answer is wanted, 0: it is not; count is 2 */
} ml_label_kind;

enum { ML_LABEL_IGNORED = -100, ML_MOST_LABELS = 1 << 20 };

/* The word of a kind: "none", "class", "number", "bits", "tokens", "wanted".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_label_kind_name(ml_label_kind kind);

/* What labels a data set has; how many classes or bits, 1 of numbers, 0 without labels; and their
 * names as a JSON array of `count` texts, "" where they have none.
 * Shapes: none.
 * Ownership: borrowed from `data`.
 * Local.
 * Errors: none. */
ml_label_kind ml_dataset_label_kind(const ml_dataset *data);
int64_t ml_dataset_label_count(const ml_dataset *data);
const char *ml_dataset_label_names(const ml_dataset *data);

/* The label of sequence i: a class or a number in out[0], or the bits as 0 and 1. NONE and TOKENS:
 * nothing is written.
 * Shapes: out[1], or out[count] of bits.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT on a read error. */
ml_status ml_dataset_read_label(const ml_dataset *data, int64_t i, float *out) ML_NODISCARD;

/* TOKENS: the classes of the first ml_dataset_length tokens of sequence i, ML_LABEL_IGNORED where
 * there is none; of other kinds all are ignored.
 * Shapes: out[ml_dataset_length(data, i, max_len)].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT on a read error. */
ml_status ml_dataset_read_token_labels(const ml_dataset *data, int64_t i, int64_t max_len,
                                       int32_t *out) ML_NODISCARD;

/* The token types of sequence i, 0 where the data set stores none; and the largest type of all
 * + 1.
 * Shapes: out[ml_dataset_length(data, i, max_len)].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT on a read error. */
ml_status ml_dataset_read_types(const ml_dataset *data, int64_t i, int64_t max_len,
                                uint8_t *out) ML_NODISCARD;
int64_t ml_dataset_type_count(const ml_dataset *data);

/* That the labels of `other` mean what those of `data` mean: one kind and the same names; without
 * names no more classes, and as many bits.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT naming both files and what differs. */
ml_status ml_dataset_check_labels(const ml_dataset *data, const ml_dataset *other) ML_NODISCARD;

/* What is known of the labels before a text file is read: from --labels, and from the base's
 * config.json. Start from {0}. */
typedef struct ml_label_names {
    ml_label_kind kind; /* NUMBER: whole numbers are numbers, too; NONE: the data tell */
    int64_t count;      /* 0: the data tell */
    char *names;        /* owned JSON array of `count` texts; NULL: there are none */
    char *base;         /* owned JSON array: the base's classes in their order; NULL: none */
    int64_t unnamed;    /* the base has so many classes, which are not told apart by their names
                           (LABEL_0 …, or one twice); 0: it has none or has names */
} ml_label_names;

/* What `given` says: "number", a number of classes, names with commas between them, a text file
 * with a name a line or a JSON list, or a labelled data set, whose own are taken.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_label_names_destroy, also after a failure.
 * Local.
 * Errors: ML_INPUT naming file and line, for a name that is empty or there twice, and fewer than
 * two; ML_RESOURCE. */
ml_status ml_label_names_read(ml_label_names *out, const char *given) ML_NODISCARD;

struct json_t; /* jansson.h */

/* The classes that a config.json of transformers says, read with jansson: *count of them, 0 where
 * it says nothing (transformers' default is two), and *names, its id2label, a name for each of "0"
 * … "count − 1". num_labels holds where it says another number; *names is NULL then, as where there
 * is no id2label.
 * Shapes: none.
 * Ownership: *names is borrowed from `config`.
 * Local.
 * Errors: ML_INPUT naming the key, for an id2label with a hole and a num_labels out of range. */
ml_status ml_labels_of_config(const struct json_t *config, int64_t *count,
                              const struct json_t **names) ML_NODISCARD;

/* id2label of a config.json into out->base, or out->unnamed where its names are LABEL_0 …, or one
 * is there twice, or where num_labels says that they are not this head's.
 * Shapes: json[length] bytes.
 * Ownership: as ml_label_names_read.
 * Local.
 * Errors: ML_INPUT for an id2label that is no table of 0 … n − 1; ML_RESOURCE. */
ml_status ml_label_names_of_config(ml_label_names *out, const char *json,
                                   int64_t length) ML_NODISCARD;

/* Ends what was read.
 * Shapes: none.
 * Ownership: takes what `names` owns.
 * Local.
 * Errors: none. */
void ml_label_names_destroy(ml_label_names *names);

/* Before the first label is added: the sequences have labels of this kind, `count` of them. A
 * `count` of 0 for CLASS and TOKENS is settled by ml_dataset_writer_name_labels. `names`: a JSON
 * array of `count` texts, or "".
 * Shapes: none.
 * Ownership: `names` is copied.
 * Local.
 * Errors: ML_INPUT where the names are too long for the file (60,000 bytes); ML_RESOURCE. */
ml_status ml_dataset_writer_labels(ml_dataset_writer *writer, ml_label_kind kind, int64_t count,
                                   const char *names) ML_NODISCARD;

/* CLASS and TOKENS, before finish: how many classes there are and what they are called, and the
 * class that each number added so far stands for.
 * Shapes: number[count], of which those of numbers that were added are different and below count;
 * NULL: they stay.
 * Ownership: all copied.
 * Local.
 * Errors: as ml_dataset_writer_labels. */
ml_status ml_dataset_writer_name_labels(ml_dataset_writer *writer, int64_t count, const char *names,
                                        const int32_t *number) ML_NODISCARD;

/* How many classes or bits there are, as far as it is settled.
 * Shapes: none.
 * Ownership: borrows `writer`.
 * Local.
 * Errors: none. */
int64_t ml_dataset_writer_label_count(const ml_dataset_writer *writer);

/* After each ml_dataset_writer_add, for the sequence that it added: its label, as
 * ml_dataset_read_label gives it; of TOKENS a class for each of its tokens; and, of any data set,
 * the token types where one is not 0.
 * Shapes: values[1] or [count]; classes and types: [tokens of the sequence].
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT for a value that the kind does not have; ML_RESOURCE. */
ml_status ml_dataset_writer_add_label(ml_dataset_writer *writer, const float *values) ML_NODISCARD;
ml_status ml_dataset_writer_add_token_labels(ml_dataset_writer *writer,
                                             const int32_t *classes) ML_NODISCARD;
ml_status ml_dataset_writer_add_types(ml_dataset_writer *writer, const uint8_t *types) ML_NODISCARD;

ML_END_DECLS

#endif
