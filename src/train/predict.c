/* Memory that this rank is about to account for. */
#include "train/run.h"

void predict_memory(run *r)
{
    const session *s = &r->session;
    const ml_plan_shape shape = session_plan_shape(s);
    ml_plan_rank(s->model, s->peft, &s->parameters, &shape, r->predicted);
    bool full = r->config->method.name == ML_METHOD_FULL;
    if (ml_grid_rank(s->grid) >= ml_checkpoint_writers(&s->parameters, full, ml_grid_tp(s->grid)))
        r->predicted[ML_MEM_OTHER] -= ml_plan_writer_bytes(s->model, &s->parameters, &shape);
    r->predicted[ML_MEM_OTHER] +=
        ml_memory_current(ML_MEM_OTHER); /* data sets, structures: there already */
}
