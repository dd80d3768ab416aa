/* Sums over what tp cuts, in leaves: a leaf's products are added into one vector after the other,
 * each behind the last one, and the leaves as a tree. On one rank the tree has all leaves; on more
 * each of them has a node of it, and ml_grid_sum_ordered goes on from there.
 *
 * A leaf is a sum of its own before it is added to another: a product that adds to what is there
 * (beta 1) does so once for each of its blocks of depth, which a leaf on a rank of its own does
 * not. Of four leaves two sums wait in memory, of eight three. */
#include "linear/leaves.h"

#include "mpilora/blocks.h"

void ml_linear_set_leaves(ml_linear *layer, int leaves, int tp, int tp_rank)
{
    layer->leaves = leaves;
    layer->leaf_first = leaves / tp * tp_rank;
    layer->leaf_end = leaves / tp * (tp_rank + 1);
}

/* Whole units, and of a matrix in blocks whole blocks of its rows. */
static int64_t leaf_start(const ml_linear *layer, int part, int leaf)
{
    const ml_linear_part *p = &layer->part[part];
    int64_t start = p->unit * ml_part_start(p->units, layer->leaves, leaf);
    if (layer->kind == ML_LINEAR_ROW) {
        bool blocks = layer->nweights > 0 && ml_dtype_is_block(layer->weight[0].dtype);
        int64_t block = blocks ? ml_block_format_of(layer->weight[0].dtype)->weights : 1;
        return ml_round_up(start, block) - layer->first_in;
    }
    for (int i = 0; i < part; i++) start += layer->part[i].count;
    return start - p->first;
}

ml_rows ml_linear_leaf(const ml_linear *layer, int part, int leaf)
{
    int64_t first = leaf_start(layer, part, leaf);
    return (ml_rows){first, leaf_start(layer, part, leaf + 1) - first};
}

/* ---- the tree ------------------------------------------------------------------------------ */

/* Of some neighbours those that are added first. */
static int left_of(int leaves)
{
    int left = 1;
    while (2 * left < leaves) left *= 2;
    return left;
}

int64_t ml_linear_leaf_rooms(int leaves)
{
    if (leaves <= 1) return 0;
    int left = left_of(leaves), right = leaves - left;
    return ml_max(ml_linear_leaf_rooms(left), 1 + ml_linear_leaf_rooms(right));
}

typedef struct tree {
    const ml_kernels *kernels;
    ml_leaf_product *multiply;
    const void *self;
    int64_t floats; /* of y */
} tree;

static void add_up(const tree *t, int first, int leaves, float *y, float *rooms)
{
    if (leaves == 1) {
        t->multiply(t->self, first, y);
        return;
    }
    int left = left_of(leaves), right = leaves - left;
    add_up(t, first, left, y, rooms);
    add_up(t, first + left, right, rooms, rooms + t->floats);
    t->kernels->add(t->floats, rooms, y);
}

void ml_linear_sum_leaves(const ml_linear *layer, const ml_pass *pass, ml_leaf_product *multiply,
                          const void *self, int64_t n, float *y)
{
    const tree t = {pass->kernels, multiply, self, pass->tokens * n};
    add_up(&t, layer->leaf_first, layer->leaf_end - layer->leaf_first, y, pass->partial);
    if (pass->grid) ml_grid_sum_ordered(pass->grid, ML_GROUP_TP, y, t.floats);
}

/* ---- the products -------------------------------------------------------------------------- */

typedef struct operands {
    const ml_linear *layer;
    const ml_pass *pass;
    const float *x; /* or dy */
} operands;

static void multiply_columns(const void *self, int leaf, float *y)
{
    const operands *o = self;
    const ml_linear *layer = o->layer;
    const ml_kernels *k = o->pass->kernels;
    const ml_rows columns = ml_linear_leaf(layer, 0, leaf);
    k->columns_forward(k, o->pass->tokens, o->x + columns.first, layer->in, &layer->weight[0],
                       columns.first, columns.count, 0.0F, y, layer->out);
}

void ml_linear_forward_leaves(const ml_linear *layer, const ml_pass *pass, const float *x, float *y)
{
    const operands o = {layer, pass, x};
    ml_linear_sum_leaves(layer, pass, multiply_columns, &o, layer->out, y);
}

/* The leaf of each projection that is among rows [first, end) of the layer's; returns how many. */
static int leaf_rows(const ml_linear *layer, int leaf, int64_t first, int64_t end,
                     ml_rows run[ML_LINEAR_PARTS])
{
    int count = 0;
    for (int part = 0; part < layer->nparts; part++) {
        const ml_rows rows = ml_linear_leaf(layer, part, leaf);
        if (rows.count > 0 && rows.first >= first && rows.first < end)
            run[count++] = (ml_rows){rows.first - first, rows.count};
    }
    return count;
}

/* Of all projections: they are one sum. */
static void multiply_rows(const void *self, int leaf, float *dx)
{
    float beta = 0.0F;
    const operands *o = self;
    const ml_linear *layer = o->layer;
    const ml_kernels *k = o->pass->kernels;
    int64_t first = 0;
    for (int i = 0; i < layer->nweights; first += layer->weight[i++].rows, beta = 1.0F) {
        const ml_weight *w = &layer->weight[i];
        ml_rows run[ML_LINEAR_PARTS];
        int runs = leaf_rows(layer, leaf, first, first + w->rows, run);
        k->rows_backward(k, o->pass->tokens, o->x + first, layer->out, w, runs, run, beta, dx,
                         layer->in);
    }
}

void ml_linear_backward_leaves(const ml_linear *layer, const ml_pass *pass, const float *dy,
                               float *dx)
{
    const operands o = {layer, pass, dy};
    ml_linear_sum_leaves(layer, pass, multiply_rows, &o, layer->in, dx);
}
