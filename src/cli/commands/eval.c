/* mpilora eval: loss of a base, with or without an adapter, on data.valid. */
#include <inttypes.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/support/generation_options.h"
#include "io/durable.h"
#include "io/json.h"
#include "mpilora/evaluate.h"
#include "mpilora/grid.h"

static const char usage[] = "mpilora eval CONFIG.yaml [--adapter A] [--reference BASE.h5] [--set "
                            "key=value]... [--generate OUT.jsonl] [--predictions OUT.jsonl] "
                            "[--json]";

/* What a JSON object begins with. */
static const char *start_of(bool rounds) { return rounds ? "{\"activations\": \"q8\", " : "{"; }

static void print_tokens(const ml_evaluation *e, bool json, const char *start)
{
    char loss[ML_JSON_NUMBER], perplexity[ML_JSON_NUMBER];
    if (json)
        printf("%s\"loss\": %s, \"perplexity\": %s, \"target_tokens\": %" PRId64 "}\n", start,
               ml_json_number(loss, e->loss), ml_json_number(perplexity, exp(e->loss)),
               e->target_tokens);
    else
        printf("loss %.6f  perplexity %.4f  target tokens %" PRId64 "\n", e->loss, exp(e->loss),
               e->target_tokens);
}

/* Those of the objective; what it has not is NaN. */
static void print_figures(const ml_evaluation *e, bool json, const char *start)
{
    const struct {
        const char *key;
        double value;
    } figures[] = {{"rewards_accuracy", e->accuracy},
                   {"rewards_margin", e->rewards_chosen - e->rewards_rejected},
                   {"rewards_chosen", e->rewards_chosen},
                   {"rewards_rejected", e->rewards_rejected},
                   {"logps_chosen", e->logps_chosen},
                   {"logps_rejected", e->logps_rejected},
                   {"kl", e->kl}};
    const char *rows = isnan(e->kl) ? "pairs" : "answers";
    char loss[ML_JSON_NUMBER];
    if (json)
        printf("%s\"loss\": %s", start, ml_json_number(loss, e->loss));
    else
        printf("loss %.6f", e->loss);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        if (!isnan(figures[i].value))
            printf(json ? ", \"%s\": %.17g" : "  %s %.6g", figures[i].key, figures[i].value);
    printf(json ? ", \"%s\": %" PRId64 "}\n" : "  %s %" PRId64 "\n", rows, e->rows);
}

static void print_labels(const ml_evaluation *e, bool json, const char *start)
{
    char number[ML_JSON_NUMBER];
    if (json)
        printf("%s\"loss\": %s", start, ml_json_number(number, e->loss));
    else
        printf("loss %.6f", e->loss);
    for (int64_t i = 0; i < e->figures.count; i++) {
        if (json)
            printf(", \"%s\": %s", e->figures.name[i], ml_json_number(number, e->figures.value[i]));
        else if (isfinite(e->figures.value[i]))
            printf("  %s %.4f", e->figures.name[i], e->figures.value[i]);
        else
            printf("  %s undefined", e->figures.name[i]);
    }
    printf(json ? ", \"rows\": %" PRId64 "}\n" : "  rows %" PRId64 "\n", e->rows);
}

static void print(const ml_evaluation *e, bool json, bool rounds)
{
    const char *start = start_of(rounds);
    ml_objective objective = e->objective;
    if (ml_grid_world_rank() != 0) return;
    bool labels = objective == ML_OBJECTIVE_CLASSIFY || objective == ML_OBJECTIVE_REGRESS ||
                  objective == ML_OBJECTIVE_TOKENS || objective == ML_OBJECTIVE_CONTRASTIVE;
    if (e->rows > 0 && labels)
        print_labels(e, json, start);
    else if (e->rows > 0)
        print_figures(e, json, start);
    else
        print_tokens(e, json, start);
    if (e->outputs)
        ml_log("%" PRId64 " continuations, %" PRId64 " tokens in %.2f s (%.1f tokens/s)",
               e->outputs, e->output_tokens, e->output_seconds,
               (double)e->output_tokens / e->output_seconds);
}

typedef struct given {
    const char *adapter, *reference, *outputs, *predictions, *activations;
    option_list sets;
    bool json, rounds;
    generation_options generation;
} given;

static const option options[] = {
    {"--adapter", OPTION_TEXT, offsetof(given, adapter), "A",
     "adapter.h5 or a PEFT directory; else the base alone", NULL},
    {"--reference", OPTION_TEXT, offsetof(given, reference), "BASE.h5",
     "of objectives dpo, ipo and kto: the base that answers are measured from; without it that of "
     "the configuration, with the adapter of method.init",
     NULL},
    {"--set", OPTION_LIST, offsetof(given, sets), "KEY=VALUE",
     "sets a key of the configuration, as optim.lr=1e-4 or method.targets=[q,v]; again and again",
     NULL},
    {"--generate", OPTION_TEXT, offsetof(given, outputs), "OUT.jsonl",
     "also write a continuation of every prompt of data.valid beside what stands there, for "
     "mpilora score: lines {\"prompt\", \"output\", \"references\"}; the options of the search "
     "below are for it",
     NULL},
    {"--predictions", OPTION_TEXT, offsetof(given, predictions), "OUT.jsonl",
     "also write what is predicted of each label of data.valid, for mpilora score --task: lines "
     "{\"prediction\", \"label\"}",
     NULL},
    {"--activations", OPTION_TEXT, offsetof(given, activations), "exact|q8",
     "q8: products with weights in blocks take activations rounded to 8 bits, as llama.cpp's do: "
     "faster, and other results",
     "exact"},
    {"--json", OPTION_FLAG, offsetof(given, json), NULL,
     "print {\"loss\": mean over target tokens in nats, \"perplexity\", \"target_tokens\"}; of "
     "objectives that compare answers {\"loss\", \"rewards_accuracy\", \"rewards_margin\", …, "
     "\"pairs\"}, of labels {\"loss\", figures as accuracy or pearson, \"rows\"}",
     NULL},
    GENERATION_OPTIONS(given, generation),
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status check_out(const given *g, const ml_run_config *config)
{
    const char *const outputs[] = {g->outputs, g->predictions};
    const char *const inputs[] = {config->path, config->base,        config->data.valid,
                                  g->adapter,   config->method.init, g->reference};
    if (g->outputs && g->predictions && !strcmp(g->outputs, g->predictions))
        return ml_fail(ML_USAGE, "--generate and --predictions: both are to write %s", g->outputs);
    for (int i = 0; i < 2; i++) {
        ml_status st = outputs[i] ? ml_durable_check_apart(outputs[i], inputs, 6) : ML_OK;
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given given = {0};
    ml_run_config config = {0};
    ml_evaluation result;
    ml_output_options outputs = {0};
    ML_TRY(options_read(argc, argv, options, &given, 1, 1, &path, usage));
    ML_TRY(options_choose("--activations", given.activations, "exact", "q8", &given.rounds));
    ML_TRY(generation_check(&given.generation));
    outputs.path = given.outputs;
    outputs.generation = given.generation.generation;
    outputs.together = given.generation.together;
    ML_TRY(ml_run_config_read(&config, path, given.sets.items, given.sets.count));
    ML_TRY(ml_run_config_check_single(&config));
    ML_TRY(ml_grid_settle(check_out(&given, &config)));
    config.rounds_activations = given.rounds;
    ML_TRY(ml_evaluate_run(&config, given.adapter, given.reference, outputs.path ? &outputs : NULL,
                           given.predictions, &result));
    if (!isfinite(result.loss)) {
        st = ml_fail(
            ML_NUMERIC,
            "the loss on %s is %g: the base or the adapter holds numbers that are not finite",
            config.data.valid, result.loss);
        goto done;
    }
    print(&result, given.json, given.rounds);
done:
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_eval = {
    .name = "eval",
    .summary = "mean loss and perplexity on data.valid",
    .usage = usage,
    .about =
        "Evaluates the base alone, or with an adapter, on one or several ranks. The "
        "configuration's method is ignored, but for the adapter of method.init in what answers "
        "are measured from.",
    .options = options,
    .run = run,
    .parallel = true,
};
