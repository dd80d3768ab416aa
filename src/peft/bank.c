/* Several adapters on one model: each is attached as if it were alone, then its hooks go into an
 * exchange that sends every row to its own. */
#include "mpilora/bank.h"

#include "peft/exchange.h"

/* A tensor of the base in whose place an adapter has its own. */
typedef struct replaced {
    ml_model_slot *slot;
    void *base, *own;
} replaced;

typedef struct tenant {
    ml_peft *peft;
    ml_parameters parameters;
    ml_virtual_hook virtual_hook;
    int64_t nreplaced;
    replaced *replaced;
} tenant;

struct ml_bank {
    ml_model *model;
    int64_t count;
    tenant *tenants;
    ml_exchange *exchange;
    const int64_t *adapter;  /* of the rows of the next pass, or of all of them */
    int64_t last, replacing; /* adapter of the last row of the last pass; the one whose tensors the
                                model computes with */
    ml_bank_switches switches;
};

/* ---- virtual tokens ------------------------------------------------------------------------- */

/* Only prompts have virtual tokens, and those of a pass have one adapter. */
static void virtual_forward(void *self, int64_t level, int64_t tokens, const int32_t *token,
                            float *x)
{
    const ml_bank *bank = self;
    if (bank->adapter[0] < 0) return;
    const ml_virtual_hook *hook = &bank->tenants[bank->adapter[0]].virtual_hook;
    if (hook->forward) hook->forward(hook->self, level, tokens, token, x);
}

static void virtual_keys(void *self, int64_t layer, int64_t tokens, const int32_t *token, float *kv,
                         int64_t stride)
{
    const ml_bank *bank = self;
    if (bank->adapter[0] < 0) return;
    const ml_virtual_hook *hook = &bank->tenants[bank->adapter[0]].virtual_hook;
    if (hook->keys_forward) hook->keys_forward(hook->self, layer, tokens, token, kv, stride);
}

/* ---- tensors in the place of the base's ---------------------------------------------------- */

static void point_at(const tenant *t, bool own)
{
    for (int64_t i = 0; i < t->nreplaced; i++)
        t->replaced[i].slot->data = own ? t->replaced[i].own : t->replaced[i].base;
}

static void replace(ml_bank *bank, int64_t adapter)
{
    int64_t wanted = adapter >= 0 && bank->tenants[adapter].nreplaced > 0 ? adapter : -1;
    if (wanted == bank->replacing) return;
    if (bank->replacing >= 0) point_at(&bank->tenants[bank->replacing], false);
    if (wanted >= 0) point_at(&bank->tenants[wanted], true);
    bank->replacing = wanted;
    ml_model_point(bank->model);
}

/* ---- routing ------------------------------------------------------------------------------- */

static void route(void *self, int64_t count, const int64_t *adapter)
{
    ml_bank *bank = self;
    bool another = adapter[0] != bank->last;
    double start = another ? ml_seconds() : 0.0;
    bank->adapter = adapter;
    if (count == 1)
        ml_exchange_route_all(bank->exchange, adapter[0]);
    else
        ml_exchange_route(bank->exchange, adapter, adapter);
    bank->last = adapter[count - 1];
    replace(bank, adapter[0]);
    if (!another) return;
    bank->switches.count++;
    bank->switches.seconds += ml_seconds() - start;
}

static bool is_alone(const ml_bank *bank, int64_t adapter)
{
    return adapter >= 0 && bank->tenants[adapter].nreplaced > 0;
}

static bool may_meet(void *self, int64_t a, int64_t b)
{
    return a == b || (!is_alone(self, a) && !is_alone(self, b));
}

ml_router ml_bank_router(ml_bank *bank) { return (ml_router){bank, route, may_meet}; }
ml_bank_switches ml_bank_count_switches(const ml_bank *bank) { return bank->switches; }

/* ---- making -------------------------------------------------------------------------------- */

ml_model_spec ml_bank_model_spec(const ml_model_spec *base, int64_t count,
                                 const ml_adapter *adapters)
{
    ml_model_spec spec = *base;
    for (int64_t i = 0; i < count; i++) {
        spec = ml_peft_model_spec(&spec, adapters[i].method, &adapters[i].sizes);
        ml_peft_untie_for(&spec, &adapters[i]);
    }
    return spec;
}

/* Methods that choose among the model's tensors must find those that they were trained on, not
 * biases that another adapter brings. */
static ml_status check_biases(const ml_model_spec *base, const ml_model_spec *model, int64_t count,
                              const ml_adapter *adapters)
{
    for (int64_t i = 0; i < count; i++) {
        const ml_model_spec own = ml_peft_model_spec(base, adapters[i].method, &adapters[i].sizes);
        bool chooses =
            adapters[i].method == ML_METHOD_BITFIT || adapters[i].method == ML_METHOD_TOP;
        const ml_adapter_tensor *ids;
        if (base->tied_head && !model->tied_head && ml_peft_token_rows(&adapters[i], false, &ids))
            return ml_fail(ML_USAGE,
                           "adapter %lld trained rows of tokens for embedding and head together, "
                           "which another adapter takes apart; give them one at a time",
                           (long long)i + 1);
        if (chooses && (own.qkv_bias != model->qkv_bias || own.o_bias != model->o_bias ||
                        own.mlp_bias != model->mlp_bias))
            return ml_fail(ML_USAGE,
                           "adapter %lld, of method %s, cannot be used beside one of bitfit that "
                           "made new biases; give them one at a time",
                           (long long)i + 1, ml_method_name(adapters[i].method));
    }
    return ML_OK;
}

/* The slots that a method has marked as its own; to the model they are the base's again. */
static ml_status list_replaced(const ml_bank *bank, tenant *t)
{
    ml_status st = ML_OK;
    int64_t n = 0, slots = ml_model_slots(bank->model);
    for (int64_t i = 0; i < slots; i++) n += ml_model_slot_at(bank->model, i)->apart;
    if (n > 0) ML_NEW(t->replaced, n, ML_MEM_OTHER, "an adapter's tensors");
    for (int64_t i = 0; i < slots; i++) {
        ml_model_slot *slot = ml_model_slot_at(bank->model, i);
        if (!slot->apart) continue;
        t->replaced[t->nreplaced++].slot = slot;
        slot->apart = false;
    }
done:
    return st;
}

/* Adapter i attaches to the model, and its hooks are taken out of it. */
static ml_status admit(ml_bank *bank, int64_t i, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    tenant *t = &bank->tenants[i];
    ML_TRY(ml_peft_attach_adapter(&t->peft, bank->model, &t->parameters, adapter));
    ml_peft_place(bank->model, &t->parameters);
    ml_parameters_lay_out(&t->parameters);
    ml_exchange_admit(bank->exchange, i);
    t->virtual_hook = ml_model_virtual(bank->model);
    ml_model_set_virtual(bank->model, (ml_virtual_hook){0});
    ML_TRY(list_replaced(bank, t));
done:
    return st;
}

static void install(ml_bank *bank)
{
    ml_exchange_install(bank->exchange);
    ml_model_set_virtual(
        bank->model,
        (ml_virtual_hook){.self = bank, .forward = virtual_forward, .keys_forward = virtual_keys});
}

ml_status ml_bank_create(ml_bank **out, ml_model *model, const ml_model_spec *base, int64_t count,
                         const ml_adapter *adapters)
{
    ml_status st = ML_OK;
    ml_bank *bank = NULL;
    ML_TRY(check_biases(base, ml_model_get_spec(model), count, adapters));
    ML_NEW(bank, 1, ML_MEM_OTHER, "adapters");
    *bank = (ml_bank){.model = model, .count = count, .last = -1, .replacing = -1};
    ML_NEW(bank->tenants, count, ML_MEM_OTHER, "adapters");
    ML_TRY(ml_exchange_create(&bank->exchange, model, count));
    for (int64_t i = 0; i < count; i++) ML_TRY(admit(bank, i, &adapters[i]));
    install(bank);
    *out = bank;
    bank = NULL;
done:
    ml_bank_destroy(bank);
    return st;
}

void ml_bank_destroy(ml_bank *bank)
{
    if (!bank) return;
    if (bank->replacing >= 0) replace(bank, -1);
    for (int64_t i = 0; bank->tenants && i < bank->count; i++) {
        ml_peft_destroy(bank->tenants[i].peft);
        ml_parameters_destroy(&bank->tenants[i].parameters);
        ml_memory_free(bank->tenants[i].replaced);
    }
    ml_exchange_destroy(bank->exchange);
    ml_model_set_virtual(bank->model, (ml_virtual_hook){0});
    ml_memory_free(bank->tenants);
    ml_memory_free(bank);
}

/* ---- contents ------------------------------------------------------------------------------ */

/* Binding points the slots at the adapter's own tensors; the base's wait in the list. */
static ml_status load(tenant *t, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ML_TRY(ml_parameters_allocate(&t->parameters, false));
    for (int64_t i = 0; i < t->nreplaced; i++) {
        t->replaced[i].base = t->replaced[i].slot->data;
        t->replaced[i].slot->apart = true;
    }
    st = ml_peft_bind(t->peft);
    for (int64_t i = 0; i < t->nreplaced; i++) {
        t->replaced[i].own = t->replaced[i].slot->data;
        t->replaced[i].slot->apart = false;
    }
    point_at(t, false);
    if (st == ML_OK) st = ml_peft_load(t->peft, adapter);
done:
    return st;
}

ml_status ml_bank_load(ml_bank *bank, const ml_adapter *adapters)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < bank->count && st == ML_OK; i++)
        st = load(&bank->tenants[i], &adapters[i]);
    return st;
}

void ml_bank_prepare(ml_bank *bank)
{
    for (int64_t i = 0; i < bank->count; i++) {
        replace(bank, i);
        ml_peft_after_update(bank->tenants[i].peft);
    }
    replace(bank, -1);
}
