/* Alignments as METEOR 1.5's aligner makes them. The search is its own in every detail that shows:
 * the beam, the order of equal paths, a distance that counts the ways that were tried, and matches
 * of stems that count nothing while paths are compared. */
#include <stdlib.h>

#include "score/alignment.h"

enum { BEAM = 40 };

/* The tokens of the reference up to some place, matched. */
typedef struct path {
    int64_t equal, chunks, distance; /* equal tokens; chunks that are closed */
    int64_t last; /* the output's token behind the newest match; −1: the newest token has none */
} path;

/* How a path goes on: from path `parent` with the output's token `at`, or −1. */
typedef struct step {
    path path;
    int64_t parent, at;
} step;

struct beam_aligner {
    int64_t longest, paths, steps;
    path path[BEAM];
    step step[BEAM]; /* the best so far, best first */
    int32_t *to[2]; /* [BEAM, longest] by the reference's tokens; those of the paths and of the next
                       ones */
    bool *taken[2]; /* [BEAM, longest] by the output's tokens */
    int64_t *fixed; /* [longest] by the reference's tokens: the output's token that has no other
                       match, or −1 */
    int64_t *ways;  /* [longest] matches of an output's token */
};

ml_status beam_aligner_create(beam_aligner **out, int64_t longest)
{
    ml_status st = ML_OK;
    beam_aligner *a = NULL;
    *out = NULL;
    ML_NEW(a, 1, ML_MEM_OTHER, "an aligner");
    a->longest = longest;
    for (int i = 0; i < 2; i++) {
        ML_NEW(a->to[i], BEAM * longest, ML_MEM_OTHER, "an aligner");
        ML_NEW(a->taken[i], BEAM * longest, ML_MEM_OTHER, "an aligner");
    }
    ML_NEW(a->fixed, longest, ML_MEM_OTHER, "an aligner");
    ML_NEW(a->ways, longest, ML_MEM_OTHER, "an aligner");
    *out = a;
    a = NULL;
done:
    beam_aligner_destroy(a);
    return st;
}

void beam_aligner_destroy(beam_aligner *a)
{
    if (!a) return;
    for (int i = 0; i < 2; i++) {
        ml_memory_free(a->to[i]);
        ml_memory_free(a->taken[i]);
    }
    ml_memory_free(a->fixed);
    ml_memory_free(a->ways);
    ml_memory_free(a);
}

/* ---- two texts ----------------------------------------------------------------------------- */

typedef struct pair {
    const int32_t *stem, *x, *y; /* tokens of output and reference */
    int64_t nx, ny;
    bool same; /* texts that are the same have no matches of stems */
} pair;

static bool is_match(const pair *p, int64_t i, int64_t j)
{
    return p->x[i] == p->y[j] || (!p->same && p->stem[p->x[i]] == p->stem[p->y[j]]);
}

static void find_fixed(beam_aligner *a, const pair *p)
{
    memset(a->ways, 0, (size_t)p->nx * sizeof *a->ways);
    for (int64_t j = 0; j < p->ny; j++)
        for (int64_t i = 0; i < p->nx; i++) a->ways[i] += is_match(p, i, j);
    for (int64_t j = 0; j < p->ny; j++) {
        int64_t found = 0, only = -1;
        for (int64_t i = 0; i < p->nx; i++)
            if (is_match(p, i, j)) found++, only = i;
        a->fixed[j] = found == 1 && a->ways[only] == 1 ? only : -1;
    }
}

/* ---- the search ---------------------------------------------------------------------------- */

static bool is_better(const path *a, const path *b)
{
    if (a->equal != b->equal) return a->equal > b->equal;
    return a->chunks != b->chunks ? a->chunks < b->chunks : a->distance < b->distance;
}

/* Behind those that are as good. */
static void offer(beam_aligner *a, step new)
{
    int64_t at = a->steps;
    while (at > 0 && is_better(&new.path, &a->step[at - 1].path)) at--;
    if (at == BEAM) return;
    int64_t kept = ml_min(a->steps, BEAM - 1);
    memmove(a->step + at + 1, a->step + at, (size_t)(kept - at) * sizeof *a->step);
    a->step[at] = new;
    a->steps = kept + 1;
}

static path with_match(const pair *p, path from, int64_t i, int64_t j)
{
    from.equal += p->x[i] == p->y[j];
    from.chunks += from.last >= 0 && from.last != i;
    from.last = i + 1;
    return from;
}

/* Tries every match of the reference's token j: equal tokens before equal stems. */
static void try_matches(beam_aligner *a, const pair *p, int64_t parent, int64_t j)
{
    path *from = &a->path[parent];
    const bool *taken = a->taken[0] + parent * a->longest;
    for (int stems = 0; stems < 2; stems++)
        for (int64_t i = 0; i < p->nx; i++) {
            if (taken[i] || !is_match(p, i, j) || (p->x[i] == p->y[j]) == stems) continue;
            offer(a, (step){with_match(p, *from, i, j), parent, i});
            from->distance += llabs(i - j);
        }
    from->chunks += from->last >= 0;
    from->last = -1;
    offer(a, (step){*from, parent, -1});
}

static void take_fixed(beam_aligner *a, const pair *p, int64_t parent, int64_t j)
{
    int64_t i = a->fixed[j];
    path to = with_match(p, a->path[parent], i, j);
    to.distance += llabs(i - j);
    offer(a, (step){to, parent, i});
}

static void take_steps(beam_aligner *a, int64_t j)
{
    for (int64_t k = 0; k < a->steps; k++) {
        const step *s = &a->step[k];
        memcpy(a->to[1] + k * a->longest, a->to[0] + s->parent * a->longest,
               (size_t)j * sizeof *a->to[1]);
        memcpy(a->taken[1] + k * a->longest, a->taken[0] + s->parent * a->longest,
               (size_t)a->longest * sizeof *a->taken[1]);
        a->to[1][k * a->longest + j] = (int32_t)s->at;
        if (s->at >= 0) a->taken[1][k * a->longest + s->at] = true;
        a->path[k] = s->path;
    }
    a->paths = a->steps;
    int32_t *to = a->to[0];
    bool *taken = a->taken[0];
    a->to[0] = a->to[1];
    a->taken[0] = a->taken[1];
    a->to[1] = to;
    a->taken[1] = taken;
}

/* The tokens that the best path matches with the reference's. */
static const int32_t *search(beam_aligner *a, const pair *p)
{
    int64_t best = 0;
    a->paths = 1;
    a->path[0] = (path){.last = -1};
    memset(a->taken[0], 0, (size_t)a->longest * sizeof *a->taken[0]);
    for (int64_t j = 0; j < p->ny; j++)
        if (a->fixed[j] >= 0) a->taken[0][a->fixed[j]] = true;
    for (int64_t j = 0; j < p->ny; j++) {
        a->steps = 0;
        for (int64_t parent = 0; parent < a->paths; parent++)
            a->fixed[j] >= 0 ? take_fixed(a, p, parent, j) : try_matches(a, p, parent, j);
        take_steps(a, j);
    }
    for (int64_t k = 0; k < a->paths; k++) {
        a->path[k].chunks += a->path[k].last >= 0;
        if (is_better(&a->path[k], &a->path[best])) best = k;
    }
    return a->to[0] + best * a->longest;
}

matches align_by_beam(beam_aligner *a, const stemmed *s, int64_t output, int64_t reference)
{
    matches m = {0};
    const corpus *c = s->c;
    pair p = {s->stem,
              c->token + c->text[output],
              c->token + c->text[reference],
              corpus_length(c, output),
              corpus_length(c, reference),
              false};
    p.same = p.nx == p.ny && (p.nx == 0 || !memcmp(p.x, p.y, (size_t)p.nx * sizeof *p.x));
    find_fixed(a, &p);
    const int32_t *to = search(a, &p);
    for (int64_t j = 0, last = -1; j < p.ny; last = to[j++]) {
        if (to[j] < 0) continue;
        add_match(&m, s, p.x[to[j]], p.y[j]);
        m.chunks += last < 0 || to[j] != last + 1;
    }
    return m;
}
