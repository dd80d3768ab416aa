/* What must be the same when a run is resumed, as (key, value) pairs of text. */
#include <inttypes.h>

#include "config/table.h"
#include "train/run.h"

static const char *add(run *r, const char *key)
{
    ml_checkpoint_identity *pair = &r->identity[r->identities];
    pair->key = key;
    pair->value = r->identity_text[r->identities];
    pair->before = NULL;
    return pair->value;
}

#define ADD(key, ...)                                                                       \
    do {                                                                                    \
        add(r, key);                                                                        \
        snprintf(r->identity_text[r->identities], sizeof r->identity_text[0], __VA_ARGS__); \
        r->identities++;                                                                    \
    } while (0)

/* A choice by its word; checkpoints of earlier versions name it by its number. */
static void add_choice(run *r, const char *key, const char *word, int number)
{
    static const char *const numbers[] = {"0", "1", "2", "3"};
    ADD(key, "%s", word);
    r->identity[r->identities - 1].before = numbers[number];
}

static void add_switch(run *r, const char *key, bool on)
{
    add_choice(r, key, on ? "true" : "false", on);
}

static void add_lora(run *r)
{
    const ml_run_config *c = r->config;
    ADD("method.rank", "%" PRId64, c->method.rank);
    ADD("method.alpha", "%.17g", c->method.alpha);
    ADD("method.dropout", "%.17g", c->method.dropout);
    ADD("method.scaling", "%s", c->method.scaling == ML_SCALING_RSLORA ? "rslora" : "standard");
    ADD("method.init", "%s",
        r->first_hash[0]                                         ? r->first_hash
        : ml_run_config_is_pissa(c) || ml_run_config_is_loftq(c) ? c->method.init
                                                                 : "null");
    unsigned targets = 0;
    ml_status st = ml_targets_resolve(ml_base_spec(r->session.base), c->method.targets, &targets);
    add(r, "method.targets");
    char *text = r->identity_text[r->identities++];
    size_t used = 0;
    for (unsigned bit = 1; st == ML_OK && bit < ML_TARGET_ALL; bit *= 2)
        if (targets & bit)
            used += (size_t)snprintf(text + used, sizeof r->identity_text[0] - used, "%s%s",
                                     used ? " " : "", ml_target_name((ml_target)bit));
}

/* A text of any length: where it is too long, its hash. */
static void add_long(run *r, const char *key, const ml_text *text)
{
    char hash[ML_SHA256_HEX];
    bool fits = text->length < (int64_t)sizeof r->identity_text[0];
    if (!fits) ml_sha256_of(text->data, (size_t)text->length, hash);
    ADD(key, "%s", fits ? text->data : hash);
}

static ml_status add_patterns(run *r, const char *key, const ml_module_patterns *patterns)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    if (patterns->count == 0) return ML_OK;
    ML_TRY(ml_module_patterns_write(patterns, &text));
    add_long(r, key, &text);
done:
    ml_text_destroy(&text);
    return st;
}

/* Those of LoRA's variants that are chosen. */
static ml_status add_variants(run *r)
{
    ml_status st = ML_OK;
    const ml_run_config *c = r->config;
    ml_text layers = {0};
    if (c->method.dora) ADD("method.dora", "true");
    if (c->method.bias != ML_BIAS_NONE)
        ADD("method.bias", "%s", c->method.bias == ML_BIAS_ALL ? "all" : "lora_only");
    if (c->method.lora_plus > 0.0) ADD("method.lora_plus", "%.17g", c->method.lora_plus);
    if (c->method.layers.count > 0) {
        ML_TRY(ml_layer_ranges_write(&c->method.layers, &layers));
        add_long(r, "method.layers", &layers);
    }
    ML_TRY(add_patterns(r, "method.rank_pattern", &c->method.rank_pattern));
    ML_TRY(add_patterns(r, "method.alpha_pattern", &c->method.alpha_pattern));
done:
    ml_text_destroy(&layers);
    return st;
}

/* Those that the method reads. */
static void add_sizes(run *r)
{
    const ml_method_sizes *s = &r->config->method.sizes;
    ml_method method = r->config->method.name;
    if (method == ML_METHOD_TOP) ADD("method.top", "%" PRId64, s->top);
    if (ml_method_has_prefix(method)) ADD("method.prefix", "%" PRId64, s->prefix);
    if (ml_method_has_prefix(method)) ADD("method.infix", "%" PRId64, s->infix);
    if (ml_method_has_prefix(method))
        ADD("method.prefix_init", "%s", ml_prefix_init_name(r->config->method.prefix_init));
    if (ml_method_has_bottleneck(method)) ADD("method.bottleneck", "%" PRId64, s->bottleneck);
    if (method == ML_METHOD_ADAPTER_DROP) ADD("method.drop", "%" PRId64, s->drop);
    if (method == ML_METHOD_COMPACTER) ADD("method.factors", "%" PRId64, s->factors);
    if (method == ML_METHOD_BITFIT)
        ADD("method.new_biases", "%s", s->new_biases ? "true" : "false");
}

static ml_status add_saved(run *r)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    const ml_module_patterns *names = &r->config->method.modules_to_save;
    if (names->count == 0 || !ml_method_saves_modules(r->config->method.name)) return ML_OK;
    ML_TRY(ml_module_names_write(names, &text));
    add_long(r, "method.modules_to_save", &text);
done:
    ml_text_destroy(&text);
    return st;
}

static ml_status add_tokens(run *r, const char *key, const ml_layer_ranges *tokens)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    if (tokens->count == 0 || !ml_method_saves_modules(r->config->method.name)) return ML_OK;
    ML_TRY(ml_layer_ranges_write(tokens, &text));
    add_long(r, key, &text);
done:
    ml_text_destroy(&text);
    return st;
}

static ml_status add_prefix_text(run *r)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    const char *words = r->config->method.prefix_text;
    if (!ml_method_has_prefix(r->config->method.name) || !words) return ML_OK;
    ML_TRY(ml_text_printf(&text, "%s", words));
    add_long(r, "method.prefix_text", &text);
done:
    ml_text_destroy(&text);
    return st;
}

/* Which keys of optim a start may change (--allow-change). */
static ml_status check_allowed(const run *r)
{
    for (int64_t a = 0; a < r->options->allowed; a++) {
        const char *key = r->options->allow[a], *known[IDENTITIES + 1] = {NULL};
        int64_t count = 0;
        for (int64_t i = 0; i < r->identities; i++)
            if (!strncmp(r->identity[i].key, "optim.", strlen("optim.")))
                known[count++] = r->identity[i].key;
        int64_t found = 0;
        while (found < count && strcmp(known[found], key) != 0) found++;
        if (found < count) continue;
        const char *near = ml_nearest_word(key, known);
        return ml_fail(ML_USAGE,
                       "--allow-change: \"%s\" is no key of optim%s%s%s; only these may change in "
                       "a run",
                       key, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return ML_OK;
}

static ml_status add_losses(run *r)
{
    ml_status st = ML_OK;
    const ml_words *types = &r->config->objective.loss_type;
    ml_text names = {0}, weights = {0};
    for (int64_t i = 0; i < types->count; i++)
        ML_TRY(ml_text_printf(&names, "%s%s", i == 0 ? "" : ", ",
                              ml_pair_loss_name((ml_pair_loss)types->item[i])));
    add_long(r, "objective.loss_type", &names);
    ML_TRY(numbers_write(&r->config->objective.loss_weights, &weights));
    add_long(r, "objective.loss_weights", &weights);
done:
    ml_text_destroy(&names);
    ml_text_destroy(&weights);
    return st;
}

ml_status describe_identity(run *r)
{
    ml_status st = ML_OK;
    const ml_run_config *c = r->config;
    r->identities = 0;
    ADD("base", "%s", ml_base_content_hash(r->session.base));
    ADD("data.train", "%s", ml_dataset_hash(r->session.train.dataset));
    ADD("run.seed", "%" PRIu64, c->seed);
    ADD("method.name", "%s", ml_method_name(c->method.name));
    if (ml_method_has_lora(c->method.name)) {
        add_lora(r);
        ML_TRY(add_variants(r));
    }
    add_sizes(r);
    ML_TRY(add_saved(r));
    ML_TRY(add_tokens(r, "method.trainable_tokens", &r->config->method.trainable_tokens));
    ML_TRY(add_tokens(r, "method.trainable_head_tokens", &r->config->method.trainable_head_tokens));
    ML_TRY(add_prefix_text(r));
    if (ml_run_config_has_figures(c)) {
        ADD("objective.name", "%s", ml_objective_name(c->objective.name));
        ML_TRY(add_losses(r));
        ADD("objective.beta", "%.17g", c->objective.beta);
        ADD("objective.label_smoothing", "%.17g", c->objective.label_smoothing);
        ADD("objective.gamma", "%.17g", c->objective.gamma);
        ADD("objective.cpo_alpha", "%.17g", c->objective.cpo_alpha);
        ADD("objective.ld_alpha", "%.17g", c->objective.ld_alpha);
        ADD("objective.sft_weight", "%.17g", c->objective.sft_weight);
        ADD("objective.center_rewards", "%.17g", c->objective.center_rewards);
        ADD("objective.desirable_weight", "%.17g", c->objective.desirable_weight);
        ADD("objective.undesirable_weight", "%.17g", c->objective.undesirable_weight);
        if (c->objective.name == ML_OBJECTIVE_KTO)
            add_choice(r, "objective.pair_order", pair_order_words[c->objective.pair_order],
                       (int)c->objective.pair_order);
    }
    if (ml_run_config_masks(c)) {
        ADD("objective.mask_probability", "%.17g", c->objective.mask_probability);
        ADD("objective.mask_replace", "%.17g", c->objective.mask_replace);
        ADD("objective.random_replace", "%.17g", c->objective.random_replace);
        add_switch(r, "objective.whole_words", c->objective.whole_words);
        ADD("objective.mask_token", "%" PRId64, c->objective.mask_token);
    }
    if (ml_run_config_contrasts(c)) {
        ADD("objective.temperature", "%.17g", c->objective.temperature);
        add_choice(r, "objective.pooling", pooling_words[r->session.pooling],
                   (int)r->session.pooling);
        add_switch(r, "objective.normalise", c->objective.normalise);
    }
    ADD("data.max_len", "%" PRId64, r->session.max_len);
    ADD("data.shuffle", "%s", c->data.shuffle ? "true" : "false");
    ADD("data.group_prompts", "%s", c->data.group_prompts ? "true" : "false");
    ADD("batch.sequences", "%" PRId64, c->batch.sequences);
    ADD("optim.lr", "%.17g", c->optim.lr);
    ADD("optim.betas", "%.17g, %.17g", c->optim.beta1, c->optim.beta2);
    ADD("optim.eps", "%.17g", c->optim.eps);
    ADD("optim.weight_decay", "%.17g", c->optim.weight_decay);
    ADD("optim.clip_norm", "%.17g", c->optim.clip_norm);
    ADD("optim.schedule", "%s", schedule_words[c->optim.schedule]);
    ADD("optim.warmup", "%" PRId64, c->optim.warmup);
    ADD("optim.label_smoothing", "%.17g", c->optim.label_smoothing);
    ADD("precision", "%s", ml_dtype_name(c->precision));
    if (c->loss.filter > 0.0) ADD("loss.filter", "%.17g", c->loss.filter);
    if (ml_run_config_is_exact(c)) ADD("numerics", "grid"); /* else as before there was a choice */
    ML_TRY(check_allowed(r));
done:
    return st;
}
