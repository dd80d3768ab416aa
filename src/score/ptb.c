/* Penn Treebank tokens as Stanford's PTBTokenizer cuts them, in lower case, without those that the
 * MS COCO caption evaluation leaves out (quotes, . ? ! , : ; - -- and three dots). Brackets stay
 * as -lrb- …, pounds are #: the evaluation's own list has them in capitals, its tokens are in
 * lower case. */
#include "score/characters.h"
#include "score/corpus.h"
#include "score/ptb_rules.h"

static ml_status open(void **rules) { return ptb_rules_create((ptb_rules **)rules); }
static void close(void *rules) { ptb_rules_destroy(rules); }

static ml_status add(token_list *list, ml_text *lower, const char *text, const ptb_token *token)
{
    if (token->becomes)
        return *token->becomes
                   ? token_list_add(list, token->becomes, (int64_t)strlen(token->becomes))
                   : ML_OK;
    lower->length = 0;
    ml_status st = add_lower(lower, text, token->length);
    return st == ML_OK ? token_list_add(list, lower->data, lower->length) : st;
}

static ml_status cut(token_list *list, const char *text, int64_t length, const void *rules)
{
    ml_status st = ML_OK;
    ml_text lower = {0};
    int size;
    for (int64_t at = 0; at < length;) {
        if (is_blank(utf8_at(text, at, &size))) {
            at += size;
            continue;
        }
        ptb_token token = ptb_rules_match(rules, text, length, at);
        if (token.length > 0) ML_TRY(add(list, &lower, text + at, &token));
        at += ml_max(token.length, size);
    }
done:
    ml_text_destroy(&lower);
    return st;
}

const tokenizer ptb_words = {cut, open, close};
