/* What of the model the tensors tell and config.json does not, or says otherwise: the prefix of
 * their names, whether the head is tied, a pooler, a head for masked tokens. */
#include "store/formats/huggingface/import.h"

/* How the embedding is called, which tells the names of all. */
static ml_status find_prefix(hf_source *h)
{
    ml_model_tensor embed, head;
    ml_stored_place whole;
    ml_model_tensor_at(h->spec, 0, &embed);
    hf_find_place(h, &embed, &whole);
    if (hf_has_tensor(h, &embed)) return ML_OK;
    h->bare = true;
    if (hf_has_tensor(h, &embed)) return ML_OK;
    h->bare = false;
    h->embed_from_head = h->spec->tied_head && hf_find_head(h, &head) && hf_has_tensor(h, &head);
    return h->embed_from_head
               ? ML_OK
               : ml_fail(ML_INPUT, "%s: tensor %s is missing (also without its prefix)",
                         h->shards.directory, whole.name);
}

/* ---- a tied head --------------------------------------------------------------------------- */

static ml_status are_equal(const hf_source *h, hf_place a, hf_place b, bool *equal)
{
    enum { PIECE = 1 << 18 };
    ml_status st = ML_OK;
    float *values = NULL;
    int64_t count = a.entry->count;
    *equal = count == b.entry->count && ml_safetensors_is_real(a.entry) &&
             ml_safetensors_is_real(b.entry);
    ML_NEW(values, 2 * PIECE, ML_MEM_OTHER, "rows to be compared");
    for (int64_t at = 0, n; *equal && at < count; at += n) {
        n = ml_min(count - at, PIECE);
        ML_TRY(hf_shards_read(&h->shards, a, at, n, values));
        ML_TRY(hf_shards_read(&h->shards, b, at, n, values + PIECE));
        *equal = !memcmp(values, values + PIECE, (size_t)n * sizeof *values);
    }
done:
    ml_memory_free(values);
    return st;
}

/* Rounded apart, the two are different matrices, and which of them is meant depends on the program
 * that loads them. */
static ml_status refuse_packed_pair(const hf_source *h, const char *embed, const char *head)
{
    return ml_fail(ML_INPUT,
                   "%s: config.json ties %s and %s, but the files have both and at least one of "
                   "them packed: it is not clear which makes the logits; set tie_word_embeddings "
                   "to false in config.json where the files' head does, or take its tensors out",
                   h->shards.directory, embed, head);
}

/* tie_word_embeddings and what the files hold may disagree: of a pair with different values
 * transformers 5 ties nothing (4 takes the embedding twice); of which one is missing it takes the
 * other. */
static ml_status settle_head(hf_source *h)
{
    ml_status st = ML_OK;
    ml_model_tensor embed, head;
    ml_stored_place embed_place, head_place;
    bool equal;
    if (!h->spec->tied_head || h->embed_from_head || !hf_find_head(h, &head)) return ML_OK;
    ml_model_tensor_at(h->spec, 0, &embed);
    hf_find_place(h, &embed, &embed_place);
    hf_find_place(h, &head, &head_place);
    hf_place e = hf_shards_find(&h->shards, embed_place.name),
             o = hf_shards_find(&h->shards, head_place.name);
    bool packed[] = {hf_is_packed(h, &embed, &embed_place), hf_is_packed(h, &head, &head_place)};
    if ((packed[0] && (packed[1] || o.entry)) || (packed[1] && e.entry))
        return refuse_packed_pair(h, embed_place.name, head_place.name);
    if (!e.entry || !o.entry) return ML_OK;
    ML_TRY(are_equal(h, e, o, &equal));
    if (equal) return ML_OK;
    h->spec->tied_head = false;
    ml_warn("%s: config.json ties %s and %s, but the files have both with different values: they "
            "are not tied, as in transformers 5 (4 takes %s for both)",
            h->shards.directory, embed_place.name, head_place.name, embed_place.name);
done:
    return st;
}

/* A decoder that was saved without its head, as those that make vectors of texts are (AutoModel's
 * names lack the prefix), though config.json ties nothing. The embedding stands in for it: hidden
 * states are the model's, and nothing else of it is asked for vectors. A file with the prefix is of
 * a model with a head, which then is missing. */
static void find_absent_head(hf_source *h)
{
    ml_model_spec *s = h->spec;
    ml_model_tensor head;
    if (!h->bare || s->both_ways || s->tied_head || s->head != ML_HEAD_LANGUAGE) return;
    if (!hf_find_head(h, &head) || hf_has_tensor(h, &head)) return;
    s->tied_head = true;
    ml_warn("%s: has no %s, only the model without a head: vectors of texts (embed, objective "
            "contrastive) and heads for labels are right; as a head for tokens the embedding is "
            "taken, whose predictions mean nothing before they are trained",
            h->shards.directory, head.row->hf.name);
}

/* ---- heads of encoders --------------------------------------------------------------------- */

/* The layer between a sequence's first token and its labels may come with the model (BERT's
 * pooler), or be a part of the head that is new with every task (RoBERTa's classifier.dense). */
static void find_pool(hf_source *h)
{
    ml_model_spec pooled = *h->spec;
    pooled.pool = true;
    for (int64_t i = 0; i < ml_model_tensor_count(&pooled); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&pooled, i, &t);
        if (t.row->role != ML_ROLE_POOL || !strncmp(t.row->hf.name, "classifier.", 11)) continue;
        h->spec->pool = hf_has_tensor(h, &t);
        if (!h->spec->pool) return;
    }
}

/* Whether the files have all that `with` has beside the model so far. */
static bool has_rest(const hf_source *h, const ml_model_spec *with)
{
    for (int64_t i = 0; i < ml_model_tensor_count(with); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(with, i, &t);
        if (!ml_family_has(h->spec, t.row) && !hf_has_tensor(h, &t)) return false;
    }
    return true;
}

static bool has_role(const ml_model_spec *s, ml_role role)
{
    for (const ml_family_tensor *row = s->family->tensors; row->module; row++)
        if (row->role == role && ml_family_has(s, row)) return true;
    return false;
}

/* A head for masked tokens is read where it is whole; also DeBERTa's under the names that
 * config.json does not mean, which transformers would leave out for a head drawn anew. */
static void find_transform(hf_source *h)
{
    ml_model_spec *s = h->spec;
    if (!s->both_ways || !ml_family_predicts_masked(s->family)) return;
    ml_model_spec with = *s;
    with.transform = true;
    if (s->head != ML_HEAD_LANGUAGE) { /* ModernBERT's stands before labels as well */
        s->transform = has_role(s, ML_ROLE_TRANSFORM);
        s->tied_head = true;
        return;
    }
    s->transform = has_rest(h, &with);
    if (!s->transform && s->family->defaults.legacy_head) {
        with.legacy_head = !s->legacy_head;
        if (has_rest(h, &with)) *s = with;
    }
    if (!s->transform) s->tied_head = true;
}

ml_status hf_settle_model(hf_source *h)
{
    ml_status st = ML_OK;
    ML_TRY(find_prefix(h));
    find_transform(h);
    find_absent_head(h);
    ML_TRY(settle_head(h));
    find_pool(h);
done:
    return st;
}
