/* samples.jsonl: what the model makes of the prompts of train.samples.file while it trains. Its
 * lines are cut with the metrics', and written before the step's checkpoint. */
#include "io/durable.h"
#include "train/run.h"

static bool is_on(const run *r)
{
    return r->options->sampler && r->config->train.samples.file &&
           r->config->train.samples.every > 0;
}

int64_t samples_every(const run *r) { return is_on(r) ? r->config->train.samples.every : 0; }

ml_status samples_prepare(run *r)
{
    session *s = &r->session;
    int64_t tokens = 0;
    if (!is_on(r)) return ML_OK;
    if (ml_run_config_scores_labels(r->config))
        return ml_run_config_refuse(r->config, "train.samples.file",
                                    "objective %s has a head for labels, which continues no prompt",
                                    ml_objective_name(r->config->objective.name));
    if (ml_run_config_masks(r->config))
        return ml_run_config_refuse(r->config, "train.samples.file",
                                    "objective mlm trains encoders, which continue no prompt; "
                                    "leave it out");
    if (ml_run_config_contrasts(r->config))
        return ml_run_config_refuse(r->config, "train.samples.file",
                                    "objective contrastive trains vectors of texts, which continue "
                                    "no prompt; leave it out");
    ml_status st = r->options->sampler->prepare(r->options->sampler->self, s->base, s->prefix,
                                                s->infix, &tokens);
    s->tokens = ml_max(s->tokens, tokens);
    return st;
}

static ml_status append(const run *r, const ml_text *lines)
{
    if (!r->samples) return ML_OK;
    fwrite(lines->data, 1, (size_t)lines->length, r->samples);
    if (!fflush(r->samples) && !ferror(r->samples)) return ML_OK;
    return ml_fail(ML_RESOURCE, "%s/samples.jsonl: cannot be written", r->config->run_dir);
}

ml_status samples_where_due(run *r)
{
    ml_status st = ML_OK;
    ml_text lines = {0};
    const ml_run_config *c = r->config;
    bool due = r->step % ml_max(1, c->train.samples.every) == 0 || run_is_done(r);
    if (!is_on(r) || !due) return ML_OK;
    st = r->options->sampler->make(r->options->sampler->self, r->session.grid, r->session.model,
                                   r->step, &lines);
    st = ml_session_check_base(&r->session, st);
    st = ml_grid_agree(r->session.grid, st == ML_OK ? append(r, &lines) : st);
    ml_text_destroy(&lines);
    return st;
}
