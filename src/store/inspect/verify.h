/* verify: a list of what was checked. An internal module. */
#ifndef MPILORA_STORE_INSPECT_VERIFY_H
#define MPILORA_STORE_INSPECT_VERIFY_H

#include <jansson.h>

#include "mpilora/base.h"

typedef struct verify_list {
    json_t *checked; /* owned by the caller */
    bool whole;
} verify_list;

/* One line: right with what was found, or wrong with the reason. */
void verify_right(verify_list *list, const char *path, const char *format, ...) ML_PRINTF(3, 4);
void verify_wrong(verify_list *list, const char *path, const char *format, ...) ML_PRINTF(3, 4);
/* Where `st` is a failure: the line with its text, the path at its beginning left out; true where
 * all was well. */
bool verify_status(verify_list *list, const char *path, ml_status st);

void verify_base(verify_list *list, const char *path);
void verify_dataset(verify_list *list, const char *path);
void verify_adapter(verify_list *list, const char *path);
void verify_peft(verify_list *list, const char *directory);
void verify_checkpoint(verify_list *list, const char *path);
/* verify_run.c */
void verify_run(verify_list *list, const char *path);

#endif
