/* The trainable tensors of a rank: their list, the four buffers that they lie in, who holds which
 * moments, and how a sharded one is made whole. */
#include "mpilora/optim.h"

ml_status ml_parameters_add(ml_parameters *p, const char *name, int64_t rows, int64_t cols,
                            bool vector, ml_shard shard, ml_gradient_kind kind, int64_t *index)
{
    ml_status st = ML_OK;
    ML_GROW(p->items, p->count, p->capacity, ML_MEM_OTHER, "the list of trainable tensors");
    if (index) *index = p->count;
    ml_parameter *item = &p->items[p->count++];
    *item = (ml_parameter){.rows = rows,
                           .cols = cols,
                           .vector = vector,
                           .shard = shard,
                           .kind = kind,
                           .lr_factor = 1.0,
                           .whole = shard.dim == ML_SHARD_WHOLE};
    snprintf(item->name, sizeof item->name, "%s", name);
    item->count = ml_shard_rows(&shard, rows) * ml_shard_cols(&shard, cols);
done:
    return st;
}

void ml_parameters_place(ml_parameters *p, int64_t i, int first, int also)
{
    ml_parameter *item = &p->items[i];
    item->stage = first;
    item->also = also;
    if (ml_parameters_hold(p, i)) return;
    item->shard = ml_shard_nothing();
    item->count = 0;
}

static bool is_replicated(const ml_parameter *item) { return item->shard.dim == ML_SHARD_WHOLE; }

/* Floats of a part of a sharded tensor, whose columns alone are one part. */
static int64_t part_floats(const ml_parameter *item, int part)
{
    return item->shard.dim == ML_SHARD_ROWS ? item->shard.part[part].count * item->cols
                                            : item->count;
}

bool ml_parameters_next_stretch(const ml_parameters *p, ml_stretch *s)
{
    s->first = ml_max(s->first + s->count, p->replicated);
    for (s->count = 0; s->item < p->count; s->item++, s->part = 0) {
        const ml_parameter *item = &p->items[s->item];
        for (; !is_replicated(item) && s->part < item->shard.nparts; s->part++) {
            bool copied = item->shard.copied >> s->part & 1U, spare = copied && item->shard.spare;
            if (s->count > 0 && (copied != s->copied || spare != s->spare)) return true;
            s->copied = copied;
            s->spare = spare;
            s->count += part_floats(item, s->part);
        }
    }
    return s->count > 0;
}

static void count_copies(ml_parameters *p)
{
    p->copied = 0;
    p->copies = 1;
    for (ml_stretch s = {0}; ml_parameters_next_stretch(p, &s);)
        if (s.copied) p->copied += s.count;
    for (int64_t i = 0; i < p->count; i++)
        if (p->items[i].shard.copies > p->copies) p->copies = p->items[i].shard.copies;
}

void ml_parameters_lay_out(ml_parameters *p)
{
    p->local = p->global = p->replicated = p->repeated = 0;
    for (int sharded = 0; sharded < 2; sharded++) {
        for (int64_t i = 0; i < p->count; i++) {
            ml_parameter *item = &p->items[i];
            if (is_replicated(item) == (bool)sharded) continue;
            item->offset = p->local;
            p->local += item->count;
            p->global += item->rows * item->cols;
            if (ml_parameters_repeat(p, i)) p->repeated += item->count;
        }
        if (!sharded) p->replicated = p->local;
    }
    count_copies(p);
    ml_parameters_divide_moments(p, 1, 0, 0);
}

void ml_parameters_bytes(const ml_parameters *p, bool training, int64_t bytes[ML_MEM_CATEGORIES])
{
    int64_t one = p->local * (int64_t)sizeof(float);
    bytes[ML_MEM_TRAINABLE] += one;
    if (!training) return;
    bytes[ML_MEM_GRADIENT] += one + (p->exact ? p->local * (int64_t)sizeof *p->sum : 0);
    bytes[ML_MEM_OPTIMIZER] += 2 * p->held * (int64_t)sizeof(float);
}

void ml_parameters_sum_exactly(ml_parameters *p) { p->exact = true; }

ml_status ml_parameters_allocate(ml_parameters *p, bool training)
{
    ml_status st = ML_OK;
    ML_NEW(p->value, p->local, ML_MEM_TRAINABLE, "trainable parameters");
    if (!training) return ML_OK;
    p->gradient =
        ml_memory_alloc_shareable(p->local, sizeof *p->gradient, ML_MEM_GRADIENT, "gradients");
    if (!p->gradient) return ML_RESOURCE;
    if (p->exact) ML_NEW(p->sum, p->local, ML_MEM_GRADIENT, "exact sums of gradients");
    ML_NEW(p->moment1, p->held, ML_MEM_OPTIMIZER, "AdamW's first moments");
    ML_NEW(p->moment2, p->held, ML_MEM_OPTIMIZER, "AdamW's second moments");
    ml_memory_take_pages(p->gradient);
    if (p->sum) ml_memory_take_pages(p->sum);
    ml_memory_take_pages(p->moment1);
    ml_memory_take_pages(p->moment2);
done:
    return st;
}

void ml_parameters_destroy(ml_parameters *p)
{
    ml_memory_free(p->items);
    ml_memory_free(p->value);
    ml_memory_free(p->gradient);
    ml_memory_free(p->sum);
    ml_memory_free(p->moment1);
    ml_memory_free(p->moment2);
    *p = (ml_parameters){0};
}

/* ---- moments: all of them, or a share of every piece --------------------------------------- */

void ml_parameters_divide_moments(ml_parameters *p, int dp, int dp_rank, int64_t piece)
{
    static const int64_t usual = 4 << 20;
    p->dp = dp;
    p->dp_rank = dp_rank;
    p->piece = dp == 1 ? ml_max(1, p->local) : piece ? piece : usual;
    p->held = 0;
    for (int64_t i = 0; i < ml_parameters_pieces(p); i++)
        p->held += ml_parameters_share(p, i, dp_rank).count;
}

int64_t ml_parameters_pieces(const ml_parameters *p)
{
    return (p->local + p->piece - 1) / p->piece;
}

ml_share ml_parameters_share(const ml_parameters *p, int64_t piece, int place)
{
    int64_t start = piece * p->piece, floats = ml_min(p->piece, p->local - start);
    return (ml_share){start + ml_part_start(floats, p->dp, place),
                      ml_part_count(floats, p->dp, place),
                      piece * ml_part_count(p->piece, p->dp, place)};
}

/* What of a share lies in [at, at + n). */
static ml_share cut(ml_share share, int64_t at, int64_t n)
{
    int64_t first = ml_max(share.first, at), end = ml_min(share.first + share.count, at + n);
    return (ml_share){first, ml_max(0, end - first), share.at + first - share.first};
}

void ml_parameters_put(const ml_parameters *p, float *buffer, int64_t at, const float *values,
                       int64_t n)
{
    if (!buffer) return;
    if (buffer == p->value) {
        memcpy(buffer + at, values, (size_t)n * sizeof *buffer);
        return;
    }
    for (int64_t i = at / p->piece; i * p->piece < at + n; i++) {
        ml_share mine = cut(ml_parameters_share(p, i, p->dp_rank), at, n);
        if (mine.count > 0)
            memcpy(buffer + mine.at, values + mine.first - at, (size_t)mine.count * sizeof *buffer);
    }
}

/* The world rank that stands at this rank's place in another replica. */
static int replica(const ml_grid *grid, int number)
{
    return ml_grid_rank_at(grid, ml_grid_stage(grid), number, ml_grid_tp_rank(grid));
}

const float *ml_parameters_assemble(const ml_parameters *p, const ml_grid *grid,
                                    const float *buffer, int64_t at, int64_t n)
{
    if (p->dp == 1 || buffer == p->value) return buffer;
    for (int64_t i = at / p->piece; i * p->piece < at + n; i++) {
        for (int place = 0; place < p->dp; place++) {
            ml_share part = cut(ml_parameters_share(p, i, place), at, n);
            int64_t bytes = part.count * (int64_t)sizeof *buffer;
            if (bytes == 0 || (p->dp_rank != 0 && p->dp_rank != place)) continue;
            if (p->dp_rank != 0)
                ml_grid_send(grid, replica(grid, 0), buffer + part.at, bytes);
            else if (place != 0)
                ml_grid_receive(grid, replica(grid, place), p->gradient + part.first, bytes);
            else
                memcpy(p->gradient + part.first, buffer + part.at, (size_t)bytes);
        }
    }
    return p->gradient;
}

/* ---- made whole on world rank 0 ------------------------------------------------------------ */

/* What a rank of the stage sends before its part. */
typedef struct header {
    ml_shard shard;
    int64_t count;
} header;

void ml_parameters_gather_rows(const ml_parameters *p, const ml_grid *grid, int64_t i,
                               const float *buffer, int64_t first, int64_t rows, float *whole,
                               float *part)
{
    const ml_parameter *item = &p->items[i];
    int holders = item->whole ? 1 : ml_grid_tp(grid);
    bool root = ml_grid_rank(grid) == 0, holds = ml_grid_replica(grid) == 0 &&
                                                 ml_grid_stage(grid) == item->stage &&
                                                 ml_grid_tp_rank(grid) < holders;
    if (!holds && !root) return;
    header mine;
    const float *data =
        buffer + item->offset + ml_shard_within(&item->shard, first, rows, item->cols, &mine.shard);
    mine.count = ml_shard_rows(&mine.shard, rows) * ml_shard_cols(&mine.shard, item->cols);
    if (!root) {
        ml_grid_send(grid, 0, &mine, (int64_t)sizeof mine);
        ml_grid_send(grid, 0, data, mine.count * (int64_t)sizeof *data);
        return;
    }
    if (holds) ml_shard_put(&mine.shard, rows, item->cols, data, whole);
    for (int tp_rank = holds ? 1 : 0; tp_rank < holders; tp_rank++) {
        int from = ml_grid_rank_at(grid, item->stage, 0, tp_rank);
        header theirs;
        ml_grid_receive(grid, from, &theirs, (int64_t)sizeof theirs);
        ml_grid_receive(grid, from, part, theirs.count * (int64_t)sizeof *part);
        ml_shard_put(&theirs.shard, rows, item->cols, part, whole);
    }
}

void ml_parameters_gather(const ml_parameters *p, const ml_grid *grid, int64_t i,
                          const float *buffer, float *whole, float *part)
{
    ml_parameters_gather_rows(p, grid, i, buffer, 0, p->items[i].rows, whole, part);
}
