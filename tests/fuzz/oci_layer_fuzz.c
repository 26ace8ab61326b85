/* Tar streams of outside bytes, extracted over a small tree: as a layer, or (first byte 'd') as a
 * dataset. Nothing may appear or change beside the root directory. */
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "common/untar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char outer[] = "/dev/shm/oci_layer_fuzz.XXXXXX";
static char root[sizeof(outer) + 8], victim[sizeof(outer) + 8];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static void drop_outer(void)
{
    nftw(outer, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void must(int ok)
{
    if (!ok) {
        abort();
    }
}

static void make_outer(void)
{
    must(mkdtemp(outer) != NULL);
    snprintf(root, sizeof(root), "%s/root", outer);
    snprintf(victim, sizeof(victim), "%s/victim", outer);
    _cleanup_close_ int fd = open(victim, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, "safe", 4) == 4);
    atexit(drop_outer);
}

/* What a lower layer may have left: links that lead out and around. */
static void make_root(void)
{
    must(mkdir(root, 0700) == 0);
    _cleanup_close_ int fd = open(root, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    must(mkdirat(fd, "d", 0700) == 0 && symlinkat("../victim", fd, "v") == 0 &&
         symlinkat("../..", fd, "up") == 0 && symlinkat("/", fd, "abs") == 0 &&
         symlinkat("loop", fd, "loop") == 0);
}

static void check_outer(void)
{
    struct stat st;
    char text[5] = "";
    _cleanup_close_ int fd = open(victim, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    must(fd >= 0 && read(fd, text, 5) == 4 && memcmp(text, "safe", 4) == 0);
    must(fstat(fd, &st) == 0 && st.st_nlink == 1 && (st.st_mode & 0777) == 0600);
    must(stat(outer, &st) == 0 && st.st_nlink == 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(untar_freep) struct untar *u = NULL;
    enum untar_rules rules = UNTAR_LAYER;
    struct archive *a;
    struct err e;

    if (!root[0]) {
        make_outer();
    }
    make_root();
    if (size > 0 && data[0] == 'd') {
        rules = UNTAR_DATASET;
        data++;
        size--;
    }
    must(untar_new(root, rules, 65536, 32, &u, &e) == 0);
    a = untar_archive_new();
    if (archive_read_open_memory(a, data, size) == ARCHIVE_OK) {
        (void)untar_archive(u, a, &e);
    }
    archive_read_free(a);
    check_outer();
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    must(access(root, F_OK) < 0);
    return 0;
}
