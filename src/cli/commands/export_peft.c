/* mpilora export --format peft: an adapter as a directory that PEFT loads. */
#include "cli/commands/export.h"

#include "io/json.h"

/* The name that the model's own configuration has: transformers 4 wrote it there. */
static ml_status find_name(const export_request *request, ml_text *name)
{
    static const ml_json_key keys[] = {{"_name_or_path", ML_JSON_TEXT | ML_JSON_NULL}, {NULL, 0}};
    ml_status st = ML_OK;
    ml_text text = {0};
    json_t *config = NULL;
    if (request->name) return ml_text_printf(name, "%s", request->name);
    ML_TRY(ml_base_read_file(request->base, "config.json", &text));
    if (text.length) ML_TRY(ml_json_read(&config, "config.json", text.data, text.length));
    ML_TRY(ml_json_check(config, keys));
    const char *own = json_string_value(json_object_get(config, "_name_or_path"));
    if (own && *own) st = ml_text_printf(name, "%s", own);
done:
    json_decref(config);
    ml_text_destroy(&text);
    return st;
}

ml_status export_peft(const export_request *request)
{
    ml_status st = ML_OK;
    ml_adapter adapter = {0};
    ml_text name = {0};
    const ml_model_spec *spec = ml_base_spec(request->base);
    if (request->merge || request->dtype)
        return ml_fail(ML_USAGE, "--format peft: %s is for --format gguf",
                       request->merge ? "--merge" : "--dtype");
    if (!request->adapter)
        return ml_fail(ML_USAGE,
                       "--format peft: --adapter is missing: what is exported is an adapter");
    ML_TRY(ml_adapter_read_for(&adapter, request->adapter, request->base));
    ML_TRY(find_name(request, &name));
    ML_TRY(ml_adapter_export_peft(&adapter, spec, request->base, name.length ? name.data : NULL,
                                  request->out));
    if (adapter.base_content_hash[0])
        ml_warn("the adapter makes up for what the blocks of %s have lost (method.init: loftq), "
                "which a PEFT directory cannot say: load it on that base alone, which export "
                "--format hf writes, not on the original",
                ml_base_path(request->base));
    if (!name.length)
        ml_warn("base_model_name_or_path is null: --base-name NAME says which model it is, for "
                "programs that look it up");
    ml_log("%s: adapter_config.json and adapter_model.safetensors; load it with "
           "peft.PeftModel.from_pretrained(model, \"%s\")",
           request->out, request->out);
done:
    ml_adapter_destroy(&adapter);
    ml_text_destroy(&name);
    return st;
}
