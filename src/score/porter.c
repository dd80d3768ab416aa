/* Porter's algorithm for suffix stripping (Program 14, 1980), in five steps. A word is
 * [C](VC)^m[V], C and V being runs of consonants and vowels; most rules ask for a measure m of
 * what stands before the suffix. NLTK's departures, which rouge-score inherits: a few irregular
 * words; "ies" and "ied" of words of four letters become "ie", "ied" of longer ones "i"; y becomes
 * i only behind a consonant that is not the word's first letter; "alli" comes first in step 2, and
 * "bli", "fulli" and "logi" are suffixes there; a vowel and a consonant alone count as an ending
 * of the form cvc; words of two letters stay. */
#include "score/porter.h"

typedef struct suffix_rule {
    const char *suffix, *becomes;
} suffix_rule;

static bool is_vowel(char c) { return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u'; }

/* y is a consonant where it is first or behind a vowel. */
static bool is_consonant(const char *word, int64_t at)
{
    bool turned = false;
    while (at > 0 && word[at] == 'y') {
        turned = !turned;
        at--;
    }
    return !is_vowel(word[at]) != turned;
}

/* The m of a word's first n letters. */
static int64_t measure(const char *word, int64_t n)
{
    int64_t m = 0;
    bool vowel = false; /* the letter before */
    for (int64_t i = 0; i < n; i++) {
        bool consonant = !is_vowel(word[i]) && (word[i] != 'y' || i == 0 || vowel);
        m += vowel && consonant;
        vowel = !consonant;
    }
    return m;
}

static bool has_vowel(const char *word, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!is_consonant(word, i)) return true;
    return false;
}

static bool ends(const char *word, int64_t n, const char *suffix)
{
    int64_t length = (int64_t)strlen(suffix);
    return n >= length && !memcmp(word + n - length, suffix, (size_t)length);
}

static int64_t put(char *word, int64_t n, const char *text)
{
    int64_t length = (int64_t)strlen(text);
    memcpy(word + n, text, (size_t)length);
    return n + length;
}

static bool ends_double(const char *word, int64_t n)
{
    return n >= 2 && word[n - 1] == word[n - 2] && is_consonant(word, n - 1);
}

/* consonant, vowel, consonant other than w, x, y */
static bool ends_cvc(const char *word, int64_t n)
{
    if (n < 2 || is_consonant(word, n - 2) || !is_consonant(word, n - 1)) return false;
    if (n == 2) return true;
    return is_consonant(word, n - 3) && word[n - 1] != 'w' && word[n - 1] != 'x' &&
           word[n - 1] != 'y';
}

/* The first rule of the list whose suffix the word has is applied if what is left has a measure
 * above `above`. */
static int64_t apply(char *word, int64_t n, const suffix_rule *rules, int64_t above)
{
    for (const suffix_rule *r = rules; r->suffix; r++) {
        if (!ends(word, n, r->suffix)) continue;
        int64_t stem = n - (int64_t)strlen(r->suffix);
        if (!strcmp(r->suffix, "ion") &&
            (stem == 0 || (word[stem - 1] != 's' && word[stem - 1] != 't')))
            return n;
        int64_t counted =
            strcmp(r->suffix, "logi") ? stem : stem + 1; /* its l counts with the stem */
        return measure(word, counted) > above ? put(word, stem, r->becomes) : n;
    }
    return n;
}

static int64_t plurals(char *word, int64_t n)
{
    if (ends(word, n, "ies")) return n == 4 ? 3 : n - 2;
    if (ends(word, n, "sses")) return n - 2;
    return ends(word, n, "s") && !ends(word, n, "ss") ? n - 1 : n;
}

static int64_t past_and_progressive(char *word, int64_t n)
{
    if (ends(word, n, "ied")) return n == 4 ? 3 : n - 2;
    if (ends(word, n, "eed")) return measure(word, n - 3) > 0 ? n - 1 : n;
    int64_t stem = ends(word, n, "ed") ? n - 2 : ends(word, n, "ing") ? n - 3 : 0;
    if (!has_vowel(word, stem)) return n;
    if (ends(word, stem, "at") || ends(word, stem, "bl") || ends(word, stem, "iz"))
        return put(word, stem, "e");
    if (ends_double(word, stem)) return strchr("lsz", word[stem - 1]) ? stem : stem - 1;
    return measure(word, stem) == 1 && ends_cvc(word, stem) ? put(word, stem, "e") : stem;
}

static int64_t double_suffixes(char *word, int64_t n)
{
    static const suffix_rule rules[] = {
        {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
        {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
        {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
        {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
        {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
        {"fulli", "ful"},   {"logi", "log"},    {NULL, NULL}};
    while (ends(word, n, "alli") && measure(word, n - 4) > 0) n -= 2;
    return apply(word, n, rules, 0);
}

static int64_t longer_suffixes(char *word, int64_t n)
{
    static const suffix_rule rules[] = {{"icate", "ic"}, {"ative", ""},  {"alize", "al"},
                                        {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""},
                                        {"ness", ""},    {NULL, NULL}};
    return apply(word, n, rules, 0);
}

static int64_t last_suffixes(char *word, int64_t n)
{
    static const suffix_rule rules[] = {{"al", ""},    {"ance", ""}, {"ence", ""}, {"er", ""},
                                        {"ic", ""},    {"able", ""}, {"ible", ""}, {"ant", ""},
                                        {"ement", ""}, {"ment", ""}, {"ent", ""},  {"ion", ""},
                                        {"ou", ""},    {"ism", ""},  {"ate", ""},  {"iti", ""},
                                        {"ous", ""},   {"ive", ""},  {"ize", ""},  {NULL, NULL}};
    return apply(word, n, rules, 1);
}

static int64_t tidy(char *word, int64_t n)
{
    if (ends(word, n, "e")) {
        int64_t m = measure(word, n - 1);
        if (m > 1 || (m == 1 && !ends_cvc(word, n - 1))) n--;
    }
    return ends(word, n, "ll") && measure(word, n - 1) > 1 ? n - 1 : n;
}

/* The stem of an irregular word, else NULL. */
static const char *irregular(const char *word, int64_t n)
{
    static const char *const pairs[][2] = {
        {"sky", "sky"},        {"skies", "sky"},        {"dying", "die"},
        {"lying", "lie"},      {"tying", "tie"},        {"news", "news"},
        {"innings", "inning"}, {"inning", "inning"},    {"outings", "outing"},
        {"outing", "outing"},  {"cannings", "canning"}, {"canning", "canning"},
        {"howe", "howe"},      {"proceed", "proceed"},  {"exceed", "exceed"},
        {"succeed", "succeed"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if ((int64_t)strlen(pairs[i][0]) == n && !memcmp(pairs[i][0], word, (size_t)n))
            return pairs[i][1];
    return NULL;
}

int64_t porter_stem(char *word, int64_t n)
{
    const char *known = irregular(word, n);
    if (known) return put(word, 0, known);
    if (n <= 2) return n;
    n = plurals(word, n);
    n = past_and_progressive(word, n);
    if (n > 2 && word[n - 1] == 'y' && is_consonant(word, n - 2)) word[n - 1] = 'i';
    n = double_suffixes(word, n);
    n = longer_suffixes(word, n);
    n = last_suffixes(word, n);
    return tidy(word, n);
}
