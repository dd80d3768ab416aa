/* What every state file says of its run, and the groups that its tensors go into. */
#include "store/checkpoint/state_file.h"

static ml_status describe(const ml_image *image, const ml_checkpoint_state *state)
{
    ml_status st = ML_OK;
    hid_t file = ml_image_file(image), identity = -1;
    const ml_checkpoint_progress *progress = &state->progress;
    ML_TRY(ml_image_put_text(file, "format", "mpilora state"));
    ML_TRY(ml_image_put_int(file, "schema", 1));
    ML_TRY(ml_image_put_int(file, "step", progress->step));
    ML_TRY(ml_image_put_int(file, "cursor", progress->cursor));
    ML_TRY(ml_image_put_int(file, "tokens", progress->tokens));
    ML_TRY(ml_image_put_long_text(file, "configuration", state->configuration));
    ML_TRY(ml_image_make_group(file, "identity"));
    identity = H5Gopen2(file, "identity", H5P_DEFAULT);
    for (int64_t i = 0; i < state->identities; i++)
        ML_TRY(ml_image_put_text(identity, state->identity[i].key, state->identity[i].value));
    for (int kind = 0; kind < ML_STATE_KINDS; kind++)
        ML_TRY(ml_image_make_group(file, ml_state_kind[kind]));
done:
    H5Gclose(identity);
    return st;
}

ml_status ml_state_file_create(ml_image **out, const ml_checkpoint_state *state, int64_t bytes)
{
    ml_image *image = NULL;
    ml_status st = ml_image_create(&image, bytes + (int64_t)strlen(state->configuration), 0);
    if (st == ML_OK) st = describe(image, state);
    if (st == ML_OK)
        *out = image;
    else
        ml_image_destroy(image);
    return st;
}
