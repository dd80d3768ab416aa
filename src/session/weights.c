/* A session's weights: where they lie (private, or one copy for the replicas of a node, and in
 * either case the base file's own pages where these can be laid over it) and how they get there. */
#include <inttypes.h>

#include "mpilora/family.h"
#include "session/session.h"

/* ---- one copy or many ---------------------------------------------------------------------- */

static bool has_frozen(const session *s) { return ml_model_weight_bytes(s->model) > 0; }

bool ml_session_shares_frozen(const session *s)
{
    if (s->peft && ml_peft_changes_weights(s->peft)) return false;
    return s->config->memory.share_frozen != ML_SHARE_OFF && has_frozen(s) && s->base &&
           ml_grid_group_size(s->grid, ML_GROUP_REPLICA) > 1;
}

int ml_session_frozen_sharers(const session *s)
{
    return s->shared ? ml_grid_group_size(s->grid, ML_GROUP_REPLICA) : 1;
}

int64_t ml_session_borrowed_bytes(const session *s)
{
    return s->shared && ml_grid_group_rank(s->grid, ML_GROUP_REPLICA) > 0
               ? ml_model_weight_bytes(s->model)
               : 0;
}

/* Asked for where it cannot be: said, since the same configuration serves other grids and
 * methods. */
static void warn_of_nothing(const session *s)
{
    int64_t sharers = ml_grid_group_size(s->grid, ML_GROUP_REPLICA);
    if (s->config->memory.share_frozen != ML_SHARE_ON) return;
    ml_grid_max_int64(s->grid, ML_GROUP_WORLD, &sharers, 1);
    if (!has_frozen(s))
        ml_warn(
            "memory.share_frozen: on, but this method leaves no weight frozen: nothing is shared");
    else if (sharers == 1)
        ml_warn("memory.share_frozen: on, but no two ranks of a node hold the same shard (dp %d, "
                "tp %d): nothing is shared",
                ml_grid_dp(s->grid), ml_grid_tp(s->grid));
}

/* ---- what is in the base ------------------------------------------------------------------- */

/* Not so with biases that the method made, which stay zero, and with a new head. */
static bool is_in_base(const session *s, const ml_model_slot *slot)
{
    ml_model_tensor tensor;
    const ml_model_spec *own = ml_model_get_spec(s->model), *base = s->spec;
    if (ml_session_is_new(s, slot)) return false;
    if (slot->row->role == ML_ROLE_HEAD) return true; /* of a tied base: its embedding */
    if (own->qkv_bias == base->qkv_bias && own->o_bias == base->o_bias &&
        own->mlp_bias == base->mlp_bias)
        return true;
    for (int64_t i = 0; i < ml_model_tensor_count(s->spec); i++) {
        ml_model_tensor_at(s->spec, i, &tensor);
        if (!strcmp(tensor.name, slot->name)) return true;
    }
    return false;
}

/* ---- the file's pages ---------------------------------------------------------------------- */

static const char weights_name[] = "the frozen weights";

static bool is_mapped(const session *s) { return s->least_mapped >= 0; }

static int64_t storage_bytes(const session *s)
{
    return ml_model_storage_bytes(s->model, s->least_mapped);
}

/* What `auto` decides: pages wherever a file system of this machine's own has them. Nothing is then
 * copied, so that weights are there in a tenth of the time and in memory once for all runs; and
 * though they are small pages in the place of huge ones, no difference between steps could be
 * measured (docs/performance, Loading). Whoever asks for a copy in each replica gets copies. */
static bool auto_takes_pages(const session *s)
{
    bool apart = s->config->memory.share_frozen == ML_SHARE_OFF &&
                 ml_grid_group_size(s->grid, ML_GROUP_REPLICA) > 1;
    return !apart && ml_base_maps_well(s->base);
}

static bool wants_pages(const session *s)
{
    ml_load load = s->config->memory.load;
    if (load == ML_LOAD_READ || !s->base || !has_frozen(s)) return false;
    if (s->peft && ml_peft_changes_weights(s->peft)) return false; /* pages cannot be written to */
    return load == ML_LOAD_MAP || auto_takes_pages(s);
}

/* What the base has in the storage of the model, slot by slot: `name` NULL for the rest. Those that
 * the method holds, or another stage, are not in it. */
static int64_t list_storage(const session *s, ml_base_request *requests, ml_model_slot **slots)
{
    int64_t count = 0;
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        ml_model_slot *slot = ml_model_slot_at(s->model, i);
        if (slot->apart || slot->elsewhere) continue;
        if (slots) slots[count] = slot;
        requests[count++] = (ml_base_request){is_in_base(s, slot) ? slot->name : NULL, &slot->shard,
                                              slot->dtype, slot->data};
    }
    return count;
}

/* Where slots lie in the file, before they have storage. The replicas, which may share it, do the
 * same. */
static ml_status place_weights(session *s)
{
    /* Less is read sooner than the kernel has looked at a mapping. */
    enum { WORTH = 256 << 10 };
    ml_status st = ML_OK;
    ml_base_request *requests = NULL;
    ml_model_slot **slots = NULL;
    int64_t *place = NULL, most = ml_model_slots(s->model), refused = !wants_pages(s);
    ml_grid_max_int64(s->grid, ML_GROUP_REPLICA, &refused, 1);
    s->least_mapped = refused ? -1 : s->config->memory.load == ML_LOAD_MAP ? 0 : WORTH;
    if (refused) return ML_OK;
    ML_NEW(requests, most, ML_MEM_OTHER, "what to map");
    ML_NEW(slots, most, ML_MEM_OTHER, "what to map");
    ML_NEW(place, most, ML_MEM_OTHER, "places of weights");
    int64_t count = list_storage(s, requests, slots);
    ml_base_find_places(s->base, requests, count, place);
    for (int64_t i = 0; i < count; i++) slots[i]->place = place[i];
done:
    ml_memory_free(requests);
    ml_memory_free(slots);
    ml_memory_free(place);
    return st;
}

/* Over the storage that there is, but for MPI's own. */
static ml_status map_base(session *s, ml_base_request *requests)
{
    ml_memory_span span;
    if (!is_mapped(s) || (s->shared && !ml_shared_is_own(s->shared))) return ML_OK;
    void *block = s->shared ? ml_shared_data(s->shared) : s->own.start;
    int64_t count = list_storage(s, requests, NULL);
    ml_status st = ml_base_map(s->base, block, storage_bytes(s), s->least_mapped, requests, count);
    if (st != ML_OK) return st;
    s->mapped_bytes = 0;
    if (ml_session_borrowed_bytes(s) > 0) return ML_OK; /* the replicas' first rank counts them */
    for (int64_t i = 0; i < ml_base_mapped(s->base, i, &span); i++) s->mapped_bytes += span.bytes;
    return ML_OK;
}

/* Leaves s->shared NULL where this rank keeps its own copy. */
static ml_status share_weights(session *s)
{
    ml_status st = ML_OK;
    warn_of_nothing(s);
    if (ml_session_shares_frozen(s))
        st = ml_grid_share(&s->shared, s->grid, storage_bytes(s), ml_model_weight_bytes(s->model),
                           ML_MEM_FROZEN, weights_name);
    st = ml_grid_agree(s->grid, st);
    if (st == ML_OK) return ML_OK;
    if (s->config->memory.share_frozen == ML_SHARE_ON)
        return ml_fail(st,
                       "memory.share_frozen: on, but it cannot be: %s; set it to auto for a copy "
                       "in every rank",
                       ml_error_text());
    ml_warn("%s; these ranks keep a copy each", ml_error_text());
    return ML_OK;
}

static ml_status store_own(session *s)
{
    if (!is_mapped(s)) return ml_model_bind(s->model);
    ml_status st = ml_memory_reserve(&s->own, storage_bytes(s), ml_model_weight_bytes(s->model),
                                     ML_MEM_FROZEN, weights_name);
    if (st == ML_OK) ml_model_bind_storage(s->model, s->own.start);
    return st;
}

ml_status ml_session_store_weights(session *s)
{
    ml_status st = ml_grid_agree(s->grid, place_weights(s));
    if (st == ML_OK) st = share_weights(s);
    if (st != ML_OK) return st;
    if (s->shared)
        ml_model_bind_storage(s->model, ml_shared_data(s->shared));
    else
        st = store_own(s);
    return ml_grid_agree(s->grid, st);
}

void ml_session_give_up_weights(session *s)
{
    if (s->base) ml_base_unmap(s->base);
    ml_shared_destroy(s->shared);
    ml_memory_release(&s->own);
}

ml_status ml_session_check_base(const session *s, ml_status st)
{
    ml_status base = s->base ? ml_base_check(s->base) : ML_OK;
    return base != ML_OK ? base : st;
}

ml_status ml_session_may_go_on(void *self) { return ml_session_check_base(self, ML_OK); }

ml_status ml_session_agree(const session *s, ml_status st)
{
    return ml_grid_agree(s->grid, ml_session_check_base(s, st));
}

/* ---- contents ------------------------------------------------------------------------------ */

static bool is_shared(const session *s, const ml_model_slot *slot)
{
    const char *first = s->shared ? ml_shared_data(s->shared) : NULL, *data = slot->data;
    return first && data >= first && data < first + storage_bytes(s);
}

/* The shared tensors, which the replicas read together, or this rank's own. */
static ml_status load(session *s, bool shared, ml_base_request *requests)
{
    const ml_base_division together = {ml_grid_group_rank(s->grid, ML_GROUP_REPLICA),
                                       ml_grid_group_size(s->grid, ML_GROUP_REPLICA)};
    int64_t count = 0, bytes;
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(s->model, i);
        float *master = s->peft ? ml_peft_master(s->peft, i) : NULL;
        if (slot->elsewhere || is_shared(s, slot) != shared || !is_in_base(s, slot)) continue;
        requests[count++] =
            (ml_base_request){slot->name, &slot->shard, master ? ML_FP32 : slot->dtype,
                              master ? (void *)master : slot->data};
    }
    ml_status st = ml_base_load(s->base, requests, count, shared ? &together : NULL, &bytes);
    s->load_bytes += bytes;
    return st;
}

static ml_status take_shared_pages(session *s)
{
    ml_status st = ML_OK;
    ml_memory_span *laid = NULL, none;
    int64_t count = ml_base_mapped(s->base, 0, &none);
    ML_NEW(laid, count, ML_MEM_OTHER, "what is mapped");
    for (int64_t i = 0; i < count; i++) (void)ml_base_mapped(s->base, i, &laid[i]);
    st = ml_shared_take_pages(s->shared, laid, count);
done:
    ml_memory_free(laid);
    return st;
}

static ml_status load_all(session *s)
{
    ml_status st = ML_OK;
    ml_base_request *requests = NULL;
    ML_NEW(requests, ml_model_slots(s->model), ML_MEM_OTHER, "what to read");
    ML_TRY(map_base(s, requests));
    ML_TRY(load(s, false, requests));
    if (s->shared) {
        ML_TRY(take_shared_pages(s));
        ML_TRY(load(s, true, requests));
    }
    ML_TRY(ml_session_draw_head(s));
done:
    ml_memory_free(requests);
    return st;
}

/* ---- weights of a trial, drawn ------------------------------------------------------------- */

/* Normal numbers like those of a model before training, drawn by each rank for itself; norms are 1,
 * biases 0. */
enum { PIECE = 1 << 20 }; /* values drawn at a time */

static void fill_vector(const ml_model_slot *slot, float *to)
{
    float value = strstr(slot->name, "bias") ? 0.0F : 1.0F;
    for (int64_t i = 0; i < slot->count; i++) to[i] = value;
}

/* Into `fp32`, or into `bf16` where that is not NULL. */
static void fill_matrix(const session *s, const ml_model_slot *slot, float *fp32, uint16_t *bf16,
                        float *piece)
{
    const double deviation = 0.02;
    ml_random_key key = ml_random_key_make(s->config->seed, slot->name);
    for (int64_t at = 0; at < slot->count; at += PIECE) {
        int64_t n = ml_min(PIECE, slot->count - at);
        ml_random_normals(key, (uint64_t)ml_grid_tp_rank(s->grid), (uint64_t)at, n, deviation,
                          bf16 ? piece : fp32 + at);
        if (bf16) s->kernels->fp32_to_bf16(n, piece, bf16 + at);
    }
}

static ml_status draw_weights(session *s)
{
    ml_status st = ML_OK;
    float *piece = NULL;
    ML_NEW(piece, PIECE, ML_MEM_OTHER, "a piece of a tensor");
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        ml_model_slot *slot = ml_model_slot_at(s->model, i);
        float *master = s->peft ? ml_peft_master(s->peft, i) : NULL;
        bool bf16 = !master && slot->dtype == ML_BF16;
        float *fp32 = master ? master : bf16 ? NULL : slot->data;
        if (slot->vector)
            fill_vector(slot, fp32);
        else
            fill_matrix(s, slot, fp32, bf16 ? slot->data : NULL, piece);
    }
done:
    ml_memory_free(piece);
    return st;
}

/* ---- reading or drawing -------------------------------------------------------------------- */

ml_status ml_session_read_weights(session *s)
{
    double started = ml_seconds();
    ml_status st = ml_grid_agree(s->grid, s->base ? load_all(s) : draw_weights(s));
    if (st != ML_OK) return st;
    if (s->peft) ml_peft_after_update(s->peft);
    if (s->shared) ml_shared_seal(s->shared);
    s->load_seconds = ml_seconds() - started;
    ml_grid_max_double(s->grid, ML_GROUP_WORLD, &s->load_seconds, 1);
    int64_t bytes[] = {s->load_bytes, s->mapped_bytes};
    ml_grid_sum_int64(s->grid, ML_GROUP_WORLD, bytes, 2);
    s->load_bytes = bytes[0];
    s->mapped_bytes = bytes[1];
    return ML_OK;
}
