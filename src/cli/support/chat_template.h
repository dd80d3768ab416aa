/* The chat template of a command line or of a base. */
#ifndef MPILORA_CLI_SUPPORT_CHAT_TEMPLATE_H
#define MPILORA_CLI_SUPPORT_CHAT_TEMPLATE_H

#include "mpilora/chat.h"
#include "mpilora/store.h"

typedef struct chat_given {
    const char *file; /* of --chat-template; NULL: the base's */
    const char *loss; /* of --loss; NULL: assistant */
    const char *date; /* of --date; NULL: now */
} chat_given;

/* The renderer of conversations, or NULL where neither names a template. The file is a template's
 * text, or a tokenizer_config.json, of which its special tokens are taken too. What is wrong with
 * the base's own template, which then counts as none, is added to *fault as a remark in brackets:
 * only conversations need it. ML_USAGE, ML_INPUT naming the file. Local. */
ml_status chat_template_open(ml_chat **out, const chat_given *given, const ml_base *base,
                             ml_tokenizer *tokenizer, ml_text *fault) ML_NODISCARD;
/* The same where a conversation is certain to come. Without a template ML_INPUT, naming `path`, the
 * base's, and what is wrong with its own. */
ml_status chat_template_require(ml_chat **out, const chat_given *given, const ml_base *base,
                                const char *path, ml_tokenizer *tokenizer) ML_NODISCARD;
/* Appends the text of the base's own template, and of its other one for conversations with tools;
 * nothing where it has none. ML_INPUT. Local. */
ml_status chat_template_texts(const ml_base *base, ml_text *plain,
                              ml_text *with_tools) ML_NODISCARD;

#endif
