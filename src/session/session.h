/* A session: everything that a pass over data needs, on one rank. Shared by training and
 * evaluation. */
#ifndef MPILORA_SESSION_SESSION_H
#define MPILORA_SESSION_SESSION_H

#include <math.h>

#include "mpilora/bank.h"
#include "mpilora/config.h"
#include "mpilora/data.h"
#include "mpilora/grid.h"
#include "mpilora/kernels.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/peft.h"
#include "mpilora/score.h"
#include "mpilora/store.h"
#include "session/shares.h"

/* What objective kto knows of a file's answers: unpaired.c. */
typedef struct unpaired {
    int64_t *partner; /* [sequences] whose answer the prompt of each gets where the model's distance
                         from the reference is estimated */
    uint8_t *wanted;  /* [sequences] */
    double *reference; /* [sequences] Σ log p of that answer behind that prompt, before the first
                          step; NULL: it is not needed */
    int64_t longest;   /* tokens of such a prompt and answer, at most */
    int32_t *token;    /* [2·max_len] scratch, as is mask */
    uint8_t *mask;
} unpaired;

/* One file of sequences and the order they are taken in. */
typedef struct data_source {
    ml_dataset *dataset;
    ml_sampler *sampler;
    double *reference; /* [sequences] Σ log p of each one's targets before the first step; NULL:
                          the objective asks for none */
    unpaired unpaired; /* of objective kto */
} data_source;

/* A sequence as it was read; `inputs`: its tokens up to the last one whose successor is a
 * target. */
typedef struct packed_sequence {
    int64_t position, length, inputs; /* position: the sampler's */
    const int32_t *token;
    const uint8_t *mask;
    const int32_t *token_label; /* of its own tokens; NULL: they have none */
    const float *label;         /* [labels], or a class or number alone; NULL: it has none */
    int64_t own;                /* tokens of the file */
    const uint8_t *type;        /* of its own tokens; NULL: the model has no types */
} packed_sequence;

/* `token` is predicted by `row`. */
typedef struct packed_hit {
    int64_t row;
    int32_t token, text, place; /* text: the sequence, as p->read has it; place: as target_place */
} packed_hit;

/* A micro-batch under construction. */
typedef struct packer {
    packed_sequence *read; /* [sequences] */
    int32_t *read_token;   /* [tokens] */
    uint8_t *read_mask;    /* [tokens] */
    int64_t *path;         /* [max_len] the rows of the last sequence's tokens */
    packed_hit *hit;       /* [tokens] in the order of the sequences */
    int64_t hits;
    int32_t *token, *target; /* [tokens] */
    int32_t *target_text;    /* [tokens] the sequence of each target, as `read` has it */
    int32_t *target_place;   /* [tokens] the how-manieth of its answer, or of a sequence's labels,
                                from 0; −1: of a prompt */
    float *log_p, *weight;   /* [tokens] of each target: preference.c's, as are the next three */
    double *text_log_p, *text_slope; /* [sequences] Σ log p, and the loss's derivative by it */
    int64_t *text_targets, *text_at; /* [sequences] how many of the answer; where in `read`
                                        a position is */
    float *label; /* [sequences, labels]; NULL, as the next three: no such head */
    uint8_t *read_type,
        *type;            /* [tokens] of a model with token types, as read and packed; else NULL */
    int32_t *token_label; /* [tokens] of a head that scores tokens */
    float *score, *slope; /* [sequences or tokens, labels] of the head's rows, and the loss's
                             derivatives by them */
    float *share;         /* [sequences] of objective contrastive, as are the next two; else NULL */
    float *vector, *vector_slope; /* [sequences, width] */
    int64_t *row, *target_start, *start, *shared, *key_sequence,
        *length;         /* [tokens], [tokens + 1], [sequences + 1], [sequences] ×3 */
    token_shares shares; /* where ranks share tokens out */
    ml_batch batch;      /* this rank's part of it then */
    int64_t file_tokens; /* of the packed sequences as they stand in the file (cut to max_len) */
} packer;

/* What is known of all pairs of a step or an evaluation before their losses, where the objective
 * compares sorted values of a whole batch. */
typedef struct pairs_ahead {
    int64_t first, count, room; /* pairs: the sampler's; there is room for so many */
    double *log_p;              /* [2·room] of each answer */
    double *loss, *slope;  /* [room], [2·room] what sorting gives: the loss of each pair, and the
                              derivative of their sum by each answer's log p */
    struct ranked *sorted; /* [2·room] */
    double moved;          /* kto: the estimate z of unpaired.c; until end_ahead a sum */
} pairs_ahead;

/* The texts of a step, or of as many rows of an evaluation, of objective contrastive. */
typedef struct contrast {
    int64_t first, count, room; /* rows: the sampler's; there is room for so many */
    int64_t unit, width;        /* texts of a row; of a vector */
    bool gathered;              /* of all replicas, and loss and slope are there */
    float *vector, *slope;      /* [room, unit, width] */
    float *similarity, *length; /* [room, room·(unit − 1)], [room, unit] */
    double *loss;               /* [room] */
    uint8_t *right;             /* [room] the positive is the nearest */
} contrast;

typedef struct session {
    const ml_run_config *config; /* borrowed, or `settled` */
    ml_run_config settled;       /* borrows all of it; where the data have chosen the objective */
    const struct session *host;  /* whose grid, base, model, kernels and weights this one trains
                                    with (together.h); NULL: they are its own */
    ml_grid *grid;
    ml_base *base;             /* NULL: random weights */
    const ml_model_spec *spec; /* borrowed: the base's, or a trial's */
    int64_t max_len;           /* resolved: of a sequence as it stands in the file */
    int64_t prefix, infix; /* virtual tokens before a sequence, and between prompt and completion */
    int64_t tokens;        /* of the largest micro-batch */
    data_source train, valid;
    ml_model *model;
    ml_kernels *kernels;
    ml_parameters parameters;
    ml_activation_mode activations; /* of training */
    ml_peft *peft;                  /* NULL: the base alone, or a bank */
    ml_bank *bank;                  /* of several adapters, for generation */
    packer packer;
    float *sent[2]; /* [tokens, d] by ml_direction: what a neighbour in the pipeline has not taken
                       yet; NULL: there is no such neighbour */
    struct masking *masking;         /* of objective mlm, else NULL */
    struct predictions *predictions; /* borrowed: takes the scores of an evaluation's labels; NULL:
                                        nobody asks for them */
    ml_exact *losses; /* borrowed: takes the losses of an evaluation's targets; NULL: nobody does */
    pairs_ahead ahead;
    contrast contrast;
    ml_pooling pooling;   /* of objective contrastive, never GIVEN */
    ml_shared *shared;    /* the frozen weights, where ranks of this node hold them together; NULL:
                             each has its own */
    ml_memory_block own;  /* its own, where the base is laid over them; else they are the model's */
    int64_t least_mapped; /* bytes of a piece of the base that is laid over weights; −1: none is */
    double load_seconds;  /* reading the weights took the slowest rank */
    int64_t load_bytes;   /* that all ranks together read of the base */
    int64_t mapped_bytes; /* of these what is not read but mapped */
} session;

/* Of an objective that was not given: what the data are for. Their labels say it where one
 * objective alone reads them, and it is said; else nothing is chosen. Local. ML_USAGE. */
ml_status ml_session_settle_objective(ml_run_config *config, const ml_dataset *data) ML_NODISCARD;
/* Collective. ml_session_open: grid, base, data (train where `training`, valid where configured);
 * ml_session_attach: model and method described; ml_session_build: kernels, storage, weights. Each
 * agrees on its status. Close with ml_session_close. */
ml_status ml_session_open(session *s, const ml_run_config *config, bool training) ML_NODISCARD;
/* The data set of data.train, count ≥ 1: one file, or several joined. Collective over the world;
 * with `grid` NULL local. */
ml_status ml_session_open_files(ml_dataset **out, const ml_data_files *files,
                                const ml_grid *grid) ML_NODISCARD;
/* That a data set was made with the base's vocabulary. Local. ML_INPUT. */
ml_status ml_session_check_vocabulary(const ml_base *base, const char *path,
                                      const ml_dataset *data) ML_NODISCARD;
/* Beside sessions that are open, the first of which is the host: data of its own, or what one of
 * them has open, on the host's base. Collective. */
ml_status ml_session_open_beside(session *s, const ml_run_config *config, session *const *others,
                                 int64_t count) ML_NODISCARD;
/* How the sequences of data.train, or of data.valid, follow each other. Local. */
ml_sampler_order ml_session_order_of(const ml_run_config *config, bool training);
/* Their sampler. `path`: of `data`, where it is not joined from several. Local. ML_USAGE where
 * data.max_len leaves no target, ML_INPUT where the base's context does. */
ml_status ml_session_sample(const ml_run_config *config, const char *path, const ml_dataset *data,
                            int64_t max_len, bool training, ml_sampler **out) ML_NODISCARD;
/* That each of `dp` replicas gets a sequence of every step. Local. ML_USAGE. */
ml_status ml_session_check_replicas(const ml_run_config *config, int dp) ML_NODISCARD;
/* That the weights allow what the method does with them: full trains none in blocks, and pissa,
 * which changes others, no copy that ranks share. `instead`: what the message tells to do in the
 * place of full, NULL: to import otherwise. Local. ML_USAGE. */
ml_status ml_session_check_method(const ml_run_config *config, const ml_model_spec *spec,
                                  const char *instead) ML_NODISCARD;
/* That numerics: grid takes one sequence at a time where rows of distances between tokens are all
 * sequences' together. Local. ML_USAGE. */
ml_status ml_session_check_distances(const ml_run_config *config,
                                     const ml_model_spec *spec) ML_NODISCARD;
ml_status ml_session_attach_method(session *s) ML_NODISCARD; /* config.method */
/* memory.activations, with `more` bytes that others of this process are going to need. Collective
 * over the world. */
ml_status ml_session_settle_activations(session *s, int64_t more) ML_NODISCARD;
/* The most tokens of a sequence beside `more` virtual ones: data.max_len, or what they leave of
 * the context. ML_USAGE where the context is too short. Local. */
ml_status ml_session_find_length(const ml_run_config *config, const ml_model_spec *spec,
                                 int64_t more, int64_t *max_len) ML_NODISCARD;
/* Tokens of the largest micro-batch that this rank computes: all, or its part. Local. */
int64_t ml_session_own_tokens(const session *s);
/* Makes room for virtual tokens in every sequence. Local. */
ml_status ml_session_add_virtual(session *s, const ml_method_sizes *sizes) ML_NODISCARD;
ml_status ml_session_attach_adapter(session *s, const ml_adapter *adapter)
    ML_NODISCARD; /* adapter NULL: none */
ml_status ml_session_attach_bank(session *s, int64_t count,
                                 const ml_adapter *adapters) ML_NODISCARD;
/* What every rank's processor and build can run. Collective. */
ml_kernels_paths ml_session_common_paths(const session *s);
/* product and vector path: forced names, or NULL: what rank 0 chooses among those that all ranks
 * can run. */
ml_status ml_session_build(session *s, bool training, const char *backend,
                           const char *vector_path) ML_NODISCARD;
/* The part of a session beside a host that has been built: parameters and packing. Collective. */
ml_status ml_session_build_beside(session *s) ML_NODISCARD;
void ml_session_close(session *s);
/* That all ranks opened the same base and data. Collective over the world, once they did. */
ml_status ml_session_agree_on_files(const session *s) ML_NODISCARD;

/* labels.c. check_labels: that the data set has the labels that the objective reads, and no others.
 * choose_head: the model's specification gets the head that the objective needs.
 * check_head: whether the head of a base, or of a base with an adapter, is what the objective
 * needs. Local. ML_USAGE, ML_INPUT. is_new: whether a tensor is of a head that the base has not;
 * draw_head: these begin with small random numbers, the same on every rank. Local. */
ml_status ml_session_check_labels(const ml_run_config *config, const char *path,
                                  const ml_dataset *data) ML_NODISCARD;
ml_status ml_session_choose_head(const ml_run_config *config, const ml_dataset *data,
                                 ml_model_spec *spec) ML_NODISCARD;
ml_status ml_session_check_head(const ml_run_config *config, const ml_dataset *data,
                                const ml_model_spec *spec, bool adapted) ML_NODISCARD;
/* check_masks: whether the model can have a head for masked tokens. */
ml_status ml_session_check_masks(const ml_run_config *config,
                                 const ml_model_spec *spec) ML_NODISCARD;
bool ml_session_is_new(const session *s, const ml_model_slot *slot);
ml_status ml_session_draw_head(session *s) ML_NODISCARD;

/* ---- sizes.c: memory before it is there ---------------------------------------------------- */

/* What decides a rank's memory beside model and method. */
typedef struct ml_session_shape {
    int64_t tokens, sequences, max_len; /* of a micro-batch; of a sequence */
    const ml_model_spec *spec;          /* borrowed */
    const char *backend, *vector_path;
    int threads;
    int tp, tp_rank, pp, stage;
    int node_ranks;           /* of the fullest node */
    int64_t contrasted, unit; /* rows of a step whose vectors are compared, else 0; texts of one */
    int cp;                   /* ranks that share the tokens out */
    int64_t together;         /* of which so many stay together */
    int replicas;             /* ranks that sum the same gradients: dp · cp */
} ml_session_shape;

/* Adds the bytes that training will account for on world rank 0 (another rank holds no more), by
 * category: weights, parameters, gradients, moments, activations, work space, and in `other` the
 * buffers of packing and the most that reading weights or saving holds for a moment. The model's
 * structure itself exists already and is not counted. */
void ml_session_bytes(const ml_model *model, const ml_peft *peft, const ml_parameters *parameters,
                      const ml_session_shape *shape, int64_t bytes[ML_MEM_CATEGORIES]);

/* What of it the ranks that write checkpoints hold, and the others do not. */
int64_t ml_session_writer_bytes(const ml_model *model, const ml_peft *peft,
                                const ml_parameters *parameters, const ml_session_shape *shape);

/* What a process needs in each activation mode: ml_session_bytes's sum, what is accounted for in
 * `other` already, what this process has beside that (MPI, libraries), and what it maps of others.
 * Leaves the model in the last mode. */
void ml_session_needs(ml_model *model, const ml_peft *peft, const ml_parameters *parameters,
                      const ml_session_shape *shape, int64_t need[ML_ACTIVATION_MODES]);
/* memory.activations, where auto the fastest mode that needs at most memory.limit. False where
 * none does; then the mode that needs least. */
bool ml_session_choose_activations(const ml_run_config *config,
                                   const int64_t need[ML_ACTIVATION_MODES],
                                   ml_activation_mode *mode);
/* What decides the memory of this session's training. */
ml_session_shape ml_session_shape_of(const session *s);
/* What this rank is about to account for, and has: what it allocates from now on and, in `other`,
 * what is there already. `backend` and `vector_path`: those that the session will be built with,
 * which a checkpoint may name. Local. */
void ml_session_predict(const session *s, const char *backend, const char *vector_path,
                        int64_t bytes[ML_MEM_CATEGORIES]);

/* ---- the parts ----------------------------------------------------------------------------- */

/* attach.c: the model of this rank's stage, with room for so many micro-batches on their way; and
 * where what trains lies in its buffers. Local. */
ml_status ml_session_create_model(session *s, const ml_model_spec *spec,
                                  int64_t in_flight) ML_NODISCARD;
void ml_session_lay_out(session *s);

/* weights.c: storage, then contents. Collective. A shared copy, and what is mapped, can only be
 * read from then on: who would write weights needs memory.share_frozen: off and memory.load: read.
 * check_base: `st` of what was computed with them, or ml_base_check's failure, which may be the
 * cause; local. agree: the same, agreed on by all ranks. give_up: the storage, collective over
 * REPLICA. */
ml_status ml_session_store_weights(session *s) ML_NODISCARD;
ml_status ml_session_read_weights(session *s) ML_NODISCARD;
ml_status ml_session_check_base(const session *s, ml_status st) ML_NODISCARD;
ml_status ml_session_may_go_on(void *self) ML_NODISCARD; /* the same, of a session, for passes */
ml_status ml_session_agree(const session *s, ml_status st) ML_NODISCARD;
void ml_session_give_up_weights(session *s);
bool ml_session_shares_frozen(const session *s); /* whether this rank's weights are to be shared;
                                                 known before they are stored */
int ml_session_frozen_sharers(
    const session *s); /* ranks that hold this rank's copy; 1: it is its own */
int64_t
ml_session_borrowed_bytes(const session *s); /* of the copy, where another rank accounts for it */

/* pack.c: positions [first, first + count) of the source as one micro-batch in s->packer.batch.
 * Local. `keyed`: with dropout, so that nothing is shared. */
ml_status ml_packer_create(packer *p, int64_t tokens, int64_t sequences, int64_t max_len,
                           const ml_model_spec *spec) ML_NODISCARD;
/* Room for the vectors of so many sequences. Local. */
ml_status ml_packer_add_vectors(packer *p, int64_t sequences, int64_t width) ML_NODISCARD;
int64_t ml_packer_vector_bytes(int64_t sequences, int64_t width);
void ml_packer_destroy(packer *p);
/* shares.c: the packed batch becomes this rank's part of it; `unit` tokens stay together. */
void ml_packer_cut(packer *p, int cp, int cp_rank, int64_t unit);
int64_t ml_packer_bytes(int64_t tokens, int64_t sequences, int64_t max_len,
                        const ml_model_spec *spec);
ml_status ml_session_pack(session *s, const data_source *source, int64_t first, int64_t count,
                          bool keyed) ML_NODISCARD;

/* Whether the packed micro-batch has nothing to predict: objective mlm may choose no token of it.
 * A part of one whose targets all lie in other ranks' is computed all the same. Local. */
static inline bool ml_session_skips(const session *s) { return s->masking && s->packer.hits == 0; }

/* The same with each prompt's answer replaced by its partner's; nothing is keyed. */
ml_status ml_session_pack_mismatched(session *s, const data_source *source, int64_t first,
                                     int64_t count) ML_NODISCARD;

/* masking.c: which tokens objective mlm hides. create: what the base's tokenizer says of them;
 * ML_USAGE where the mask token is not known, ML_INPUT. draw: hides some of a sequence's tokens, in
 * place; original[length]: what stood there, −1 where nothing is predicted; returns how many are.
 * It depends on run.seed and `place` alone: the sampler's position in training, else the sequence's
 * place in the file. count: of all sequences of the source at the positions [first, first + count).
 * Local. */
ml_status ml_masking_create(struct masking **out, const ml_run_config *config,
                            const ml_base *base) ML_NODISCARD;
void ml_masking_destroy(struct masking *masking);
int64_t ml_masking_draw(const struct masking *masking, bool training, int64_t place, int64_t length,
                        int32_t *token, int32_t *original);
ml_status ml_session_count_masked(session *s, const data_source *source, int64_t first,
                                  int64_t count, int64_t *targets) ML_NODISCARD;

/* What is asked on every rank before each micro-batch of an evaluation, which may take longer than
 * a job has left. */
typedef struct evaluation_stop {
    bool (*wanted)(const void *of);
    const void *of;
} evaluation_stop;

/* Σ over pairs of what a step or an evaluation reports; NLL and TOKENS are of the chosen answers,
 * of objective orpo with their prompts. */
enum {
    PAIR_LOSS,
    PAIR_RIGHT, /* the chosen one has the higher reward */
    PAIR_REWARD_CHOSEN,
    PAIR_REWARD_REJECTED,
    PAIR_LOG_P_CHOSEN,
    PAIR_LOG_P_REJECTED,
    PAIR_NLL,
    PAIR_TOKENS,
    PAIRS,
    PAIR_WANTED, /* kto, whose pairs are rows: those that are wanted */
    PAIR_MOVED,  /* and the estimate z */
    PAIR_KINDS,
    PAIR_SUMS = 2 * PAIR_KINDS /* each in two parts: ml_session_add_figure */
};

/* sum += x. Where that must not depend on an order (`numerics: grid`) x is rounded to a multiple of
 * 2^-28, whose sums are exact up to 2^25. Local. */
static inline void ml_session_add(const session *s, double *sum, double x)
{
    const double grain = 0x1p-28;
    *sum += ml_run_config_is_exact(s->config) ? rint(x / grain) * grain : x;
}
/* As ml_session_add, to one of the sums over pairs or labels, which leave 2^25 soon: the error of a
 * price that is predicted is squared. So where the order must not matter the whole part of x goes
 * to a sum of its own, exact up to 2^53, and the rest, half of 1 at the most, to the other. Local.
 */
static inline void ml_session_add_figure(const session *s, double sums[PAIR_SUMS], int kind,
                                         double x)
{
    double whole = ml_run_config_is_exact(s->config) && isfinite(x) ? rint(x) : 0.0;
    sums[PAIR_KINDS + kind] += whole;
    ml_session_add(s, &sums[kind], x - whole);
}
/* The two parts of each, when all ranks' are in them, into the first. Local. */
static inline void ml_session_join_figures(double sums[PAIR_SUMS])
{
    for (int kind = 0; kind < PAIR_KINDS; kind++) sums[kind] += sums[PAIR_KINDS + kind];
}

/* preference.c: the pairs [first, first + count) of the source as one micro-batch: adds to `sums`,
 * and with `backward` the gradients of their part of the batch's loss, which is the mean over
 * `pairs` pairs, and over `tokens` tokens where the objective adds chosen answers' loss.
 * Collective over tp. */
typedef struct pair_batch {
    int64_t first, count;
    bool backward, keyed;
    int64_t pairs, tokens; /* pairs: or labels */
} pair_batch;
ml_status ml_session_compare(session *s, const data_source *source, const pair_batch *batch,
                             double sums[PAIR_SUMS]) ML_NODISCARD;
/* The same of answers' Σ log p in two parts, so that the rows of other sessions may lie beside in
 * the pass between them: pack fills s->packer.batch; weigh takes log p of its targets, adds to the
 * sums, and leaves each target's weight in s->packer.weight. ahead: the one of ml_session_measure.
 * Local. */
typedef struct comparison {
    session *s;
    const data_source *source;
    const pair_batch *batch;
    double *sums;    /* [PAIR_SUMS]; NULL: log p alone is found */
    double *keep;    /* [sequences] where to, or NULL: to s->ahead */
    bool mismatched; /* of kto: each prompt has its partner's answer */
} comparison;
ml_status ml_comparison_pack(const comparison *c) ML_NODISCARD;
void ml_comparison_weigh(const comparison *c, const float *log_p);
comparison ml_comparison_ahead(session *s, const data_source *source, const pair_batch *batch);
/* scoring.c: the same as ml_session_compare of an objective on scores of labels. Collective over
 * tp. */
ml_status ml_session_score(session *s, const data_source *source, const pair_batch *batch,
                           double sums[PAIR_SUMS]) ML_NODISCARD;
/* Its parts, as a comparison's: judge is one of ml_judging, with scores that lie row by row. */
typedef struct scoring {
    session *s;
    const pair_batch *batch;
    double *sums;
    ml_label_kind kind; /* NONE: pairs */
} scoring;
scoring ml_scoring_of(session *s, const data_source *source, const pair_batch *batch,
                      double sums[PAIR_SUMS]);
ml_status ml_scoring_pack(const scoring *c, const data_source *source) ML_NODISCARD;
void ml_scoring_judge(void *self, const float *score, float *slope);
/* contrast.c: texts of a row, which batch.sequences and batch.micro count; of data that are not in
 * a session, NULL: not there. choose_pooling: s->pooling; ML_INPUT as sentence_encoder_pooling.
 * Local. */
int64_t ml_session_unit(const session *s);
int64_t ml_session_unit_of(const ml_run_config *config, const ml_dataset *data);
ml_status ml_session_choose_pooling(session *s) ML_NODISCARD;
/* The rows [first, first + count) of a step. begin: room for their vectors, local. Then either
 * measure over all of this replica's rows, collective over tp, and end, over dp, and compare, over
 * tp, as ml_session_compare; or compare alone, once on each replica for all of its rows, collective
 * over the world. add: the figures of rows, behind end; local. */
ml_status ml_contrast_begin(session *s, int64_t first, int64_t count) ML_NODISCARD;
ml_status ml_contrast_measure(session *s, const data_source *source, int64_t first, int64_t count,
                              bool keyed) ML_NODISCARD;
void ml_contrast_end(session *s);
ml_status ml_contrast_compare(session *s, const data_source *source, const pair_batch *batch,
                              double sums[PAIR_SUMS]) ML_NODISCARD;
void ml_contrast_add(const session *s, int64_t first, int64_t count, double sums[PAIR_SUMS]);
void ml_contrast_destroy(contrast *c);
int64_t ml_contrast_bytes(int64_t rows, int64_t unit, int64_t width);
/* ahead.c, where ml_run_config_looks_ahead says so: before ml_session_compare over [first, first +
 * count) of the source. begin: local; measure: a micro-batch of them, without gradients, collective
 * over tp; end: with what all replicas measured, collective over dp. */
ml_status ml_session_begin_ahead(session *s, int64_t first, int64_t count) ML_NODISCARD;
ml_status ml_session_measure(session *s, const data_source *source, int64_t first,
                             int64_t count) ML_NODISCARD;
void ml_session_end_ahead(session *s, const data_source *source);
void ml_session_free_ahead(session *s);
/* unpaired.c, of objective kto. prepare: source->unpaired, local; ML_RESOURCE. longest: the tokens
 * of the longest prompt with another row's answer, among chunks of so many rows. read: such a
 * sequence, cut to s->max_len. weigh: of ml_comparison_weigh, local. end_ahead: of
 * ml_session_end_ahead, collective over dp. */
ml_status ml_unpaired_prepare(session *s, data_source *source) ML_NODISCARD;
void ml_unpaired_destroy(unpaired *u);
int64_t ml_unpaired_longest(const ml_dataset *data, const ml_sampler *sampler, int64_t max_len,
                            int64_t chunk);
ml_status ml_unpaired_read(const session *s, const data_source *source, int64_t sequence,
                           int32_t *token, uint8_t *mask, int64_t *length) ML_NODISCARD;
void ml_unpaired_weigh(const comparison *c, const float *log_p);
void ml_unpaired_end_ahead(session *s);

/* The reference of a position; 0 where there is none. */
double ml_session_reference_of(const data_source *source, int64_t position);
/* The objective of a batch, from the sums over all of it. */
double ml_session_pair_loss(const session *s, const double sums[PAIR_SUMS]);
/* source->reference, with the model as it is. ML_STOPPED as ml_session_evaluate. Collective. */
ml_status ml_session_refer(session *s, data_source *source,
                           const evaluation_stop *stop) ML_NODISCARD;
/* Whether that finds source->unpaired.reference, too. */
bool ml_session_refers_mismatched(const session *s);
/* Whether `stop` (or NULL) is wanted on any rank. Collective. */
bool ml_session_is_stopped(const session *s, const evaluation_stop *stop);

/* evaluate.c: over all usable sequences of s->valid; `targets` of the loss: tokens, or pairs or
 * rows. ML_STOPPED where `stop` (or NULL) says so on any rank. Collective. */
typedef struct evaluation_result {
    double loss;
    int64_t targets;
    double compared[PAIR_SUMS]; /* Σ over pairs or labelled rows, where the objective has them */
    ml_figures figures;         /* of labels, else none */
} evaluation_result;
/* `path`: a file for what is predicted of each label, NULL: none. */
ml_status ml_session_evaluate(session *s, const evaluation_stop *stop, const char *path,
                              evaluation_result *out) ML_NODISCARD;

#endif
