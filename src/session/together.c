/* The members of a job, and what they have to have in common. */
#include <inttypes.h>

#include "mpilora/checkpoint.h"
#include "session/pipeline.h"
#include "session/together_private.h"

/* ---- making -------------------------------------------------------------------------------- */

static ml_status check(const ml_together *t)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < t->count && st == ML_OK; i++)
        for (int64_t j = 0; j <= i && st == ML_OK; j++)
            st = ml_run_config_check_together(t->member[j]->config, t->member[i]->config);
    return st;
}

/* The model's specification with the head that a member's objective needs. */
static ml_status find_head(const session *s, ml_model_spec *spec)
{
    *spec = *s->spec;
    ml_status st = ml_session_choose_head(s->config, s->train.dataset, spec);
    if (st != ML_OK || !spec->masked) return st;
    return ml_run_config_refuse(s->config, "objective.name",
                                "mlm needs a head for masked tokens, which %s does not bring, and "
                                "a new one cannot train where others share the model; train that "
                                "run alone",
                                ml_base_path(s->base));
}

/* Each member has a head of its own, but its passes go on behind those of all. */
static ml_status check_heads(const ml_together *t, const ml_model_spec *first)
{
    for (int64_t i = 1; i < t->count; i++) {
        const session *s = t->member[i];
        ml_model_spec spec;
        ml_status st = find_head(s, &spec);
        if (st != ML_OK) return st;
        if (spec.head == first->head && spec.labels == first->labels) continue;
        return ml_run_config_refuse(
            s->config, "objective.name",
            "%s needs a head for %" PRId64 " labels (%s), but %s of the first run for %" PRId64
            " (%s); the runs of a job have as many labels of the same kind: train this one alone",
            ml_objective_name(s->config->objective.name), spec.labels, ml_head_words[spec.head],
            ml_objective_name(t->member[0]->config->objective.name), first->labels,
            ml_head_words[first->head]);
    }
    return ML_OK;
}

/* Micro-batches of the member that has the most of them. */
static int64_t most_in_flight(const ml_together *t)
{
    const ml_grid *grid = t->member[0]->grid;
    int64_t most = 1;
    for (int64_t i = 0; i < t->count; i++)
        most = ml_max(most, ml_stages_in_flight(t->member[i]->config, ml_grid_dp(grid),
                                                ml_grid_pp(grid), ml_grid_stage(grid)));
    return most;
}

static ml_status create_model(const ml_together *t)
{
    session *host = t->member[0];
    ml_model_spec spec;
    ml_status st = find_head(host, &spec);
    if (st == ML_OK) st = check_heads(t, &spec);
    if (st != ML_OK) return st;
    return ml_session_create_model(host, &spec, most_in_flight(t));
}

static ml_status attach(ml_together *t, int64_t i)
{
    session *s = t->member[i];
    const ml_run_config *c = s->config;
    s->model = t->member[0]->model;
    ml_status st = ml_peft_attach_configured(&s->peft, s->model, &s->parameters, c, c->method.name);
    if (st != ML_OK) return st;
    ml_session_lay_out(s);
    ml_exchange_admit(t->exchange, i);
    return ml_stages_check_common(c, &s->parameters);
}

static ml_status attach_all(ml_together *t)
{
    ml_status st = ML_OK;
    ML_TRY(check(t));
    ML_TRY(create_model(t));
    ML_TRY(ml_exchange_create(&t->exchange, t->member[0]->model, t->count));
    for (int64_t i = 0; i < t->count; i++) ML_TRY(attach(t, i));
    ml_exchange_install(t->exchange);
    st = ml_exchange_check(t->exchange);
done:
    return st;
}

void ml_together_guest_bytes(const ml_peft *peft, const ml_parameters *parameters,
                             const ml_session_shape *shape, bool writer,
                             int64_t bytes[ML_MEM_CATEGORIES])
{
    ml_peft_bytes(peft, true, bytes);
    ml_parameters_bytes(parameters, true, bytes);
    bytes[ML_MEM_OTHER] +=
        ml_packer_bytes(shape->tokens, shape->sequences, shape->max_len, shape->spec) +
        ml_peft_start_bytes(peft);
    if (writer)
        bytes[ML_MEM_OTHER] += ml_run_directory_bytes() +
                               ml_checkpoint_memory(parameters, false, shape->tp * shape->pp, 0);
}

int64_t ml_together_pass_bytes(int64_t tokens, int64_t sequences, const ml_model_spec *spec)
{
    size_t type = spec->token_types > 0 ? sizeof(uint8_t) : 0;
    return tokens * (int64_t)(2 * sizeof(int32_t) + 2 * sizeof(float) + sizeof(double) + type) +
           4 * (tokens + 1) * (int64_t)sizeof(int64_t) +
           4 * (sequences + 1) * (int64_t)sizeof(int64_t);
}

/* Beside what the first session counts for itself. */
static void add_beside(const ml_together *t, int64_t bytes[ML_MEM_CATEGORIES])
{
    for (int64_t i = 1; i < t->count; i++) {
        const session *s = t->member[i];
        const ml_session_shape shape = ml_session_shape_of(s);
        ml_together_guest_bytes(s->peft, &s->parameters, &shape, ml_grid_rank(s->grid) == 0, bytes);
    }
    bytes[ML_MEM_OTHER] += ml_together_pass_bytes(t->tokens, t->sequences, t->member[0]->spec);
}

void ml_together_predict(const ml_together *t, const char *backend, const char *vector_path,
                         int64_t bytes[ML_MEM_CATEGORIES])
{
    ml_session_predict(t->member[0], backend, vector_path, bytes);
    add_beside(t, bytes);
}

ml_status ml_together_create(ml_together **out, int64_t count, session *const *member)
{
    ml_status st = ML_OK;
    ml_together *t = NULL;
    session *host = member[0];
    int64_t bytes[ML_MEM_CATEGORIES] = {0}, more = 0;
    ML_NEW(t, 1, ML_MEM_OTHER, "runs together");
    *t = (ml_together){.count = count, .member = member};
    ML_NEW(t->joined, count, ML_MEM_OTHER, "runs together");
    ML_NEW(t->parts, count, ML_MEM_OTHER, "runs together");
    for (int64_t i = 0; i < count; i++) {
        t->tokens += member[i]->tokens;
        t->sequences += member[i]->config->batch.micro * ml_session_unit(member[i]);
    }
    ML_TRY(ml_grid_agree(host->grid, attach_all(t)));
    host->tokens = t->tokens; /* the model's passes are as large as all of them */
    add_beside(t, bytes);
    for (int c = 0; c < ML_MEM_CATEGORIES; c++) more += bytes[c];
    ML_TRY(ml_session_settle_activations(host, more));
    for (int64_t i = 1; i < count; i++) member[i]->activations = host->activations;
    *out = t;
    t = NULL;
done:
    ml_together_destroy(t);
    return st;
}

static ml_status allocate(ml_together *t)
{
    ml_status st = ML_OK;
    joined *a = &t->all;
    ML_NEW(a->token, t->tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->target, t->tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->weight, t->tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->log_p, t->tokens, ML_MEM_OTHER, "a micro-batch");
    if (t->member[0]->spec->token_types > 0)
        ML_NEW(a->type, t->tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->row_loss, t->tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->row, t->tokens + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->target_start, t->tokens + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->token_owner, t->tokens + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->row_owner, t->tokens + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->start, t->sequences + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->shared, t->sequences + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->key_sequence, t->sequences + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(a->length, t->sequences + 1, ML_MEM_OTHER, "a micro-batch");
done:
    return st;
}

static const ml_parameter *find_parameter(const ml_parameters *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return &p->items[i];
    return NULL;
}

/* A member's own head begins as the base's, which the host has read, or as one that is new. */
static ml_status begin_head(session *s, const session *host)
{
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(s->model, i);
        const ml_parameter *to = find_parameter(&s->parameters, slot->name),
                           *from = find_parameter(&host->parameters, slot->name);
        if (to && from && !ml_session_is_new(s, slot))
            memcpy(s->parameters.value + to->offset, host->parameters.value + from->offset,
                   (size_t)to->count * sizeof *s->parameters.value);
    }
    return ml_session_draw_head(s);
}

ml_status ml_together_build(ml_together *t, const char *backend, const char *vector_path)
{
    ml_status st = ML_OK;
    session *host = t->member[0];
    ML_TRY(ml_session_build(host, true, backend, vector_path));
    ML_TRY(ml_grid_agree(host->grid, allocate(t)));
    for (int64_t i = 1; i < t->count; i++) {
        session *s = t->member[i];
        s->kernels = host->kernels;
        s->shared = host->shared;
        s->load_seconds = host->load_seconds;
        s->load_bytes = host->load_bytes;
        s->mapped_bytes = host->mapped_bytes;
        ML_TRY(ml_session_build_beside(s));
        ML_TRY(ml_grid_agree(host->grid, begin_head(s, host)));
    }
done:
    return st;
}

void ml_together_destroy(ml_together *t)
{
    if (!t) return;
    joined *a = &t->all;
    void *const memory[] = {a->token,       a->target,    a->weight, a->row_loss,
                            a->row,         a->start,     a->shared, a->target_start,
                            a->token_owner, a->row_owner, a->length, a->key_sequence,
                            a->log_p,       a->type,      t->joined, t->parts};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) ml_memory_free(memory[i]);
    ml_exchange_destroy(t->exchange);
    ml_memory_free(t);
}

void ml_together_choose(ml_together *t, int64_t member)
{
    ml_exchange_route_all(t->exchange, member);
    ml_peft_point(t->member[member]->peft);
}
