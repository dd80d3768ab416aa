/* What `objective` says together: which loss types an objective has, and which key each reads. */
#include <inttypes.h>

#include "config/table.h"

static bool has_type(const ml_run_config *c, ml_pair_loss loss)
{
    bool found = false;
    for (int64_t i = 0; i < c->objective.loss_type.count; i++)
        found = found || c->objective.loss_type.item[i] == (int)loss;
    return found;
}

int64_t ml_run_config_unit(const ml_run_config *c)
{
    switch (c->objective.name) {
    case ML_OBJECTIVE_SFT:
    case ML_OBJECTIVE_KTO:
    case ML_OBJECTIVE_CLASSIFY:
    case ML_OBJECTIVE_REGRESS:
    case ML_OBJECTIVE_TOKENS:
    case ML_OBJECTIVE_MLM:
        return 1;
    case ML_OBJECTIVE_DPO:
    case ML_OBJECTIVE_IPO:
    case ML_OBJECTIVE_CPO:
    case ML_OBJECTIVE_SIMPO:
    case ML_OBJECTIVE_ORPO:
    case ML_OBJECTIVE_REWARD:
    case ML_OBJECTIVE_CONTRASTIVE:
        return 2;
    }
    return 1;
}

static bool compares_gains(const ml_run_config *c)
{
    return c->objective.name == ML_OBJECTIVE_DPO || c->objective.name == ML_OBJECTIVE_IPO;
}

bool ml_run_config_has_figures(const ml_run_config *c)
{
    return c->objective.name != ML_OBJECTIVE_SFT && !ml_run_config_masks(c);
}

bool ml_run_config_masks(const ml_run_config *c) { return c->objective.name == ML_OBJECTIVE_MLM; }

bool ml_run_config_scores_labels(const ml_run_config *c)
{
    return c->objective.name >= ML_OBJECTIVE_REWARD && c->objective.name <= ML_OBJECTIVE_TOKENS;
}

bool ml_run_config_contrasts(const ml_run_config *c)
{
    return c->objective.name == ML_OBJECTIVE_CONTRASTIVE;
}

bool ml_run_config_has_reference(const ml_run_config *c)
{
    return compares_gains(c) || c->objective.name == ML_OBJECTIVE_KTO;
}

double ml_run_config_loss_weight(const ml_run_config *c, ml_pair_loss loss)
{
    const ml_words *types = &c->objective.loss_type;
    const ml_numbers *weights = &c->objective.loss_weights;
    for (int64_t i = 0; i < types->count; i++)
        if (types->item[i] == (int)loss) return weights->count > 0 ? weights->item[i] : 1.0;
    return 0.0;
}

double ml_run_config_token_weight(const ml_run_config *c)
{
    if (c->objective.name == ML_OBJECTIVE_ORPO) return 1.0;
    if (ml_run_config_scores_labels(c) || ml_run_config_contrasts(c)) return 0.0;
    return ml_run_config_has_reference(c)
               ? c->objective.sft_weight + ml_run_config_loss_weight(c, ML_PAIR_SFT)
               : c->objective.cpo_alpha;
}

bool ml_run_config_looks_ahead(const ml_run_config *c)
{
    if (c->objective.name == ML_OBJECTIVE_KTO) return has_type(c, ML_PAIR_KTO);
    return ml_run_config_loss_weight(c, ML_PAIR_AOT) > 0.0 ||
           ml_run_config_loss_weight(c, ML_PAIR_AOT_UNPAIRED) > 0.0;
}

static bool is_of(ml_objective name, int type)
{
    bool unpaired = type == ML_PAIR_KTO || type == ML_PAIR_APO_ZERO_UNPAIRED;
    if (name == ML_OBJECTIVE_KTO) return unpaired;
    if (name == ML_OBJECTIVE_DPO) return !unpaired;
    return type == ML_PAIR_SIGMOID || (name == ML_OBJECTIVE_CPO && type <= ML_PAIR_IPO);
}

static ml_status check_types(const ml_run_config *c)
{
    ml_objective name = c->objective.name;
    const ml_words *types = &c->objective.loss_type;
    if (types->count > 1 && name != ML_OBJECTIVE_DPO)
        return ml_run_config_refuse(c, "objective.loss_type",
                                    "a list of %" PRId64 ", but objective %s has one loss; only "
                                    "dpo adds several",
                                    types->count, ml_objective_name(name));
    for (int64_t i = 0; i < types->count; i++)
        if (!is_of(name, types->item[i]))
            return ml_run_config_refuse(
                c, "objective.loss_type",
                "%s is no loss of objective %s; kto has kto and apo_zero_unpaired, dpo all others, "
                "cpo sigmoid, hinge and ipo",
                ml_pair_loss_name((ml_pair_loss)types->item[i]), ml_objective_name(name));
    return ML_OK;
}

static ml_status check_weights(const ml_run_config *c)
{
    const ml_numbers *weights = &c->objective.loss_weights;
    double sum = 0.0;
    for (int64_t i = 0; i < weights->count; i++) sum += weights->item[i];
    if (weights->count == 0) return ML_OK;
    if (c->objective.name != ML_OBJECTIVE_DPO)
        return ml_run_config_refuse(c, "objective.loss_weights",
                                    "is of dpo, which adds several losses; with objective %s leave "
                                    "it out",
                                    ml_objective_name(c->objective.name));
    if (weights->count != c->objective.loss_type.count)
        return ml_run_config_refuse(c, "objective.loss_weights",
                                    "%" PRId64 " numbers for the %" PRId64
                                    " members of objective.loss_type; give one for each",
                                    weights->count, c->objective.loss_type.count);
    if (sum == 0.0)
        return ml_run_config_refuse(c, "objective.loss_weights",
                                    "all are 0, so nothing is learnt; give one above 0");
    return ML_OK;
}

static ml_status check_verdict_weights(const ml_run_config *c)
{
    bool unpaired = c->objective.name == ML_OBJECTIVE_KTO;
    const struct {
        const char *key;
        double value;
    } weights[] = {{"objective.desirable_weight", c->objective.desirable_weight},
                   {"objective.undesirable_weight", c->objective.undesirable_weight}};
    for (int i = 0; i < 2; i++)
        if (weights[i].value != 1.0 && !unpaired)
            return ml_run_config_refuse(c, weights[i].key,
                                        "is of kto; with objective %s leave it at 1",
                                        ml_objective_name(c->objective.name));
    if (weights[0].value == 0.0 && weights[1].value == 0.0)
        return ml_run_config_refuse(c, weights[0].key,
                                    "is 0, and so is objective.undesirable_weight: nothing is "
                                    "learnt; give one above 0");
    return ML_OK;
}

/* An order that another would undo. */
static ml_status check_pair_order(const ml_run_config *c)
{
    if (c->objective.pair_order == ML_PAIRS_MIXED) return ML_OK;
    if (c->objective.name != ML_OBJECTIVE_KTO)
        return ml_run_config_refuse(c, "objective.pair_order",
                                    "is of kto; with objective %s leave it out",
                                    ml_objective_name(c->objective.name));
    if (!c->data.shuffle && !c->data.group_prompts) return ML_OK;
    return ml_run_config_refuse(c, "objective.pair_order",
                                "blocks is an order of the data, which data.%s would undo; set "
                                "that to false",
                                c->data.shuffle ? "shuffle" : "group_prompts");
}

/* Keys that one kind of objective reads would have no effect on the others. */
static ml_status check_readers(const ml_run_config *c)
{
    bool moves = compares_gains(c);
    const char *name = ml_objective_name(c->objective.name);
    if (c->objective.ld_alpha != 1.0 && !moves)
        return ml_run_config_refuse(c, "objective.ld_alpha",
                                    "is of dpo and ipo; with objective %s leave it at 1", name);
    if (c->objective.sft_weight > 0.0 && !moves)
        return ml_run_config_refuse(
            c, "objective.sft_weight", "is of dpo and ipo; with objective %s leave it at 0%s", name,
            c->objective.name == ML_OBJECTIVE_SFT ? "" : " (cpo and simpo have cpo_alpha)");
    if (c->objective.center_rewards > 0.0 && c->objective.name != ML_OBJECTIVE_REWARD)
        return ml_run_config_refuse(c, "objective.center_rewards",
                                    "is of objective reward; with %s leave it at 0", name);
    ml_status st = check_pair_order(c);
    return st == ML_OK ? check_verdict_weights(c) : st;
}

/* The keys of contrastive, and what has no place in a vector of a text. */
static ml_status check_vectors(const ml_run_config *c)
{
    const char *name = ml_objective_name(c->objective.name);
    bool contrasts = ml_run_config_contrasts(c);
    const struct {
        const char *key;
        bool given;
    } own[] = {{"objective.temperature", c->objective.temperature != 0.05},
               {"objective.pooling", c->objective.pooling != ML_POOLING_GIVEN},
               {"objective.normalise", !c->objective.normalise}};
    for (int i = 0; i < 3 && !contrasts; i++)
        if (own[i].given)
            return ml_run_config_refuse(c, own[i].key,
                                        "is of contrastive; with objective %s leave "
                                        "it out",
                                        name);
    if (!contrasts) return ML_OK;
    if (ml_method_has_prefix(c->method.name))
        return ml_run_config_refuse(c, "method.name",
                                    "%s puts virtual tokens before a text, which have no place in "
                                    "its vector; choose another method for objective %s",
                                    ml_method_name(c->method.name), name);
    if (c->batch.sequences < 2)
        return ml_run_config_refuse(c, "batch.sequences",
                                    "1, but the texts of a step are each other's negatives; give "
                                    "at least 2");
    return ML_OK;
}

/* The keys of mlm. */
static ml_status check_mask_keys(const ml_run_config *c)
{
    const struct {
        const char *key;
        bool given;
    } own[] = {{"objective.mask_probability", c->objective.mask_probability != 0.15},
               {"objective.mask_replace", c->objective.mask_replace != 0.8},
               {"objective.random_replace", c->objective.random_replace != 0.1},
               {"objective.whole_words", c->objective.whole_words},
               {"objective.mask_token", c->objective.mask_token >= 0}};
    for (int i = 0; i < 5 && !ml_run_config_masks(c); i++)
        if (own[i].given)
            return ml_run_config_refuse(c, own[i].key, "is of mlm; with objective %s leave it out",
                                        ml_objective_name(c->objective.name));
    if (c->objective.mask_replace + c->objective.random_replace > 1.0)
        return ml_run_config_refuse(c, "objective.random_replace",
                                    "%g, and objective.mask_replace is %g: both are shares of the "
                                    "chosen tokens, at most 1 together",
                                    c->objective.random_replace, c->objective.mask_replace);
    return ML_OK;
}

/* What has no place before or behind a hidden token. */
static ml_status check_masks(const ml_run_config *c)
{
    bool target = ml_method_has_lora(c->method.name) && c->method.targets & ML_TARGET_HEAD,
         rows =
             ml_method_saves_modules(c->method.name) && c->method.trainable_head_tokens.count > 0;
    ml_status st = check_mask_keys(c);
    if (st != ML_OK || !ml_run_config_masks(c)) return st;
    if (target || rows)
        return ml_run_config_refuse(c, rows ? "method.trainable_head_tokens" : "method.targets",
                                    "an encoder's head for masked tokens takes no adapter; leave "
                                    "the head out");
    if (ml_method_has_prefix(c->method.name) && c->method.sizes.infix > 0)
        return ml_run_config_refuse(c, "method.infix",
                                    "%" PRId64 " virtual tokens stand before a completion, which "
                                    "objective mlm has not; set it to 0 and give method.prefix",
                                    c->method.sizes.infix);
    return ML_OK;
}

/* Of loss types that look at a whole batch. The gradients of sorted values come in a second pass,
 * which has to meet the first one's values. */
static ml_status check_ahead(const ml_run_config *c)
{
    if (c->objective.name == ML_OBJECTIVE_KTO && has_type(c, ML_PAIR_KTO) &&
        c->batch.sequences == 1)
        return ml_run_config_refuse(c, "batch.sequences",
                                    "1, but loss type kto puts the answer of one row of a step "
                                    "behind the prompt of another; give at least 2, or choose "
                                    "apo_zero_unpaired");
    if (c->objective.name == ML_OBJECTIVE_KTO || !ml_run_config_looks_ahead(c) ||
        !ml_method_has_lora(c->method.name) || c->method.dropout == 0.0)
        return ML_OK;
    return ml_run_config_refuse(c, "method.dropout",
                                "%g, but loss types aot and aot_unpaired find the values of a "
                                "batch in a pass of its own, without dropout; set it to 0",
                                c->method.dropout);
}

bool objective_smooths(const ml_run_config *c)
{
    bool own = c->objective.name == ML_OBJECTIVE_SIMPO ||
               (c->objective.name == ML_OBJECTIVE_CPO && has_type(c, ML_PAIR_SIGMOID));
    return own || has_type(c, ML_PAIR_ROBUST) || has_type(c, ML_PAIR_EXO) ||
           has_type(c, ML_PAIR_AOT) || has_type(c, ML_PAIR_AOT_UNPAIRED);
}

/* What belongs to a head that gives logits of tokens, which a head for labels replaces. */
static ml_status check_scores(const ml_run_config *c)
{
    const char *name = ml_objective_name(c->objective.name), *key = NULL;
    if (ml_method_has_lora(c->method.name) && c->method.targets & ML_TARGET_HEAD)
        key = "method.targets";
    else if (ml_method_saves_modules(c->method.name) && c->method.trainable_head_tokens.count > 0)
        key = "method.trainable_head_tokens";
    if (key && ml_run_config_contrasts(c))
        return ml_run_config_refuse(c, key,
                                    "is about the head for tokens, which objective %s makes no "
                                    "vector with; leave it out",
                                    name);
    if (key)
        return ml_run_config_refuse(c, key,
                                    "is about the head for tokens, in whose place objective %s has "
                                    "one for labels, which trains whole; leave it out",
                                    name);
    if (ml_method_has_prefix(c->method.name) && c->method.sizes.infix > 0)
        return ml_run_config_refuse(c, "method.infix",
                                    "%" PRId64 " virtual tokens stand before a completion, which "
                                    "objective %s has not; set it to 0 and give method.prefix",
                                    c->method.sizes.infix, name);
    return ML_OK;
}

static ml_status check_rows(const ml_run_config *c)
{
    ml_objective name = c->objective.name;
    if (name == ML_OBJECTIVE_SFT) return ML_OK;
    if (ml_run_config_scores_labels(c) || ml_run_config_contrasts(c)) {
        ml_status st = check_scores(c);
        if (st != ML_OK) return st;
    }
    if (c->optim.label_smoothing > 0.0)
        return ml_run_config_refuse(c, "optim.label_smoothing",
                                    "is of objective sft; with %s leave it at 0",
                                    ml_objective_name(name));
    if (ml_run_config_has_reference(c) && ml_method_has_prefix(c->method.name))
        return ml_run_config_refuse(
            c, "objective.name",
            "%s compares with the model before the first step, which with "
            "method %s is not the base; choose cpo, simpo or another method",
            ml_objective_name(name), ml_method_name(c->method.name));
    return check_ahead(c);
}

/* Other objectives have no probabilities of tokens, or weigh their gradient by all of an answer. */
static ml_status check_filter(const ml_run_config *c)
{
    ml_objective name = c->objective.name;
    if (c->loss.filter == 0.0) return ML_OK;
    if (name != ML_OBJECTIVE_SFT && name != ML_OBJECTIVE_MLM)
        return ml_run_config_refuse(c, "loss.filter",
                                    "is of objectives sft and mlm; with %s set it to off",
                                    ml_objective_name(name));
    if (c->optim.label_smoothing > 0.0)
        return ml_run_config_refuse(c, "loss.filter",
                                    "leaves out what optim.label_smoothing, %g, gives to every "
                                    "token; set one of the two to 0 or off",
                                    c->optim.label_smoothing);
    return ML_OK;
}

ml_status objective_check(ml_run_config *c)
{
    ml_status st = ML_OK;
    ml_words *types = &c->objective.loss_type;
    if (types->count == 0)
        *types =
            (ml_words){1, {c->objective.name == ML_OBJECTIVE_KTO ? ML_PAIR_KTO : ML_PAIR_SIGMOID}};
    ML_TRY(check_types(c));
    ML_TRY(check_weights(c));
    ML_TRY(check_readers(c));
    ML_TRY(check_vectors(c));
    ML_TRY(check_masks(c));
    if (has_type(c, ML_PAIR_EXO) && c->objective.label_smoothing == 0.0)
        return ml_run_config_refuse(c, "objective.label_smoothing",
                                    "is 0, which exo_pair takes the logarithm of; give a number "
                                    "above 0");
    ML_TRY(check_rows(c));
    ML_TRY(check_filter(c));
    ML_TRY(numerics_check(c));
done:
    return st;
}

ml_status ml_run_config_choose_objective(ml_run_config *c, ml_objective name)
{
    c->objective.name = name;
    c->objective.by_data = false;
    return objective_check(c);
}
