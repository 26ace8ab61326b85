/* The workload of container_test: a static program, alone in its image. argv[1] says what to do. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int copy(const char *from, const char *to, size_t max)
{
    static char buf[1 << 16];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    size_t n;

    if (!in || !out) {
        return 3;
    }
    n = fread(buf, 1, max < sizeof(buf) ? max : sizeof(buf), in);
    fwrite(buf, 1, n, out);
    fclose(in);
    return fclose(out) ? 4 : 0;
}

static int fill(const char *to, size_t n)
{
    FILE *out = fopen(to, "w");

    while (out && n--) {
        fputc('x', out);
    }
    return out && fclose(out) == 0 ? 0 : 5;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (strcmp(what, "copy") == 0) {
        return copy("/data/in", "/output/out.csv", 1600);
    }
    if (strcmp(what, "tar") == 0) {
        return copy("/data/in/sub/row.txt", "/output/out.csv", 1600);
    }
    if (strcmp(what, "big") == 0) {
        return fill("/output/out.csv", 1 << 17);
    }
    if (strcmp(what, "hold") == 0) {
        (void)copy("/data/in", "/output/out.csv", 1600);
        sleep(60);
    }
    if (strcmp(what, "sleep") == 0) {
        sleep(60);
    }
    if (strcmp(what, "link") == 0) {
        return symlink("/data/in", "/output/out.csv");
    }
    return strcmp(what, "none") == 0 ? 0 : 7;
}
