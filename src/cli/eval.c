/* mpilora eval: loss of a base, with or without an adapter, on data.valid. */
#include <inttypes.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "mpilora/grid.h"
#include "mpilora/train.h"

static const char usage[] = "mpilora eval CONFIG.yaml [--adapter A] [--set key=value]... [--json]";

static void print(const ml_evaluation *e, bool json)
{
    if (ml_grid_world_rank() != 0) return;
    const char *format = json ? "{\"loss\": %.17g, \"perplexity\": %.17g, \"target_tokens\": %" PRId64 "}\n"
                              : "loss %.6f  perplexity %.4f  target tokens %" PRId64 "\n";
    printf(format, e->loss, exp(e->loss), e->target_tokens);
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL, *adapter = NULL;
    bool json = false;
    option_list sets = {0};
    ml_run_config config = {0};
    ml_evaluation result;
    const option table[] = {
        {"--adapter", OPTION_TEXT, &adapter}, {"--set", OPTION_LIST, &sets}, {"--json", OPTION_FLAG, &json}, {NULL, OPTION_FLAG, NULL}};
    ML_TRY(options_read(argc, argv, table, 1, 1, &path, usage));
    ML_TRY(ml_run_config_read(&config, path, sets.items, sets.count));
    ML_TRY(ml_evaluate_run(&config, adapter, &result));
    if (!isfinite(result.loss)) {
        st = ml_fail(ML_NUMERIC, "the loss on %s is %g: the base or the adapter holds numbers that are not finite", config.data.valid,
                     result.loss);
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
    "usage: mpilora eval CONFIG.yaml [--adapter A] [--set key=value]... [--json]      (also under mpirun)\n"
    "\n"
    "Evaluates the base alone, or with the adapter A (adapter.h5 or a PEFT directory). The configuration's method is ignored.\n"
    "\n"
    "  --json  prints {\"loss\": mean over target tokens in nats, \"perplexity\": ..., \"target_tokens\": ...}\n",
    run,
    true,
    NULL};
