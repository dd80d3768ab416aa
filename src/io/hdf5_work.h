/* hdf5_work: stretches of calls of HDF5, and how they end where memory runs out. Local; an internal
 * module.
 *
 * HDF5 1.10 does not return from every lack of memory: it calls exit, or goes on with a null
 * pointer. Where it returns, it says that memory was lacking only in a stack of errors which its
 * next call clears. So each stretch of its calls stands between ml_hdf5_begin and ml_hdf5_end: a
 * process that ends in between was ended by HDF5 (cli/support/last_words.c tells it so), and what
 * its errors say is looked at while it is there.
 */
#ifndef MPILORA_IO_HDF5_WORK_H
#define MPILORA_IO_HDF5_WORK_H

#include "mpilora/base.h"

/* Before every other use of HDF5, once: when the process exits HDF5 does nothing, since its own end
 * needs memory, too, and every file is closed by then. */
void ml_hdf5_prepare(void);
/* HDF5 is called from here on, by this thread; may be nested. `unfinished`: a file that HDF5 makes
 * and that is to be removed where it does not come back, borrowed until the end; or NULL. */
void ml_hdf5_begin(const char *unfinished);
/* The end of the latest begin. Returns `st`, but ML_RESOURCE naming `what` where it is a failure
 * and memory was lacking since the outermost begin. */
ml_status ml_hdf5_end(ml_status st, const char *what);
/* Whether memory was lacking since the outermost begin of this thread. */
bool ml_hdf5_ran_out(void);

/* For signal handlers, of the thread that they run in: whether HDF5 is at work, and its unfinished
 * file (or NULL). */
bool ml_hdf5_at_work(void);
const char *ml_hdf5_unfinished(void);

#endif
