/* What HDF5 is at, thread by thread; what its errors say is noted in the place where it would print
 * them. */
#include "io/hdf5_work.h"

#include <errno.h>
#include <hdf5.h>

static _Thread_local volatile int depth;
static _Thread_local bool ran_out;
static _Thread_local const char *volatile file;

static herr_t look_at(unsigned number, const H5E_error2_t *error, void *found)
{
    (void)number;
    if (error->maj_num == H5E_RESOURCE || error->min_num == H5E_NOSPACE ||
        error->min_num == H5E_CANTALLOC)
        *(bool *)found = true;
    return 0;
}

static herr_t note_error(hid_t stack, void *context)
{
    (void)context;
    bool lacking = errno == ENOMEM; /* also where there was none for the stack itself */
    (void)H5Ewalk2(stack, H5E_WALK_UPWARD, look_at, &lacking);
    if (lacking) ran_out = true;
    return 0;
}

void ml_hdf5_prepare(void)
{
    depth++;
    (void)H5dont_atexit();
    depth--;
}

void ml_hdf5_begin(const char *unfinished)
{
    if (depth++ > 0) return;
    ran_out = false;
    file = unfinished;
    errno = 0;
    if (H5Eset_auto2(H5E_DEFAULT, note_error, NULL) < 0)
        ran_out = true; /* HDF5 itself does not start */
}

ml_status ml_hdf5_end(ml_status st, const char *what)
{
    if (--depth == 0) file = NULL;
    if (st == ML_OK || !ml_hdf5_ran_out()) return st;
    return ml_fail(ML_RESOURCE, "%s: out of memory: HDF5 could not go on", what);
}

/* Its cleaning up may have cleared the stack before anybody saw it: then errno still says so. */
bool ml_hdf5_ran_out(void) { return ran_out || errno == ENOMEM; }
bool ml_hdf5_at_work(void) { return depth > 0; }
const char *ml_hdf5_unfinished(void) { return file; }
