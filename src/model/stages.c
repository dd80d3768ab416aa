/* A model over the stages of a pipeline: which layers a stage has, and what it therefore holds. */
#include <inttypes.h>
#include <math.h>

#include "mpilora/stages.h"

#include "model/model_private.h"

/* ---- which layers -------------------------------------------------------------------------- */

/* Numbers of the tensors of a layer, or of the head: what a token is multiplied with. */
static double multiplications(const ml_model_spec *spec, bool head)
{
    double sum = 0.0;
    for (const ml_family_tensor *row = spec->family->tensors; row->module; row++) {
        bool in_head = row->role == ML_ROLE_HEAD || row->role == ML_ROLE_PROJECT_OUT ||
                       (row->role == ML_ROLE_EMBED && spec->tied_head);
        if (ml_family_has(spec, row) && (head ? in_head : ml_role_in_layer(row->role)))
            sum +=
                (double)ml_extent_size(spec, row->rows) * (double)ml_extent_size(spec, row->cols);
    }
    return sum;
}

/* Of the last stage; the others share the rest. */
static int64_t layers_at_the_end(const ml_model_spec *spec, int pp)
{
    double head = multiplications(spec, true) / fmax(1.0, multiplications(spec, false));
    double best = INFINITY;
    int64_t chosen = 1, others = pp - 1;
    for (int64_t last = 1; last <= spec->layers - others; last++) {
        int64_t most = (spec->layers - last + others - 1) / others;
        double slowest = fmax((double)most, (double)last + head);
        if (slowest > best) continue;
        best = slowest;
        chosen = last;
    }
    return chosen;
}

void ml_stages_layers(const ml_model_spec *spec, int pp, int stage, int64_t *first, int64_t *end)
{
    *first = 0;
    *end = spec->layers;
    if (pp == 1) return;
    int64_t last = layers_at_the_end(spec, pp), rest = spec->layers - last, others = pp - 1;
    if (stage == pp - 1) {
        *first = rest;
        return;
    }
    /* Counted from the end, so that the first stages are those with one layer less. */
    int64_t mirrored = others - 1 - stage;
    *end = rest - ml_part_start(rest, others, mirrored);
    *first = *end - ml_part_count(rest, others, mirrored);
}

ml_status ml_stages_check(const ml_model_spec *spec, int pp)
{
    if (pp <= spec->layers) return ML_OK;
    return ml_fail(ML_USAGE,
                   "parallel.pp: %d stages, but the model has %" PRId64
                   " layer%s; choose at most %" PRId64,
                   pp, spec->layers, spec->layers == 1 ? "" : "s", spec->layers);
}

/* ---- what a stage holds -------------------------------------------------------------------- */

static bool is_at_the_end(ml_role role)
{
    return role == ML_ROLE_FINAL_NORM || role == ML_ROLE_HEAD || role == ML_ROLE_PROJECT_OUT ||
           role == ML_ROLE_POOL || role == ML_ROLE_CLASSIFY || role == ML_ROLE_TRANSFORM ||
           role == ML_ROLE_TRANSFORM_NORM;
}

/* What every layer reads. */
static bool is_in_all_layers(ml_role role)
{
    return role == ML_ROLE_RELATIVE || role == ML_ROLE_RELATIVE_NORM;
}

static int stage_of_layer(const ml_model *m, int64_t layer)
{
    int stage = 0;
    while (stage < m->pp - 1 && layer >= m->stage_end[stage]) stage++;
    return stage;
}

static void stages_of_slot(const ml_model *m, const ml_model_slot *slot, int *first, int *also)
{
    *first = slot->layer >= 0                 ? stage_of_layer(m, slot->layer)
             : is_at_the_end(slot->row->role) ? m->pp - 1
                                              : 0;
    *also = slot->row->role == ML_ROLE_EMBED && m->spec.tied_head ? m->pp - 1
            : is_in_all_layers(slot->row->role)                   ? ML_STAGE_EVERY
                                                                  : *first;
}

void ml_model_stages_of(const ml_model *m, const char *tensor, int *first, int *also)
{
    int64_t layer;
    *first = *also = 0;
    if (m->pp == 1) return;
    if (sscanf(tensor, "layers.%" SCNd64 ".", &layer) == 1) {
        *first = *also = stage_of_layer(m, layer);
        return;
    }
    for (int64_t i = 0; i < m->nslots; i++)
        if (!strcmp(m->slots[i].name, tensor)) {
            stages_of_slot(m, &m->slots[i], first, also);
            return;
        }
    /* What stands beside a matrix outside the layers: the head has factors of its own, also where
     * it is tied; trained rows of a tied embedding are rows of the head. */
    size_t n = strlen(m->head.part[0].module);
    if (!strncmp(tensor, m->head.part[0].module, n) && tensor[n] == '.') *first = *also = m->pp - 1;
    if (!strcmp(tensor, "embed.tokens") && m->spec.tied_head) *also = m->pp - 1;
}

ml_status ml_model_hold_stage(ml_model *m, const ml_grid *grid, int pp, int stage,
                              int64_t in_flight)
{
    ml_status st = ML_OK;
    ML_NEW(m->stage_end, pp, ML_MEM_OTHER, "the stages of a pipeline");
    m->pipe = grid;
    m->pp = pp;
    m->stage = stage;
    m->in_flight = in_flight;
    for (int i = 0; i < pp; i++)
        ml_stages_layers(&m->spec, pp, i, &m->first_layer, &m->stage_end[i]);
    m->first_layer = stage > 0 ? m->stage_end[stage - 1] : 0;
    m->end_layer = m->stage_end[stage];
    for (int64_t i = 0; i < m->nslots; i++) {
        int first, also;
        stages_of_slot(m, &m->slots[i], &first, &also);
        if (stage == first || stage == also || also == ML_STAGE_EVERY) continue;
        m->slots[i].elsewhere = true;
        m->slots[i].shard = ml_shard_nothing();
        m->slots[i].count = 0;
    }
done:
    return st;
}

void ml_model_keep_in_flight(ml_model *m, int64_t in_flight) { m->in_flight = in_flight; }

void ml_model_stage_layers(const ml_model *m, int64_t *first, int64_t *end)
{
    *first = m->first_layer;
    *end = m->end_layer;
}

/* ---- passes -------------------------------------------------------------------------------- */

float *ml_model_stream(ml_model *m) { return m->act.x; }

bool ml_model_stage_goes_back(const ml_model *m)
{
    return lowest_trained(m) < m->end_layer * OPS_A_LAYER;
}

bool ml_model_stage_gives_gradient(const ml_model *m)
{
    return m->stage > 0 && lowest_trained(m) < m->first_layer * OPS_A_LAYER;
}

void ml_model_stage_forward(ml_model *m, const ml_batch *batch, bool backward)
{
    go_forward(m, batch, backward);
    pass_enter(m, PASS_NONE);
}

void ml_model_stage_backward(ml_model *m, const ml_batch *batch)
{
    pass_enter(m, PASS_BACKWARD);
    place_tokens(m, batch); /* as of the last forward, another micro-batch's are there */
    go_back(m, batch);
    pass_enter(m, PASS_NONE);
}

/* ---- in turn ------------------------------------------------------------------------------- */

bool stage_receive(ml_model *m, int64_t T)
{
    if (m->first_layer == 0) return false;
    ml_grid_pipe_receive(m->pipe, ML_TO_NEXT, m->act.x, T * m->spec.width);
    return true;
}

/* The stream is written again only by what comes after the wait. */
bool stage_send(ml_model *m, int64_t T)
{
    if (m->end_layer == m->spec.layers) return false;
    ml_grid_pipe_send(m->pipe, ML_TO_NEXT, m->act.x, T * m->spec.width);
    ml_grid_pipe_wait(m->pipe, ML_TO_NEXT);
    return true;
}

/* ---- logits for all stages ------------------------------------------------------------------ */

int ml_model_stages(const ml_model *m) { return m->pp; }
int ml_model_stage(const ml_model *m) { return m->stage; }

static bool has_logits(const ml_model *m) { return m->stage == m->pp - 1; }

void ml_model_tell_logits(const ml_model *m, int place, const float *logits, int64_t rows)
{
    if (m->pp > 1 && has_logits(m)) ml_grid_pipe_tell(m->pipe, place, logits, rows, m->spec.vocab);
}

void ml_model_take_logits(const ml_model *m, int place, float *logits, int64_t rows)
{
    if (m->pp == 1) return;
    if (has_logits(m))
        ml_grid_pipe_told(m->pipe, place);
    else
        ml_grid_pipe_hear(m->pipe, logits, rows, m->spec.vocab);
}
