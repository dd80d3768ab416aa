/* Micro-batches through the stages of a pipeline, one forward and one backward in turn (1F1B:
 * Narayanan et al. 2019, arXiv:1806.03377, with a flush a step).
 *
 * With P stages and n micro-batches, stage s runs F0 … F(P−s−1), then a backward and a forward in
 * turn, B0, F(P−s), B1, …, and at the end the backwards that are left. So at most P − s micro-
 * batches are between their forward and their backward, and activations are kept for no more.
 *
 * Nobody waits in a circle. Give every operation a slot of one clock, of the whole pipe:
 *
 *     Fk of stage s   s + k where k < P − s, else s + 2k
 *     Bk of stage s   2P − 1 − s + 2k
 *
 * Each stage goes through its own operations in the order of their slots. There are two waits, and
 * each is for something of an earlier slot, or of the beginning of the same one:
 *
 *   - at its beginning an operation receives, Fk of stage s what Fk of stage s − 1 sends at its
 *     end, which has a smaller slot; Bk what Bk of stage s + 1 sends at its end, one slot before;
 *   - at its end it sends, once the neighbour has taken the last message in that direction: Fk
 *     waits for stage s + 1 to begin F(k−1), Bk for stage s − 1 to begin B(k−1); their slots are
 *     not behind that of the one that waits.
 *
 * So the operation that is first among those that have not ended, by (slot, beginning before end),
 * can always go on, whatever MPI buffers. What only some stages do, evaluations that go forward
 * alone, is the same clock without Bk. A tp group does the same operations in the same order. */
#include <inttypes.h>

#include "session/pipeline.h"

typedef struct pipeline {
    session *s;
    const pipeline_work *work;
    int64_t first_backward; /* forwards before it: P − s, or all */
    int64_t packed;         /* the micro-batch that is in the packer; −1: none yet */
    bool gets, gives;       /* a gradient from the next stage, one to the stage before */
    bool broken;            /* this stage, or one that sends to it, has failed */
    ml_status status;       /* of this stage's own failure */
} pipeline;

static bool is_first(const session *s) { return ml_grid_stage(s->grid) == 0; }
static bool is_last(const session *s) { return ml_grid_stage(s->grid) == ml_grid_pp(s->grid) - 1; }

static int64_t place_of(const pipeline *p, int64_t i) { return i % p->first_backward; }

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
                                s->tokens * s->spec->width);
}

/* The neighbour gets a copy, since the stream goes on changing; a broken stage has nothing. */
static void send(const pipeline *p, ml_direction direction)
{
    session *s = p->s;
    float *copy = s->sent[direction];
    int64_t n = p->broken ? 0 : s->packer.batch.tokens * s->spec->width;
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
    int64_t expected = p->s->packer.batch.tokens * p->s->spec->width;
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
    if (!p->broken) ml_model_stage_forward(s->model, &s->packer.batch, p->work->backward);
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
        if (!p->broken) ml_model_stage_backward(s->model, &s->packer.batch);
    }
    if (p->gives) send(p, ML_TO_PREVIOUS);
}

ml_status ml_session_pipeline(session *s, const pipeline_work *work)
{
    int64_t n = work->count, ahead = ml_grid_pp(s->grid) - ml_grid_stage(s->grid);
    pipeline p = {
        .s = s, .work = work, .first_backward = ml_max(1, ml_min(ahead, n)), .packed = -1};
    p.gets = work->backward && ml_model_stage_goes_back(s->model);
    p.gives = work->backward && ml_model_stage_gives_gradient(s->model);
    for (int64_t f = 0, b = 0; f < n || (work->backward && b < n);) {
        bool back = work->backward && (f == n || f - b == p.first_backward);
        if (back)
            backward(&p, b++);
        else
            forward(&p, f++);
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
    ml_status st = ml_session_pack(s, part->source, unit * at,
                                   unit * ml_min(part->micro, part->end - at), false);
    return ml_grid_agree_in(s->grid, ML_GROUP_TP, st);
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
