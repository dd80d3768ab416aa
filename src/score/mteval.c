/* The tokens of NIST's mteval-v13a for western languages, rule after rule as the header says; each
 * rule goes over the whole text from left to right and what it matched is not looked at again by
 * the same rule. */
#include "score/characters.h"
#include "score/corpus.h"

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_stop(char c) { return c == '.' || c == ','; }

/* Visible ASCII but letters, digits and ' , - . */
static bool stands_alone(char c)
{
    return (c >= '!' && c <= '&') || (c >= '(' && c <= '+') || c == '/' || (c >= ':' && c <= '@') ||
           (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

static ml_status replace(ml_text *text, const char *from, const char *to)
{
    ml_status st = ML_OK;
    ml_text out = {0};
    size_t length = strlen(from);
    const char *at = text->data, *end = text->data + text->length, *hit;
    if (!memmem(at, (size_t)text->length, from, length)) return ML_OK;
    while ((hit = memmem(at, (size_t)(end - at), from, length))) {
        ML_TRY(ml_text_add(&out, at, hit - at));
        ML_TRY(ml_text_add(&out, to, (int64_t)strlen(to)));
        at = hit + length;
    }
    ML_TRY(ml_text_add(&out, at, end - at));
    ml_text_destroy(text);
    *text = out;
    return ML_OK;
done:
    ml_text_destroy(&out);
    return st;
}

static ml_status plain(ml_text *text)
{
    static const char *const rules[][2] = {{"<skipped>", ""}, {"-\n", ""},    {"\n", " "},
                                           {"&quot;", "\""},  {"&amp;", "&"}, {"&lt;", "<"},
                                           {"&gt;", ">"}};
    ml_status st = ML_OK;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        ML_TRY(replace(text, rules[i][0], rules[i][1]));
done:
    return st;
}

typedef enum rule {
    PUNCTUATION,       /* a sign that stands alone */
    STOP_BEHIND_OTHER, /* . or , behind what is no digit */
    STOP_BEFORE_OTHER, /* . or , before what is no digit */
    DASH_BEHIND_DIGIT,
    RULES
} rule;

/* How many bytes at `t` (of `left`) the rule takes, 0 where it does not hold; *before, *between,
 * *behind: where it puts blanks. */
static int matches(rule r, const char *t, int64_t left, bool *before, bool *between, bool *behind)
{
    *before = r == PUNCTUATION || r == STOP_BEFORE_OTHER;
    *between = r != PUNCTUATION;
    *behind = r != STOP_BEFORE_OTHER;
    if (r == PUNCTUATION) return stands_alone(t[0]) ? 1 : 0;
    if (left < 2) return 0;
    bool holds = r == STOP_BEHIND_OTHER   ? !is_digit(t[0]) && is_stop(t[1])
                 : r == STOP_BEFORE_OTHER ? is_stop(t[0]) && !is_digit(t[1])
                                          : is_digit(t[0]) && t[1] == '-';
    return holds ? 2 : 0;
}

static ml_status apply(rule r, ml_text *text)
{
    ml_status st = ML_OK;
    ml_text out = {0};
    for (int64_t at = 0; at < text->length;) {
        bool before, between, behind;
        const char *t = text->data + at;
        int taken = matches(r, t, text->length - at, &before, &between, &behind);
        if (taken && before) ML_TRY(ml_text_add(&out, " ", 1));
        ML_TRY(ml_text_add(&out, t, 1));
        if (taken && between) ML_TRY(ml_text_add(&out, " ", 1));
        if (taken == 2) ML_TRY(ml_text_add(&out, t + 1, 1));
        if (taken && behind) ML_TRY(ml_text_add(&out, " ", 1));
        at += taken ? taken : 1;
    }
    ml_text_destroy(text);
    *text = out;
    return ML_OK;
done:
    ml_text_destroy(&out);
    return st;
}

/* The words between blanks; *any: there is one. */
static ml_status split(token_list *list, const ml_text *text, bool *any)
{
    ml_status st = ML_OK;
    int64_t begin = 0;
    *any = false;
    int size;
    for (int64_t at = 0; at < text->length; at += size) {
        if (!is_blank(utf8_at(text->data, at, &size))) continue;
        if (at > begin) ML_TRY(token_list_add(list, text->data + begin, at - begin));
        *any = *any || at > begin;
        begin = at + size;
    }
done:
    return st;
}

static ml_status cut_text(token_list *list, const char *text, int64_t length, bool *any)
{
    ml_status st = ML_OK;
    ml_text work = {0}, lower = {0};
    ML_TRY(ml_text_add(&work, text, length));
    ML_TRY(plain(&work));
    ML_TRY(ml_text_add(&lower, " ", 1));
    ML_TRY(add_lower(&lower, work.data, work.length));
    ML_TRY(ml_text_add(&lower, " ", 1));
    for (rule r = 0; r < RULES; r++) ML_TRY(apply(r, &lower));
    ML_TRY(split(list, &lower, any));
done:
    ml_text_destroy(&work);
    ml_text_destroy(&lower);
    return st;
}

static ml_status cut(token_list *list, const char *text, int64_t length, const void *rules)
{
    bool any;
    (void)rules;
    return cut_text(list, text, length, &any);
}

static ml_status cut_never_none(token_list *list, const char *text, int64_t length,
                                const void *rules)
{
    bool any;
    (void)rules;
    ml_status st = cut_text(list, text, length, &any);
    return st == ML_OK && !any ? token_list_add(list, "", 0) : st;
}

const tokenizer mteval_words = {cut, NULL, NULL}, mteval_never_none = {cut_never_none, NULL, NULL};
