/* Which run a checkpoint is of: what must be the same when one is resumed, compared; and what a
 * run was allowed to change, recorded. A manifest names both. */
#include <inttypes.h>

#include "store/checkpoint/run_directory.h"

/* ---- compared ------------------------------------------------------------------------------ */

static ml_status other_value(const json_t *manifest, const char *key, const char *here,
                             const char *there)
{
    bool optim = !strncmp(key, "optim.", strlen("optim."));
    return ml_fail(ML_USAGE,
                   "%s: %s here, but the checkpoint of step %" PRId64
                   " was made with %s; give the same value, %s%s%sanother run.dir, or --fresh to "
                   "start over",
                   key, here, (int64_t)json_integer_value(json_object_get(manifest, "step")), there,
                   optim ? "--allow-change " : "", optim ? key : "",
                   optim ? " to go on with the new one, " : "");
}

/* The manifest's value of a key of the identity; NULL: it has none. */
static const char *recorded(const json_t *manifest, const char *key)
{
    return json_string_value(json_object_get(json_object_get(manifest, "identity"), key));
}

static bool differs(const json_t *manifest, const ml_checkpoint_identity *mine)
{
    const char *there = recorded(manifest, mine->key);
    return !there ||
           (strcmp(there, mine->value) != 0 && (!mine->before || strcmp(there, mine->before) != 0));
}

static bool is_allowed(const ml_checkpoint_state *state, const char *key)
{
    for (int64_t i = 0; i < state->allowed; i++)
        if (!strcmp(state->allow[i], key)) return true;
    return false;
}

ml_status ml_manifest_compare(const json_t *manifest, const ml_checkpoint_state *state)
{
    json_t *identity = json_object_get(manifest, "identity");
    for (int64_t i = 0; i < state->identities; i++) {
        const ml_checkpoint_identity *mine = &state->identity[i];
        const char *there = recorded(manifest, mine->key);
        if (differs(manifest, mine) && !(there && is_allowed(state, mine->key)))
            return other_value(manifest, mine->key, mine->value, there ? there : "none");
    }
    if ((int64_t)json_object_size(identity) == state->identities) return ML_OK;
    const char *key;
    json_t *value;
    json_object_foreach(identity, key, value)
    {
        bool known = false;
        for (int64_t i = 0; !known && i < state->identities; i++)
            known = !strcmp(key, state->identity[i].key);
        if (!known)
            return other_value(manifest, key, "none",
                               json_is_string(value) ? json_string_value(value) : "something else");
    }
    return ML_OK;
}

/* ---- changes of it -- */

bool ml_manifest_has_changed(const json_t *manifest, const ml_checkpoint_state *state)
{
    const json_t *list = json_object_get(manifest, ml_manifest_changes_key);
    for (size_t c = 0; c < json_array_size(list); c++) {
        const char *key = json_string_value(json_object_get(json_array_get(list, c), "key"));
        for (int64_t i = 0; key && i < state->identities; i++)
            if (!strcmp(key, state->identity[i].key) && differs(manifest, &state->identity[i]))
                return true;
    }
    return false;
}

static void add_change(ml_checkpoint_changes *out, const char *key, const char *from,
                       const char *to, int64_t step)
{
    ml_checkpoint_change *c = &out->items[out->count++];
    snprintf(c->key, sizeof c->key, "%s", key);
    snprintf(c->from, sizeof c->from, "%s", from);
    snprintf(c->to, sizeof c->to, "%s", to);
    c->step = step;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

ml_status ml_manifest_changes(const json_t *manifest, const ml_checkpoint_state *state,
                              ml_checkpoint_changes *out)
{
    ml_status st = ML_OK;
    const json_t *list = json_object_get(manifest, ml_manifest_changes_key);
    int64_t named = (int64_t)json_array_size(list), count = named;
    *out = (ml_checkpoint_changes){0};
    for (int64_t i = 0; i < state->identities; i++) count += differs(manifest, &state->identity[i]);
    if (count == 0) return ML_OK;
    ML_NEW(out->items, count, ML_MEM_OTHER, "the run's changes");
    for (int64_t c = 0; c < named; c++) {
        const json_t *change = json_array_get(list, (size_t)c);
        add_change(out, text_of(change, "key"), text_of(change, "from"), text_of(change, "to"),
                   json_integer_value(json_object_get(change, "step")));
    }
    for (int64_t i = 0; i < state->identities; i++) {
        const ml_checkpoint_identity *mine = &state->identity[i];
        if (differs(manifest, mine))
            add_change(out, mine->key, recorded(manifest, mine->key), mine->value,
                       json_integer_value(json_object_get(manifest, "step")));
    }
done:
    return st;
}

void ml_checkpoint_changes_destroy(ml_checkpoint_changes *changes)
{
    ml_memory_free(changes->items);
    *changes = (ml_checkpoint_changes){0};
}
