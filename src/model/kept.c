/* What forward keeps of a layer for backward: as which type and which part of it, and how it is
 * written and read again. Where it lies: activations.c. */
#include "model/model_private.h"

/* Whether something of this role in the layer trains; `vectors`: a bias counts, too. */
static bool role_trains(const ml_model *m, int64_t l, ml_role role, bool vectors)
{
    for (int64_t i = 0; i < m->nslots; i++) {
        const ml_model_slot *slot = &m->slots[i];
        bool is_it = slot->layer == l && slot->row->role == role && (vectors || !slot->vector);
        if (is_it && (slot->apart || slot->gradient)) return true;
    }
    return false;
}

/* Does the layer's matrix of this role train, or an adapter of it: does backward need its input? */
static bool needs_input(const ml_model *m, int64_t l, ml_role role, const ml_linear *linear)
{
    return role_trains(m, l, role, false) || linear->hook.backward;
}

/* As what rows of `width` numbers are kept of which backward takes `little`: to that 8 bits do
 * little harm. */
static ml_dtype dtype_of(const ml_model *m, int64_t width, bool little)
{
    const ml_block_format *blocks = ml_block_format_of(ML_Q8_0);
    bool rounds = little && m->dtype == ML_BF16 && m->mode == ML_ACTIVATIONS_FULL && !m->pieces &&
                  width % blocks->weights == 0;
    return rounds ? ML_Q8_0 : m->dtype;
}

/* Where nothing of `down` trains that would need its input, backward takes of h the activation's
 * slope alone, which 8 bits hold about as well as bf16 holds h. Both factors of a gated activation
 * are needed. */
bool keeps_slopes(const ml_model *m, int64_t l)
{
    return m->dtype == ML_BF16 && !m->pieces && !m->spec.gated &&
           !needs_input(m, l, ML_ROLE_DOWN, &m->layers[l].down);
}

bool has_h_again(const ml_model *m, ml_activation_mode mode)
{
    bool again = mode != ML_ACTIVATIONS_FULL;
    for (int64_t l = m->first_layer; !again && l < m->end_layer; l++)
        again = m->dtype == ML_BF16 && !keeps_slopes(m, l);
    return again;
}

/* Where nothing of `o` trains that would need attention's output, backward takes of it the sum over
 * each head of its product with its gradient alone. */
ml_dtype attention_dtype(const ml_model *m, int64_t l)
{
    return dtype_of(m, m->spec.head_dim, !needs_input(m, l, ML_ROLE_O, &m->layers[l].o));
}

/* Where nothing of the norm before the MLP and of `up` trains, backward takes of x2 what the norm's
 * gradient is corrected by, a small part of it. The statistics are of the numbers before. Where
 * branches are parallel it is x1. */
ml_dtype mlp_input_dtype(const ml_model *m, int64_t l)
{
    bool little = !is_parallel(m) && !role_trains(m, l, ML_ROLE_NORM2, true) &&
                  !needs_input(m, l, ML_ROLE_UP, &m->layers[l].up);
    return dtype_of(m, m->spec.width, little);
}

/* The residual stream is the same on every rank of the tp group: in checkpoint mode, which keeps
 * little else, each rank keeps a part of it. The convolution reads all of its input. */
bool keeps_part(const ml_model *m)
{
    return m->mode == ML_ACTIVATIONS_CHECKPOINT && m->tp > 1 && m->spec.conv_kernel == 0;
}

/* x1 of T rows in words of four bytes, as ranks divide it. */
int64_t stream_words(const ml_model *m, int64_t T)
{
    return (T * m->spec.width * (int64_t)ml_dtype_size(m->dtype) + 3) / 4;
}

void save_stream(const ml_model *m, const saved_layer *saved, int64_t T)
{
    int64_t n = stream_words(m, T), start = ml_part_start(n, m->tp, m->tp_rank);
    save_rows(m, saved->x1, 0, m->act.x, T * m->spec.width);
    if (saved->x1_part)
        memcpy(saved->x1_part, (float *)saved->x1 + start,
               (size_t)ml_part_count(n, m->tp, m->tp_rank) * sizeof(float));
}

void gather_stream(const ml_model *m, const saved_layer *saved, int64_t T)
{
    int64_t n = stream_words(m, T), start = ml_part_start(n, m->tp, m->tp_rank);
    if (!saved->x1_part) return;
    memcpy((float *)saved->x1 + start, saved->x1_part,
           (size_t)ml_part_count(n, m->tp, m->tp_rank) * sizeof(float));
    ml_grid_allgather_float(m->grid, ML_GROUP_TP, saved->x1, n);
}

void save_rows(const ml_model *m, void *saved, int64_t first, const float *x, int64_t count)
{
    if (m->dtype == ML_BF16)
        m->kernels->fp32_to_bf16(count, x, (uint16_t *)saved + first);
    else
        memcpy((float *)saved + first, x, (size_t)count * sizeof *x);
}

/* Numbers that are none make the loss none, too. */
void save_as(const ml_model *m, ml_dtype dtype, void *saved, const float *x, int64_t count)
{
    const ml_block_format *format = ml_block_format_of(dtype);
    ml_block_error error = {0};
    if (format->weights == 1)
        save_rows(m, saved, 0, x, count);
    else
        (void)ml_block_quantise(format, x, count / format->weights, saved, &error);
}

void round_to_bf16(const ml_model *m, float *x, int64_t count)
{
    enum { PIECE = 1024 };
    const ml_kernels *k = m->kernels;
    if (m->dtype != ML_BF16) return;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += PIECE) {
        uint16_t narrow[PIECE];
        int64_t n = ml_min(PIECE, count - first);
        k->fp32_to_bf16(n, x + first, narrow);
        k->bf16_to_fp32(n, narrow, x + first);
    }
}

void round_as_kept(const ml_model *m, float *x, int64_t count)
{
    if (m->pieces) round_to_bf16(m, x, count);
}

const float *saved_mlp_input(const ml_model *m, int64_t l, const chunk *c)
{
    const ml_dtype dtype = mlp_input_dtype(m, l);
    const void *saved = m->act.layers[l].x2;
    int64_t d = m->spec.width;
    float *wide = m->act.wide_x;
    if (dtype == m->dtype) return saved_rows(m, saved, c->first * d, wide, c->count * d);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < c->count; i++)
        ml_dtype_decode(dtype, saved, (c->first + i) * d, d, wide + i * d);
    return wide;
}

const float *saved_rows(const ml_model *m, const void *saved, int64_t first, float *wide,
                        int64_t count)
{
    if (m->dtype != ML_BF16) return (const float *)saved + first;
    m->kernels->bf16_to_fp32(count, (const uint16_t *)saved + first, wide);
    return wide;
}
