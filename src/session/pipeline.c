/* Micro-batches through the stages of a pipeline, in the order of pipeline_order.c, which says why
 * nobody waits in a circle. */
#include <inttypes.h>

#include "session/pipeline.h"
#include "session/pipeline_order.h"

typedef struct pipeline {
    session *s;
    const pipeline_work *work;
    int64_t places;   /* micro-batches between their forward and their backward */
    int64_t packed;   /* the micro-batch that is in the packer; −1: none yet */
    bool gets, gives; /* a gradient from the next stage, one to the stage before */
    bool broken;      /* this stage, or one that sends to it, has failed */
    ml_status status; /* of this stage's own failure */
} pipeline;

static bool is_first(const session *s) { return ml_grid_stage(s->grid) == 0; }
static bool is_last(const session *s) { return ml_grid_stage(s->grid) == ml_grid_pp(s->grid) - 1; }

static int64_t place_of(const pipeline *p, int64_t i) { return i % p->places; }

static void note(pipeline *p, ml_status st)
{
    if (st == ML_OK) return;
    p->status = st;
    p->broken = true;
}

/* Into the stream; what comes has to be the micro-batch under way, or nothing. */
static int64_t receive(const pipeline *p, ml_direction direction)
{
    const session *s = p->s;
    return ml_grid_pipe_receive(s->grid, direction, ml_model_stream(s->model),
                                ml_model_reserved_tokens(s->model) * s->spec->width);
}

/* Numbers of the micro-batch under way; a rank that has none of its tokens sends one, since
 * nothing comes from a stage that is broken. */
static int64_t numbers(const pipeline *p)
{
    return ml_max(1, p->work->batch->tokens * p->s->spec->width);
}

/* The neighbour gets a copy, since the stream goes on changing; a broken stage has nothing. */
static void send(const pipeline *p, ml_direction direction)
{
    session *s = p->s;
    float *copy = (s->host ? s->host : s)->sent[direction];
    int64_t n = p->broken ? 0 : numbers(p);
    ml_grid_pipe_wait(s->grid, direction);
    memcpy(copy, ml_model_stream(s->model), (size_t)n * sizeof *copy);
    ml_grid_pipe_send(s->grid, direction, copy, n);
}

static void pack(pipeline *p, int64_t i)
{
    if (p->broken || p->packed == i) return;
    note(p, p->work->pack(p->work->of, i));
    p->packed = i;
}

/* An empty message comes from a stage that is broken, which has its own text. */
static void compare(pipeline *p, int64_t received)
{
    int64_t expected = numbers(p);
    if (received == expected || p->broken) return;
    p->broken = true;
    if (received > 0)
        note(p, ml_fail(ML_INTERNAL,
                        "a stage got %" PRId64 " numbers of a micro-batch that has %" PRId64,
                        received, expected));
}

static void forward(pipeline *p, int64_t i)
{
    session *s = p->s;
    int64_t received = is_first(s) ? 0 : receive(p, ML_TO_NEXT);
    if (received == 0 && !is_first(s)) p->broken = true;
    ml_model_choose_place(s->model, is_last(s) ? 0 : place_of(p, i));
    if (is_last(s)) {
        if (!p->broken) note(p, p->work->finish(p->work->of, i));
        return;
    }
    pack(p, i);
    if (!is_first(s)) compare(p, received);
    if (!p->broken) ml_model_stage_forward(s->model, p->work->batch, p->work->backward);
    send(p, ML_TO_NEXT);
}

/* On the last stage the pass has gone back already. */
static void backward(pipeline *p, int64_t i)
{
    session *s = p->s;
    if (!is_last(s) && p->gets) {
        int64_t received = receive(p, ML_TO_PREVIOUS);
        pack(p, i);
        compare(p, received);
        ml_model_choose_place(s->model, place_of(p, i));
        if (!p->broken) ml_model_stage_backward(s->model, p->work->batch);
        if (p->work->complete) p->work->complete(p->work->of);
    }
    if (p->gives) send(p, ML_TO_PREVIOUS);
}

ml_status ml_session_pipeline(session *s, const pipeline_work *work)
{
    pipeline_order order =
        ml_pipeline_order(ml_grid_pp(s->grid), ml_grid_stage(s->grid), work->count, work->backward);
    pipeline p = {.s = s, .work = work, .places = order.ahead, .packed = -1};
    p.gets = work->backward && ml_model_stage_goes_back(s->model);
    p.gives = work->backward && ml_model_stage_gives_gradient(s->model);
    for (pipeline_operation next; ml_pipeline_next(&order, &next);) {
        if (next.backward)
            backward(&p, next.micro);
        else
            forward(&p, next.micro);
    }
    ml_grid_pipe_wait(s->grid, ML_TO_NEXT);
    ml_grid_pipe_wait(s->grid, ML_TO_PREVIOUS);
    ml_model_choose_place(s->model, 0);
    return p.status;
}

/* ---- evaluations --------------------------------------------------------------------------- */

static ml_status pack_part(void *of, int64_t i)
{
    const pipeline_part *part = of;
    session *s = part->s;
    int64_t at = part->at + i * part->micro, unit = ml_session_unit(s);
    int64_t first = unit * at, count = unit * ml_min(part->micro, part->end - at);
    ml_status st = part->mismatched ? ml_session_pack_mismatched(s, part->source, first, count)
                                    : ml_session_pack(s, part->source, first, count, false);
    return ml_grid_agree_in(s->grid, ML_GROUP_BATCH, st);
}

static ml_status finish_part(void *of, int64_t i)
{
    const pipeline_part *part = of;
    int64_t at = part->at + i * part->micro;
    return part->one(part->of, at, ml_min(part->micro, part->end - at));
}

ml_status ml_session_pipeline_part(const pipeline_part *part)
{
    pipeline_part own = *part;
    const pipeline_work work = {.of = &own,
                                .count = (part->end - part->at + part->micro - 1) / part->micro,
                                .batch = &part->s->packer.batch,
                                .pack = pack_part,
                                .finish = finish_part};
    return ml_session_pipeline(part->s, &work);
}

int64_t ml_session_pipeline_round(const session *s, int64_t micro)
{
    enum { ROUNDS_A_STAGE = 4 };
    int64_t stages = ml_grid_pp(s->grid);
    return stages > 1 ? micro * ROUNDS_A_STAGE * stages : micro;
}
