/* Files that a base keeps, as JSON. */
#include "session/base_json.h"

ml_status ml_session_read_json(json_t **out, const ml_base *base, const char *name)
{
    ml_text text = {0};
    *out = NULL;
    ml_status st = ml_base_read_file(base, name, &text);
    if (st == ML_OK && text.length > 0) st = ml_json_read(out, name, text.data, text.length);
    ml_text_destroy(&text);
    return st;
}
