/* The start of a run with PiSSA. A new one decomposes the weights and keeps the factors in its
 * directory; a resumed one reads them there, so that it trains beside exactly the same weights. */
#include "train/run.h"

static ml_status write_initial(run *r, const char *path)
{
    session *s = &r->session;
    ml_adapter adapter = {0};
    ml_status st = ml_peft_collect(s->peft, s->grid, ml_base_source_hash(s->base), &adapter);
    if (st != ML_OK) return st;
    st = ml_grid_agree(s->grid,
                       ml_grid_rank(s->grid) == 0 ? ml_adapter_write(&adapter, path) : ML_OK);
    ml_adapter_destroy(&adapter);
    return st;
}

static ml_status read_initial(run *r, const char *path)
{
    session *s = &r->session;
    ml_adapter adapter = {0};
    ml_status st =
        ml_adapter_read(&adapter, path, ml_base_spec(s->base), ml_base_source_hash(s->base));
    if (st == ML_OK) st = ml_peft_load(s->peft, &adapter);
    ml_adapter_destroy(&adapter);
    return st;
}

ml_status start_pissa(run *r, bool resumed)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    ml_text path = {0};
    ML_TRY(
        ml_grid_agree(s->grid, ml_text_printf(&path, "%s/initial-adapter.h5", r->config->run_dir)));
    if (resumed) {
        ML_TRY(ml_grid_agree(s->grid, read_initial(r, path.data)));
    } else {
        ML_TRY(ml_peft_decompose(s->peft, s->base, s->grid));
        ML_TRY(write_initial(r, path.data));
    }
    ML_TRY(ml_grid_agree(s->grid, ml_peft_take_out(s->peft)));
done:
    ml_text_destroy(&path);
    return st;
}
