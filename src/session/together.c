/* The members of a job, what they have to have in common, and their rows in one pass. */
#include "session/together.h"

#include "mpilora/checkpoint.h"
#include "peft/exchange.h"

/* The micro-batches of all members, one behind the other. */
typedef struct joined {
    int32_t *token, *target;                               /* [tokens] */
    float *weight;                                         /* [tokens] of a target */
    int64_t *row, *target_start, *token_owner, *row_owner; /* [tokens + 1] */
    int64_t *start, *shared, *key_sequence, *length;       /* [sequences + 1] */
    double *row_loss;                                      /* [tokens] */
    int64_t targets;
    ml_batch batch;
} joined;

struct ml_together {
    int64_t count, tokens, sequences; /* the most of all members' micro-batches together */
    session *const *member;           /* borrowed */
    ml_exchange *exchange;
    joined all;
};

/* ---- making -------------------------------------------------------------------------------- */

static ml_status check(const ml_together *t)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < t->count && st == ML_OK; i++)
        for (int64_t j = 0; j <= i && st == ML_OK; j++)
            st = ml_run_config_check_together(t->member[j]->config, t->member[i]->config);
    return st;
}

static ml_status create_model(session *host)
{
    return ml_model_create(&host->model, host->spec, host->grid, ml_grid_tp(host->grid),
                           ml_grid_tp_rank(host->grid), host->config->precision);
}

static ml_status attach(ml_together *t, int64_t i)
{
    session *s = t->member[i];
    const ml_run_config *c = s->config;
    s->model = t->member[0]->model;
    ml_status st = ml_peft_attach_configured(&s->peft, s->model, &s->parameters, c, c->method.name);
    if (st != ML_OK) return st;
    ml_parameters_lay_out(&s->parameters);
    if (c->memory.shard_optimizer)
        ml_parameters_divide_moments(&s->parameters, ml_grid_dp(s->grid), ml_grid_dp_rank(s->grid),
                                     0);
    ml_exchange_admit(t->exchange, i);
    return ML_OK;
}

static ml_status attach_all(ml_together *t)
{
    ml_status st = ML_OK;
    ML_TRY(check(t));
    ML_TRY(create_model(t->member[0]));
    ML_TRY(ml_exchange_create(&t->exchange, t->member[0]->model, t->count));
    for (int64_t i = 0; i < t->count; i++) ML_TRY(attach(t, i));
    ml_exchange_install(t->exchange);
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
        ml_packer_bytes(shape->tokens, shape->sequences, shape->max_len, shape->spec);
    if (writer)
        bytes[ML_MEM_OTHER] += ml_run_directory_bytes() +
                               ml_checkpoint_memory(parameters, false, shape->tp, shape->tp_rank);
}

int64_t ml_together_pass_bytes(int64_t tokens, int64_t sequences)
{
    return tokens * (int64_t)(2 * sizeof(int32_t) + sizeof(float) + sizeof(double)) +
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
    bytes[ML_MEM_OTHER] += ml_together_pass_bytes(t->tokens, t->sequences);
}

void ml_together_predict(const ml_together *t, int64_t bytes[ML_MEM_CATEGORIES])
{
    ml_session_predict(t->member[0], bytes);
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
    for (int64_t i = 0; i < count; i++) {
        t->tokens += member[i]->tokens;
        t->sequences += member[i]->config->batch.micro;
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
        ML_TRY(ml_session_build_beside(s));
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
                            a->token_owner, a->row_owner, a->length, a->key_sequence};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) ml_memory_free(memory[i]);
    ml_exchange_destroy(t->exchange);
    ml_memory_free(t);
}

/* ---- passes -------------------------------------------------------------------------------- */

void ml_together_choose(ml_together *t, int64_t member)
{
    ml_exchange_route_all(t->exchange, member);
}

static void begin(joined *a)
{
    a->targets = 0;
    a->batch = (ml_batch){.token = a->token,
                          .row = a->row,
                          .targets = {a->target_start, a->target, 0, a->weight},
                          .sequences = {0, a->start, a->shared},
                          .length = a->length,
                          .row_loss = a->row_loss};
}

/* Member i's micro-batch behind those that are there. */
static void append(joined *a, int64_t i, const ml_batch *own, const ml_together_part *part)
{
    ml_batch *all = &a->batch;
    int64_t token = all->tokens, row = all->rows, first = all->sequences.count,
            targets = own->targets.start[own->rows];
    for (int64_t s = 0; s < own->sequences.count; s++) {
        a->start[first + s] = token + own->sequences.start[s];
        a->shared[first + s] = ml_sequences_shared(&own->sequences, s);
        a->length[first + s] = own->length[s];
        a->key_sequence[first + s] = own->key_sequence ? own->key_sequence[s] : 0;
    }
    for (int64_t t = 0; t < own->tokens; t++) {
        a->token[token + t] = own->token[t];
        a->token_owner[token + t] = i;
    }
    for (int64_t r = 0; r < own->rows; r++) {
        a->row[row + r] = token + own->row[r];
        a->row_owner[row + r] = i;
        a->target_start[row + r] = a->targets + own->targets.start[r];
    }
    for (int64_t n = 0; n < targets; n++) {
        a->target[a->targets + n] = own->targets.token[n];
        a->weight[a->targets + n] = (float)part->scale;
    }
    if (part->keyed) all->key_sequence = a->key_sequence;
    all->tokens += own->tokens;
    all->rows += own->rows;
    all->sequences.count += own->sequences.count;
    a->targets += targets;
    a->start[all->sequences.count] = all->tokens;
    a->target_start[all->rows] = a->targets;
}

static ml_status join(ml_together *t, const ml_together_part *part, double *computed)
{
    ml_status st = ML_OK;
    joined *a = &t->all;
    begin(a);
    for (int64_t i = 0; i < t->count; i++) {
        session *s = t->member[i];
        if (part[i].count == 0) continue;
        ML_TRY(ml_session_pack(s, &s->train, part[i].first, part[i].count, part[i].keyed));
        append(a, i, &s->packer.batch, &part[i]);
        computed[i] += (double)s->packer.batch.tokens;
    }
done:
    return st;
}

ml_status ml_together_pass(ml_together *t, const ml_together_part *part, double *loss,
                           double *computed)
{
    const session *host = t->member[0];
    joined *a = &t->all;
    double sum;
    ml_status st = ml_grid_agree_in(host->grid, ML_GROUP_TP, join(t, part, computed));
    if (st != ML_OK || a->batch.tokens == 0) return st;
    ml_exchange_route(t->exchange, a->token_owner, a->row_owner);
    ml_model_loss(host->model, &a->batch, true, 1.0, host->config->optim.label_smoothing, &sum);
    for (int64_t r = 0; r < a->batch.rows; r++) loss[a->row_owner[r]] += a->row_loss[r];
    return ML_OK;
}
