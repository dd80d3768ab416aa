/* Sequences of a file, one after the other without padding, with the rows whose successor is a
 * target.
 *
 * Sequences that begin alike share these rows: sorted by their tokens, each begins where it leaves
 * the path of the one before it, which is the depth-first order of their prefix tree. A row then
 * predicts one successor for every sequence that runs through it, so the loss and its gradients
 * stay what they were; each common token is computed once. */
#include "session/session.h"

/* Shorter common beginnings are computed twice: they save less than the attention to one more
 * piece of a path costs. */
enum { LEAST_SHARED = 4 };

/* The most that a micro-batch can have. */
static int64_t score_rows(int64_t tokens, int64_t sequences, const ml_model_spec *spec)
{
    return spec->head == ML_HEAD_TOKENS ? tokens : sequences;
}

/* Whether tokens may have labels, or others in their places that they are predicted to be. */
static bool labels_tokens(const ml_model_spec *spec)
{
    return spec->head == ML_HEAD_TOKENS || ml_model_predicts_masked(spec);
}

ml_status ml_packer_create(packer *p, int64_t tokens, int64_t sequences, int64_t max_len,
                           const ml_model_spec *spec)
{
    ml_status st = ML_OK;
    ML_NEW(p->token, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->row, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->target, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->target_start, tokens + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->hit, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->target_text, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->target_place, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->log_p, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->weight, tokens, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->text_log_p, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->text_slope, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->text_targets, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->text_at, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->start, sequences + 1, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->shared, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->key_sequence, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->length, sequences, ML_MEM_OTHER, "a micro-batch");
    ML_NEW(p->read, sequences, ML_MEM_OTHER, "sequences");
    ML_NEW(p->read_token, tokens, ML_MEM_OTHER, "sequences");
    ML_NEW(p->read_mask, tokens, ML_MEM_OTHER, "sequences");
    ML_NEW(p->path, max_len, ML_MEM_OTHER, "a path");
    if (spec->token_types > 0) {
        ML_NEW(p->read_type, tokens, ML_MEM_OTHER, "token types");
        ML_NEW(p->type, tokens, ML_MEM_OTHER, "token types");
    }
    if (labels_tokens(spec)) ML_NEW(p->token_label, tokens, ML_MEM_OTHER, "labels");
    if (spec->labels == 0) goto done;
    int64_t scores = score_rows(tokens, sequences, spec) * spec->labels;
    ML_NEW(p->label, sequences * spec->labels, ML_MEM_OTHER, "labels");
    ML_NEW(p->score, scores, ML_MEM_OTHER, "scores of labels");
    ML_NEW(p->slope, scores, ML_MEM_OTHER, "scores of labels");
done:
    return st;
}

ml_status ml_packer_add_vectors(packer *p, int64_t sequences, int64_t width)
{
    ml_status st = ML_OK;
    ML_NEW(p->share, sequences, ML_MEM_OTHER, "vectors of texts");
    ML_NEW(p->vector, sequences * width, ML_MEM_OTHER, "vectors of texts");
    ML_NEW(p->vector_slope, sequences * width, ML_MEM_OTHER, "vectors of texts");
done:
    return st;
}

int64_t ml_packer_vector_bytes(int64_t sequences, int64_t width)
{
    return sequences * (2 * width + 1) * (int64_t)sizeof(float);
}

int64_t ml_packer_bytes(int64_t tokens, int64_t sequences, int64_t max_len,
                        const ml_model_spec *spec)
{
    const packer *p = NULL;
    size_t a_token = sizeof *p->token + sizeof *p->row + sizeof *p->target +
                     sizeof *p->target_start + sizeof *p->hit + sizeof *p->read_token +
                     sizeof *p->read_mask + sizeof *p->target_text + sizeof *p->target_place +
                     sizeof *p->log_p + sizeof *p->weight;
    size_t a_sequence = sizeof *p->start + sizeof *p->shared + sizeof *p->key_sequence +
                        sizeof *p->length + sizeof *p->read + sizeof *p->text_log_p +
                        sizeof *p->text_slope + sizeof *p->text_targets + sizeof *p->text_at;
    return tokens * (int64_t)a_token + (int64_t)sizeof *p->target_start +
           sequences * (int64_t)a_sequence + (int64_t)sizeof *p->start +
           max_len * (int64_t)sizeof *p->path +
           (spec->token_types > 0 ? tokens * (int64_t)(sizeof *p->read_type + sizeof *p->type)
                                  : 0) +
           spec->labels * sequences * (int64_t)sizeof *p->label +
           (labels_tokens(spec) ? tokens * (int64_t)sizeof *p->token_label : 0) +
           spec->labels * score_rows(tokens, sequences, spec) *
               (int64_t)(sizeof *p->score + sizeof *p->slope);
}

void ml_packer_destroy(packer *p)
{
    ml_memory_free(p->token);
    ml_memory_free(p->row);
    ml_memory_free(p->target);
    ml_memory_free(p->target_start);
    ml_memory_free(p->hit);
    ml_memory_free(p->start);
    ml_memory_free(p->shared);
    ml_memory_free(p->key_sequence);
    ml_memory_free(p->length);
    ml_memory_free(p->read);
    ml_memory_free(p->read_token);
    ml_memory_free(p->read_mask);
    ml_memory_free(p->path);
    ml_memory_free(p->target_text);
    ml_memory_free(p->target_place);
    ml_memory_free(p->log_p);
    ml_memory_free(p->weight);
    ml_memory_free(p->text_log_p);
    ml_memory_free(p->text_slope);
    ml_memory_free(p->text_targets);
    ml_memory_free(p->text_at);
    ml_memory_free(p->read_type);
    ml_memory_free(p->type);
    ml_memory_free(p->label);
    ml_memory_free(p->token_label);
    ml_memory_free(p->score);
    ml_memory_free(p->slope);
    ml_memory_free(p->share);
    ml_memory_free(p->vector);
    ml_memory_free(p->vector_slope);
    ml_shares_destroy(&p->shares);
    *p = (packer){0};
}

/* Tokens after the last one whose successor is a target are no input to anything: they are left
 * out. Labels are scored on the last token, vectors are made of all, hidden ones are predicted from
 * all. */
static int64_t count_inputs(const session *s, const packed_sequence *sequence)
{
    int64_t inputs = sequence->length - 1;
    if (ml_run_config_scores_labels(s->config) || ml_run_config_contrasts(s->config) || s->masking)
        return sequence->length;
    while (inputs > 0 && !sequence->mask[inputs]) inputs--;
    return inputs;
}

/* `count` of them at `at`, from the `first` on, before the `behind` tokens that stand there. */
static void insert_virtual(int32_t *token, uint8_t *mask, int64_t behind, int64_t first,
                           int64_t count)
{
    memmove(token + count, token, (size_t)behind * sizeof *token);
    memmove(mask + count, mask, (size_t)behind * sizeof *mask);
    memset(mask, 0, (size_t)count * sizeof *mask);
    for (int64_t j = 0; j < count; j++) token[j] = (int32_t)(-1 - first - j);
}

/* The infix ends the prompt: it stands before the first target. A sequence's own first token is no
 * target, though something stands before it now. */
static void add_virtual(const session *s, packed_sequence *sequence, int32_t *token, uint8_t *mask)
{
    int64_t prompt = 1;
    mask[0] = 0;
    while (prompt < sequence->length && !mask[prompt]) prompt++;
    insert_virtual(token + prompt, mask + prompt, sequence->length - prompt, s->prefix, s->infix);
    insert_virtual(token, mask, sequence->length + s->infix, 0, s->prefix);
    sequence->length += s->prefix + s->infix;
}

/* What a sequence's mask says of a token. */
enum { NO_TARGET, ANSWER, PROMPT };

/* Of objective orpo, which learns prompts of chosen answers, too: all tokens with one before them
 * become targets. */
static void target_prompt(const session *s, const packed_sequence *sequence, uint8_t *mask)
{
    bool learnt = s->config->objective.name == ML_OBJECTIVE_ORPO && sequence->position % 2 == 0;
    for (int64_t i = s->prefix + 1; learnt && i < sequence->length; i++)
        if (mask[i] == NO_TARGET && sequence->token[i] >= 0) mask[i] = PROMPT;
}

/* And token types, of the i-th sequence, which begins at `at`. */
static ml_status read_labels(session *s, const ml_dataset *data, int64_t sequence, int64_t i,
                             int64_t at)
{
    packer *p = &s->packer;
    if (p->read_type) {
        ml_status st = ml_dataset_read_types(data, sequence, s->max_len, p->read_type + at);
        if (st != ML_OK) return st;
        p->read[i].type = p->read_type + at;
    }
    if (!p->label) return ML_OK;
    if (!p->token_label) {
        float *label = p->label + i * ml_model_get_spec(s->model)->labels;
        p->read[i].label = label;
        return ml_dataset_read_label(data, sequence, label);
    }
    p->read[i].token_label = p->token_label + at;
    return ml_dataset_read_token_labels(data, sequence, s->max_len, p->token_label + at);
}

/* Hides some tokens of the i-th sequence, which begins at `at`, from the model. */
static void hide_tokens(session *s, const data_source *source, int64_t sequence, int64_t i,
                        int64_t at)
{
    packer *p = &s->packer;
    bool training = source == &s->train;
    p->read[i].token_label = p->token_label + at;
    (void)ml_masking_draw(s->masking, training, training ? p->read[i].position : sequence,
                          p->read[i].length, p->read_token + at, p->token_label + at);
}

/* Reads one sequence and its length. */
typedef ml_status sequence_reader(const session *s, const data_source *source, int64_t sequence,
                                  int32_t *token, uint8_t *mask, int64_t *length);

static ml_status read_as_it_is(const session *s, const data_source *source, int64_t sequence,
                               int32_t *token, uint8_t *mask, int64_t *length)
{
    *length = ml_dataset_length(source->dataset, sequence, s->max_len);
    return ml_dataset_read(source->dataset, sequence, s->max_len, token, mask);
}

static ml_status read_sequences(session *s, const data_source *source, int64_t first, int64_t count,
                                sequence_reader *read)
{
    packer *p = &s->packer;
    int64_t at = 0;
    p->file_tokens = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t sequence = ml_sampler_at(source->sampler, first + i), length;
        ml_status st = read(s, source, sequence, p->read_token + at, p->read_mask + at, &length);
        if (st != ML_OK) return st;
        p->read[i] = (packed_sequence){.position = first + i,
                                       .length = length,
                                       .token = p->read_token + at,
                                       .mask = p->read_mask + at,
                                       .own = length};
        st = read_labels(s, source->dataset, sequence, i, at);
        if (st != ML_OK) return st;
        if (s->masking) hide_tokens(s, source, sequence, i, at);
        if (s->prefix + s->infix > 0)
            add_virtual(s, &p->read[i], p->read_token + at, p->read_mask + at);
        target_prompt(s, &p->read[i], p->read_mask + at);
        p->read[i].inputs = count_inputs(s, &p->read[i]);
        p->file_tokens += length;
        at += p->read[i].length;
    }
    return ML_OK;
}

static int64_t common_inputs(const packed_sequence *a, const packed_sequence *b)
{
    int64_t least = ml_min(a->inputs, b->inputs), n = 0;
    while (n < least && a->token[n] == b->token[n]) n++;
    return n;
}

/* How many inputs both have in common, where they may share them. */
static int64_t shareable(const ml_model_spec *spec, const packed_sequence *a,
                         const packed_sequence *b)
{
    if (spec->both_ways) return 0; /* what goes before a token depends on what follows it */
    bool alike = ml_model_is_beyond(spec, a->length) == ml_model_is_beyond(spec, b->length);
    int64_t common = alike ? common_inputs(a, b) : 0;
    return common < LEAST_SHARED ? 0 : common;
}

static bool is_before(const packed_sequence *a, const packed_sequence *b)
{
    int64_t common = common_inputs(a, b);
    bool a_ends = common == a->inputs, b_ends = common == b->inputs;
    if (a_ends && b_ends) return a->position < b->position;
    if (a_ends || b_ends) return a_ends;
    return a->token[common] < b->token[common];
}

/* In place, each inserted where it belongs among those before it: the C library's qsort asks for
 * memory. */
static void sort_by_tokens(packed_sequence *sequence, int64_t count)
{
    for (int64_t i = 1; i < count; i++) {
        packed_sequence moving = sequence[i];
        int64_t first = 0, end = i;
        while (first < end) {
            int64_t middle = first + (end - first) / 2;
            if (is_before(&moving, &sequence[middle]))
                end = middle;
            else
                first = middle + 1;
        }
        memmove(&sequence[first + 1], &sequence[first], (size_t)(i - first) * sizeof *sequence);
        sequence[first] = moving;
    }
}

/* Labels of a sequence belong to its last token, of an encoder's to the first, those of tokens to
 * their own, behind virtual ones. */
static void add_scored(packer *p, const packed_sequence *sequence, int32_t text, bool first)
{
    const int64_t *path = p->path + sequence->length - sequence->own;
    int32_t place = 0; /* among the labels of the sequence */
    if (!sequence->token_label)
        p->hit[p->hits++] =
            (packed_hit){first ? path[0] : p->path[sequence->inputs - 1], 0, text, -1};
    for (int64_t i = 0; sequence->token_label && i < sequence->own; i++)
        if (sequence->token_label[i] >= 0)
            p->hit[p->hits++] = (packed_hit){path[i], sequence->token_label[i], text, place++};
}

/* The rows that a text's vector is made of. */
static void add_pooled(packer *p, const packed_sequence *sequence, int32_t text, ml_pooling pooling)
{
    int64_t first = pooling == ML_POOLING_LAST ? sequence->inputs - 1 : 0,
            end = pooling == ML_POOLING_CLS ? 1 : sequence->inputs;
    for (int64_t i = first; i < end; i++) p->hit[p->hits++] = (packed_hit){p->path[i], 0, text, -1};
}

/* The sequence's rows, but for the first `shared`, which are those of the path before it; p->path
 * becomes its path. */
static void append(const session *s, packer *p, const packed_sequence *sequence, int64_t shared)
{
    bool scored = ml_run_config_scores_labels(s->config) || s->masking,
         pooled = ml_run_config_contrasts(s->config);
    ml_batch *batch = &p->batch;
    int32_t text = (int32_t)(sequence - p->read), place = 0;
    if (shared < sequence->inputs) {
        p->start[batch->sequences.count] = batch->tokens;
        p->shared[batch->sequences.count] = shared;
        p->length[batch->sequences.count] = sequence->length;
        p->key_sequence[batch->sequences.count++] = sequence->position;
    }
    for (int64_t i = shared; i < sequence->inputs; i++) {
        int64_t own = i - (sequence->length - sequence->own); /* virtual ones stand in front */
        p->path[i] = batch->tokens;
        if (p->type) p->type[batch->tokens] = own < 0 ? 0 : sequence->type[own];
        p->token[batch->tokens++] = sequence->token[i];
    }
    if (scored) add_scored(p, sequence, text, s->spec->both_ways);
    if (pooled) add_pooled(p, sequence, text, s->pooling);
    for (int64_t i = 0; !scored && !pooled && i < sequence->inputs; i++)
        if (sequence->mask[i + 1])
            p->hit[p->hits++] = (packed_hit){p->path[i], sequence->token[i + 1], text,
                                             sequence->mask[i + 1] == ANSWER ? place++ : -1};
}

/* The hits, row by row: rows that predict something, and what; p->target_start first counts by
 * token. `every`: all tokens of the texts are rows, whose mean is scored. */
static void collect_targets(packer *p, bool every)
{
    ml_batch *batch = &p->batch;
    int64_t *count = p->target_start, next = 0;
    memset(count, 0, (size_t)(batch->tokens + 1) * sizeof *count);
    for (int64_t i = 0; i < p->hits; i++) count[p->hit[i].row]++;
    for (int64_t t = 0; t < batch->tokens; t++) {
        int64_t here = count[t];
        count[t] = next;
        next += here;
    }
    for (int64_t i = 0; i < p->hits; i++) {
        int64_t at = count[p->hit[i].row]++;
        p->target[at] = p->hit[i].token;
        p->target_text[at] = p->hit[i].text;
        p->target_place[at] = p->hit[i].place;
    }
    /* count[t] is now where the targets of token t end */
    for (int64_t t = 0, begin = 0; t < batch->tokens; t++) {
        int64_t end = count[t];
        if (end == begin && !(every && p->token[t] >= 0)) continue;
        p->row[batch->rows] = t;
        p->target_start[batch->rows++] = begin; /* batch->rows ≤ t: what it overwrites was read */
        begin = end;
    }
    p->target_start[batch->rows] = p->hits;
}

static ml_status pack(session *s, const data_source *source, int64_t first, int64_t count,
                      bool keyed, sequence_reader *read)
{
    packer *p = &s->packer;
    /* Dropout differs from sequence to sequence; and the gradient of a row that several share is a
     * sum over them, which depends on who shares it. */
    bool share = s->config->data.share_prompts && !keyed && !ml_run_config_is_exact(s->config);
    ml_status st = ml_session_check_base(s, ML_OK); /* hours of passes with lost weights end here */
    if (st == ML_OK) st = read_sequences(s, source, first, count, read);
    if (st != ML_OK) return st;
    p->batch = (ml_batch){
        .token = p->token, .row = p->row, .targets = {p->target_start, p->target, 0, NULL}};
    p->batch.sequences = (ml_sequences){.start = p->start, .shared = share ? p->shared : NULL};
    p->batch.length = p->length;
    p->batch.type = p->type;
    p->batch.key_sequence = keyed ? p->key_sequence : NULL;
    p->hits = 0;
    if (share) sort_by_tokens(p->read, count);
    for (int64_t i = 0; i < count; i++) {
        int64_t shared = share && i > 0 ? shareable(s->spec, &p->read[i - 1], &p->read[i]) : 0;
        append(s, p, &p->read[i], shared);
    }
    p->start[p->batch.sequences.count] = p->batch.tokens;
    const ml_model_spec *spec = ml_model_get_spec(s->model);
    collect_targets(p, spec->head == ML_HEAD_SEQUENCE && spec->mean_pooled);
    ml_packer_cut(p, ml_grid_cp(s->grid), ml_grid_cp_rank(s->grid), ml_shares_unit(s->config));
    return ML_OK;
}

ml_status ml_session_pack(session *s, const data_source *source, int64_t first, int64_t count,
                          bool keyed)
{
    return pack(s, source, first, count, keyed, read_as_it_is);
}

ml_status ml_session_pack_mismatched(session *s, const data_source *source, int64_t first,
                                     int64_t count)
{
    return pack(s, source, first, count, false, ml_unpaired_read);
}
