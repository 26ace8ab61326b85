#include "common/keywrap.h"
#include "svc-worker/oci_int.h"

#define ENC_PREFIX "org.opencontainers.image.enc."
#define PUBOPTS ENC_PREFIX "pubopts"
#define CIPHER "AES_256_CTR_HMAC_SHA256"
#define SYMKEY_BYTES 32u
#define NONCE_BYTES 16u
#define PUBOPTS_MAX_BYTES 4096u

/* The second one is what Confidential Containers' tools write. */
static const char *const key_annotations[] = {
    ENC_PREFIX "keys.provider.coffer",
    ENC_PREFIX "keys.provider.attestation-agent",
};

void ocicrypt_free(struct ocicrypt *c)
{
    if (!c) {
        return;
    }
    for (size_t i = 0; i < c->n_packets; i++) {
        free(c->packets[i].kid);
        buf_done(&c->packets[i].json);
    }
    free(c->packets);
    free(c);
}

void ocicrypt_key_done(struct ocicrypt_key *k)
{
    secret_free(k->symkey);
    explicit_bzero(k, sizeof(*k));
}

int ocicrypt_is_marked(const json_t *annotations)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)annotations, key, value)
    {
        if (strncmp(key, ENC_PREFIX, strlen(ENC_PREFIX)) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Exactly n bytes in base64. */
static int get_exact(const json_t *o, const char *what, const char *key, uint8_t *out, size_t n,
                     struct err *e)
{
    _cleanup_buf_ struct buf b = BUF_INIT(256);
    const char *s;

    if (json_get_str(o, what, key, &s, e) < 0) {
        return -1;
    }
    int r = b64_decode(s, strlen(s), &b, e);
    /* The text may spell the layer's key; the JSON tree would free it unwiped. */
    explicit_bzero((char *)(uintptr_t)s, strlen(s));
    if (r < 0) {
        return err_wrap(e, "%s.%s", what, key);
    }
    if (b.n != n) {
        return err_set(e, ERR_INVALID, "%s.%s: expected %zu bytes, got %zu", what, key, n, b.n);
    }
    memcpy(out, b.p, n);
    return 0;
}

static int parse_pubopts(const char *what, const json_t *annotations, struct ocicrypt *c,
                         struct err *e)
{
    _cleanup_buf_ struct buf text = BUF_INIT(PUBOPTS_MAX_BYTES);
    _cleanup_json_ json_t *j = NULL;
    _cleanup_free_ char *where = xasprintf("%s pubopts", what);
    const char *s, *cipher;

    if (json_get_str(annotations, what, PUBOPTS, &s, e) < 0) {
        return -1;
    }
    if (b64_decode(s, strlen(s), &text, e) < 0) {
        return err_wrap(e, "%s", where);
    }
    if (json_parse(where, buf_bytes(&text), PUBOPTS_MAX_BYTES, &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j)) {
        return err_set(e, ERR_INVALID, "%s: expected a JSON object", where);
    }
    if (json_get_str(j, where, "cipher", &cipher, e) < 0) {
        return -1;
    }
    if (!streq(cipher, CIPHER)) {
        return err_set(e, ERR_UNSUPPORTED, "%s.cipher: expected " CIPHER ", got \"%.80s\"", where,
                       cipher);
    }
    /* ocicrypt would read a nonce from here before the wrapped one; no tool writes it here. */
    const json_t *options = json_object_get(j, "cipheroptions");
    if (options && !json_is_null(options) &&
        !(json_is_object(options) && json_object_size(options) == 0)) {
        return err_set(e, ERR_UNSUPPORTED, "%s.cipheroptions: expected none", where);
    }
    return get_exact(j, where, "hmac", c->hmac, sizeof(c->hmac), e);
}

static int add_packet(const char *what, const char *s, size_t n, struct ocicrypt *c, struct err *e)
{
    _cleanup_buf_ struct buf json = BUF_INIT(KEYWRAP_PACKET_MAX_BYTES);
    char *kid;

    if (c->n_packets == OCI_LAYER_PACKETS_MAX) {
        return err_set(e, ERR_TOO_LARGE, "%s: over %u wrapped keys", what, OCI_LAYER_PACKETS_MAX);
    }
    if (b64_decode(s, n, &json, e) < 0 || keywrap_kid(buf_bytes(&json), &kid, e) < 0) {
        return err_wrap(e, "%s wrapped key %zu", what, c->n_packets);
    }
    c->packets[c->n_packets++] = (struct oci_packet){.kid = kid, .json = json};
    json = (struct buf){0};
    return 0;
}

static int parse_packets(const char *what, const char *list, struct ocicrypt *c, struct err *e)
{
    for (;;) {
        size_t n = strcspn(list, ",");
        if (add_packet(what, list, n, c, e) < 0) {
            return -1;
        }
        if (!list[n]) {
            return 0;
        }
        list += n + 1;
    }
}

int ocicrypt_parse(const char *what, const json_t *annotations, struct ocicrypt **ret,
                   struct err *e)
{
    _cleanup_(ocicrypt_freep) struct ocicrypt *c = xcalloc(1, sizeof(*c));

    c->packets = xcalloc(OCI_LAYER_PACKETS_MAX, sizeof(*c->packets));
    if (!annotations) {
        return err_set(e, ERR_INVALID, "%s: is encrypted, but has no annotations", what);
    }
    if (parse_pubopts(what, annotations, c, e) < 0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(key_annotations); i++) {
        const json_t *list = json_object_get(annotations, key_annotations[i]);
        if (!list) {
            continue;
        }
        if (!json_is_string(list)) {
            return err_set(e, ERR_INVALID, "%s %s: expected a string", what, key_annotations[i]);
        }
        if (parse_packets(what, json_string_value(list), c, e) < 0) {
            return -1;
        }
    }
    if (c->n_packets == 0) {
        return err_set(e, ERR_INVALID, "%s: is encrypted, but has no annotation %s", what,
                       key_annotations[0]);
    }
    *ret = TAKE_PTR(c);
    return 0;
}

static const struct secret *key_of(const struct oci_keys *keys, const char *kid)
{
    for (size_t i = 0; keys && i < keys->n; i++) {
        if (streq(keys->v[i].kid, kid)) {
            return keys->v[i].kek;
        }
    }
    return NULL;
}

static int find_key(void *arg, const char *kid, const struct secret **ret, struct err *e)
{
    const struct secret *kek = key_of(arg, kid);

    if (!kek) {
        return err_set(e, ERR_NOT_FOUND, "image key \"%s\": was not given", kid);
    }
    *ret = kek;
    return 0;
}

static int parse_privopts(const struct secret *text, struct ocicrypt_key *ret, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    _cleanup_secret_ struct secret *symkey = secret_new(SYMKEY_BYTES);
    json_t *options;

    if (json_parse("layer options", BYTES(secret_cp(text), secret_n(text)), KEYWRAP_OPTS_MAX_BYTES,
                   &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j)) {
        return err_set(e, ERR_INVALID, "layer options: expected a JSON object");
    }
    if (get_exact(j, "layer options", "symkey", secret_p(symkey), SYMKEY_BYTES, e) < 0 ||
        json_get_obj(j, "layer options", "cipheroptions", &options, e) < 0 ||
        get_exact(options, "layer options.cipheroptions", "nonce", ret->nonce, NONCE_BYTES, e) <
            0) {
        return -1;
    }
    ret->symkey = TAKE_PTR(symkey);
    return 0;
}

/* "a, b, c", as far as it fits. */
static void list_kids(const struct ocicrypt *c, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (size_t i = 0; i < c->n_packets && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s", i ? ", " : "", c->packets[i].kid);
        used += n > 0 ? (size_t)n : 0;
    }
}

int ocicrypt_open(const struct ocicrypt *c, const struct oci_keys *keys, struct ocicrypt_key *ret,
                  struct err *e)
{
    int tried = 0;

    for (size_t i = 0; i < c->n_packets; i++) {
        _cleanup_secret_ struct secret *opts = NULL;
        if (!key_of(keys, c->packets[i].kid)) {
            continue;
        }
        tried = 1;
        if (keywrap_unwrap(buf_bytes(&c->packets[i].json), find_key, (void *)(uintptr_t)keys, &opts,
                           e) == 0) {
            return parse_privopts(opts, ret, e);
        }
    }
    if (!tried) {
        char kids[300];
        list_kids(c, kids, sizeof(kids));
        return err_set(e, ERR_NOT_FOUND, "none of its keys was given: %s", kids);
    }
    return -1; /* with the error of the last one that was tried */
}
