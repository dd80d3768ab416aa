/* mpilora export --format hf: a base as a directory that transformers loads. */
#include "cli/commands/export.h"
#include "mpilora/export.h"

ml_status export_hf(const export_request *request)
{
    if (request->adapter)
        return ml_fail(ML_USAGE, "--format hf: --adapter is not taken here: a model goes out, so "
                                 "merge the adapter first (mpilora merge)");
    if (request->name) return ml_fail(ML_USAGE, "--format hf: --base-name is for --format peft");
    if (request->merge || request->dtype)
        return ml_fail(ML_USAGE, "--format hf: %s is for --format gguf",
                       request->merge ? "--merge" : "--dtype");
    static const char *const classes[] = {"AutoModelForCausalLM",
                                          "AutoModelForSequenceClassification",
                                          "AutoModelForTokenClassification"};
    const ml_model_spec *spec = ml_base_spec(request->base);
    ml_status st = ml_export_huggingface(request->base, request->out);
    if (st == ML_OK && spec->formats)
        ml_log("%s: matrices in blocks become %s%s", request->out,
               ml_dtype_name(ml_base_dtype(request->base)),
               ml_base_dtype(request->base) == ML_FP32
                   ? ", with all their digits"
                   : ", which rounds what they decode to; export --format gguf keeps the blocks");
    if (st == ML_OK)
        ml_log("%s: config.json and model.safetensors; load it with %s.from_pretrained(\"%s\")",
               request->out,
               spec->head != ML_HEAD_LANGUAGE || !spec->both_ways ? classes[spec->head]
               : spec->transform                                  ? "AutoModelForMaskedLM"
                                                                  : "AutoModel",
               request->out);
    return st;
}
