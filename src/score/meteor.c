/* METEOR (Denkowski and Lavie 2014) with exact and stem matches: output and reference are aligned
 * word by word with as few crossings as possible, and precision, recall and the number of chunks
 * make the score. */
#include <math.h>
#include <stdlib.h>

#include "score/alignment.h"
#include "score/english_stem.h"
#include "score/porter.h"

/* What aligning needs: one of the two ways, and the stems. */
typedef struct aligner {
    const ml_meteor_parameters *parameters;
    int32_t *stem;  /* [words] the number of the first word with the same stem */
    double *weight; /* [words] */
    beam_aligner *beam;
    int64_t *to;
    bool *taken;
} aligner;

typedef struct spelled {
    int64_t begin; /* of the stem in a text */
    int32_t word;
} spelled;

/* In the order of their stems. */
static int by_stem(const void *left, const void *right, void *stems)
{
    const spelled *a = left, *b = right;
    int order = strcmp((char *)stems + a->begin, (char *)stems + b->begin);
    return order ? order : a->word - b->word;
}

static ml_status add_stem(const ml_meteor_parameters *p, const char *word, ml_text *stems)
{
    int64_t length = (int64_t)strlen(word), begin = stems->length;
    ml_status st = ml_text_add(stems, word, length + 1);
    if (st != ML_OK) return st;
    length = p->nltk ? porter_stem(stems->data + begin, length)
                     : english_stem(stems->data + begin, length);
    stems->data[begin + length] = '\0';
    return ML_OK;
}

static ml_status find_stems(const corpus *c, aligner *a)
{
    ml_status st = ML_OK;
    ml_text stems = {0};
    spelled *words = NULL;
    ML_NEW(words, (int64_t)c->words + 1, ML_MEM_OTHER, "stems");
    ML_NEW(a->stem, (int64_t)c->words + 1, ML_MEM_OTHER, "stems");
    for (int32_t w = 0; w < c->words; w++) {
        words[w] = (spelled){stems.length, w};
        ML_TRY(add_stem(a->parameters, c->spelling.data + c->word[w], &stems));
    }
    if (c->words > 0) qsort_r(words, (size_t)c->words, sizeof *words, by_stem, stems.data);
    for (int32_t i = 0; i < c->words; i++) {
        bool same = i > 0 && !strcmp(stems.data + words[i - 1].begin, stems.data + words[i].begin);
        a->stem[words[i].word] = same ? a->stem[words[i - 1].word] : words[i].word;
    }
done:
    ml_memory_free(words);
    ml_text_destroy(&stems);
    return st;
}

/* Whether a word is one of the lines. */
static bool is_line(const char *lines, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = lines; (at = strstr(at, word)); at++)
        if ((at == lines || at[-1] == '\n') && (at[length] == '\n' || at[length] == '\0'))
            return true;
    return false;
}

static ml_status find_weights(const corpus *c, aligner *a)
{
    ml_status st = ML_OK;
    const ml_meteor_parameters *p = a->parameters;
    ML_NEW(a->weight, (int64_t)c->words + 1, ML_MEM_OTHER, "weights of words");
    for (int32_t w = 0; w < c->words; w++)
        a->weight[w] =
            p->function_words && is_line(p->function_words, c->spelling.data + c->word[w])
                ? 1.0 - p->delta
                : p->delta;
done:
    return st;
}

static ml_status create(aligner *a, const corpus *c)
{
    ml_status st = ML_OK;
    int64_t longest = 1;
    for (int64_t t = 0; t < c->item[c->items]; t++) longest = ml_max(longest, corpus_length(c, t));
    if (!a->parameters->nltk) ML_TRY(beam_aligner_create(&a->beam, longest));
    ML_NEW(a->to, longest, ML_MEM_OTHER, "an alignment");
    ML_NEW(a->taken, longest, ML_MEM_OTHER, "an alignment");
    ML_TRY(find_stems(c, a));
    ML_TRY(find_weights(c, a));
done:
    return st;
}

static void destroy(aligner *a)
{
    beam_aligner_destroy(a->beam);
    ml_memory_free(a->to);
    ml_memory_free(a->taken);
    ml_memory_free(a->stem);
    ml_memory_free(a->weight);
}

/* Of the reference that gives the item most; weights, but matches and chunks, which are numbers. */
typedef struct counts {
    double score, matched_output, matched_reference, output, reference, matches, chunks;
} counts;

static double score_of(const ml_meteor_parameters *p, const counts *n)
{
    if (n->matches <= 0.0 || n->output <= 0.0 || n->reference <= 0.0) return 0.0;
    double precision = n->matched_output / n->output, recall = n->matched_reference / n->reference;
    double mean = precision * recall / (p->alpha * precision + (1.0 - p->alpha) * recall);
    return mean * (1.0 - p->gamma * pow(n->chunks / n->matches, p->beta));
}

static double weigh(const corpus *c, int64_t text, const double *weight)
{
    double sum = 0;
    for (int64_t at = c->text[text]; at < c->text[text + 1]; at++) sum += weight[c->token[at]];
    return sum;
}

static counts count(const corpus *c, int64_t output, int64_t reference, aligner *a)
{
    const ml_meteor_parameters *p = a->parameters;
    const stemmed s = {c, a->stem, a->weight, p->stem_weight};
    matches m = p->nltk ? align_from_the_end(&s, output, reference, a->to, a->taken)
                        : align_by_beam(a->beam, &s, output, reference);
    bool whole = m.chunks == 1 && m.count == corpus_length(c, output) &&
                 m.count == corpus_length(c, reference);
    counts one = {0,
                  m.output,
                  m.reference,
                  weigh(c, output, a->weight),
                  weigh(c, reference, a->weight),
                  (double)m.count,
                  (double)m.chunks};
    if (whole && !p->nltk) one.chunks = 0; /* nothing is in pieces */
    one.score = score_of(p, &one);
    return one;
}

static counts best_of(const corpus *c, int64_t item, aligner *a)
{
    counts best = {.score = -1.0};
    int64_t output = c->item[item];
    for (int64_t text = output + 1; text < c->item[item + 1]; text++) {
        counts one = count(c, output, text, a);
        if (one.score > best.score) best = one;
    }
    return best;
}

ml_status ml_score_meteor(const ml_score_set *set, const ml_meteor_parameters *parameters,
                          ml_meteor *out)
{
    ml_status st = ML_OK;
    corpus c = {0};
    aligner a = {.parameters = parameters};
    counts sum = {0};
    *out = (ml_meteor){0};
    ML_TRY(corpus_make(&c, set, &ptb_words));
    ML_TRY(create(&a, &c));
    for (int64_t i = 0; i < c.items; i++) {
        counts one = best_of(&c, i, &a);
        out->mean += one.score / (double)c.items;
        sum.matched_output += one.matched_output;
        sum.matched_reference += one.matched_reference;
        sum.output += one.output;
        sum.reference += one.reference;
        sum.matches += one.matches;
        sum.chunks += one.chunks;
    }
    out->score = score_of(parameters, &sum);
done:
    destroy(&a);
    corpus_destroy(&c);
    return st;
}
