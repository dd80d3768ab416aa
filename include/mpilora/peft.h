/* peft: what a run trains. A method attaches to a model: it names its trainable tensors and
 * installs its hooks; models never name a method.
 *
 * LoRA (Hu et al. 2021, arXiv:2106.09685): y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ with A[r, in], B[out, r], W
 * frozen; s = α/r, or α/√r (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732). In a column-parallel
 * layer A is replicated over tp and B cut by rows, in a row-parallel layer A is cut by columns and
 * B replicated; gradients of the replicated factors are partial sums. The head is column-parallel
 * over the vocabulary, the embedding row-parallel: A[r, V], B[d, r]. On a tied model each has its
 * own adapter, which changes nothing at the other end.
 * DoRA (Liu et al. 2024, arXiv:2402.09353): y = g∘(x·Wᵀ + s·(x·Aᵀ)·Bᵀ) + b with g_i = m_i/‖W_i +
 * s·(B·A)_i‖, a row i of W each; m[out] trains and starts as ‖W_i‖, the norm counts as a constant
 * in the gradient (section 4.3), as PEFT has it. ΔW is never formed: ‖W_i + s·(BA)_i‖² = ‖W_i‖² +
 * 2s·B_i·(W·Aᵀ)_i + s²·B_i·(A·Aᵀ)·B_iᵀ. In a row-parallel layer every term is a sum over the
 * ranks' columns: one sum over tp of these numbers, 8·out bytes a layer, after each update.
 * PiSSA (Meng et al. 2024, arXiv:2404.02948): A and B start as the leading singular vectors of W,
 * s·B0·A0 = U_r·S_r·V_rᵀ, and W as what they leave; what is collected is the adapter of rank 2r
 * that says the same for W as it was: s·[B, −B0]·[A; A0], as PEFT's
 * path_initial_model_for_weight_conversion makes it.
 * LoRA+ (Hayou et al. 2024, arXiv:2402.12354) gives B a learning rate of its own. Layers, ranks
 * and alphas by module are PEFT's layers_to_transform, rank_pattern and alpha_pattern.
 * The others, with the sizes of ml_method_sizes (parameter counts for d width, L layers; Hu et
 * al., section 5.1):
 *   full           every tensor of the base, with fp32 masters
 *   top            the tensors of the last n layers (FT-Top2: n = 2)
 *   bitfit         every bias, those of norms among them (Zaken et al. 2021, arXiv:2106.10199)
 *   adapter_*      y ← y + U·gelu(D·y + b) + c with D[r, d], U[d, r] on the output of a sub-layer,
 *                  before its residual sum: 2·d·r + r + d each. adapter_h after attention and MLP
 *                  (Houlsby et al. 2019, arXiv:1902.00751), adapter_p after the MLP (Pfeiffer et
 *                  al. 2021, arXiv:2005.00247), adapter_l the same behind a norm of its own,
 *                  D·norm(y), 2·d more (Lin et al. 2020, arXiv:2004.03829), adapter_drop adapter_p
 *                  without the first layers (Rücklé et al. 2020, arXiv:2010.11918). U starts as
 *                  zero, so that the run starts as the base.
 *   compacter      adapter_h with D and U = Σ_i A_i ⊗ (s_i·t_iᵀ), A_i[n, n] shared by all of them
 *                  (Mahabadi et al. 2021, arXiv:2106.04647)
 *   prefix_embed   trained embeddings of l_p positions before a sequence and l_i between prompt
 *                  and completion: d·(l_p + l_i)
 *   prefix_layer   also what these positions hold at the input of every further layer:
 *                  L·d·(l_p + l_i)
 *   prefix_kv      keys and values of l_p positions before a sequence, in every layer; keys are
 *                  not rotated, and what follows stands at positions from l_p on, as PEFT's prefix
 *                  tuning has it (Li and Liang 2021, arXiv:2101.00190):
 *                  2·L·l_p·(key/value heads × h)
 *   lora+prefix_*  both (appendix E)
 *
 * Beside any of them but full, top and bitfit whole modules of the base may train (PEFT's
 * modules_to_save), or rows of the embedding and of the head alone (its trainable_token_indices);
 * a tied head follows the embedding's. Where whole modules are the embedding or the head of a tied
 * model, it is no longer tied: the one trains, the other stays as it was.
 *
 * Order of calls: attach (describes; no storage) → ml_parameters_lay_out → ml_parameters_allocate
 * → ml_peft_bind → ml_model_bind → weights are read → ml_peft_initialise or ml_peft_load. For
 * sizes alone stop after lay_out.
 */
#ifndef MPILORA_PEFT_H
#define MPILORA_PEFT_H

#include "mpilora/base.h"
#include "mpilora/config.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

typedef struct ml_peft ml_peft;

typedef struct ml_lora_options {
    int64_t rank;
    double alpha, dropout;
    ml_scaling scaling;
    unsigned targets;       /* resolved for the family: ml_targets_resolve */
    uint64_t seed;          /* of initial A and dropout */
    bool dora;              /* without dropout */
    bool pissa;             /* without dora; LoRA alone */
    bool loftq;             /* the same; not both */
    double lora_plus;       /* B's learning rate is that many times the step's; 0: the same */
    ml_layer_ranges layers; /* none: all */
    ml_module_patterns rank_pattern,
        alpha_pattern; /* borrowed until the method is destroyed, as the layers are */
} ml_lora_options;

/* Attaches LoRA with its variants, as the top of this header describes them: pairs A, B are added
 * to the list and hooks installed in the model; nothing is allocated for them yet.
 * Shapes: A[r, in], B[out, r] of each target, global.
 * Ownership: *out is the caller's, who ends it with ml_peft_destroy; the model, the list and what
 * `options` points to are borrowed and must outlive it.
 * Local.
 * Errors: ML_USAGE where a layer or a name of a pattern is not there to be adapted; ML_RESOURCE. */
ml_status ml_peft_attach_lora(ml_peft **out, ml_model *model, ml_parameters *parameters,
                              const ml_lora_options *options) ML_NODISCARD;

/* Any method and its sizes; `lora` is for those that have LoRA. */
typedef struct ml_peft_options {
    ml_method method;
    ml_method_sizes sizes;
    ml_lora_options lora;
    ml_module_patterns modules_to_save;  /* that train whole beside the method: names or ends of
                                            names, ours or Hugging Face's; borrowed for the call */
    ml_bias bias;                        /* which biases of the base train beside LoRA */
    ml_layer_ranges trainable_tokens[2]; /* tokens whose rows of the embedding, and of an untied
                                            head, train beside the method; borrowed for the call */
    bool forward_only;                   /* nothing trains: what gradients need is not asked for */
} ml_peft_options;

/* Attaches any method; one that is two attaches both.
 * Shapes: as the top of this header lists them.
 * Ownership: *out is the caller's, who ends it with ml_peft_destroy; the model, the list and what
 * `options` points to are borrowed and must outlive it.
 * Local.
 * Errors: ML_USAGE where the sizes do not fit the model (both numbers named), and as
 * ml_peft_attach_lora; ML_RESOURCE. */
ml_status ml_peft_attach(ml_peft **out, ml_model *model, ml_parameters *parameters,
                         const ml_peft_options *options) ML_NODISCARD;

/* The same from a run's configuration, with LoRA's targets resolved; `method` instead of the
 * configuration's own.
 * Shapes: as the top of this header lists them.
 * Ownership: *out is the caller's, who ends it with ml_peft_destroy; the model, the list and the
 * configuration's layers and patterns are borrowed and must outlive it.
 * Local.
 * Errors: ML_USAGE as ml_peft_attach and ml_targets_resolve; ML_RESOURCE. */
ml_status ml_peft_attach_configured(ml_peft **out, ml_model *model, ml_parameters *parameters,
                                    const ml_run_config *config, ml_method method) ML_NODISCARD;

/* The specification of the model that a method trains: that of the base, but for the biases that
 * bitfit makes.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
ml_model_spec ml_peft_model_spec(const ml_model_spec *base, ml_method method,
                                 const ml_method_sizes *sizes);

/* The specification gets a head of its own where one of the modules that train is the embedding or
 * the head: those of a configuration, or those that an adapter has.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_peft_untie(ml_model_spec *spec, ml_method method, const ml_module_patterns *modules);
void ml_peft_untie_for(ml_model_spec *spec, const ml_adapter *adapter);

/* The rows of tokens that an adapter has of the embedding, or of the head: v[n, d], and in *ids
 * their numbers [n, 1], ascending; NULL where it has none.
 * Shapes: as the adapter has them, not checked.
 * Ownership: borrowed from `adapter`.
 * Local.
 * Errors: none. */
const ml_adapter_tensor *ml_peft_token_rows(const ml_adapter *adapter, bool head,
                                            const ml_adapter_tensor **ids);

/* Attaches an existing adapter, not to be trained: modules, ranks and scales are its own.
 * Shapes: those of the adapter.
 * Ownership: *out is the caller's, who ends it with ml_peft_destroy; the model and the list are
 * borrowed and must outlive it; the adapter is borrowed for the call.
 * Local.
 * Errors: ML_INPUT where it names a module that the model lacks or one twice, or its sizes or
 * tensors do not fit the model; ML_RESOURCE. */
ml_status ml_peft_attach_adapter(ml_peft **out, ml_model *model, ml_parameters *parameters,
                                 const ml_adapter *adapter) ML_NODISCARD;

/* Ends a method and takes its hooks out of the model; NULL is fine.
 * Shapes: none.
 * Ownership: takes `peft`; the model and the list stay.
 * Local.
 * Errors: none. */
void ml_peft_destroy(ml_peft *peft);

/* Points hooks, or the model's slots, at the allocated buffers; bf16 copies of trained weights and
 * other things of the method's own are allocated. After ml_parameters_allocate, before
 * ml_model_bind.
 * Shapes: none.
 * Ownership: the method owns what it allocates.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_peft_bind(ml_peft *peft) ML_NODISCARD;

/* Where several methods train tensors of the same name on one model: the model computes with those
 * of this one from here on. After ml_peft_bind and ml_model_bind; NULL is fine.
 * Shapes: none.
 * Ownership: borrows `peft`.
 * Local.
 * Errors: none. */
void ml_peft_point(ml_peft *peft);

/* Where the fp32 master of slot `index` is kept apart from the slot's own data (in bf16): base
 * weights are read there; else NULL.
 * Shapes: this rank's part of the slot, in floats.
 * Ownership: borrowed from the list's buffers.
 * Local.
 * Errors: none. */
float *ml_peft_master(ml_peft *peft, int64_t index);

/* Gives values to what is not of the base: matrices that go in (LoRA's A, D) Kaiming-uniform with
 * a = √5 (PEFT's), i.e. uniform in ±1/√in, keyed by (seed, name); those that come out (B, U) zero;
 * the embedding's A zero and its B normal with deviation 1, as PEFT's;
 * what stands for virtual tokens normal with deviation 0.02. After the weights are read; ends as
 * ml_peft_after_update.
 * Shapes: none.
 * Ownership: borrows `peft`.
 * Collective over tp (DoRA's norms).
 * Errors: none. */
void ml_peft_initialise(ml_peft *peft);

/* After ml_peft_initialise: what stands for virtual tokens starts as what `token`, one for each
 * (those of the infix last), are to the base: prefix_embed as their embeddings, prefix_layer also
 * as what the layers make of them, prefix_kv as their keys and values, so that the loss is at
 * first that of the base with these tokens there (but for the infix of prefix_layer, whose tokens
 * are taken to follow the prefix: no prompt is known yet). One pass over the model, which has its
 * weights, kernels and room for as many tokens.
 * Shapes: token[l_p + l_i].
 * Ownership: all borrowed.
 * Collective over a replica.
 * Errors: none. */
void ml_peft_start_virtual(ml_peft *peft, const int32_t *token);

/* Takes this rank's parts of an adapter's factors. Before the next pass comes
 * ml_peft_after_update.
 * Shapes: those of the adapter, global.
 * Ownership: all borrowed; values are copied.
 * Local.
 * Errors: ML_USAGE where method, rank, α, scaling or modules are not those attached (both values
 * named). */
ml_status ml_peft_load(ml_peft *peft, const ml_adapter *adapter) ML_NODISCARD;

/* Whether ml_peft_load would take the adapter; before there is storage for parameters, too.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: those of ml_peft_load. */
ml_status ml_peft_check(const ml_peft *peft, const ml_adapter *adapter) ML_NODISCARD;

/* After a pass's gradients are complete on this rank, before they are summed: gradients of what is
 * made of parameters become those of the parameters.
 * Shapes: none.
 * Ownership: borrows `peft`.
 * Local.
 * Errors: none. */
void ml_peft_before_sum(ml_peft *peft);

/* After each micro-batch: where gradients are summed exactly, this one's go to the sums, those of
 * what is made of parameters as the parameters' own; else they wait for before_sum.
 * Shapes: none.
 * Ownership: borrows both; `peft` may be NULL.
 * Local.
 * Errors: none. */
void ml_peft_take_gradients(ml_peft *peft, ml_parameters *parameters);

/* After an update or a load of values: bf16 copies, and what is made of parameters, follow.
 * Shapes: none.
 * Ownership: borrows `peft`.
 * Collective over tp, as ml_peft_initialise is (DoRA's norms).
 * Errors: none. */
void ml_peft_after_update(ml_peft *peft);

/* LoRA: adds s·B·A into the model's own weights (rounded once to their type) and takes the
 * method's hooks out, but for those of a tied embedding and head: the model computes what it did.
 * Only for a method whose weights are this model's own storage.
 * Shapes: none.
 * Ownership: borrows `peft`; the model's weights change.
 * Local.
 * Errors: none. */
void ml_peft_merge(ml_peft *peft);

/* PiSSA: the factors of every W from the whole matrices in the base, shared out among the ranks.
 * LoftQ: the factors of what the base has lost of `original` (NULL: PiSSA); a matrix that has lost
 * nothing keeps the factors that it has.
 * Shapes: W[out, in] → A[r, in], B[out, r].
 * Ownership: all borrowed; `peft` gets this rank's parts.
 * Collective over the world.
 * Errors: ML_USAGE where a rank is more than its matrix has (both named), or the matrix is beyond
 * LAPACK's counts; ML_INPUT of the base; ML_NUMERIC; ML_RESOURCE; the same on every rank. */
ml_status ml_peft_decompose(ml_peft *peft, ml_base *base, ml_base *original,
                            const ml_grid *grid) ML_NODISCARD;

/* PiSSA: the factors as they are count as the initial ones from here on, and are taken out of the
 * model's weights, its own storage, or, where these are in blocks, out of what layers make. Once.
 * Shapes: none.
 * Ownership: the method owns the initial factors; the model's weights change.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_peft_take_out(ml_peft *peft) ML_NODISCARD;

/* Whether the method changes weights that it does not train (PiSSA, but for blocks): no rank can
 * share its frozen weights.
 * Shapes: none.
 * Ownership: borrows `peft`.
 * Local.
 * Errors: none. */
bool ml_peft_changes_weights(const ml_peft *peft);

/* The model may hold one stage of a pipeline: where its trained tensors are, before
 * ml_parameters_lay_out, which makes room for those of this stage alone.
 * Shapes: none.
 * Ownership: borrows both.
 * Local.
 * Errors: none. */
void ml_peft_place(const ml_model *model, ml_parameters *parameters);

/* What ml_peft_decompose holds for a moment (category other); 0 without PiSSA or LoftQ.
 * Shapes: bytes.
 * Ownership: borrows `peft`; NULL is fine.
 * Local.
 * Errors: none. */
int64_t ml_peft_start_bytes(const ml_peft *peft);

/* How many numbers are written at a run's end for each that trains: 2 with PiSSA, whose adapter has
 * twice the rank.
 * Shapes: none.
 * Ownership: borrows `peft`; NULL is fine.
 * Local.
 * Errors: none. */
int64_t ml_peft_written_times(const ml_peft *peft);

/* Adds what ml_peft_bind allocates, and what PiSSA keeps of its start.
 * Shapes: bytes by category.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_peft_bytes(const ml_peft *peft, bool training, int64_t bytes[ML_MEM_CATEGORIES]);

/* What was trained, whole, on world rank 0; elsewhere `out` has no tensors.
 * Shapes: those of the adapter, global.
 * Ownership: `out` is the caller's, who ends it with ml_adapter_destroy; the rest is borrowed.
 * Collective over the world.
 * Errors: ML_RESOURCE, the same on every rank; `out` is empty then. */
ml_status ml_peft_collect(const ml_peft *peft, const ml_grid *grid, const char *base_source_hash,
                          ml_adapter *out) ML_NODISCARD;

ML_END_DECLS

#endif
