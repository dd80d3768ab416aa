/* A step of several runs that train together: their micro-batches share passes, the rest of a step
 * is each run's own. */
#include "train/passes.h"

/* A member's part of the step of its run on this rank. */
typedef struct share {
    batch_share of;
    passes p;
} share;

/* Passes over what all members have; `ahead`: what an objective has to know of the whole batch
 * before. */
typedef struct shared_passes {
    const step_group *g;
    share *shares;
    bool ahead;
} shared_passes;

/* The i-th micro-batch of every run that has as many. */
static void choose_parts(void *of, int64_t i, ml_together_part *part)
{
    const shared_passes *s = of;
    const step_group *g = s->g;
    for (int64_t k = 0; k < g->members; k++) part[k] = (ml_together_part){0};
    for (int64_t k = 0; k < g->count; k++) {
        const ml_run_config *c = g->run[k]->config;
        share *own = &s->shares[k];
        int64_t at = own->of.at + i * c->batch.micro;
        bool by_rows = ml_run_config_has_figures(c) && c->objective.name != ML_OBJECTIVE_TOKENS;
        part[g->member[k]] =
            (ml_together_part){.first = at,
                               .count = ml_max(0, ml_min(c->batch.micro, own->of.end - at)),
                               .targets = by_rows ? c->batch.sequences : own->p.targets,
                               .tokens = own->p.chosen,
                               .keyed = passes_are_keyed(c),
                               .losses = &own->p.losses,
                               .compared = own->p.compared};
    }
}

static void take_parts(void *of, const ml_together_part *part)
{
    const shared_passes *s = of;
    for (int64_t k = 0; k < s->g->count; k++) {
        s->shares[k].p.loss_sum += part[s->g->member[k]].loss;
        s->shares[k].p.computed += part[s->g->member[k]].computed;
    }
}

/* As many as the run of this rank with the most has; on any rank: passes_rounds. */
static int64_t count_passes(const shared_passes *s)
{
    int64_t most = 0;
    for (int64_t k = 0; k < s->g->count; k++) {
        const ml_run_config *c = s->g->run[k]->config;
        const share *own = &s->shares[k];
        if (s->ahead && !ml_run_config_looks_ahead(c)) continue;
        most = ml_max(most, (own->of.end - own->of.at + c->batch.micro - 1) / c->batch.micro);
    }
    return most;
}

/* Until no run on any replica has a micro-batch left. */
static ml_status share_passes(const step_group *g, share *shares, bool ahead, step_result *out)
{
    ml_status st = ML_OK;
    shared_passes all = {g, shares, ahead};
    ml_together_part *part = NULL;
    int64_t rounds = 0, look_every = g->run[0]->look_every;
    for (int64_t i = 0; i < g->count; i++) rounds = ml_max(rounds, passes_rounds(g->run[i]));
    ML_NEW(part, g->members, ML_MEM_OTHER, "a step of several runs");
    ml_together_passes passes = {&all, 0, ahead, part, choose_parts, take_parts};
    if (ml_grid_pp(g->run[0]->session.grid) > 1) {
        passes.count = count_passes(&all);
        st = ml_together_staged(g->together, &passes);
        goto done;
    }
    for (int64_t round = 0; round < rounds; round++) {
        if (round > 0 && round % look_every == 0 && passes_are_left(g->run[0], st, out)) break;
        if (st == ML_OK) st = ml_together_pass(g->together, &passes, round);
    }
done:
    ml_memory_free(part);
    return st;
}

/* As passes_look_ahead of a run by itself. Collective. */
static ml_status look_ahead_together(const step_group *g, share *shares, step_result *out)
{
    ml_status st = ML_OK;
    bool any = false;
    for (int64_t i = 0; i < g->count; i++) {
        const run *r = g->run[i];
        session *s = &g->run[i]->session;
        if (!ml_run_config_looks_ahead(r->config)) continue;
        any = true;
        int64_t sequences = r->config->batch.sequences;
        ML_TRY(ml_grid_agree(s->grid, ml_session_begin_ahead(s, r->step * sequences, sequences)));
    }
    if (!any) return ML_OK;
    ML_TRY(ml_grid_agree(g->run[0]->session.grid, share_passes(g, shares, true, out)));
    for (int64_t i = 0; i < g->count && !out->given_up; i++) {
        session *s = &g->run[i]->session;
        if (ml_run_config_looks_ahead(s->config)) ml_session_end_ahead(s, &s->train);
    }
done:
    return st;
}

ml_status run_steps_together(const step_group *g, step_result *out, ml_text *failed)
{
    ml_status st = ML_OK;
    share *shares = NULL;
    const session *s = &g->run[0]->session;
    step_clock clock = step_clock_start(s);
    ML_NEW(shares, g->count, ML_MEM_OTHER, "a step of several runs");
    for (int64_t i = 0; i < g->count; i++) {
        run *r = g->run[i];
        out[i] = (step_result){0};
        ml_text_destroy(&failed[i]);
        shares[i] = (share){.of = passes_share(r, r->step * r->config->batch.sequences)};
        passes_count(r, r->step * r->config->batch.sequences, &shares[i].p, &out[i]);
        clear_gradients(&r->session, &out[i]);
        ML_TRY(passes_count_masked(r, r->step * r->config->batch.sequences, &shares[i].p, &out[i]));
    }
    ML_TRY(look_ahead_together(g, shares, &out[0]));
    if (!out[0].given_up) ML_TRY(ml_grid_agree(s->grid, share_passes(g, shares, false, &out[0])));
    for (int64_t i = 0; i < g->count; i++) {
        out[i].given_up = out[0].given_up;
        if (out[0].given_up) continue;
        st =
            reject_checkpoint(g->run[i], step_end(g->run[i], &shares[i].p, ML_OK, &clock, &out[i]));
        if (st == ML_NUMERIC) /* the text of another run's failure would take its place */
            st = ml_grid_agree(s->grid, ml_text_printf(&failed[i], "%s", ml_error_text()));
        if (st != ML_OK) goto done;
    }
done:
    ml_memory_free(shares);
    return st;
}
