/* mpilora export: a base or an adapter in other programs' formats. */
#include "cli/commands/export.h"

#include "cli/cli.h"
#include "cli/support/options.h"

static const char usage[] = "mpilora export --format peft --base BASE.h5 --adapter A DIR  |  "
                            "mpilora export --format hf --base BASE.h5 DIR";

static const char help[] =
    "usage: mpilora export --format peft --base BASE.h5 --adapter A DIR\n"
    "       mpilora export --format hf --base BASE.h5 DIR\n\n"
    "  --format peft       DIR becomes a PEFT adapter directory (adapter_config.json, "
    "adapter_model.safetensors). On GPT-2, q, k and v\n"
    "                      alone go out as one adapter of c_attn with the sum of their ranks: it "
    "computes the same.\n"
    "                      An adapter of prefix_embed without infix goes out as prompt tuning "
    "(PROMPT_TUNING), one of prefix_kv\n"
    "                      as prefix tuning (PREFIX_TUNING).\n"
    "  --format hf         DIR becomes a Hugging Face model directory (config.json, "
    "model.safetensors, the tokenizer's files). An adapter "
    "goes\n"
    "                      out with it after mpilora merge.\n"
    "  --base BASE.h5      the base\n"
    "  --adapter A         adapter.h5 or a PEFT directory\n"
    "  --base-name NAME    peft: what base_model_name_or_path says (default: the path of the "
    "base)\n\n"
    "DIR must be new, empty, or an earlier export.\n";

static const struct {
    const char *name;
    ml_status (*run)(const export_request *request);
} formats[] = {{"peft", export_peft}, {"hf", export_hf}};

static ml_status export(const char *format, export_request *request)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(formats[i].name, format) != 0) continue;
        ml_status st = ml_base_open(&request->base, request->base_path);
        if (st == ML_OK) st = formats[i].run(request);
        ml_base_close(request->base);
        return st;
    }
    return ml_fail(ML_USAGE, "--format: there is no \"%s\", only peft and hf; usage: %s", format,
                   usage);
}

static ml_status run(int argc, char **argv)
{
    const char *format = NULL;
    export_request request = {0};
    const option table[] = {{"--format", OPTION_TEXT, &format},
                            {"--base", OPTION_TEXT, &request.base_path},
                            {"--adapter", OPTION_TEXT, &request.adapter},
                            {"--base-name", OPTION_TEXT, &request.name},
                            {NULL, OPTION_FLAG, NULL}};
    ml_status st = options_read(argc, argv, table, 1, 1, &request.out, usage);
    if (st != ML_OK) return st;
    if (!format || !request.base_path)
        return ml_fail(ML_USAGE, "%s is missing; usage: %s", format ? "--base" : "--format", usage);
    return export(format, &request);
}

const ml_command ml_command_export = {
    "export", "a base or an adapter for other programs", help, run, false, NULL};
