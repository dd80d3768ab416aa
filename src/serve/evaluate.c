/* `eval`: the loss on data.valid, and continuations of its prompts beside it. */
#include "mpilora/evaluate.h"

#include <math.h>

#include "io/durable.h"
#include "serve/outputs.h"

static ml_status read_adapter(session *s, const char *path, ml_adapter *adapter)
{
    return path ? ml_adapter_read_for(adapter, path, s->base) : ML_OK;
}

/* Its classes are those of the data, in their order. */
static ml_status check_names(const session *s, const char *path, const ml_adapter *adapter)
{
    const char *names = ml_dataset_label_names(s->valid.dataset);
    if (!adapter->label_names || !*names || !strcmp(names, adapter->label_names)) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: tells the classes %.200s apart, but %s has %.200s; tokenize it with "
                   "--labels and the data set of the training",
                   path, adapter->label_names, s->config->data.valid, names);
}

static ml_status generate(session *s, outputs *o, const char *path, ml_evaluation *out)
{
    double start = ml_seconds();
    ml_status st = outputs_write(o, s, path);
    if (st != ML_OK) return st;
    out->output_seconds = ml_seconds() - start;
    out->outputs = o->requests.count;
    for (int64_t i = 0; i < o->requests.count; i++)
        out->output_tokens += o->requests.request[i].count;
    return ML_OK;
}

/* Of pairs of answers, or of scores. */
static void take_pairs(const session *s, const double sums[PAIR_SUMS], ml_evaluation *out)
{
    double n = sums[PAIRS];
    out->accuracy = sums[PAIR_RIGHT] / n;
    out->rewards_chosen = sums[PAIR_REWARD_CHOSEN] / n;
    out->rewards_rejected = sums[PAIR_REWARD_REJECTED] / n;
    if (ml_run_config_scores_labels(s->config)) return;
    out->logps_chosen = sums[PAIR_LOG_P_CHOSEN] / n;
    out->logps_rejected = sums[PAIR_LOG_P_REJECTED] / n;
}

/* Of answers that are wanted or not. 0 / 0 is NaN, which is what is meant. */
static void take_judged(const double sums[PAIR_SUMS], ml_evaluation *out)
{
    double wanted = sums[PAIR_WANTED], others = sums[PAIRS] - wanted;
    out->rewards_chosen = sums[PAIR_REWARD_CHOSEN] / wanted;
    out->rewards_rejected = sums[PAIR_REWARD_REJECTED] / others;
    out->logps_chosen = sums[PAIR_LOG_P_CHOSEN] / wanted;
    out->logps_rejected = sums[PAIR_LOG_P_REJECTED] / others;
    out->kl = sums[PAIR_MOVED] / sums[PAIRS];
}

static ml_status evaluate(session *s, const char *predictions, ml_evaluation *out)
{
    evaluation_result result;
    ml_status st = ml_session_evaluate(s, NULL, predictions, &result);
    if (st != ML_OK) return st;
    out->loss = result.loss;
    out->objective = s->config->objective.name;
    if (!ml_run_config_has_figures(s->config)) {
        out->target_tokens = result.targets;
        return ML_OK;
    }
    out->rows = result.targets;
    out->figures = result.figures;
    out->accuracy = out->logps_chosen = out->logps_rejected = out->kl = NAN;
    if (s->config->objective.name == ML_OBJECTIVE_KTO)
        take_judged(result.compared, out);
    else
        take_pairs(s, result.compared, out);
    return ML_OK;
}

typedef struct asked {
    const ml_output_options *outputs; /* NULL: none */
    bool predictions;
} asked;

/* What is asked for beside the loss, and does not go with an objective. */
static ml_status check_objective(const ml_run_config *config, bool generates, bool predicts)
{
    const char *name = ml_objective_name(config->objective.name);
    if (generates && ml_run_config_scores_labels(config))
        return ml_run_config_refuse(config, "objective.name",
                                    "%s has a head for labels, which continues no prompt; leave "
                                    "--generate out",
                                    name);
    if (generates && ml_run_config_masks(config))
        return ml_run_config_refuse(config, "objective.name",
                                    "mlm is of encoders, which continue no prompt; leave "
                                    "--generate out");
    if (generates && ml_run_config_contrasts(config))
        return ml_run_config_refuse(config, "objective.name",
                                    "%s is of vectors of texts, which continue no prompt; leave "
                                    "--generate out",
                                    name);
    if (predicts && (!ml_run_config_scores_labels(config) || ml_run_config_unit(config) == 2))
        return ml_run_config_refuse(config, "objective.name",
                                    "%s predicts no labels; leave --predictions out, or set it to "
                                    "classify, regress or tokens",
                                    name);
    return ML_OK;
}

/* The base, with the adapter at `path` where that is not NULL, ready for a pass. */
static ml_status build(session *s, const ml_run_config *config, const char *path,
                       ml_adapter *adapter, outputs *outputs, const asked *asks)
{
    ml_status st = ML_OK;
    const ml_output_options *wanted = asks ? asks->outputs : NULL;
    ML_TRY(ml_session_open(s, config, false));
    if (asks) ML_TRY(check_objective(s->config, wanted != NULL, asks->predictions));
    ML_TRY(ml_grid_agree(s->grid, read_adapter(s, path, adapter)));
    if (path) ML_TRY(ml_grid_agree_on_file("the adapter", path, adapter->hash));
    if (path) ML_TRY(ml_grid_agree(s->grid, check_names(s, path, adapter)));
    ML_TRY(ml_session_attach_adapter(s, path ? adapter : NULL));
    if (wanted) ML_TRY(ml_grid_agree(s->grid, outputs_prepare(outputs, s, wanted)));
    ML_TRY(ml_session_build(s, false, config->backend, config->vector_path));
    if (path) {
        ML_TRY(ml_grid_agree(s->grid, ml_peft_load(s->peft, adapter)));
        ml_peft_after_update(s->peft);
    }
done:
    return st;
}

/* What answers have moved from, found by a model of its own, which is gone before the one that is
 * evaluated comes: memory has one of them at a time. */
static ml_status find_reference(const ml_run_config *config, const char *base, data_source *out)
{
    ml_status st = ML_OK;
    session s = {0};
    ml_adapter adapter = {0};
    char *path = base ? ml_memory_string(base) : NULL;
    ml_run_config other = *config; /* borrows all of it */
    if (base && !path) return ML_RESOURCE;
    if (base) other.base = path;
    other.rounds_activations = false; /* what is measured from stays the same */
    ML_TRY(
        build(&s, &other, base ? NULL : ml_run_config_first_adapter(config), &adapter, NULL, NULL));
    ML_TRY(ml_session_refer(&s, &s.valid, NULL));
    *out = (data_source){.reference = s.valid.reference,
                         .unpaired.reference = s.valid.unpaired.reference};
    s.valid.reference = s.valid.unpaired.reference = NULL;
done:
    ml_adapter_destroy(&adapter);
    ml_session_close(&s);
    ml_memory_free(path);
    return st;
}

static ml_status check(const ml_run_config *config, const char *reference)
{
    if (!config->data.valid)
        return ml_run_config_refuse(config, "data.valid",
                                    "missing; eval needs the data set to evaluate on");
    if (reference && !ml_run_config_has_reference(config))
        return ml_run_config_refuse(config, "objective.name",
                                    "%s measures from no other model; leave --reference out",
                                    ml_objective_name(config->objective.name));
    return ML_OK;
}

ml_status ml_evaluate_run(const ml_run_config *config, const char *path, const char *reference,
                          const ml_output_options *wanted, const char *predictions,
                          ml_evaluation *out)
{
    ml_status st = ML_OK;
    session s = {0};
    outputs outputs = {0};
    ml_adapter adapter = {0};
    data_source start = {0};
    *out = (ml_evaluation){0};
    const asked asks = {wanted, predictions != NULL};
    ML_TRY(check(config, reference));
    if (ml_run_config_has_reference(config)) ML_TRY(find_reference(config, reference, &start));
    ML_TRY(build(&s, config, path, &adapter, &outputs, &asks));
    if (predictions) ML_TRY(ml_grid_agree(s.grid, ml_durable_may_write(predictions)));
    s.valid.reference = start.reference;
    s.valid.unpaired.reference = start.unpaired.reference;
    start = (data_source){0};
    ML_TRY(evaluate(&s, predictions, out));
    if (wanted) ML_TRY(generate(&s, &outputs, wanted->path, out));
done:
    ml_memory_free(start.reference);
    ml_unpaired_destroy(&start.unpaired);
    outputs_destroy(&outputs);
    ml_adapter_destroy(&adapter);
    ml_session_close(&s);
    return st;
}
