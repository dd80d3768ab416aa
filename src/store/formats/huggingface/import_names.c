/* Where in the files of a Hugging Face directory a tensor of the model is. */
#include "store/formats/huggingface/import.h"

bool hf_find_head(const hf_source *h, ml_model_tensor *head)
{
    ml_model_spec untied = *h->spec;
    untied.tied_head = false;
    if (h->spec->both_ways && !h->spec->transform) return false;
    for (int64_t i = ml_model_tensor_count(&untied) - 1; i > 0; i--) {
        ml_model_tensor_at(&untied, i, head);
        if (!strcmp(head->name, "head.weight")) return true;
    }
    return false;
}

/* The bias of a head for masked tokens may be stored as its matrix's own, which transformers then
 * takes. */
static void find_bias(const hf_source *h, const ml_model_tensor *t, ml_stored_place *place)
{
    char own[sizeof place->name];
    const ml_family *family = h->spec->family;
    if (t->row->role != ML_ROLE_HEAD || !t->row->bias || !h->spec->both_ways) return;
    snprintf(own, sizeof own, "%s.bias", ml_family_end(family, ML_ROLE_HEAD)->peft);
    if (hf_shards_find(&h->shards, own).entry) snprintf(place->name, sizeof place->name, "%s", own);
}

/* The first BERT's files, and what was made from them, call weight and bias of a LayerNorm gamma
 * and beta; transformers reads them by either name. */
static void find_first_names(const hf_source *h, ml_stored_place *place)
{
    static const char *const renamed[][2] = {{"weight", "gamma"}, {"bias", "beta"}};
    char first[sizeof place->name];
    const char *last = strrchr(place->name, '.');
    int module = last ? (int)(last - place->name) : 0;
    static const char norm[] = "LayerNorm";
    enum { NORM = sizeof norm - 1 };
    if (module < NORM || strncmp(last - NORM, norm, NORM) != 0) return;
    if (hf_shards_find(&h->shards, place->name).entry) return;
    for (int i = 0; i < 2; i++) {
        if (strcmp(last + 1, renamed[i][0]) != 0) continue;
        snprintf(first, sizeof first, "%.*s.%s", module, place->name, renamed[i][1]);
        if (!hf_shards_find(&h->shards, first).entry) return;
        snprintf(place->name, sizeof place->name, "%s", first);
        return;
    }
}

void hf_find_place(const hf_source *h, const ml_model_tensor *t, ml_stored_place *place)
{
    const char *prefix = h->spec->family->hf.prefix;
    size_t n = strlen(prefix);
    ml_model_tensor head;
    ml_model_spec untied = *h->spec;
    untied.tied_head = false;
    if (h->embed_from_head && !strcmp(t->name, "embed.weight") && hf_find_head(h, &head)) t = &head;
    ml_stored_place_of(&untied, t, ML_FORMAT_HUGGINGFACE, place);
    find_bias(h, t, place);
    if (h->bare && !strncmp(place->name, prefix, n))
        memmove(place->name, place->name + n, strlen(place->name + n) + 1);
    find_first_names(h, place);
}

bool hf_is_packed(const hf_source *h, const ml_model_tensor *t, const ml_stored_place *place)
{
    packed_matrix m;
    bool packed;
    ml_status st = hf_packed_open(&m, &packed, &h->packed, &h->shards, t, place);
    if (st == ML_OK && packed) packed_close(&m);
    return packed;
}

bool hf_has_tensor(const hf_source *h, const ml_model_tensor *t)
{
    ml_stored_place place;
    hf_find_place(h, t, &place);
    return hf_shards_find(&h->shards, place.name).entry || hf_is_packed(h, t, &place);
}
