#include "common/result.h"

#include <openssl/hmac.h>

static const char *const manifest_keys[] = {"v",      "job",  "attempt",      "outcome",
                                            "ear",    "spec", "chunks",       "bytes",
                                            "sha256", "box",  "chunk_sha256", NULL};

static int refuse_member(struct err *e, const char *clause, const char *expected)
{
    char actual[256];

    snprintf(actual, sizeof(actual), "%.255s", e && e->msg[0] ? e->msg : "something else");
    return err_refuse(e, ERR_INVALID, clause, expected, "%s", actual);
}

size_t result_chunk_bytes(uint64_t bytes, uint32_t index)
{
    uint64_t at = (uint64_t)index * RESULT_CHUNK_BYTES;

    if (at >= bytes) {
        return 0;
    }
    return bytes - at < RESULT_CHUNK_BYTES ? (size_t)(bytes - at) : RESULT_CHUNK_BYTES;
}

static int parse_digests(struct result_manifest *m, const json_t *list, struct err *e)
{
    size_t i;
    json_t *v;

    if (json_array_size(list) != m->chunks) {
        return err_refuse(e, ERR_INVALID, "result.chunk_sha256", "one digest for each chunk",
                          "%zu digests for %u chunks", json_array_size(list), m->chunks);
    }
    m->chunk_sha256 = xcalloc(m->chunks ? m->chunks : 1, sizeof(m->chunk_sha256[0]));
    json_array_foreach(list, i, v)
    {
        const char *s = json_string_value(v);
        if (!s || strlen(s) != 64 || hex_decode(s, m->chunk_sha256[i], 32, e)) {
            return err_refuse(e, ERR_INVALID, "result.chunk_sha256", "64 hex digits each",
                              "entry %zu is none", i);
        }
    }
    return 0;
}

static int check_sizes(struct result_manifest *m, uint64_t max_bytes, struct err *e)
{
    uint64_t want = (m->bytes + RESULT_CHUNK_BYTES - 1) / RESULT_CHUNK_BYTES;

    if (m->bytes > max_bytes) {
        char expected[64];
        snprintf(expected, sizeof(expected), "at most %llu bytes", (unsigned long long)max_bytes);
        return err_refuse(e, ERR_TOO_LARGE, "result.bytes", expected, "%llu bytes",
                          (unsigned long long)m->bytes);
    }
    if (m->ok != (m->bytes > 0)) {
        return err_refuse(e, ERR_INVALID, "result.bytes",
                          m->ok ? "a sealed stream for outcome ok" : "0 for outcome failed",
                          "%llu bytes", (unsigned long long)m->bytes);
    }
    if (m->chunks != want) {
        char expected[64];
        snprintf(expected, sizeof(expected), "%llu for %llu bytes", (unsigned long long)want,
                 (unsigned long long)m->bytes);
        return err_refuse(e, ERR_INVALID, "result.chunks", expected, "%u", m->chunks);
    }
    return 0;
}

static int manifest_fill(struct result_manifest *m, uint64_t max_bytes, struct err *e)
{
    const char *outcome;
    int64_t v, chunks, bytes;
    json_t *digests;
    uint8_t digest[32];

    if (json_only_keys(m->json, "result", manifest_keys, e) ||
        json_get_int(m->json, "result", "v", 1, 1, &v, e) ||
        json_get_str(m->json, "result", "job", &m->job, e) ||
        json_get_int(m->json, "result", "attempt", 1, UINT32_MAX, &m->attempt, e) ||
        json_get_str(m->json, "result", "outcome", &outcome, e) ||
        json_get_str(m->json, "result", "ear", &m->ear, e) ||
        json_get_str(m->json, "result", "spec", &m->spec, e) ||
        json_get_int(m->json, "result", "chunks", 0, RESULT_MAX_CHUNKS, &chunks, e) ||
        json_get_int(m->json, "result", "bytes", 0, INT64_C(1) << 40, &bytes, e) ||
        json_get_str(m->json, "result", "sha256", &m->sha256, e) ||
        json_get_arr(m->json, "result", "chunk_sha256", &digests, e) ||
        json_get_obj(m->json, "result", "box", &m->box, e)) {
        return refuse_member(e, "result", "the members of a result manifest");
    }
    m->chunks = (uint32_t)chunks;
    m->bytes = (uint64_t)bytes;
    m->ok = streq(outcome, "ok");
    if (!m->ok && !streq(outcome, "failed")) {
        return err_refuse(e, ERR_INVALID, "result.outcome", "ok or failed", "%.20s", outcome);
    }
    if (strlen(m->sha256) != 64 || hex_decode(m->sha256, digest, sizeof(digest), e)) {
        return err_refuse(e, ERR_INVALID, "result.sha256", "64 hex digits", "%zu characters",
                          strlen(m->sha256));
    }
    return check_sizes(m, max_bytes, e) || parse_digests(m, digests, e) ? -1 : 0;
}

int result_manifest_parse(struct bytes payload, uint64_t max_bytes, struct result_manifest *ret,
                          struct err *e)
{
    struct result_manifest m = {0};

    if (json_parse("result", payload, RESULT_MANIFEST_MAX_BYTES, &m.json, e)) {
        return refuse_member(e, "result", "a JSON object");
    }
    if (manifest_fill(&m, max_bytes, e)) {
        result_manifest_done(&m);
        return -1;
    }
    *ret = m;
    return 0;
}

void result_manifest_done(struct result_manifest *m)
{
    free(m->chunk_sha256);
    json_decref(m->json);
    memset(m, 0, sizeof(*m));
}

int result_manifest_peek(const char *jws, struct buf *ret_payload, struct err *e)
{
    size_t n = strnlen(jws, RESULT_MANIFEST_MAX_BYTES + 1);
    const char *a, *b;

    if (n > RESULT_MANIFEST_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "result.manifest", "at most 524288 characters",
                          "more than that");
    }
    a = strchr(jws, '.');
    b = a ? strchr(a + 1, '.') : NULL;
    if (!b || b64url_decode(a + 1, (size_t)(b - a - 1), ret_payload, e)) {
        return err_refuse(e, ERR_INVALID, "result.manifest", "a compact JWS", "something else");
    }
    return 0;
}

json_t *result_digests(struct bytes sealed)
{
    json_t *list = json_array();
    uint8_t d[32];

    for (size_t at = 0; at < sealed.n; at += RESULT_CHUNK_BYTES) {
        size_t n = sealed.n - at < RESULT_CHUNK_BYTES ? sealed.n - at : RESULT_CHUNK_BYTES;
        EVP_Digest(sealed.p + at, n, d, NULL, EVP_sha256(), NULL);
        _cleanup_free_ char *hex = hex_encode(d, sizeof(d));
        json_array_append_new(list, json_string(hex));
    }
    EVP_Digest(sealed.n ? (const void *)sealed.p : "", sealed.n, d, NULL, EVP_sha256(), NULL);
    _cleanup_free_ char *all = hex_encode(d, sizeof(d));
    return json_pack("{s:I,s:I,s:s,s:o}", "chunks", (json_int_t)json_array_size(list), "bytes",
                     (json_int_t)sealed.n, "sha256", all, "chunk_sha256", list);
}

int fp_hasher_init(struct fp_hasher *h, const uint8_t salt[FP_SALT_BYTES], struct err *e)
{
    h->ctx = EVP_MD_CTX_new();
    memcpy(h->salt, salt, FP_SALT_BYTES);
    if (!h->ctx || EVP_DigestInit_ex2(h->ctx, EVP_sha256(), NULL) != 1) {
        fp_hasher_done(h);
        return err_set(e, ERR_INTERNAL, "fingerprints: SHA-256 is not available");
    }
    return 0;
}

int fp_hash(struct fp_hasher *h, const uint8_t block[FP_WINDOW], uint64_t *ret, struct err *e)
{
    uint8_t in[FP_SALT_BYTES + FP_WINDOW], d[32];

    memcpy(in, h->salt, FP_SALT_BYTES);
    memcpy(in + FP_SALT_BYTES, block, FP_WINDOW);
    if (EVP_DigestInit_ex2(h->ctx, NULL, NULL) != 1 ||
        EVP_DigestUpdate(h->ctx, in, sizeof(in)) != 1 || EVP_DigestFinal_ex(h->ctx, d, NULL) != 1) {
        return err_set(e, ERR_INTERNAL, "fingerprints: SHA-256 failed");
    }
    memcpy(ret, d, FP_BYTES);
    explicit_bzero(in, sizeof(in));
    return 0;
}

void fp_hasher_done(struct fp_hasher *h)
{
    EVP_MD_CTX_free(h->ctx);
    h->ctx = NULL;
}

int result_file_hmac(const struct secret *data_key, struct bytes content, char ret_hex[65],
                     struct err *e)
{
    static const char label[] = "coffer/file/v1";
    uint8_t d[EVP_MAX_MD_SIZE];
    size_t n = 0;
    int ok;
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
    char sha256[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string("digest", sha256, 0),
                           OSSL_PARAM_construct_end()};

    ok = ctx && EVP_MAC_init(ctx, secret_cp(data_key), secret_n(data_key), params) == 1 &&
         EVP_MAC_update(ctx, (const uint8_t *)label, sizeof(label) - 1) == 1 &&
         (!content.n || EVP_MAC_update(ctx, content.p, content.n) == 1) &&
         EVP_MAC_final(ctx, d, &n, sizeof(d)) == 1 && n == 32;
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
    if (!ok) {
        return err_set(e, ERR_INTERNAL, "result: HMAC-SHA256 failed");
    }
    _cleanup_free_ char *hex = hex_encode(d, 32);
    memcpy(ret_hex, hex, 65);
    return 0;
}

int result_seal(struct bytes plain, struct buf *ret, struct secret **ret_key, struct err *e)
{
    _cleanup_buf_ struct buf prefix = BUF_INIT(SEAL_HEADER_MAX_BYTES + 64);
    _cleanup_secret_ struct secret *key = NULL;
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_(sealer_freep) struct sealer *s = NULL;

    if (seal_result_header_new(&prefix, &key, e) || seal_header_parse(buf_bytes(&prefix), &h, e) ||
        sealer_new(&h, key, &s, e)) {
        return -1;
    }
    uint64_t n_chunks = plain.n ? (plain.n + h.chunk_bytes - 1) / h.chunk_bytes : 1;
    if (buf_reserve(ret, prefix.n + plain.n + n_chunks * SEAL_TAG_BYTES, e) ||
        buf_add(ret, prefix.p, prefix.n, e)) {
        return -1;
    }
    for (uint64_t i = 0; i < n_chunks; i++) {
        size_t at = (size_t)i * h.chunk_bytes;
        size_t n = plain.n - at < h.chunk_bytes ? plain.n - at : h.chunk_bytes;
        if (sealer_seal(s, i, i == n_chunks - 1, BYTES(plain.p + at, n), ret->p + ret->n, e)) {
            return -1;
        }
        ret->n += n + SEAL_TAG_BYTES;
    }
    *ret_key = TAKE_PTR(key);
    return 0;
}

int result_open(struct bytes sealed, const struct secret *key, struct area **ret, struct err *e)
{
    _cleanup_(seal_header_done) struct seal_header h = {0};
    _cleanup_(sealer_freep) struct sealer *s = NULL;
    _cleanup_area_ struct area *a = NULL;

    if (seal_header_parse(sealed, &h, e)) {
        return -1;
    }
    if (!streq(h.kind, "result")) {
        return err_refuse(e, ERR_INVALID, "result.header.kind", "result", "%.20s", h.kind);
    }
    size_t full = (size_t)h.chunk_bytes + SEAL_TAG_BYTES;
    size_t body = sealed.n - h.prefix_bytes;
    size_t n_chunks = (body + full - 1) / full;
    if (!n_chunks || body - (n_chunks - 1) * full < SEAL_TAG_BYTES) {
        return err_refuse(e, ERR_BAD_SIGNATURE, "result.stream", "whole sealed chunks",
                          "%zu bytes after the header", body);
    }
    if (sealer_new(&h, key, &s, e) || area_new(body - n_chunks * SEAL_TAG_BYTES, 0, &a, e)) {
        return -1;
    }
    for (size_t i = 0; i < n_chunks; i++) {
        size_t n = i == n_chunks - 1 ? body - i * full : full;
        if (sealer_open(s, i, i == n_chunks - 1, BYTES(sealed.p + h.prefix_bytes + i * full, n),
                        a->p + i * h.chunk_bytes, e)) {
            return -1;
        }
    }
    *ret = TAKE_PTR(a);
    return 0;
}
