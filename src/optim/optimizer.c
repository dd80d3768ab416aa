/* Once a step, from the gradients of each rank to updated parameters: summed over the grid, looked
 * at, clipped by their norm, and AdamW with a scheduled learning rate. optim.h has the equations.
 */
#include <math.h>

#include "mpilora/optim.h"

/* ---- gradients summed in floats ------------------------------------------------------------ */

/* Only tp rank 0's copy of an identical gradient may enter the sum over tp. */
static void drop_copies(ml_parameters *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        if (item->shard.dim != ML_SHARD_WHOLE || item->kind != ML_GRADIENT_IDENTICAL) continue;
        memset(p->gradient + item->offset, 0, (size_t)item->count * sizeof *p->gradient);
        if (p->sum) memset(p->sum + item->offset, 0, (size_t)item->count * sizeof *p->sum);
    }
}

/* Returns the floats that this rank passed to sums. Whoever holds the same gets it from one sum,
 * so that copies stay the same bits. */
static int64_t sum_whole(ml_parameters *p, const ml_grid *grid)
{
    ml_grid_sum_float(grid, ML_GROUP_STAGE, p->gradient, p->replicated);
    for (ml_stretch s = {0}; ml_parameters_next_stretch(p, &s);)
        ml_grid_sum_float(grid, s.copied ? ML_GROUP_HEAD : ML_GROUP_DP, p->gradient + s.first,
                          s.count);
    return (ml_grid_group_size(grid, ML_GROUP_STAGE) > 1 ? p->replicated : 0) +
           (ml_grid_replicas(grid) > 1 ? p->local - p->replicated : p->copied);
}

static ml_group group_of_repeated(const ml_parameters *p, int64_t i)
{
    return p->items[i].also == ML_STAGE_EVERY ? ML_GROUP_PIPE : ML_GROUP_ENDS;
}

/* Each stage has found its part of the gradient of what several hold: of an embedding that is the
 * head as well the rows that went in and those that logits came from; of what all layers share what
 * its own layers gave. All get the same sum, of the same order. */
static void sum_repeated(ml_parameters *p, const ml_grid *grid)
{
    for (int64_t i = 0; i < p->count && p->repeated > 0; i++) {
        const ml_parameter *item = &p->items[i];
        if (ml_parameters_repeat(p, i) && ml_parameters_hold(p, i))
            ml_grid_sum_float(grid, group_of_repeated(p, i), p->gradient + item->offset,
                              item->count);
    }
}

static int64_t sum_divided(ml_parameters *p, const ml_grid *grid)
{
    ml_grid_sum_float(grid, ML_GROUP_TP, p->gradient, p->replicated);
    for (ml_stretch s = {0}; ml_parameters_next_stretch(p, &s);)
        if (s.copied) ml_grid_sum_float(grid, ML_GROUP_HEAD_TP, p->gradient + s.first, s.count);
    for (int64_t at = 0; at < p->local; at += p->piece)
        ml_grid_reduce_scatter_float(grid, ML_GROUP_DP, p->gradient + at,
                                     ml_min(p->piece, p->local - at));
    return (ml_grid_tp(grid) > 1 ? p->replicated : 0) + p->copied + p->local;
}

/* ---- gradients summed exactly -------------------------------------------------------------- */

void ml_parameters_clear(ml_parameters *p)
{
    memset(p->gradient, 0, (size_t)p->local * sizeof *p->gradient);
    if (p->sum) memset(p->sum, 0, (size_t)p->local * sizeof *p->sum);
    p->refused = 0;
}

void ml_parameters_take(ml_parameters *p, float *gradient, int64_t count)
{
    if (p->sum) p->refused += ml_fixed_take(count, gradient, p->sum + (gradient - p->gradient));
}

/* As sum_whole and sum_repeated; moments that are divided change nothing. */
static int64_t sum_exactly(ml_parameters *p, const ml_grid *grid)
{
    int64_t sharded = p->local - p->replicated;
    for (int64_t i = 0; i < p->count && p->repeated > 0; i++)
        if (ml_parameters_repeat(p, i) && ml_parameters_hold(p, i))
            ml_grid_sum_fixed(grid, group_of_repeated(p, i), p->sum + p->items[i].offset,
                              p->items[i].count);
    ml_grid_sum_fixed(grid, ML_GROUP_STAGE, p->sum, p->replicated);
    for (ml_stretch s = {0}; ml_parameters_next_stretch(p, &s);)
        ml_grid_sum_fixed(grid, s.copied ? ML_GROUP_HEAD : ML_GROUP_DP, p->sum + s.first, s.count);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < p->local; i++) p->gradient[i] = ml_fixed_to_float(p->sum[i]);
    return p->repeated + (ml_grid_group_size(grid, ML_GROUP_STAGE) > 1 ? p->replicated : 0) +
           (ml_grid_replicas(grid) > 1 ? sharded : p->copied);
}

/* ---- the sum over the grid ----------------------------------------------------------------- */

ml_reduction ml_parameters_reduce(ml_parameters *p, const ml_grid *grid)
{
    int64_t size = ml_gradient_bytes(p->exact), passed;
    ml_parameters_take(p, p->gradient, p->local);
    if (ml_grid_tp_rank(grid) != 0) drop_copies(p);
    if (p->copies > 1) ml_grid_group_heads(grid, p->copies);
    if (p->exact) ml_grid_sum_int64(grid, ML_GROUP_WORLD, &p->refused, 1);
    if (p->exact && p->refused == 0) {
        passed = sum_exactly(p, grid);
    } else { /* NaN of one rank becomes that of all */
        sum_repeated(p, grid);
        passed = p->repeated + (p->dp == 1 ? sum_whole(p, grid) : sum_divided(p, grid));
    }
    return (ml_reduction){.payload_bytes = p->global * size, .passed_bytes = passed * size};
}

/* ---- their norm ---------------------------------------------------------------------------- */

/* The squares of some gradients, with the others'. */
typedef struct squares {
    const ml_kernels *kernels; /* NULL: exactly */
    double sum;
    ml_exact exact;
} squares;

static void add_squares(squares *s, int64_t n, const float *x)
{
    if (s->kernels)
        s->sum += s->kernels->sum_squares(n, x);
    else
        ml_exact_add_squares(&s->exact, n, x);
}

enum { ONCE, SHARDED, SUMS }; /* gradients that tp's ranks have all, and have in parts */

static void sum_over(squares s[SUMS], int first, const ml_grid *grid, ml_group group)
{
    double sum[SUMS] = {s[ONCE].sum, s[SHARDED].sum};
    if (s[ONCE].kernels) ml_grid_sum_double(grid, group, sum + first, SUMS - first);
    for (int i = first; i < SUMS; i++) {
        s[i].sum = sum[i];
        if (!s[i].kernels) ml_grid_sum_exact(grid, group, &s[i].exact);
    }
}

/* Of gradients [first, end) without what an earlier stage counts. */
static void add_counted(const ml_parameters *p, squares *s, int64_t first, int64_t end)
{
    for (int64_t i = 0; i < p->count && p->repeated > 0; i++) {
        const ml_parameter *item = &p->items[i];
        int64_t from = ml_max(item->offset, first), to = ml_min(item->offset + item->count, end);
        if (!ml_parameters_repeat(p, i) || item->stage == p->stage || from >= to) continue;
        add_squares(s, from - first, p->gradient + first);
        first = to;
    }
    add_squares(s, end - first, p->gradient + first);
}

/* Of the sharded tensors' gradients [first, end), what no rank before this one counts. */
static void add_sharded(const ml_parameters *p, squares *squares, int64_t first, int64_t end)
{
    for (ml_stretch s = {0}; ml_parameters_next_stretch(p, &s);) {
        int64_t from = ml_max(s.first, first), to = ml_min(s.first + s.count, end);
        if (from < to && !s.spare) add_counted(p, squares, from, to);
    }
}

double ml_parameters_gradient_norm(const ml_parameters *p, const ml_grid *grid,
                                   const ml_kernels *kernels)
{
    squares sum[SUMS] = {{.kernels = p->exact ? NULL : kernels},
                         {.kernels = p->exact ? NULL : kernels}};
    for (int64_t i = 0; i < ml_parameters_pieces(p); i++) {
        ml_share mine = ml_parameters_share(p, i, p->dp_rank);
        int64_t end = mine.first + mine.count,
                border = ml_max(mine.first, ml_min(end, p->replicated));
        add_counted(p, &sum[ONCE], mine.first, border);
        add_sharded(p, &sum[SHARDED], border, end);
    }
    if (p->dp > 1) sum_over(sum, ONCE, grid, ML_GROUP_DP);
    sum_over(sum, SHARDED, grid, ML_GROUP_TP);
    sum_over(sum, ONCE, grid, ML_GROUP_PIPE);
    if (!p->exact) return sqrt(sum[ONCE].sum + sum[SHARDED].sum);
    for (int i = 0; i < ML_EXACT_DIGITS; i++)
        sum[ONCE].exact.digit[i] += sum[SHARDED].exact.digit[i];
    return sqrt(ml_exact_to_double(&sum[ONCE].exact));
}

/* Of floats [first, first + count) of what is laid out like the values. */
static const char *first_nonfinite(const ml_parameters *p, const ml_kernels *kernels,
                                   const float *floats, int64_t first, int64_t count)
{
    /* Squares of finite floats are far from the end of double. */
    if (isfinite(kernels->sum_squares(count, floats))) return NULL;
    int64_t at = 0;
    while (isfinite(floats[at])) at++;
    for (int64_t i = 0; i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        if (first + at >= item->offset && first + at < item->offset + item->count)
            return item->name;
    }
    return NULL;
}

const char *ml_parameters_find_nonfinite(const ml_parameters *p, const ml_kernels *kernels,
                                         const float *buffer)
{
    const char *name = NULL;
    if (buffer == p->value || buffer == p->gradient)
        return first_nonfinite(p, kernels, buffer, 0, p->local);
    for (int64_t i = 0; i < ml_parameters_pieces(p) && !name; i++) {
        ml_share mine = ml_parameters_share(p, i, p->dp_rank);
        name = first_nonfinite(p, kernels, buffer + mine.at, mine.first, mine.count);
    }
    return name;
}

double ml_clip_factor(double clip, double norm)
{
    double factor = clip / (norm + 1e-6);
    return clip > 0.0 && factor < 1.0 ? factor : 1.0;
}

/* ---- AdamW --------------------------------------------------------------------------------- */

/* Neighbours with the same learning rate. */
typedef struct stretch {
    int64_t first, count; /* floats */
    double factor;
} stretch;

/* In what this rank holds the moments of. */
static void update_stretch(ml_parameters *p, const ml_kernels *kernels, const ml_adamw *step,
                           const stretch *r)
{
    ml_adamw own = *step;
    own.lr *= r->factor;
    if (r->count == 0) return;
    for (int64_t i = r->first / p->piece; i * p->piece < r->first + r->count; i++) {
        ml_share mine = ml_parameters_share(p, i, p->dp_rank);
        int64_t first = ml_max(mine.first, r->first),
                count = ml_min(mine.first + mine.count, r->first + r->count) - first;
        int64_t at = mine.at + first - mine.first;
        if (count > 0)
            kernels->adamw(&own, count, p->value + first, p->gradient + first, p->moment1 + at,
                           p->moment2 + at);
    }
}

static void update_all(ml_parameters *p, const ml_kernels *kernels, const ml_adamw *step)
{
    stretch r = {0};
    for (int sharded = 0; sharded < 2; sharded++) { /* the order of the buffers */
        for (int64_t i = 0; i < p->count; i++) {
            const ml_parameter *item = &p->items[i];
            if ((item->shard.dim != ML_SHARD_WHOLE) != (bool)sharded) continue;
            if (item->lr_factor != r.factor) {
                update_stretch(p, kernels, step, &r);
                r = (stretch){.first = item->offset, .factor = item->lr_factor};
            }
            r.count += item->count;
        }
    }
    update_stretch(p, kernels, step, &r);
}

void ml_parameters_update(ml_parameters *p, const ml_grid *grid, const ml_kernels *kernels,
                          const ml_adamw *step)
{
    update_all(p, kernels, step);
    if (p->dp == 1) return;
    for (int64_t at = 0; at < p->local; at += p->piece)
        ml_grid_allgather_float(grid, ML_GROUP_DP, p->value + at, ml_min(p->piece, p->local - at));
}

/* ---- learning rates, as Hugging Face's transformers has them ------------------------------- */

double ml_schedule_factor(ml_schedule schedule, int64_t done, int64_t warmup, int64_t steps)
{
    if (done < warmup) return (double)done / (double)ml_max(1, warmup);
    if (schedule == ML_SCHEDULE_CONSTANT) return 1.0;
    double length = (double)ml_max(1, steps - warmup);
    if (schedule == ML_SCHEDULE_LINEAR) return fmax(0.0, (double)(steps - done) / length);
    double progress = (double)(done - warmup) / length;
    return fmax(0.0, 0.5 * (1.0 + cos(3.141592653589793 * progress)));
}
