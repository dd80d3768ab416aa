/* How many tokens the MLP and the head take at a time. More make better products, whose weights
 * come from memory and are packed for each chunk; fewer take less room. plan and training ask the
 * same function. */
#include "model/model_private.h"

enum { LEAST_CHUNK = ML_MODEL_PIECE };

int64_t logits_of_row(const ml_model *m)
{
    return m->spec.head == ML_HEAD_LANGUAGE ? m->vocab_count : 0;
}

/* T tokens in chunks of at most `most`, about equally long. */
static int64_t even_chunk(int64_t T, int64_t most)
{
    int64_t chunks = (T + most - 1) / ml_max(1, most);
    return ml_min(T, ml_round_up((T + chunks - 1) / ml_max(1, chunks), 8));
}

/* Of a token in the MLP's place, the same in every mode: chunks decide the order of sums. Of the
 * tp rank that holds most, the first, as below: the ranks sum over tp chunk by chunk, and would
 * wait for each other for ever where their numbers of chunks differed. */
static int64_t mlp_floats(const ml_model *m, bool backward)
{
    const ml_linear_part *part = &m->layers[0].down.part[0];
    int64_t a = part->unit * ml_part_count(part->units, m->tp, 0), h = m->spec.gated ? 2 * a : a;
    if (!backward) return h + a;
    bool slopes = m->dtype == ML_BF16 && !has_h_again(m, ML_ACTIVATIONS_FULL);
    return h + a + (slopes ? 0 : h) + (m->spec.gated ? a : 0);
}

/* Numbers of a stage's matrices, those of the head or the embedding among them. */
static int64_t matrix_numbers(const ml_model *m)
{
    int64_t sum = m->spec.vocab * m->spec.width;
    for (int64_t l = m->first_layer; l < m->end_layer; l++) {
        const ml_layer *layer = &m->layers[l];
        const ml_linear *linear[] = {&layer->qkv, &layer->o, &layer->up, &layer->down};
        for (size_t i = 0; i < sizeof linear / sizeof *linear; i++)
            sum += linear[i]->in * linear[i]->out;
    }
    return sum;
}

/* Chunks are as long as the room that attention or the logits need anyway allows, and no shorter
 * than makes good products: a weight comes from memory and is packed anew for every chunk. Logits
 * may have 32 MiB in any case, those of a large vocabulary as many rows as pay for that; the MLP of
 * a whole replica has what PACKED_ROWS rows take as long as that is a third of the matrices in
 * bf16 or less. (Ranks of a tp group sum a chunk while they compute the next one.) */
void choose_chunks(const ml_model *m, activations *a, int64_t T, int64_t room, bool backward)
{
    enum {
        LEAST_ROWS = 32,
        MOST_ROWS = 512,
        LARGE_VOCABULARY = 1 << 16,
        PAYING_ROWS = 256,
        PACKED_ROWS = 1024
    };
    int64_t matrices = m->spec.logit_cap > 0.0 ? 2 : 1, /* logits, and the slope of their cap */
        vocab = logits_of_row(m) > 0 ? ml_part_count(m->spec.vocab, m->tp, 0) : 0,
            row = (int64_t)sizeof(float) * matrices * vocab,
            rows = ml_max(room, (int64_t)32 << 20) / ml_max(row, 1) / LEAST_ROWS * LEAST_ROWS;
    if (m->chunk_most > 0) {
        a->chunk = a->head_chunk = ml_min(T, m->chunk_most);
        return;
    }
    int64_t least = vocab > LARGE_VOCABULARY ? PAYING_ROWS : LEAST_ROWS;
    a->head_chunk = ml_min(T, ml_max(least, ml_min(MOST_ROWS, rows)));
    const int64_t mlp = (int64_t)sizeof(float) * mlp_floats(m, backward);
    room = ml_max(room, a->head_chunk * row);
    if (m->tp == 1) room = ml_max(room, ml_min(PACKED_ROWS * mlp, matrix_numbers(m) * 2 / 3));
    a->chunk = even_chunk(T, ml_max(LEAST_CHUNK, room / mlp));
    if (m->pieces) a->chunk = ml_min(T, LEAST_CHUNK); /* whatever the micro-batch */
}
