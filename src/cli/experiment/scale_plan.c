/* What plan says of an experiment: bytes between stages, and with a machine file its time. */
#include <math.h>

#include "cli/experiment/scale.h"

ml_status scale_predict(const scale_options *o, scale_experiment *e)
{
    ml_plan plan;
    ml_run_config c = *o->config; /* borrows all of it */
    e->planned = (scale_plan){NAN, NAN};
    if (!ml_method_find(e->method, &c.method.name)) return ML_OK;
    c.parallel.tp = e->tp;
    c.parallel.cp = e->cp;
    c.parallel.pp = e->pp;
    c.batch.sequences = e->sequences;
    c.data.valid = NULL;
    ml_status st = ml_plan_create_on(&plan, &c, (int)e->ranks, (int)ml_min(o->nodes, e->ranks),
                                     o->machine, (int)e->threads, NULL);
    if (st == ML_USAGE || st == ML_INPUT) {
        ml_error_clear();
        return ML_OK;
    }
    if (st != ML_OK) return st;
    const ml_plan_method *m = &plan.method[c.method.name == ML_METHOD_FULL];
    e->planned.piped_bytes = (double)m->piped_bytes_per_step;
    if (o->machine) e->planned.step_s = m->time.step_s;
    return ML_OK;
}
