/* last_words: an end that HDF5 brings about is told like any other error. */
#ifndef MPILORA_CLI_SUPPORT_LAST_WORDS_H
#define MPILORA_CLI_SUPPORT_LAST_WORDS_H

/* HDF5 1.10 ends the process where its own small allocations fail, by exit or by a signal. After
 * this call such an end, while HDF5 is at work (io/hdf5_work.h), is one line on standard error and
 * exit code 4; every other one is as it was. After MPI has started. */
void last_words_prepare(void);

#endif
