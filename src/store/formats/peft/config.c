/* adapter_config.json: which keys may stand there, and with which values. */
#include "store/formats/peft/config.h"
#include "io/json.h"

enum { LARGEST_RANK = 1 << 20 };

/* What a key's value must be so that the adapter computes what is known here. */
typedef enum demand {
    READ,
    SAYS_NOTHING, /* of the mathematics of what is in the file */
    OFF,          /* null, false, empty; `why` it may not be set */
    PLAIN         /* OFF, true or a name of an initialisation that is known */
} demand;

typedef struct known_key {
    const char *key;
    demand demand;
    const char *why;
} known_key;

/* Every key of PEFT 0.21's LoraConfig; docs/file-formats.md has the same table, and
 * tests/interop/test_peft_fields.py goes through it. */
static const known_key lora_keys[] = {
    {"peft_type", READ, NULL},
    {"task_type", READ, NULL},
    {"r", READ, NULL},
    {"lora_alpha", READ, NULL},
    {"lora_dropout", READ, NULL},
    {"target_modules", READ, NULL},
    {"exclude_modules", READ, NULL},
    {"layers_to_transform", READ, NULL},
    {"layers_pattern", READ, NULL},
    {"rank_pattern", READ, NULL},
    {"alpha_pattern", READ, NULL},
    {"use_rslora", READ, NULL},
    {"use_dora", READ, NULL},
    {"bias", READ, NULL},
    {"modules_to_save", READ, NULL},
    {"trainable_token_indices", READ, NULL},
    {"ensure_weight_tying", READ, NULL},
    {"init_lora_weights", PLAIN, NULL},
    /* how the base's own weight lies; A and B are the same either way */
    {"fan_in_fan_out", SAYS_NOTHING, NULL},
    {"auto_mapping", SAYS_NOTHING, NULL},
    {"base_model_name_or_path", SAYS_NOTHING, NULL},
    {"revision", SAYS_NOTHING, NULL},
    {"inference_mode", SAYS_NOTHING, NULL},
    {"peft_version", SAYS_NOTHING, NULL},
    {"runtime_config", SAYS_NOTHING, NULL},
    {"megatron_core", SAYS_NOTHING, NULL},
    {"qalora_group_size", SAYS_NOTHING, NULL}, /* used with use_qalora only */
    {"velora_config", SAYS_NOTHING, NULL},     /* what backward keeps */
    /* of an initialisation, which init_lora_weights names */
    {"eva_config", SAYS_NOTHING, NULL},
    {"corda_config", SAYS_NOTHING, NULL},
    {"loftq_config", SAYS_NOTHING, NULL},
    {"lora_ga_config", SAYS_NOTHING, NULL},
    {"num_virtual_tokens", OFF, "it is prompt or prefix tuning's"},
    {"layer_replication", OFF, "layers of the base are repeated"},
    {"target_parameters", OFF, "parameters are adapted that are no modules"},
    {"lora_bias", OFF, "B has a bias"},
    {"alora_invocation_tokens", OFF, "it acts behind the invocation tokens alone"},
    {"use_qalora", OFF, "A reads pooled inputs"},
    {"use_bdlora", OFF, "its factors are block-diagonal"},
    {"monteclora_config", OFF, "its factors are drawn"},
    {"kasa_config", OFF, "singular values stand between A and B, and the base is truncated"},
    {"arrow_config", OFF, "a router chooses among adapters"},
    {"megatron_config", OFF, "the modules are Megatron's"},
    {NULL, OFF, NULL},
};

static const known_key prompt_keys[] = {
    {"peft_type", READ, NULL},
    {"task_type", READ, NULL},
    {"num_virtual_tokens", READ, NULL},
    {"token_dim", READ, NULL},
    {"num_transformer_submodules", READ, NULL},
    /* how prefix tuning cuts its rows, as the next: the base says the same */
    {"num_attention_heads", SAYS_NOTHING, NULL},
    {"num_layers", SAYS_NOTHING, NULL},
    /* how keys and values were trained, as the next: the file has what came out */
    {"prefix_projection", SAYS_NOTHING, NULL},
    {"encoder_hidden_size", SAYS_NOTHING, NULL},
    /* how the embeddings began, as all of the next four */
    {"init_weights", SAYS_NOTHING, NULL},
    {"prompt_tuning_init", SAYS_NOTHING, NULL},
    {"prompt_tuning_init_text", SAYS_NOTHING, NULL},
    {"tokenizer_name_or_path", SAYS_NOTHING, NULL},
    {"tokenizer_kwargs", SAYS_NOTHING, NULL},
    {"auto_mapping", SAYS_NOTHING, NULL},
    {"base_model_name_or_path", SAYS_NOTHING, NULL},
    {"revision", SAYS_NOTHING, NULL},
    {"inference_mode", SAYS_NOTHING, NULL},
    {"peft_version", SAYS_NOTHING, NULL},
    {"modules_to_save", OFF, "modules of the base are trained"},
    {NULL, OFF, NULL},
};

enum { NUMBER = ML_JSON_INTEGER | ML_JSON_REAL, FLAG = ML_JSON_FLAG | ML_JSON_NULL };

/* The kinds of what is read, of every type of adapter and of each. */
const ml_json_key ml_peft_name_keys[] = {
    {"peft_type", ML_JSON_TEXT},
    {"task_type", ML_JSON_TEXT | ML_JSON_NULL},
    {"bias", ML_JSON_TEXT},
    {NULL, 0},
};
const ml_json_key ml_peft_lora_keys[] = {
    {"r", ML_JSON_INTEGER},
    {"lora_alpha", NUMBER},
    {"lora_dropout", NUMBER},
    {"target_modules", ML_JSON_TEXT | ML_JSON_ARRAY},
    {"target_modules[]", ML_JSON_TEXT},
    {"exclude_modules", ML_JSON_TEXT | ML_JSON_ARRAY | ML_JSON_NULL},
    {"exclude_modules[]", ML_JSON_TEXT},
    {"layers_to_transform", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
    {"layers_to_transform[]", ML_JSON_INTEGER},
    {"rank_pattern", ML_JSON_OBJECT | ML_JSON_NULL},
    {"rank_pattern.*", ML_JSON_INTEGER},
    {"alpha_pattern", ML_JSON_OBJECT | ML_JSON_NULL},
    {"alpha_pattern.*", NUMBER},
    {"use_rslora", FLAG},
    {"use_dora", FLAG},
    {"modules_to_save", ML_JSON_ARRAY | ML_JSON_NULL},
    {"modules_to_save[]", ML_JSON_TEXT},
    {"trainable_token_indices", ML_JSON_ARRAY | ML_JSON_OBJECT | ML_JSON_NULL},
    {"trainable_token_indices[]", ML_JSON_INTEGER},
    {"trainable_token_indices.*", ML_JSON_ARRAY},
    {"trainable_token_indices.*[]", ML_JSON_INTEGER},
    {NULL, 0},
};
const ml_json_key ml_peft_prompt_keys[] = {
    {"num_virtual_tokens", ML_JSON_INTEGER},
    {"token_dim", ML_JSON_INTEGER | ML_JSON_NULL},
    {"num_transformer_submodules", ML_JSON_INTEGER | ML_JSON_NULL},
    {NULL, 0},
};

static bool is_off(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

/* The beginnings that follow from W alone; "pissa_niter_4" is a random approximation. */
static ml_peft_start start_of(const json_t *v)
{
    const char *name = json_string_value(v);
    if (name && !strcmp(name, "pissa")) return ML_PEFT_START_PISSA;
    if (name && !strcmp(name, "olora")) return ML_PEFT_START_OLORA;
    return ML_PEFT_START_PLAIN;
}

static bool is_plain(const json_t *v)
{
    const char *name = json_string_value(v);
    return is_off(v) || json_is_true(v) ||
           (name && (!strcmp(name, "gaussian") || !strcmp(name, "eva") ||
                     !strcmp(name, "orthogonal") || start_of(v) != ML_PEFT_START_PLAIN));
}

/* A base that PEFT changes when the adapter begins: A and B are to be added to what is left. */
ml_status ml_peft_refuse_start(const char *name)
{
    return ml_fail(ML_INPUT,
                   "init_lora_weights: is \"%.40s\", whose A and B belong to a base that PEFT has "
                   "changed; load it with PEFT and save_pretrained(…, "
                   "path_initial_model_for_weight_conversion=…), which makes a plain LoRA of it",
                   name ? name : "(no name)");
}

static ml_status check_keys(const json_t *json, const known_key *known)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
    {
        const known_key *k = known;
        while (k->key && strcmp(k->key, key) != 0) k++;
        if (!k->key && !is_off(value))
            ml_warn("adapter_config.json: unknown key \"%.60s\", ignored", key);
        if (!k->key || is_off(value)) continue;
        if (k->demand == PLAIN && !is_plain(value))
            return ml_peft_refuse_start(json_string_value(value));
        if (k->demand == OFF)
            return ml_fail(ML_INPUT,
                           "%s: is set: %s, which is not supported (merge it into the base with "
                           "PEFT first)",
                           key, k->why);
    }
    return ML_OK;
}

static ml_status check_type(const char *type)
{
    if (type &&
        (!strcmp(type, "LORA") || !strcmp(type, "PROMPT_TUNING") || !strcmp(type, "PREFIX_TUNING")))
        return ML_OK;
    return ml_fail(ML_INPUT, "peft_type: is %.40s, expected LORA, PROMPT_TUNING or PREFIX_TUNING",
                   type ? type : "missing");
}

static ml_status check_names(const json_t *json)
{
    const char *bias = json_string_value(json_object_get(json, "bias"));
    const char *task = json_string_value(json_object_get(json, "task_type"));
    ml_status st = ml_json_check(json, ml_peft_name_keys);
    if (st == ML_OK) st = check_type(json_string_value(json_object_get(json, "peft_type")));
    if (st != ML_OK) return st;
    if (task && strcmp(task, "CAUSAL_LM") != 0 && strcmp(task, "SEQ_CLS") != 0 &&
        strcmp(task, "TOKEN_CLS") != 0 && strcmp(task, "FEATURE_EXTRACTION") != 0)
        return ml_fail(ML_INPUT,
                       "task_type: is %.40s, expected CAUSAL_LM, SEQ_CLS, TOKEN_CLS or "
                       "FEATURE_EXTRACTION",
                       task);
    if (bias && strcmp(bias, "none") != 0 && strcmp(bias, "all") != 0 &&
        strcmp(bias, "lora_only") != 0)
        return ml_fail(ML_INPUT, "bias: is %.40s, expected none, all or lora_only", bias);
    return ML_OK;
}

static ml_status get_rank(const json_t *v, const char *key, int64_t *rank)
{
    *rank = json_integer_value(v);
    if (!v) return ml_fail(ML_INPUT, "%.80s: is missing", key);
    if (*rank >= 1 && *rank <= LARGEST_RANK) return ML_OK;
    return ml_fail(ML_INPUT, "%.80s: is %lld, expected a rank from 1 to %d", key, (long long)*rank,
                   LARGEST_RANK);
}

static ml_status check_ranks(const json_t *patterns)
{
    const char *key;
    json_t *value;
    int64_t rank;
    ml_status st = ML_OK;
    json_object_foreach((json_t *)(uintptr_t)patterns, key, value)
        ML_TRY(get_rank(value, key, &rank));
done:
    return st;
}

/* A whole number from 1, or where `optional` null or missing. */
static ml_status get_size(const json_t *json, const char *key, bool optional, int64_t *value)
{
    const json_t *v = json_object_get(json, key);
    *value = json_integer_value(v);
    if (optional && (!v || json_is_null(v))) return ML_OK;
    if (!v) return ml_fail(ML_INPUT, "%s: is missing", key);
    if (*value >= 1 && *value <= LARGEST_RANK) return ML_OK;
    return ml_fail(ML_INPUT, "%s: is %lld, expected a whole number from 1 to %d", key,
                   (long long)*value, LARGEST_RANK);
}

static ml_status read_prompt_values(ml_peft_config *c)
{
    ml_status st = ML_OK;
    int64_t submodules;
    ML_TRY(ml_json_check(c->json, ml_peft_prompt_keys));
    ML_TRY(get_size(c->json, "num_virtual_tokens", false, &c->tokens));
    ML_TRY(get_size(c->json, "token_dim", true, &c->width));
    ML_TRY(get_size(c->json, "num_transformer_submodules", true, &submodules));
    if (submodules > 1)
        st = ml_fail(ML_INPUT, "num_transformer_submodules: is %lld, expected 1: a decoder alone",
                     (long long)submodules);
done:
    return st;
}

static ml_status read_lora_values(ml_peft_config *c)
{
    ml_status st = ML_OK;
    const json_t *alpha = json_object_get(c->json, "lora_alpha");
    ML_TRY(ml_json_check(c->json, ml_peft_lora_keys));
    ML_TRY(get_rank(json_object_get(c->json, "r"), "r", &c->rank));
    if (!alpha) return ml_fail(ML_INPUT, "lora_alpha: is missing");
    c->alpha = json_number_value(alpha);
    c->dropout = json_number_value(json_object_get(c->json, "lora_dropout"));
    if (!(c->dropout >= 0 && c->dropout <= 1))
        return ml_fail(ML_INPUT, "lora_dropout: is %g, expected a share from 0 to 1", c->dropout);
    c->rslora = json_is_true(json_object_get(c->json, "use_rslora"));
    c->dora = json_is_true(json_object_get(c->json, "use_dora"));
    c->biases = json_object_get(c->json, "bias") &&
                strcmp(json_string_value(json_object_get(c->json, "bias")), "none") != 0;
    c->start = start_of(json_object_get(c->json, "init_lora_weights"));
    if (c->start != ML_PEFT_START_PLAIN && c->dora)
        return ml_fail(ML_INPUT, "use_dora: with init_lora_weights \"%s\" it is not supported",
                       json_string_value(json_object_get(c->json, "init_lora_weights")));
    ML_TRY(check_ranks(json_object_get(c->json, "rank_pattern")));
done:
    return st;
}

ml_status ml_peft_config_parse(ml_peft_config *out, const char *text, int64_t length)
{
    json_error_t error;
    *out = (ml_peft_config){0};
    ml_status st = ML_OK;
    if (length > 0) st = ml_json_parse(&out->json, text, length, JSON_REJECT_DUPLICATES, &error);
    if (st != ML_RESOURCE && !json_is_object(out->json))
        st = ml_fail(ML_INPUT, "is not a JSON object");
    if (st == ML_OK) st = check_names(out->json);
    const char *type =
        st == ML_OK ? json_string_value(json_object_get(out->json, "peft_type")) : "";
    bool prompt = strcmp(type, "LORA") != 0;
    out->keys = !strcmp(type, "PREFIX_TUNING");
    if (st == ML_OK) st = check_keys(out->json, prompt ? prompt_keys : lora_keys);
    if (st == ML_OK) st = prompt ? read_prompt_values(out) : read_lora_values(out);
    if (st != ML_OK) ml_peft_config_destroy(out);
    return st;
}

void ml_peft_config_destroy(ml_peft_config *config)
{
    json_decref(config->json);
    *config = (ml_peft_config){0};
}
