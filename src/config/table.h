/* A configuration as a table of keys: one row a key says its path, type, range and place in a
 * struct. Reading, --set, writing and messages all follow it. */
#ifndef MPILORA_CONFIG_TABLE_H
#define MPILORA_CONFIG_TABLE_H

#include "mpilora/base.h"
#include "mpilora/config.h"

typedef enum key_kind {
    KEY_INT,     /* int64_t */
    KEY_SEED,    /* uint64_t */
    KEY_BYTES,   /* int64_t: 2200000000, 2.2G, 512MiB; null gives 0 where nullable */
    KEY_SECONDS, /* double: 90, 15m, 11:30:00; null gives 0 where nullable */
    KEY_EVERY,  /* ml_interval: a whole number of steps, or a time with its unit: 10m, 1h; the range
                   is the number's */
    KEY_REAL,   /* double; null gives 0 where nullable */
    KEY_LEAST,  /* double: 1e-5 or 2^-16; `off` gives 0 */
    KEY_BOOL,   /* bool */
    KEY_TEXT,   /* char *, owned; null gives NULL where nullable; one of `choices` where it has
                   some */
    KEY_CHOICE, /* an enum: the index of the word in `choices` */
    KEY_PAIR,   /* two doubles one after the other: [a, b] */
    KEY_TARGETS, /* unsigned: ml_target bits; a word or a list of words */
    KEY_LAYERS,  /* ml_layer_ranges: [0, 3, 6-9]; null gives none */
    KEY_SITES,   /* ml_module_patterns: {name: number, …}; null gives none; the range is the
                    numbers' */
    KEY_NAMES,   /* ml_module_patterns without numbers: [name, …] or one name; null gives none */
    KEY_FILES,   /* ml_data_files: a file, or [{file: …, weight: …}, …]; null gives none */
    KEY_WORDS,   /* ml_words: a word of `choices` or a list of them; null gives none */
    KEY_NUMBERS, /* ml_numbers: a number or a list of them; null gives none */
    KEY_RUNS     /* ml_run_list: [{dir: …, set: {key: value}}, …]; null gives none */
} key_kind;

typedef struct key {
    const char *path; /* "method.rank", "train.early_stop.patience" */
    key_kind kind;
    size_t offset;
    double least, most; /* of numbers, inclusive; an open end excludes its bound */
    bool open_least, open_most, nullable, whole; /* whole: KEY_SITES of whole numbers */
    const char *const *choices;                  /* NULL-ended */
    const char *about;  /* one sentence of Markdown; run configurations have it for every key */
    const char *absent; /* what counts where the key is absent, if that is no value */
} key;

/* The text of a YAML file, which rank 0 reads for all. Collective over the world. */
ml_status table_get_text(const char *path, ml_text *out) ML_NODISCARD;
/* A table ends with a row whose path is NULL. `line[i]`: where key i was given: its line in the
 * text, SET_LINE by --set; 0: it was not. `path` is the text's in messages. Local. */
enum { SET_LINE = -1 };
ml_status table_read_text(const key *table, void *out, int *line, const char *path,
                          const ml_text *text) ML_NODISCARD;
/* The two together. Collective over the world. */
ml_status table_read_file(const key *table, void *out, int *line, const char *path) ML_NODISCARD;
/* One "key=value"; the value is YAML. */
ml_status table_read_set(const key *table, void *out, int *line,
                         const char *assignment) ML_NODISCARD;
ml_status table_write(const key *table, const void *in, ml_text *out) ML_NODISCARD;
void table_free_values(const key *table, void *in); /* texts and lists */

/* value.c: one value of the document into its place. `where` begins messages: "file:line" or
 * "--set". */
struct yaml_document_s;
struct yaml_node_s;
ml_status value_read(const key *key, void *out, struct yaml_document_s *document,
                     struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status value_write(const key *key, const void *in, ml_text *out) ML_NODISCARD;
bool value_is_null(const struct yaml_node_s *node);
ml_status text_write(const char *text, ml_text *out) ML_NODISCARD; /* double-quoted; NULL: null */

/* describe.c: the page of Markdown that says of each key its type, range, default (as `defaults`
 * has it) and meaning, a table a section. */
ml_status table_describe(const key *table, const void *defaults, ml_text *out) ML_NODISCARD;

/* modules.c */
ml_status layers_read(const key *key, void *out, struct yaml_document_s *document,
                      struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status modules_read(const key *key, void *out, struct yaml_document_s *document,
                       struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status names_read(const key *key, void *out, struct yaml_document_s *document,
                     struct yaml_node_s *node, const char *where) ML_NODISCARD;
void modules_free(const key *key, void *in); /* of any kind */

/* files.c */
ml_status files_read(const key *key, void *out, struct yaml_document_s *document,
                     struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status files_write(const void *in, ml_text *out) ML_NODISCARD;
void files_free(void *in);

/* lists.c */
ml_status words_read(const key *key, void *out, struct yaml_document_s *document,
                     struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status words_write(const key *key, const void *in, ml_text *out) ML_NODISCARD;
ml_status numbers_read(const key *key, void *out, struct yaml_document_s *document,
                       struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status numbers_write(const void *in, ml_text *out) ML_NODISCARD;

/* objective.c: that the keys of `objective` go together; fills in its loss_type. */
ml_status objective_check(ml_run_config *config) ML_NODISCARD;
/* Whether a loss type reads objective.label_smoothing. */
bool objective_smooths(const ml_run_config *config);

/* numerics.c: that what is asked for has the same bits on every grid, where that is; fills in what
 * that needs of batch.micro and kernels.product. */
ml_status numerics_check(ml_run_config *config) ML_NODISCARD;

/* runs.c */
ml_status runs_read(const key *key, void *out, struct yaml_document_s *document,
                    struct yaml_node_s *node, const char *where) ML_NODISCARD;
ml_status runs_write(ml_text *out) ML_NODISCARD;
void runs_free(void *in);

/* duration.c: seconds of "90", "15m", "11:30:00" or "1-12:00:00"; false where it is none of
 * these. */
bool duration_read(const char *text, double *seconds);

/* run_keys.c: of run configurations */
extern const key run_keys[];
extern const char *const prefix_init_words[]; /* in the order of ml_prefix_init; NULL-ended */
extern const char *const pair_order_words[];  /* of ml_pair_order, likewise */
extern const char *const pooling_words[];     /* of ml_pooling, likewise */
extern const char *const schedule_words[];    /* of ml_schedule, likewise */

/* methods.c: in the order of ml_method */
extern const char *const method_words[]; /* NULL-ended */

/* targets.c */
unsigned target_bit(const char *word, size_t length); /* 0: unknown */
extern const char *const target_words[];              /* NULL-ended */

#endif
