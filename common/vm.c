#include "common/vm.h"

const uint32_t vm_memory_classes_mib[] = {256, 384, 512, 768, 1024, 1536, 2048, 3072, 0};

uint32_t vm_memory_mib(uint64_t bytes)
{
    uint64_t mib = (bytes >> 20) + ((bytes & 0xfffffu) != 0);

    for (const uint32_t *c = vm_memory_classes_mib; *c; c++) {
        if (mib <= *c) {
            return *c;
        }
    }
    mib = (mib + 1023) / 1024 * 1024;
    return mib > UINT32_MAX ? UINT32_MAX / 1024 * 1024 : (uint32_t)mib;
}

uint32_t vm_memory_class_mib(uint32_t mib)
{
    return mib > 3072 ? 3072 : mib;
}

uint64_t vm_scratch_disk_bytes(uint64_t scratch_bytes)
{
    /* Tags take 0.7 %, inode tables 256 bytes for each MiB and 2 MiB at least. */
    uint64_t bytes = scratch_bytes + scratch_bytes / 64 + (16u << 20);

    return (bytes + 4095) / 4096 * 4096;
}
