/* score: how near generated texts are to reference texts. One process, no MPI.
 *
 * Words. An item is one output (a generated text) with its references (texts that people wrote for
 * the same input); a set is a list of items. Figures are of the whole set. Texts are UTF-8.
 *
 * Three tokenisations, each the one of the scripts that defined the figure:
 *   mteval   BLEU, NIST. NIST's mteval-v13a for western languages, as the E2E challenge's Python
 *            version has it: "<skipped>" is dropped, "-" before a line end joins, line ends are
 *            blanks, &quot; &amp; &lt; &gt; are decoded; punctuation other than ' , - . stands
 *            alone; . and , stand alone unless between digits; - stands alone after a digit. Lower
 *            case, as the challenge's scripts compare.
 *   ptb      METEOR, ROUGE-L, CIDEr. The Penn Treebank tokens of Stanford's PTBTokenizer in lower
 *            case (n't, 's, can not, # for a pound, -lrb- for a bracket, mr. and p.m. with their
 *            stops) without . ? ! , : ; - -- ... and quotes, as the MS COCO caption evaluation has
 *            it; the rules stand in src/score/ptb_rules.c.
 *   rouge    ROUGE-1/2/L for summaries. Lower case, then runs of a-z and 0-9; with stemming, words
 *            of more than three letters are Porter-stemmed.
 */
#ifndef MPILORA_SCORE_H
#define MPILORA_SCORE_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

/* ---- sets ---------------------------------------------------------------------------------- */

typedef struct ml_score_set ml_score_set;

/* An empty set.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_score_set_destroy.
 * Local.
 * Errors: ML_RESOURCE without memory. */
ml_status ml_score_set_create(ml_score_set **out) ML_NODISCARD;

/* Ends a set; NULL is fine.
 * Shapes: none.
 * Ownership: takes `set`.
 * Local.
 * Errors: none. */
void ml_score_set_destroy(ml_score_set *set);

/* Begins an item with its output, or adds a reference to the item that was begun last.
 * Shapes: text[length] bytes.
 * Ownership: the text is copied.
 * Local.
 * Errors: ML_INPUT where it is not valid UTF-8; ML_RESOURCE. */
ml_status ml_score_set_add_output(ml_score_set *set, const char *text, int64_t length) ML_NODISCARD;
ml_status ml_score_set_add_reference(ml_score_set *set, const char *text,
                                     int64_t length) ML_NODISCARD;

/* How many items a set has, and how many references all of them have together.
 * Shapes: counts.
 * Ownership: borrows `set`.
 * Local.
 * Errors: none. */
int64_t ml_score_set_items(const ml_score_set *set);
int64_t ml_score_set_references(const ml_score_set *set);

/* Reads a set, a line an item: {"output": …, "references": [ … ]}; other keys ("prompt") are passed
 * over, empty lines skipped.
 * Shapes: none.
 * Ownership: *out is the caller's.
 * Local.
 * Errors: ML_INPUT naming file and line: no item, not JSON, a key missing or of another type, no
 * reference; ML_RESOURCE. */
ml_status ml_score_set_read_jsonl(ml_score_set **out, const char *path) ML_NODISCARD;

/* Reads the E2E challenge's files. outputs: a line a text (an empty line is an empty text).
 * references: a line a text, an empty line between items; a file without an empty line has one
 * reference an item. Blanks at both ends of a line are dropped.
 * Shapes: none.
 * Ownership: *out is the caller's.
 * Local.
 * Errors: ML_INPUT naming file and line: no item, not UTF-8, an empty group, other counts;
 * ML_RESOURCE. */
ml_status ml_score_set_read_files(ml_score_set **out, const char *outputs,
                                  const char *references) ML_NODISCARD;

/* ---- n-gram overlap: BLEU, NIST ------------------------------------------------------------ */

enum { ML_BLEU_ORDER = 4, ML_NIST_ORDER = 5 };

/* Papineni et al. 2002, over the corpus: BP · exp(¼ Σ_n log p_n), p_n = hits_n / total_n. hits:
 * n-grams of the outputs, each counted at most as often as in the one reference of its item that
 * has it most often. BP = exp(1 − r/c) where c ≤ r, else 1; c: tokens of the outputs; r: tokens of
 * the reference nearest in length, the shorter of two equally near. Not smoothed, but where hits_n
 * is 0 it counts as 1e-15 and total_n 0 as 1e-9, so the figure is near 0 and never undefined. With
 * outputs that are all empty it is 0. */
typedef struct ml_bleu {
    double score; /* 0 to 1 */
    double brevity_penalty;
    int64_t hits[ML_BLEU_ORDER], total[ML_BLEU_ORDER];
    int64_t output_length, reference_length; /* c, r */
} ml_bleu;

/* BLEU of the set (Papineni et al. 2002), as ml_bleu says.
 * Shapes: 0 to 1.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_bleu(const ml_score_set *set, ml_bleu *out) ML_NODISCARD;

/* Doddington 2002: penalty · Σ_n (Σ over hits of info(w_1…w_n)) / total_n, info =
 * log2(count(w_1…w_(n−1)) / count(w_1…w_n)) with counts over all references of the set (count of
 * no word: all their words). hits as in BLEU. penalty = exp(−β log²(min(c/r, 1))), β = log 2 /
 * log² 1.5, so c/r = 2/3 gives ½; r: the sum over items of the mean length of their references. */
typedef struct ml_nist {
    double score;
    double length_penalty;
    double gain[ML_NIST_ORDER]; /* the sum's terms */
} ml_nist;

/* NIST of the set (Doddington 2002), as ml_nist says.
 * Shapes: from 0 up.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_nist(const ml_score_set *set, ml_nist *out) ML_NODISCARD;

/* ---- caption evaluation's: ROUGE-L, CIDEr -------------------------------------------------- */

/* Lin 2004 as the MS COCO caption evaluation has it: mean over items of (1 + β²) P R / (R + β² P),
 * β = 1.2, where P is the largest of LCS/|output| and R the largest of LCS/|reference| over the
 * references, apart from each other; 0 where either is 0.
 * Shapes: 0 to 1.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_rouge_l(const ml_score_set *set, double *out) ML_NODISCARD;

/* CIDEr-D (Vedantam et al. 2015): for n = 1 … 4 vectors of tf · idf, idf = log(items) − log(max(1,
 * items whose references have the n-gram)); per reference Σ min(output, reference) · reference /
 * (norms' product) · exp(−(difference of the numbers of bigrams)² / 2σ²), σ = 6; mean over n,
 * references and items, times 10. With a single item every idf, and so the figure, is 0.
 * Shapes: 0 to 10.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_cider(const ml_score_set *set, double *out) ML_NODISCARD;

/* ---- METEOR, exact and stem matches -------------------------------------------------------- */

/* Banerjee and Lavie 2005 in two forms. Tokens are ptb's; tokens are matched that are equal or
 * have equal stems. m: matches, those by stem counting stem_weight; P = m/|output|, R =
 * m/|reference|, where a function word weighs 1 − δ, any other δ, F = P·R/(αP + (1 − α)R), score =
 * F·(1 − γ·(chunks/matches)^β); of the best reference.
 *   ML_METEOR_15    METEOR 1.5 (Denkowski and Lavie 2014) for English with -m "exact stem"; its δ
 *                   is ¾, but without a list of function words, which is not here, all words weigh
 *                   the same: Snowball's English stems, its aligner's beam search
 *                   (src/score/alignment_beam.c), chunks 0 where the whole texts are one.
 *   ML_METEOR_NLTK  NLTK's meteor_score without WordNet: its Porter stems, its alignment from the
 *                   end. */
typedef struct ml_meteor_parameters {
    double alpha, beta, gamma, stem_weight;
    bool nltk;
    double delta;
    const char *function_words; /* of ml_score_read_function_words; NULL: none. Borrowed */
} ml_meteor_parameters;
#define ML_METEOR_15 ((ml_meteor_parameters){0.85, 0.2, 0.6, 0.6, false, 0.75, NULL})
#define ML_METEOR_NLTK ((ml_meteor_parameters){0.9, 3.0, 0.5, 1.0, true, 0.5, NULL})

typedef struct ml_meteor {
    double score; /* of the sums over all items, as METEOR 1.5 gives it for a system */
    double mean;  /* of the items' scores */
} ml_meteor;

/* METEOR's list of function words from a file of a word a line: in lower case, LF after each.
 * Shapes: none.
 * Ownership: the caller frees *words (ml_memory_free).
 * Local.
 * Errors: ML_INPUT naming the file where it cannot be read, has no word, or a line that is not a
 * single word in UTF-8; ML_RESOURCE. */
ml_status ml_score_read_function_words(char **words, const char *path) ML_NODISCARD;

/* METEOR of the set in the form that `parameters` says.
 * Shapes: 0 to 1.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_meteor(const ml_score_set *set, const ml_meteor_parameters *parameters,
                          ml_meteor *out) ML_NODISCARD;

/* ---- summaries: ROUGE-1, ROUGE-2, ROUGE-L -------------------------------------------------- */

/* Means over items of F1 = 2PR/(P + R), of the reference with the largest for each figure, as
 * Google's rouge-score computes them. */
typedef struct ml_rouge {
    double rouge1, rouge2, rouge_l;
} ml_rouge;

/* ROUGE-1, ROUGE-2 and ROUGE-L of the set, with Porter stems where `stem`.
 * Shapes: 0 to 1 each.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_rouge(const ml_score_set *set, bool stem, ml_rouge *out) ML_NODISCARD;

/* ---- tasks with one right answer ----------------------------------------------------------- */

/* The part of items whose output is one of its references, after blanks at both ends are dropped
 * and runs of blanks inside are one; with ignore_case in lower case. The accuracy of WikiSQL-type
 * and, with labels as texts, MNLI-type tasks.
 * Shapes: 0 to 1.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item or an item has no reference; ML_RESOURCE. */
ml_status ml_score_exact(const ml_score_set *set, bool ignore_case, double *out) ML_NODISCARD;

/* The part of items whose output asks for the same as one of its references, queries as WikiSQL has
 * them:
 *   SELECT [MAX|MIN|COUNT|SUM|AVG](column) FROM name WHERE column =|>|< value AND …
 * with "columns" and 'values' in quotes, of which one inside is doubled, or values of one word
 * without; no aggregate and no parentheses around a plain column. The conditions are a set, and
 * values are compared in lower case, as in WikiSQL's evaluation of logical form; an output that is
 * no such query is wrong.
 * Shapes: 0 to 1.
 * Ownership: borrows `set`.
 * Local.
 * Errors: ML_INPUT where the set has no item, an item has no reference, or a reference is no such
 * query; ML_RESOURCE. */
ml_status ml_score_logical_form(const ml_score_set *set, double *out) ML_NODISCARD;

/* ---- predictions against labels ------------------------------------------------------------ */

/* Of n rows; F1 of a class = 2·both / (true + predicted), what is divided by nothing 0, as
 * scikit-learn's functions give them. */
typedef struct ml_class_scores {
    double accuracy; /* the part of rows that are right; for bits, right in every bit */
    double f1;       /* of the positive class */
    double f1_micro; /* of the counts of all classes together, `none` left out */
    double f1_macro; /* the mean over classes that are true or predicted somewhere; over all bits */
    double matthews; /* Gorodkin 2004; −1 to 1 */
} ml_class_scores;

/* Figures of predicted classes. `none`: the class that f1_micro leaves out (the O of token labels),
 * −1: none; `positive`: the one that f1 is of, −1: f1 is 0.
 * Shapes: truth[n], predicted[n], 0 … classes − 1.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT without a row, or for a class out of range; ML_RESOURCE. */
ml_status ml_score_classes(const int32_t *truth, const int32_t *predicted, int64_t n,
                           int64_t classes, int64_t none, int64_t positive,
                           ml_class_scores *out) ML_NODISCARD;

/* Figures of predicted bits, several to a row (f1 and matthews are 0).
 * Shapes: truth[n, bits], predicted[n, bits], 0 or 1.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT without a row or bit; ML_RESOURCE. */
ml_status ml_score_bits(const uint8_t *truth, const uint8_t *predicted, int64_t n, int64_t bits,
                        ml_class_scores *out) ML_NODISCARD;

/* Figures of a task by the names that `eval` and `score --task` print. */
enum { ML_MOST_FIGURES = 8 };
typedef struct ml_figures {
    int64_t count;
    const char *name[ML_MOST_FIGURES]; /* static */
    double value[ML_MOST_FIGURES];     /* NaN: there is none, as of numbers that are all equal */
} ml_figures;

/* Pearson's correlation Σ(x − x̄)(y − ȳ) / √(Σ(x − x̄)² Σ(y − ȳ)²), and Spearman's: Pearson's of the
 * ranks, equal values having the mean of theirs. NaN where x or y is constant, as scipy.stats has
 * it.
 * Shapes: x[n], y[n], finite; −1 to 1.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT for fewer than two rows; ML_RESOURCE. */
ml_status ml_score_pearson(const double *x, const double *y, int64_t n, double *out) ML_NODISCARD;
ml_status ml_score_spearman(const double *x, const double *y, int64_t n, double *out) ML_NODISCARD;

typedef enum ml_prediction_kind {
    ML_PREDICT_CLASS,  /* a class by its number or its name */
    ML_PREDICT_NUMBER, /* a number */
    ML_PREDICT_BITS,   /* a list of 0 and 1, equally long everywhere */
    ML_PREDICT_TOKENS  /* a list of classes; a label −100 is left out */
} ml_prediction_kind;

/* What a file of predictions holds: rows of `width` (1, but for bits), tokens as a row each. */
typedef struct ml_predictions ml_predictions;

/* Reads a jsonl file, a line a row: {"prediction": …, "label": …}, both of the kind's form; other
 * keys are passed over, empty lines skipped. A class 1 and one named "1" are the same.
 * Shapes: none.
 * Ownership: *out is the caller's, who ends it with ml_predictions_destroy.
 * Local.
 * Errors: ML_INPUT naming file and line; ML_RESOURCE. */
ml_status ml_predictions_read(ml_predictions **out, const char *path,
                              ml_prediction_kind kind) ML_NODISCARD;

/* Ends what ml_predictions_read made; NULL is fine.
 * Shapes: none.
 * Ownership: takes `set`.
 * Local.
 * Errors: none. */
void ml_predictions_destroy(ml_predictions *set);

/* Rows; how many classes occur; the number that a class's name has among them, −1: it does not
 * occur.
 * Shapes: counts.
 * Ownership: borrows `set`.
 * Local.
 * Errors: none. */
int64_t ml_predictions_rows(const ml_predictions *set);
int64_t ml_predictions_classes(const ml_predictions *set);
int64_t ml_predictions_class(const ml_predictions *set, const char *name);

/* The figures of classes and tokens, of bits, or of numbers, as the functions above have them.
 * `none`, `positive`: names of classes, or NULL.
 * Shapes: −1 to 1.
 * Ownership: all borrowed.
 * Local.
 * Errors: as the functions above; ML_INTERNAL for another kind. */
ml_status ml_predictions_score(const ml_predictions *set, const char *none, const char *positive,
                               ml_class_scores *out) ML_NODISCARD;
ml_status ml_predictions_correlate(const ml_predictions *set, double *pearson,
                                   double *spearman) ML_NODISCARD;

ML_END_DECLS

#endif
