/* A micro-batch as a rank sees it: every operation of the passes, in their order, at the machine's
 * rates.
 *
 * Letters as in model.h: T tokens and R predicted rows of a micro-batch, d width, f MLP width, V
 * this rank's part of the vocabulary. */
#include "plan/passes.h"

#include <math.h>

#include "mpilora/stages.h"

enum { QKV, O, UP, DOWN, LINEARS };

/* ---- operations ---------------------------------------------------------------------------- */

static double product(const tally *t, ml_cost_kind kind, double T, double m, double n, double calls)
{
    const ml_machine *machine = t->step->machine;
    double bytes =
        calls * m * n * (t->dtype == ML_BF16 && kind <= ML_COST_FP32_BACKWARD ? 2.0 : 4.0);
    double computing =
        ml_cost_seconds(&machine->cost[kind], 2.0 * T * m * n, calls * m * n, T * (m + n));
    return fmax(computing, bytes / machine->memory_rate * (double)machine->cores);
}

/* Whether a run is to multiply in fp32 whatever its weights are in: its numerics or the product
 * path that it names have it so, where a path is not one of those that round, by their names. */
static bool keeps_fp32(const ml_run_config *c)
{
    static const char *const rounding[] = {"auto", "native-bf16", "native-amx", "onednn-bf16",
                                           NULL};
    return ml_run_config_is_exact(c) || (c->backend && ml_find_word(c->backend, rounding) < 0);
}

/* The rates in bf16 are of the path that bench machine took: where it multiplied by units of bf16,
 * by far faster than in fp32, a run that does not has the rates of fp32. Else the path is the same,
 * and the rates in bf16 know that its weights are half as large. */
static ml_cost_kind kind_of(const tally *t, ml_cost_kind bf16, ml_cost_kind fp32)
{
    static const double by_units = 1.5;
    const ml_cost *cost = t->step->machine->cost;
    bool in_fp32 = t->dtype != ML_BF16 || (keeps_fp32(t->step->config) &&
                                           cost[bf16].gflops > by_units * cost[fp32].gflops);
    return in_fp32 ? fp32 : bf16;
}

static ml_cost_kind forward_kind(const tally *t)
{
    return kind_of(t, ML_COST_BF16_FORWARD, ML_COST_FP32_FORWARD);
}
static ml_cost_kind backward_kind(const tally *t)
{
    return kind_of(t, ML_COST_BF16_BACKWARD, ML_COST_FP32_BACKWARD);
}

static void tp_sum(tally *t, double calls, double numbers)
{
    t->tp_calls += calls;
    t->tp_bytes += calls > 0.0 ? numbers * (double)sizeof(float) : 0.0;
}

/* So many floats of each token of a micro-batch come to all ranks that share it out, or gradients
 * to where they belong: half of a sum. */
static void gather_rows(tally *t, const micro *b, double width)
{
    double cp = (double)t->step->config->parallel.cp;
    if (cp == 1.0) return;
    t->cp_calls += 0.5;
    t->cp_bytes += 0.5 * cp * b->tokens * width * (double)sizeof(float);
}

/* Its keys and values. */
static void gather_keys(tally *t, const ml_layer *l, const micro *b)
{
    gather_rows(t, b, (double)(l->qkv.out - l->o.in));
}

/* Where bits are the same on every grid the queries and what belongs to them, one key/value head at
 * a time, in the place of the keys' gradients. */
static void gather_backward(tally *t, const ml_layer *l, const micro *b)
{
    int64_t h = t->spec->head_dim, groups = (l->qkv.out - l->o.in) / (2 * h), q = l->o.in;
    gather_keys(t, l, b);
    if (!ml_run_config_is_exact(t->step->config)) gather_keys(t, l, b);
    for (int64_t i = 0; ml_run_config_is_exact(t->step->config) && i < groups; i++)
        gather_rows(t, b, (double)(3 * q + q / h) / (double)groups);
}

static int64_t adapter_width(const tally *t, const ml_linear *l)
{
    return t->full || !l->hook.forward ? 0 : l->hook.saved_per_token - l->hook.scaled_per_token;
}

/* What a method of the model's own tensors trains of this layer: its weight, or a bias. */
static bool trains(const tally *t, const ml_linear *l, const char *what)
{
    char name[96];
    if (!t->apart || l->nparts == 0) return false;
    snprintf(name, sizeof name, "%s.%s", l->part[0].module, what);
    for (int64_t i = 0; i < ml_model_slots(t->model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(t->model, i);
        if (slot->apart && !strcmp(slot->name, name)) return true;
    }
    return false;
}

/* A bottleneck adapter on the layer's output: products with D and U, and backward twice as many. */
static double bottleneck(const tally *t, const ml_linear *l, ml_cost_kind kind, double T,
                         double products)
{
    if (!l->hook.after_forward) return 0.0;
    double d = (double)l->out, r = (double)t->step->config->method.sizes.bottleneck;
    return ml_cost_seconds(&t->step->machine->cost[kind], 2.0 * products * T * d * r, 0.0,
                           products * T * (d + r)) +
           elements(t, ML_ELEMENT_MOVE, T * d);
}

/* Without the sum over tp. */
static double linear_forward(const tally *t, const ml_linear *l, double T, double calls)
{
    double in = (double)l->in, out = (double)l->out, r = (double)adapter_width(t, l),
           pairs = r / (double)ml_max(1, t->step->config->method.rank);
    double seconds = product(t, forward_kind(t), T, out, in, calls);
    if (t->spec->qkv_bias) seconds += elements(t, ML_ELEMENT_MOVE, T * out);
    seconds += bottleneck(t, l, ML_COST_ADAPTER_FORWARD, T, 2.0);
    if (r <= 0.0) return seconds;
    seconds += ml_cost_seconds(&t->step->machine->cost[ML_COST_ADAPTER_FORWARD],
                               2.0 * T * (r * in + r * out / (double)l->nparts), 0.0,
                               T * (in + out * pairs / (double)l->nparts));
    return seconds + (t->step->config->method.dropout > 0.0
                          ? elements(t, ML_ELEMENT_DROPOUT, T * in * pairs)
                          : 0.0);
}

static double linear_backward(const tally *t, const ml_linear *l, double T, double calls,
                              bool goes_on)
{
    double in = (double)l->in, out = (double)l->out, r = (double)adapter_width(t, l),
           pairs = r / (double)ml_max(1, t->step->config->method.rank);
    double seconds = goes_on ? product(t, backward_kind(t), T, out, in, calls) : 0.0;
    seconds += bottleneck(t, l, ML_COST_ADAPTER_BACKWARD, T, 4.0);
    if (trains(t, l, "bias")) seconds += elements(t, ML_ELEMENT_MOVE, T * out);
    if (trains(t, l, "weight")) seconds += product(t, ML_COST_WEIGHT_GRADIENT, T, out, in, calls);
    if (r <= 0.0) return seconds;
    seconds += ml_cost_seconds(&t->step->machine->cost[ML_COST_ADAPTER_BACKWARD],
                               4.0 * T * (r * in + r * out / (double)l->nparts), 0.0,
                               T * (in + out * pairs / (double)l->nparts));
    return seconds + (t->step->config->method.dropout > 0.0
                          ? elements(t, ML_ELEMENT_DROPOUT, 2.0 * T * in * pairs)
                          : 0.0);
}

/* ---- a micro-batch ------------------------------------------------------------------------- */

static void find_chunks(const tally *t, micro *b)
{
    int64_t chunk, head;
    ml_model_chunks(t->model, (int64_t)ceil(b->tokens), true, &chunk, &head);
    b->chunks = ceil(b->tokens / (double)chunk);
    b->last_chunks = ceil(b->rows / (double)chunk);
    b->head_chunks = ceil(b->rows / (double)head);
}

/* Rows of relative terms that sequences of the average length have. */
static double relative_rows(const tally *t)
{
    int64_t last = (int64_t)ceil(t->step->sequence.tokens) - 1;
    return (double)(ml_model_relative_row(t->spec, last) - ml_model_relative_row(t->spec, -last) +
                    1);
}

/* Work of attention with relative terms, as a multiple of what it is without. Each term is one
 * product more beside two, backward three beside five, with as many rows as the distances of each
 * pair of blocks have: all rows, and those again that neighbouring pairs share. */
static double relative_work(const tally *t, bool backward)
{
    enum { BLOCK = 64 };
    double terms = (t->spec->relative_keys ? 1.0 : 0.0) + (t->spec->relative_queries ? 1.0 : 0.0),
           n = t->step->sequence.tokens;
    if (terms == 0.0) return 1.0;
    return 1.0 + terms * (backward ? 0.6 : 0.5) * (relative_rows(t) + fmax(0.0, n - BLOCK)) / n;
}

static const ml_linear *relative_linear(const tally *t, const ml_layer *l)
{
    return t->spec->relative_shared ? &l->qkv : &l->pos;
}

/* The convolution behind the first layer, of T tokens. */
static void convolution(tally *t, double T, double calls)
{
    double d = (double)t->spec->width, in = d * (double)t->spec->conv_kernel;
    if (t->spec->conv_kernel == 0) return;
    double forward = product(t, forward_kind(t), T, d, in, calls) +
                     elements(t, ML_ELEMENT_MOVE, T * in) +
                     elements(t, ML_ELEMENT_NORM_FORWARD, T * d);
    t->forward += forward;
    t->backward += elements(t, ML_ELEMENT_NORM_BACKWARD, T * d);
    if (t->full)
        t->backward += forward + product(t, backward_kind(t), T, d, in, calls) +
                       product(t, ML_COST_WEIGHT_GRADIENT, T, d, in, calls);
}

static double attention(const tally *t, ml_cost_kind kind, const ml_layer *l, const micro *b)
{
    double width = (double)l->o.in;
    double work = 4.0 * b->pairs * relative_work(t, kind == ML_COST_ATTENTION_BACKWARD);
    kind = kind_of(t, kind, kind + ML_COST_FP32_ATTENTION_FORWARD - ML_COST_ATTENTION_FORWARD);
    double seconds =
        ml_cost_seconds(&t->step->machine->cost[kind], work * width, 0.0, b->tokens * width);
    if (ml_model_is_relative(t->spec)) /* projected, and again for backward */
        seconds += linear_forward(t, relative_linear(t, l), relative_rows(t), 1.0);
    if (t->spec->positions == ML_POSITIONS_ROTARY)
        seconds += elements(t, ML_ELEMENT_MOVE, 2.0 * b->tokens * (double)l->qkv.out);
    if (t->spec->qk_norm)
        seconds += elements(t, ML_ELEMENT_NORM_FORWARD, b->tokens * (double)l->qkv.out);
    return seconds;
}

static double activation(const tally *t, bool backward, double n)
{
    bool gated = t->spec->gated;
    ml_element_kind first = gated ? ML_ELEMENT_GATED_FORWARD : ML_ELEMENT_ACTIVATION_FORWARD;
    return elements(t, backward ? first + 1 : first, n);
}

/* norm1, q|k|v, attention: once forward, and again where nothing of it was kept. */
static double layer_attention(tally *t, const ml_layer *l, const micro *b)
{
    double T = b->tokens, d = (double)t->spec->width;
    return elements(t, ML_ELEMENT_NORM_FORWARD, T * d) + linear_forward(t, &l->qkv, T, b->chunks) +
           attention(t, ML_COST_ATTENTION_FORWARD, l, b) +
           elements(t, ML_ELEMENT_MOVE, T * (d + (double)(l->qkv.out + l->o.in)));
}

/* A norm behind a branch, where the model has these. */
static double norm_behind(const tally *t, ml_element_kind kind, double T)
{
    bool behind = t->spec->norm_places == ML_NORMS_BEHIND ||
                  t->spec->norm_places == ML_NORMS_BOTH || t->spec->norm_places == ML_NORMS_SUM;
    return behind ? elements(t, kind, T * (double)t->spec->width) : 0.0;
}

static double project(tally *t, const ml_layer *l, double T, double calls)
{
    tp_sum(t, calls, T * (double)t->spec->width);
    return linear_forward(t, &l->o, T, calls) + norm_behind(t, ML_ELEMENT_NORM_FORWARD, T) +
           elements(t, ML_ELEMENT_MOVE, 2.0 * T * (double)t->spec->width);
}

static void layer_forward(tally *t, const ml_layer *l, const micro *b, double T, double calls)
{
    double d = (double)t->spec->width;
    gather_keys(t, l, b);
    t->forward += layer_attention(t, l, b) + project(t, l, T, calls);
    t->forward += elements(t, ML_ELEMENT_NORM_FORWARD, T * d) + linear_forward(t, &l->up, T, calls);
    t->forward += elements(t, ML_ELEMENT_MOVE, T * ((double)l->up.out + d)) +
                  activation(t, false, T * (double)l->down.in);
    t->forward +=
        linear_forward(t, &l->down, T, calls) + norm_behind(t, ML_ELEMENT_NORM_FORWARD, T);
    tp_sum(t, calls, T * d);
}

/* What the activation mode did not keep. */
static void layer_again(tally *t, const ml_layer *l, const micro *b, double T, double calls,
                        ml_activation_mode mode, bool last)
{
    if (mode == ML_ACTIVATIONS_FULL) return;
    t->backward += elements(t, ML_ELEMENT_NORM_FORWARD, T * (double)t->spec->width) +
                   linear_forward(t, &l->up, T, calls);
    if (mode != ML_ACTIVATIONS_CHECKPOINT || last) return;
    gather_keys(t, l, b);
    t->backward += layer_attention(t, l, b) + project(t, l, T, calls);
    /* The ranks' parts of x come together, which is half of a sum. */
    if (t->spec->conv_kernel == 0)
        tp_sum(t, 1.0, T * (double)(t->spec->width * (int64_t)ml_dtype_size(t->dtype)) / 8.0);
}

static bool has_trained(const tally *t, const ml_linear *l)
{
    return l->hook.self || trains(t, l, "bias") || trains(t, l, "weight");
}

/* The first linear layer of a layer that trains: in the first layer that has one, no gradient is
 * needed before it. What projects distances lies where q, k and v do. LINEARS: none; −1: what is
 * before them all. */
static int first_trained(const tally *t, const ml_layer *l)
{
    const ml_linear *const all[LINEARS] = {&l->qkv, &l->o, &l->up, &l->down};
    int i = 0;
    if (ml_method_has_keys(t->method)) return QKV;
    if (t->full || ml_method_has_prefix(t->method)) return -1;
    if (has_trained(t, &l->pos)) return QKV;
    while (i < LINEARS && !has_trained(t, all[i])) i++;
    return i;
}

/* stop: operations of this layer up to this one need no input gradient; −1: all need it. */
static void layer_backward(tally *t, const ml_layer *l, const micro *b, double T, double calls,
                           int stop)
{
    double d = (double)t->spec->width, all = b->tokens;
    double behind =
        norm_behind(t, ML_ELEMENT_NORM_FORWARD, T) + norm_behind(t, ML_ELEMENT_NORM_BACKWARD, T);
    t->backward += behind + linear_backward(t, &l->down, T, calls, stop < DOWN) +
                   elements(t, ML_ELEMENT_MOVE, T * (d + (double)l->up.out));
    if (stop >= DOWN) return;
    t->backward += activation(t, true, T * (double)l->down.in) +
                   linear_backward(t, &l->up, T, calls, stop < UP);
    if (stop >= UP) return;
    tp_sum(t, calls, T * d);
    t->backward += behind + elements(t, ML_ELEMENT_NORM_BACKWARD, T * d) +
                   linear_backward(t, &l->o, T, calls, stop < O);
    if (stop >= O) return;
    gather_backward(t, l, b);
    t->backward += attention(t, ML_COST_ATTENTION_BACKWARD, l, b) +
                   elements(t, ML_ELEMENT_MOVE, all * (d + (double)(l->qkv.out + l->o.in)));
    if (ml_model_is_relative(t->spec))
        t->backward += linear_backward(t, relative_linear(t, l), relative_rows(t), 1.0, t->full);
    t->backward += elements(t, ML_ELEMENT_NORM_FORWARD, all * d) +
                   linear_backward(t, &l->qkv, all, b->chunks, stop < QKV);
    if (stop >= QKV) return;
    tp_sum(t, b->chunks, all * d);
    t->backward += elements(t, ML_ELEMENT_NORM_BACKWARD, all * d);
}

/* What projects T rows from or to an embedding of a width of its own; `back`: with the gradient. */
static void projection(tally *t, double T, double calls, bool back)
{
    double d = (double)t->spec->width, e = (double)t->spec->embed_width;
    if (t->spec->embed_width == 0) return;
    t->forward += product(t, forward_kind(t), T, d, e, calls);
    if (back) t->backward += product(t, backward_kind(t), T, d, e, calls);
    if (t->full) t->backward += product(t, ML_COST_WEIGHT_GRADIENT, T, d, e, calls);
}

static void head(tally *t, double vocab, const micro *b)
{
    double d = (double)t->spec->width, e = (double)ml_model_embed_width(t->spec), R = b->rows;
    projection(t, R, b->head_chunks, true);
    t->forward += elements(t, ML_ELEMENT_NORM_FORWARD, R * d);
    t->backward += elements(t, ML_ELEMENT_NORM_BACKWARD, R * d);
    if (t->spec->head != ML_HEAD_LANGUAGE) return;        /* a few labels of a few rows */
    if (ml_run_config_contrasts(t->step->config)) return; /* hidden states alone */
    t->forward += product(t, forward_kind(t), R, vocab, e, b->head_chunks) +
                  elements(t, ML_ELEMENT_CROSS_ENTROPY, 0.5 * R * vocab);
    t->backward += elements(t, ML_ELEMENT_CROSS_ENTROPY, 0.5 * R * vocab) +
                   product(t, backward_kind(t), R, vocab, e, b->head_chunks);
    if (t->full) t->backward += product(t, ML_COST_WEIGHT_GRADIENT, R, vocab, e, b->head_chunks);
    tp_sum(t, 3.0 * b->head_chunks, R * (e + 3.0));
}

void micro_batch(tally *t, ml_model *model, const micro *batch, ml_activation_mode mode)
{
    micro b = *batch;
    double vocab = (double)((t->spec->vocab + t->step->config->parallel.tp - 1) /
                            t->step->config->parallel.tp);
    bool goes_back = false; /* a layer before this one trains */
    int64_t first, end;
    ml_model_stage_layers(model, &first, &end);
    find_chunks(t, &b);
    if (first == 0) {
        t->forward += elements(t, ML_ELEMENT_MOVE, b.tokens * (double)t->spec->width);
        tp_sum(t, 1.0, b.tokens * (double)t->spec->width);
        projection(t, b.tokens, b.chunks, t->full);
    }
    for (int64_t i = 0; i < first; i++)
        goes_back = goes_back || first_trained(t, ml_model_layer(model, i)) != LINEARS;
    for (int64_t i = first; i < end; i++) {
        const ml_layer *l = ml_model_layer(model, i);
        bool last = i == t->spec->layers - 1;
        b.pairs = ml_model_window(t->spec, i) > 0 ? batch->near_pairs : batch->pairs;
        double T = last ? b.rows : b.tokens, calls = last ? b.last_chunks : b.chunks;
        layer_forward(t, l, &b, T, calls);
        if (i == 0) convolution(t, b.tokens, b.chunks);
        int stop = goes_back ? -1 : first_trained(t, l);
        if (stop == LINEARS) continue;
        layer_again(t, l, &b, T, calls, mode, last);
        layer_backward(t, l, &b, T, calls, stop);
        goes_back = true;
    }
    if (end == t->spec->layers) head(t, vocab, &b);
}
