/* Around the passes of a step: gradients from zero, their sum over the grid, AdamW. */
#include "train/run.h"

void clear_gradients(session *s, step_result *out)
{
    double since = busy_seconds(s);
    memset(s->parameters.gradient, 0, (size_t)s->parameters.local * sizeof *s->parameters.gradient);
    out->phase[ML_PHASE_OPTIMIZER] += busy_seconds(s) - since;
}

void reduce_gradients(session *s, step_result *out)
{
    double since = busy_seconds(s);
    if (s->peft) ml_peft_before_sum(s->peft);
    out->reduction = ml_parameters_reduce(&s->parameters, s->grid);
    out->grad_norm = ml_parameters_gradient_norm(&s->parameters, s->grid, s->kernels);
    out->phase[ML_PHASE_OPTIMIZER] += busy_seconds(s) - since;
}

void update_parameters(session *s, int64_t done, step_result *out)
{
    const ml_run_config *c = s->config;
    ml_parameters *p = &s->parameters;
    double since = busy_seconds(s);
    out->lr =
        c->optim.lr * ml_schedule_factor(c->optim.schedule, done, c->optim.warmup, c->train.steps);
    const ml_adamw step = {.lr = out->lr,
                           .beta1 = c->optim.beta1,
                           .beta2 = c->optim.beta2,
                           .eps = c->optim.eps,
                           .decay = c->optim.weight_decay,
                           .grad_scale = ml_clip_factor(c->optim.clip_norm, out->grad_norm),
                           .t = done + 1};
    ml_parameters_update(p, s->grid, s->kernels, &step);
    if (s->peft) ml_peft_after_update(s->peft);
    out->phase[ML_PHASE_OPTIMIZER] += busy_seconds(s) - since;
}
