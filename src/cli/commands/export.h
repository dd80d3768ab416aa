/* export: what the formats of `mpilora export` share; one file a format. */
#ifndef MPILORA_CLI_COMMANDS_EXPORT_H
#define MPILORA_CLI_COMMANDS_EXPORT_H

#include "mpilora/store.h"

typedef struct export_request {
    const char *base_path, *out;
    ml_base *base;       /* open */
    const char *adapter; /* NULL: none given */
    const char *name;    /* for base_model_name_or_path; NULL: what the base itself says */
    const char *dtype;   /* of a GGUF file's matrices; NULL: as the base keeps them */
    bool merge;          /* the adapter goes into the weights */
} export_request;

/* export_peft.c: an adapter as a PEFT directory. */
ml_status export_peft(const export_request *request) ML_NODISCARD;
/* export_hf.c: a base as a directory that transformers loads. */
ml_status export_hf(const export_request *request) ML_NODISCARD;
/* export_gguf.c: a base, an adapter or a merged model as a GGUF file. */
ml_status export_gguf(const export_request *request) ML_NODISCARD;

#endif
