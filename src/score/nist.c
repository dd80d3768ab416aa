/* NIST over a set: n-grams count by how much they say, which the references tell.
 *
 * As the E2E challenge's script has it, so not as NLTK: an output is compared with all its
 * references together (NLTK takes the one that fits best), their mean length counts, an output of
 * fewer than n − 1 words takes some off the number of n-grams, and an empty text is one empty
 * token. */
#include <math.h>

#include "score/ngrams.h"

typedef struct nist_tables {
    ngram_table all; /* count: in all references, n = 0 … 5; n = 0 stands for every word */
    ngram_table references, own; /* of one item */
} nist_tables;

static ml_status count_references(nist_tables *t, const corpus *c)
{
    ml_status st = ML_OK;
    ngram none = ngram_of(NULL, 0);
    for (int64_t i = 0; i < c->items; i++)
        for (int64_t text = c->item[i] + 1; text < c->item[i + 1]; text++) {
            ngram_entry *words;
            for (int n = 1; n <= ML_NIST_ORDER; n++) ML_TRY(ngram_count(&t->all, c, text, n));
            ML_TRY(ngram_entry_of(&t->all, &none, &words));
            words->count += corpus_length(c, text);
        }
done:
    return st;
}

/* log2(how often the words but the last / how often all of them) */
static double information(const ngram_table *all, ngram key, int n)
{
    const ngram_entry *whole = ngram_find(all, &key);
    key.token[n - 1] = -1;
    const ngram_entry *front = ngram_find(all, &key);
    return whole && front ? log2((double)front->count / (double)whole->count) : 0;
}

static ml_status add_hits(nist_tables *t, const corpus *c, int64_t item, int n, double *sum)
{
    ml_status st = ML_OK;
    int64_t output = c->item[item];
    ML_TRY(ngram_most(&t->references, c, output + 1, c->item[item + 1], n));
    ML_TRY(ngram_most(&t->own, c, output, output + 1, n));
    for (int64_t i = 0; i < t->own.count; i++) {
        const ngram_entry *hit = ngram_find(&t->references, &t->own.entry[i].key);
        if (hit)
            *sum +=
                (double)ml_min(t->own.entry[i].most, hit->most) * information(&t->all, hit->key, n);
    }
done:
    return st;
}

static double penalty_of(double outputs, double references)
{
    double beta = log(2) / (log(1.5) * log(1.5)), ratio = outputs / references;
    return ratio >= 1 ? 1 : exp(-beta * log(ratio) * log(ratio));
}

static double mean_reference(const corpus *c, int64_t item)
{
    int64_t first = c->item[item] + 1, end = c->item[item + 1];
    return (double)(c->text[end] - c->text[first]) / (double)(end - first);
}

ml_status ml_score_nist(const ml_score_set *set, ml_nist *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    nist_tables tables = {0};
    double outputs = 0, references = 0, sum = 0;
    *out = (ml_nist){0};
    ML_TRY(corpus_make(&c, set, &mteval_never_none));
    ML_TRY(count_references(&tables, &c));
    for (int n = 1; n <= ML_NIST_ORDER; n++) {
        double gain = 0, total = 0;
        for (int64_t i = 0; i < c.items; i++) {
            ML_TRY(add_hits(&tables, &c, i, n, &gain));
            total += (double)(corpus_length(&c, c.item[i]) - n + 1);
        }
        out->gain[n - 1] = total > 0 ? gain / total : 0;
        sum += out->gain[n - 1];
    }
    for (int64_t i = 0; i < c.items; i++) {
        outputs += (double)corpus_length(&c, c.item[i]);
        references += mean_reference(&c, i);
    }
    out->length_penalty = penalty_of(outputs, references);
    out->score = out->length_penalty * sum;
done:
    ngram_table_destroy(&tables.all);
    ngram_table_destroy(&tables.references);
    ngram_table_destroy(&tables.own);
    corpus_destroy(&c);
    return st;
}
