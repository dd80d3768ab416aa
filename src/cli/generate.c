/* mpilora generate: a prompt's continuation. */
#include <inttypes.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "mpilora/generate.h"

static const char usage[] =
    "mpilora generate --base BASE.h5 [--adapter A]... --prompt TEXT [--max-new N] [--beams N] [--length-penalty x] [--no-repeat-ngram N] "
    "[--temperature x] [--top-k N] "
    "[--top-p x] [--seed n] [--precision bf16|fp32]";

static ml_status check(const ml_generate_options *o, const char *precision)
{
    if (!o->base) return ml_fail(ML_USAGE, "--base: missing; usage: %s", usage);
    if (!o->prompt) return ml_fail(ML_USAGE, "--prompt: missing; usage: %s", usage);
    if (strcmp(precision, "bf16") != 0 && strcmp(precision, "fp32") != 0)
        return ml_fail(ML_USAGE, "--precision: \"%s\" is not one of bf16, fp32", precision);
    const ml_generation *g = &o->generation;
    if (g->max_new < 0) return ml_fail(ML_USAGE, "--max-new: %" PRId64 " is negative", g->max_new);
    if (g->beams < 1 || g->beams > 256) return ml_fail(ML_USAGE, "--beams: %" PRId64 ", expected 1 to 256", g->beams);
    if (g->length_penalty != 1.0 && g->beams == 1) return ml_fail(ML_USAGE, "--length-penalty: needs --beams of at least 2");
    if (!(g->length_penalty >= -10.0 && g->length_penalty <= 10.0))
        return ml_fail(ML_USAGE, "--length-penalty: %g, expected -10 to 10", g->length_penalty);
    if (g->no_repeat_ngram < 0) return ml_fail(ML_USAGE, "--no-repeat-ngram: %" PRId64 " is negative", g->no_repeat_ngram);
    if (g->temperature < 0.0) return ml_fail(ML_USAGE, "--temperature: %g is negative", g->temperature);
    if (g->beams > 1 && g->temperature > 0.0)
        return ml_fail(ML_USAGE, "--beams and --temperature: a beam search does not sample; give one of them");
    if (g->top_k < 0) return ml_fail(ML_USAGE, "--top-k: %" PRId64 " is negative", g->top_k);
    if (!(g->top_p > 0.0 && g->top_p <= 1.0)) return ml_fail(ML_USAGE, "--top-p: %g, expected in (0, 1]", g->top_p);
    if (g->temperature == 0.0 && (g->top_k > 0 || g->top_p < 1.0))
        return ml_fail(ML_USAGE, "--top-k and --top-p need --temperature: without it generation is greedy");
    return ML_OK;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *precision = "bf16";
    option_list adapters = {0};
    int64_t seed = 1;
    ml_generate_options o = {.generation = {.max_new = 64, .beams = 1, .length_penalty = 1.0, .top_p = 1.0}};
    ml_text out = {0};
    const option table[] = {{"--base", OPTION_TEXT, &o.base},
                            {"--adapter", OPTION_LIST, &adapters},
                            {"--prompt", OPTION_TEXT, &o.prompt},
                            {"--max-new", OPTION_INT, &o.generation.max_new},
                            {"--beams", OPTION_INT, &o.generation.beams},
                            {"--length-penalty", OPTION_NUMBER, &o.generation.length_penalty},
                            {"--no-repeat-ngram", OPTION_INT, &o.generation.no_repeat_ngram},
                            {"--temperature", OPTION_NUMBER, &o.generation.temperature},
                            {"--top-k", OPTION_INT, &o.generation.top_k},
                            {"--top-p", OPTION_NUMBER, &o.generation.top_p},
                            {"--seed", OPTION_INT, &seed},
                            {"--precision", OPTION_TEXT, &precision},
                            {NULL, OPTION_FLAG, NULL}};
    ML_TRY(options_read(argc, argv, table, 0, 0, NULL, usage));
    ML_TRY(check(&o, precision));
    if (adapters.count > 1) {
        st = ml_fail(ML_USAGE, "--adapter: given %" PRId64 " times; one adapter at a time", adapters.count);
        goto done;
    }
    o.adapter = adapters.count ? adapters.items[0] : NULL;
    o.precision = strcmp(precision, "bf16") == 0 ? ML_BF16 : ML_FP32;
    o.generation.seed = (uint64_t)seed;
    ML_TRY(ml_generate_run(&o, &out));
    if (ml_grid_world_rank() == 0) {
        fwrite(out.data, 1, (size_t)out.length, stdout);
        putchar('\n');
    }
done:
    ml_text_destroy(&out);
    return st;
}

const ml_command ml_command_generate = {
    "generate",
    "the continuation of a prompt",
    "usage: mpilora generate --base BASE.h5 [--adapter A] --prompt TEXT [--max-new N] [--beams N] [--temperature x] [--top-k N] [--top-p "
    "x]\n"
    "                        [--seed n] [--precision bf16|fp32]                    (under mpirun: tensor-parallel over all ranks)\n"
    "\n"
    "Prints only the continuation. Greedy unless --temperature or --beams is given; ends at end-of-text or after N new tokens (64 unless "
    "told).\n"
    "\n"
    "  --adapter A   adapter.h5 or a PEFT directory\n"
    "  --beams N     beam search as Hugging Face's defaults: length penalty 1, no early stopping\n"
    "  --length-penalty x    of beams: log-probability / length^x counts\n"
    "  --no-repeat-ngram N   no N tokens stand twice in prompt and continuation\n"
    "  --precision   what is computed with (bf16 unless told): bf16 keeps the weights in half the memory\n",
    run,
    true,
    NULL};
