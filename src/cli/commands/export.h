/* export: what the formats of `mpilora export` share; one file a format. */
#ifndef MPILORA_CLI_COMMANDS_EXPORT_H
#define MPILORA_CLI_COMMANDS_EXPORT_H

#include "mpilora/store.h"

typedef struct export_request {
    const char *base_path, *out;
    ml_base *base;       /* open */
    const char *adapter; /* NULL: none given */
    const char *name;    /* for base_model_name_or_path; NULL: the base's path */
} export_request;

/* export_peft.c: an adapter as a PEFT directory. */
ml_status export_peft(const export_request *request) ML_NODISCARD;
/* export_hf.c: a base as a directory that transformers loads. */
ml_status export_hf(const export_request *request) ML_NODISCARD;

#endif
