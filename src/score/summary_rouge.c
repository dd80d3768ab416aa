/* ROUGE-1, -2 and -L of summaries: F1 of n-grams and of the longest common subsequence. */
#include "score/characters.h"
#include "score/common_subsequence.h"
#include "score/ngrams.h"
#include "score/porter.h"

static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

static ml_status add_word(token_list *list, char *word, int64_t length, bool stem)
{
    if (stem && length > 3) length = porter_stem(word, length);
    return token_list_add(list, word, length);
}

static ml_status cut_words(token_list *list, const char *text, int64_t length, bool stem)
{
    ml_status st = ML_OK;
    ml_text lower = {0};
    ML_TRY(add_lower(&lower, text, length));
    for (int64_t at = 0; at < lower.length;) {
        int64_t begin = at;
        while (at < lower.length && is_word(lower.data[at])) at++;
        if (at > begin) ML_TRY(add_word(list, lower.data + begin, at - begin, stem));
        if (at == begin) at++;
    }
done:
    ml_text_destroy(&lower);
    return st;
}

static ml_status cut(token_list *list, const char *text, int64_t length, const void *rules)
{
    (void)rules;
    return cut_words(list, text, length, false);
}

static ml_status cut_stems(token_list *list, const char *text, int64_t length, const void *rules)
{
    (void)rules;
    return cut_words(list, text, length, true);
}

const tokenizer rouge_words = {cut, NULL, NULL}, rouge_stems = {cut_stems, NULL, NULL};

static double f1(int64_t hits, int64_t output, int64_t reference)
{
    double precision = (double)hits / (double)ml_max(output, 1),
           recall = (double)hits / (double)ml_max(reference, 1);
    return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

/* own: the output's n-grams, counted. */
static ml_status overlap(const ngram_table *own, ngram_table *other, const corpus *c,
                         int64_t output, int64_t text, int n, double *out)
{
    ml_status st = ML_OK;
    int64_t hits = 0;
    ML_TRY(ngram_most(other, c, text, text + 1, n));
    for (int64_t i = 0; i < own->count; i++) {
        const ngram_entry *hit = ngram_find(other, &own->entry[i].key);
        if (hit) hits += ml_min(own->entry[i].most, hit->most);
    }
    *out = f1(hits, corpus_length(c, output) - n + 1, corpus_length(c, text) - n + 1);
done:
    return st;
}

static ml_status best_overlap(ngram_table *own, ngram_table *other, const corpus *c, int64_t item,
                              int n, double *sum)
{
    ml_status st = ML_OK;
    int64_t output = c->item[item];
    double best = 0, one;
    ML_TRY(ngram_most(own, c, output, output + 1, n));
    for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
        ML_TRY(overlap(own, other, c, output, text, n, &one));
        best = one > best ? one : best;
    }
    *sum += best;
done:
    return st;
}

static double best_subsequence(const corpus *c, int64_t item, int64_t *row)
{
    int64_t output = c->item[item];
    double best = 0;
    for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
        double one = f1(common_subsequence(c, output, text, row), corpus_length(c, output),
                        corpus_length(c, text));
        best = one > best ? one : best;
    }
    return best;
}

ml_status ml_score_rouge(const ml_score_set *set, bool stem, ml_rouge *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    ngram_table own = {0}, other = {0};
    int64_t *row = NULL;
    *out = (ml_rouge){0};
    ML_TRY(corpus_make(&c, set, stem ? &rouge_stems : &rouge_words));
    row = common_subsequence_row(&c, set->texts);
    if (!row) {
        st = ML_RESOURCE;
        goto done;
    }
    for (int64_t i = 0; i < c.items; i++) {
        ML_TRY(best_overlap(&own, &other, &c, i, 1, &out->rouge1));
        ML_TRY(best_overlap(&own, &other, &c, i, 2, &out->rouge2));
        out->rouge_l += best_subsequence(&c, i, row);
    }
    out->rouge1 /= (double)c.items;
    out->rouge2 /= (double)c.items;
    out->rouge_l /= (double)c.items;
done:
    ml_memory_free(row);
    ngram_table_destroy(&own);
    ngram_table_destroy(&other);
    corpus_destroy(&c);
    return st;
}
