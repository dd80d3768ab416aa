/* Figures of predicted classes and bits, as scikit-learn defines them: what is divided by nothing
 * counts as 0. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/score.h"

/* Of one class: how often it is true, how often predicted, how often both. */
typedef struct counts {
    int64_t truth, predicted, both;
} counts;

static double f1_of(const counts *c)
{
    int64_t sum = c->truth + c->predicted;
    return sum > 0 ? 2.0 * (double)c->both / (double)sum : 0.0;
}

/* Micro F1 is that of all counts together; the macro figure is the mean over the classes that
 * occur (scikit-learn's union of true and predicted ones), or over all where `every`. */
static void average(const counts *count, int64_t classes, int64_t none, bool every,
                    ml_class_scores *out)
{
    counts all = {0};
    int64_t occur = 0;
    double sum = 0.0;
    for (int64_t c = 0; c < classes; c++) {
        if (c != none) {
            all.truth += count[c].truth;
            all.predicted += count[c].predicted;
            all.both += count[c].both;
        }
        if (!every && count[c].truth + count[c].predicted == 0) continue;
        sum += f1_of(&count[c]);
        occur++;
    }
    out->f1_micro = f1_of(&all);
    out->f1_macro = occur > 0 ? sum / (double)occur : 0.0;
}

/* Gorodkin 2004: (n·c − Σ p t) / √((n² − Σ p²)(n² − Σ t²)), c: right ones, p and t: how often a
 * class is predicted and true. */
static double matthews(const counts *count, int64_t classes, int64_t n, int64_t right)
{
    double products = 0.0, predicted = 0.0, truth = 0.0, all = (double)n;
    for (int64_t c = 0; c < classes; c++) {
        double p = (double)count[c].predicted, t = (double)count[c].truth;
        products += p * t;
        predicted += p * p;
        truth += t * t;
    }
    double scale = (all * all - predicted) * (all * all - truth);
    return scale > 0.0 ? (all * (double)right - products) / sqrt(scale) : 0.0;
}

ml_status ml_score_classes(const int32_t *truth, const int32_t *predicted, int64_t n,
                           int64_t classes, int64_t none, int64_t positive, ml_class_scores *out)
{
    ml_status st = ML_OK;
    counts *count = NULL;
    int64_t right = 0;
    *out = (ml_class_scores){0};
    if (n < 1) return ml_fail(ML_INPUT, "there is nothing to score: no row has a label");
    ML_NEW(count, classes, ML_MEM_OTHER, "counts of classes");
    for (int64_t i = 0; i < n; i++) {
        if (truth[i] < 0 || truth[i] >= classes || predicted[i] < 0 || predicted[i] >= classes) {
            st = ml_fail(ML_INPUT,
                         "row %" PRId64 ": class %" PRId32 " predicted as %" PRId32
                         ", expected 0 to %" PRId64,
                         i + 1, truth[i], predicted[i], classes - 1);
            goto done;
        }
        count[truth[i]].truth++;
        count[predicted[i]].predicted++;
        if (truth[i] != predicted[i]) continue;
        count[truth[i]].both++;
        right++;
    }
    average(count, classes, none, false, out);
    out->accuracy = (double)right / (double)n;
    out->f1 = positive >= 0 && positive < classes ? f1_of(&count[positive]) : 0.0;
    out->matthews = matthews(count, classes, n, right);
done:
    ml_memory_free(count);
    return st;
}

ml_status ml_score_bits(const uint8_t *truth, const uint8_t *predicted, int64_t n, int64_t bits,
                        ml_class_scores *out)
{
    ml_status st = ML_OK;
    counts *count = NULL;
    int64_t right = 0;
    *out = (ml_class_scores){0};
    if (n < 1 || bits < 1) return ml_fail(ML_INPUT, "there is nothing to score: no row has labels");
    ML_NEW(count, bits, ML_MEM_OTHER, "counts of labels");
    for (int64_t i = 0; i < n; i++) {
        bool same = true;
        for (int64_t b = 0; b < bits; b++) {
            bool t = truth[i * bits + b], p = predicted[i * bits + b];
            count[b].truth += t;
            count[b].predicted += p;
            count[b].both += t && p;
            same = same && t == p;
        }
        right += same;
    }
    average(count, bits, -1, true, out);
    out->accuracy = (double)right / (double)n;
done:
    ml_memory_free(count);
    return st;
}
