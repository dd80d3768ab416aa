/* That the files of a Hugging Face directory have every tensor of the model as it should be, and
 * what they have besides. */
#include <inttypes.h>

#include "store/formats/huggingface/import.h"

static ml_status check_shape(const hf_source *h, const ml_model_tensor *t,
                             const ml_stored_place *place, const ml_safetensors_entry *entry)
{
    char found[ML_SAFETENSORS_SHAPE], wanted[ML_SAFETENSORS_SHAPE];
    int64_t want[HF_DIMS];
    int dims = hf_shape(h->spec, t, place, want);
    if (entry->dims == dims && !memcmp(entry->shape, want, (size_t)dims * sizeof *want))
        return ML_OK;
    return ml_fail(ML_INPUT, "%s: %s has shape [%s], expected [%s]", h->shards.directory,
                   entry->name, ml_safetensors_shape(entry->dims, entry->shape, found),
                   ml_safetensors_shape(dims, want, wanted));
}

static void mark_as_needed(hf_source *h, hf_place at)
{
    if (at.entry)
        h->shards.needed[at.shard][at.entry - ml_safetensors_at(h->shards.file[at.shard], 0)] =
            true;
}

/* And marks its parts as needed. */
static ml_status check_packed(hf_source *h, const ml_model_tensor *t, const ml_stored_place *place,
                              bool *found)
{
    packed_matrix m;
    ml_status st = hf_packed_open(&m, found, &h->packed, &h->shards, t, place);
    if (st != ML_OK || !*found) return st;
    for (int p = 0; p < PACKED_PARTS; p++) mark_as_needed(h, m.part[p]);
    packed_close(&m);
    return ML_OK;
}

/* And marks what it finds as needed. */
static ml_status check_stored(hf_source *h, const ml_model_tensor *t, const ml_stored_place *place,
                              const char *name)
{
    hf_place at = hf_shards_find(&h->shards, name);
    bool head = t->row->role == ML_ROLE_HEAD && !t->row->bias && !h->spec->both_ways;
    if (!at.entry)
        return ml_fail(ML_INPUT, "%s: tensor %s is missing%s", h->shards.directory, name,
                       head ? "; where the embedding is the head, too, config.json has to say "
                              "\"tie_word_embeddings\": true"
                            : "");
    mark_as_needed(h, at);
    if (!ml_safetensors_is_real(at.entry))
        return ml_fail(ML_INPUT, "%s: %s has type %.20s, expected F32, F16, BF16 or F64",
                       h->shards.directory, name, at.entry->dtype);
    return check_shape(h, t, place, at.entry);
}

static ml_status check_tensor(hf_source *h, const ml_model_tensor *t)
{
    ml_status st = ML_OK;
    ml_stored_place place;
    char name[sizeof place.name];
    bool packed;
    hf_find_place(h, t, &place);
    st = check_packed(h, t, &place, &packed);
    if (st != ML_OK || packed) return st;
    for (int64_t piece = 0; piece < place.pieces && st == ML_OK; piece++) {
        ml_stored_name_at(&place, piece * place.run, name, sizeof name);
        st = check_stored(h, t, &place, name);
    }
    return st;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* Buffers that old versions saved, and a head that is the embedding again. */
static bool is_expected(const hf_source *h, const char *name)
{
    ml_model_tensor head;
    ml_stored_place place;
    if (h->spec->tied_head && hf_find_head(h, &head)) {
        hf_find_place(h, &head, &place);
        if (!strcmp(place.name, name)) return true;
    }
    if (h->spec->transform &&
        (ends_with(name, ".predictions.bias") || !strcmp(name, "lm_head.bias")))
        return true; /* beside the matrix's own */
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           ends_with(name, ".attention.bias") || ends_with(name, ".attention.masked_bias") ||
           ends_with(name, "rotary_emb.inv_freq") || ends_with(name, "embeddings.position_ids");
}

/* A tensor that the model has not changes nothing in transformers, which names it, too. */
static void warn_of_rest(const hf_source *h)
{
    const hf_shards *s = &h->shards;
    const char *first = NULL;
    int64_t others = 0;
    for (int64_t f = 0; f < s->count; f++) {
        for (int64_t i = 0; i < ml_safetensors_count(s->file[f]); i++) {
            const char *name = ml_safetensors_at(s->file[f], i)->name;
            hf_place place = hf_shards_find(s, name);
            bool needed =
                s->needed[place.shard][place.entry - ml_safetensors_at(s->file[place.shard], 0)];
            if (needed || is_expected(h, name)) continue;
            if (!first) first = name;
            others++;
        }
    }
    if (others > 0 && h->spec->both_ways)
        ml_warn("%s: %" PRId64 " tensors of a head are left out, the first is %s: an encoder is "
                "imported up to its last hidden states, with a head for masked tokens or labels "
                "where that is whole and config.json names no other",
                s->directory, others, first);
    else if (others > 0)
        ml_warn("%s: tensor %s is not part of the model that config.json describes and is ignored "
                "(%" PRId64 " such tensors)",
                s->directory, first, others);
}

ml_status hf_check_tensors(hf_source *h)
{
    for (int64_t i = 0; i < ml_model_tensor_count(h->spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(h->spec, i, &t);
        ml_status st = check_tensor(h, &t);
        if (st != ML_OK) return st;
    }
    warn_of_rest(h);
    hf_shards_warn_of_overlays(&h->shards);
    return ML_OK;
}
