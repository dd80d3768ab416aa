/* Words for formats of blocks, and a description's model with the formats that an import gives it.
 */
#include "cli/support/block_options.h"

#include "mpilora/config.h"

ml_status block_options_format(const char *option, const char *word, const char *others,
                               const ml_block_format **out)
{
    *out = ml_block_format_named(word);
    if (*out && (*out)->quantise && ml_dtype_is_block((*out)->dtype)) return ML_OK;
    return ml_fail(ML_USAGE, "%s: \"%s\" is not one of %s" BLOCK_FORMATS_LIST, option, word,
                   others);
}

ml_status block_options_read(const block_options *given, ml_import_options *out, const char *usage)
{
    if (given->head && !given->quantise)
        return ml_fail(ML_USAGE, "--head-dtype belongs to --quantise; usage: %s", usage);
    if (!given->quantise) return ML_OK;
    ml_status st = block_options_format("--quantise", given->quantise, "", &out->quantise);
    if (st != ML_OK || !given->head) return st;
    if (strcmp(given->head, ml_dtype_name(out->dtype)) != 0)
        return block_options_format("--head-dtype", given->head, "", &out->head);
    out->head = ml_block_format_of(out->dtype);
    return ML_OK;
}

ml_status block_options_describe(const block_options *given, const char *path, const char *usage,
                                 ml_model_spec *model, ml_dtype **formats)
{
    ml_status st = ML_OK;
    /* As import --dtype would have to be beside this head. */
    bool fp32 = given->head && !strcmp(given->head, "fp32");
    ml_import_options made = {.dtype = fp32 ? ML_FP32 : ML_BF16};
    ML_TRY(block_options_read(given, &made, usage));
    if (!ml_model_spec_is_description(path))
        return ml_fail(ML_USAGE,
                       "--quantise: %s is a base file, which has formats of its own; base must be "
                       "a model description, as configs/models/gpt3-175b.yaml",
                       path);
    ML_TRY(ml_model_spec_read(model, path));
    /* Not in category other, which is planned with what it has: a run has no such list. */
    ML_NEW(*formats, ml_model_formats(model), ML_MEM_WORKSPACE, "formats of tensors");
    ml_import_formats(model, &made, *formats);
    model->formats = *formats;
done:
    return st;
}
