/* Checkpoints of a run: begun after a step, waited for when the ranks hear that they are
 * written. store/checkpoint/save.c has the states that one goes through. */
#include <math.h>

#include "train/run.h"

static ml_status sync_metrics(void *of) { return metrics_sync(of); }

bool save_has_ended(const run *r) { return r->directory && ml_checkpoint_has_ended(r->directory); }

bool save_time_has_come(const run *r)
{
    double every = r->config->train.save_every.seconds;
    return every > 0.0 && ml_grid_rank(r->session.grid) == 0 &&
           ml_seconds() - r->save_time >= every;
}

/* Waits for what was begun; its line in saves.jsonl is part of what the next checkpoint makes
 * durable. */
ml_status save_wait(run *r)
{
    ml_checkpoint_report report;
    ml_status st = ml_checkpoint_wait(r->directory, r->session.grid, &report);
    if (st != ML_OK || report.bytes == 0) return st;
    r->checkpoint_bytes = report.bytes;
    r->deadline.save = fmax(r->deadline.save, report.seconds);
    if (report.again) return ML_OK;
    r->saves++;
    r->save_seconds += report.seconds;
    r->save_waited += report.waited;
    return ml_grid_agree(r->session.grid, metrics_save(r, &report));
}

static void describe_progress(run *r, bool finished)
{
    const session *s = &r->session;
    ml_checkpoint_progress *p = &r->progress;
    p->step = r->step;
    p->cursor = r->step * r->config->batch.sequences;
    p->tokens = r->tokens;
    p->loss_first = r->loss_first;
    p->loss_last = r->loss_last;
    p->finished = finished;
    snprintf(p->backend, sizeof p->backend, "%s", s->kernels->backend);
    snprintf(p->vector_path, sizeof p->vector_path, "%s", s->kernels->vector_path);
}

static ml_status begin(run *r, bool finished, bool beside)
{
    ml_text yaml = {0};
    const session *s = &r->session;
    ml_status st = check_state(r);
    if (st != ML_OK) return st;
    r->save_time = ml_seconds();
    r->best_is_new = false;
    describe_progress(r, finished);
    st = ml_grid_agree(s->grid, write_configuration(r, &yaml));
    if (st == ML_OK) {
        const ml_checkpoint_state state = {
            .progress = r->progress,
            .full = r->config->method.name == ML_METHOD_FULL,
            .configuration = yaml.data,
            .identities = r->identities,
            .identity = r->identity,
            .changes = &r->changes,
            .before_commit = sync_metrics,
            .before_commit_of = r,
            .keep_step = r->config->train.keep_best ? r->progress.best_step : 0};
        st = ml_checkpoint_begin(r->directory, s->grid, &s->parameters, &state,
                                 r->config->train.keep, beside);
    }
    if (st == ML_OK) r->saved_step = r->step;
    ml_text_destroy(&yaml);
    return st;
}

/* Full fine-tuning's state is as large as what the ranks hold anyway: no image of it could wait in
 * memory until a thread has written it, so it is written at once, and so is a state whose step is
 * committed already, of which only the manifest is written. */
ml_status save_beside(run *r)
{
    ml_status st = ML_OK;
    double since = ml_seconds();
    ML_TRY(save_wait(r));
    ML_TRY(begin(r, false, true));
    if (r->config->method.name == ML_METHOD_FULL) ML_TRY(save_wait(r));
done:
    r->save_wait += ml_seconds() - since;
    return st;
}

/* Where the run ends or stops there is nothing to go on with beside the save, and it may end only
 * when the checkpoint is there. */
ml_status save_now(run *r, bool finished)
{
    ml_status st = ML_OK;
    ML_TRY(save_wait(r));
    ML_TRY(begin(r, finished, false));
    ML_TRY(save_wait(r));
done:
    return st;
}
