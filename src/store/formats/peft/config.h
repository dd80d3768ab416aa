/* peft_config: adapter_config.json, read strictly. An internal module. */
#ifndef MPILORA_STORE_FORMATS_PEFT_CONFIG_H
#define MPILORA_STORE_FORMATS_PEFT_CONFIG_H

#include "io/json.h"

/* What PEFT does to the base when the adapter begins: nothing, or what changed_base.c undoes. */
typedef enum ml_peft_start {
    ML_PEFT_START_PLAIN,
    ML_PEFT_START_PISSA,
    ML_PEFT_START_OLORA
} ml_peft_start;

typedef struct ml_peft_config {
    json_t *json;   /* owned */
    int64_t tokens; /* of prompt or prefix tuning; 0: LoRA */
    bool keys;      /* prefix tuning */
    int64_t width;  /* of them (token_dim); 0: not said */
    int64_t rank;
    double alpha, dropout;
    bool rslora, dora;
    bool biases; /* of the base are trained: all of them, or those of adapted modules */
    ml_peft_start start;
} ml_peft_config;

/* The keys that ml_peft_config_parse and what follows it look at, with the kinds that they may
 * have: of every type of adapter, of LoRA's, of prompt and prefix tuning's. */
extern const ml_json_key ml_peft_name_keys[], ml_peft_lora_keys[], ml_peft_prompt_keys[];

/* ML_INPUT naming the key where it is neither LoRA nor prompt or prefix tuning, or what it says
 * changes the mathematics and is not known here. A key that PEFT 0.21 does not have is named in a
 * warning. */
ml_status ml_peft_config_parse(ml_peft_config *out, const char *text, int64_t length) ML_NODISCARD;
/* Whether a name is the whole path or its end behind a dot. */
bool ml_peft_ends_with(const char *path, const char *name);
/* Whether modules_to_save means the path by this name: it is the end of the path, in PEFT also
 * within a word ("norm" of "input_layernorm"), or of a module that the path is a part of
 * ("classifier" of "classifier.dense"). */
bool ml_peft_lies_in(const char *path, const char *name);

/* ensure_weight_tying: what is said of an embedding or of the head that is tied to it is meant of
 * both. */
bool ml_peft_config_ties(const ml_peft_config *config);

/* Whether modules_to_save, or ensure_weight_tying where it stands outside the layers, says that the
 * module of this path was trained whole. */
bool ml_peft_config_saves(const ml_peft_config *config, const char *path, bool outside);
void ml_peft_config_destroy(ml_peft_config *config);

/* ML_INPUT for an initialisation that cannot be undone here; it names PEFT's conversion. */
ml_status ml_peft_refuse_start(const char *name) ML_NODISCARD;

/* Whether PEFT would adapt the module of this full path, and with which rank and alpha. ML_INPUT
 * where a pattern is no regular expression. */
ml_status ml_peft_config_targets(const ml_peft_config *config, const char *path, int64_t layer,
                                 bool *yes) ML_NODISCARD;
ml_status ml_peft_config_rank(const ml_peft_config *config, const char *path,
                              int64_t *rank) ML_NODISCARD;
ml_status ml_peft_config_alpha(const ml_peft_config *config, const char *path,
                               double *alpha) ML_NODISCARD;

#endif
