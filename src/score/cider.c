/* CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726): the cosine of tf·idf vectors of n-grams, n from
 * 1 to 4, with a Gaussian penalty for different lengths. */
#include <math.h>

#include "score/ngrams.h"

enum { ORDER = 4 };
static const double sigma = 6;

typedef struct cider_tables {
    ngram_table documents;         /* count: items whose references have the n-gram */
    ngram_table output, reference; /* count: of one text */
    double log_items;
} cider_tables;

static ml_status count_documents(cider_tables *t, const corpus *c)
{
    ml_status st = ML_OK;
    for (int64_t item = 0; item < c->items; item++) {
        for (int64_t text = c->item[item] + 1; text < c->item[item + 1]; text++)
            for (int64_t at = c->text[text]; at < c->text[text + 1]; at++)
                for (int n = 1; n <= ORDER && at + n <= c->text[text + 1]; n++) {
                    ngram_entry *entry;
                    ngram key = ngram_of(c->token + at, n);
                    ML_TRY(ngram_entry_of(&t->documents, &key, &entry));
                    entry->count += entry->stamp != item;
                    entry->stamp = item;
                }
    }
done:
    return st;
}

static ml_status count_text(ngram_table *table, const corpus *c, int64_t text, int n)
{
    ngram_table_clear(table);
    return ngram_count(table, c, text, n);
}

/* tf · idf */
static double weight(const cider_tables *t, const ngram_entry *entry)
{
    const ngram_entry *documents = ngram_find(&t->documents, &entry->key);
    return (double)entry->count * (t->log_items - (documents ? log((double)documents->count) : 0));
}

static double norm(const cider_tables *t, const ngram_table *table)
{
    double sum = 0;
    for (int64_t i = 0; i < table->count; i++) sum += pow(weight(t, &table->entry[i]), 2);
    return sqrt(sum);
}

/* Of one order, before the penalty for different lengths. */
static double similarity(const cider_tables *t)
{
    double sum = 0, norms = norm(t, &t->output) * norm(t, &t->reference);
    for (int64_t i = 0; i < t->output.count; i++) {
        const ngram_entry *other = ngram_find(&t->reference, &t->output.entry[i].key);
        if (other) sum += fmin(weight(t, &t->output.entry[i]), weight(t, other)) * weight(t, other);
    }
    return norms > 0 ? sum / norms : 0;
}

static ml_status of_item(cider_tables *t, const corpus *c, int64_t item, double *out)
{
    ml_status st = ML_OK;
    int64_t output = c->item[item], references = c->item[item + 1] - output - 1;
    double sum = 0;
    for (int n = 1; n <= ORDER; n++) {
        ML_TRY(count_text(&t->output, c, output, n));
        for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
            ML_TRY(count_text(&t->reference, c, text, n));
            double difference = (double)(ml_max(corpus_length(c, output) - 1, 0) -
                                         ml_max(corpus_length(c, text) - 1, 0));
            sum += similarity(t) * exp(-difference * difference / (2 * sigma * sigma));
        }
    }
    *out = 10 * sum / ORDER / (double)references;
done:
    return st;
}

ml_status ml_score_cider(const ml_score_set *set, double *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    cider_tables tables = {0};
    double sum = 0, one;
    ML_TRY(corpus_make(&c, set, &ptb_words));
    ML_TRY(count_documents(&tables, &c));
    tables.log_items = log((double)c.items);
    for (int64_t i = 0; i < c.items; i++) {
        ML_TRY(of_item(&tables, &c, i, &one));
        sum += one;
    }
    *out = sum / (double)c.items;
done:
    ngram_table_destroy(&tables.documents);
    ngram_table_destroy(&tables.output);
    ngram_table_destroy(&tables.reference);
    corpus_destroy(&c);
    return st;
}
