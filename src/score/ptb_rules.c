/* The rules of the Penn Treebank's tokens, as patterns. A rule's group 1 is the token, where it
 * has one; the rest of what it matches only counts for its length, as do the lexers' trailing
 * contexts. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "score/ptb_rules.h"

#define LETTER "[\\p{L}\\p{M}]"
#define WORD_SIGN "[\\p{L}\\p{M}\\p{Nd}]"
#define WORD LETTER WORD_SIGN "*(?:[.!?]" LETTER WORD_SIGN "*)*"
#define QUOTE "['\u2019]"
#define CLITIC QUOTE "(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define NOT "[nN]" QUOTE "[tT]"
#define NUMBER "(?:\\p{Nd}*(?:[.:,]\\p{Nd}+)+|\\p{Nd}+)"
#define PART "(?:[dDoOlL]" QUOTE ")?" WORD_SIGN "+"
#define ACRONYM "[A-Za-z](?:\\.[A-Za-z])*"
#define OF_PATH "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
#define NO_MARK "[^\\s\"<>|()]"
#define NO_STOP "[^\\s\"<>|.!?(){},-]"

static const struct {
    const char *pattern, *becomes;
} rules[] = {
    /* words that are cut in two */
    {"(?i)(can)not", NULL},
    {"(?i)((?:gon|wan)(?=na)|got(?=ta))(?:na|ta)", NULL},
    {"(?i)(lem|gim)me", NULL},
    {"(?i)(" QUOTE "t)(?:is|was)", NULL},
    {"(?i)(y" QUOTE ")all", NULL},
    /* marks of HTML */
    {"<[!?]?/?[A-Za-z][^<>\\r\\n]*>", NULL},
    {"(?i)&amp;", "&"},
    {"(?i)&lt;", "<"},
    {"(?i)&gt;", ">"},
    {"(?i)&(?:quot|apos|nbsp);", ""},
    /* words, with what follows them behind an apostrophe */
    {"(" WORD ")" CLITIC, NULL},
    {"(" LETTER "+)" NOT, NULL},
    {WORD, NULL},
    {QUOTE "[nN]" QUOTE "?|[lLdDjJ]" QUOTE "|" QUOTE "[eE][mM]|" QUOTE "[2-9]0s|(?i)o" QUOTE
           "clock|c" QUOTE "mon|ma" QUOTE "am|" QUOTE "till?|" QUOTE "cause",
     NULL},
    {"(" CLITIC ")(?![A-Za-z])", NULL},
    {"(" NOT ")(?![A-Za-z])", NULL},
    /* addresses */
    {"https?://" NO_MARK "+" NO_STOP, NULL},
    {"(?:www\\.(?:[^\\s\"<>|.!?(){},]+\\.)+[a-zA-Z]{2,4}|(?:[^\\s\"`'<>|.!?(){},\\-_$]+\\.)+(?:com|"
     "net|org|edu))(?:/" NO_MARK "+" NO_STOP ")?",
     NULL},
    {"[a-zA-Z0-9][^\\s\"<>|(){}]*@(?:[^\\s\"<>|(){}.]+\\.)+[a-zA-Z]{2,4}", NULL},
    {"@[A-Za-z_][A-Za-z_0-9]*|#" LETTER "+", NULL},
    /* numbers */
    {"\\p{Nd}{1,2}[-/]\\p{Nd}{1,2}[-/]\\p{Nd}{2,4}", NULL},
    {"[-+]?" NUMBER, NULL},
    {"(?:\\p{Nd}{1,4}[- \u00a0])?\\p{Nd}{1,4}/\\p{Nd}{1,4}", NULL},
    {"\u00bd", "1/2"},
    {"\u00bc", "1/4"},
    {"\u00be", "3/4"},
    {"\u00a3", "#"},
    {"\u20ac", "$"},
    {"\u00a2", "cents"},
    {"(?:US|HK|NZ|[ACS])?\\$", NULL},
    /* with signs inside */
    {OF_PATH "(?:/" OF_PATH "){1,2}", NULL},
    {PART "(?:-" PART ")*", NULL},
    {WORD_SIGN "[A-Za-z0-9.,]*(?:-(?:" ACRONYM "\\.|[A-Za-z0-9]+))+(?![A-Za-z0-9.+])", NULL},
    {WORD_SIGN "+(?:_" WORD_SIGN "+)+", NULL},
    {"[A-Z]+(?:[+&][A-Z]+)+|C\\+\\+", NULL},
    /* abbreviations */
    {"(?:[A-Za-z]\\.){2,}|[A-HJ-Za-z]\\.|I\\.(?!\\s+[A-Z])", NULL},
    {"(" WORD "\\.)[,;:]", NULL},
    {"(?:Mr|Mrs|Ms|Drs?|Profs?|Gov|Gen|Sen|Rep|Lt|Col|Sgt|Rev|Hon|Capt|Cmdr|Pres|Maj|Messrs|Jr|Sr|"
     "Bros|Blvd|Rd|Esq|Ave|Mt|Ft|St|Inc|Cos?|"
     "Corp|Ltd|Plc|Bancorp|"
     "Dept|Assn|Univ|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs|Fri|vs|"
     "etc|est|dept|st|mr|mrs|ms|dr|rd|ave|inc|"
     "co|ltd|corp)\\.",
     NULL},
    {"(?i)nos?\\.(?=\\s*\\p{Nd})", NULL},
    /* signs; those that are left out are the ones of the caption evaluation's list */
    {"[?!]", ""},
    {"[?!]{2,}", NULL},
    {"\\.\\.\\.|\\. \\. \\.|\u2026|[.,:;]", ""},
    {"-{1,3}|[\u2010-\u2015]", ""},
    {"''|``|[\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb\u2039\u203a]", ""},
    {"\\(", "-lrb-"},
    {"\\)", "-rrb-"},
    {"\\[", "-lsb-"},
    {"\\]", "-rsb-"},
    {"\\{", "-lcb-"},
    {"\\}", "-rcb-"},
    {"[\u200b-\u200f\ufeff\U00010000-\U0010ffff]", ""},
    {".", NULL},
};
enum { RULES = sizeof rules / sizeof *rules };

struct ptb_rules {
    pcre2_code *code[RULES];
    pcre2_match_data *match;
};

static ml_status compile(pcre2_code **out, const char *pattern)
{
    int error;
    PCRE2_SIZE where;
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &where, NULL);
    if (!*out && error == PCRE2_ERROR_HEAP_FAILED)
        return ml_fail(ML_RESOURCE, "out of memory: the rules for tokens");
    if (!*out)
        return ml_fail(ML_INTERNAL, "the rule \"%s\" for tokens is not understood at byte %zu",
                       pattern, (size_t)where);
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it matching is slow, not wrong */
    return ML_OK;
}

ml_status ptb_rules_create(ptb_rules **out)
{
    ml_status st = ML_OK;
    ptb_rules *r = NULL;
    *out = NULL;
    ML_NEW(r, 1, ML_MEM_OTHER, "the rules for tokens");
    for (int i = 0; i < RULES; i++) ML_TRY(compile(&r->code[i], rules[i].pattern));
    r->match = pcre2_match_data_create(2, NULL);
    if (!r->match) st = ml_fail(ML_RESOURCE, "out of memory: the rules for tokens");
done:
    if (st == ML_OK)
        *out = r;
    else
        ptb_rules_destroy(r);
    return st;
}

void ptb_rules_destroy(ptb_rules *r)
{
    if (!r) return;
    for (int i = 0; i < RULES; i++) pcre2_code_free(r->code[i]);
    pcre2_match_data_free(r->match);
    ml_memory_free(r);
}

ptb_token ptb_rules_match(const ptb_rules *r, const char *text, int64_t length, int64_t at)
{
    ptb_token best = {0, NULL};
    int64_t most = 0;
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(r->match);
    for (int i = 0; i < RULES; i++) {
        int groups = pcre2_match(r->code[i], (PCRE2_SPTR)text, (PCRE2_SIZE)length, (PCRE2_SIZE)at,
                                 PCRE2_NO_UTF_CHECK, r->match, NULL);
        if (groups < 1 || (int64_t)span[1] - at <= most) continue;
        most = (int64_t)span[1] - at;
        best = (ptb_token){(int64_t)(groups > 1 ? span[3] : span[1]) - at, rules[i].becomes};
    }
    return best;
}
