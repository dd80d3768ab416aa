/* Numbers that stop being numbers end a run with ML_NUMERIC, which names step and tensor, before
 * they reach a checkpoint or a file that is a result.
 *
 *   loss or gradient of step s + 1    found before its update (step.c): nothing was updated
 *   parameters and moments of step s  looked at before they are saved, written or gone on with
 *
 * A checkpoint of step s whose next loss is not finite would give this loss at every start: it is
 * set aside, so that the next start goes on from one before it. */
#include <inttypes.h>
#include <math.h>

#include "train/run.h"

static const char advice[] = "lower optim.lr (--allow-change optim.lr lets a resumed run do so), "
                             "set optim.clip_norm, or check the base";

typedef struct place {
    const char *kind, *name; /* name NULL: every number is finite */
} place;

/* For a text: which sign a NaN has says nothing. */
static double plain(double x) { return isnan(x) ? fabs(x) : x; }

/* The cause before its effects: parameters, then moments. Local. */
static place find_in_state(const session *s)
{
    const ml_parameters *p = &s->parameters;
    const struct {
        const char *kind;
        const float *buffer;
    } all[] = {
        {"parameter", p->value}, {"first moment of", p->moment1}, {"second moment of", p->moment2}};
    for (int i = 0; i < 3; i++) {
        const char *name =
            all[i].buffer ? ml_parameters_find_nonfinite(p, s->kernels, all[i].buffer) : NULL;
        if (name) return (place){all[i].kind, name};
    }
    return (place){NULL, NULL};
}

/* Weights, then the state, then gradients. Local. */
static place find_in_step(const session *s)
{
    place found = {"weight", ml_model_find_nonfinite(s->model)};
    if (!found.name) found = find_in_state(s);
    if (!found.name)
        found = (place){"gradient of", ml_parameters_find_nonfinite(&s->parameters, s->kernels,
                                                                    s->parameters.gradient)};
    return found;
}

ml_status explain_nonfinite(const run *r, const step_result *out)
{
    const session *s = &r->session;
    const place found = find_in_step(s);
    ml_status local =
        found.name ? ml_fail(ML_NUMERIC,
                             "step %" PRId64 ": loss %g, gradient norm %g; the first tensor that "
                             "is not finite: %s %s; nothing was updated: %s",
                             r->step + 1, plain(out->loss), plain(out->grad_norm), found.kind,
                             found.name, advice)
                   : ML_OK;
    ml_status st = ml_grid_agree(s->grid, local);
    if (st != ML_OK) return st;
    return ml_fail(ML_NUMERIC,
                   "step %" PRId64 ": loss %g, gradient norm %g, though every tensor is finite: an "
                   "activation overflows; %s",
                   r->step + 1, plain(out->loss), plain(out->grad_norm), advice);
}

ml_status check_state(const run *r)
{
    const session *s = &r->session;
    const place found = find_in_state(s);
    ml_status local = ML_OK;
    if (found.name)
        local = ml_fail(ML_NUMERIC,
                        "step %" PRId64
                        ": after its update a value is not finite: %s %s; nothing of this step is "
                        "saved or written: %s",
                        r->step, found.kind, found.name, advice);
    return ml_grid_agree(s->grid, local);
}

ml_status check_evaluation(const run *r)
{
    if (isfinite(r->valid_loss)) return ML_OK;
    ml_status st = check_state(r);
    if (st != ML_OK) return st;
    if (r->step == 0)
        return ml_fail(
            ML_NUMERIC, "the loss on data.valid is %g before the first step: check the base%s",
            plain(r->valid_loss),
            ml_run_config_first_adapter(r->config) ? " and the adapter of method.init" : "");
    return ml_fail(ML_NUMERIC,
                   "step %" PRId64 ": the loss on data.valid is %g after its update; %s", r->step,
                   plain(r->valid_loss), advice);
}

ml_status reject_checkpoint(run *r, ml_status failure)
{
    char reason[1024];
    if (failure != ML_NUMERIC || r->saved_step != r->step) return failure;
    snprintf(reason, sizeof reason, "%s", ml_error_text());
    ml_status st = save_wait(r);
    if (st == ML_OK) st = ml_checkpoint_reject(r->directory, r->session.grid, r->step);
    if (st != ML_OK) return ml_fail(failure, "%s", reason);
    return ml_fail(failure,
                   "%s; the checkpoint of step %" PRId64
                   " leads here again: it was set aside, and the next start goes on from an older "
                   "one, if there is any",
                   reason, r->step);
}
