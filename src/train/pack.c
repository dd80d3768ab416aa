/* Sequences of a file, one after the other without padding, with the rows whose successor is a target. */
#include "train/session.h"

ml_status packer_create(packer *p, int64_t tokens, int64_t sequences, int64_t max_len)
{
    ml_status st = ML_OK;
    p->capacity_tokens = tokens;
    p->capacity_sequences = sequences;
    ML_NEW(p->token, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->target, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->row, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->start, sequences + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->key_sequence, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->sequence_token, max_len, ML_MEM_OTHER, "a sequence");
    ML_NEW(p->mask, max_len, ML_MEM_OTHER, "a sequence");
done:
    return st;
}

int64_t packer_bytes(int64_t tokens, int64_t sequences, int64_t max_len)
{
    const packer *p = NULL;
    size_t a_token = sizeof *p->token + sizeof *p->target + sizeof *p->row;
    size_t a_place = sizeof *p->sequence_token + sizeof *p->mask;
    return tokens * (int64_t)a_token + (sequences + 1) * (int64_t)sizeof *p->start + sequences * (int64_t)sizeof *p->key_sequence +
           max_len * (int64_t)a_place;
}

void packer_destroy(packer *p)
{
    ml_memory_free(p->token);
    ml_memory_free(p->target);
    ml_memory_free(p->row);
    ml_memory_free(p->start);
    ml_memory_free(p->key_sequence);
    ml_memory_free(p->sequence_token);
    ml_memory_free(p->mask);
    *p = (packer){0};
}

/* Tokens after the last one whose successor is a target are no input to anything: they are left out. */
static void append(packer *p, int64_t length)
{
    int64_t first = p->batch.tokens, inputs = 0;
    for (int64_t i = 0; i + 1 < length; i++) {
        if (!p->mask[i + 1]) continue;
        p->row[p->batch.rows] = first + i;
        p->target[p->batch.rows++] = p->sequence_token[i + 1];
        inputs = i + 1;
    }
    memcpy(p->token + first, p->sequence_token, (size_t)inputs * sizeof *p->token);
    p->batch.tokens += inputs;
    p->file_tokens += length;
}

ml_status pack_sequences(session *s, const data_source *source, int64_t first, int64_t count, bool keyed)
{
    packer *p = &s->packer;
    p->batch = (ml_batch){.token = p->token, .row = p->row, .target = p->target};
    p->file_tokens = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t sequence = ml_sampler_at(source->sampler, first + i);
        ml_status st = ml_dataset_read(source->dataset, sequence, s->max_len, p->sequence_token, p->mask);
        if (st != ML_OK) return st;
        p->start[i] = p->batch.tokens;
        p->key_sequence[i] = first + i;
        append(p, ml_dataset_length(source->dataset, sequence, s->max_len));
    }
    p->start[count] = p->batch.tokens;
    p->batch.sequences = (ml_sequences){count, p->start};
    p->batch.key_sequence = keyed ? p->key_sequence : NULL;
    return ML_OK;
}
