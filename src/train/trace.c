/* trace.jsonl (run.trace): a line a step, rank and tensor, with hashes of the tensor's gradient
 * before it is summed over the grid and after. Where two runs part, `verify --same` finds the first
 * line that differs: what differs before the sum was computed otherwise, what differs only after it
 * was summed otherwise.
 *
 * Every rank hashes what it holds; world rank 0 gathers the lines, rank by rank, and writes them
 * when the step ends. */
#include <inttypes.h>

#include "train/run.h"

ml_status trace_create(run *r)
{
    ml_status st = ML_OK;
    int64_t count = r->session.parameters.count;
    if (!r->config->trace) return ML_OK;
    ML_NEW(r->trace.before, count, ML_MEM_OTHER, "the hashes of run.trace");
    ML_NEW(r->trace.after, count, ML_MEM_OTHER, "the hashes of run.trace");
done:
    return st;
}

void trace_destroy(run *r)
{
    ml_memory_free(r->trace.before);
    ml_memory_free(r->trace.after);
    r->trace = (gradient_trace){0};
}

void trace_gradients(const session *s, bool summed, trace_hash *out)
{
    const ml_parameters *p = &s->parameters;
    char hash[ML_SHA256_HEX];
    bool exact = p->sum && !summed;
    for (int64_t i = 0; out && i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        const void *held = exact ? (const void *)(p->sum + item->offset)
                                 : (const void *)(p->gradient + item->offset);
        ml_sha256_of(held, (size_t)(item->count * ml_gradient_bytes(exact)), hash);
        snprintf(out[i].hex, sizeof out[i].hex, "%.16s", hash);
    }
}

/* Which part of the tensor this rank holds: "whole", "rows 0+32 64+32", "columns 8+8". */
static void describe_part(const ml_parameter *item, char *out, size_t size)
{
    const ml_shard *shard = &item->shard;
    size_t used = (size_t)snprintf(out, size, "%s",
                                   shard->dim == ML_SHARD_WHOLE  ? "whole"
                                   : shard->dim == ML_SHARD_ROWS ? "rows"
                                                                 : "columns");
    for (int i = 0; i < shard->nparts && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, " %" PRId64 "+%" PRId64,
                                 shard->part[i].start, shard->part[i].count);
}

/* This rank's lines. Where the moments are divided a rank has the sum of its share alone: there is
 * no hash after the sum. */
static ml_status make_lines(const run *r, ml_text *out)
{
    ml_status st = ML_OK;
    const ml_parameters *p = &r->session.parameters;
    const ml_grid *grid = r->session.grid;
    char part[192];
    for (int64_t i = 0; i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        if (item->count == 0) continue; /* another stage's */
        describe_part(item, part, sizeof part);
        ML_TRY(ml_text_printf(
            out,
            "{\"step\": %" PRId64 ", \"rank\": %d, \"grid\": \"dp %d, tp %d, cp %d, pp %d\", "
            "\"tensor\": \"%s\", \"part\": \"%s\", \"before\": \"%s\", \"after\": ",
            r->step + 1, ml_grid_rank(grid), ml_grid_dp(grid), ml_grid_tp(grid), ml_grid_cp(grid),
            ml_grid_pp(grid), item->name, part, r->trace.before[i].hex));
        ML_TRY(p->dp > 1 ? ml_text_printf(out, "null}\n")
                         : ml_text_printf(out, "\"%s\"}\n", r->trace.after[i].hex));
    }
done:
    return st;
}

/* On world rank 0, which has room for the longest rank's lines in `lines`. */
static ml_status write_all(const run *r, ml_text *lines, int64_t own, int64_t most)
{
    ml_status st = trace_write(r, lines->data, own);
    for (int from = 1; from < ml_grid_size(r->session.grid); from++) {
        int64_t length;
        ml_grid_receive(r->session.grid, from, &length, (int64_t)sizeof length);
        ml_grid_receive(r->session.grid, from, lines->data, ml_min(length, most));
        if (st == ML_OK) st = trace_write(r, lines->data, length);
    }
    return st;
}

ml_status trace_step(const run *r)
{
    ml_text lines = {0};
    const ml_grid *grid = r->session.grid;
    if (!r->config->trace) return ML_OK;
    ml_status st = ml_grid_agree(grid, make_lines(r, &lines));
    int64_t own = lines.length, most = own;
    if (st != ML_OK) goto done;
    ml_grid_max_int64(grid, ML_GROUP_WORLD, &most, 1);
    while (ml_grid_rank(grid) == 0 && st == ML_OK && lines.length < most)
        st = ml_text_printf(&lines, "%*s", (int)ml_min(1 << 20, most - lines.length), "");
    st = ml_grid_agree(grid, st);
    if (st != ML_OK) goto done;
    if (ml_grid_rank(grid) == 0) {
        st = write_all(r, &lines, own, most);
    } else {
        ml_grid_send(grid, 0, &own, (int64_t)sizeof own);
        ml_grid_send(grid, 0, lines.data, own);
    }
    st = ml_grid_agree(grid, st);
done:
    ml_text_destroy(&lines);
    return st;
}
