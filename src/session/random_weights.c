/* Weights of a trial: normal numbers like those of a model before training, drawn by each rank for
 * itself; norms are 1, biases 0. */
#include "session/session.h"

enum { PIECE = 1 << 20 }; /* values drawn at a time */

static void fill_vector(const ml_model_slot *slot, float *to)
{
    float value = strstr(slot->name, "bias") ? 0.0F : 1.0F;
    for (int64_t i = 0; i < slot->count; i++) to[i] = value;
}

/* Into `wide`, or narrowed into `narrow` where that is not NULL. */
static void fill_matrix(const session *s, const ml_model_slot *slot, float *wide,
                        uint16_t *fp32_to_bf16, float *piece)
{
    const double deviation = 0.02;
    ml_random_key key = ml_random_key_make(s->config->seed, slot->name);
    for (int64_t at = 0; at < slot->count; at += PIECE) {
        int64_t n = ml_min(PIECE, slot->count - at);
        ml_random_normals(key, (uint64_t)ml_grid_tp_rank(s->grid), (uint64_t)at, n, deviation,
                          fp32_to_bf16 ? piece : wide + at);
        if (fp32_to_bf16) s->kernels->fp32_to_bf16(n, piece, fp32_to_bf16 + at);
    }
}

ml_status draw_weights(session *s)
{
    ml_status st = ML_OK;
    float *piece = NULL;
    ML_NEW(piece, PIECE, ML_MEM_OTHER, "a piece of a tensor");
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        ml_model_slot *slot = ml_model_slot_at(s->model, i);
        float *master = s->peft ? ml_peft_master(s->peft, i) : NULL;
        bool fp32_to_bf16 = !master && slot->dtype == ML_BF16;
        float *wide = master ? master : fp32_to_bf16 ? NULL : slot->data;
        if (slot->vector)
            fill_vector(slot, wide);
        else
            fill_matrix(s, slot, wide, fp32_to_bf16 ? slot->data : NULL, piece);
    }
done:
    ml_memory_free(piece);
    return st;
}
