/* mpilora export: a base or an adapter in other programs' formats. */
#include "cli/commands/export.h"

#include "cli/cli.h"
#include "cli/support/block_options.h"

static const char usage[] = "mpilora export --format peft --base BASE.h5 --adapter A DIR  |  "
                            "mpilora export --format hf --base BASE.h5 DIR  |  "
                            "mpilora export --format gguf --base BASE.h5 [--dtype T] "
                            "[--adapter A [--merge]] OUT.gguf";

static const struct {
    const char *name;
    ml_status (*run)(const export_request *request);
} formats[] = {{"peft", export_peft}, {"hf", export_hf}, {"gguf", export_gguf}};

static ml_status export(const char *format, export_request *request)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(formats[i].name, format) != 0) continue;
        ml_status st = ml_base_open(&request->base, request->base_path);
        if (st == ML_OK) st = formats[i].run(request);
        ml_base_close(request->base);
        return st;
    }
    return ml_fail(ML_USAGE, "--format: there is no \"%s\", only peft, hf and gguf; usage: %s",
                   format, usage);
}

typedef struct given {
    const char *format;
    export_request request;
} given;

static const option options[] = {
    {"--format", OPTION_TEXT, offsetof(given, format), "peft|hf|gguf",
     "peft: DIR becomes a PEFT adapter directory (adapter_config.json, adapter_model.safetensors); "
     "hf: a Hugging Face model directory (config.json, model.safetensors, the tokenizer's files); "
     "gguf: a file for llama.cpp, with the tokenizer and the chat template inside",
     NULL},
    {"--base", OPTION_TEXT, offsetof(given, request.base_path), "BASE.h5", "the base", NULL},
    {"--adapter", OPTION_TEXT, offsetof(given, request.adapter), "A",
     "peft, gguf: adapter.h5 or a PEFT directory; gguf: OUT.gguf becomes llama.cpp's LoRA adapter, "
     "or "
     "with --merge the model that the adapter makes of the base",
     NULL},
    {"--merge", OPTION_FLAG, offsetof(given, request.merge), NULL,
     "gguf: the adapter is merged into the weights", NULL},
    {"--dtype", OPTION_TEXT, offsetof(given, request.dtype), "f32|f16|bf16|" BLOCK_FORMATS,
     "gguf: what matrices become, blocks with the rules of import --quantise; else each is written "
     "as the base keeps it",
     NULL},
    {"--base-name", OPTION_TEXT, offsetof(given, request.name), "NAME",
     "peft: what base_model_name_or_path says; else the name that the base's own config.json "
     "has, or nothing",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    given given = {0};
    ml_status st = options_read(argc, argv, options, &given, 1, 1, &given.request.out, usage);
    if (st != ML_OK) return st;
    if (!given.format || !given.request.base_path)
        return ml_fail(ML_USAGE, "%s is missing; usage: %s", given.format ? "--base" : "--format",
                       usage);
    return export(given.format, &given.request);
}

const ml_command ml_command_export = {
    .name = "export",
    .summary = "a base or an adapter for other programs",
    .usage = usage,
    .about = "Writes a base or an adapter in another program's format. DIR must be new, empty, or "
             "an earlier export; an existing OUT.gguf is replaced once the new one is whole.",
    .options = options,
    .notes = "On GPT-2, q, k and v alone go out as one adapter of c_attn with the sum of their "
             "ranks: it computes the same. An adapter of prefix_embed without infix goes out as "
             "prompt tuning (PROMPT_TUNING), one of prefix_kv as prefix tuning (PREFIX_TUNING). An "
             "adapter goes out with its model after mpilora merge.",
    .run = run,
    .parallel = false,
};
