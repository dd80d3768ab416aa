/* A step as the rank with the most sequences sees it: the passes over its micro-batches, the sums
 * over ranks, the messages between stages, the optimizer. */
#include "plan/step.h"

#include <math.h>

#include "mpilora/stages.h"
#include "plan/passes.h"

static double least(double a, double b) { return a < b ? a : b; }

/* Seconds of this rank: computing, or reading and writing master, gradient and both moments, of
 * which all ranks of a node do their part. */
static double optimizer(const tally *t, double trained, double cores, double on_node)
{
    enum { BYTES = 38 };
    return fmax(elements(t, ML_ELEMENT_OPTIMIZER, trained) / cores,
                BYTES * trained * on_node / t->step->machine->memory_rate);
}

static ml_sum_group group_of(const plan_step *s, double members, double stride)
{
    double on_node = ceil((double)s->ranks / s->nodes),
           inside = least(members, fmax(1.0, floor(on_node / stride)));
    double crowd = on_node * s->threads / (double)s->machine->cores;
    return (ml_sum_group){members, ceil(members / inside), on_node / inside, fmax(1.0, crowd)};
}

static double gradient_sums(const plan_step *s, const ml_parameters *p, double tp)
{
    enum { SMALL_SUMS = 6 }; /* agreements, losses, norms */
    double ranks = (double)s->ranks / (double)s->config->parallel.pp;
    const ml_sum_group world = group_of(s, s->ranks, 1.0), stage = group_of(s, ranks, 1.0),
                       dp = group_of(s, ranks / tp, tp), ends = group_of(s, 2.0, s->ranks - ranks);
    const ml_sum_group head = group_of(s, p->copies * ranks / tp, 1.0);
    double calls[2] = {0.0, 0.0}, /* for each stretch, of what no other rank of tp holds, or does */
        replicated = 4.0 * (double)p->replicated, copied = 4.0 * (double)p->copied,
           own = 4.0 * (double)(p->local - p->replicated) - copied;
    for (ml_stretch r = {0}; ml_parameters_next_stretch(p, &r);) calls[r.copied]++;
    return ml_sum_seconds(s->machine, &world, SMALL_SUMS, 0.0) +
           ml_sum_seconds(s->machine, &stage, replicated > 0.0 ? 1.0 : 0.0, replicated) +
           (p->repeated > 0 ? ml_sum_seconds(s->machine, &ends, 1.0, 4.0 * (double)p->repeated)
                            : 0.0) +
           ml_sum_seconds(s->machine, &dp, calls[0], own) +
           ml_sum_seconds(s->machine, &head, calls[1], copied);
}

/* What of a micro-batch a stage waits for until its neighbours' messages are here: the stream from
 * the one before, its gradient from the one behind. */
static double messages(const tally *t, const micro *b)
{
    const plan_step *s = t->step;
    int64_t first, end;
    ml_model_stage_layers(t->model, &first, &end);
    double count = (first > 0 ? 1.0 : 0.0) + (end < t->spec->layers ? 1.0 : 0.0);
    if (count == 0.0) return 0.0;
    const ml_sum_group pair = group_of(s, 2.0, (double)s->ranks / (double)s->config->parallel.pp);
    return ml_sum_seconds(s->machine, &pair, count,
                          count * b->tokens * (double)t->spec->width * (double)sizeof(float));
}

void plan_time_add_bubble(ml_plan_time *time, double waits_s)
{
    double step = time->step_s + waits_s;
    time->bubble_s = waits_s;
    time->tokens_per_s *= time->step_s / step;
    time->step_s = step;
}

/* Passes of micro-batches: seconds of computing, of sums over tp and of messages. */
typedef struct passes {
    double forward, backward, sums;
} passes;

static passes passes_of(const tally *empty, ml_model *model, ml_activation_mode mode, int64_t size,
                        double cores)
{
    const plan_step *s = empty->step;
    double tp = (double)s->config->parallel.tp, cp = (double)s->config->parallel.cp;
    const ml_sum_group over_tp = group_of(s, tp, 1.0), over_cp = group_of(s, cp, tp);
    double n = (double)(size * s->unit) / cp;
    const micro b = {.tokens = n * s->sequence.tokens,
                     .rows = n * s->sequence.rows,
                     .pairs = n * s->sequence.pairs,
                     .near_pairs = n * s->sequence.near_pairs};
    tally t = *empty;
    micro_batch(&t, model, &b, mode);
    double over = ml_sum_seconds(s->machine, &over_tp, t.tp_calls, t.tp_bytes) +
                  ml_sum_seconds(s->machine, &over_cp, t.cp_calls, t.cp_bytes);
    return (passes){t.forward / cores, t.backward / cores, over + messages(&t, &b)};
}

static void add_passes(passes *sum, const passes *p, int64_t times)
{
    sum->forward += (double)times * p->forward;
    sum->backward += (double)times * p->backward;
    sum->sums += (double)times * p->sums;
}

/* Of what the objective knows of a whole step before its gradients: a pass without them, and
 * vectors from all replicas; where each has one micro-batch and one stage, vectors need no pass of
 * their own. */
static void look_ahead(const plan_step *s, double width, bool several, passes *sum)
{
    const ml_run_config *c = s->config;
    double tp = (double)c->parallel.tp, ranks = (double)s->ranks / (double)c->parallel.pp;
    const ml_sum_group dp = group_of(s, ranks / tp, tp);
    bool contrasts = ml_run_config_contrasts(c);
    if (contrasts ? several : ml_run_config_looks_ahead(c)) {
        double part = sum->backward > 0.0 ? 0.5 : 1.0; /* of the sums over tp */
        sum->forward *= 2.0;
        sum->sums += part * sum->sums;
    }
    if (contrasts)
        sum->sums += ml_sum_seconds(s->machine, &dp, 1.0,
                                    4.0 * (double)(c->batch.sequences * s->unit) * width);
}

static bool has_apart(ml_model *model)
{
    for (int64_t i = 0; i < ml_model_slots(model); i++)
        if (ml_model_slot_at(model, i)->apart) return true;
    return false;
}

ml_plan_time plan_time(const plan_step *s, ml_model *model, const ml_parameters *p,
                       ml_method method, ml_activation_mode mode, double pass[2])
{
    const ml_run_config *c = s->config;
    const tally empty = {.step = s,
                         .spec = ml_model_get_spec(model),
                         .model = model,
                         .method = method,
                         .full = method == ML_METHOD_FULL,
                         .apart = has_apart(model),
                         .dtype = c->precision};
    double tp = (double)c->parallel.tp, on_node = ceil((double)s->ranks / s->nodes);
    double cores = least(s->threads, (double)s->machine->cores / on_node);
    int64_t dp = s->ranks / c->parallel.tp / c->parallel.cp / c->parallel.pp,
            most = ml_part_count(c->batch.sequences, dp, 0), size = ml_run_config_micro(c, (int)dp);
    const passes whole = passes_of(&empty, model, mode, size, cores);
    passes sum = {0.0, 0.0, 0.0};
    add_passes(&sum, &whole, most / size);
    if (most % size > 0) {
        const passes rest = passes_of(&empty, model, mode, most % size, cores);
        add_passes(&sum, &rest, 1);
    }
    look_ahead(s, (double)empty.spec->width, most > size || c->parallel.pp > 1, &sum);
    double back = whole.backward > 0.0 ? 0.5 : 0.0; /* as many sums backward as forward */
    pass[0] = whole.forward + (1.0 - back) * whole.sums;
    pass[1] = whole.backward + back * whole.sums;
    double tokens = (double)(c->batch.sequences * s->unit) * s->sequence.tokens;
    ml_plan_time out = {
        .forward_s = sum.forward,
        .backward_s = sum.backward,
        .comm_s = sum.sums + gradient_sums(s, p, tp),
        .optimizer_s = optimizer(&empty, (double)p->held, cores, on_node),
        .data_s = elements(&empty, ML_ELEMENT_DATA, (double)(most * s->unit) * s->sequence.tokens)};
    out.step_s = out.forward_s + out.backward_s + out.comm_s + out.optimizer_s + out.data_s;
    out.tokens_per_s = tokens / out.step_s;
    return out;
}
