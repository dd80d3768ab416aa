/* Penn Treebank tokens, as far as short English texts need them: signs at the ends of a word are tokens of their own, and so are n't, 's, 'm, 'd, 're, 've and 'll; the
 * signs are then left out (. , ; : ? ! quotes, brackets, dashes between blanks), as the MS COCO caption evaluation leaves them out; $ £ % & and others stay.
 * Beside Stanford's PTBTokenizer it knows no abbreviations ("mr." loses its stop), and brackets only at a word's ends. */
#include "score/characters.h"
#include "score/corpus.h"

static bool is_in(const char *set, char c) { return c != '\0' && strchr(set, c) != NULL; }

/* What is left out, and what is a token alone where a word begins or ends with it. */
static const char dropped[] = ".,;:?!\"'`()[]{}", alone[] = "$%&#@";
static const char *const clitics[] = {"n't", "'s", "'m", "'d", "'re", "'ve", "'ll"};

static bool is_dash(const char *word, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        if (word[i] != '-') return false;
    return true;
}

/* The word's part before its clitic; its whole length where it has none. */
static int64_t stem_length(const char *word, int64_t length)
{
    for (size_t i = 0; i < sizeof clitics / sizeof *clitics; i++) {
        int64_t n = (int64_t)strlen(clitics[i]);
        if (length > n && !memcmp(word + length - n, clitics[i], (size_t)n)) return length - n;
    }
    return length;
}

static ml_status add_some(token_list *list, const char *word, int64_t length)
{
    return length > 0 && !is_dash(word, length) ? token_list_add(list, word, length) : ML_OK;
}

static ml_status cut_word(token_list *list, const char *word, int64_t length)
{
    ml_status st = ML_OK;
    for (; length > 0 && (is_in(dropped, word[0]) || is_in(alone, word[0])); word++, length--) {
        if (is_in(alone, word[0])) ML_TRY(token_list_add(list, word, 1));
    }
    int64_t end = length;
    while (end > 0 && (is_in(dropped, word[end - 1]) || is_in(alone, word[end - 1]))) end--;
    int64_t stem = stem_length(word, end);
    ML_TRY(add_some(list, word, stem));
    ML_TRY(add_some(list, word + stem, end - stem));
    for (int64_t i = end; i < length; i++)
        if (is_in(alone, word[i])) ML_TRY(token_list_add(list, word + i, 1));
done:
    return st;
}

ml_status cut_ptb(token_list *list, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    ml_text lower = {0};
    int64_t begin = 0;
    int size;
    ML_TRY(add_lower(&lower, text, length));
    ML_TRY(ml_text_add(&lower, " ", 1));
    for (int64_t at = 0; at < lower.length; at += size) {
        if (!is_blank(utf8_at(lower.data, at, &size))) continue;
        ML_TRY(cut_word(list, lower.data + begin, at - begin));
        begin = at + size;
    }
done:
    ml_text_destroy(&lower);
    return st;
}
