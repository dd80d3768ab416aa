/* What a step of a trial has to compute and to sum over tp, counted from the architecture alone. */
#include "bench/trial.h"

/* A linear layer of the architecture, whole. */
typedef struct linear_shape {
    double in, out;
} linear_shape;

static void shapes_of(const ml_model_spec *m, linear_shape shapes[TRIAL_LINEARS])
{
    for (int i = 0; i < TRIAL_LINEARS; i++) {
        shapes[i] = (linear_shape){0};
        for (const ml_family_tensor *row = m->family->tensors; row->module; row++) {
            if (row->role != trial_role[i] || row->bias || !ml_family_has(m, row)) continue;
            shapes[i].in = (double)ml_extent_size(m, row->cols);
            shapes[i].out += (double)ml_extent_size(m, row->rows);
        }
    }
}

/* Number of pairs on a linear layer, and the width of all their outputs together. */
static int pairs_of(const ml_model_spec *m, unsigned targets, int linear, double *out)
{
    int count = 0;
    *out = 0.0;
    for (const ml_family_tensor *row = ml_family_target(m->family->tensors); row;
         row = ml_family_target(row + 1)) {
        if (row->role != trial_role[linear] || !(targets & ml_target_find(row->target))) continue;
        *out += (double)ml_extent_size(m, row->rows);
        count++;
    }
    return count;
}

/* Does backward compute the gradient of this layer's input? */
static bool needs_input_gradient(const ml_trial *t, int64_t layer, int linear)
{
    return t->options.method == ML_TRIAL_FULL || layer > 0 ||
           linear > first_adapted(&t->spec, t->options.targets);
}

/* A token's flops in one linear layer. */
static double linear_flops(const ml_trial *t, const linear_shape *shape, int64_t layer, int linear)
{
    bool goes_on = needs_input_gradient(t, layer, linear);
    double weights = shape->in * shape->out, flops = 2.0 * weights, out;
    if (goes_on) flops += 2.0 * weights;
    if (t->options.method == ML_TRIAL_FULL) flops += 2.0 * weights;
    if (t->options.method != ML_TRIAL_LORA) return flops;
    double pairs = (double)pairs_of(&t->spec, t->options.targets, linear, &out),
           r = (double)t->options.rank;
    flops += 2.0 * r * (pairs * shape->in + out); /* forward */
    flops += 2.0 * r *
             (2.0 * out +
              (goes_on ? 2.0 : 1.0) * pairs * shape->in); /* dB, dH; dA, and dx where it goes on */
    return flops;
}

/* Of all layers and the whole step. Backward reaches layer 0's attention where its input has
 * something that trains. */
static double attention_flops(const ml_trial *t)
{
    bool to_the_end = t->options.method == ML_TRIAL_FULL ||
                      first_adapted(&t->spec, t->options.targets) == TRIAL_QKV;
    double flops = 0.0;
    for (int64_t l = 0; l < t->spec.layers; l++) {
        double pairs = (double)t->options.sequences *
                       ml_attention_pairs((double)t->options.length, ml_model_window(&t->spec, l),
                                          t->spec.both_ways);
        flops +=
            (l > 0 || to_the_end ? 12.0 : 4.0) * pairs * (double)(t->spec.heads * t->spec.head_dim);
    }
    return flops;
}

double trial_flops(const ml_trial *t)
{
    linear_shape shapes[TRIAL_LINEARS];
    double token = (t->options.method == ML_TRIAL_FULL ? 6.0 : 4.0) * (double)t->spec.vocab *
                   (double)t->spec.width;
    shapes_of(&t->spec, shapes);
    for (int64_t l = 0; l < t->spec.layers; l++)
        for (int i = 0; i < TRIAL_LINEARS; i++) token += linear_flops(t, &shapes[i], l, i);
    return token * (double)(t->options.sequences * t->options.length) + attention_flops(t);
}

/* Sums of T·d: the embedding, two a layer forward, and backward one for each gradient of a
 * column-parallel layer's input; of the head's rows (all tokens here) the gradient of its input,
 * the largest logit and two sums of the cross-entropy. */
int64_t trial_tp_bytes(const ml_trial *t)
{
    const session *s = &t->session;
    int64_t T = s->packer.batch.tokens, d = t->spec.width, sums = 1 + 2 * t->spec.layers + 1;
    if (ml_grid_tp(s->grid) == 1) return 0;
    for (int64_t l = 0; l < t->spec.layers; l++)
        sums += (needs_input_gradient(t, l, TRIAL_QKV) ? 1 : 0) +
                (needs_input_gradient(t, l, TRIAL_UP) ? 1 : 0);
    return (int64_t)sizeof(float) * T * (sums * d + 3);
}
