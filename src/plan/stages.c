/* A method on the stages of a job's pipeline: described as training describes it, with nothing
 * allocated for it, in several sizes of micro-batches and every activation mode. The first rank of
 * a stage stands for all of it: none holds more. */
#include "plan/stages.h"

#include <math.h>
#include <omp.h>

#include "mpilora/checkpoint.h"
#include "peft/exchange.h"
#include "plan/ranks.h"
#include "session/pipeline.h"
#include "session/pipeline_order.h"
#include "session/together.h"

/* ---- a method on one stage ----------------------------------------------------------------- */

static ml_session_shape shape_of(const ml_plan *plan, const plan_source *s, const ml_run_config *c,
                                 const ml_model_spec *spec, int64_t more, int stage)
{
    int64_t unit = ml_session_unit_of(c, s->data[0]);
    return (ml_session_shape){s->tokens + c->batch.micro * unit * more,
                              c->batch.micro * unit,
                              s->max_len + more,
                              spec,
                              c->backend,
                              c->vector_path,
                              omp_get_max_threads(),
                              (int)c->parallel.tp,
                              0,
                              (int)c->parallel.pp,
                              stage,
                              (int)ml_part_count(plan->ranks, plan->nodes, 0),
                              ml_run_config_contrasts(c) ? c->batch.sequences : 0,
                              unit,
                              plan->cp,
                              ml_shares_unit(c),
                              plan->dp * plan->cp};
}

static ml_status attach(const ml_plan *plan, ml_peft **peft, ml_model *model,
                        ml_parameters *parameters, const ml_run_config *c, ml_method method)
{
    ml_status st = ml_peft_attach_configured(peft, model, parameters, c, method);
    if (st != ML_OK) return st;
    ml_peft_place(model, parameters);
    ml_parameters_lay_out(parameters);
    if (method == c->method.name) st = ml_stages_check_common(c, parameters);
    if (st != ML_OK) return st; /* another method stands beside it, whatever can be run */
    if (ml_run_config_is_exact(c)) ml_parameters_sum_exactly(parameters);
    if (c->memory.shard_optimizer)
        ml_parameters_divide_moments(parameters, plan->dp * plan->cp, 0, 0);
    return ML_OK;
}

static void add_trained(ml_plan_method *m, const ml_parameters *parameters)
{
    m->params_trainable += parameters->global;
    m->checkpoint_bytes += ml_checkpoint_bytes(parameters->global);
    m->allreduce_bytes_per_step += ml_gradient_bytes(parameters->exact) * parameters->global;
    m->adapter_bytes_16bit += 2 * parameters->global;
}

/* The runs of a job but the first: what is trained goes to `m`, their bytes to `bytes`, tokens of
 * a micro-batch to *tokens. */
static ml_status add_guests(const ml_plan *plan, ml_plan_method *m, const plan_job *j,
                            ml_model *model, ml_exchange *exchange, int stage,
                            int64_t bytes[ML_MEM_CATEGORIES], int64_t *tokens)
{
    ml_status st = ML_OK;
    int64_t sequences =
        j->config[0].batch.micro * ml_session_unit_of(&j->config[0], j->source[0].data[0]);
    for (int64_t i = 1; i < j->count && st == ML_OK; i++) {
        const ml_run_config *c = &j->config[i];
        const ml_session_shape shape =
            shape_of(plan, &j->source[i], c, ml_model_get_spec(model), 0, stage);
        ml_peft *peft = NULL;
        ml_parameters parameters = {0};
        st = attach(plan, &peft, model, &parameters, c, c->method.name);
        if (st == ML_OK) {
            ml_exchange_admit(exchange, i);
            if (stage == 0) add_trained(m, &parameters);
            ml_together_guest_bytes(peft, &parameters, &shape, stage == 0, bytes);
            *tokens += shape.tokens;
            sequences += shape.sequences;
        }
        ml_peft_destroy(peft); /* its hooks are only counted from here on */
        ml_parameters_destroy(&parameters);
    }
    bytes[ML_MEM_OTHER] += ml_together_pass_bytes(*tokens, sequences, &j->source[0].spec);
    return st;
}

/* A method on one stage's first rank. */
typedef struct described {
    ml_model_spec spec;
    ml_model *model;
    ml_peft *peft;
    ml_exchange *exchange;
    ml_parameters parameters;
    ml_session_shape shape;
    int64_t beside[ML_MEM_CATEGORIES]; /* of a job's other runs */
    bool gives;                        /* a gradient goes to the stage before */
} described;

static void forget(described *d)
{
    ml_exchange_destroy(d->exchange);
    ml_peft_destroy(d->peft);
    ml_parameters_destroy(&d->parameters);
    ml_model_destroy(d->model);
    *d = (described){0};
}

/* Whether something trains before this stage. Nothing is bound here, so that the model does not
 * see yet which tensors of the base do. */
static bool gives_gradient(described *d)
{
    int first, also;
    if (d->shape.stage == 0) return false;
    for (int64_t i = 0; i < ml_model_slots(d->model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(d->model, i);
        if (!slot->apart) continue;
        ml_model_stages_of(d->model, slot->name, &first, &also);
        if (first < d->shape.stage) return true;
    }
    return ml_model_stage_gives_gradient(d->model);
}

/* Micro-batches of the run that has the most of them. */
static int64_t most_in_flight(const ml_plan *plan, const plan_job *j, int stage)
{
    int64_t most = 1;
    for (int64_t i = 0; i < j->count; i++)
        most = ml_max(most, ml_stages_in_flight(&j->config[i], plan->dp, plan->pp, stage));
    return most;
}

/* The first stage says what is trained. */
static ml_status describe(const ml_plan *plan, ml_plan_method *out, ml_method method,
                          const plan_job *j, int stage, described *d)
{
    ml_status st = ML_OK;
    const plan_source *s = &j->source[0];
    const ml_run_config *c = &j->config[0];
    d->spec = ml_peft_model_spec(&s->spec, method, &c->method.sizes);
    ml_peft_untie(&d->spec, method, &c->method.modules_to_save);
    ML_TRY(ml_session_choose_head(c, s->data[0], &d->spec));
    d->shape = shape_of(plan, s, c, &d->spec, plan_virtual_tokens(c, method), stage);
    ML_TRY(ml_model_create(&d->model, &d->spec, NULL, plan->tp, 0, c->precision));
    if (ml_run_config_is_exact(c)) {
        ml_model_cut_pieces(d->model);
        ML_TRY(ml_model_sum_leaves(d->model));
    }
    ml_model_share_tokens(d->model, NULL, plan->cp, d->shape.tokens);
    if (plan->pp > 1)
        ML_TRY(
            ml_model_hold_stage(d->model, NULL, plan->pp, stage, most_in_flight(plan, j, stage)));
    if (j->count > 1) ML_TRY(ml_exchange_create(&d->exchange, d->model, j->count));
    ML_TRY(attach(plan, &d->peft, d->model, &d->parameters, c, method));
    d->gives = gives_gradient(d);
    if (stage == 0) add_trained(out, &d->parameters);
    if (d->exchange) {
        ml_exchange_admit(d->exchange, 0);
        ML_TRY(add_guests(plan, out, j, d->model, d->exchange, stage, d->beside, &d->shape.tokens));
        ml_exchange_install(d->exchange);
        ML_TRY(ml_exchange_check(d->exchange));
    }
done:
    return st;
}

/* ---- its sizes ----------------------------------------------------------------------------- */

/* Micro-batches of one size on all stages. */
typedef struct sizing {
    plan_micro *out;
    ml_run_config config; /* borrows all of it */
    int64_t tokens;       /* of the largest micro-batch */
    plan_node_walk nodes[ML_ACTIVATION_MODES];
    double *pass[ML_ACTIVATION_MODES][2]; /* [pp]: seconds of a micro-batch, forward and backward */
} sizing;

enum { PASSES = 2 * ML_ACTIVATION_MODES };

static plan_common find_common(const ml_plan *plan, const ml_model *model, const ml_peft *peft,
                               const ml_parameters *parameters, const ml_run_config *c,
                               const ml_session_shape *shape)
{
    bool full = ml_model_weight_bytes(model) == 0;
    int64_t on_node = ml_min(ml_part_count(plan->ranks, plan->nodes, 0), plan->ranks / plan->pp);
    int writers = ml_checkpoint_writers(parameters, full, plan->tp * plan->pp);
    if (writers == 1 && shape->stage > 0) writers = 0; /* world rank 0 alone */
    return (plan_common){!full && on_node > plan->tp && c->memory.share_frozen != ML_SHARE_OFF &&
                             !(ml_run_config_is_pissa(c) && !ml_model_get_spec(model)->formats),
                         (int)ml_min(writers, plan->tp),
                         ml_session_writer_bytes(model, peft, parameters, shape)};
}

/* Another size than the one that the stage was described with. */
static void resize(const ml_plan *plan, const plan_source *s, const sizing *z, ml_method method,
                   described *d)
{
    const ml_run_config *c = &z->config;
    int stage = d->shape.stage;
    d->shape = shape_of(plan, s, c, &d->spec, plan_virtual_tokens(c, method), stage);
    ml_model_share_tokens(d->model, NULL, plan->cp, d->shape.tokens);
    ml_model_keep_in_flight(d->model, ml_stages_in_flight(c, plan->dp, plan->pp, stage));
}

/* What the ranks of a stage hold in one mode, and what a step takes them. */
static ml_status size_up(const ml_plan *plan, const plan_source *s, sizing *z, ml_method method,
                         ml_activation_mode mode, described *d)
{
    const ml_run_config *c = &z->config;
    ml_plan_method *out = &z->out->mode[mode];
    int64_t bytes[ML_MEM_CATEGORIES] = {0};
    int stage = d->shape.stage;
    ml_model_set_activations(d->model, mode, 0);
    ml_session_bytes(d->model, d->peft, &d->parameters, &d->shape, bytes);
    for (int i = 0; i < ML_MEM_CATEGORIES; i++) bytes[i] += d->beside[i];
    bytes[ML_MEM_OTHER] +=
        ml_memory_current(ML_MEM_OTHER); /* data sets and structures, which a run has as well */
    const plan_common together = find_common(plan, d->model, d->peft, &d->parameters, c, &d->shape);
    out->activations = mode;
    if (s->machine) {
        double pass[2];
        const plan_step step = {s->machine,
                                c,
                                plan->ranks,
                                plan->nodes,
                                plan->threads,
                                s->mean,
                                ml_session_unit_of(c, s->data[0])};
        const ml_plan_time own = plan_time(&step, d->model, &d->parameters, method, mode, pass);
        for (int back = 0; back < 2; back++) z->pass[mode][back][stage] = pass[back];
        if (own.step_s > out->time.step_s) out->time = own;
    }
    return plan_ranks_add(out, plan, &z->nodes[mode], stage, bytes, &together);
}

/* What MPI takes in a process that was launched with others, beside what it takes in this one:
 * measured with Open MPI 4.1.4, in shared memory. */
static int64_t launched_bytes(const ml_plan *plan)
{
    static const int64_t measured = 3900000;
    return plan->ranks > 1 ? measured : 0;
}

static ml_status size_up_stage(const ml_plan *plan, const plan_source *s, sizing *z,
                               ml_method method, described *d)
{
    ml_status st = ML_OK;
    int64_t guests = launched_bytes(plan), need[ML_ACTIVATION_MODES];
    for (int i = 0; i < ML_MEM_CATEGORIES; i++) guests += d->beside[i];
    ml_session_needs(d->model, d->peft, &d->parameters, &d->shape, need);
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) {
        for (int of = 0; of < ML_ACTIVATION_MODES; of++)
            z->out->mode[mode].need[of] = ml_max(z->out->mode[mode].need[of], need[of] + guests);
        ML_TRY(size_up(plan, s, z, method, (ml_activation_mode)mode, d));
    }
done:
    return st;
}

/* Every size starts from nothing. */
static ml_status begin_sizing(const ml_plan *plan, const plan_job *j, plan_micro *micro,
                              double *pass, sizing *z)
{
    plan_source *s = &j->source[0];
    *z = (sizing){.out = micro, .config = j->config[0]};
    z->config.batch.micro = micro->micro;
    for (int i = 0; i < PASSES; i++) z->pass[i / 2][i % 2] = pass + (int64_t)i * plan->pp;
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) micro->mode[mode] = (ml_plan_method){0};
    ml_status st = plan_source_find_tokens(s, &z->config, plan->dp);
    z->tokens = s->tokens;
    return st;
}

/* ---- all stages ---------------------------------------------------------------------------- */

/* A stage waits for what all do together beyond what it does itself. */
static ml_status add_bubble(const ml_plan *plan, const sizing *z, ml_activation_mode mode)
{
    const ml_run_config *c = &z->config;
    ml_plan_time *time = &z->out->mode[mode].time;
    int64_t most = ml_part_count(c->batch.sequences, plan->dp, 0),
            micro = ml_run_config_micro(c, plan->dp), count = (most + micro - 1) / micro;
    const pipeline_lengths lengths = {plan->pp, count,
                                      (double)(most - (count - 1) * micro) / (double)micro,
                                      z->pass[mode][0], z->pass[mode][1]};
    double all, own = 0.0;
    ml_status st = ml_pipeline_seconds(&lengths, &all);
    for (int stage = 0; stage < plan->pp; stage++)
        own = fmax(own, lengths.forward[stage] + lengths.backward[stage]);
    if (st == ML_OK) plan_time_add_bubble(time, all - own * ((double)(count - 1) + lengths.last));
    return st;
}

/* What no size and no mode changes is in `common`. */
static ml_status end_sizing(const ml_plan *plan, const plan_source *s, sizing *z,
                            const ml_plan_method *common)
{
    ml_status st = ML_OK;
    for (int mode = 0; mode < ML_ACTIVATION_MODES && st == ML_OK; mode++) {
        ml_plan_method *out = &z->out->mode[mode];
        out->name = common->name;
        out->params_total = common->params_total;
        out->params_trainable = common->params_trainable;
        out->checkpoint_bytes = common->checkpoint_bytes;
        out->allreduce_bytes_per_step = common->allreduce_bytes_per_step;
        out->piped_bytes_per_step = common->piped_bytes_per_step;
        out->adapter_bytes_16bit = common->adapter_bytes_16bit;
        if (s->machine && plan->pp > 1) st = add_bubble(plan, z, (ml_activation_mode)mode);
    }
    return st;
}

/* Messages of a micro-batch from a stage: its stream, once more where the objective knows of the
 * whole step before its gradients, and the gradient. */
static int messages_of(const ml_plan *plan, const ml_run_config *c, int stage, bool gives)
{
    int forward = ml_run_config_looks_ahead(c) || ml_run_config_contrasts(c) ? 2 : 1;
    return (stage < plan->pp - 1 ? forward : 0) + (gives ? 1 : 0);
}

/* Rows of a sequence: its last token is no input where the next one is predicted, as after it comes
 * no target. */
static double rows_of(const plan_source *s, const ml_run_config *c)
{
    bool reads_all =
        ml_run_config_scores_labels(c) || ml_run_config_contrasts(c) || ml_run_config_masks(c);
    return s->mean.tokens - (reads_all ? 0.0 : 1.0);
}

/* What a rank of the stage sends in a step, of all runs. */
static int64_t piped_bytes(const ml_plan *plan, const plan_job *j, int stage, bool gives)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < j->count; i++) {
        const ml_run_config *c = &j->config[i];
        const plan_source *s = &j->source[i];
        int64_t sequences = ml_part_count(c->batch.sequences, plan->dp, 0) * ml_run_config_unit(c);
        bytes += messages_of(plan, c, stage, gives) *
                 (int64_t)llround(4.0 * (double)sequences * rows_of(s, c) * (double)s->spec.width /
                                  plan->cp);
    }
    return bytes;
}

/* Sequences and tokens of a micro-batch of each run, as they are on average. */
static ml_status find_means(const plan_job *j, ml_method method)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < j->count; i++) {
        const ml_run_config *c = &j->config[i];
        ml_pooling pooling;
        ML_TRY(plan_source_pooling(&j->source[i], c, &pooling));
        j->source[i].mean = plan_source_mean(
            &j->source[i], c, pooling, plan_virtual_tokens(c, i == 0 ? method : c->method.name));
    }
done:
    return st;
}

ml_status plan_stages(const ml_plan *plan, ml_method method, const plan_job *j, int64_t count,
                      plan_micro *micro)
{
    ml_status st = ML_OK;
    plan_source *s = &j->source[0];
    described d = {0};
    sizing *all = NULL;
    double *pass = NULL;
    ml_plan_method common = {.name = ml_method_name(method)};
    ML_TRY(find_means(j, method));
    ML_NEW(all, count, ML_MEM_OTHER, "a plan");
    ML_NEW(pass, count * PASSES * plan->pp, ML_MEM_OTHER, "a plan");
    for (int64_t k = 0; k < count; k++)
        ML_TRY(begin_sizing(plan, j, &micro[k], pass + k * PASSES * plan->pp, &all[k]));
    for (int stage = 0; stage < plan->pp; stage++) {
        forget(&d);
        s->tokens = all[0].tokens;
        ML_TRY(describe(plan, &common, method, j, stage, &d));
        common.piped_bytes_per_step =
            ml_max(common.piped_bytes_per_step, piped_bytes(plan, j, stage, d.gives));
        for (int64_t k = 0; k < count; k++) {
            s->tokens = all[k].tokens;
            if (k > 0) resize(plan, s, &all[k], method, &d);
            ML_TRY(size_up_stage(plan, s, &all[k], method, &d));
        }
    }
    common.params_total = ml_model_parameters_total(
        d.spec.head == ML_HEAD_LANGUAGE && !d.spec.masked ? &s->spec : &d.spec);
    for (int64_t k = 0; k < count; k++) ML_TRY(end_sizing(plan, s, &all[k], &common));
done:
    forget(&d);
    ml_memory_free(pass);
    ml_memory_free(all);
    return st;
}
