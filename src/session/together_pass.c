/* A pass of several sessions: their micro-batches are joined, the layers go over all rows at once,
 * and what follows the layers goes by objective. Where all are sums over tokens, the loss and its
 * gradient are one computation; where one compares answers, all targets' log p are found first, and
 * each member says what its own count; heads for labels are each member's own, one after the other.
 */
#include "session/pipeline.h"
#include "session/together_private.h"

static void begin(joined *a)
{
    a->targets = 0;
    a->batch = (ml_batch){.token = a->token,
                          .row = a->row,
                          .targets = {a->target_start, a->target, 0, a->weight},
                          .sequences = {.start = a->start, .shared = a->shared},
                          .length = a->length,
                          .type = a->type,
                          .row_loss = a->row_loss};
}

/* Member i's micro-batch behind those that are there. */
static void append(joined *a, int64_t i, const ml_batch *own, bool keyed)
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
        if (a->type) a->type[token + t] = own->type ? own->type[t] : 0;
        a->token_owner[token + t] = i;
    }
    for (int64_t r = 0; r < own->rows; r++) {
        a->row[row + r] = token + own->row[r];
        a->row_owner[row + r] = i;
        a->target_start[row + r] = a->targets + own->targets.start[r];
    }
    memcpy(a->target + a->targets, own->targets.token, (size_t)targets * sizeof *a->target);
    if (keyed) all->key_sequence = a->key_sequence;
    all->tokens += own->tokens;
    all->rows += own->rows;
    all->sequences.count += own->sequences.count;
    a->targets += targets;
    a->start[all->sequences.count] = all->tokens;
    a->target_start[all->rows] = a->targets;
}

static bool has_scores(const session *s) { return ml_run_config_scores_labels(s->config); }

static bool compares(const session *s)
{
    return ml_run_config_has_figures(s->config) && !has_scores(s);
}

/* Into the member's own micro-batch. */
static ml_status pack(ml_together *t, int64_t i, const ml_together_part *part, bool ahead)
{
    session *s = t->member[i];
    joined_part *j = &t->joined[i];
    if (!ml_run_config_has_figures(s->config))
        return ml_session_pack(s, &s->train, part->first, part->count, part->keyed);
    j->batch = (pair_batch){.first = part->first,
                            .count = part->count,
                            .backward = !ahead,
                            .keyed = part->keyed && !ahead,
                            .pairs = part->targets,
                            .tokens = part->tokens};
    if (has_scores(s)) {
        j->scoring = ml_scoring_of(s, &s->train, &j->batch, part->compared);
        return ml_scoring_pack(&j->scoring, &s->train);
    }
    j->comparison =
        ahead
            ? ml_comparison_ahead(s, &s->train, &j->batch)
            : (comparison){.s = s, .source = &s->train, .batch = &j->batch, .sums = part->compared};
    return ml_comparison_pack(&j->comparison);
}

static ml_status join(ml_together *t, ml_together_part *part, bool ahead)
{
    ml_status st = ML_OK;
    joined *a = &t->all;
    begin(a);
    for (int64_t i = 0; i < t->count; i++) {
        session *s = t->member[i];
        t->joined[i] = (joined_part){
            .first = a->targets, .row = a->batch.rows, .sequence = a->batch.sequences.count};
        if (part[i].count == 0 || (ahead && !ml_run_config_looks_ahead(s->config))) continue;
        ML_TRY(pack(t, i, &part[i], ahead));
        /* mlm may choose no token; of stages the last alone would leave it out */
        if (s->packer.hits == 0 && ml_grid_pp(s->grid) == 1) continue;
        append(a, i, &s->packer.batch, s->packer.batch.key_sequence != NULL);
        t->joined[i].count = a->targets - t->joined[i].first;
        part[i].computed += (double)s->packer.batch.tokens;
    }
done:
    return st;
}

/* What a target of a member that learns tokens counts, whatever their log p. */
static void weigh_tokens(ml_together *t, const ml_together_part *part)
{
    for (int64_t i = 0; i < t->count; i++) {
        const joined_part *j = &t->joined[i];
        for (int64_t n = j->first;
             !ml_run_config_has_figures(t->member[i]->config) && n < j->first + j->count; n++)
            t->all.weight[n] = (float)(1.0 / (double)part[i].targets);
    }
}

static void weigh(void *self, const float *log_p)
{
    const ml_together *t = self;
    for (int64_t i = 0; i < t->count; i++) {
        const joined_part *j = &t->joined[i];
        if (j->count == 0 || !compares(t->member[i])) continue;
        ml_comparison_weigh(&j->comparison, log_p + j->first);
        if (j->batch.backward)
            memcpy(t->all.weight + j->first, t->member[i]->packer.weight,
                   (size_t)j->count * sizeof *t->all.weight);
    }
}

/* Of the members whose objective is a sum over tokens; a row's loss is found without weights. */
static void add_losses(const ml_together *t, ml_together_part *part)
{
    const joined *a = &t->all;
    for (int64_t r = 0; r < a->batch.rows; r++) {
        ml_together_part *own = &part[a->row_owner[r]];
        if (ml_run_config_has_figures(t->member[a->row_owner[r]]->config)) continue;
        own->loss += a->row_loss[r];
        ml_exact_add(own->losses, a->row_loss[r]);
    }
}

/* A member's head for labels. */
static void choose_head(void *self)
{
    const session *s = self;
    ml_peft_point(s->peft);
}

static void score_parts(ml_together *t)
{
    int64_t count = 0;
    for (int64_t i = 0; i < t->count; i++) {
        joined_part *j = &t->joined[i];
        session *s = t->member[i];
        if (j->count == 0) continue;
        t->parts[count++] = (ml_scored_part){.row = j->row,
                                             .rows = s->packer.batch.rows,
                                             .sequence = j->sequence,
                                             .sequences = s->packer.batch.sequences.count,
                                             .score = s->packer.score,
                                             .slope = s->packer.slope,
                                             .judging = {ml_scoring_judge, &j->scoring},
                                             .choose = choose_head,
                                             .self = s};
    }
    ml_model_score_parts(t->member[0]->model, &t->all.batch, true, count, t->parts);
}

/* The model's pass over what is joined. `sum`: of targets whose gradient is known beforehand. */
static void compute(ml_together *t, const ml_together_part *part, bool ahead)
{
    const session *host = t->member[0];
    joined *a = &t->all;
    const ml_weighing weighing = {weigh, t};
    bool compared = false;
    double sum;
    for (int64_t i = 0; i < t->count; i++)
        compared = compared || (t->joined[i].count > 0 && compares(t->member[i]));
    if (has_scores(host)) {
        score_parts(t);
        return;
    }
    weigh_tokens(t, part);
    if (compared)
        ml_model_weighed(host->model, &a->batch, !ahead, a->log_p, &weighing);
    else
        ml_model_loss(host->model, &a->batch, true, 1.0, host->config->optim.label_smoothing, &sum);
}

/* The members' micro-batches of a pass, joined and on their way to their adapters. */
static ml_status prepare(ml_together *t, ml_together_part *part, bool ahead)
{
    joined *a = &t->all;
    ml_status st = ml_grid_agree_in(t->member[0]->grid, ML_GROUP_TP, join(t, part, ahead));
    if (st == ML_OK) ml_exchange_route(t->exchange, a->token_owner, a->row_owner);
    return st;
}

static void take_gradients(const ml_together *t)
{
    for (int64_t i = 0; i < t->count; i++)
        ml_peft_take_gradients(t->member[i]->peft, &t->member[i]->parameters);
}

ml_status ml_together_pass(ml_together *t, const ml_together_passes *p, int64_t i)
{
    const joined *a = &t->all;
    const session *host = t->member[0];
    p->choose(p->of, i, p->part);
    ml_status st = prepare(t, p->part, p->ahead);
    if (st != ML_OK) return st;
    if (a->batch.rows > 0)
        compute(t, p->part, p->ahead);
    else /* nothing is hidden from any member; a stage before waits for a gradient */
        memset(ml_model_stream(host->model), 0,
               (size_t)(a->batch.tokens * host->spec->width) * sizeof(float));
    if (!p->ahead) add_losses(t, p->part);
    take_gradients(t);
    p->take(p->of, p->part);
    return ML_OK;
}

/* ---- through the stages of a pipeline ------------------------------------------------------- */

typedef struct staged {
    ml_together *t;
    const ml_together_passes *passes;
} staged;

static ml_status pack_staged(void *of, int64_t i)
{
    const staged *g = of;
    const ml_together_passes *p = g->passes;
    p->choose(p->of, i, p->part);
    return prepare(g->t, p->part, p->ahead);
}

static ml_status finish_staged(void *of, int64_t i)
{
    const staged *g = of;
    return ml_together_pass(g->t, g->passes, i);
}

static void complete_staged(void *of)
{
    const staged *g = of;
    take_gradients(g->t);
}

ml_status ml_together_staged(ml_together *t, const ml_together_passes *passes)
{
    staged all = {t, passes};
    const pipeline_work work = {.of = &all,
                                .count = passes->count,
                                .backward = !passes->ahead,
                                .batch = &t->all.batch,
                                .pack = pack_staged,
                                .finish = finish_staged,
                                .complete = complete_staged};
    return ml_session_pipeline(t->member[0], &work);
}
