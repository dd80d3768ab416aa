/* Where tokenizers come from: each source becomes a tokenizer.json. */
#ifndef MPILORA_DATA_TOKENIZER_SOURCES_H
#define MPILORA_DATA_TOKENIZER_SOURCES_H

#include "io/json.h"
#include "mpilora/data.h"

/* What is known of a source's tokenizer so far. */
typedef struct ml_source {
    json_t *root;        /* its tokenizer.json, owned */
    ml_text text;        /* the file that root was read from; empty: root was made */
    int64_t begin, end;  /* −1: nothing */
    bool begin_is_usual; /* where no configuration says whether texts begin with `bos` */
    int64_t bos;         /* the token that would; −1: none */
} ml_source;

void ml_source_destroy(ml_source *s);
/* Appends the canonical text. ML_INPUT where no tokenizer can be made of it. Local. */
ml_status ml_source_write(ml_source *s, ml_text *out) ML_NODISCARD;
/* The id of a token by its text, added ones too, or −1. Local. */
int64_t ml_source_find(const ml_source *s, const char *text);

/* The configuration files of a model directory, read once; NULL for one that is absent. */
typedef enum ml_config_file {
    ML_CONFIG_TOKENIZER, /* tokenizer_config.json */
    ML_CONFIG_SPECIALS,  /* special_tokens_map.json */
    ML_CONFIG_GENERATION,
    ML_CONFIG_MODEL,
    ML_CONFIG_FILES
} ml_config_file;

typedef struct ml_directory {
    const char *path;
    json_t *config[ML_CONFIG_FILES]; /* owned */
} ml_directory;

/* The kinds of the keys that are looked at in files that name tokens by text, and by numbers. */
extern const ml_json_key ml_token_text_keys[], ml_token_id_keys[];

/* vocab.json + merges.txt or encoder.json + vocab.bpe; vocab.txt; a SentencePiece model. *found
 * false where the files are not there. ML_INPUT naming the file. Local, as all of these. */
ml_status ml_source_read_bpe(ml_source *s, const ml_directory *d, bool *found) ML_NODISCARD;
ml_status ml_source_read_words(ml_source *s, const ml_directory *d, bool *found) ML_NODISCARD;
ml_status ml_source_read_sentencepiece(ml_source *s, const ml_directory *d,
                                       bool *found) ML_NODISCARD;
/* Adds added_tokens.json, added_tokens_decoder and the special tokens of the configurations to
 * root's added tokens. */
ml_status ml_source_add_tokens(ml_source *s, const ml_directory *d) ML_NODISCARD;

/* The text of a token in a configuration: a text, or an object with "content"; NULL: none. */
const char *ml_config_token(const json_t *config, const char *key);

#endif
