/* A run configuration: its defaults, how it is read and written by the table of run_keys.c, and
 * which of its values do not go together. */
#include <inttypes.h>
#include <stdarg.h>

#include "config/table.h"
#include "mpilora/config.h"

enum { DEFAULT_MICRO = 8 };

void ml_run_config_set_defaults(ml_run_config *c)
{
    *c = (ml_run_config){.seed = 1,
                         .method = {.rank = 8,
                                    .alpha = 16.0,
                                    .targets = ML_TARGET_Q | ML_TARGET_V,
                                    .sizes = {.top = 2, .prefix = 8, .bottleneck = 8, .factors = 4},
                                    .prefix_init = ML_PREFIX_VOCABULARY},
                         .objective = {.beta = 0.1,
                                       .mask_probability = 0.15,
                                       .mask_replace = 0.8,
                                       .random_replace = 0.1,
                                       .mask_token = -1,
                                       .temperature = 0.05,
                                       .normalise = true,
                                       .gamma = 0.5,
                                       .cpo_alpha = 1.0,
                                       .ld_alpha = 1.0,
                                       .desirable_weight = 1.0,
                                       .undesirable_weight = 1.0},
                         .data = {.shuffle = true, .share_prompts = true},
                         .batch = {.sequences = 32},
                         .optim = {.lr = 2e-4,
                                   .beta1 = 0.9,
                                   .beta2 = 0.999,
                                   .eps = 1e-8,
                                   .weight_decay = 0.01,
                                   .clip_norm = 1.0},
                         .train = {.steps = 1000, .keep = 2, .samples = {.max_new = 64}},
                         .parallel = {1, 1, 1},
                         .precision = ML_BF16};
}

/* method.init is this word, which is no path. */
static bool says(const ml_run_config *c, const char *word)
{
    return c->method.init && !strcmp(c->method.init, word);
}

static int line_of(const ml_run_config *c, const char *path)
{
    for (int i = 0; c->line && run_keys[i].path; i++)
        if (!strcmp(run_keys[i].path, path)) return c->line[i];
    return 0;
}

ml_status ml_run_config_refuse(const ml_run_config *c, const char *key, const char *format, ...)
{
    char message[1024];
    int line = line_of(c, key);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (!c->path) return ml_fail(ML_USAGE, "%s: %s", key, message);
    if (line > 0) return ml_fail(ML_USAGE, "%s:%d: %s: %s", c->path, line, key, message);
    return ml_fail(ML_USAGE, "%s%s: %s: %s", c->path, line == SET_LINE ? ", --set" : "", key,
                   message);
}

bool ml_run_config_is_pissa(const ml_run_config *c)
{
    return ml_method_has_lora(c->method.name) && says(c, "pissa");
}

bool ml_run_config_is_loftq(const ml_run_config *c)
{
    return ml_method_has_lora(c->method.name) && says(c, "loftq");
}

const char *ml_run_config_first_adapter(const ml_run_config *c)
{
    return says(c, "pissa") || says(c, "loftq") ? NULL : c->method.init;
}

/* PiSSA and LoftQ: factors that are not zero at first. */
static ml_status check_factors(const ml_run_config *c)
{
    bool loftq = ml_run_config_is_loftq(c);
    if (!loftq && !ml_run_config_is_pissa(c)) return ML_OK;
    if (c->method.name != ML_METHOD_LORA)
        return ml_run_config_refuse(c, "method.init", "%s is for method.name lora, not for %s",
                                    c->method.init, ml_method_name(c->method.name));
    if (c->method.dora)
        return ml_run_config_refuse(
            c, "method.init", "%s and method.dora do not go together; choose one", c->method.init);
    if (loftq && !c->method.original)
        return ml_run_config_refuse(c, "method.original",
                                    "missing; method.init is loftq, so name the base as it was "
                                    "before it was rounded to blocks");
    return ML_OK;
}

static ml_status check_dora(const ml_run_config *c)
{
    if (ml_method_has_lora(c->method.name) && c->method.dora && c->method.dropout > 0.0)
        return ml_run_config_refuse(c, "method.dropout",
                                    "%g with method.dora: dropout would need another product with "
                                    "every weight; set it to 0",
                                    c->method.dropout);
    return ML_OK;
}

const char *ml_prefix_init_name(ml_prefix_init init) { return prefix_init_words[init]; }

static ml_status check_prefix(const ml_run_config *c)
{
    bool text = c->method.prefix_init == ML_PREFIX_TEXT;
    if (!ml_method_has_prefix(c->method.name)) return ML_OK;
    if (c->method.sizes.prefix + c->method.sizes.infix == 0)
        return ml_run_config_refuse(
            c, "method.prefix",
            "is 0, and so is method.infix: method %s trains nothing; give one of them",
            ml_method_name(c->method.name));
    if (text && !c->method.prefix_text)
        return ml_run_config_refuse(
            c, "method.prefix_text",
            "missing; method.prefix_init is text, so name the text to start from");
    if (!text && c->method.prefix_text)
        return ml_run_config_refuse(c, "method.prefix_text",
                                    "is read where method.prefix_init is text, but that is %s; "
                                    "change it, or leave the text out",
                                    ml_prefix_init_name(c->method.prefix_init));
    return ML_OK;
}

/* How long a run is, and what ends it. --set, and what a run of several sets, goes before the
 * file: steps in the place of its epochs, or epochs in the place of its steps. */
static ml_status check_length(ml_run_config *c)
{
    const int steps = line_of(c, "train.steps"), epochs = line_of(c, "train.epochs");
    if (c->train.epochs > 0.0 && steps != 0 && (steps == SET_LINE) == (epochs == SET_LINE))
        return ml_run_config_refuse(c, "train.epochs",
                                    "train.steps is given, too; name one of the two");
    if (steps == SET_LINE) c->train.epochs = 0.0;
    if (c->train.early_stop.patience > 0 && c->train.eval_every == 0)
        return ml_run_config_refuse(c, "train.early_stop.patience",
                                    "%" PRId64 ", but train.eval_every is 0, so nothing is "
                                    "evaluated before the end; say after how many steps",
                                    c->train.early_stop.patience);
    if (c->train.samples.every > 0 && !c->train.samples.file)
        return ml_run_config_refuse(c, "train.samples.every",
                                    "is on, but train.samples.file is missing; name the file of "
                                    "prompts to go on from");
    return ML_OK;
}

/* tp, cp and pp, of which at least two are more than one where they are too many. */
static ml_status check_ranks(const ml_run_config *c)
{
    int64_t ranks = ml_run_config_replica_ranks(c);
    if (ranks <= ML_RANKS_MOST) return ML_OK;
    return ml_run_config_refuse(c, c->parallel.pp > 1 ? "parallel.pp" : "parallel.cp",
                                "tp %" PRId64 " x cp %" PRId64 " x pp %" PRId64 " are %" PRId64
                                " ranks, expected %d at most",
                                c->parallel.tp, c->parallel.cp, c->parallel.pp, ranks,
                                ML_RANKS_MOST);
}

static ml_status check(ml_run_config *c)
{
    if (!c->base)
        return ml_run_config_refuse(c, "base",
                                    "missing; name a base file (mpilora import makes one)");
    ml_status st = check_ranks(c);
    if (st == ML_OK) st = check_prefix(c);
    if (st == ML_OK) st = check_dora(c);
    if (st == ML_OK) st = check_factors(c);
    c->objective.by_data = c->line && line_of(c, "objective.name") == 0;
    if (st == ML_OK) st = objective_check(c);
    if (st == ML_OK) st = check_length(c);
    if (st != ML_OK) return st;
    if (c->train.early_stop.patience > 0) c->train.keep_best = true;
    if (c->batch.micro == 0) c->batch.micro = ml_min(c->batch.sequences, DEFAULT_MICRO);
    return ML_OK;
}

ml_status ml_run_config_read(ml_run_config *out, const char *path, const char *const *sets,
                             int64_t nsets)
{
    ml_status st = ML_OK;
    int64_t keys = 0;
    ml_run_config_set_defaults(out);
    while (run_keys[keys].path) keys++;
    ML_NEW(out->line, keys, ML_MEM_OTHER, "the lines of a configuration");
    out->path = ml_memory_string(path);
    if (!out->path) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_TRY(table_read_file(run_keys, out, out->line, path));
    for (int64_t i = 0; i < nsets; i++) ML_TRY(table_read_set(run_keys, out, out->line, sets[i]));
    ML_TRY(check(out));
done:
    if (st != ML_OK) ml_run_config_destroy(out);
    return st;
}

void ml_run_config_destroy(ml_run_config *config)
{
    table_free_values(run_keys, config);
    ml_memory_free(config->path);
    ml_memory_free(config->line);
    config->path = NULL;
    config->line = NULL;
}

ml_status ml_run_config_write(const ml_run_config *config, ml_text *out)
{
    return table_write(run_keys, config, out);
}

ml_status ml_run_config_describe(ml_text *out)
{
    static const char beginning[] =
        "# Configuration\n"
        "\n"
        "A run's file is YAML: sections with keys, as in [getting-started](getting-started.md). "
        "Unknown keys, values of another type and out of range, and combinations that cannot be "
        "are "
        "refused with file, line and key. A key that is absent has its default; `config.yaml` in "
        "the folder of a run has all of them. On the command line `--set section.key=value` sets "
        "one, and the value is YAML: `--set method.targets=[q,v]`. Paths are relative to the "
        "working directory. Anchors, aliases and tags are not accepted.\n"
        "\n"
        "This page is what `mpilora help configuration` prints; the program reads by the same "
        "table.\n";
    ml_run_config defaults;
    ml_run_config_set_defaults(&defaults);
    ml_status st = ml_text_printf(out, "%s", beginning);
    return st == ML_OK ? table_describe(run_keys, &defaults, out) : st;
}

int64_t ml_run_config_micro(const ml_run_config *c, int dp)
{
    return ml_min(c->batch.micro, ml_max(1, ml_part_count(c->batch.sequences, dp, 0)));
}

int64_t ml_run_config_replica_ranks(const ml_run_config *c)
{
    return c->parallel.tp * c->parallel.cp * c->parallel.pp;
}

/* What needs data.valid has it. */
static ml_status check_evaluated(const ml_run_config *c)
{
    const char *key = c->train.early_stop.patience > 0 ? "train.early_stop.patience"
                      : c->train.keep_best             ? "train.keep_best"
                      : c->train.eval_first            ? "train.eval_first"
                                                       : NULL;
    if (!key || c->data.valid) return ML_OK;
    return ml_run_config_refuse(c, key,
                                "is on, but data.valid is missing, so nothing is evaluated; name "
                                "the data set to evaluate on");
}

ml_status ml_run_config_check_training(const ml_run_config *c)
{
    if (!c->run_dir)
        return ml_run_config_refuse(c, "run.dir",
                                    "missing; name the directory that the run writes to");
    if (c->data.train.count == 0)
        return ml_run_config_refuse(
            c, "data.train", "missing; name the data set to train on (mpilora tokenize makes one)");
    if (ml_run_config_first_adapter(c) && c->method.name == ML_METHOD_FULL)
        return ml_run_config_refuse(c, "method.init",
                                    "is an adapter, which method full has not; it goes on from a "
                                    "base file: set base to its model.h5");
    return check_evaluated(c);
}
