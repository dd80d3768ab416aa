/* mpilora eval: loss of a base, with or without an adapter, on data.valid. */
#include <inttypes.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/support/generation_options.h"
#include "mpilora/evaluate.h"
#include "mpilora/grid.h"

static const char usage[] =
    "mpilora eval CONFIG.yaml [--adapter A] [--set key=value]... [--generate OUT.jsonl] [--json]";

static void print(const ml_evaluation *e, bool json)
{
    if (ml_grid_world_rank() != 0) return;
    const char *format =
        json ? "{\"loss\": %.17g, \"perplexity\": %.17g, \"target_tokens\": %" PRId64 "}\n"
             : "loss %.6f  perplexity %.4f  target tokens %" PRId64 "\n";
    printf(format, e->loss, exp(e->loss), e->target_tokens);
    if (e->outputs)
        ml_log("%" PRId64 " continuations, %" PRId64 " tokens in %.2f s (%.1f tokens/s)",
               e->outputs, e->output_tokens, e->output_seconds,
               (double)e->output_tokens / e->output_seconds);
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL, *adapter = NULL;
    bool json = false;
    option_list sets = {0};
    ml_run_config config = {0};
    ml_evaluation result;
    generation_options generation = generation_defaults();
    ml_output_options outputs = {0};
    option table[5 + GENERATION_OPTIONS] = {{"--adapter", OPTION_TEXT, &adapter},
                                            {"--set", OPTION_LIST, &sets},
                                            {"--generate", OPTION_TEXT, &outputs.path},
                                            {"--json", OPTION_FLAG, &json}};
    generation_add_options(&generation, table + 4);
    ML_TRY(options_read(argc, argv, table, 1, 1, &path, usage));
    ML_TRY(generation_check(&generation));
    outputs.generation = generation.generation;
    outputs.together = generation.together;
    ML_TRY(ml_run_config_read(&config, path, sets.items, sets.count));
    ML_TRY(ml_evaluate_run(&config, adapter, outputs.path ? &outputs : NULL, &result));
    if (!isfinite(result.loss)) {
        st = ml_fail(
            ML_NUMERIC,
            "the loss on %s is %g: the base or the adapter holds numbers that are not finite",
            config.data.valid, result.loss);
        goto done;
    }
    print(&result, json);
done:
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_eval = {
    "eval",
    "mean loss and perplexity on data.valid",
    "usage: mpilora eval CONFIG.yaml [--adapter A] [--set key=value]... [--generate OUT.jsonl] "
    "[option]... [--json]\n"
    "                                                                                            "
    "(also under mpirun)\n"
    "\n"
    "Evaluates the base alone, or with the adapter A (adapter.h5 or a PEFT directory). The "
    "configuration's method is ignored.\n"
    "\n"
    "  --generate OUT.jsonl  also writes a continuation of every prompt of data.valid beside what "
    "stands there, for mpilora score:\n"
    "                        lines {\"prompt\", \"output\", \"references\"}; options of the search "
    "as in mpilora generate: --max-new,\n"
    "                        --beams, --length-penalty, --no-repeat-ngram, --temperature, --top-k, "
    "--top-p, --seed, --batch\n"
    "  --json  prints {\"loss\": mean over target tokens in nats, \"perplexity\": ..., "
    "\"target_tokens\": ...}\n",
    run,
    true,
    NULL};
