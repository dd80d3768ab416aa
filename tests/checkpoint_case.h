/* checkpoint_case: a small set of trainable tensors, cut in every way there is, for the checkpoint
 * tests. */
#ifndef MPILORA_TESTS_CHECKPOINT_CASE_H
#define MPILORA_TESTS_CHECKPOINT_CASE_H

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "mpilora/checkpoint.h"

static ml_shard case_shard(int i, int64_t rows, int64_t cols, int tp, int rank)
{
    const ml_unit_range heads = ml_shard_units(2, true, tp, rank); /* of two rows */
    if (i == 1)                                                    /* rows */
        return (ml_shard){.dim = ML_SHARD_ROWS,
                          .nparts = 1,
                          .part = {{ml_part_start(rows, tp, rank), ml_part_count(rows, tp, rank)}}};
    if (i ==
        2) /* q, k and v in one tensor, each cut for itself; of k several ranks have the same */
        return (ml_shard){
            .dim = ML_SHARD_ROWS,
            .nparts = 3,
            .part = {{ml_part_start(8, tp, rank), ml_part_count(8, tp, rank)},
                     {8 + 2 * heads.first, 2 * heads.count},
                     {12 + ml_part_start(rows - 12, tp, rank), ml_part_count(rows - 12, tp, rank)}},
            .copied = heads.copies > 1 ? 2 : 0,
            .copies = heads.copies,
            .spare = heads.spare};
    if (i == 3)
        return (ml_shard){.dim = ML_SHARD_COLS,
                          .nparts = 1,
                          .part = {{ml_part_start(cols, tp, rank), ml_part_count(cols, tp, rank)}}};
    return (ml_shard){.dim = ML_SHARD_WHOLE};
}

static float case_value(int64_t tensor, int kind, int64_t index)
{
    return sinf((float)(tensor * 1000 + kind * 100) + (float)index);
}

/* Fills every buffer of this rank with the global tensors' values (or zeros). */
static void case_fill(ml_parameters *p, bool zero)
{
    float *buffers[] = {p->value, p->moment1, p->moment2};
    for (int64_t i = 0; i < p->count; i++) {
        const ml_parameter *item = &p->items[i];
        float *whole = calloc((size_t)(item->rows * item->cols), sizeof *whole);
        for (int kind = 0; kind < 3; kind++) {
            for (int64_t k = 0; !zero && k < item->rows * item->cols; k++)
                whole[k] = case_value(i, kind, k);
            ml_shard_take(&item->shard, item->rows, item->cols, whole,
                          buffers[kind] + item->offset);
        }
        free(whole);
    }
}

/* Without storage. */
static ml_parameters case_list(const ml_grid *grid)
{
    static const char *const names[] = {"layers.0.attn.q.A", "layers.0.attn.q.B",
                                        "layers.0.attn.qkv.B", "layers.0.attn.o.A", "norm.weight"};
    static const int64_t rows[] = {3, 11, 19, 2, 7}, cols[] = {10, 3, 2, 13, 1};
    ml_parameters p = {0};
    int tp = ml_grid_tp(grid), rank = ml_grid_tp_rank(grid);
    bool fine = true;
    for (int i = 0; i < 5; i++)
        fine = fine && ml_parameters_add(&p, names[i], rows[i], cols[i], i == 4,
                                         case_shard(i, rows[i], cols[i], tp, rank),
                                         ML_GRADIENT_PARTIAL, NULL) == ML_OK;
    if (!fine) abort();
    ml_parameters_lay_out(&p);
    return p;
}

static inline ml_parameters case_parameters(const ml_grid *grid)
{
    ml_parameters p = case_list(grid);
    if (ml_parameters_allocate(&p, true) != ML_OK) abort();
    return p;
}

/* How many values differ from what case_fill put there. */
static inline int64_t case_differences(const ml_parameters *p)
{
    int64_t wrong = 0;
    ml_parameters expected = *p;
    float *buffers[3], *found[] = {p->value, p->moment1, p->moment2};
    for (int kind = 0; kind < 3; kind++) buffers[kind] = calloc((size_t)p->local, sizeof(float));
    expected.value = buffers[0];
    expected.moment1 = buffers[1];
    expected.moment2 = buffers[2];
    case_fill(&expected, false);
    for (int kind = 0; kind < 3; kind++) {
        for (int64_t i = 0; i < p->local; i++)
            wrong += memcmp(&found[kind][i], &buffers[kind][i], sizeof(float)) != 0;
        free(buffers[kind]);
    }
    return wrong;
}

static const ml_checkpoint_identity case_identity[] = {
    {"base", "0123abcd", NULL}, {"method.rank", "8", NULL}, {"run.seed", "1", NULL}};

static ml_checkpoint_state case_state(int64_t step)
{
    return (ml_checkpoint_state){.progress = {.step = step,
                                              .cursor = step * 32,
                                              .tokens = step * 1000,
                                              .loss_first = 3.25,
                                              .loss_last = 1.0 / 3.0,
                                              .best_loss = NAN,
                                              .backend = "panels",
                                              .vector_path = "avx2"},
                                 .configuration = "run: {dir: x}\n",
                                 .identities = 3,
                                 .identity = case_identity};
}

#endif
