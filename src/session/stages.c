/* One stage of a pipeline in a session: which part of it a rank has. */
#include "session/pipeline.h"
#include "session/pipeline_order.h"

int64_t ml_stages_in_flight(const ml_run_config *c, int dp, int pp, int stage)
{
    int64_t most = ml_part_count(c->batch.sequences, dp, 0), micro = ml_run_config_micro(c, dp);
    return ml_pipeline_order(pp, stage, (most + micro - 1) / micro, true).ahead;
}

/* What compacter's rules get from one layer is a part of their sum by itself. */
ml_status ml_stages_check_common(const ml_run_config *c, const ml_parameters *p)
{
    bool in_parts = c->method.name == ML_METHOD_COMPACTER;
    if (!ml_run_config_is_exact(c) || p->repeated == 0 || in_parts) return ML_OK;
    return ml_run_config_refuse(
        c, "parallel.pp",
        "numerics is grid, but stages have a trained tensor in common (a tied embedding), whose "
        "gradient one stage sums in another order; take pp 1, or numerics to fast");
}

int64_t ml_stages_buffers(int64_t tokens, int64_t width, int pp, int stage)
{
    return tokens * width * ((stage < pp - 1 ? 1 : 0) + (stage > 0 ? 1 : 0));
}
