/* mpilora embed: a vector for each text of a file. */
#include "mpilora/embed.h"

#include <inttypes.h>

#include "cli/cli.h"
#include "cli/support/options.h"
#include "cli/support/texts.h"
#include "io/durable.h"
#include "io/vector_file.h"
#include "mpilora/grid.h"

static const char usage[] =
    "mpilora embed --base BASE.h5 [--adapter A] IN OUT.h5|OUT.npy [--pooling mean|cls|last] "
    "[--normalise] [--max-len N] [--precision fp32|bf16] [--tp N] [--json]";

typedef struct given {
    const char *base, *adapter, *pooling, *precision;
    bool normalise, json, narrow;
    int64_t max_len, tp;
    ml_pooling chosen;
} given;

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(given, base), "BASE.h5", "the base", NULL},
    {"--adapter", OPTION_TEXT, offsetof(given, adapter), "A",
     "adapter.h5 or a PEFT directory; else the base alone", NULL},
    {"--pooling", OPTION_TEXT, offsetof(given, pooling), "mean|cls|last",
     "the vector is the mean of the last hidden states of a text, or that of its first or its last "
     "token, special tokens included; else as the adapter was trained, or the modules.json of the "
     "base's directory says it, "
     "its normalisation with it, and the mean where there is none",
     NULL},
    {"--normalise", OPTION_FLAG, offsetof(given, normalise), NULL,
     "each vector divided by its length", NULL},
    {"--max-len", OPTION_INT, offsetof(given, max_len), "N",
     "tokens of a text, special ones included: longer texts are cut; else as the base's directory "
     "says it (sentence_bert_config.json, then tokenizer_config.json), at most the context",
     NULL},
    {"--precision", OPTION_TEXT, offsetof(given, precision), "fp32|bf16",
     "what is computed with; bf16 keeps the weights in half the memory", "fp32"},
    {"--tp", OPTION_INT, offsetof(given, tp), "N",
     "ranks that share a replica's weights; the replicas share the texts", "1"},
    {"--json", OPTION_FLAG, offsetof(given, json), NULL,
     "print {\"texts\", \"width\", \"tokens\", \"cut\", \"max_len\", \"pooling\", "
     "\"normalised\"}",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

/* The nearest word to --pp, as other commands have it, would be --tp without a reason. */
static ml_status refuse_stages(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--pp") || !strncmp(argv[i], "--pp=", 5))
            return ml_fail(ML_USAGE,
                           "--pp: embed has no pipelines; --tp N divides a replica's weights among "
                           "ranks, without it each rank has all of them and a share of the texts");
    return ML_OK;
}

static ml_status read_words(int argc, char **argv, given *g, const char *words[2])
{
    ml_status st = refuse_stages(argc, argv);
    if (st == ML_OK) st = options_read(argc, argv, options, g, 2, 2, words, usage);
    if (st != ML_OK) return st;
    if (!g->base) return ml_fail(ML_USAGE, "--base: missing; usage: %s", usage);
    if (!vector_file_is_known(words[1]))
        return ml_fail(ML_USAGE, "%s: expected a name that ends in .h5 or .npy", words[1]);
    const char *const inputs[] = {words[0], g->base, g->adapter};
    st = ml_durable_check_apart(words[1], inputs, 3);
    if (st != ML_OK) return st;
    if (g->tp < 1) return ml_fail(ML_USAGE, "--tp: %" PRId64 ", expected 1 or more", g->tp);
    if (g->max_len < 0)
        return ml_fail(ML_USAGE, "--max-len: %" PRId64 ", expected 1 or more", g->max_len);
    if (g->pooling) {
        int word = ml_find_word(g->pooling, ml_pooling_words);
        if (word < 0)
            return ml_fail(ML_USAGE, "--pooling: \"%s\" is not one of mean, cls, last", g->pooling);
        g->chosen = (ml_pooling)((int)ML_POOLING_MEAN + word);
    }
    return options_choose("--precision", g->precision, "fp32", "bf16", &g->narrow);
}

static void tell(const given *g, const texts *t, const ml_embed_report *r)
{
    const char *pooling = ml_pooling_words[r->pooling - ML_POOLING_MEAN];
    if (ml_grid_world_rank() != 0) return;
    if (r->cut)
        ml_warn("%" PRId64 " of %" PRId64 " texts are longer than %" PRId64 " tokens and were cut",
                r->cut, t->count, r->max_len);
    if (g->json)
        printf("{\"texts\": %" PRId64 ", \"width\": %" PRId64 ", \"tokens\": %" PRId64
               ", \"cut\": %" PRId64 ", \"max_len\": %" PRId64
               ", \"pooling\": \"%s\", \"normalised\": %s}\n",
               t->count, r->width, r->tokens, r->cut, r->max_len, pooling,
               r->normalised ? "true" : "false");
    else
        printf("%" PRId64 " texts, vectors of %" PRId64 " numbers, pooling %s%s; %" PRId64
               " tokens in %.2f s\n",
               t->count, r->width, pooling, r->normalised ? ", normalised" : "", r->tokens,
               r->seconds);
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *words[2];
    given g = {0};
    texts t = {0};
    ml_embed_report report;
    ML_TRY(read_words(argc, argv, &g, words));
    ML_TRY(ml_grid_settle(texts_read(&t, words[0])));
    const ml_embed_options o = {.base = g.base,
                                .adapter = g.adapter,
                                .out = words[1],
                                .precision = g.narrow ? ML_BF16 : ML_FP32,
                                .pooling = g.chosen,
                                .normalise = g.normalise,
                                .max_len = g.max_len,
                                .tp = g.tp,
                                .count = t.count,
                                .texts = (const char *const *)t.text,
                                .line = t.line,
                                .file = words[0]};
    ML_TRY(ml_embed_run(&o, &report));
    tell(&g, &t, &report);
done:
    texts_destroy(&t);
    return st;
}

const ml_command ml_command_embed = {
    .name = "embed",
    .summary = "a vector for each text, by an encoder or a decoder",
    .usage = usage,
    .about = "IN has a text a line, or with a name that ends in .jsonl lines {\"text\": …}. Texts "
             "go through the base's tokenizer with its special tokens and are packed without "
             "padding. OUT.h5 has the data set embeddings, fp32, a row a text, and says in "
             "attributes what made it; OUT.npy is the same matrix for NumPy.",
    .options = options,
    .run = run,
    .parallel = true,
};
