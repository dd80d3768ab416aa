/* CRC-32C (Castagnoli), as iSCSI, ext4 and TFRecord files have it. Local. */
#ifndef MPILORA_IO_CRC32C_H
#define MPILORA_IO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of data[bytes]; "123456789" has e3069283. */
uint32_t ml_crc32c(const void *data, size_t bytes);

#endif
