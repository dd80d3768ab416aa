/* Oniguruma's patterns by PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "data/tokenizer/pattern.h"

enum { JIT_STACK_START = 32 << 10, JIT_STACK_MOST = 16 << 20 };

struct ml_pattern {
    char *literal; /* or NULL */
    int64_t length;
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    bool compiled; /* to the processor's code */
    bool borrows;  /* the literal, the code */
};

/* ---- translation --------------------------------------------------------------------------- */

/* What stands for a shorthand of Oniguruma inside a class of PCRE2. PCRE2's own \s has U+180E, its
 * \w no marks. */
#define SPACES "\\x{9}-\\x{d}\\x{85}\\p{Z}"
#define WORDS                                                                   \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}" \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
/* Oniguruma counts ² ³ ¹ ¼ ½ ¾ as word characters where \w stands alone, and for \b. */
#define FRACTIONS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define HEXADECIMALS "0-9a-fA-F"

/* The members of the class that \c means, and whether it means all others; NULL: PCRE2 knows. */
static const char *members_of(char c, bool *others)
{
    *others = c == 'S' || c == 'W' || c == 'H';
    switch (c) {
    case 's':
    case 'S':
        return SPACES;
    case 'w':
    case 'W':
        return WORDS;
    case 'h':
    case 'H':
        return HEXADECIMALS;
    default:
        return NULL;
    }
}

/* The brackets that are being read. What they have of \W and its kin cannot stand inside of PCRE2's
 * brackets: it becomes alternatives to them. */
typedef struct brackets {
    int depth;
    bool negated;
    ml_text members, others; /* others: "|[^…]" each */
} brackets;

/* A shorthand outside of brackets becomes a class; inside, its members. */
static ml_status translate_shorthand(const char *text, brackets *in, ml_text *out)
{
    bool others;
    const char *members = members_of(text[1], &others);
    if (!members || (in->depth && text[1] == 'S')) return ml_text_add(out, text, 2);
    if (in->depth && others) return ml_text_printf(&in->others, "|[^%s]", members);
    if (in->depth) return ml_text_printf(out, "%s", members);
    bool word = text[1] == 'w' || text[1] == 'W';
    return ml_text_printf(out, "[%s%s%s]", others ? "^" : "", members, word ? FRACTIONS : "");
}

/* [:alpha:], whose members PCRE2 has otherwise, at `text`, which is `length` bytes long. */
static ml_status translate_named(const char *text, int64_t length, brackets *in)
{
    static const char *const names[][2] = {
        {"alnum", "\\p{Alphabetic}\\p{Nd}"},
        {"alpha", "\\p{Alphabetic}"},
        {"graph", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}\\p{Co}"},
        {"lower", "\\p{Lowercase}"},
        {"print", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}\\p{Co}\\p{Zs}"},
        {"punct", "\\p{P}\\p{S}"},
        {"space", SPACES},
        {"upper", "\\p{Uppercase}"},
        {"word", WORDS},
        {"xdigit", HEXADECIMALS}};
    bool others = text[2] == '^';
    const char *name = text + 2 + others;
    size_t width = (size_t)(text + length - 2 - name);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i][0]) != width || strncmp(names[i][0], name, width) != 0) continue;
        return others ? ml_text_printf(&in->others, "|[^%s]", names[i][1])
                      : ml_text_printf(&in->members, "%s", names[i][1]);
    }
    return ml_text_add(&in->members, text, length);
}

/* The brackets that were read, with their alternatives. */
static ml_status close_brackets(const brackets *in, ml_text *out)
{
    ml_status st = ML_OK;
    const char *others = in->others.data;
    bool members = in->members.length > 0;
    if (!in->others.length)
        return ml_text_printf(out, "[%s%s]", in->negated ? "^" : "", in->members.data);
    ML_TRY(ml_text_printf(out, "(?:%s", in->negated ? "(?!" : ""));
    if (members) ML_TRY(ml_text_printf(out, "[%s]", in->members.data));
    ML_TRY(ml_text_printf(out, "%s%s", others + !members, in->negated ? ")(?s:.))" : ")"));
done:
    return st;
}

/* Where a word begins or ends, by Oniguruma's words; `inside`: it is where none does. */
static ml_status translate_boundary(bool inside, ml_text *out)
{
    static const char word[] = "[" WORDS FRACTIONS "]";
    return ml_text_printf(out, "(?:(?<=%s)(?%c%s)|(?<!%s)(?%c%s))", word, inside ? '=' : '!', word,
                          word, inside ? '!' : '=', word);
}

/* Whether PCRE2 knows this name as a script's. */
static bool is_script(const char *name, int length)
{
    char pattern[80];
    int error, width = snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", length, name);
    PCRE2_SIZE where;
    if (length < 3 || width >= (int)sizeof pattern) return false; /* Lu is a category */
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &where, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/* \p{Han}: a script is that of the characters, as PCRE2 had it before 10.40; since then the name
 * alone takes in characters that scripts share. *width: of the property in `text`. */
static ml_status translate_property(const char *text, ml_text *out, int64_t *width)
{
    const char *end = text[2] == '{' ? strchr(text, '}') : NULL;
    if (!end) return ml_text_add(out, text, *width);
    const char *name = text + 3 + (text[3] == '^');
    *width = end + 1 - text;
    if (!is_script(name, (int)ml_min(end - name, 64))) return ml_text_add(out, text, *width);
    return ml_text_printf(out, "%.*ssc:%.*s}", (int)(name - text), text, (int)(end - name), name);
}

/* An escape, of which *width bytes of the text are part. */
static ml_status translate_escape(const char *text, brackets *in, ml_text *out, int64_t *width)
{
    *width = 2;
    switch (text[1]) {
    case 'p':
    case 'P':
        if (text[2] == '{') return translate_property(text, out, width);
        return ml_text_add(out, text + 1, 1); /* \pL is the letters p and L */
    case 'Q':
    case 'E':
        return ml_text_add(out, text + 1, 1); /* they quote nothing */
    case 'v':
        return ml_text_printf(out, "\\x{b}"); /* one character */
    case 'u':
        if (strspn(text + 2, "0123456789abcdefABCDEF") < 4) return ml_text_add(out, text, 2);
        *width = 6;
        return ml_text_printf(out, "\\x{%.4s}", text + 2);
    case 'b':
    case 'B':
        if (!in->depth) return translate_boundary(text[1] == 'B', out);
        break;
    default:
        break;
    }
    return translate_shorthand(text, in, out);
}

/* What opens, closes or stands inside of brackets: *at moves to its last byte. Members of brackets
 * inside brackets are members of all (a[bc] is [abc]). What PCRE2 cannot say is refused. */
static ml_status translate_bracket(const char *text, const char **at, brackets *in, ml_text *out)
{
    ml_status st = ML_OK;
    const char *here = *at, *named = in->depth && here[1] == ':' ? strstr(here, ":]") : NULL;
    if (*here == ']') return --in->depth ? ML_OK : close_brackets(in, out);
    if (named) {
        *at = named + 1;
        return translate_named(here, named + 2 - here, in);
    }
    if (in->depth && here[1] == '^')
        return ml_fail(ML_INPUT,
                       "tokenizer: the split pattern \"%s\" has [^ inside brackets, which is not "
                       "supported",
                       text);
    if (!in->depth++) {
        in->members.length = in->others.length = 0;
        ML_TRY(ml_text_add(&in->members, "", 0));
        ML_TRY(ml_text_add(&in->others, "", 0));
        in->negated = here[1] == '^';
        *at += in->negated;
    }
    if ((*at)[1] == ']') { /* a bracket that stands first is a member */
        ML_TRY(ml_text_add(&in->members, "\\]", 2));
        ++*at;
    }
done:
    return st;
}

/* Outside of brackets: {,3} is {0,3}, and (?m) lets the dot match the end of a line, which is
 * PCRE2's (?s). *width: of what was translated. */
static ml_status translate_plain(const char *at, ml_text *out, int64_t *width)
{
    ml_status st = ML_OK;
    size_t digits = at[0] == '{' && at[1] == ',' ? strspn(at + 2, "0123456789") : 0;
    size_t flags = at[0] == '(' && at[1] == '?' ? strspn(at + 2, "imsx-") : 0;
    *width = 1;
    if (digits && at[2 + digits] == '}') {
        *width = 2;
        return ml_text_add(out, "{0,", 3);
    }
    ML_TRY(ml_text_add(out, at, 1));
    if (!flags || (at[2 + flags] != ':' && at[2 + flags] != ')')) goto done;
    *width = 2 + (int64_t)flags;
    ML_TRY(ml_text_add(out, "?", 1));
    for (size_t i = 2; i < 2 + flags; i++) ML_TRY(ml_text_add(out, at[i] == 'm' ? "s" : at + i, 1));
done:
    return st;
}

static ml_status translate(const char *text, ml_text *out)
{
    ml_status st = ML_OK;
    brackets in = {0};
    int64_t width;
    for (const char *at = text; *at; at++) {
        ml_text *to = in.depth ? &in.members : out;
        if (*at == '\\' && at[1]) {
            ML_TRY(translate_escape(at, &in, to, &width));
            at += width - 1;
        } else if (in.depth && at[0] == '&' && at[1] == '&') {
            st = ml_fail(ML_INPUT,
                         "tokenizer: the split pattern \"%s\" has && in brackets, which is not "
                         "supported",
                         text);
            goto done;
        } else if (*at == '[' || (*at == ']' && in.depth)) {
            ML_TRY(translate_bracket(text, &at, &in, out));
        } else if (in.depth) {
            ML_TRY(ml_text_add(to, at, 1));
        } else {
            ML_TRY(translate_plain(at, out, &width));
            at += width - 1;
        }
    }
    if (in.depth) ML_TRY(ml_text_printf(out, "[%s", in.members.data)); /* PCRE2 says it */
done:
    ml_text_destroy(&in.members);
    ml_text_destroy(&in.others);
    return st;
}

/* ---- making one ---------------------------------------------------------------------------- */

/* What a search writes. */
static ml_status make_scratch(ml_pattern *p)
{
    p->match = pcre2_match_data_create_from_pattern(p->code, NULL);
    p->context = pcre2_match_context_create(NULL);
    if (p->compiled) p->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MOST, NULL);
    if (!p->match || !p->context || (p->compiled && !p->stack))
        return ml_fail(ML_RESOURCE, "out of memory: the split pattern of a tokenizer");
    if (p->stack) pcre2_jit_stack_assign(p->context, NULL, p->stack);
    return ML_OK;
}

static ml_status compile(ml_pattern *p, const char *text)
{
    ml_status st = ML_OK;
    ml_text translated = {0};
    int error;
    PCRE2_SIZE where;
    ML_TRY(translate(text, &translated));
    /* ^ and $ stand at every line, as in Ruby */
    p->code = pcre2_compile((PCRE2_SPTR)(translated.data ? translated.data : ""),
                            (PCRE2_SIZE)translated.length, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                            &error, &where, NULL);
    if (!p->code && error == PCRE2_ERROR_HEAP_FAILED) {
        st = ml_fail(ML_RESOURCE, "out of memory: the split pattern of a tokenizer");
        goto done;
    }
    if (!p->code) {
        char reason[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
        st = ml_fail(ML_INPUT,
                     "tokenizer: the split pattern \"%s\" is not understood at its byte %zu: %s",
                     text, (size_t)where, reason);
        goto done;
    }
    p->compiled = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0; /* else slow, not wrong */
    st = make_scratch(p);
done:
    ml_text_destroy(&translated);
    return st;
}

ml_status ml_pattern_create(ml_pattern **out, const char *text)
{
    ml_status st = ML_OK;
    ml_pattern *p = NULL;
    ML_NEW(p, 1, ML_MEM_OTHER, "a pattern");
    ML_TRY(compile(p, text));
    *out = p;
    p = NULL;
done:
    ml_pattern_destroy(p);
    return st;
}

static ml_status create_literal(ml_pattern **out, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    ml_pattern *p = NULL;
    if (!length) return ml_fail(ML_INPUT, "tokenizer: a pattern is an empty text");
    ML_NEW(p, 1, ML_MEM_OTHER, "a pattern");
    ML_NEW(p->literal, length, ML_MEM_OTHER, "a pattern");
    memcpy(p->literal, text, (size_t)length);
    p->length = length;
    *out = p;
    p = NULL;
done:
    ml_pattern_destroy(p);
    return st;
}

ml_status ml_pattern_read(ml_pattern **out, const json_t *json)
{
    const json_t *regex = json_object_get(json, "Regex"), *text = json_object_get(json, "String");
    if (json_is_string(json)) text = json;
    if (json_is_string(regex)) return ml_pattern_create(out, json_string_value(regex));
    if (json_is_string(text))
        return create_literal(out, json_string_value(text), (int64_t)json_string_length(text));
    return ml_fail(ML_INPUT, "tokenizer: a pattern is neither {\"Regex\": …} nor {\"String\": …}");
}

ml_status ml_pattern_share(ml_pattern **out, const ml_pattern *of)
{
    ml_status st = ML_OK;
    ml_pattern *p = NULL;
    *out = NULL;
    if (!of) return ML_OK;
    ML_NEW(p, 1, ML_MEM_OTHER, "a pattern");
    *p = *of;
    p->borrows = true;
    p->match = NULL;
    p->context = NULL;
    p->stack = NULL;
    if (p->code) ML_TRY(make_scratch(p));
    *out = p;
    p = NULL;
done:
    ml_pattern_destroy(p);
    return st;
}

void ml_pattern_destroy(ml_pattern *p)
{
    if (!p) return;
    pcre2_jit_stack_free(p->stack);
    pcre2_match_context_free(p->context);
    pcre2_match_data_free(p->match);
    if (!p->borrows) {
        pcre2_code_free(p->code);
        ml_memory_free(p->literal);
    }
    ml_memory_free(p);
}

/* ---- searching ----------------------------------------------------------------------------- */

static ml_status search(const ml_pattern *p, const char *text, int64_t length, ml_match *m,
                        bool *found)
{
    int groups = pcre2_match(p->code, (PCRE2_SPTR)text, (PCRE2_SIZE)length, (PCRE2_SIZE)m->from,
                             PCRE2_NO_UTF_CHECK, p->match, p->context);
    *found = groups >= 0;
    if (groups == PCRE2_ERROR_NOMATCH) return ML_OK;
    if (groups < 0) {
        char reason[128];
        pcre2_get_error_message(groups, (PCRE2_UCHAR *)reason, sizeof reason);
        return ml_fail(ML_RESOURCE,
                       "the split pattern of the tokenizer costs too much on a text of %lld bytes "
                       "without a break: %s",
                       (long long)length, reason);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(p->match);
    m->start = (int64_t)span[0];
    m->end = (int64_t)span[1];
    if (m->start < m->from || m->end < m->start) /* what \K and lookbehinds can do */
        *found = false;
    return ML_OK;
}

ml_status ml_pattern_next(const ml_pattern *p, const char *text, int64_t length, ml_match *m,
                          bool *found)
{
    *found = false;
    if (p->literal) {
        const char *at = m->from < length ? memmem(text + m->from, (size_t)(length - m->from),
                                                   p->literal, (size_t)p->length)
                                          : NULL;
        *found = at != NULL;
        if (at) m->start = at - text;
        if (at) m->end = m->from = m->start + p->length;
        return ML_OK;
    }
    while (m->from <= length) {
        ml_status st = search(p, text, length, m, found);
        if (st != ML_OK || !*found) return st;
        if (m->end > m->start || m->end != m->last) {
            m->from = m->last = m->end;
            return ML_OK;
        }
        int size = 1;
        if (m->from < length) (void)ml_utf8_next(text, length, m->from, &size);
        m->from += size;
    }
    *found = false;
    return ML_OK;
}
