/* mpilora export --format peft: an adapter as a directory that PEFT loads. */
#include "cli/commands/export.h"

ml_status export_peft(const export_request *request)
{
    ml_status st = ML_OK;
    ml_adapter adapter = {0};
    const ml_model_spec *spec = ml_base_spec(request->base);
    if (!request->adapter)
        return ml_fail(ML_USAGE,
                       "--format peft: --adapter is missing: what is exported is an adapter");
    ML_TRY(ml_adapter_read_for(&adapter, request->adapter, request->base));
    ML_TRY(ml_adapter_export_peft(
        &adapter, spec, request->name ? request->name : request->base_path, request->out));
    ml_log("%s: adapter_config.json and adapter_model.safetensors; load it with "
           "peft.PeftModel.from_pretrained(model, \"%s\")",
           request->out, request->out);
done:
    ml_adapter_destroy(&adapter);
    return st;
}
