/* family: what a model family is, as one table that everything else walks.
 *
 * A family is one file of src/model/families/: a `const ml_family` and nothing else. It says
 *   - which tensors a model has, in the order of the base file, a row a tensor: its name here, its
 *     role in the computation, its shape, how it is cut over tp, how it is stored, when it is
 *     there, and its names and layouts in Hugging Face's, GGUF's and PEFT's files;
 *   - which features the architecture has (the defaults of ml_model_spec), and which keys of
 *     config.json and of GGUF's metadata say them.
 * Checks, shapes, shards, imports, exports, targets of adapters and the passes follow these rows;
 * no other file knows a family by name. Two rows whose stored name is the same are parts of one
 * stored tensor, one below the other in the order of the rows (GPT-2's c_attn is q, k and v).
 *
 * Names: '@' in a stored name stands for the layer's prefix ("model.layers.3" in Hugging Face,
 * "blk.3" in GGUF). docs/adding-a-model.md explains every column.
 */
#ifndef MPILORA_FAMILY_H
#define MPILORA_FAMILY_H

#include "mpilora/model.h"

ML_BEGIN_DECLS

/* ---- tensors ------------------------------------------------------------------------------- */

/* What the passes do with a tensor. Weights (or biases) of one role in one layer are the parts of
 * one linear layer and stand next to each other. The order is that of a pass. */
typedef enum ml_role {
    ML_ROLE_EMBED = 1,
    ML_ROLE_PROJECT_IN, /* from the embedding's width to the model's */
    ML_ROLE_POSITION,   /* of learned positions */
    ML_ROLE_TOKEN_TYPE,
    ML_ROLE_EMBED_NORM,
    ML_ROLE_RELATIVE, /* rows of distances */
    ML_ROLE_RELATIVE_NORM,
    ML_ROLE_CONV, /* of the embedding, behind the first layer */
    ML_ROLE_CONV_NORM,
    ML_ROLE_NORM1, /* from here: a tensor of every layer */
    ML_ROLE_QKV,
    ML_ROLE_POS, /* q and k of the rows of distances */
    ML_ROLE_Q_NORM,
    ML_ROLE_K_NORM,
    ML_ROLE_O,
    ML_ROLE_NORM1_BEHIND,
    ML_ROLE_NORM2,
    ML_ROLE_UP, /* what the activation acts on: fc, or gate and up */
    ML_ROLE_DOWN,
    ML_ROLE_NORM2_BEHIND,
    ML_ROLE_FINAL_NORM,  /* from here: once in a model */
    ML_ROLE_PROJECT_OUT, /* from the model's width to the head's */
    ML_ROLE_TRANSFORM,   /* a layer before the head: norm(activation(W x + b)) */
    ML_ROLE_TRANSFORM_NORM,
    ML_ROLE_HEAD,
    ML_ROLE_POOL,    /* what the first token becomes before its labels are scored */
    ML_ROLE_CLASSIFY /* to a score for each label, in the place of the head */
} ml_role;

/* A tensor's rows or columns in sizes of the model; each is made of units that tp never cuts. */
typedef enum ml_extent {
    ML_EXTENT_ONE = 1, /* the columns of a vector */
    ML_EXTENT_WIDTH,
    ML_EXTENT_HEAD,    /* head_dim */
    ML_EXTENT_QUERIES, /* heads · head_dim, in heads */
    ML_EXTENT_KEYS,    /* kv_heads · head_dim, in heads */
    ML_EXTENT_QKV,     /* queries, keys and values, of a fused target alone */
    ML_EXTENT_MLP,
    ML_EXTENT_GATE_UP, /* gate and up, of a fused target alone */
    ML_EXTENT_VOCAB,
    ML_EXTENT_EMBED,   /* columns of embedding and head: the width, but where they are projected */
    ML_EXTENT_CONTEXT, /* rows of learned positions */
    ML_EXTENT_LABELS,  /* of a head that scores them */
    ML_EXTENT_TYPES,   /* token types */
    ML_EXTENT_DISTANCES, /* rows of distances */
    ML_EXTENT_CONV       /* width · conv_kernel */
} ml_extent;

typedef enum ml_cut { ML_CUT_NONE = 1, ML_CUT_ROWS, ML_CUT_COLS } ml_cut; /* over tp */

typedef enum ml_storage {
    ML_STORED_MATRIX = 1, /* in the base's dtype */
    ML_STORED_FP32        /* norms and biases, whatever the base's dtype */
} ml_storage;

typedef enum ml_presence {
    ML_PRESENT_ALWAYS = 1,
    ML_PRESENT_QKV_BIAS, /* where the specification's flag of this name is set */
    ML_PRESENT_O_BIAS,
    ML_PRESENT_MLP_BIAS,
    ML_PRESENT_QK_NORM,
    ML_PRESENT_UNTIED,     /* where the head is not the embedding, and of encoders there is one */
    ML_PRESENT_FINAL_NORM, /* unless the specification says that there is none */
    ML_PRESENT_TYPES,      /* where tokens have types */
    ML_PRESENT_LEARNED,    /* where positions are learned */
    ML_PRESENT_RELATIVE,   /* where scores have relative terms */
    ML_PRESENT_RELATIVE_NORM,
    ML_PRESENT_POS_Q, /* where relative_queries are not shared */
    ML_PRESENT_POS_K, /* where relative_keys are not shared */
    ML_PRESENT_CONV,
    ML_PRESENT_PROJECTED, /* where the embedding has a width of its own */
    ML_PRESENT_SEQUENCE,  /* where the head scores the labels of a sequence */
    ML_PRESENT_TOKENS,    /* … of a token */
    ML_PRESENT_POOL,      /* where it scores those of a sequence, or the base has it all the same */
    ML_PRESENT_MASKED,    /* where an encoder has a head for masked tokens */
    ML_PRESENT_LEGACY,    /* … with DeBERTa's older names */
    ML_PRESENT_RENAMED,   /* … with its newer ones */
    ML_PRESENT_TRANSFORM, /* where it has one, or scores labels */
    ML_PRESENT_TRANSFORM_BIAS,
    ML_PRESENT_FUSED /* never: the tensors of its role as one, a target of adapters */
} ml_presence;

typedef enum ml_layout {
    ML_LAYOUT_PLAIN = 1,  /* out × in, as here */
    ML_LAYOUT_TRANSPOSED, /* in × out (Hugging Face's Conv1D); vectors as they are */
    ML_LAYOUT_PAIRED,     /* rows of a head as pairs (i, i + h/2) beside each other; here the first
                             halves stand first */
    ML_LAYOUT_BY_HEAD,    /* a vector stored as heads × head_dim */
    ML_LAYOUT_EACH_HEAD,  /* the same as a tensor for each head, its number in the place of '#' */
    ML_LAYOUT_PLUS_ONE,   /* a norm's weight stored as 1 + w */
    ML_LAYOUT_CONV,       /* a matrix stored as rows × width × conv_kernel */
    ML_LAYOUT_GROUPED     /* fused q, k and v, cut by key/value heads: the rows of the queries that
                             share one, of its key, of its value, then the next */
} ml_layout;

typedef struct ml_stored_name {
    const char *name; /* "@.self_attn.q_proj.weight" */
    ml_layout layout;
} ml_stored_name;

typedef struct ml_family_tensor {
    const char *module; /* "attn.q": the tensor is layers.N.attn.q.weight, or .bias */
    bool bias;
    ml_role role;
    ml_extent rows, cols;
    ml_cut cut;
    ml_storage storage;
    ml_presence present;
    unsigned places; /* bit p: only where norm_places is p; 0: wherever */
    ml_stored_name hf, gguf;
    const char *peft;   /* module of Hugging Face's model, "@.self_attn.q_proj" */
    const char *target; /* word of method.targets; "" where no adapter goes */
} ml_family_tensor;

/* ---- keys of foreign configurations -------------------------------------------------------- */

typedef enum ml_key_kind {
    ML_KEY_SIZE = 1,   /* a whole number from 1: int64_t */
    ML_KEY_COUNT,      /* a whole number from 0: int64_t */
    ML_KEY_REAL,       /* double */
    ML_KEY_FLAG,       /* bool */
    ML_KEY_ACTIVATION, /* ml_activation, by Hugging Face's words */
    ML_KEY_GELU,       /* the same, but every GELU is that with tanh */
    ML_KEY_CAP,        /* double; null: 0, which is none */
    ML_KEY_INVERSE,    /* double: 1 over what is said */
    ML_KEY_ROOT,       /* double: 1 over the root of what is said */
    ML_KEY_CHOICE,     /* a flag that chooses between two values of an enumeration */
    ML_KEY_GROUPED,    /* such a flag that also says that there are groups of heads */
    ML_KEY_ONE,        /* the same of a number: 1, or 2 */
    ML_KEY_SINGLE,     /* a flag: int64_t 1; false: 0 */
    ML_KEY_OFF,        /* must be missing, null, false or 0: it changes what a model computes */
    ML_KEY_ON,         /* must be missing, null or true */
    ML_KEY_NEXT,       /* a whole number from 0: int64_t, one more than what is said */
    ML_KEY_PLACES,    /* rows of learned positions: int64_t, less those before the first position */
    ML_KEY_ABSOLUTE,  /* must be missing, null or "absolute" */
    ML_KEY_IDLE,      /* known, and says nothing of the model here */
    ML_KEY_SOLE,      /* must be missing, null or 1 */
    ML_KEY_TERMS,     /* "c2p", "p2c", a list of them or both with | between them: the field is
                         relative_keys */
    ML_KEY_RELATIVE,  /* a flag without which there must be no such terms */
    ML_KEY_NORMED,    /* a word: bool, whether it has "layer_norm" in it */
    ML_KEY_BUCKETS,   /* a whole number: int64_t, 0 below 1 */
    ML_KEY_DISTANCES, /* the same, but the context below 1 */
    ML_KEY_POOLING,   /* a word: bool, whether it is "mean", else "cls" */
    ML_KEY_CONV       /* as ML_KEY_BUCKETS, but none is written as 0, not as −1 */
} ml_key_kind;

enum { ML_KEY_LEAVE = -1 };

typedef struct ml_family_key {
    const char *key; /* GGUF: behind "<architecture>." */
    ml_key_kind kind;
    bool required;    /* else the defaults' value holds, or what follows from other sizes */
    size_t field;     /* in ml_model_spec */
    const char *when; /* a flag without which the key says nothing; NULL: it always does */
    int yes, no;      /* of a choice; ML_KEY_LEAVE: what was chosen before stays */
} ml_family_key;

/* Where config.json says which layers' attention has a window. Names may be NULL: not heeded. */
typedef struct ml_window_keys {
    const char *size;        /* null: none */
    const char *on;          /* a flag without which there is none */
    const char *first_layer; /* layers before it attend to everything */
    const char *types;       /* a word for each layer, in the place of first_layer */
    const char *every;       /* every so-manieth layer has none; of old files, without `types` */
    int64_t default_size, default_first_layer; /* size 0: none */
    int64_t full_every; /* where nothing says which: this many; 0: all have one */
    bool unrotated;     /* where nothing says which: the layers that know no positions */
    bool first_full;    /* every so-manieth from the first layer on, not from the so-manieth */
} ml_window_keys;

/* Where config.json says how rotary positions differ from the usual. */
typedef struct ml_rope_keys {
    const char *part;  /* the rotated part of a head; beside it "partial_rotary_factor" is known.
                          NULL: every head is rotated as a whole */
    const char *theta; /* another word for "rope_theta"; NULL: none */
    bool fixed;        /* nothing is said of it but by the family's keys */
    const char *local_theta; /* of layers with a window, which have a rope of their own; NULL: all
                                layers have the same */
    bool longrope_alone;     /* every scaling is longrope, whatever it is called */
    bool theta_required;     /* what is assumed without it has changed */
    double default_part;     /* where nothing says it; 0: 1 */
    const char *layers;      /* 1 for each layer that is rotated, 0 for others; NULL: all are */
    const char *every;       /* without `layers`: every so-manieth layer is not */
    int64_t unrotated_every; /* where nothing says it */
} ml_rope_keys;

typedef struct ml_family_huggingface {
    const char *model_type, *architecture;
    const char *stem;        /* what the classes with a head for labels begin with, where it is not
                                what `architecture` begins with */
    const char *prefix;      /* which names may lack as a whole: "model." */
    const char *former_head; /* PEFT's name of the head before transformers 5, where it is another;
                                NULL: none is */
    const char *layers;      /* '@' is this and the layer's number: "model.layers." */
    const char *gelu_tanh;   /* the word that is written for it */
    const ml_family_key *keys; /* ended by a NULL key */
    ml_window_keys windows;
    ml_rope_keys rope;
} ml_family_huggingface;

/* What llama.cpp expects of a head: a matrix, or else the embedding; a matrix, also where it is
 * the embedding; the embedding alone. */
typedef enum ml_gguf_head {
    ML_GGUF_HEAD_ANY,
    ML_GGUF_HEAD_ALWAYS,
    ML_GGUF_HEAD_NEVER
} ml_gguf_head;

typedef struct ml_family_gguf {
    const char *architecture;
    bool borrowed; /* it is another family's, or no file has it: this one is known by its
                      config.json alone */
    ml_gguf_head head;
    int64_t wide_layers; /* scores are divided by √(width/heads) in models of so many layers, by
                            √head_dim in all others, since no key says it; 0: the defaults say it */
    const ml_family_key *keys;
    const char *unsaid; /* what the format has no key for, and what is assumed; NULL: nothing */
} ml_family_gguf;

/* ---- a family ------------------------------------------------------------------------------ */

struct ml_family {
    const char *name;       /* "gpt2": in base files and model descriptions */
    const char *title;      /* "GPT-2": in messages */
    ml_model_spec defaults; /* features, and sizes where a description may leave them out; 0: by
                               ml_model_spec_complete */
    int64_t mlp_factor;     /* mlp_width in widths where nothing says it; 0: it must be said */
    bool plain_heads;       /* kv_heads = heads, heads × head_dim = width */
    bool first_unnormed;    /* the first layer has no norm before attention, its first row */
    bool shrinking_heads;   /* new heads are drawn the smaller the wider and deeper the model is */
    bool padded;            /* learned positions begin behind the row of the padding token's id */
    unsigned norm_places, positions; /* bit p: models may have that value; 0: the defaults' alone */
    const ml_family_tensor *tensors; /* ended by a NULL module */
    ml_family_huggingface hf;
    ml_family_gguf gguf;
};

/* All families, ended by NULL.
 * Shapes: none.
 * Ownership: constants of the library.
 * Local.
 * Errors: none. */
const ml_family *const *ml_families(void);

/* The family of a name; NULL: none has it.
 * Shapes: none.
 * Ownership: a constant of the library.
 * Local.
 * Errors: none. */
const ml_family *ml_family_find(const char *name);

/* The next row of an adapter's possible modules (rows with a target, fused ones among them), from
 * `row` on; NULL: no more.
 * Shapes: none.
 * Ownership: constants of the library.
 * Local.
 * Errors: none. */
const ml_family_tensor *ml_family_target(const ml_family_tensor *row);

/* The same of those that a model has.
 * Shapes: none.
 * Ownership: constants of the library.
 * Local.
 * Errors: none. */
const ml_family_tensor *ml_model_target(const ml_model_spec *spec, const ml_family_tensor *row);

/* The row of the weight of the embedding, or of the head (ML_ROLE_EMBED, ML_ROLE_HEAD), which are
 * targets outside the layers; a tied model has no tensor of its own for the head, but the target.
 * Shapes: none.
 * Ownership: constants of the library.
 * Local.
 * Errors: none. */
const ml_family_tensor *ml_family_end(const ml_family *family, ml_role role);

/* Whether the family has a head of this kind; and the class that transformers has for a model
 * ("LlamaForSequenceClassification").
 * Shapes: out[size] bytes.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
bool ml_family_scores(const ml_family *family, ml_head_kind head);
ml_head_kind
ml_family_head(const ml_family_tensor *row); /* that the row, of role CLASSIFY, is of */
void ml_family_class(const ml_model_spec *spec, char *out, size_t size);

/* Whether a row is of a head that a base does not bring: it is new, trains whole beside any method
 * and is saved with it; and whether the family has a head for masked tokens.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
bool ml_family_is_new(const ml_model_spec *base, const ml_family_tensor *row);
bool ml_family_predicts_masked(const ml_family *family);

/* The row of the fused target that `row` is a part of, or that it is itself; NULL: none.
 * Shapes: none.
 * Ownership: constants of the library.
 * Local.
 * Errors: none. */
const ml_family_tensor *ml_family_fused(const ml_family *family, const ml_family_tensor *row);

/* The family's row that is adapted as `module` ("attn.q"); NULL: none.
 * Shapes: none.
 * Ownership: constants of the library.
 * Local.
 * Errors: none. */
const ml_family_tensor *ml_family_find_target(const ml_family *family, const char *module);

/* Input and output width of a target of the family; the embedding goes from the vocabulary to the
 * width.
 * Shapes: global widths.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_module_shape(const ml_model_spec *spec, const ml_family_tensor *row, int64_t *in,
                     int64_t *out);

/* First row of a target within the output of PEFT's module: that of k and v in a fused projection,
 * else 0.
 * Shapes: rows.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
int64_t ml_module_first_row(const ml_model_spec *spec, const ml_family_tensor *row);

/* What the family assumes of layers that have no window, and of layers that know no positions,
 * where a file does not say it.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: none. */
void ml_family_assume_layers(ml_model_spec *spec);

/* Splits "layers.3.attn.q" into 3 and the row of the family's table, "embed" and "head" into −1
 * and theirs; NULL where the model has no such target.
 * Shapes: none.
 * Ownership: a constant of the library.
 * Local.
 * Errors: none. */
const ml_family_tensor *ml_module_parse(const ml_model_spec *spec, const char *module,
                                        int64_t *layer);

/* Whether tensors of a role stand once in every layer; the size of an extent in a model, and the
 * units (heads) that it is cut into; whether a model has the tensor of a row.
 * Shapes: rows or columns.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
bool ml_role_in_layer(ml_role role);
int64_t ml_extent_size(const ml_model_spec *spec, ml_extent extent);
int64_t ml_extent_units(const ml_model_spec *spec, ml_extent extent);
bool ml_family_has(const ml_model_spec *spec, const ml_family_tensor *row);

typedef enum ml_format { ML_FORMAT_HUGGINGFACE, ML_FORMAT_GGUF } ml_format;

/* Where another program's files hold a tensor: in the stored tensor `name` of `total` rows, which
 * is fused where these are more than its own. Its rows stand there in runs, of which one begins
 * `stride` rows behind the one before, the first at row `first`; where nothing is grouped there is
 * one run. Of several stored tensors (`pieces`), one for each run, `total` are the rows of one. */
typedef struct ml_stored_place {
    char name[128];
    ml_layout layout;
    int64_t first, total, run, stride, pieces;
} ml_stored_place;

/* Where another program's files hold a tensor, as ml_stored_place says.
 * Shapes: rows of the stored tensor.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
void ml_stored_place_of(const ml_model_spec *spec, const ml_model_tensor *tensor, ml_format format,
                        ml_stored_place *out);

/* The name of the stored tensor that has row `row` of the tensor here.
 * Shapes: out[size] bytes.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
void ml_stored_name_at(const ml_stored_place *place, int64_t row, char *out, size_t size);

/* The stored row that is row `row` of the tensor here; and how many rows from this one on follow
 * one another there as here.
 * Shapes: rows.
 * Ownership: borrows `place`.
 * Local.
 * Errors: none. */
int64_t ml_stored_row(const ml_stored_place *place, int64_t row);
int64_t ml_stored_rows_together(const ml_stored_place *place, int64_t row);

/* The outputs of PEFT's module that are the outputs of a target, which may be a part of the module
 * or the fused one.
 * Shapes: rows[out], out as ml_module_shape has it.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_peft_rows(const ml_model_spec *spec, const ml_family_tensor *row, int64_t *rows);

/* PEFT's whole path of a target in a layer: "model.layers.3.self_attn.q_proj".
 * Shapes: out[size] bytes.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: none. */
void ml_peft_path(const ml_family *family, const ml_family_tensor *row, int64_t layer, char *out,
                  size_t size);

ML_END_DECLS

#endif
