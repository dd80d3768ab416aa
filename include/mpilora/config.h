/* config: YAML run configurations (docs/configuration.md has their keys) and model descriptions,
 * with --set overrides.
 *
 * Unknown keys (with the nearest known one), wrong types, values out of range and impossible
 * combinations: ML_USAGE, one line with file, line and key. Strings are owned by the struct. A
 * missing optional path is NULL.
 */
#ifndef MPILORA_CONFIG_H
#define MPILORA_CONFIG_H

#include "mpilora/base.h"
#include "mpilora/method.h"
#include "mpilora/model.h"
#include "mpilora/objective.h"
#include "mpilora/optim.h"

ML_BEGIN_DECLS

/* What memory.activations says: a mode (ml_activation_mode, in the same order from ML_KEEP_FULL
 * on), or the choice of one. */
typedef enum ml_keep_activations {
    ML_KEEP_AUTO,
    ML_KEEP_FULL,
    ML_KEEP_SELECTIVE,
    ML_KEEP_CHECKPOINT
} ml_keep_activations;
typedef enum ml_numerics { ML_NUMERICS_FAST, ML_NUMERICS_GRID } ml_numerics;
typedef enum ml_measure { ML_MEASURE_ONCE, ML_MEASURE_ALWAYS } ml_measure;
typedef enum ml_share_frozen { ML_SHARE_AUTO, ML_SHARE_ON, ML_SHARE_OFF } ml_share_frozen;
typedef enum ml_load { ML_LOAD_AUTO, ML_LOAD_MAP, ML_LOAD_READ } ml_load;

/* Lists of a configuration, of at most so many members: words as their places among those that a
 * key has, each at most once, and numbers. */
enum { ML_MOST_LISTED = 8 };
typedef struct ml_words {
    int64_t count;
    int item[ML_MOST_LISTED];
} ml_words;
typedef struct ml_numbers {
    int64_t count;
    double item[ML_MOST_LISTED];
} ml_numbers;

/* How often: every so many steps, or seconds by the clock; both 0: never. */
typedef struct ml_interval {
    int64_t steps;
    double seconds;
} ml_interval;

/* The data sets to train on, and which share of the sequences comes from each: its weight over the
 * sum of all. One alone has weight 1. */
enum { ML_MOST_DATA_FILES = 64 };
typedef struct ml_data_file {
    char *file; /* owned */
    double weight;
} ml_data_file;
typedef struct ml_data_files {
    int64_t count;
    ml_data_file *item; /* [count], owned; NULL: none */
} ml_data_files;

/* Runs that one job trains together: what each sets, as --set has it, its run.dir first. */
enum { ML_MOST_RUNS = 256 };
typedef struct ml_run_item {
    int64_t sets;
    char **set; /* [sets], owned */
} ml_run_item;
typedef struct ml_run_list {
    int64_t count;
    ml_run_item *item; /* [count], owned; NULL: none */
} ml_run_list;

/* In comments: what a key is where the file does not give it. `base` alone has no default. */
typedef struct ml_run_config {
    char *path;        /* of the YAML file, for messages */
    int *line;         /* of each key there: see ml_run_config_refuse. NULL: none is known */
    char *run_dir;     /* run.dir: NULL */
    char *prometheus;  /* run.prometheus: NULL: no such file */
    bool trace;        /* run.trace: false */
    uint64_t seed;     /* run.seed: 1 */
    double wait_limit; /* run.wait_limit, seconds of one exchange; 0: none (null in the file) */
    double time_limit; /* run.time_limit, seconds of one start: 0, none (null in the file); it ends
                          before, with a checkpoint */
    char *base;        /* BASE.h5, or a model description *.yaml for plan */
    struct {
        ml_method name;     /* lora */
        int64_t rank;       /* 8 */
        double alpha;       /* 16 */
        double dropout;     /* 0 */
        unsigned targets;   /* ml_target bits: [q, v] */
        ml_scaling scaling; /* standard */
        char *init;         /* adapter.h5 or PEFT directory, or pissa, loftq: NULL */
        char *original;     /* of loftq, a base: NULL */
        bool dora;          /* false */
        double lora_plus;   /* B's learning rate is that many times lr (Hayou et al. 2024,
                               arXiv:2402.12354); null in the file gives 0: off */
        ml_layer_ranges layers;
        ml_module_patterns rank_pattern, alpha_pattern; /* in the place of rank and alpha */
        ml_module_patterns modules_to_save;             /* names alone: none */
        ml_bias bias; /* of the base, that train beside LoRA: none */
        ml_layer_ranges trainable_tokens,
            trainable_head_tokens; /* rows that train, of the embedding and of an untied head */
        ml_method_sizes sizes;
        ml_prefix_init prefix_init; /* vocabulary */
        char *prefix_text; /* with prefix_init text, repeated or cut to the number of virtual
                              tokens: NULL */
    } method;
    struct {
        ml_objective name;         /* sft */
        bool by_data;              /* name was not given: what labels the data have may choose it */
        ml_words loss_type;        /* of ml_pair_loss; none in the file: sigmoid, of kto kto */
        ml_numbers loss_weights;   /* as many, or none: 1 each */
        double beta;               /* 0.1 */
        double label_smoothing;    /* 0 */
        double gamma;              /* 0.5 */
        double cpo_alpha;          /* 1 */
        double ld_alpha;           /* 1 */
        double sft_weight;         /* 0 */
        double desirable_weight;   /* 1 */
        double undesirable_weight; /* 1 */
        double center_rewards;     /* 0 */
        double mask_probability;   /* 0.15 */
        double mask_replace;       /* 0.8 */
        double random_replace;     /* 0.1 */
        bool whole_words;          /* false */
        int64_t mask_token;        /* −1: the tokenizer's */
        double temperature;        /* 0.05 */
        ml_pair_order pair_order;  /* mixed */
        ml_pooling pooling;        /* base */
        bool normalise;            /* true: similarities are cosines */
    } objective;
    struct {
        double filter; /* 0: off; else the least probability that backward looks at */
    } loss;
    struct {
        ml_data_files train; /* none: train refuses but plan and eval do not */
        char *valid;         /* NULL: nothing is evaluated */
        int64_t max_len;     /* 0: the model's context */
        bool shuffle;        /* true */
        bool group_prompts;  /* false; true: sequences with equal prompts stay together */
        bool share_prompts;  /* true: what sequences of a micro-batch begin with in common is
                                computed once (never with dropout) */
    } data;
    struct {
        int64_t sequences; /* 32 */
        int64_t micro;     /* the smaller of sequences and 8 */
    } batch;
    struct {
        double lr;              /* 2e-4 */
        double beta1, beta2;    /* optim.betas: [0.9, 0.999] */
        double eps;             /* 1e-8 */
        double weight_decay;    /* 0.01 */
        double clip_norm;       /* 1; null in the file gives 0 here: off */
        ml_schedule schedule;   /* constant */
        int64_t warmup;         /* 0 */
        double label_smoothing; /* 0 */
    } optim;
    struct {
        int64_t steps;          /* 1000 */
        double epochs;          /* null in the file gives 0: steps count; train makes steps of it */
        int64_t eval_every;     /* 0: only at the end */
        ml_interval save_every; /* steps (200) or a time (10m); 0: only at the end */
        int64_t keep;           /* 2 */
        bool keep_best;  /* false; true: also the checkpoint of the best validation loss, saved when
                            an evaluation finds it */
        bool eval_first; /* false; true: also before the first step */
        struct {
            int64_t patience; /* 0: off */
            double min_delta; /* 0, nats a target */
        } early_stop;         /* with patience keep_best is true */
        struct {
            char *file;             /* prompts, a JSON line each; NULL: none */
            int64_t every, max_new; /* 0, 64; every 0: none */
        } samples;
    } train;
    struct {
        int64_t tp, cp, pp; /* 1, 1, 1 */
    } parallel;
    struct {
        ml_keep_activations activations; /* auto: the fastest mode that fits into the limit */
        int64_t limit;                   /* bytes of one process; null in the file gives 0: none */
        ml_share_frozen share_frozen;    /* auto: replicas of a node hold one copy of the frozen
                                            weights where that can be */
        ml_load load;                    /* auto: frozen weights are the base file's own pages
                                            where these come and work as fast as a copy */
        bool shard_optimizer; /* false; true: the replicas divide the optimizer's moments (ZeRO's
                                 first stage) */
    } memory;
    ml_dtype precision;      /* bf16 */
    ml_numerics numerics;    /* fast; grid: the same bits on every grid */
    bool rounds_activations; /* no key: what eval and generate are asked for on the command line:
                                products take activations of 8 bits */
    char *backend;           /* `kernels: {product: …, vector: …}`; NULL: measured */
    char *vector_path;
    ml_measure measure; /* once: rates of products are kept from one start to the next */
    ml_run_list runs;   /* none: this is one run */
} ml_run_config;

/* Reads `path` as ml_grid_read_text does (world rank 0 reads the file, every rank gets it),
 * applies `sets` ("key=value" with dotted keys, YAML values, later ones win), checks.
 * Shapes: sets[nsets].
 * Ownership: the caller ends *out with ml_run_config_destroy; after an error it owns nothing.
 * `path` and `sets` are copied.
 * Collective over the world.
 * Errors: ML_USAGE in one line with file, line and key, as the top of this header says;
 * ML_RESOURCE. */
ml_status ml_run_config_read(ml_run_config *out, const char *path, const char *const *sets,
                             int64_t nsets) ML_NODISCARD;

/* Ends a configuration; one that owns nothing is fine.
 * Shapes: none.
 * Ownership: takes what `config` owns.
 * Local.
 * Errors: none. */
void ml_run_config_destroy(ml_run_config *config);

/* What an empty file gives.
 * Shapes: none.
 * Ownership: nothing in *out is owned.
 * Local.
 * Errors: none. */
void ml_run_config_set_defaults(ml_run_config *out);

/* What a key's value is refused with wherever that shows: "FILE:LINE: KEY: …" where the file gives
 * the key, else without the line. Always gives an error.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE. */
ml_status ml_run_config_refuse(const ml_run_config *config, const char *key, const char *format,
                               ...) ML_PRINTF(3, 4) ML_NODISCARD;

/* A warning for each key that is not at its default and belongs to a method other than
 * method.name.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
void ml_run_config_warn_unread(const ml_run_config *config);

/* Appends the resolved configuration as YAML, every key present; reading it gives the same struct.
 * Shapes: none.
 * Ownership: borrows `config`; `out` is the caller's.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_run_config_write(const ml_run_config *config, ml_text *out) ML_NODISCARD;

/* Appends a page of Markdown with type, range, default and meaning of every key:
 * docs/configuration.md, and what `mpilora help configuration` prints.
 * Shapes: none.
 * Ownership: `out` is the caller's.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_run_config_describe(ml_text *out) ML_NODISCARD;

/* Whether method.init is pissa and the method has LoRA, which reads it.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_is_pissa(const ml_run_config *config);

/* Whether sums must not depend on the grid: numerics is grid.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_is_exact(const ml_run_config *config);

/* Whether all that the method trains gives its gradients piece by piece of a sequence; what others
 * train sums over a micro-batch, which therefore has to be one sequence of one rank.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_comes_in_pieces(const ml_run_config *config);

/* The word of `numerics`.
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_numerics_name(ml_numerics numerics);

/* Whether the configuration is one run's: every command but train and plan refuses a list of
 * runs.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: ML_USAGE naming the key. */
ml_status ml_run_config_check_single(const ml_run_config *config) ML_NODISCARD;

/* Whether run `config` may train in one job with run `first` (ml_train_together), which may be the
 * same: its own keys, and those that are one for all.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE naming the key, and where two differ both runs. */
ml_status ml_run_config_check_together(const ml_run_config *first,
                                       const ml_run_config *config) ML_NODISCARD;

/* Whether method.init is loftq and the method has LoRA.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_is_loftq(const ml_run_config *config);

/* method.init where it is the path of an adapter to start from; NULL where there is none, or the
 * key says pissa or loftq.
 * Shapes: none.
 * Ownership: borrowed from `config`.
 * Local.
 * Errors: none. */
const char *ml_run_config_first_adapter(const ml_run_config *config);

/* What batch.sequences and batch.micro count: 2 sequences where the objective compares pairs, 2 at
 * least where it reads rows of several texts (ml_dataset_related), else 1. Whether its loss asks
 * for the log-probabilities before the first step; whether it is that of tokens' log-probabilities,
 * or of scores of labels.
 * Shapes: sequences.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
int64_t ml_run_config_unit(const ml_run_config *config);
bool ml_run_config_has_reference(const ml_run_config *config);
bool ml_run_config_scores_labels(const ml_run_config *config);

/* Takes an objective that was not given, and checks what the configuration says with it.
 * Shapes: none.
 * Ownership: `config` is the caller's.
 * Local.
 * Errors: ML_USAGE naming the key that does not go with it. */
ml_status ml_run_config_choose_objective(ml_run_config *config, ml_objective name) ML_NODISCARD;

/* Whether the objective predicts tokens that are hidden from an encoder.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_masks(const ml_run_config *config);

/* Whether the objective is one on vectors of texts.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_contrasts(const ml_run_config *config);

/* How much a loss type counts in the sum that is minimised, 0 where it is not listed; of the
 * chosen answers' loss on tokens, under whichever key. Whether the objective needs the
 * log-probabilities of a whole step before its gradients.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
double ml_run_config_loss_weight(const ml_run_config *config, ml_pair_loss loss);
double ml_run_config_token_weight(const ml_run_config *config);
bool ml_run_config_looks_ahead(const ml_run_config *config);

/* Whether an objective reports more of a row, or of a pair, than its loss: all but sft and mlm.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
bool ml_run_config_has_figures(const ml_run_config *config);

/* The most sequences that one of `dp` replicas puts into a micro-batch of training: batch.micro,
 * or its share of a step where that is less.
 * Shapes: a number of sequences.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
int64_t ml_run_config_micro(const ml_run_config *config, int dp);

/* Ranks of a job that is planned or configured, at most. */
enum { ML_RANKS_MOST = 1 << 24 };

/* Ranks of one replica: tp · cp · pp, ML_RANKS_MOST at most of a configuration that was read.
 * Shapes: a number of ranks.
 * Ownership: borrows `config`.
 * Local.
 * Errors: none. */
int64_t ml_run_config_replica_ranks(const ml_run_config *config);

/* Checks what train alone needs: run.dir and data.train; data.valid with train.keep_best; no
 * adapter in method.init with method full.
 * Shapes: none.
 * Ownership: borrows `config`.
 * Local.
 * Errors: ML_USAGE naming the key that is missing or does not go. */
ml_status ml_run_config_check_training(const ml_run_config *config) ML_NODISCARD;

/* Whether a path names a model description, not a base file: it ends with .yaml or .yml.
 * Shapes: none.
 * Ownership: borrows `path`.
 * Local.
 * Errors: none. */
bool ml_model_spec_is_description(const char *path);

/* Reads a model description, `{family: gpt2, layers: …, …}`, as ml_run_config_read reads its file;
 * see configs/models/. What it leaves out is the family's own or follows from the rest.
 * Shapes: as ml_model_spec says.
 * Ownership: nothing in *out is owned.
 * Collective over the world.
 * Errors: ML_USAGE as the top of this header says; ML_RESOURCE. */
ml_status ml_model_spec_read(ml_model_spec *out, const char *path) ML_NODISCARD;

ML_END_DECLS

#endif
