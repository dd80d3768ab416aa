/* The prompts and adapters of `generate`: from the command line or a file of JSON lines. */
#ifndef MPILORA_CLI_SUPPORT_PROMPTS_H
#define MPILORA_CLI_SUPPORT_PROMPTS_H

#include <jansson.h>

#include "cli/support/chat_template.h"
#include "cli/support/options.h"
#include "mpilora/generate.h"

/* An adapter as it is called here and where it is. */
typedef struct named_adapter {
    char *name, *path;
} named_adapter;

typedef struct prompts {
    int64_t given, nadapters, count,
        capacity; /* given: adapters of the command line, the first ones */
    named_adapter adapters[OPTION_REPEATS];
    ml_prompt *items;
    char **texts;     /* [count] what the items' texts, or ids, point to */
    json_t *unread;   /* names of members of a file's lines that say nothing here; owned */
    bool chat;        /* they are conversations as JSON: a text is what the user says */
    int32_t turn_end; /* the token that ends an answer; −1: none is known */
} prompts;

/* Each word is NAME=PATH or PATH, its own name. ML_USAGE where a name comes twice. */
ml_status prompts_name_adapters(prompts *p, const option_list *words) ML_NODISCARD;
/* Every text under every adapter, adapter by adapter; without adapters under the base alone. */
ml_status prompts_add_texts(prompts *p, const option_list *texts) ML_NODISCARD;
/* Lines {"prompt": …, "adapter": NAME}, of which other members are named once; "adapter": null is
 * the base alone, without the member the one adapter that was named, or the base. A name that was
 * not given is the path of an adapter that is there. ML_INPUT naming file and line. Collective over
 * the world: rank 0 reads the file.
 */
ml_status prompts_read(prompts *p, const char *path) ML_NODISCARD;
/* The conversations become the texts that a chat template makes of them, and turn_end is found.
 * `base`: where the template is from, unless `given` names one. ML_INPUT naming file and line.
 * Collective over the world: rank 0 renders. */
ml_status prompts_render(prompts *p, const char *base, const chat_given *given,
                         const char *file) ML_NODISCARD;
/* NULL: the base alone. */
const char *prompts_adapter_name(const prompts *p, int64_t i);
void prompts_destroy(prompts *p);

#endif
