/* mpilora score: how near generated texts are to their references. */
#include "mpilora/score.h"

#include <inttypes.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/commands/score_task.h"
#include "cli/support/options.h"

static const char usage[] =
    "mpilora score OUTPUTS.jsonl | --outputs FILE --references FILE [--metrics "
    "bleu,nist,meteor,meteor_nltk,rouge_l,cider,rouge,rouge_stem,exact,logical_form] [--json] | "
    "--task TASK PREDICTIONS.jsonl";

typedef struct figures {
    json_t *object;
    bool json;
    const char *function_words; /* of METEOR */
} figures;

static void put(const figures *f, const char *name, double value)
{
    if (f->json)
        json_object_set_new(f->object, name, json_real(value));
    else
        printf("%-16s %.6f\n", name, value);
}

/* ---- metrics ------------------------------------------------------------------------------- */

static ml_status bleu(const ml_score_set *set, const figures *f)
{
    ml_bleu b;
    ml_status st = ml_score_bleu(set, &b);
    if (st == ML_OK) put(f, "bleu", b.score);
    return st;
}

static ml_status nist(const ml_score_set *set, const figures *f)
{
    ml_nist n;
    ml_status st = ml_score_nist(set, &n);
    if (st == ML_OK) put(f, "nist", n.score);
    return st;
}

static ml_status meteor(const ml_score_set *set, const figures *f)
{
    ml_meteor m;
    ml_meteor_parameters parameters = ML_METEOR_15;
    parameters.function_words = f->function_words;
    ml_status st = ml_score_meteor(set, &parameters, &m);
    if (st != ML_OK) return st;
    put(f, "meteor", m.score);
    put(f, "meteor_mean", m.mean);
    return ML_OK;
}

static ml_status meteor_nltk(const ml_score_set *set, const figures *f)
{
    ml_meteor m;
    ml_status st = ml_score_meteor(set, &ML_METEOR_NLTK, &m);
    if (st == ML_OK) put(f, "meteor_nltk", m.mean);
    return st;
}

static ml_status rouge_l(const ml_score_set *set, const figures *f)
{
    double x;
    ml_status st = ml_score_rouge_l(set, &x);
    if (st == ML_OK) put(f, "rouge_l", x);
    return st;
}

static ml_status cider(const ml_score_set *set, const figures *f)
{
    double x;
    ml_status st = ml_score_cider(set, &x);
    if (st == ML_OK) put(f, "cider", x);
    return st;
}

static ml_status summary_rouge(const ml_score_set *set, const figures *f, bool stem)
{
    static const char *const names[2][3] = {{"rouge1_f1", "rouge2_f1", "rougeL_f1"},
                                            {"rouge1_f1_stem", "rouge2_f1_stem", "rougeL_f1_stem"}};
    ml_rouge r;
    ml_status st = ml_score_rouge(set, stem, &r);
    if (st != ML_OK) return st;
    put(f, names[stem][0], r.rouge1);
    put(f, names[stem][1], r.rouge2);
    put(f, names[stem][2], r.rouge_l);
    return ML_OK;
}

static ml_status rouge(const ml_score_set *set, const figures *f)
{
    return summary_rouge(set, f, false);
}
static ml_status rouge_stem(const ml_score_set *set, const figures *f)
{
    return summary_rouge(set, f, true);
}

static ml_status exact(const ml_score_set *set, const figures *f)
{
    double x;
    ml_status st = ml_score_exact(set, false, &x);
    if (st == ML_OK) put(f, "exact", x);
    if (st == ML_OK) st = ml_score_exact(set, true, &x);
    if (st == ML_OK) put(f, "exact_any_case", x);
    return st;
}

static ml_status logical_form(const ml_score_set *set, const figures *f)
{
    double x;
    ml_status st = ml_score_logical_form(set, &x);
    if (st == ML_OK) put(f, "logical_form", x);
    return st;
}

static const struct {
    const char *name;
    ml_status (*compute)(const ml_score_set *set, const figures *f);
} metrics[] = {{"bleu", bleu},       {"nist", nist},
               {"meteor", meteor},   {"meteor_nltk", meteor_nltk},
               {"rouge_l", rouge_l}, {"cider", cider},
               {"rouge", rouge},     {"rouge_stem", rouge_stem},
               {"exact", exact},     {"logical_form", logical_form}};
enum { METRICS = sizeof metrics / sizeof *metrics };

/* Those that `words` names, as bits. */
static ml_status choose(const char *words, unsigned *chosen)
{
    *chosen = 0;
    for (const char *at = words;; at++) {
        size_t length = strcspn(at, ",");
        unsigned i = 0;
        while (i < METRICS &&
               (strlen(metrics[i].name) != length || strncmp(at, metrics[i].name, length) != 0))
            i++;
        if (i == METRICS)
            return ml_fail(ML_USAGE,
                           "--metrics: \"%.*s\" is not known; bleu, nist, meteor, meteor_nltk, "
                           "rouge_l, cider, rouge, rouge_stem, exact and logical_form are",
                           (int)length, at);
        *chosen |= 1U << i;
        at += length;
        if (!*at) return ML_OK;
    }
}

/* ---- command line -------------------------------------------------------------------------- */

static ml_status score(const ml_score_set *set, unsigned chosen, bool json,
                       const char *function_words)
{
    ml_status st = ML_OK;
    figures f = {json ? json_object() : NULL, json, function_words};
    if (json)
        json_object_update_new(f.object,
                               json_pack("{s:I,s:I}", "items", (json_int_t)ml_score_set_items(set),
                                         "references", (json_int_t)ml_score_set_references(set)));
    else
        printf("%" PRId64 " outputs, %" PRId64 " references\n", ml_score_set_items(set),
               ml_score_set_references(set));
    for (unsigned i = 0; i < METRICS && st == ML_OK; i++)
        if (chosen & 1U << i) st = metrics[i].compute(set, &f);
    if (json && st == ML_OK) {
        json_dumpf(f.object, stdout, JSON_INDENT(1));
        printf("\n");
    }
    json_decref(f.object);
    return st;
}

typedef struct given {
    const char *outputs, *references, *metrics, *function_words;
    const char *task, *mismatched, *positive;
    bool json;
} given;

static const option options[] = {
    {"--outputs", OPTION_TEXT, offsetof(given, outputs), "FILE", "a text a line", NULL},
    {"--references", OPTION_TEXT, offsetof(given, references), "FILE",
     "the references of each, a line each, an empty line between two outputs (the E2E challenge's "
     "files)",
     NULL},
    {"--metrics", OPTION_TEXT, offsetof(given, metrics), "LIST",
     "some of bleu, nist, meteor, rouge_l, cider, meteor_nltk, rouge, rouge_stem, exact, "
     "logical_form",
     "bleu,nist,meteor,rouge_l,cider"},
    {"--function-words", OPTION_TEXT, offsetof(given, function_words), "FILE",
     "METEOR's list, a word a line (function.words of its release): they weigh a third of the "
     "others. Without it all words weigh the same, as with -p \"0.85 0.2 0.6 0.5\"",
     NULL},
    {"--task", OPTION_TEXT, offsetof(given, task), "TASK",
     "cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, classify, regress, multilabel or tokens: "
     "the file has predictions, {\"prediction\": …, \"label\": …} a line",
     NULL},
    {"--mismatched", OPTION_TEXT, offsetof(given, mismatched), "FILE",
     "with --task mnli: the predictions of its mismatched set", NULL},
    {"--positive", OPTION_TEXT, offsetof(given, positive), "NAME",
     "with --task mrpc, qqp, classify: the class that f1 is of; else 1, equivalent, duplicate",
     NULL},
    {"--json", OPTION_FLAG, offsetof(given, json), NULL, "one JSON object on standard output",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given g = {0};
    unsigned chosen, with_list;
    ml_score_set *set = NULL;
    char *function_words = NULL;
    ML_TRY(options_read(argc, argv, options, &g, 0, 1, &path, usage));
    if (path ? g.outputs || g.references : !g.outputs || !g.references)
        return ml_fail(ML_USAGE, "one OUTPUTS.jsonl, or --outputs and --references; usage: %s",
                       usage);
    if (g.task) {
        if (!path || g.function_words)
            return ml_fail(ML_USAGE, "--task needs PREDICTIONS.jsonl, without --function-words");
        return score_task(&(score_task_given){g.task, path, g.mismatched, g.positive, g.json});
    }
    if (g.mismatched || g.positive)
        return ml_fail(ML_USAGE, "--mismatched and --positive go with --task");
    ML_TRY(choose(g.metrics, &chosen));
    ML_TRY(choose("meteor", &with_list));
    if (g.function_words && !(chosen & with_list))
        return ml_fail(ML_USAGE,
                       "--function-words is METEOR's list: it goes with --metrics meteor");
    if (g.function_words) ML_TRY(ml_score_read_function_words(&function_words, g.function_words));
    ML_TRY(path ? ml_score_set_read_jsonl(&set, path)
                : ml_score_set_read_files(&set, g.outputs, g.references));
    ML_TRY(score(set, chosen, g.json, function_words));
done:
    ml_memory_free(function_words);
    ml_score_set_destroy(set);
    return st;
}

const ml_command ml_command_score = {
    .name = "score",
    .summary = "BLEU, NIST, METEOR, ROUGE, CIDEr and exact match of generated texts; accuracy, F1, "
               "correlations of predictions",
    .usage = usage,
    .about =
        "OUTPUTS.jsonl has a line an output: {\"output\": \"...\", \"references\": [\"...\", "
        "...]}; or --outputs and --references name files of texts. With --task a line is "
        "{\"prediction\": P, \"label\": L}: classes by number or name, numbers, lists of 0 and "
        "1, or lists of classes, where the label -100 is left out.",
    .options = options,
    .notes =
        "bleu: sacrebleu's, lower case. nist: the E2E challenge's, with the original length "
        "penalty. meteor: METEOR 1.5 with exact and stem matches, of the set and the mean of "
        "its items. meteor_nltk: NLTK's meteor_score without WordNet. rouge_l, cider: as the "
        "MS COCO caption evaluation, with Stanford's Penn Treebank tokens. rouge, rouge_stem: "
        "F1 of ROUGE-1, -2, -L as rouge-score. exact: blanks apart. logical_form: queries of "
        "WikiSQL's kind, "
        "conditions in any order, values of any case. include/mpilora/score.h "
        "has every formula, tokenisation and smoothing. Tasks: accuracy, f1, f1_micro, f1_macro, "
        "matthews as scikit-learn, pearson, spearman as scipy have them; f1_micro of tokens "
        "leaves the class O out.",
    .run = run,
    .parallel = false,
};
