/* mpilora import: pretrained (or random) weights to a base file. */
#include <inttypes.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/support/block_options.h"
#include "io/durable.h"
#include "mpilora/family.h"
#include "mpilora/import.h"

static const char usage[] =
    "mpilora import SRC BASE.h5 [--dtype bf16|fp32|keep] [--quantise "
    "FORMAT [--head-dtype FORMAT]] [--memory BYTES] [--hf-config config.json] [--tokenizer "
    "DIR] [--add-tokens FILE]  |  mpilora import "
    "--init random --config M.yaml [--seed n] [--tokenizer DIR] "
    "[--dtype bf16|fp32] [--quantise FORMAT [--head-dtype FORMAT]] BASE.h5";

typedef struct request {
    const char *init, *config, *dtype, *tokenizer, *hf_config, *add_tokens, *memory;
    block_options blocks;
    int64_t seed;
} request;

static const option options[] = {
    {"--hf-config", OPTION_TEXT, offsetof(request, hf_config), "config.json",
     "of a .gguf file: the configuration that it was converted from, which says what GGUF cannot "
     "(the family of an architecture that several share, sliding windows) and must agree with it",
     NULL},
    {"--add-tokens", OPTION_TEXT, offsetof(request, add_tokens), "FILE",
     "tokens that the tokenizer learns: one a line, or JSON as tokenizer.json has it under "
     "added_tokens; the vocabulary grows where it has no room, and rows of new tokens begin as the "
     "mean of the old ones",
     NULL},
    {"--init", OPTION_TEXT, offsetof(request, init), "random",
     "make a base with random weights of any shape", NULL},
    {"--config", OPTION_TEXT, offsetof(request, config), "M.yaml",
     "of --init: a model description, see configs/models/", NULL},
    {"--tokenizer", OPTION_TEXT, offsetof(request, tokenizer), "DIR",
     "of a .gguf file or --init: a directory that has a tokenizer. It brings its chat template, "
     "the names of its special tokens and generation_config.json, too, and in the place of a "
     "file's own its other files; it must not have more tokens than the model's vocabulary",
     NULL},
    {"--memory", OPTION_TEXT, offsetof(request, memory), "BYTES",
     "what the program may take while it imports SRC, as 512M or 1GiB: weights stream by in pieces "
     "that fit; else pieces of 128 MiB, or a row where that is longer",
     NULL},
    {"--seed", OPTION_INT, offsetof(request, seed), "N", "of --init", "1"},
    {"--dtype", OPTION_TEXT, offsetof(request, dtype), "bf16|fp32|keep",
     "of the matrices; keep: those of a .gguf file that are in blocks (Q8_0, Q4_0, Q4_1, Q5_0, "
     "Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4) stay in them, so do packed ones of a directory that "
     "such blocks say exactly, others become bf16; norms and biases are always fp32",
     "bf16"},
    {"--quantise", OPTION_TEXT, offsetof(request, blocks.quantise), BLOCK_FORMATS,
     "matrices are rounded to blocks of this format. Rows that are no multiple of 256 take "
     "llama.cpp's fallback (q4_k: q5_0, q5_k: q5_1, q6_k: q8_0), which is printed; positions, and "
     "rows that are no multiple of 32, become what --dtype says",
     NULL},
    {"--head-dtype", OPTION_TEXT, offsetof(request, blocks.head), "FORMAT|bf16|fp32",
     "of --quantise: what the head becomes, of a tied model the embedding; bf16 and fp32 must be "
     "--dtype's. " BLOCK_HEAD_CHOICE,
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_dtype(const char *word, ml_import_options *out)
{
    if (strcmp(word, "bf16") != 0 && strcmp(word, "fp32") != 0 && strcmp(word, "keep") != 0)
        return ml_fail(ML_USAGE, "--dtype: \"%s\" is not one of bf16, fp32, keep", word);
    out->dtype = strcmp(word, "fp32") == 0 ? ML_FP32 : ML_BF16;
    out->keep = strcmp(word, "keep") == 0;
    return ML_OK;
}

static ml_status read_formats(const request *q, ml_import_options *out)
{
    if (q->blocks.quantise && out->keep)
        return ml_fail(ML_USAGE, "--dtype keep leaves blocks as they are, --quantise makes new "
                                 "ones; give one of them");
    return block_options_read(&q->blocks, out, usage);
}

static ml_status import_random(const request *q, const ml_import_options *o, const char *out)
{
    ml_model_spec spec;
    if (strcmp(q->init, "random") != 0)
        return ml_fail(ML_USAGE, "--init: \"%s\" is not random", q->init);
    if (!q->config)
        return ml_fail(
            ML_USAGE,
            "--init random needs --config M.yaml, a model description; see configs/models/");
    if (q->seed < 0) return ml_fail(ML_USAGE, "--seed: %" PRId64 " is negative", q->seed);
    ml_status st = ml_model_spec_read(&spec, q->config);
    return st == ML_OK ? ml_import_random(&spec, (uint64_t)q->seed, q->tokenizer, o, out) : st;
}

/* "bf16", or with blocks the matrices of each format: "180 × q4_1, 31 × q8_0". */
static void describe_formats(const ml_base *base, char *out, size_t size)
{
    const ml_model_spec *spec = ml_base_spec(base);
    int64_t count[ML_DTYPES] = {0};
    snprintf(out, size, "%s", ml_dtype_name(ml_base_dtype(base)));
    if (!spec->formats) return;
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        if (!t.norm_or_bias) count[ml_base_tensor_dtype(base, &t)]++;
    }
    size_t used = 0;
    for (int d = 0; d < ML_DTYPES && used < size; d++)
        if (count[d] > 0)
            used += (size_t)snprintf(out + used, size - used, "%s%" PRId64 " × %s",
                                     used ? ", " : "", count[d], ml_dtype_name((ml_dtype)d));
}

static ml_status report(const char *path)
{
    ml_base *base = NULL;
    ml_status st = ml_base_open(&base, path);
    if (st != ML_OK) return st;
    const ml_model_spec *s = ml_base_spec(base);
    struct stat about;
    int64_t length;
    char words[128];
    describe_formats(base, words, sizeof words);
    bool has_tokenizer = *ml_base_tokenizer(base, &length) != '\0';
    printf("%s: %s family, %" PRId64 " layers, width %" PRId64 ", %" PRId64 " heads (%" PRId64
           " key/value), vocabulary %" PRId64 ", context %" PRId64 "\n%" PRId64
           " parameters, %s, %s tokenizer, %.1f MB\n",
           path, s->family->title, s->layers, s->width, s->heads, s->kv_heads, s->vocab, s->context,
           ml_model_parameters_total(s), words, has_tokenizer ? "with" : "no",
           stat(path, &about) == 0 ? 1e-6 * (double)about.st_size : 0.0);
    ml_base_close(base);
    return ML_OK;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *words[2] = {NULL, NULL};
    request q = {0};
    ml_import_options o = {0};
    ML_TRY(options_read(argc, argv, options, &q, 1, 2, words, usage));
    ML_TRY(read_dtype(q.dtype, &o));
    ML_TRY(read_formats(&q, &o));
    o.hf_config = q.hf_config;
    o.tokenizer = q.tokenizer;
    o.add_tokens = q.add_tokens;
    if (q.init && words[1])
        return ml_fail(ML_USAGE,
                       "--init makes a base from nothing: \"%s\" is one word too many; usage: %s",
                       words[0], usage);
    if (q.init && q.memory)
        return ml_fail(ML_USAGE, "--memory is for weights that are read, not for --init; usage: %s",
                       usage);
    if (q.memory) ML_TRY(options_read_bytes("--memory", q.memory, &o.memory));
    if (q.init && o.keep)
        return ml_fail(ML_USAGE, "--dtype keep is for a file that has blocks, not for --init");
    if (q.init && q.hf_config)
        return ml_fail(ML_USAGE, "--hf-config belongs to a GGUF file, not to --init; usage: %s",
                       usage);
    if (q.init && q.add_tokens)
        return ml_fail(ML_USAGE,
                       "--add-tokens is for a model that has a vocabulary, not for "
                       "--init; usage: %s",
                       usage);
    if (!q.init && !words[1]) return ml_fail(ML_USAGE, "a word is missing; usage: %s", usage);
    const char *out = q.init ? words[0] : words[1];
    const char *const inputs[] = {q.init ? NULL : words[0], q.hf_config, q.add_tokens, q.config};
    ML_TRY(ml_durable_check_apart(out, inputs, 4));
    ML_TRY(q.init ? import_random(&q, &o, out) : ml_import(words[0], &o, out));
    ML_TRY(report(out));
done:
    return st;
}

const ml_command ml_command_import = {
    .name = "import",
    .summary = "pretrained weights to a base file",
    .usage = usage,
    .about =
        "SRC is a Hugging Face directory of a known family (config.json, "
        "model.safetensors or its sharded index, tokenizer.json or vocab.json + merges.txt; its "
        "matrices may be packed by bitsandbytes, compressed-tensors, AWQ, GPTQ or as FP8) "
        "or a .gguf file.",
    .options = options,
    .notes = "An existing BASE.h5 is replaced once the new one is whole; after a failure it is as "
             "it was.",
    .run = run,
    .parallel = false,
};
