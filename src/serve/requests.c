/* Requests stand between texts and tokens: prompts are encoded, virtual tokens are put before and
 * behind them, the replicas generate their shares of them and exchange the continuations, which
 * become texts again. */
#include "serve/requests.h"

#include <inttypes.h>

#include "io/json.h"

void requests_destroy(requests *r)
{
    for (int64_t i = 0; r->prompt && i < r->made; i++) ml_ids_destroy(&r->prompt[i]);
    ml_memory_free(r->prompt);
    ml_memory_free(r->request);
    ml_memory_free(r->continuation);
    ml_tokenizer_destroy(r->tokenizer);
    *r = (requests){0};
}

ml_status requests_create(requests *r, const ml_base *base, int64_t count, int64_t max_new)
{
    ml_status st = ML_OK;
    int64_t length, tokens;
    const char *json = ml_base_tokenizer(base, &length);
    *r = (requests){.count = count,
                    .made = count,
                    .max_new = max_new,
                    .vocab = ml_base_spec(base)->vocab,
                    .begin = -1};
    int64_t context = ml_base_spec(base)->context;
    if (max_new > context)
        return ml_fail(ML_USAGE,
                       "--max-new: %" PRId64 " is more than the context of the model, %" PRId64
                       " tokens",
                       max_new, context);
    if (!length)
        return ml_fail(ML_INPUT,
                       "%s: the base has no tokenizer; import it from a source that has one",
                       ml_base_path(base));
    if (!ml_multiply(count, ml_max(1, max_new), &tokens))
        return ml_fail(ML_USAGE, "--max-new: %" PRId64 " is too large", max_new);
    ML_TRY(ml_tokenizer_create(&r->tokenizer, json, length));
    ML_NEW(r->prompt, count, ML_MEM_OTHER, "prompts");
    ML_NEW(r->request, count, ML_MEM_OTHER, "prompts");
    ML_NEW(r->continuation, tokens, ML_MEM_OTHER, "continuations");
    for (int64_t i = 0; i < count; i++) r->request[i].out = r->continuation + i * max_new;
done:
    return st;
}

/* ---- what ends a continuation -------------------------------------------------------------- */

static ml_status add_end(ml_generation *g, int64_t id, int64_t vocab)
{
    for (int64_t i = 0; i < g->ends; i++)
        if (g->end[i] == id) return ML_OK;
    if (id < 0 || id >= vocab) return ML_OK;
    if (g->ends == ML_GENERATION_ENDS)
        return ml_fail(ML_INPUT, "eos_token_id: more than %d tokens", (int)ML_GENERATION_ENDS);
    g->end[g->ends++] = (int32_t)id;
    return ML_OK;
}

/* One id or a list of them; *found false where the file does not say. */
static ml_status read_ends(requests *r, const ml_base *base, const char *name, ml_generation *g,
                           bool *found)
{
    static const ml_json_key keys[] = {
        {"bos_token_id", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
        {"eos_token_id", ML_JSON_INTEGER | ML_JSON_ARRAY | ML_JSON_NULL},
        {"eos_token_id[]", ML_JSON_INTEGER},
        {NULL, 0}};
    ml_status st = ML_OK;
    ml_text text = {0};
    json_t *root = NULL;
    int64_t vocab = ml_base_spec(base)->vocab;
    *found = false;
    ML_TRY(ml_base_read_file(base, name, &text));
    if (!text.length) goto done;
    ML_TRY(ml_json_read(&root, name, text.data, text.length));
    ML_TRY(ml_json_check(root, keys));
    const json_t *value = json_object_get(root, "eos_token_id"),
                 *begin = json_object_get(root, "bos_token_id");
    if (r->begin < 0 && json_is_integer(begin) && json_integer_value(begin) >= 0 &&
        json_integer_value(begin) < vocab)
        r->begin = (int32_t)json_integer_value(begin);
    *found = json_is_integer(value) || json_array_size(value) > 0;
    if (json_is_integer(value)) ML_TRY(add_end(g, json_integer_value(value), vocab));
    for (size_t i = 0; i < json_array_size(value); i++)
        ML_TRY(add_end(g, json_integer_value(json_array_get(value, i)), vocab));
done:
    json_decref(root);
    ml_text_destroy(&text);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s: %s", ml_base_path(base), name);
}

ml_status requests_add_end(ml_generation *g, int32_t id, int64_t vocab)
{
    return add_end(g, id, vocab);
}

ml_status requests_find_ends(requests *r, const ml_base *base, ml_generation *g)
{
    bool found;
    g->ends = 0;
    r->begin = -1;
    ml_status st = add_end(g, ml_tokenizer_end_of_text(r->tokenizer), ml_base_spec(base)->vocab);
    if (st == ML_OK) st = read_ends(r, base, "generation_config.json", g, &found);
    if (st == ML_OK && !found) st = read_ends(r, base, "config.json", g, &found);
    return st;
}

/* ---- prompts ------------------------------------------------------------------------------- */

static ml_status make_room(ml_ids *ids, int64_t count)
{
    ml_status st = ML_OK;
    if (count <= ids->capacity) return ML_OK;
    if (!ids->data) {
        ML_NEW(ids->data, count, ML_MEM_OTHER, "a prompt");
    } else {
        int32_t *grown = ml_memory_resize(ids->data, count, sizeof *grown, "a prompt");
        if (!grown) return ML_RESOURCE;
        ids->data = grown;
    }
    ids->capacity = count;
done:
    return st;
}

ml_status requests_encode(requests *r, int64_t i, const char *text, bool specials, bool whole)
{
    ml_status st = ML_OK;
    ml_ids *ids = &r->prompt[i];
    if (!whole) ML_TRY(ml_tokenizer_begin(r->tokenizer, ids));
    ML_TRY(ml_tokenizer_encode(r->tokenizer, text, (int64_t)strlen(text), specials, ids));
    if (ids->count == 0 && r->begin >= 0) {
        ML_TRY(make_room(ids, 1));
        ids->data[ids->count++] = r->begin;
    }
done:
    return st;
}

ml_status requests_take(requests *r, int64_t i, const int32_t *ids, int64_t count)
{
    ml_ids *to = &r->prompt[i];
    ml_status st = make_room(to, count);
    if (st != ML_OK) return st;
    for (int64_t t = 0; t < count; t++) {
        if (ids[t] < 0 || ids[t] >= r->vocab)
            return ml_fail(
                ML_INPUT, "token %" PRId32 " of the prompt is not one of the vocabulary's %" PRId64,
                ids[t], r->vocab);
        to->data[to->count++] = ids[t];
    }
    return ML_OK;
}

ml_status requests_dress(requests *r, int64_t i, int64_t adapter, int64_t prefix, int64_t infix)
{
    ml_ids *ids = &r->prompt[i];
    int64_t count = prefix + ids->count + infix;
    ml_status st = make_room(ids, count);
    if (st != ML_OK) return st;
    memmove(ids->data + prefix, ids->data, (size_t)ids->count * sizeof *ids->data);
    for (int64_t j = 0; j < prefix; j++) ids->data[j] = (int32_t)(-1 - j);
    for (int64_t j = 0; j < infix; j++) ids->data[count - infix + j] = (int32_t)(-1 - prefix - j);
    ids->count = count;
    r->request[i].prompt = ids->data;
    r->request[i].length = count;
    r->request[i].adapter = adapter;
    r->request[i].number = i;
    return ML_OK;
}

void requests_leave_out(requests *r, const bool *refused)
{
    r->count = 0;
    for (int64_t i = 0; i < r->made; i++)
        if (!refused[i]) r->request[r->count++] = r->request[i];
}

/* All replicas' continuations to all ranks: each knows its own, mine … end − 1, the others' are
 * zero. */
static ml_status exchange(requests *r, const ml_grid *grid, int64_t mine, int64_t end)
{
    ml_status st = ML_OK;
    int64_t n = r->count, width = r->max_new + 1, *all = NULL;
    ML_NEW(all, n * width, ML_MEM_COMMUNICATION, "continuations");
    for (int64_t i = mine; i < end; i++) {
        const ml_request *request = &r->request[i];
        all[i * width] = request->count;
        for (int64_t t = 0; t < request->count; t++) all[i * width + 1 + t] = request->out[t];
    }
done:
    st = ml_grid_agree(grid, st);
    if (st == ML_OK) {
        ml_grid_sum_int64(grid, ML_GROUP_DP, all, n * width);
        for (int64_t i = 0; i < n; i++) {
            ml_request *request = &r->request[i];
            request->count = all[i * width];
            for (int64_t t = 0; t < request->count; t++)
                request->out[t] = (int32_t)all[i * width + 1 + t];
        }
    }
    ml_memory_free(all);
    return st;
}

/* Where one rank went on and another had ended, both would wait for ever. */
static ml_status agree_on_ends(const ml_generation *g)
{
    char text[ML_GENERATION_ENDS * 12 + 1] = "";
    size_t used = 0;
    for (int64_t i = 0; i < g->ends; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%" PRId32, i ? " " : "",
                                 g->end[i]);
    return ml_grid_agree_on("the tokens that end a text", text,
                            "give all ranks the same base file");
}

ml_status requests_generate(requests *r, const ml_grid *grid, ml_model *model,
                            const ml_generation *generation, int64_t together,
                            const ml_router *router)
{
    int64_t dp = ml_grid_dp(grid), place = ml_grid_dp_rank(grid);
    int64_t mine = ml_part_start(r->count, dp, place),
            end = mine + ml_part_count(r->count, dp, place);
    ml_status st = agree_on_ends(generation);
    if (st != ML_OK) return st;
    st = ml_grid_settle(
        ml_generate_tokens(model, generation, end - mine, r->request + mine, together, router));
    return st == ML_OK && dp > 1 ? exchange(r, grid, mine, end) : st;
}

ml_status requests_decode(const requests *r, int64_t i, ml_text *out)
{
    ml_status st = ml_text_add(out, "", 0); /* no tokens are an empty text, not none */
    if (st != ML_OK) return st;
    return ml_tokenizer_decode(r->tokenizer, r->request[i].out, r->request[i].count, out);
}
