/* A prompt's continuation: the session of a single request. */
#include "mpilora/generate.h"

#include "mpilora/data.h"
#include "train/session.h"

static ml_status add_begin(const ml_tokenizer *tokenizer, ml_ids *ids)
{
    ml_status st = ML_OK;
    enum { ROOM = 64 };
    int32_t begin = ml_tokenizer_begin_of_text(tokenizer);
    if (begin < 0) return ML_OK;
    ML_NEW(ids->data, ROOM, ML_MEM_OTHER, "a prompt");
    ids->capacity = ROOM;
    ids->data[ids->count++] = begin;
done:
    return st;
}

/* The prompt's ids, behind the token that begins a text where the tokenizer has one; special tokens that it spells are meant. */
static ml_status encode(session *s, const ml_generate_options *o, ml_tokenizer **tokenizer, ml_ids *prompt)
{
    ml_status st = ML_OK;
    int64_t length;
    const char *json = ml_base_tokenizer(s->base, &length);
    if (!length) return ml_fail(ML_INPUT, "%s: the base has no tokenizer; import it from a source that has one", o->base);
    ML_TRY(ml_tokenizer_create(tokenizer, json, length));
    ML_TRY(add_begin(*tokenizer, prompt));
    ML_TRY(ml_tokenizer_encode(*tokenizer, o->prompt, (int64_t)strlen(o->prompt), true, prompt));
    if (prompt->count == 0) st = ml_fail(ML_USAGE, "--prompt: empty; give at least one token");
done:
    return st;
}

static ml_status generate(session *s, const ml_generate_options *o, const ml_tokenizer *tokenizer, const ml_ids *prompt, ml_text *out)
{
    ml_status st = ML_OK;
    int32_t *ids = NULL;
    int64_t count;
    ml_generation g = o->generation;
    g.end = ml_tokenizer_end_of_text(tokenizer);
    ML_NEW(ids, ml_max(1, g.max_new), ML_MEM_OTHER, "a continuation");
    ML_TRY(ml_model_generate(s->model, prompt->data, prompt->count, &g, ids, &count));
    ML_TRY(ml_tokenizer_decode(tokenizer, ids, count, out));
done:
    ml_memory_free(ids);
    return st;
}

static ml_status prepare(session *s, const ml_generate_options *o, ml_tokenizer **tokenizer, ml_ids *prompt, ml_adapter *adapter)
{
    ml_status st = ML_OK;
    ML_TRY(encode(s, o, tokenizer, prompt));
    s->tokens = ml_max(prompt->count + o->generation.max_new, o->generation.beams);
    if (o->adapter) ML_TRY(ml_adapter_read(adapter, o->adapter, ml_base_spec(s->base), ml_base_source_hash(s->base)));
done:
    return st;
}

ml_status ml_generate_run(const ml_generate_options *o, ml_text *out)
{
    ml_status st = ML_OK;
    session s = {0};
    ml_tokenizer *tokenizer = NULL;
    ml_ids prompt = {0};
    ml_adapter adapter = {0};
    ml_run_config config = {
        .base = (char *)(uintptr_t)o->base, .batch = {1, 1}, .parallel = {ml_grid_world_size(), 1}, .precision = o->precision};
    ML_TRY(session_open(&s, &config, false));
    ML_TRY(ml_grid_agree(s.grid, prepare(&s, o, &tokenizer, &prompt, &adapter)));
    ML_TRY(session_attach_adapter(&s, o->adapter ? &adapter : NULL));
    ML_TRY(ml_grid_agree(s.grid, session_dress_prompt(&s, &prompt)));
    ML_TRY(session_build(&s, false, NULL, NULL));
    if (o->adapter) {
        ML_TRY(ml_grid_agree(s.grid, ml_peft_load(s.peft, &adapter)));
        ml_peft_after_update(s.peft);
    }
    ML_TRY(ml_grid_agree(s.grid, generate(&s, o, tokenizer, &prompt, out)));
done:
    ml_adapter_destroy(&adapter);
    ml_ids_destroy(&prompt);
    ml_tokenizer_destroy(tokenizer);
    session_close(&s);
    return st;
}
