/* mpilora eval: loss of a base, with or without an adapter, on data.valid. */
#include <inttypes.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/support/generation_options.h"
#include "io/json.h"
#include "mpilora/evaluate.h"
#include "mpilora/grid.h"

static const char usage[] =
    "mpilora eval CONFIG.yaml [--adapter A] [--set key=value]... [--generate OUT.jsonl] [--json]";

static void print_tokens(const ml_evaluation *e, bool json)
{
    char loss[ML_JSON_NUMBER], perplexity[ML_JSON_NUMBER];
    if (json)
        printf("{\"loss\": %s, \"perplexity\": %s, \"target_tokens\": %" PRId64 "}\n",
               ml_json_number(loss, e->loss), ml_json_number(perplexity, exp(e->loss)),
               e->target_tokens);
    else
        printf("loss %.6f  perplexity %.4f  target tokens %" PRId64 "\n", e->loss, exp(e->loss),
               e->target_tokens);
}

static void print_rewards(const ml_evaluation *e, bool json)
{
    double margin = e->rewards_chosen - e->rewards_rejected;
    if (json)
        printf("{\"loss\": %.17g, \"rewards_accuracy\": %.17g, \"rewards_margin\": %.17g, "
               "\"rewards_chosen\": %.17g, \"rewards_rejected\": %.17g, \"pairs\": %" PRId64 "}\n",
               e->loss, e->accuracy, margin, e->rewards_chosen, e->rewards_rejected, e->rows);
    else
        printf("loss %.6f  rewards: accuracy %.4f, margin %.4f  pairs %" PRId64 "\n", e->loss,
               e->accuracy, margin, e->rows);
}

static void print(const ml_evaluation *e, bool json)
{
    if (ml_grid_world_rank() != 0) return;
    if (e->rows > 0)
        print_rewards(e, json);
    else
        print_tokens(e, json);
    if (e->outputs)
        ml_log("%" PRId64 " continuations, %" PRId64 " tokens in %.2f s (%.1f tokens/s)",
               e->outputs, e->output_tokens, e->output_seconds,
               (double)e->output_tokens / e->output_seconds);
}

typedef struct given {
    const char *adapter, *outputs;
    option_list sets;
    bool json;
    generation_options generation;
} given;

static const option options[] = {
    {"--adapter", OPTION_TEXT, offsetof(given, adapter), "A",
     "adapter.h5 or a PEFT directory; else the base alone", NULL},
    {"--set", OPTION_LIST, offsetof(given, sets), "KEY=VALUE",
     "sets a key of the configuration, as optim.lr=1e-4 or method.targets=[q,v]; again and again",
     NULL},
    {"--generate", OPTION_TEXT, offsetof(given, outputs), "OUT.jsonl",
     "also write a continuation of every prompt of data.valid beside what stands there, for "
     "mpilora score: lines {\"prompt\", \"output\", \"references\"}; the options of the search "
     "below are for it",
     NULL},
    {"--json", OPTION_FLAG, offsetof(given, json), NULL,
     "print {\"loss\": mean over target tokens in nats, \"perplexity\", \"target_tokens\"}; of "
     "objective reward {\"loss\", \"rewards_accuracy\", \"rewards_margin\", …, \"pairs\"}",
     NULL},
    GENERATION_OPTIONS(given, generation),
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given given = {0};
    ml_run_config config = {0};
    ml_evaluation result;
    ml_output_options outputs = {0};
    ML_TRY(options_read(argc, argv, options, &given, 1, 1, &path, usage));
    ML_TRY(generation_check(&given.generation));
    outputs.path = given.outputs;
    outputs.generation = given.generation.generation;
    outputs.together = given.generation.together;
    ML_TRY(ml_run_config_read(&config, path, given.sets.items, given.sets.count));
    ML_TRY(ml_evaluate_run(&config, given.adapter, outputs.path ? &outputs : NULL, &result));
    if (!isfinite(result.loss)) {
        st = ml_fail(
            ML_NUMERIC,
            "the loss on %s is %g: the base or the adapter holds numbers that are not finite",
            config.data.valid, result.loss);
        goto done;
    }
    print(&result, given.json);
done:
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_eval = {
    .name = "eval",
    .summary = "mean loss and perplexity on data.valid",
    .usage = usage,
    .about = "Evaluates the base alone, or with an adapter, on one or several ranks. The "
             "configuration's method is ignored.",
    .options = options,
    .run = run,
    .parallel = true,
};
