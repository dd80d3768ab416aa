/* What the files of peft/ share: the operations that each method fills in (bind, initialise, load,
 * collect, …), and the structures of LoRA's pairs, which several methods use. */
#ifndef MPILORA_PEFT_PEFT_PRIVATE_H
#define MPILORA_PEFT_PEFT_PRIVATE_H

#include "mpilora/family.h"
#include "mpilora/peft.h"

/* NULL: nothing to do. */
typedef struct peft_operations {
    void (*destroy)(ml_peft *peft); /* what is its own, and its hooks in the model */
    ml_status (*bind)(ml_peft *peft);
    void (*point)(ml_peft *peft); /* slots of the model at its tensors, behind bind */
    float *(*master)(ml_peft *peft, int64_t index);
    void (*initialise)(ml_peft *peft);
    void (*start_virtual)(ml_peft *peft, const int32_t *token);
    void (*before_sum)(ml_peft *peft);
    void (*after_update)(ml_peft *peft);
    void (*bytes)(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES]);
    /* LoRA's; the tensors of every other method are read and collected by their names
     * (tensors.c). */
    int tensors_each; /* of those with a load: an adapter's tensors for each parameter */
    ml_status (*check)(const ml_peft *peft, const ml_adapter *adapter);
    void (*load)(ml_peft *peft, const ml_adapter *adapter); /* behind check */
    ml_status (*collect)(const ml_peft *peft, const ml_grid *grid, ml_adapter *out);
} peft_operations;

/* One pair A[rank, in], B[out, rank] on this rank. */
typedef struct lora_pair {
    char module[64];
    int64_t rank, global_out;
    double alpha;
    float scale;
    int64_t start, count;             /* columns of the layer's local output that it adds to */
    int64_t parameter_a, parameter_b; /* in the list */
    float *a, *b, *da, *db; /* this rank's parts; gradients NULL where it does not train */
    ml_random_key dropout_key;
    int64_t parameter_m,
        first_row; /* DoRA: its magnitudes in the list; its rows among those of struct dora */
    float *m, *dm;
} lora_pair;

enum { PAIRS_A_LAYER = ML_LINEAR_PARTS + 1 };

/* The pairs of one linear layer: they share its input, so their A's lie one below the other and
 * make one product. */
typedef struct lora_group {
    ml_linear *layer;
    ml_parameters *parameters; /* that the pairs are in. Borrowed */
    int npairs;
    lora_pair pair[PAIRS_A_LAYER];
    int64_t rank; /* of all pairs together */
    double dropout;
    bool takes;         /* PiSSA beside weights that cannot change: their hooks take the initial
                           factors off, and have room for it */
    const float *taken; /* these, laid out as the values are; NULL until they are known. Borrowed */
    struct dora *dora;  /* NULL: plain LoRA. Borrowed */
    int64_t scaled;     /* columns that it scales */
} lora_group;

struct ml_peft {
    const peft_operations *operations;
    ml_model *model;
    ml_parameters *parameters;
    ml_peft *next; /* of a method that is two */
    ml_peft_options chosen;
    int64_t first_parameter, end_parameter; /* its own, in the list */
    void *own;                              /* of the method */
    int64_t ngroups;                        /* LoRA */
    lora_group *groups;
    float *initial; /* PiSSA: what the values were at first, laid out as they are; NULL until they
                       are taken out of W */
    ml_lora_options options;
};

/* lora_dora.c: what DoRA has beside the factors, of all adapted rows of this rank. */
typedef struct dora {
    int64_t rows, partial; /* the last `partial` are row-parallel: each tp rank knows a part of
                              their sums */
    int shares;            /* leaves that these sums are made of, 1: the ranks' parts */
    double *square; /* [rows, then partial of each further share] ‖W_i‖² of this rank's columns;
                       known after the first renewal */
    double *norm; /* ‖W_i + s·(B·A)_i‖, laid out as square; the squares of shares behind [rows] */
    float *gain, *inverse; /* [rows] m/norm, 1/norm */
    float *work;           /* W·Aᵀ of one layer, or A·Aᵀ */
    bool measured;
} dora;
ml_status dora_add(ml_peft *peft, lora_group *group)
    ML_NODISCARD; /* magnitudes of every pair, and the hook's part */
ml_status dora_bind(ml_peft *peft) ML_NODISCARD;
void dora_destroy(dora *d);
void dora_renew(
    ml_peft *peft); /* norms and gains of the weights and factors as they are; collective over tp */
void dora_initialise(ml_peft *peft); /* m = norm; collective over tp */
void dora_bytes(const ml_peft *peft, int64_t bytes[ML_MEM_CATEGORIES]);
void dora_scale(const lora_group *group, const ml_pass *pass, float *y); /* forward's end */

/* lora_hook.c: W += s·B·A in the layer's weights, and with DoRA the rows get their magnitudes. */
void lora_merge_pair(const lora_group *group, const lora_pair *pair);

/* lora_pissa.c */
void pissa_bytes(const ml_peft *peft, int64_t bytes[ML_MEM_CATEGORIES]);
/* The collected adapter, of twice its rank for W as it was. `part`: work space for a tensor, on
 * world rank 0. Collective. */
ml_status pissa_collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out,
                        float *part) ML_NODISCARD;

/* lora.c: what layers and patterns mean for a module. */
bool lora_wants_layer(const ml_lora_options *options, int64_t layer);
int64_t lora_rank_of(const ml_lora_options *options, const char *module);
double lora_alpha_of(const ml_lora_options *options, const char *module);
/* ML_USAGE where a layer is beyond the model, or a name in a pattern means none of the modules that
 * were attached. */
ml_status lora_check_modules(const ml_peft *peft) ML_NODISCARD;

/* lora_hook.c */
void lora_install(lora_group *group);
/* lora.c: modules, ranks and scales are the adapter's own. */
ml_status lora_attach_adapter(ml_peft **out, ml_model *model, ml_parameters *parameters,
                              const ml_adapter *adapter) ML_NODISCARD;
/* lora_adapter.c */
ml_status lora_check(const ml_peft *peft, const ml_adapter *adapter) ML_NODISCARD;
void lora_load(ml_peft *peft, const ml_adapter *adapter);
ml_status lora_collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out) ML_NODISCARD;
/* lora.c */
extern const peft_operations lora_operations;

/* peft.c: a method of the model, empty. */
ml_status peft_create(ml_peft **out, const peft_operations *operations, ml_model *model,
                      ml_parameters *parameters, const ml_peft_options *options) ML_NODISCARD;
/* Uniform in ±1/√cols, keyed by seed, name and global place: this rank's part. */
/* That `what` is not asked for on several ranks of tp where sums are sums of leaves: its own sums
 * are those of the ranks' shares. Local. ML_USAGE. */
ml_status peft_check_leaves(ml_model *model, const ml_peft_options *options,
                            const char *what) ML_NODISCARD;
void peft_draw_uniform(const ml_parameter *item, uint64_t seed, float *values);
/* Normal, likewise. */
void peft_draw_normal(const ml_parameter *item, uint64_t seed, double deviation, float *values);
/* What stands for virtual tokens: all of the method's parameters normal, with deviation 0.02;
 * keyed in the same way. */
void peft_draw_virtual(ml_peft *peft);
/* A pass over these tokens, as many as the method has virtual ones, which the hook looks at in the
 * place of the model's own. */
void peft_watch(ml_peft *peft, const int32_t *token, ml_virtual_hook hook);
static inline float *peft_value(const ml_peft *peft, int64_t parameter)
{
    return peft->parameters->value + peft->parameters->items[parameter].offset;
}
/* Whether a pair's layer is on this rank's stage of a pipeline. */
static inline bool lora_is_here(const ml_peft *peft, const lora_group *group)
{
    return ml_parameters_hold(peft->parameters, group->pair[0].parameter_a);
}
/* NULL where nothing trains. */
static inline float *peft_gradient(const ml_peft *peft, int64_t parameter)
{
    const ml_parameters *p = peft->parameters;
    return p->gradient ? p->gradient + p->items[parameter].offset : NULL;
}

/* tensors.c */
void tensors_load(ml_peft *peft, const ml_adapter *adapter);
/* Whether the adapter has these tensors; `bad` with a text that begins with `who` where not. */
ml_status tensors_check(const ml_peft *peft, const ml_adapter *adapter, ml_status bad,
                        const char *who) ML_NODISCARD;
/* Whether it has no others than those of a method and of what is chained to it. */
ml_status tensors_check_count(const ml_peft *peft, const ml_adapter *adapter, ml_status bad,
                              const char *who) ML_NODISCARD;
ml_status tensors_collect(const ml_peft *peft, const ml_grid *grid, ml_adapter *out) ML_NODISCARD;

/* Room for one more tensor. */
ml_status tensors_append(ml_adapter *out, const char *name, int64_t rows, int64_t cols,
                         float **value) ML_NODISCARD;

/* Whether a tensor is of a head for labels, or for masked tokens, which trains beside any method:
 * all of it that the base does not bring. */
static inline bool slot_is_score(const ml_model *model, const ml_model_slot *slot)
{
    return ml_family_is_new(ml_model_get_spec(model), slot->row);
}
/* slots.c: the slots of the model that `chosen` names train. `key`: what asks for them, as the
 * messages begin. */
typedef bool (*slot_choice)(const ml_model *model, const ml_model_slot *slot, const void *by);
ml_status slots_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                       const ml_peft_options *options, slot_choice chosen, const void *by,
                       const char *key) ML_NODISCARD;

/* saved.c: whole modules, and biases, beside a method, `first` of the chain; *out stays NULL where
 * none is named. `adapter`: those that it has, NULL: those that the options name. */
ml_status saved_attach(ml_peft **out, const ml_peft *first, ml_parameters *parameters,
                       const ml_peft_options *options, const ml_adapter *adapter) ML_NODISCARD;

/* tokens.c: rows of the embedding, or of the head, beside a method; *out stays NULL where none are
 * named. `adapter`: those that it has, NULL: those that the options name. */
ml_status tokens_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options, const ml_adapter *adapter,
                        bool head) ML_NODISCARD;

/* Methods: slots.c (full, top, bitfit), bottleneck.c, compacter.c, prefix.c, prefix_kv.c. */
typedef ml_status (*peft_attach)(ml_peft **out, ml_model *model, ml_parameters *parameters,
                                 const ml_peft_options *options);
ml_status full_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                      const ml_peft_options *options) ML_NODISCARD;
ml_status top_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                     const ml_peft_options *options) ML_NODISCARD;
ml_status bitfit_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options) ML_NODISCARD;
ml_status bottleneck_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                            const ml_peft_options *options) ML_NODISCARD;
ml_status prefix_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                        const ml_peft_options *options) ML_NODISCARD;
ml_status prefix_kv_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                           const ml_peft_options *options) ML_NODISCARD;

#endif
