/* Continuations of a data set's prompts. The prompt of a sequence are its tokens before the first
 * target, its reference the targets from there on up to the next token that is none: of a
 * conversation with several answers the first one. The special token that ends an answer is no part
 * of it, and ends the continuations, too. Answers that are not wanted are no references. */
#include "serve/outputs.h"

#include "io/durable.h"
#include "io/json.h"

void outputs_destroy(outputs *o)
{
    for (int64_t i = 0; o->prompt && i < o->requests.count; i++) ml_text_destroy(&o->prompt[i]);
    for (int64_t i = 0; o->references && i < o->requests.count; i++)
        ml_text_destroy(&o->references[i]);
    ml_memory_free(o->prompt);
    ml_memory_free(o->references);
    requests_destroy(&o->requests);
}

/* ---- prompts and references ---------------------------------------------------------------- */

typedef struct reading {
    ml_sampler *sampler;
    int32_t *token;
    uint8_t *mask;
    int64_t length, prompt, end; /* of the sequence in hand; end: of its reference */
    bool wanted;
} reading;

static void close_reading(reading *r)
{
    ml_sampler_destroy(r->sampler);
    ml_memory_free(r->token);
    ml_memory_free(r->mask);
}

/* Sequences of one prompt follow each other. */
static ml_status open_reading(reading *r, const session *s)
{
    ml_status st = ML_OK;
    const ml_sampler_order order = {.group_prompts = true};
    ML_TRY(ml_sampler_create(&r->sampler, s->valid.dataset, s->max_len, &order));
    ML_NEW(r->token, s->max_len, ML_MEM_OTHER, "a sequence");
    ML_NEW(r->mask, s->max_len, ML_MEM_OTHER, "a sequence");
done:
    return st;
}

/* Of a pair the chosen answer is, of an answer with a verdict one that has it. */
static ml_status read_wanted(reading *r, const ml_dataset *data, int64_t i)
{
    float verdict = 1.0F;
    ml_status st = ML_OK;
    if (ml_dataset_label_kind(data) == ML_LABEL_WANTED)
        st = ml_dataset_read_label(data, i, &verdict);
    r->wanted = verdict != 0.0F && !(ml_dataset_has_pairs(data) && i % 2);
    return st;
}

static ml_status read_sequence(reading *r, const session *s, int64_t position)
{
    int64_t i = ml_sampler_at(r->sampler, position);
    r->length = ml_dataset_length(s->valid.dataset, i, s->max_len);
    ml_status st = ml_dataset_read(s->valid.dataset, i, s->max_len, r->token, r->mask);
    for (r->prompt = 1; r->prompt < r->length && !r->mask[r->prompt];) r->prompt++;
    for (r->end = r->prompt; r->end < r->length && r->mask[r->end];) r->end++;
    return st == ML_OK ? read_wanted(r, s->valid.dataset, i) : st;
}

static bool is_blank(const ml_text *text)
{
    for (int64_t i = 0; i < text->length; i++)
        if (!strchr(" \t\r\n", text->data[i])) return false;
    return true;
}

/* The special token behind which the reference has nothing but blanks ends the answer. */
static ml_status take_end(outputs *o, reading *r, int64_t vocab)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    const ml_tokenizer *t = o->requests.tokenizer;
    bool blank = true;
    for (int64_t i = r->end - 1; blank && i >= r->prompt; i--) {
        int32_t id = r->token[i];
        if (ml_tokenizer_is_special(t, id) || id == ml_tokenizer_end_of_text(t)) {
            r->end = i;
            if (o->generation.ends < ML_GENERATION_ENDS)
                ML_TRY(requests_add_end(&o->generation, id, vocab));
            break;
        }
        text.length = 0;
        ML_TRY(ml_tokenizer_decode(t, &id, 1, &text));
        blank = is_blank(&text);
    }
done:
    ml_text_destroy(&text);
    return st;
}

static bool is_prompt(const reading *r, const ml_ids *ids)
{
    return ids->count == r->prompt &&
           !memcmp(ids->data, r->token, (size_t)r->prompt * sizeof *r->token);
}

/* The decoded tokens as a JSON string. */
static ml_status add_string(const ml_tokenizer *tokenizer, const int32_t *token, int64_t count,
                            ml_text *json)
{
    ml_text text = {0};
    ml_status st = ml_tokenizer_decode(tokenizer, token, count, &text);
    if (st == ML_OK) st = json_text_add(json, text.data ? text.data : "", text.length);
    ml_text_destroy(&text);
    return st;
}

static ml_status add_reference(outputs *o, int64_t i, const reading *r)
{
    const ml_tokenizer *tokenizer = o->requests.tokenizer;
    ml_status st = ml_text_printf(&o->references[i], o->references[i].length ? ", " : "[");
    return st == ML_OK
               ? add_string(tokenizer, r->token + r->prompt, r->end - r->prompt, &o->references[i])
               : st;
}

static ml_status add_prompt(outputs *o, int64_t i, const reading *r)
{
    ml_status st = ML_OK;
    ml_ids *ids = &o->requests.prompt[i];
    ml_ids first = {0};
    ML_TRY(ml_tokenizer_begin(o->requests.tokenizer, &first));
    const size_t bytes = (size_t)first.count * sizeof *first.data;
    bool begins = first.count && first.count <= r->prompt && !memcmp(r->token, first.data, bytes);
    int64_t at = begins ? first.count : 0;
    ML_NEW(ids->data, r->prompt, ML_MEM_OTHER, "a prompt");
    ids->count = ids->capacity = r->prompt;
    memcpy(ids->data, r->token, (size_t)r->prompt * sizeof *r->token);
    st = add_string(o->requests.tokenizer, r->token + at, r->prompt - at, &o->prompt[i]);
done:
    ml_ids_destroy(&first);
    return st;
}

/* Room is made for as many prompts as there are sequences; those that are the same become one. */
static ml_status read_prompts(outputs *o, const session *s)
{
    ml_status st = ML_OK;
    reading r = {0};
    int64_t sequences = o->requests.count, n = 0;
    o->requests.count = 0;
    ML_TRY(open_reading(&r, s));
    for (int64_t position = 0; position < sequences; position++) {
        ML_TRY(read_sequence(&r, s, position));
        if (!r.wanted) continue;
        ML_TRY(take_end(o, &r, ml_base_spec(s->base)->vocab));
        if (n == 0 || !is_prompt(&r, &o->requests.prompt[n - 1])) {
            o->requests.count = ++n;
            ML_TRY(add_prompt(o, n - 1, &r));
        }
        ML_TRY(add_reference(o, n - 1, &r));
    }
    if (!n)
        st = ml_fail(ML_INPUT,
                     "%s: no answer in it is wanted: there is nothing to lay "
                     "continuations beside",
                     s->config->data.valid);
done:
    close_reading(&r);
    return st;
}

ml_status outputs_prepare(outputs *o, session *s, const ml_output_options *options)
{
    ml_status st = ML_OK;
    int64_t sequences = ml_sampler_usable(s->valid.sampler);
    if (ml_grid_cp(s->grid) > 1)
        return ml_run_config_refuse(s->config, "parallel.cp",
                                    "%d does not know eval --generate yet; take cp 1",
                                    ml_grid_cp(s->grid));
    o->generation = options->generation;
    o->generation.may_go_on = ml_session_may_go_on;
    o->generation.self = s;
    o->together = options->together;
    if (ml_grid_rank(s->grid) == 0) ML_TRY(ml_durable_may_write(options->path));
    ML_TRY(requests_create(&o->requests, s->base, sequences, o->generation.max_new));
    ML_TRY(requests_find_ends(&o->requests, s->base, &o->generation));
    ML_NEW(o->prompt, sequences, ML_MEM_OTHER, "prompts");
    ML_NEW(o->references, sequences, ML_MEM_OTHER, "references");
    ML_TRY(read_prompts(o, s));
    for (int64_t i = 0; i < o->requests.count; i++)
        ML_TRY(requests_dress(&o->requests, i, 0, s->prefix, s->infix));
    s->tokens = ml_max(s->tokens, ml_generation_tokens(&o->generation, o->requests.count,
                                                       o->requests.request, o->together));
done:
    return st;
}

/* ---- results ------------------------------------------------------------------------------- */

static ml_status write_file(const outputs *o, const char *path)
{
    ml_status st = ML_OK;
    ml_text all = {0};
    for (int64_t i = 0; i < o->requests.count; i++) {
        const ml_request *request = &o->requests.request[i];
        ML_TRY(ml_text_printf(&all, "{\"prompt\": %s, \"output\": ", o->prompt[i].data));
        ML_TRY(add_string(o->requests.tokenizer, request->out, request->count, &all));
        ML_TRY(ml_text_printf(&all, ", \"references\": %s]}\n", o->references[i].data));
    }
    st = ml_durable_write(path, all.data, all.length, NULL);
done:
    ml_text_destroy(&all);
    return st;
}

ml_status outputs_write(outputs *o, const session *s, const char *path)
{
    ml_status st =
        requests_generate(&o->requests, s->grid, s->model, &o->generation, o->together, NULL);
    st = ml_session_agree(s, st);
    return st == ML_OK
               ? ml_grid_agree(s->grid, ml_grid_rank(s->grid) == 0 ? write_file(o, path) : ML_OK)
               : st;
}
