/* Column- and row-parallel linear layers: the local product, the adapter's hook, one named sum. */
#include "linear/leaves.h"

#include "mpilora/blocks.h"

void ml_linear_describe(ml_linear *layer, ml_linear_kind kind, int nparts,
                        const char *const *modules, const int64_t *outs, int64_t global_in,
                        const int64_t *units, const bool *repeat, int tp, int tp_rank)
{
    *layer = (ml_linear){.kind = kind, .nparts = nparts, .global_in = global_in, .in = global_in};
    for (int i = 0; i < nparts; i++) {
        ml_linear_part *part = &layer->part[i];
        snprintf(part->module, sizeof part->module, "%s", modules[i]);
        part->out = part->count = outs[i];
        part->copies = 1;
        part->units = units[i];
        part->unit = (kind == ML_LINEAR_COLUMN ? outs[i] : global_in) / units[i];
        if (kind == ML_LINEAR_COLUMN) {
            int64_t rows = outs[i] / units[i];
            const ml_unit_range own = ml_shard_units(units[i], repeat && repeat[i], tp, tp_rank);
            part->first = rows * own.first;
            part->count = rows * own.count;
            part->copies = own.copies;
            part->spare = own.spare;
        }
        layer->out += part->count;
    }
    if (kind == ML_LINEAR_ROW) {
        int64_t columns = global_in / units[0];
        layer->first_in = columns * ml_part_start(units[0], tp, tp_rank);
        layer->in = columns * ml_part_count(units[0], tp, tp_rank);
    }
}

ml_shard ml_linear_weight_shard(const ml_linear *layer, int part)
{
    ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = 1};
    shard.part[0].start = layer->part[part].first;
    shard.part[0].count = layer->part[part].count;
    shard.copied = layer->part[part].copies > 1;
    shard.copies = layer->part[part].copies;
    shard.spare = layer->part[part].spare;
    if (layer->kind == ML_LINEAR_ROW) {
        shard.dim = ML_SHARD_COLS;
        shard.part[0].start = layer->first_in;
        shard.part[0].count = layer->in;
    }
    return shard;
}

ml_shard ml_linear_bias_shard(const ml_linear *layer, int part)
{
    return layer->kind == ML_LINEAR_ROW ? (ml_shard){.dim = ML_SHARD_WHOLE}
                                        : ml_linear_weight_shard(layer, part);
}

bool ml_linear_needs_input(const ml_linear *layer)
{
    return layer->hook.backward || layer->weight_gradient;
}

bool ml_linear_trains(const ml_linear *layer)
{
    bool biases = false;
    for (int i = 0; i < layer->nparts; i++) biases = biases || layer->bias_gradient[i];
    return layer->hook.self || layer->weight_gradient || biases;
}

void ml_linear_product(const ml_linear *layer, const ml_kernels *k, int64_t T, const float *x,
                       float *y)
{
    for (int i = 0; i < layer->nweights; y += layer->weight[i++].rows)
        k->weight_forward(k, T, x, layer->in, &layer->weight[i], 0.0F, y, layer->out);
}

static void multiply_backward(const ml_linear *layer, const ml_pass *pass, const float *dy,
                              float *dx)
{
    const ml_kernels *k = pass->kernels;
    bool sparse = pass->sparse && k->sparse_backward;
    for (int i = 0; i < layer->nweights; dy += layer->weight[i++].rows)
        (sparse ? k->sparse_backward : k->weight_backward)(
            k, pass->tokens, dy, layer->out, &layer->weight[i], i > 0 ? 1.0F : 0.0F, dx, layer->in);
}

void ml_linear_row(const ml_linear *layer, int64_t row, int64_t first, int64_t count, float *out)
{
    const ml_weight *w = layer->weight;
    for (; row >= w->rows; w++) row -= w->rows;
    ml_dtype_decode(w->dtype, w->data, row * w->cols + first, count, out);
}

static void sum_over_tp(const ml_pass *pass, float *x, int64_t n)
{
    if (pass->grid) ml_grid_sum_float(pass->grid, ML_GROUP_TP, x, pass->tokens * n);
}

void ml_linear_forward(const ml_linear *layer, const ml_pass *pass, const float *x, float *y)
{
    const ml_kernels *k = pass->kernels;
    bool row = layer->kind == ML_LINEAR_ROW, leaves = layer->leaves > 0;
    if (row && leaves)
        ml_linear_forward_leaves(layer, pass, x, y);
    else
        ml_linear_product(layer, k, pass->tokens, x, y);
    if (layer->hook.forward) layer->hook.forward(layer->hook.self, pass, x, y);
    if (row && !leaves) sum_over_tp(pass, y, layer->out);
    float *part = y;
    for (int i = 0; i < layer->nparts; part += layer->part[i++].count)
        if (layer->bias[i])
            k->add_bias(pass->tokens, layer->part[i].count, layer->bias[i], part, layer->out);
    if (layer->hook.after_forward) layer->hook.after_forward(layer->hook.self, pass, y);
}

void ml_linear_backward(const ml_linear *layer, const ml_pass *pass, const float *x,
                        const float *dy, float *dx)
{
    const ml_kernels *k = pass->kernels;
    if (layer->hook.after_backward) dy = layer->hook.after_backward(layer->hook.self, pass, dy);
    const float *part = dy;
    for (int i = 0; i < layer->nparts; part += layer->part[i++].count)
        if (layer->bias_gradient[i])
            k->sum_rows(pass->tokens, layer->part[i].count, part, layer->out,
                        layer->bias_gradient[i]);
    if (layer->hook.scale_backward) dy = layer->hook.scale_backward(layer->hook.self, pass, dy);
    if (layer->weight_gradient)
        k->gemm(k, true, false, layer->out, layer->in, pass->tokens, 1.0F, dy, layer->out, x,
                layer->in, 1.0F, layer->weight_gradient, layer->in);
    bool column = layer->kind == ML_LINEAR_COLUMN, leaves = layer->leaves > 0;
    if (dx && column && leaves)
        ml_linear_backward_leaves(layer, pass, dy, dx);
    else if (dx)
        multiply_backward(layer, pass, dy, dx);
    if (layer->hook.backward) layer->hook.backward(layer->hook.self, pass, x, dy, dx);
    if (dx && column && !leaves) sum_over_tp(pass, dx, layer->in);
}
