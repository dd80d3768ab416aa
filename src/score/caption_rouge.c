/* ROUGE-L as the caption evaluation has it. */
#include "score/common_subsequence.h"

static double of_item(const corpus *c, int64_t item, int64_t *row)
{
    const double beta2 = 1.2 * 1.2;
    double precision = 0, recall = 0;
    int64_t output = c->item[item];
    for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
        int64_t a = corpus_length(c, output), b = corpus_length(c, text);
        double common =
            a == 0 && b == 0
                ? 1
                : (double)common_subsequence(c, output, text,
                                             row); /* there, an empty text is an empty token */
        double p = common / (double)ml_max(a, 1), r = common / (double)ml_max(b, 1);
        precision = p > precision ? p : precision;
        recall = r > recall ? r : recall;
    }
    return precision > 0 && recall > 0
               ? (1 + beta2) * precision * recall / (recall + beta2 * precision)
               : 0;
}

ml_status ml_score_rouge_l(const ml_score_set *set, double *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    int64_t *row = NULL;
    double sum = 0;
    ML_TRY(corpus_make(&c, set, &ptb_words));
    row = common_subsequence_row(&c, set->texts);
    if (!row) {
        st = ML_RESOURCE;
        goto done;
    }
    for (int64_t i = 0; i < c.items; i++) sum += of_item(&c, i, row);
    *out = sum / (double)c.items;
done:
    ml_memory_free(row);
    corpus_destroy(&c);
    return st;
}
