/* BLEU over a set. As mteval-v13a and sacrebleu have it; the E2E challenge's Python script differs
 * for outputs of fewer than n − 1 words, which there take some off the number of n-grams (so that
 * a set of short outputs can have a BLEU above 1), and makes an empty text one token: here neither
 * has any. */
#include <math.h>

#include "score/ngrams.h"

static int64_t distance(int64_t a, int64_t b) { return a > b ? a - b : b - a; }

/* The length of the reference nearest to the output's; the shorter of two equally near. */
static int64_t nearest_length(const corpus *c, int64_t item)
{
    int64_t output = c->item[item], length = corpus_length(c, output), best = -1;
    for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
        int64_t other = corpus_length(c, text),
                gain = best < 0 ? 1 : distance(best, length) - distance(other, length);
        if (gain > 0 || (gain == 0 && other < best)) best = other;
    }
    return best;
}

static ml_status add_item(ml_bleu *out, const corpus *c, int64_t item, ngram_table *references,
                          ngram_table *own)
{
    ml_status st = ML_OK;
    int64_t output = c->item[item], length = corpus_length(c, output);
    for (int n = 1; n <= ML_BLEU_ORDER; n++) {
        ML_TRY(ngram_most(references, c, output + 1, c->item[item + 1], n));
        ML_TRY(ngram_most(own, c, output, output + 1, n));
        for (int64_t i = 0; i < own->count; i++) {
            const ngram_entry *hit = ngram_find(references, &own->entry[i].key);
            if (hit) out->hits[n - 1] += ml_min(own->entry[i].most, hit->most);
        }
        out->total[n - 1] += ml_max(0, length - n + 1);
    }
    out->output_length += length;
    out->reference_length += nearest_length(c, item);
done:
    return st;
}

ml_status ml_score_bleu(const ml_score_set *set, ml_bleu *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    ngram_table references = {0}, own = {0};
    *out = (ml_bleu){0};
    ML_TRY(corpus_make(&c, set, &mteval_words));
    for (int64_t i = 0; i < c.items; i++) ML_TRY(add_item(out, &c, i, &references, &own));
    if (out->output_length == 0) goto done; /* only empty outputs: 0 */
    double sum = 0, ratio = (double)out->reference_length / (double)out->output_length;
    for (int n = 0; n < ML_BLEU_ORDER; n++)
        sum += log(fmax((double)out->hits[n], 1e-15) / fmax((double)out->total[n], 1e-9));
    out->brevity_penalty = ratio >= 1 ? exp(1 - ratio) : 1;
    out->score = out->brevity_penalty * exp(sum / ML_BLEU_ORDER);
done:
    ngram_table_destroy(&references);
    ngram_table_destroy(&own);
    corpus_destroy(&c);
    return st;
}
