/* METEOR, exact and stem matches. */
#include <math.h>

#include "score/corpus.h"
#include "score/porter.h"

/* Room for one output and one reference. */
typedef struct alignment {
    int64_t *to;   /* [output] the reference's token that it is matched with; −1: none */
    bool *taken;   /* [reference] */
    int32_t *stem; /* [words] the number of the first word with the same stem */
    int64_t exact, stems, chunks;
} alignment;

/* Words by their stems: sorted is not needed, sets are small. A stem that is a word of the set stands for itself. */
static ml_status find_stems(const corpus *c, alignment *a)
{
    ml_status st = ML_OK;
    ml_text stems = {0};
    int64_t *begin = NULL;
    ML_NEW(begin, (int64_t)c->words + 1, ML_MEM_OTHER, "stems");
    ML_NEW(a->stem, (int64_t)c->words + 1, ML_MEM_OTHER, "stems");
    for (int32_t w = 0; w < c->words; w++) {
        begin[w] = stems.length;
        const char *word = c->spelling.data + c->word[w];
        ML_TRY(ml_text_add(&stems, word, (int64_t)strlen(word) + 1));
        int64_t length = porter_stem(stems.data + begin[w], (int64_t)strlen(word));
        stems.data[begin[w] + length] = '\0';
        a->stem[w] = w;
        for (int32_t other = 0; other < w && a->stem[w] == w; other++)
            if (!strcmp(stems.data + begin[other], stems.data + begin[w])) a->stem[w] = a->stem[other];
    }
done:
    ml_memory_free(begin);
    ml_text_destroy(&stems);
    return st;
}

/* From the end: each token of the output with the last free one of the reference that is the same. */
static int64_t match(const corpus *c, int64_t output, int64_t reference, bool stems, alignment *a)
{
    int64_t found = 0;
    const int32_t *x = c->token + c->text[output], *y = c->token + c->text[reference];
    for (int64_t i = corpus_length(c, output) - 1; i >= 0; i--) {
        for (int64_t j = corpus_length(c, reference) - 1; j >= 0 && a->to[i] < 0; j--) {
            if (a->taken[j] || (stems ? a->stem[x[i]] != a->stem[y[j]] : x[i] != y[j])) continue;
            a->to[i] = j;
            a->taken[j] = true;
            found++;
        }
    }
    return found;
}

static void align(const corpus *c, int64_t output, int64_t reference, alignment *a)
{
    for (int64_t i = 0; i < corpus_length(c, output); i++) a->to[i] = -1;
    memset(a->taken, 0, (size_t)corpus_length(c, reference) * sizeof *a->taken);
    a->exact = match(c, output, reference, false, a);
    a->stems = match(c, output, reference, true, a);
    a->chunks = 0;
    for (int64_t i = 0, last = -1; i < corpus_length(c, output); i++) { /* last: of the matched token before */
        if (a->to[i] < 0) continue;
        bool goes_on = last >= 0 && last == i - 1 && a->to[i] == a->to[last] + 1;
        a->chunks += !goes_on;
        last = i;
    }
}

static double score_of(const ml_meteor_parameters *p, double weighted, double matches, double chunks, double output, double reference)
{
    if (matches <= 0.0 || output <= 0.0 || reference <= 0.0) return 0.0;
    double precision = weighted / output, recall = weighted / reference;
    double mean = precision * recall / (p->alpha * precision + (1.0 - p->alpha) * recall);
    return mean * (1.0 - p->gamma * pow(chunks / matches, p->beta));
}

/* Of the reference that gives the item most. */
typedef struct counts {
    double score, weighted, matches, chunks, output, reference;
} counts;

static counts best_of(const corpus *c, int64_t item, const ml_meteor_parameters *p, alignment *a)
{
    counts best = {.score = -1.0};
    int64_t output = c->item[item];
    for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
        align(c, output, text, a);
        counts one = {0,
                      (double)a->exact + p->stem_weight * (double)a->stems,
                      (double)(a->exact + a->stems),
                      (double)a->chunks,
                      (double)corpus_length(c, output),
                      (double)corpus_length(c, text)};
        one.score = score_of(p, one.weighted, one.matches, one.chunks, one.output, one.reference);
        if (one.score > best.score) best = one;
    }
    return best;
}

ml_status ml_score_meteor(const ml_score_set *set, const ml_meteor_parameters *parameters, ml_meteor *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    alignment a = {0};
    counts sum = {0};
    int64_t longest = 1;
    *out = (ml_meteor){0};
    ML_TRY(corpus_make(&c, set, &ptb_words));
    for (int64_t t = 0; t < c.item[c.items]; t++) longest = ml_max(longest, corpus_length(&c, t));
    ML_NEW(a.to, longest, ML_MEM_OTHER, "an alignment");
    ML_NEW(a.taken, longest, ML_MEM_OTHER, "an alignment");
    ML_TRY(find_stems(&c, &a));
    for (int64_t i = 0; i < c.items; i++) {
        counts one = best_of(&c, i, parameters, &a);
        out->mean += one.score / (double)c.items;
        sum.weighted += one.weighted;
        sum.matches += one.matches;
        sum.chunks += one.chunks;
        sum.output += one.output;
        sum.reference += one.reference;
    }
    out->score = score_of(parameters, sum.weighted, sum.matches, sum.chunks, sum.output, sum.reference);
done:
    ml_memory_free(a.to);
    ml_memory_free(a.taken);
    ml_memory_free(a.stem);
    corpus_destroy(&c);
    return st;
}
