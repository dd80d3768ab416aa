/* "quantization_config" of config.json: whose layouts the packed matrices have. Which matrices are
 * packed is said by their tensors, so that lists of modules that are not (ignore,
 * modules_to_not_convert) need not be followed; what is done with activations is not done here. */
#include <inttypes.h>

#include "store/formats/packed/packed.h"

enum {
    TEXT = ML_JSON_TEXT | ML_JSON_NULL,
    INTEGER = ML_JSON_INTEGER | ML_JSON_NULL,
    FLAG = ML_JSON_FLAG | ML_JSON_NULL,
    LIST = ML_JSON_ARRAY | ML_JSON_NULL,
    OBJECT = ML_JSON_OBJECT | ML_JSON_NULL
};

#define WEIGHTS "config_groups.*.weights"
static const ml_json_key keys[] = {
    {"quant_method", TEXT},
    {"modules_to_not_convert", LIST},
    {"modules_to_not_convert[]", ML_JSON_TEXT},
    /* FP8 */
    {"fmt", TEXT},
    {"weight_block_size", LIST},
    {"weight_block_size[]", ML_JSON_INTEGER},
    /* bitsandbytes */
    {"load_in_4bit", FLAG},
    {"load_in_8bit", FLAG},
    /* compressed-tensors */
    {"config_groups", OBJECT},
    {"config_groups.*", ML_JSON_OBJECT},
    {WEIGHTS, OBJECT},
    {WEIGHTS ".num_bits", INTEGER},
    {WEIGHTS ".type", TEXT},
    {WEIGHTS ".strategy", TEXT},
    {WEIGHTS ".group_size", INTEGER},
    {WEIGHTS ".symmetric", FLAG},
    {WEIGHTS ".actorder", TEXT | ML_JSON_FLAG},
    {WEIGHTS ".block_structure", LIST},
    {WEIGHTS ".block_structure[]", ML_JSON_INTEGER},
    {"ignore", LIST},
    {"ignore[]", ML_JSON_TEXT},
    {"sparsity_config", OBJECT},
    {"sparsity_config.format", TEXT},
    {"transform_config", OBJECT},
    /* AWQ and GPTQ */
    {"bits", INTEGER},
    {"group_size", INTEGER},
    {"version", TEXT},
    {"checkpoint_format", TEXT},
    {"desc_act", FLAG},
    /* ModelOpt */
    {"quant_library", TEXT},
    {"quant_algo", TEXT},
    {NULL, 0},
};

static const struct {
    const char *word;
    packed_method method;
} methods[] = {{"fp8", PACKED_FP8},
               {"bitsandbytes", PACKED_BITSANDBYTES},
               {"compressed-tensors", PACKED_COMPRESSED},
               {"awq", PACKED_AWQ},
               {"gptq", PACKED_GPTQ},
               {"modelopt", PACKED_MODELOPT}};
enum { METHODS = sizeof methods / sizeof *methods };

static const char *text_of(const json_t *o, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : otherwise;
}

static ml_status expect(const json_t *o, const char *key, const char *only, const char *why)
{
    const char *found = text_of(o, key, only);
    if (!strcmp(found, only)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: \"%s\", only %s is read%s", key, found, only, why);
}

static ml_status find_method(const json_t *o, packed_method *out)
{
    const char *word = json_string_value(json_object_get(o, "quant_method"));
    bool loads = json_is_true(json_object_get(o, "load_in_4bit")) ||
                 json_is_true(json_object_get(o, "load_in_8bit"));
    if (!word && loads) word = "bitsandbytes"; /* which wrote none at first */
    if (!word) word = json_string_value(json_object_get(o, "quant_library")); /* ModelOpt, too */
    for (int i = 0; i < METHODS && word; i++)
        if (!strcmp(methods[i].word, word)) *out = methods[i].method;
    if (*out != PACKED_NONE) return ML_OK;
    return ml_fail(ML_INPUT,
                   "quant_method: \"%.60s\" is not known; known are fp8, bitsandbytes, "
                   "compressed-tensors, awq, gptq, modelopt",
                   word ? word : "(missing)");
}

/* Two sides of the blocks that tile a matrix. */
static ml_status read_block(const json_t *sides, const char *key, packed_config *out)
{
    int64_t side[2];
    if (!json_is_array(sides)) return ML_OK;
    for (size_t i = 0; i < 2; i++) side[i] = json_integer_value(json_array_get(sides, i));
    bool differs =
        out->block_rows > 0 && (side[0] != out->block_rows || side[1] != out->block_cols);
    if (json_array_size(sides) != 2 || side[0] < 1 || side[1] < 1 || differs)
        return ml_fail(ML_INPUT, "%s: expected the two sides of a block, the same in all groups",
                       key);
    out->block_rows = side[0];
    out->block_cols = side[1];
    return ML_OK;
}

/* Columns under one scale; -1 where it is not said, or said by block_structure. */
static int64_t group_of(const json_t *w)
{
    const char *strategy = text_of(w, "strategy", "group");
    int64_t size = json_integer_value(json_object_get(w, "group_size"));
    if (!strcmp(strategy, "channel") || !strcmp(strategy, "tensor")) return 0;
    return !strcmp(strategy, "group") && size > 0 ? size : -1;
}

/* Each kind once. An order of columns that the packing has undone itself ("weight", "static") is
 * none. */
static ml_status add_kind(const json_t *w, bool whole, int64_t bits, packed_config *out)
{
    const char *order = text_of(w, "actorder", "");
    const packed_kind kind = {.whole = whole,
                              .bits = bits,
                              .group = group_of(w),
                              .zeros = json_is_false(json_object_get(w, "symmetric")),
                              .ordered = !strcmp(order, "group") || !strcmp(order, "dynamic")};
    for (int64_t i = 0; i < out->kinds; i++) {
        const packed_kind *k = &out->kind[i];
        if (k->whole == kind.whole && k->bits == bits && k->group == kind.group &&
            k->zeros == kind.zeros && k->ordered == kind.ordered)
            return ML_OK;
    }
    if (out->kinds == PACKED_KINDS)
        return ml_fail(ML_INPUT, "config_groups: more than %d kinds of weights", PACKED_KINDS);
    out->kind[out->kinds++] = kind;
    return ML_OK;
}

static ml_status read_groups(const json_t *o, packed_config *out)
{
    const char *name;
    json_t *group;
    json_object_foreach(json_object_get(o, "config_groups"), name, group)
    {
        const json_t *w = json_object_get(group, "weights");
        int64_t bits = json_integer_value(json_object_get(w, "num_bits"));
        bool whole = !strcmp(text_of(w, "type", "int"), "int");
        if (whole && bits >= 1 && bits <= 8) out->widths |= 1U << bits;
        ml_status st = bits > 0 ? add_kind(w, whole, bits, out) : ML_OK;
        if (st != ML_OK) return st;
        st = read_block(json_object_get(w, "block_structure"), "config_groups: block_structure",
                        out);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status read_compressed(const json_t *o, packed_config *out)
{
    ml_status st = expect(json_object_get(o, "sparsity_config"), "format", "dense",
                          ": sparse matrices are not");
    if (st != ML_OK) return ml_fail_within(st, "sparsity_config");
    if (json_object_size(json_object_get(o, "transform_config")) > 0)
        return ml_fail(ML_INPUT, "transform_config: rotations of activations change what the model "
                                 "computes and are not supported");
    return read_groups(o, out);
}

/* AWQ's "gemm" is the layout that is known; so are both of GPTQ's. */
static ml_status read_words(const json_t *o, packed_config *out)
{
    bool awq = out->method == PACKED_AWQ;
    int64_t bits = json_integer_value(json_object_get(o, "bits"));
    const json_t *group = json_object_get(o, "group_size");
    const char *version = text_of(o, awq ? "version" : "checkpoint_format", awq ? "gemm" : "gptq");
    out->group = json_is_integer(group) ? json_integer_value(group) : -1;
    out->less_one = !awq && strcmp(version, "gptq") == 0;
    out->ordered = !awq && json_is_true(json_object_get(o, "desc_act"));
    if (bits != 4 && (awq || bits != 8))
        return ml_fail(ML_INPUT, "bits: %" PRId64 ", expected 4%s", bits, awq ? "" : " or 8");
    if (out->group < 1 && out->group != -1)
        return ml_fail(ML_INPUT, "group_size: %" PRId64 ", expected -1 or at least 1", out->group);
    if (awq && strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0)
        return ml_fail(ML_INPUT, "version: \"%.60s\", only gemm is read", version);
    if (!awq && !out->less_one && strcmp(version, "gptq_v2") != 0)
        return ml_fail(ML_INPUT, "checkpoint_format: \"%.60s\", only gptq and gptq_v2 are read",
                       version);
    out->widths = 1U << bits;
    return ML_OK;
}

/* What layouts there may be; of each matrix its tensors say which. */
static ml_status check_algorithm(const json_t *o)
{
    static const char *const known[] = {
        "FP8",       "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "NVFP4_AWQ", "W4A16_NVFP4",
        "W4A16_AWQ", "MIXED_PRECISION",           NULL};
    const char *word = text_of(o, "quant_algo", "(missing)");
    if (ml_find_word(word, known) >= 0) return ML_OK;
    return ml_fail(ML_INPUT,
                   "quant_algo: \"%.60s\" is not known; known are FP8, FP8_PER_CHANNEL_PER_TOKEN, "
                   "FP8_PB_WO, NVFP4, NVFP4_AWQ, W4A16_NVFP4, W4A16_AWQ, MIXED_PRECISION",
                   word);
}

static ml_status read_method(const json_t *o, packed_config *out)
{
    ml_status st = ML_OK;
    ML_TRY(ml_json_check(o, keys));
    ML_TRY(find_method(o, &out->method));
    switch (out->method) {
    case PACKED_FP8:
        ML_TRY(expect(o, "fmt", "e4m3", ""));
        ML_TRY(read_block(json_object_get(o, "weight_block_size"), "weight_block_size", out));
        break;
    case PACKED_COMPRESSED:
        ML_TRY(read_compressed(o, out));
        break;
    case PACKED_AWQ:
    case PACKED_GPTQ:
        ML_TRY(read_words(o, out));
        break;
    case PACKED_MODELOPT:
        ML_TRY(check_algorithm(o));
        break;
    case PACKED_BITSANDBYTES:
    case PACKED_NONE:
        break;
    }
done:
    return st;
}

ml_status packed_config_read(const json_t *value, packed_config *out)
{
    *out = (packed_config){0};
    if (!value || json_is_null(value) || json_is_false(value)) return ML_OK;
    ml_status st = read_method(value, out);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "quantization_config");
}

ml_status packed_config_read_modelopt(const json_t *root, packed_config *out)
{
    static const ml_json_key file_keys[] = {
        {"quantization", ML_JSON_OBJECT}, {"quantization.quant_algo", TEXT}, {NULL, 0}};
    ml_status st = ML_OK;
    const json_t *o = json_object_get(root, "quantization");
    *out = (packed_config){0};
    ML_TRY(ml_json_check(root, file_keys));
    if (!json_is_string(json_object_get(o, "quant_algo"))) return ML_OK; /* nothing is packed */
    st = check_algorithm(o);
    if (st != ML_OK) return ml_fail_within(st, "quantization");
    out->method = PACKED_MODELOPT;
done:
    return st;
}
