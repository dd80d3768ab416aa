/* mpilora export --format gguf: a base, an adapter, or both in one, as a file for llama.cpp. */
#include "cli/commands/export.h"
#include "cli/support/block_options.h"
#include "cli/support/chat_template.h"
#include "io/durable.h"
#include "mpilora/export.h"
#include "mpilora/merge.h"

static ml_status read_type(const char *word, const ml_block_format **out)
{
    *out = NULL;
    if (!word) return ML_OK;
    if (strcmp(word, "f32") != 0 && strcmp(word, "f16") != 0 && strcmp(word, "bf16") != 0)
        return block_options_format("--dtype", word, "f32, f16, bf16, ", out);
    *out = ml_block_format_named(word);
    return ML_OK;
}

static ml_status export_model(ml_base *base, const export_request *request,
                              const ml_block_format *type)
{
    ml_status st = ML_OK;
    ml_text plain = {0}, with_tools = {0};
    ml_gguf_export_options options = {.type = type};
    ML_TRY(chat_template_texts(base, &plain, &with_tools));
    if (plain.length) options.chat_template = plain.data;
    if (with_tools.length) options.tool_template = with_tools.data;
    ML_TRY(ml_export_gguf(base, &options, request->out));
    ml_log("%s: a GGUF file%s; llama.cpp loads it with -m", request->out,
           plain.length ? " with the chat template" : "");
done:
    ml_text_destroy(&plain);
    ml_text_destroy(&with_tools);
    return st;
}

/* What the merged model is kept in on the way, so that its sums are rounded once: to the blocks
 * that the file gets (an fp32 base's as the file is written), else to nothing below the file's
 * type. */
static ml_merge_options kept_as(const ml_base *base, const ml_block_format *type)
{
    const ml_merge_options blocks = {.quantise = type}, whole = {.plain = true, .dtype = ML_FP32},
                           own = {.plain = true, .dtype = ml_base_dtype(base)};
    if (!type || !strcmp(type->name, "BF16")) return own;
    return ml_dtype_is_block(type->dtype) && own.dtype == ML_BF16 ? blocks : whole;
}

/* The merged model stands in a base file beside OUT for a moment. What GGUF cannot say of the base
 * it cannot say of the sum: merging, which may take an hour, comes behind that. */
static ml_status export_merged(const export_request *request, const ml_block_format *type)
{
    ml_status st = ML_OK;
    ml_adapter adapter = {0};
    ml_base *merged = NULL;
    ml_merge_result result;
    char name[ML_DURABLE_PATH], path[ML_DURABLE_PATH] = "";
    ML_TRY(ml_export_gguf_check(request->base, request->out));
    ML_TRY(ml_adapter_read_for(&adapter, request->adapter, request->base));
    ML_TRY(ml_durable_path(name, "%s.merged", request->out));
    ML_TRY(ml_durable_temporary(path, name));
    const ml_merge_options kept = kept_as(request->base, type);
    ML_TRY(ml_merge(request->base, &adapter, NULL, &kept, path, &result));
    if (kept.quantise)
        ml_log("rounding to blocks changed the weights by %.3g of their size (root mean square)",
               result.error);
    ML_TRY(ml_base_open(&merged, path));
    st = export_model(merged, request, type);
done:
    ml_base_close(merged);
    ml_durable_drop(path);
    ml_adapter_destroy(&adapter);
    return st;
}

static ml_status export_adapter(const export_request *request)
{
    ml_status st = ML_OK;
    ml_adapter adapter = {0};
    if (request->dtype)
        return ml_fail(ML_USAGE, "--dtype: an adapter's factors are written in F32; it is for a "
                                 "model, or for --merge");
    ML_TRY(ml_adapter_read_for(&adapter, request->adapter, request->base));
    ML_TRY(ml_adapter_export_gguf(&adapter, ml_base_spec(request->base), request->out));
    ml_log("%s: a GGUF adapter; llama.cpp loads it with --lora beside the exported base",
           request->out);
done:
    ml_adapter_destroy(&adapter);
    return st;
}

ml_status export_gguf(const export_request *request)
{
    const ml_block_format *type;
    if (request->name) return ml_fail(ML_USAGE, "--format gguf: --base-name is for --format peft");
    if (request->merge && !request->adapter)
        return ml_fail(ML_USAGE, "--merge: --adapter is missing: what is to be merged?");
    if (ml_durable_is_same(request->base_path, request->out))
        return ml_fail(ML_USAGE, "%s: is the base itself; choose another name", request->out);
    if (request->adapter && ml_durable_is_same(request->adapter, request->out))
        return ml_fail(ML_USAGE, "%s: is the adapter itself; choose another name", request->out);
    if (request->adapter && !request->merge) return export_adapter(request);
    ml_status st = read_type(request->dtype, &type);
    if (st != ML_OK) return st;
    return request->merge ? export_merged(request, type)
                          : export_model(request->base, request, type);
}
