/* `eval`: the loss on data.valid, and continuations of its prompts beside it. */
#include "mpilora/evaluate.h"
#include "serve/outputs.h"

static ml_status read_adapter(session *s, const char *path, ml_adapter *adapter)
{
    return path ? ml_adapter_read_for(adapter, path, s->base) : ML_OK;
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

static ml_status evaluate(session *s, ml_evaluation *out)
{
    evaluation_result result;
    ml_status st = ml_session_evaluate(s, NULL, &result);
    if (st != ML_OK) return st;
    out->loss = result.loss;
    if (!ml_run_config_scores_labels(s->config)) {
        out->target_tokens = result.targets;
        return ML_OK;
    }
    double n = result.compared[PAIRS];
    out->rows = result.targets;
    out->accuracy = result.compared[PAIR_RIGHT] / n;
    out->rewards_chosen = result.compared[PAIR_REWARD_CHOSEN] / n;
    out->rewards_rejected = result.compared[PAIR_REWARD_REJECTED] / n;
    return ML_OK;
}

ml_status ml_evaluate_run(const ml_run_config *config, const char *path,
                          const ml_output_options *wanted, ml_evaluation *out)
{
    ml_status st = ML_OK;
    session s = {0};
    outputs outputs = {0};
    ml_adapter adapter = {0};
    *out = (ml_evaluation){0};
    if (!config->data.valid)
        return ml_run_config_refuse(config, "data.valid",
                                    "missing; eval needs the data set to evaluate on");
    if (ml_run_config_has_figures(config) && !ml_run_config_scores_labels(config))
        return ml_run_config_refuse(
            config, "objective.name",
            "%s is evaluated on data.valid by train; eval gives the loss on "
            "tokens, of a data set without pairs and objective sft",
            ml_objective_name(config->objective.name));
    if (wanted && ml_run_config_scores_labels(config))
        return ml_run_config_refuse(config, "objective.name",
                                    "%s has a head for labels, which continues no prompt; leave "
                                    "--generate out",
                                    ml_objective_name(config->objective.name));
    ML_TRY(ml_session_open(&s, config, false));
    ML_TRY(ml_grid_agree(s.grid, read_adapter(&s, path, &adapter)));
    if (path) ML_TRY(ml_grid_agree_on_file("the adapter", path, adapter.hash));
    ML_TRY(ml_session_attach_adapter(&s, path ? &adapter : NULL));
    if (wanted) ML_TRY(ml_grid_agree(s.grid, outputs_prepare(&outputs, &s, wanted)));
    ML_TRY(ml_session_build(&s, false, config->backend, config->vector_path));
    if (path) {
        ML_TRY(ml_grid_agree(s.grid, ml_peft_load(s.peft, &adapter)));
        ml_peft_after_update(s.peft);
    }
    ML_TRY(evaluate(&s, out));
    if (wanted) ML_TRY(generate(&s, &outputs, wanted->path, out));
done:
    outputs_destroy(&outputs);
    ml_adapter_destroy(&adapter);
    ml_session_close(&s);
    return st;
}
