/* A small random model with a method attached, on any tp group: every number is a function of its
 * tensor's name and global place, so that models on different grids are the same model. Biases and
 * norms are not trivial. */
#ifndef MPILORA_TESTS_FIXTURE_H
#define MPILORA_TESTS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>

#include <cmocka.h>

#include "model/families/families.h"
#include "mpilora/peft.h"
#include "session/pipeline.h"

enum { FIXTURE_TOKENS = 23, FIXTURE_SEQUENCES = 3, FIXTURE_LABELS = 3, FIXTURE_TEXTS = 3 };

typedef struct fixture {
    ml_model *model;
    ml_kernels *kernels;
    ml_parameters parameters;
    ml_peft *peft;
    bool virtual_tokens, vectors;
    bool hold; /* what is made of the parameters stays as it was */
} fixture;

typedef struct fixture_options {
    const ml_family *family;
    ml_norm_places places; /* 0: the family's own */
    int64_t embed_width;   /* 0: the width */
    bool own_positions;    /* relative rows have projections of their own, and no buckets */
    ml_head_kind head;     /* of three labels where it is not for the next token */
    bool vectors;          /* the loss is one of vectors of texts */
    bool mean, masked;     /* labels are scored on the mean; a head for masked tokens */
    bool untied;           /* whose matrix is its own */
    ml_method method;
    unsigned targets;
    double dropout;
    bool dora;
    ml_dtype dtype;
    ml_activation_mode mode;
    int64_t chunk, kv_heads; /* kv_heads 0: 4 */
    int64_t piece; /* moments are divided over the replicas in pieces of so many floats; 0: whole */
    bool leaves;   /* sums over what tp cuts are sums of leaves, in ordered products */
    int64_t width, vocab;      /* 0: 24, 37 */
    const char *backend;       /* NULL: blas, with leaves native */
    int64_t layers, in_flight; /* 0: two; in_flight > 0: of the grid's stages this rank's, with room
                                  for so many micro-batches */
} fixture_options;

/* What differs from model to model of a family is on, and strong enough to be seen. */
static inline void fixture_features(ml_model_spec *s)
{
    const ml_family_huggingface *hf = &s->family->hf;
    for (const ml_family_tensor *row = s->family->tensors; row->module; row++)
        s->qk_norm = s->qk_norm || row->role == ML_ROLE_Q_NORM;
    if (s->score_cap > 0.0) s->score_cap = 0.7;
    if (s->logit_cap > 0.0) s->logit_cap = 1.5;
    if (s->embed_multiplier > 0.0) s->embed_multiplier = 1.7;
    if (s->residual_multiplier > 0.0) s->residual_multiplier = 0.6;
    if (s->attention_scale > 0.0) s->attention_scale = 0.8;
    if (s->logit_multiplier > 0.0) s->logit_multiplier = 1.3;
    if (hf->rope.part) s->rope_width = 2;
    if (hf->windows.full_every) s->window = 5;
    if (hf->windows.full_every) ml_layer_set_add(&s->full_layers, 1);
    if (hf->rope.layers) ml_layer_set_add(&s->unrotated_layers, 1);
}

/* DeBERTa's, with longer sequences than distances. */
static inline void fixture_relative(ml_model_spec *s, bool own_positions)
{
    s->relative_keys = s->relative_queries = true;
    s->relative_shared = s->relative_norm = !own_positions;
    s->relative_distances = 8;
    s->relative_buckets = own_positions ? 0 : 6;
    if (ml_family_end(s->family, ML_ROLE_CONV)->module) s->conv_kernel = own_positions ? 5 : 3;
    s->positions = own_positions ? ML_POSITIONS_LEARNED : ML_POSITIONS_NONE;
}

static inline ml_model_spec fixture_spec(const ml_family *family)
{
    ml_model_spec s = family->defaults;
    bool gpt2 = family->plain_heads;
    s.layers = 2;
    s.width = 24;
    s.mlp_width = 40;
    s.heads = gpt2 ? 4 : 8;
    s.kv_heads = 4;
    s.head_dim = gpt2 ? 6 : 4;
    s.vocab = 37;
    s.context = 32;
    s.norm_eps = 1e-5;
    s.tied_head = family->defaults.tied_head;
    s.qkv_bias = true;
    if (s.activation == ML_RELU)
        s.activation = ML_GELU_ERF; /* differences over a kink say nothing */
    fixture_features(&s);
    return s;
}

/* This rank's part of a rows × cols tensor. */
static inline void fixture_fill(const char *name, const ml_shard *shard, int64_t rows, int64_t cols,
                                double deviation, double centre, float *local)
{
    float *whole = ml_memory_alloc(rows * cols, sizeof *whole, ML_MEM_OTHER, "test");
    assert_non_null(whole);
    ml_random_key key = ml_random_key_make(5, name);
    for (int64_t i = 0; i < rows * cols; i++)
        whole[i] = (float)(centre + deviation * ml_random_normal(key, 1, (uint64_t)i));
    ml_shard_take(shard, rows, cols, whole, local);
    ml_memory_free(whole);
}

static inline void fixture_weights(fixture *f)
{
    for (int64_t i = 0; i < ml_model_slots(f->model); i++) {
        ml_model_slot *slot = ml_model_slot_at(f->model, i);
        if (slot->elsewhere) continue;
        bool norm = strstr(slot->name, "norm") && strstr(slot->name, "weight") &&
                    !ml_model_get_spec(f->model)->norm_plus_one;
        float *values = ml_memory_alloc(slot->count, sizeof *values, ML_MEM_OTHER, "test");
        assert_non_null(values);
        fixture_fill(slot->name, &slot->shard, slot->rows, slot->cols, 0.2, norm ? 1.0 : 0.0,
                     values);
        float *master = f->peft ? ml_peft_master(f->peft, i) : NULL;
        if (master) memcpy(master, values, (size_t)slot->count * sizeof *values);
        if (slot->dtype == ML_FP32)
            memcpy(slot->data, values, (size_t)slot->count * sizeof *values);
        else
            f->kernels->fp32_to_bf16(slot->count, values, slot->data);
        ml_memory_free(values);
    }
}

static inline bool fixture_trains_base(ml_method method)
{
    return method == ML_METHOD_FULL || method == ML_METHOD_TOP || method == ML_METHOD_BITFIT;
}

static inline void fixture_create(fixture *f, const fixture_options *o, const ml_grid *grid, int tp,
                                  int tp_rank)
{
    ml_model_spec spec = fixture_spec(o->family);
    if (o->layers) spec.layers = o->layers;
    spec.embed_width = o->embed_width;
    spec.head = o->head;
    spec.mean_pooled = o->mean;
    spec.masked = o->masked;
    if (o->untied) spec.tied_head = false;
    if (o->vocab) spec.vocab = o->vocab;
    if (o->width) spec.width = o->width;
    if (o->width && o->family->plain_heads) spec.head_dim = o->width / spec.heads;
    spec.labels = o->head == ML_HEAD_LANGUAGE ? 0 : FIXTURE_LABELS;
    if (ml_family_end(o->family, ML_ROLE_RELATIVE)->module)
        fixture_relative(&spec, o->own_positions);
    if (o->places) spec.norm_places = o->places;
    if (o->kv_heads) spec.kv_heads = o->kv_heads;
    ml_weight shapes[ML_MODEL_SHAPES];
    ml_kernels_options kernels = {.backend = o->leaves ? "native" : "blas", .ordered = o->leaves};
    if (o->backend) kernels.backend = o->backend;
    int64_t infix = ml_method_has_keys(o->method) ? 0 : 1;
    *f = (fixture){.virtual_tokens = ml_method_has_prefix(o->method), .vectors = o->vectors};
    assert_int_equal(ml_model_create(&f->model, &spec, grid, tp, tp_rank, o->dtype), ML_OK);
    if (o->leaves) assert_int_equal(ml_model_sum_leaves(f->model), ML_OK);
    if (o->in_flight)
        assert_int_equal(ml_model_hold_stage(f->model, grid, ml_grid_pp(grid), ml_grid_stage(grid),
                                             o->in_flight),
                         ML_OK);
    const ml_peft_options options = {.method = o->method,
                                     .sizes = {.top = 1,
                                               .prefix = 3 - infix,
                                               .infix = infix,
                                               .bottleneck = 4,
                                               .drop = 1,
                                               .factors = 2},
                                     .lora = {.rank = 3,
                                              .alpha = 6.0,
                                              .dropout = o->dropout,
                                              .dora = o->dora,
                                              .targets = o->targets,
                                              .seed = 3}};
    assert_int_equal(ml_peft_attach(&f->peft, f->model, &f->parameters, &options), ML_OK);
    if (o->in_flight) ml_peft_place(f->model, &f->parameters);
    ml_parameters_lay_out(&f->parameters);
    if (o->piece)
        ml_parameters_divide_moments(&f->parameters, ml_grid_dp(grid), ml_grid_dp_rank(grid),
                                     o->piece);
    ml_model_kernel_options(f->model, FIXTURE_TOKENS, &kernels, shapes);
    assert_int_equal(ml_kernels_create(&f->kernels, &kernels), ML_OK);
    ml_model_use_kernels(f->model, f->kernels);
    assert_int_equal(ml_parameters_allocate(&f->parameters, true), ML_OK);
    assert_int_equal(ml_peft_bind(f->peft), ML_OK);
    assert_int_equal(ml_model_bind(f->model), ML_OK);
    ml_model_set_activations(f->model, o->mode, o->chunk);
    assert_int_equal(ml_model_reserve(f->model, FIXTURE_TOKENS, true), ML_OK);
    fixture_weights(f);
    if (fixture_trains_base(o->method)) return;
    for (int64_t i = 0; i < f->parameters.count; i++) { /* B not zero, so that A has a gradient */
        const ml_parameter *p = &f->parameters.items[i];
        if (p->count == 0) continue;
        fixture_fill(p->name, &p->shard, p->rows, p->cols, 0.2, 0.0,
                     f->parameters.value + p->offset);
    }
}

static inline void fixture_destroy(fixture *f)
{
    ml_peft_destroy(f->peft);
    ml_model_destroy(f->model);
    ml_parameters_destroy(&f->parameters);
    ml_kernels_destroy(f->kernels);
}

/* Three sequences of 9, 1 and 13 tokens; some tokens are not targets; with `virtual_tokens` some
 * have no word; with `every` all of them are rows. */
static inline ml_batch fixture_batch(bool virtual_tokens, bool every)
{
    static int32_t token[FIXTURE_TOKENS], target[FIXTURE_TOKENS];
    static int64_t row[FIXTURE_TOKENS], target_start[FIXTURE_TOKENS + 1];
    static const int64_t start[FIXTURE_SEQUENCES + 1] = {0, 9, 10, FIXTURE_TOKENS},
                                                   key[FIXTURE_SEQUENCES] = {4, 7, 2};
    ml_batch batch = {.tokens = FIXTURE_TOKENS,
                      .token = token,
                      .sequences = {.count = FIXTURE_SEQUENCES, .start = start},
                      .row = row,
                      .targets = {target_start, target, 0},
                      .key_sequence = key};
    for (int32_t t = 0; t < FIXTURE_TOKENS; t++) {
        token[t] = (t * 7 + 3) % 37;
        if (virtual_tokens && (t < 2 || t == 9 || t == 10 || t == 11 || t == 16))
            token[t] = t == 16 ? -3 : -1 - (t % 2);
        if (t % 4 == 1 && !every) continue;
        row[batch.rows] = t;
        target_start[batch.rows] = batch.rows;
        target[batch.rows++] = (t * 11 + 5) % 37;
    }
    target_start[batch.rows] = batch.rows;
    return batch;
}

/* The squares of the scores less what they should be, over the rows, and little enough that what
 * rounds stays small. */
typedef struct fixture_judge {
    int64_t rows;
    double loss;
} fixture_judge;

static inline void fixture_judge_scores(void *self, const float *score, float *slope)
{
    fixture_judge *j = self;
    for (int64_t i = 0; i < j->rows * FIXTURE_LABELS; i++) {
        double off = (double)score[i] - 0.3 * (double)(i % 7) + 0.8;
        slope[i] = (float)(0.4 * off / (double)j->rows);
        j->loss += 0.2 * off * off / (double)j->rows;
    }
}

static inline double fixture_score_loss(fixture *f, const ml_batch *batch, bool backward)
{
    float score[FIXTURE_TOKENS * FIXTURE_LABELS], slope[FIXTURE_TOKENS * FIXTURE_LABELS];
    const ml_model_spec *spec = ml_model_get_spec(f->model);
    bool mean = spec->head == ML_HEAD_SEQUENCE && spec->mean_pooled;
    fixture_judge judge = {.rows = mean ? batch->sequences.count : batch->rows};
    ml_model_score(f->model, batch, backward, score, slope,
                   &(ml_judging){fixture_judge_scores, &judge});
    return judge.loss;
}

/* Likewise of vectors: of the rows of the first sequence, of the others, and of every fifth row of
 * all, which belongs to two. */
static inline void fixture_judge_vectors(void *self, const float *vector, float *slope)
{
    fixture_judge *j = self;
    for (int64_t i = 0; i < FIXTURE_TEXTS * j->rows; i++) {
        double off = (double)vector[i] - 0.3 * (double)(i % 7) + 0.8;
        slope[i] = (float)(0.4 * off / (double)j->rows);
        j->loss += 0.2 * off * off / (double)j->rows;
    }
}

static inline double fixture_vector_loss(fixture *f, ml_batch *batch, bool backward)
{
    enum { MOST_WIDTH = 64 };
    int32_t text[2 * FIXTURE_TOKENS];
    int64_t start[FIXTURE_TOKENS + 1], hits = 0,
                                       width = ml_model_hidden_width(ml_model_get_spec(f->model));
    float share[FIXTURE_TEXTS] = {0.0F}, vector[FIXTURE_TEXTS * MOST_WIDTH],
          slope[FIXTURE_TEXTS * MOST_WIDTH];
    fixture_judge judge = {.rows = width};
    for (int64_t i = 0; i < batch->rows; i++) {
        start[i] = hits;
        text[hits++] = batch->row[i] < 9 ? 0 : 1;
        if (i % 5 == 0) text[hits++] = 2;
    }
    start[batch->rows] = hits;
    for (int64_t h = 0; h < hits; h++) share[text[h]] += 1.0F;
    for (int i = 0; i < FIXTURE_TEXTS; i++) share[i] = 1.0F / share[i];
    batch->targets = (ml_targets){.start = start};
    const ml_text_vectors vectors = {FIXTURE_TEXTS, text, share, vector, slope};
    ml_model_vectors(f->model, batch, backward, &vectors,
                     &(ml_judging){fixture_judge_vectors, &judge});
    return judge.loss;
}

/* Mean loss of the batch; with `backward` its gradient in f->parameters.gradient (and dropout
 * where the method has it). */
static inline double fixture_loss(fixture *f, bool backward, double smoothing)
{
    static uint8_t type[FIXTURE_TOKENS];
    const ml_model_spec *spec = ml_model_get_spec(f->model);
    bool mean = spec->head == ML_HEAD_SEQUENCE && spec->mean_pooled;
    ml_batch batch = fixture_batch(f->virtual_tokens, mean);
    double loss;
    for (int t = 0; t < FIXTURE_TOKENS; t++) type[t] = t % 5 < 2;
    if (ml_model_get_spec(f->model)->token_types > 1) batch.type = type;
    if (!f->hold) ml_peft_after_update(f->peft);
    if (backward)
        memset(f->parameters.gradient, 0,
               (size_t)f->parameters.local * sizeof *f->parameters.gradient);
    if (ml_model_get_spec(f->model)->head != ML_HEAD_LANGUAGE)
        loss = (double)batch.rows * fixture_score_loss(f, &batch, backward);
    else if (f->vectors)
        loss = (double)batch.rows * fixture_vector_loss(f, &batch, backward);
    else
        ml_model_loss(f->model, &batch, backward, 1.0 / (double)batch.rows, smoothing, &loss);
    if (backward) ml_peft_before_sum(f->peft);
    return loss / (double)batch.rows;
}

/* Each tensor's gradient as one rank alone has it, against the reduced one of this rank's
 * part; a tensor whose largest is less than `least` is measured by that. */
static inline void fixture_compare_gradients(const fixture *one, const fixture *part, int number,
                                             int tp, double least)
{
    for (int64_t t = 0; t < one->parameters.count; t++) {
        const ml_parameter *whole = &one->parameters.items[t], *mine = &part->parameters.items[t];
        float *expected = ml_memory_alloc(mine->count, sizeof *expected, ML_MEM_OTHER, "test");
        assert_non_null(expected);
        ml_shard_take(&mine->shard, whole->rows, whole->cols,
                      one->parameters.gradient + whole->offset, expected);
        const float *found = part->parameters.gradient + mine->offset;
        double largest = least;
        for (int64_t i = 0; i < mine->count; i++)
            largest = fmax(largest, fabs((double)expected[i]));
        for (int64_t i = 0; i < mine->count; i++)
            if (!(fabs((double)(expected[i] - found[i])) <= 2e-5 * largest))
                fail_msg("case %d, tp %d, %s[%d]: one rank %g, this grid %g", number, tp,
                         whole->name, (int)i, (double)expected[i], (double)found[i]);
        ml_memory_free(expected);
    }
}

#endif
