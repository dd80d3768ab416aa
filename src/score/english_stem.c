/* Porter's second algorithm. r1 is what follows the first consonant behind a vowel, r2 the same of
 * r1; y is a consonant, and then written Y, where it begins a word or stands behind a vowel. */
#include "score/english_stem.h"

typedef struct stem {
    char *word;
    int64_t n, r1, r2; /* length; where the regions begin */
} stem;

static bool is_vowel(char c) { return c != '\0' && strchr("aeiouy", c) != NULL; }

static bool ends(const stem *s, const char *suffix)
{
    int64_t length = (int64_t)strlen(suffix);
    return s->n >= length && !memcmp(s->word + s->n - length, suffix, (size_t)length);
}

static bool is(const stem *s, const char *word)
{
    return s->n == (int64_t)strlen(word) && ends(s, word);
}

static void replace(stem *s, int64_t from, const char *text)
{
    int64_t length = (int64_t)strlen(text);
    memcpy(s->word + from, text, (size_t)length);
    s->n = from + length;
}

static bool has_vowel(const stem *s, int64_t end)
{
    for (int64_t i = 0; i < end; i++)
        if (is_vowel(s->word[i])) return true;
    return false;
}

/* Whether the first n letters end with a short syllable. */
static bool ends_short(const stem *s, int64_t n)
{
    const char *w = s->word;
    if (n < 2 || !is_vowel(w[n - 2]) || is_vowel(w[n - 1])) return false;
    return n == 2 || (!strchr("wxY", w[n - 1]) && !is_vowel(w[n - 3]));
}

static int64_t region(const stem *s, int64_t from)
{
    for (int64_t i = from + 1; i < s->n; i++)
        if (is_vowel(s->word[i - 1]) && !is_vowel(s->word[i])) return i + 1;
    return s->n;
}

static void mark(stem *s)
{
    static const char *const beginnings[] = {"gener", "commun", "arsen"};
    for (int64_t i = 0; i < s->n; i++)
        if (s->word[i] == 'y' && (i == 0 || is_vowel(s->word[i - 1]))) s->word[i] = 'Y';
    s->r1 = region(s, 0);
    for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        int64_t length = (int64_t)strlen(beginnings[i]);
        if (s->n >= length && !memcmp(s->word, beginnings[i], (size_t)length)) s->r1 = length;
    }
    s->r2 = region(s, s->r1);
}

static void possessives(stem *s)
{
    if (ends(s, "'s'"))
        s->n -= 3;
    else if (ends(s, "'s"))
        s->n -= 2;
    else if (ends(s, "'"))
        s->n -= 1;
}

static void plurals(stem *s)
{
    if (ends(s, "sses"))
        s->n -= 2;
    else if (ends(s, "ied") || ends(s, "ies"))
        s->n -= s->n > 4 ? 2 : 1;
    else if (ends(s, "s") && !ends(s, "us") && !ends(s, "ss") && has_vowel(s, s->n - 2))
        s->n--;
}

static void past_and_progressive(stem *s)
{
    static const char *const suffixes[] = {"eedly", "ingly", "edly",
                                           "eed",   "ing",   "ed"}; /* longest first */
    static const char *const doubles[] = {"bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt"};
    size_t i = 0;
    while (i < 6 && !ends(s, suffixes[i])) i++;
    if (i == 6) return;
    int64_t begin = s->n - (int64_t)strlen(suffixes[i]);
    if (i == 0 || i == 3) {
        if (begin >= s->r1) replace(s, begin, "ee");
        return;
    }
    if (!has_vowel(s, begin)) return;
    s->n = begin;
    if (ends(s, "at") || ends(s, "bl") || ends(s, "iz")) {
        replace(s, s->n, "e");
        return;
    }
    for (size_t d = 0; d < sizeof doubles / sizeof *doubles; d++)
        if (ends(s, doubles[d])) {
            s->n--;
            return;
        }
    if (s->r1 >= s->n && ends_short(s, s->n)) replace(s, s->n, "e");
}

typedef struct suffix_rule {
    const char *suffix, *becomes,
        *behind; /* behind: one of these letters must stand before it, NULL: any */
} suffix_rule;

/* The first of the rules, longest first, whose suffix the word has, if the suffix stands in the
 * region that begins at `from`. */
static void apply(stem *s, const suffix_rule *rules, int64_t from)
{
    for (const suffix_rule *r = rules; r->suffix; r++) {
        if (!ends(s, r->suffix)) continue;
        int64_t begin = s->n - (int64_t)strlen(r->suffix);
        bool fits = !r->behind || (begin > 0 && strchr(r->behind, s->word[begin - 1]));
        if (begin >= from && fits) replace(s, begin, r->becomes);
        return;
    }
}

static void derivations(stem *s)
{
    static const suffix_rule second[] = {
        {"ization", "ize", NULL}, {"ational", "ate", NULL}, {"fulness", "ful", NULL},
        {"ousness", "ous", NULL}, {"iveness", "ive", NULL}, {"tional", "tion", NULL},
        {"biliti", "ble", NULL},  {"lessli", "less", NULL}, {"entli", "ent", NULL},
        {"ation", "ate", NULL},   {"alism", "al", NULL},    {"aliti", "al", NULL},
        {"ousli", "ous", NULL},   {"iviti", "ive", NULL},   {"fulli", "ful", NULL},
        {"enci", "ence", NULL},   {"anci", "ance", NULL},   {"abli", "able", NULL},
        {"izer", "ize", NULL},    {"ator", "ate", NULL},    {"alli", "al", NULL},
        {"bli", "ble", NULL},     {"ogi", "og", "l"},       {"li", "", "cdeghkmnrt"},
        {NULL, NULL, NULL}};
    static const suffix_rule third[] = {
        {"ational", "ate", NULL}, {"tional", "tion", NULL}, {"alize", "al", NULL},
        {"icate", "ic", NULL},    {"iciti", "ic", NULL},    {"ical", "ic", NULL},
        {"ness", "", NULL},       {"ful", "", NULL},        {NULL, NULL, NULL}};
    static const suffix_rule ative[] = {{"ative", "", NULL}, {NULL, NULL, NULL}};
    static const suffix_rule fourth[] = {
        {"ement", "", NULL}, {"ance", "", NULL}, {"ence", "", NULL}, {"able", "", NULL},
        {"ible", "", NULL},  {"ment", "", NULL}, {"ant", "", NULL},  {"ent", "", NULL},
        {"ism", "", NULL},   {"ate", "", NULL},  {"iti", "", NULL},  {"ous", "", NULL},
        {"ive", "", NULL},   {"ize", "", NULL},  {"ion", "", "st"},  {"al", "", NULL},
        {"er", "", NULL},    {"ic", "", NULL},   {NULL, NULL, NULL}};
    apply(s, second, s->r1);
    if (ends(s, "ative"))
        apply(s, ative, s->r2);
    else
        apply(s, third, s->r1);
    apply(s, fourth, s->r2);
}

static void tidy(stem *s)
{
    int64_t last = s->n - 1;
    bool e = ends(s, "e") && (last >= s->r2 || (last >= s->r1 && !ends_short(s, last)));
    if (e || (ends(s, "ll") && last >= s->r2)) s->n--;
    for (int64_t i = 0; i < s->n; i++)
        if (s->word[i] == 'Y') s->word[i] = 'y';
}

/* The stem of an irregular word, else NULL. */
static const char *irregular(const stem *s)
{
    static const char *const pairs[][2] = {
        {"skis", "ski"},    {"skies", "sky"},  {"dying", "die"},    {"lying", "lie"},
        {"tying", "tie"},   {"idly", "idl"},   {"gently", "gentl"}, {"ugly", "ugli"},
        {"early", "earli"}, {"only", "onli"},  {"singly", "singl"}, {"sky", "sky"},
        {"news", "news"},   {"howe", "howe"},  {"atlas", "atlas"},  {"cosmos", "cosmos"},
        {"bias", "bias"},   {"andes", "andes"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (is(s, pairs[i][0])) return pairs[i][1];
    return NULL;
}

/* Without its plural: nothing more is taken off. */
static bool is_whole(const stem *s)
{
    static const char *const words[] = {"inning",  "outing",  "canning", "herring",
                                        "earring", "proceed", "exceed",  "succeed"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (is(s, words[i])) return true;
    return false;
}

int64_t english_stem(char *word, int64_t n)
{
    stem s = {word, n, n, n};
    const char *known = irregular(&s);
    if (known) replace(&s, 0, known);
    if (known || n <= 2) return s.n;
    if (word[0] == '\'') memmove(word, word + 1, (size_t)(--s.n));
    mark(&s);
    possessives(&s);
    plurals(&s);
    if (!is_whole(&s)) {
        past_and_progressive(&s);
        if (s.n > 2 && (ends(&s, "y") || ends(&s, "Y")) && !is_vowel(word[s.n - 2]))
            word[s.n - 1] = 'i';
        derivations(&s);
    }
    tidy(&s);
    return s.n;
}
