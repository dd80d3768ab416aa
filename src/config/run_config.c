/* The keys of a run configuration. */
#include <float.h>
#include <stdarg.h>

#include "config/table.h"
#include "mpilora/config.h"

static const char *const scalings[] = {"standard", "rslora", NULL};
static const char *const prefix_inits[] = {"random", "vocabulary", "text", NULL};
static const char *const schedules[] = {"constant", "linear", "cosine", NULL};
static const char *const activations[] = {"auto", "full", "selective", "checkpoint", NULL};
static const char *const shares[] = {"auto", "on", "off", NULL};
static const char *const precisions[] = {"fp32", "bf16", NULL};
static const char *const measures[] = {"once", "always", NULL};

#define AT(field) offsetof(ml_run_config, field)
#define ANY_INT 9e18

static const key table[] = {
    {.path = "run.dir",
     .kind = KEY_TEXT,
     .offset = AT(run_dir),
     .nullable = true,
     .about = "The folder that the run writes to; `train` needs it."},
    {.path = "run.seed",
     .kind = KEY_SEED,
     .offset = AT(seed),
     .about = "Keys initial values, dropout and order; none of them depends on the grid."},
    {.path = "run.time_limit",
     .kind = KEY_SECONDS,
     .offset = AT(time_limit),
     .least = 0,
     .open_least = true,
     .most = 1e9,
     .nullable = true,
     .about = "How long the job may run, as `90m` or `11:30:00`; the run saves and ends with code "
              "75 before. Without it `SLURM_JOB_END_TIME` counts."},
    {.path = "base",
     .kind = KEY_TEXT,
     .offset = AT(base),
     .about =
         "The base file; for `plan` also a model description as `configs/models/gpt3-175b.yaml`.",
     .absent = "needed"},
    {.path = "method.name",
     .kind = KEY_CHOICE,
     .offset = AT(method.name),
     .choices = method_words,
     .about = "What trains; see [methods](methods.md)."},
    {.path = "method.rank",
     .kind = KEY_INT,
     .offset = AT(method.rank),
     .least = 1,
     .most = 65536,
     .about = "LoRA: the rank r of A and B."},
    {.path = "method.alpha",
     .kind = KEY_REAL,
     .offset = AT(method.alpha),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "LoRA: the scale is α/r, under `rslora` α/√r."},
    {.path = "method.dropout",
     .kind = KEY_REAL,
     .offset = AT(method.dropout),
     .least = 0,
     .most = 1,
     .open_most = true,
     .about = "LoRA: dropout of the input of A; not with `dora`."},
    {.path = "method.targets",
     .kind = KEY_TARGETS,
     .offset = AT(method.targets),
     .about = "LoRA: which linear layers are adapted."},
    {.path = "method.scaling",
     .kind = KEY_CHOICE,
     .offset = AT(method.scaling),
     .choices = scalings,
     .about = "LoRA: α/r or α/√r."},
    {.path = "method.init",
     .kind = KEY_TEXT,
     .offset = AT(method.init),
     .nullable = true,
     .about = "LoRA: an adapter.h5 or a PEFT directory to start from, or `pissa`."},
    {.path = "method.dora",
     .kind = KEY_BOOL,
     .offset = AT(method.dora),
     .about = "LoRA: a trained magnitude for every row of W."},
    {.path = "method.lora_plus",
     .kind = KEY_REAL,
     .offset = AT(method.lora_plus),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .nullable = true,
     .about = "LoRA: the learning rate of B is that many times `optim.lr`."},
    {.path = "method.layers",
     .kind = KEY_LAYERS,
     .offset = AT(method.layers),
     .about = "LoRA: only these layers, as `[0, 3, 6-9]`."},
    {.path = "method.rank_pattern",
     .kind = KEY_SITES,
     .offset = AT(method.rank_pattern),
     .least = 1,
     .most = 65536,
     .whole = true,
     .about =
         "LoRA: ranks of single modules by name or end of name, as `{layers.0.attn.q: 4, q: 16}`."},
    {.path = "method.alpha_pattern",
     .kind = KEY_SITES,
     .offset = AT(method.alpha_pattern),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "LoRA: α of single modules, likewise."},
    {.path = "method.top",
     .kind = KEY_INT,
     .offset = AT(method.sizes.top),
     .least = 1,
     .most = 1 << 20,
     .about = "`top`: how many of the last layers train."},
    {.path = "method.prefix",
     .kind = KEY_INT,
     .offset = AT(method.sizes.prefix),
     .least = 0,
     .most = 1 << 20,
     .about = "Virtual tokens before the prompt."},
    {.path = "method.infix",
     .kind = KEY_INT,
     .offset = AT(method.sizes.infix),
     .least = 0,
     .most = 1 << 20,
     .about = "Virtual tokens between prompt and completion; not `prefix_kv`."},
    {.path = "method.prefix_init",
     .kind = KEY_CHOICE,
     .offset = AT(method.prefix_init),
     .choices = prefix_inits,
     .about = "What virtual tokens start as: small random numbers, words of the vocabulary, or "
              "those of `method.prefix_text`."},
    {.path = "method.prefix_text",
     .kind = KEY_TEXT,
     .offset = AT(method.prefix_text),
     .nullable = true,
     .about = "The text to start from, repeated or cut to the number of virtual tokens."},
    {.path = "method.bottleneck",
     .kind = KEY_INT,
     .offset = AT(method.sizes.bottleneck),
     .least = 1,
     .most = 65536,
     .about = "Adapters and `compacter`: the width r inside."},
    {.path = "method.drop",
     .kind = KEY_INT,
     .offset = AT(method.sizes.drop),
     .least = 0,
     .most = 1 << 20,
     .about = "`adapter_drop`: how many of the first layers have no adapter."},
    {.path = "method.factors",
     .kind = KEY_INT,
     .offset = AT(method.sizes.factors),
     .least = 1,
     .most = 256,
     .about = "`compacter`: the number n of Kronecker factors; it divides the width and the "
              "bottleneck."},
    {.path = "method.new_biases",
     .kind = KEY_BOOL,
     .offset = AT(method.sizes.new_biases),
     .about = "`bitfit`: also the biases that the model lacks, as zeros."},
    {.path = "data.train",
     .kind = KEY_TEXT,
     .offset = AT(data.train),
     .nullable = true,
     .about = "The data set to train on; `train` needs it."},
    {.path = "data.valid",
     .kind = KEY_TEXT,
     .offset = AT(data.valid),
     .nullable = true,
     .about = "The data set to evaluate on; without it nothing is evaluated."},
    {.path = "data.max_len",
     .kind = KEY_INT,
     .offset = AT(data.max_len),
     .least = 0,
     .most = ANY_INT,
     .about = "Longer sequences are cut to that many tokens; 0: the model's context."},
    {.path = "data.shuffle",
     .kind = KEY_BOOL,
     .offset = AT(data.shuffle),
     .about = "A new order in each epoch; else the order of the file."},
    {.path = "data.group_prompts",
     .kind = KEY_BOOL,
     .offset = AT(data.group_prompts),
     .about = "Sequences with the same prompt stay together in the order, so that more is shared."},
    {.path = "data.share_prompts",
     .kind = KEY_BOOL,
     .offset = AT(data.share_prompts),
     .about = "What sequences of a micro-batch begin with in common is computed once."},
    {.path = "batch.sequences",
     .kind = KEY_INT,
     .offset = AT(batch.sequences),
     .least = 1,
     .most = 1 << 30,
     .about = "Sequences of a step, of the whole job; at least dp."},
    {.path = "batch.micro",
     .kind = KEY_INT,
     .offset = AT(batch.micro),
     .least = 1,
     .most = 1 << 30,
     .about = "At most so many sequences at once in each replica; the rest is accumulated.",
     .absent = "the lesser of 8 and `batch.sequences`"},
    {.path = "optim.lr",
     .kind = KEY_REAL,
     .offset = AT(optim.lr),
     .least = 0,
     .most = FLT_MAX,
     .about = "AdamW's learning rate before the schedule."},
    {.path = "optim.betas",
     .kind = KEY_PAIR,
     .offset = AT(optim.beta1),
     .least = 0,
     .most = 1,
     .open_most = true,
     .about = "AdamW's decay of the first and second moment."},
    {.path = "optim.eps",
     .kind = KEY_REAL,
     .offset = AT(optim.eps),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .about = "AdamW's ε, outside the root."},
    {.path = "optim.weight_decay",
     .kind = KEY_REAL,
     .offset = AT(optim.weight_decay),
     .least = 0,
     .most = FLT_MAX,
     .about = "Decoupled decay of everything that trains."},
    {.path = "optim.clip_norm",
     .kind = KEY_REAL,
     .offset = AT(optim.clip_norm),
     .least = 0,
     .open_least = true,
     .most = FLT_MAX,
     .nullable = true,
     .about = "The norm that gradients are clipped to; null: they are not."},
    {.path = "optim.schedule",
     .kind = KEY_CHOICE,
     .offset = AT(optim.schedule),
     .choices = schedules,
     .about = "Of the learning rate after the warm-up: constant, or to 0 at the last step by a "
              "line or a cosine."},
    {.path = "optim.warmup",
     .kind = KEY_INT,
     .offset = AT(optim.warmup),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps in which the learning rate rises from 0."},
    {.path = "optim.label_smoothing",
     .kind = KEY_REAL,
     .offset = AT(optim.label_smoothing),
     .least = 0,
     .most = 1,
     .open_most = true,
     .about = "The share of the target's probability that is spread over the vocabulary; reported "
              "losses are without it."},
    {.path = "train.steps",
     .kind = KEY_INT,
     .offset = AT(train.steps),
     .least = 1,
     .most = ANY_INT,
     .about = "Updates of the run; may be raised on resume."},
    {.path = "train.eval_every",
     .kind = KEY_INT,
     .offset = AT(train.eval_every),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps between evaluations; 0: at the end only."},
    {.path = "train.save_every",
     .kind = KEY_EVERY,
     .offset = AT(train.save_every),
     .least = 0,
     .most = ANY_INT,
     .about = "Steps between checkpoints as `200`, or a time as `10m`; 0: at the end only."},
    {.path = "train.keep",
     .kind = KEY_INT,
     .offset = AT(train.keep),
     .least = 1,
     .most = ANY_INT,
     .about = "Checkpoints that stay; never fewer than two verified ones."},
    {.path = "train.keep_best",
     .kind = KEY_BOOL,
     .offset = AT(train.keep_best),
     .about = "The checkpoint of the best validation loss stays too, and becomes "
              "`best-adapter.h5`; needs `data.valid`."},
    {.path = "parallel.tp",
     .kind = KEY_INT,
     .offset = AT(parallel.tp),
     .least = 1,
     .most = 1 << 20,
     .about = "Ranks that hold the weights together; it divides the heads and the key/value heads. "
              "dp = ranks / tp."},
    {.path = "parallel.pp",
     .kind = KEY_INT,
     .offset = AT(parallel.pp),
     .least = 1,
     .most = 1 << 20,
     .about = "Pipeline stages; only 1 is available."},
    {.path = "memory.activations",
     .kind = KEY_CHOICE,
     .offset = AT(memory.activations),
     .choices = activations,
     .about = "What of forward is kept for backward; `auto` takes the fastest mode that fits into "
              "`memory.limit`."},
    {.path = "memory.limit",
     .kind = KEY_BYTES,
     .offset = AT(memory.limit),
     .least = 1,
     .most = ANY_INT,
     .nullable = true,
     .about = "Bytes that a rank may use, as `2.2G` or `512MiB`."},
    {.path = "memory.share_frozen",
     .kind = KEY_CHOICE,
     .offset = AT(memory.share_frozen),
     .choices = shares,
     .about = "One copy of the frozen weights for the replicas of a node; `on` fails where that "
              "cannot be."},
    {.path = "memory.shard_optimizer",
     .kind = KEY_BOOL,
     .offset = AT(memory.shard_optimizer),
     .about = "The replicas divide AdamW's moments among them (ZeRO-1)."},
    {.path = "precision",
     .kind = KEY_CHOICE,
     .offset = AT(precision),
     .choices = precisions,
     .about = "Of frozen weights and activations; what trains is fp32 in both."},
    {.path = "kernels.product",
     .kind = KEY_TEXT,
     .offset = AT(backend),
     .nullable = true,
     .about = "Forces the path of products with a weight: `native`, `blas`, `onednn`, "
              "`onednn-bf16` or `ref`."},
    {.path = "kernels.vector",
     .kind = KEY_TEXT,
     .offset = AT(vector_path),
     .nullable = true,
     .about = "Forces the path of everything else: `avx512`, `avx2`, `generic` or `ref`."},
    {.path = "kernels.measure",
     .kind = KEY_CHOICE,
     .offset = AT(measure),
     .choices = measures,
     .about = "`once`: the rates that choose a path of products are kept in "
              "`$XDG_CACHE_HOME/mpilora` (`~/.cache/mpilora`), by processor, libraries, shapes and "
              "threads. `always`: measured at every start."},
    {.path = NULL},
};
enum { KEYS = sizeof table / sizeof *table, DEFAULT_MICRO = 8 };

void ml_run_config_set_defaults(ml_run_config *c)
{
    *c = (ml_run_config){.seed = 1,
                         .method = {.rank = 8,
                                    .alpha = 16.0,
                                    .targets = ML_TARGET_Q | ML_TARGET_V,
                                    .sizes = {.top = 2, .prefix = 8, .bottleneck = 8, .factors = 4},
                                    .prefix_init = ML_PREFIX_VOCABULARY},
                         .data = {.shuffle = true, .share_prompts = true},
                         .batch = {.sequences = 32},
                         .optim = {.lr = 2e-4,
                                   .beta1 = 0.9,
                                   .beta2 = 0.999,
                                   .eps = 1e-8,
                                   .weight_decay = 0.01,
                                   .clip_norm = 1.0},
                         .train = {.steps = 1000, .keep = 2},
                         .parallel = {1, 1},
                         .precision = ML_BF16};
}

static bool says_pissa(const ml_run_config *c)
{
    return c->method.init && !strcmp(c->method.init, "pissa");
}

static int line_of(const ml_run_config *c, const char *path)
{
    for (int i = 0; c->line && table[i].path; i++)
        if (!strcmp(table[i].path, path)) return c->line[i];
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
    return ml_method_has_lora(c->method.name) && says_pissa(c);
}

const char *ml_run_config_first_adapter(const ml_run_config *c)
{
    return says_pissa(c) ? NULL : c->method.init;
}

static ml_status check_pissa(const ml_run_config *c)
{
    if (!ml_run_config_is_pissa(c)) return ML_OK;
    if (c->method.name != ML_METHOD_LORA)
        return ml_run_config_refuse(c, "method.init", "pissa is for method.name lora, not for %s",
                                    ml_method_name(c->method.name));
    if (c->method.dora)
        return ml_run_config_refuse(c, "method.init",
                                    "pissa and method.dora do not go together; choose one");
    if (c->memory.share_frozen == ML_SHARE_ON)
        return ml_run_config_refuse(
            c, "memory.share_frozen",
            "on, but pissa changes the weights of each rank; set it to auto");
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

const char *ml_prefix_init_name(ml_prefix_init init) { return prefix_inits[init]; }

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

static ml_status check(ml_run_config *c)
{
    if (!c->base)
        return ml_run_config_refuse(c, "base",
                                    "missing; name a base file (mpilora import makes one)");
    if (c->parallel.pp != 1)
        return ml_run_config_refuse(c, "parallel.pp",
                                    "pipeline parallelism is not available; expected 1");
    ml_status st = check_prefix(c);
    if (st == ML_OK) st = check_dora(c);
    if (st == ML_OK) st = check_pissa(c);
    if (st != ML_OK) return st;
    if (c->batch.micro == 0) c->batch.micro = ml_min(c->batch.sequences, DEFAULT_MICRO);
    return ML_OK;
}

ml_status ml_run_config_read(ml_run_config *out, const char *path, const char *const *sets,
                             int64_t nsets)
{
    ml_status st = ML_OK;
    ml_run_config_set_defaults(out);
    ML_NEW(out->line, KEYS, ML_MEM_OTHER, "the lines of a configuration");
    out->path = ml_memory_string(path);
    if (!out->path) {
        st = ML_RESOURCE;
        goto done;
    }
    ML_TRY(table_read_file(table, out, out->line, path));
    for (int64_t i = 0; i < nsets; i++) ML_TRY(table_read_set(table, out, out->line, sets[i]));
    ML_TRY(check(out));
done:
    if (st != ML_OK) ml_run_config_destroy(out);
    return st;
}

void ml_run_config_destroy(ml_run_config *config)
{
    table_free_values(table, config);
    ml_memory_free(config->path);
    ml_memory_free(config->line);
    config->path = NULL;
    config->line = NULL;
}

ml_status ml_run_config_write(const ml_run_config *config, ml_text *out)
{
    return table_write(table, config, out);
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
    return st == ML_OK ? table_describe(table, &defaults, out) : st;
}

int64_t ml_run_config_micro(const ml_run_config *c, int dp)
{
    return ml_min(c->batch.micro, ml_max(1, ml_part_count(c->batch.sequences, dp, 0)));
}

ml_status ml_run_config_check_training(const ml_run_config *c)
{
    if (!c->run_dir)
        return ml_run_config_refuse(c, "run.dir",
                                    "missing; name the directory that the run writes to");
    if (!c->data.train)
        return ml_run_config_refuse(
            c, "data.train", "missing; name the data set to train on (mpilora tokenize makes one)");
    if (ml_run_config_first_adapter(c) && c->method.name == ML_METHOD_FULL)
        return ml_run_config_refuse(c, "method.init",
                                    "is an adapter, which method full has not; it goes on from a "
                                    "base file: set base to its model.h5");
    if (c->train.keep_best && !c->data.valid)
        return ml_run_config_refuse(c, "train.keep_best",
                                    "true, but data.valid is missing, so nothing is evaluated; "
                                    "name the data set to evaluate on");
    return ML_OK;
}
