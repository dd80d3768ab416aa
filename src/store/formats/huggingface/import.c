/* A Hugging Face directory as a source of weights: config.json, model.safetensors or its sharded
 * index, and the tokenizer's files. */
#include <inttypes.h>
#include <stdlib.h>

#include "mpilora/data.h"
#include "mpilora/family.h"
#include "store/base/import_private.h"
#include "store/formats/huggingface/huggingface.h"
#include "store/formats/huggingface/packed.h"
#include "store/formats/huggingface/shards.h"

typedef struct hf_source {
    hf_shards shards;
    packed_config packed; /* what config.json says of packed matrices */
    ml_model_spec *spec;
    bool bare;             /* the files' names lack the family's prefix */
    bool embed_from_head;  /* a tied pair of which the head alone was saved */
    const char *tokenizer; /* as it was read: the source's, which may not keep its length */
    int64_t tokenizer_length;
} hf_source;

static void hf_close(void *self)
{
    hf_source *h = self;
    hf_shards_close(&h->shards);
    ml_memory_free(h);
}

/* ---- tensors ------------------------------------------------------------------------------- */

/* The row of the head, which a tied model does not have; that of an encoder is read where its head
 * for masked tokens is whole. */
static bool find_head(const hf_source *h, ml_model_tensor *head)
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

/* The name that a tensor has in these files; also that of a tied model's head. */
static void find_place(const hf_source *h, const ml_model_tensor *t, ml_stored_place *place)
{
    const char *prefix = h->spec->family->hf.prefix;
    size_t n = strlen(prefix);
    ml_model_tensor head;
    ml_model_spec untied = *h->spec;
    untied.tied_head = false;
    if (h->embed_from_head && !strcmp(t->name, "embed.weight") && find_head(h, &head)) t = &head;
    ml_stored_place_of(&untied, t, ML_FORMAT_HUGGINGFACE, place);
    find_bias(h, t, place);
    if (h->bare && !strncmp(place->name, prefix, n))
        memmove(place->name, place->name + n, strlen(place->name + n) + 1);
}

static bool is_transposed(const ml_model_tensor *t, const ml_stored_place *place)
{
    return place->layout == ML_LAYOUT_TRANSPOSED && !t->vector;
}

static ml_status check_shape(const hf_source *h, const ml_model_tensor *t,
                             const ml_stored_place *place, const ml_safetensors_entry *entry)
{
    bool transposed = is_transposed(t, place), by_head = place->layout == ML_LAYOUT_BY_HEAD;
    int64_t want[3] = {transposed ? t->cols : place->total, transposed ? place->total : t->cols};
    int dims = t->vector && !by_head ? 1 : 2;
    if (place->layout == ML_LAYOUT_CONV) {
        dims = 3;
        want[1] = h->spec->width;
        want[2] = h->spec->conv_kernel;
    }
    if (by_head) {
        want[0] = place->total / h->spec->head_dim;
        want[1] = h->spec->head_dim;
    }
    if (entry->dims == dims && entry->shape[0] == want[0] &&
        (dims == 1 || entry->shape[1] == want[1]) && (dims < 3 || entry->shape[2] == want[2]))
        return ML_OK;
    char found[96] = "";
    size_t used = 0;
    for (int i = 0; i < entry->dims && used < sizeof found; i++)
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%" PRId64, i ? ", " : "",
                                 entry->shape[i]);
    if (dims == 1)
        return ml_fail(ML_INPUT, "%s: %s has shape [%s], expected [%" PRId64 "]",
                       h->shards.directory, entry->name, found, want[0]);
    if (dims == 3)
        return ml_fail(ML_INPUT,
                       "%s: %s has shape [%s], expected [%" PRId64 ", %" PRId64 ", %" PRId64 "]",
                       h->shards.directory, entry->name, found, want[0], want[1], want[2]);
    return ml_fail(ML_INPUT, "%s: %s has shape [%s], expected [%" PRId64 ", %" PRId64 "]",
                   h->shards.directory, entry->name, found, want[0], want[1]);
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
    if (!at.entry) return ml_fail(ML_INPUT, "%s: tensor %s is missing", h->shards.directory, name);
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
    find_place(h, t, &place);
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
    if (h->spec->tied_head && find_head(h, &head)) {
        find_place(h, &head, &place);
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

static ml_status check_tensors(hf_source *h)
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

static bool is_packed(const hf_source *h, const ml_model_tensor *t, const ml_stored_place *place)
{
    packed_matrix m;
    bool packed;
    ml_status st = hf_packed_open(&m, &packed, &h->packed, &h->shards, t, place);
    if (st == ML_OK && packed) packed_close(&m);
    return packed;
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
    if (!h->spec->tied_head || h->embed_from_head || !find_head(h, &head)) return ML_OK;
    ml_model_tensor_at(h->spec, 0, &embed);
    find_place(h, &embed, &embed_place);
    find_place(h, &head, &head_place);
    hf_place e = hf_shards_find(&h->shards, embed_place.name),
             o = hf_shards_find(&h->shards, head_place.name);
    bool packed[] = {is_packed(h, &embed, &embed_place), is_packed(h, &head, &head_place)};
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

/* ---- rows ---------------------------------------------------------------------------------- */

/* Rows first … of the transpose: elements of each stored row. */
static ml_status read_transposed(const hf_source *h, hf_place at, int64_t first, int64_t count,
                                 float *out)
{
    ml_status st = ML_OK;
    float *column = NULL;
    int64_t stored_rows = at.entry->shape[0], stored_cols = at.entry->shape[1];
    ML_NEW(column, count, ML_MEM_OTHER, "a row");
    for (int64_t j = 0; j < stored_rows; j++) {
        ML_TRY(hf_shards_read(&h->shards, at, j * stored_cols + first, count, column));
        for (int64_t i = 0; i < count; i++) out[i * stored_rows + j] = column[i];
    }
done:
    ml_memory_free(column);
    return st;
}

static ml_status hf_read_blocks(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                                void *out)
{
    const hf_source *h = self;
    ml_stored_place place;
    packed_matrix m;
    bool packed;
    find_place(h, t, &place);
    ml_status st = hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place);
    if (st != ML_OK || !packed) return st;
    st = hf_packed_read(&m, &place, first, count, ml_dtype_bytes(m.kept, t->cols), true, out);
    packed_close(&m);
    return st;
}

/* Of a matrix whose scales cannot be read: that it is not in blocks, and the error comes when it is
 * read. */
static const ml_block_format *hf_format_of(void *self, const ml_model_tensor *t)
{
    const hf_source *h = self;
    const ml_block_format *f = ml_block_format_of(ML_FP32);
    ml_stored_place place;
    packed_matrix m;
    bool packed;
    find_place(h, t, &place);
    if (hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place) != ML_OK || !packed)
        return f;
    if (packed_format(&m, &f) != ML_OK) f = ml_block_format_of(ML_FP32);
    packed_close(&m);
    return f;
}

static ml_status hf_read_rows(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                              float *out)
{
    const hf_source *h = self;
    ml_stored_place place;
    char name[sizeof place.name];
    packed_matrix m;
    bool packed;
    find_place(h, t, &place);
    ml_status opened = hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place);
    if (opened == ML_OK && packed) {
        opened =
            hf_packed_read(&m, &place, first, count, t->cols * (int64_t)sizeof *out, false, out);
        packed_close(&m);
    }
    if (opened != ML_OK || packed) return opened;
    if (is_transposed(t, &place))
        return read_transposed(h, hf_shards_find(&h->shards, place.name), place.first + first,
                               count, out);
    for (int64_t i = 0, n; i < count; i += n) {
        n = ml_min(count - i, ml_stored_rows_together(&place, first + i));
        ml_stored_name_at(&place, first + i, name, sizeof name);
        ml_status st = hf_shards_read(&h->shards, hf_shards_find(&h->shards, name),
                                      ml_stored_row(&place, first + i) * t->cols, n * t->cols,
                                      out + i * t->cols);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- opening ------------------------------------------------------------------------------- */

static ml_status add_hash(const hf_source *h, const char *name, atomic_bool *stop, ml_text *list)
{
    ml_text path = {0};
    char hex[ML_SHA256_HEX];
    const char *directory = h->shards.directory;
    ml_status st = ml_text_printf(&path, "%s/%s", directory, name);
    if (st == ML_OK && hf_has_file(directory, name)) {
        st = import_hash_file(path.data, stop, hex);
        if (st == ML_OK) st = ml_text_printf(list, "%s %s\n", name, hex);
    }
    ml_text_destroy(&path);
    return st;
}

static ml_status hf_hash(void *self, atomic_bool *stop, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    const hf_source *h = self;
    ml_text list = {0};
    ML_TRY(add_hash(h, "config.json", stop, &list));
    for (int64_t i = 0; i < h->shards.count; i++)
        ML_TRY(add_hash(h, h->shards.name[i], stop, &list));
    ML_TRY(ml_text_add(&list, h->tokenizer, h->tokenizer_length));
    ml_sha256_of(list.data, (size_t)list.length, hex);
done:
    ml_text_destroy(&list);
    return st;
}

static bool has_tensor(const hf_source *h, const ml_model_tensor *t)
{
    ml_stored_place place;
    find_place(h, t, &place);
    return hf_shards_find(&h->shards, place.name).entry || is_packed(h, t, &place);
}

/* Where config.json says nothing, ModelOpt's own file may. */
static ml_status read_modelopt(hf_source *h, const char *directory)
{
    ml_status st = ML_OK;
    static const char name[] = "hf_quant_config.json";
    ml_text path = {0};
    json_t *root = NULL;
    if (h->packed.method != PACKED_NONE || !hf_has_file(directory, name)) return ML_OK;
    ML_TRY(ml_text_printf(&path, "%s/%s", directory, name));
    ML_TRY(ml_json_read_file(&root, path.data, false));
    st = packed_config_read_modelopt(root, &h->packed);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path.data);
done:
    json_decref(root);
    ml_text_destroy(&path);
    return st;
}

/* How the embedding is called, which tells the names of all. */
static ml_status find_prefix(hf_source *h)
{
    ml_model_tensor embed, head;
    ml_stored_place whole;
    ml_model_tensor_at(h->spec, 0, &embed);
    find_place(h, &embed, &whole);
    if (has_tensor(h, &embed)) return ML_OK;
    h->bare = true;
    if (has_tensor(h, &embed)) return ML_OK;
    h->bare = false;
    h->embed_from_head = h->spec->tied_head && find_head(h, &head) && has_tensor(h, &head);
    return h->embed_from_head
               ? ML_OK
               : ml_fail(ML_INPUT, "%s: tensor %s is missing (also without its prefix)",
                         h->shards.directory, whole.name);
}

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
        h->spec->pool = has_tensor(h, &t);
        if (!h->spec->pool) return;
    }
}

/* Whether the files have all that `with` has beside the model so far. */
static bool has_rest(const hf_source *h, const ml_model_spec *with)
{
    for (int64_t i = 0; i < ml_model_tensor_count(with); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(with, i, &t);
        if (!ml_family_has(h->spec, t.row) && !has_tensor(h, &t)) return false;
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

ml_status import_open_huggingface(import_source *out, const char *directory)
{
    ml_status st = ML_OK;
    hf_source *h = NULL;
    ml_text path = {0};
    bool found;
    ML_NEW(h, 1, ML_MEM_OTHER, "a source");
    out->self = h;
    out->close = hf_close;
    out->hash = hf_hash;
    out->read_rows = hf_read_rows;
    out->format_of = hf_format_of;
    out->read_blocks = hf_read_blocks;
    h->spec = &out->spec;
    ML_TRY(ml_text_printf(&path, "%s/config.json", directory));
    ML_TRY(hf_config_read(path.data, &out->spec, &h->packed));
    ML_TRY(read_modelopt(h, directory));
    ML_TRY(hf_shards_open(&h->shards, directory));
    ML_TRY(find_prefix(h));
    find_transform(h);
    ML_TRY(settle_head(h));
    find_pool(h);
    ML_TRY(check_tensors(h));
    ML_TRY(import_read_tokenizer(ml_tokenizer_from_directory(directory, &out->tokenizer, &found),
                                 &out->tokenizer));
    ML_TRY(import_keep_files(directory, &out->files));
    h->tokenizer = out->tokenizer.data;
    h->tokenizer_length = out->tokenizer.length;
done:
    ml_text_destroy(&path);
    return st;
}
