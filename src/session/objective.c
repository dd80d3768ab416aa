/* What is to be done with the data, and whether base, data and grid can do it. */
#include "mpilora/family.h"
#include "session/pipeline.h"
#include "session/session_private.h"

/* An encoder sees the token that a causal objective would have it predict. */
static ml_status check_direction(const ml_run_config *c, const ml_model_spec *spec, bool training)
{
    bool scores = ml_run_config_scores_labels(c);
    if (ml_run_config_masks(c)) return ml_session_check_masks(c, spec);
    if (!spec->both_ways || (!training && !c->data.valid)) return ML_OK;
    if (ml_run_config_contrasts(c)) return ML_OK;
    if (scores && ml_family_scores(spec->family, ML_HEAD_SEQUENCE)) return ML_OK;
    if (scores)
        return ml_run_config_refuse(
            c, "objective.name", "%s needs a head for labels, and %s (%s) cannot have one yet",
            ml_objective_name(c->objective.name), c->base, spec->family->title);
    return ml_run_config_refuse(c, "objective.name",
                                "%s predicts the next token, but %s is an encoder (%s), which sees "
                                "it; mpilora embed makes vectors of texts",
                                ml_objective_name(c->objective.name), c->base, spec->family->title);
}

ml_status ml_session_check_distances(const ml_run_config *c, const ml_model_spec *spec)
{
    if (!ml_run_config_is_exact(c) || !ml_model_is_relative(spec) || c->batch.micro == 1)
        return ML_OK;
    return ml_run_config_refuse(c, "batch.micro",
                                "numerics is grid, and sequences of %s share what stands for their "
                                "distances; set batch.micro to 1, or numerics to fast",
                                c->base);
}

ml_status ml_session_choose_objective(session *s, bool training)
{
    ml_status st = ML_OK;
    const ml_dataset *data = s->train.dataset ? s->train.dataset : s->valid.dataset;
    if (data && s->config->objective.by_data) {
        s->settled = *s->config;
        s->config = &s->settled;
        ML_TRY(ml_session_settle_objective(&s->settled, data));
    }
    ML_TRY(check_direction(s->config, s->spec, training));
    ML_TRY(ml_session_check_distances(s->config, s->spec));
    ML_TRY(ml_stages_check(s->spec, ml_grid_pp(s->grid)));
    ML_TRY(ml_shares_check_config(s->config, s->spec, training));
    ML_TRY(ml_session_choose_pooling(s));
done:
    return st;
}
