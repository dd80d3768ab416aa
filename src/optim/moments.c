/* Who holds which moments: all of them, or a share of every piece. */
#include "mpilora/optim.h"

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
                ml_grid_send(grid, ml_grid_tp_rank(grid), buffer + part.at, bytes);
            else if (place != 0)
                ml_grid_receive(grid, place * ml_grid_tp(grid) + ml_grid_tp_rank(grid),
                                p->gradient + part.first, bytes);
            else
                memcpy(p->gradient + part.first, buffer + part.at, (size_t)bytes);
        }
    }
    return p->gradient;
}
