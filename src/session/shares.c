/* Ranks that share out the tokens of each sequence, C of them: it is cut into 2·C chunks, and rank
 * c computes chunk c and chunk 2·C − 1 − c, so that under a causal mask all have about as many
 * pairs of a query and a key (Llama Team 2024, arXiv:2407.21783, section 3.3.2). Each sequence of a
 * micro-batch is divided in itself. Targets were found before: what follows a chunk's last token is
 * known. Of sequences that share a beginning each one's own tokens are divided.
 *
 * Under numerics: grid a chunk is some pieces of gradients, so that blocks of keys, and sums, begin
 * where they begin on one rank. A sequence of few pieces has chunks of none: sequences begin with
 * the ranks in turn. */
#include "session/shares.h"

#include <inttypes.h>

#include "mpilora/family.h"
#include "session/session.h"

/* ---- room ---------------------------------------------------------------------------------- */

static int64_t chunks_of(int cp) { return 2 * (int64_t)cp; }

ml_status ml_shares_create(token_shares *s, int cp, int64_t sequences)
{
    ml_status st = ML_OK;
    int64_t pieces = chunks_of(cp) * sequences;
    if (cp == 1) return ML_OK;
    s->sequences = sequences;
    ML_NEW(s->start, pieces + 1, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->shared, pieces, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->query, pieces, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->length, pieces, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->key_sequence, pieces, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->part, cp, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->first, pieces, ML_MEM_OTHER, "pieces of sequences");
    ML_NEW(s->rows, pieces, ML_MEM_OTHER, "pieces of sequences");
done:
    return st;
}

int64_t ml_shares_bytes(int cp, int64_t sequences)
{
    const token_shares *s = NULL;
    size_t a_piece = sizeof *s->start + sizeof *s->shared + sizeof *s->query + sizeof *s->length +
                     sizeof *s->key_sequence + sizeof *s->first + sizeof *s->rows;
    return cp == 1 ? 0
                   : chunks_of(cp) * sequences * (int64_t)a_piece + (int64_t)sizeof *s->start +
                         cp * (int64_t)sizeof *s->part;
}

void ml_shares_destroy(token_shares *s)
{
    ml_memory_free(s->start);
    ml_memory_free(s->shared);
    ml_memory_free(s->query);
    ml_memory_free(s->length);
    ml_memory_free(s->key_sequence);
    ml_memory_free(s->part);
    ml_memory_free(s->first);
    ml_memory_free(s->rows);
    *s = (token_shares){0};
}

int64_t ml_shares_unit(const ml_run_config *c)
{
    return ml_run_config_is_exact(c) ? ML_MODEL_PIECE : 1;
}

/* A rank's two chunks of n units have at most ⌈n / C⌉ of them, and the pieces of all ranks, which
 * kernels have tables of, are no more than tokens. */
int64_t ml_shares_tokens(int cp, int64_t unit, int64_t tokens, int64_t sequences)
{
    if (cp == 1) return tokens;
    int64_t units = (tokens + sequences * (unit - 1)) / unit,
            own = (units + sequences * (cp - 1)) / cp * unit;
    return ml_min(tokens, ml_max(own, chunks_of(cp) * sequences));
}

/* ---- cutting ------------------------------------------------------------------------------- */

/* What is left of the packed micro-batch, in place. */
typedef struct cutting {
    packer *p;
    int cp, mine;
    int64_t unit;        /* tokens that stay together */
    int64_t pieces, own; /* pieces and own tokens so far */
} cutting;

/* Tokens [at, at + count) of a sequence, its chunk of that number. */
static void add_piece(cutting *c, int64_t sequence, int64_t chunk, int64_t at, int64_t count)
{
    packer *p = c->p;
    token_shares *s = &p->shares;
    const ml_batch *all = &p->batch;
    int64_t row = all->sequences.start[sequence] + at;
    int64_t turn = c->unit > 1 ? sequence : 0;
    int rank = (int)((ml_min(chunk, chunks_of(c->cp) - 1 - chunk) + turn) % c->cp);
    ml_row_runs *part = &s->part[rank];
    int64_t run = rank * 2 * s->sequences + part->count++;
    s->first[run] = (int)row;
    s->rows[run] = (int)count;
    s->start[c->pieces] = row;
    s->shared[c->pieces] = ml_sequences_shared(&all->sequences, sequence) + at;
    s->length[c->pieces] = all->length[sequence];
    s->key_sequence[c->pieces] = p->key_sequence[sequence];
    s->query[c->pieces++] = rank == c->mine ? c->own : -1;
    if (rank != c->mine) return;
    memmove(p->token + c->own, p->token + row, (size_t)count * sizeof *p->token);
    if (p->type) memmove(p->type + c->own, p->type + row, (size_t)count * sizeof *p->type);
    c->own += count;
}

static void cut_sequences(cutting *c)
{
    token_shares *s = &c->p->shares;
    const ml_sequences *all = &c->p->batch.sequences;
    int64_t chunks = chunks_of(c->cp);
    for (int r = 0; r < c->cp; r++)
        s->part[r] =
            (ml_row_runs){0, s->first + r * 2 * s->sequences, s->rows + r * 2 * s->sequences};
    for (int64_t i = 0; i < all->count; i++) {
        int64_t n = all->start[i + 1] - all->start[i], units = (n + c->unit - 1) / c->unit;
        for (int64_t k = 0; k < chunks; k++) {
            int64_t at = c->unit * ml_part_start(units, chunks, k),
                    end = ml_min(n, c->unit * ml_part_start(units, chunks, k + 1));
            if (end > at) add_piece(c, i, k, at, end - at);
        }
    }
    s->start[c->pieces] = c->p->batch.tokens;
}

/* The rows that this rank has, and what they predict. */
static void keep_own_rows(const cutting *c)
{
    packer *p = c->p;
    const token_shares *s = &p->shares;
    int64_t rows = 0, targets = 0;
    for (int64_t i = 0, piece = 0; i < p->batch.rows; i++) {
        int64_t row = p->row[i], begin = p->target_start[i], count = p->target_start[i + 1] - begin;
        while (s->start[piece + 1] <= row) piece++;
        if (s->query[piece] < 0) continue;
        memmove(p->target + targets, p->target + begin, (size_t)count * sizeof *p->target);
        memmove(p->target_text + targets, p->target_text + begin,
                (size_t)count * sizeof *p->target_text);
        memmove(p->target_place + targets, p->target_place + begin,
                (size_t)count * sizeof *p->target_place);
        p->row[rows] = s->query[piece] + row - s->start[piece];
        p->target_start[rows++] = targets;
        targets += count;
    }
    p->target_start[rows] = targets;
    p->batch.rows = rows;
    p->hits = targets;
}

void ml_packer_cut(packer *p, int cp, int cp_rank, int64_t unit)
{
    cutting c = {.p = p, .cp = cp, .mine = cp_rank, .unit = unit};
    const token_shares *s = &p->shares;
    if (cp == 1) return;
    cut_sequences(&c);
    keep_own_rows(&c);
    p->batch.tokens = c.own;
    p->batch.sequences = (ml_sequences){.count = c.pieces,
                                        .start = s->start,
                                        .shared = s->shared,
                                        .query = s->query,
                                        .queries = c.own};
    p->batch.length = s->length;
    if (p->batch.key_sequence) p->batch.key_sequence = s->key_sequence;
    p->batch.part = s->part;
}

/* ---- what can be shared out ---------------------------------------------------------------- */

static ml_status refuse(const ml_run_config *c, const char *what, const char *advice)
{
    return ml_run_config_refuse(c, "parallel.cp", "%d does not know %s yet; %s",
                                (int)c->parallel.cp, what, advice);
}

/* A chunk of less than a block of attention is no work of its own; a piece of gradients is. */
enum { BLOCK = 64 };

/* Tokens that a rank has of the longest sequence, at least. */
static int64_t least_share(const ml_run_config *c)
{
    return ml_run_config_is_exact(c) ? ML_MODEL_PIECE : 2 * BLOCK;
}

int64_t ml_shares_most(const ml_run_config *c, int64_t longest)
{
    return ml_max(1, longest / least_share(c));
}

ml_status ml_shares_check_length(const ml_run_config *c, int dp, int64_t longest)
{
    int64_t cp = c->parallel.cp, fits = ml_shares_most(c, longest), least = least_share(c);
    if (cp <= fits) return ML_OK;
    while (cp * dp % fits != 0) fits--;
    return ml_run_config_refuse(
        c, "parallel.cp",
        "%" PRId64 " would share the longest sequence, of %" PRId64
        " tokens, among ranks that have less than %" PRId64 " of them%s; choose cp %" PRId64
        ", or sequences of %" PRId64 " tokens or more",
        cp, longest, least, ml_run_config_is_exact(c) ? " (numerics is grid)" : "", fits,
        cp * least);
}

/* Whether virtual tokens begin as what a pass over tokens leaves in the layers. */
static bool starts_from_pass(const ml_run_config *c)
{
    bool in_layers = ml_method_has_keys(c->method.name) ||
                     c->method.name == ML_METHOD_PREFIX_LAYER ||
                     c->method.name == ML_METHOD_LORA_PREFIX_LAYER;
    return in_layers && c->method.prefix_init != ML_PREFIX_RANDOM;
}

/* Whether a text's vector is that of one of its tokens. */
static bool is_one_row(const ml_run_config *c)
{
    return c->objective.pooling == ML_POOLING_CLS || c->objective.pooling == ML_POOLING_LAST;
}

ml_status ml_shares_check_config(const ml_run_config *c, const ml_model_spec *spec, bool training)
{
    if (c->parallel.cp == 1) return ML_OK;
    if (spec->both_ways) return refuse(c, "encoders, whose tokens see both ways", "take cp 1");
    if (training && ml_run_config_is_exact(c) && !ml_run_config_comes_in_pieces(c))
        return ml_run_config_refuse(
            c, "parallel.cp",
            "numerics is grid: these gradients are sums over whole sequences, which one rank has "
            "to have; take lora without bias, modules_to_save, trained tokens and new heads, "
            "or cp 1, or numerics to fast");
    if (ml_run_config_is_exact(c) && ml_run_config_contrasts(c) && !is_one_row(c))
        return ml_run_config_refuse(
            c, "parallel.cp",
            "numerics is grid: a text's vector may be a mean over its tokens, which one rank has "
            "to have; set objective.pooling to last, or take cp 1, or numerics to fast");
    if (training && starts_from_pass(c))
        return refuse(c, "method.prefix_init other than random in layers",
                      "change it, or take cp 1");
    if (training && c->train.samples.file && c->train.samples.every > 0)
        return refuse(c, "train.samples, which generate", "leave them out, or take cp 1");
    return ML_OK;
}
