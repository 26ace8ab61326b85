/* What the code under test takes for randomness. getrandom is wrapped by the linker, OpenSSL gets a
 * random method of ours: keys, nonces and signatures follow from the seed, so a run replays to the
 * byte. Only ever linked into the simulator. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/rand.h>
#include <sys/random.h>
#include <sys/types.h>

#include "tests/sim/sim.h"

static uint64_t state = 1;

static uint64_t next(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void fill(void *p, size_t n)
{
    uint8_t *o = p;

    while (n) {
        uint64_t v = next();
        size_t k = n < sizeof(v) ? n : sizeof(v);
        memcpy(o, &v, k);
        o += k;
        n -= k;
    }
}

/* The linker's names. */
ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags);

ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags)
{
    (void)flags;
    fill(p, n);
    return (ssize_t)n;
}

static int ssl_bytes(unsigned char *p, int n)
{
    fill(p, (size_t)n);
    return 1;
}

static int ssl_status(void)
{
    return 1;
}

void random_install(void)
{
    static const RAND_METHOD method = {
        .bytes = ssl_bytes, .pseudorand = ssl_bytes, .status = ssl_status};

    RAND_set_rand_method(&method);
    json_object_seed(1);
}

void random_seed(uint64_t seed)
{
    state = seed * 0x2545f4914f6cdd1du + 12345;
}
