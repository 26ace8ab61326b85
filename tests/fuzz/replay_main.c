/* Runs a fuzz target once over every file of the directories given: the corpus as a plain test. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/mem.h"

#define FILE_MAX_BYTES (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    struct stat st;
    _cleanup_free_ uint8_t *data = NULL;
    _cleanup_fclose_ FILE *f = fopen(path, "rbe");

    if (!f || fstat(fileno(f), &st)) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        return 0;
    }
    if (st.st_size > FILE_MAX_BYTES) {
        fprintf(stderr, "%s: larger than %u bytes\n", path, FILE_MAX_BYTES);
        return -1;
    }
    /* Exactly as large as the input, so that a sanitizer sees a read past its end. */
    size_t n = (size_t)st.st_size;
    data = xmalloc(n);
    if (fread(data, 1, n, f) != n) {
        fprintf(stderr, "%s: short read\n", path);
        return -1;
    }
    LLVMFuzzerTestOneInput(data, n);
    return 1;
}

static long replay_dir(const char *dir)
{
    long count = 0;
    DIR *d = opendir(dir);
    struct dirent *entry;

    if (!d) {
        fprintf(stderr, "%s: %s\n", dir, strerror(errno));
        return -1;
    }
    while ((entry = readdir(d))) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, entry->d_name);
        int r = replay_file(path);
        if (r < 0) {
            count = -1;
            break;
        }
        count += r;
    }
    closedir(d);
    return count;
}

int main(int argc, char **argv)
{
    long total = 0;

    for (int i = 1; i < argc; i++) {
        long n = replay_dir(argv[i]);
        if (n < 0) {
            return 1;
        }
        total += n;
    }
    printf("%ld inputs\n", total);
    if (!total) {
        fputs("expected directories with at least one input\n", stderr);
        return 1;
    }
    return 0;
}
