#include "guest/sbom.h"

#include <openssl/evp.h>

#define IMAGE_ID "SPDXRef-Image"
#define NONE "NOASSERTION"

static int digest(const EVP_MD *md, struct bytes b, char ret_hex[65])
{
    uint8_t out[32];

    if (EVP_Digest(b.p, b.n, out, NULL, md, NULL) != 1) {
        return -1;
    }
    _cleanup_free_ char *hex = hex_encode(out, (size_t)EVP_MD_get_size(md));
    memcpy(ret_hex, hex, strlen(hex) + 1);
    return 0;
}

static void relate(json_t *list, const char *from, const char *how, const char *to)
{
    json_array_append_new(list, json_pack("{s:s,s:s,s:s}", "spdxElementId", from,
                                          "relationshipType", how, "relatedSpdxElement", to));
}

static json_t *package(size_t index, const struct guest_package *p)
{
    _cleanup_free_ char *id = xasprintf("SPDXRef-Package-%zu", index);
    _cleanup_free_ char *purl =
        xasprintf("pkg:deb/debian/%s@%s?arch=%s", p->name, p->version, p->arch);

    return json_pack("{s:s,s:s,s:s,s:s,s:b,s:s,s:s,s:s,s:[{s:s,s:s,s:s}]}", "SPDXID", id, "name",
                     p->name, "versionInfo", p->version, "downloadLocation", NONE, "filesAnalyzed",
                     0, "licenseConcluded", NONE, "licenseDeclared", NONE, "copyrightText", NONE,
                     "externalRefs", "referenceCategory", "PACKAGE-MANAGER", "referenceType",
                     "purl", "referenceLocator", purl);
}

/* SPDX demands SHA-1 of files; what counts is SHA-256. */
static int add_file(const struct sbom *s, size_t i, json_t *files, json_t *relations,
                    char ret_sha1[65])
{
    _cleanup_free_ char *id = xasprintf("SPDXRef-File-%zu", i + 1);
    char sha256[65];
    int of = s->packages->of[i];

    if (digest(EVP_sha1(), s->files[i].content, ret_sha1) ||
        digest(EVP_sha256(), s->files[i].content, sha256)) {
        return -1;
    }
    relate(relations, IMAGE_ID, "CONTAINS", id);
    if (of >= 0) {
        _cleanup_free_ char *from = xasprintf("SPDXRef-Package-%d", of + 1);
        relate(relations, id, "GENERATED_FROM", from);
    }
    return json_array_append_new(
        files,
        json_pack("{s:s,s:s,s:[{s:s,s:s},{s:s,s:s}],s:s,s:[s],s:s}", "SPDXID", id, "fileName",
                  s->files[i].path, "checksums", "algorithm", "SHA1", "checksumValue", ret_sha1,
                  "algorithm", "SHA256", "checksumValue", sha256, "licenseConcluded", NONE,
                  "licenseInfoInFiles", NONE, "copyrightText", NONE));
}

static int by_text(const void *a, const void *b)
{
    return memcmp(a, b, 40);
}

/* SPDX 2.3, 7.9.1: SHA-1 of the sorted SHA-1s of the files. */
static json_t *image(const struct sbom *s, char (*sha1)[40], const char *sha256)
{
    char code[65];

    qsort(sha1, s->n, sizeof(*sha1), by_text);
    if (digest(EVP_sha1(), BYTES(sha1, s->n * sizeof(*sha1)), code)) {
        return NULL;
    }
    return json_pack("{s:s,s:s,s:s,s:s,s:b,s:{s:s},s:[{s:s,s:s}],s:s,s:s,s:[s],s:s,s:s}", "SPDXID",
                     IMAGE_ID, "name", s->name, "versionInfo", s->version, "downloadLocation", NONE,
                     "filesAnalyzed", 1, "packageVerificationCode", "packageVerificationCodeValue",
                     code, "checksums", "algorithm", "SHA256", "checksumValue", sha256,
                     "licenseConcluded", NONE, "licenseDeclared", NONE, "licenseInfoFromFiles",
                     NONE, "copyrightText", NONE, "primaryPackagePurpose", "OPERATING-SYSTEM");
}

static json_t *document(const struct sbom *s, const char *sha256)
{
    _cleanup_free_ char *title = xasprintf("%s-%s", s->name, s->version);
    _cleanup_free_ char *tool = xasprintf("Tool: coffer-%s", s->version);
    _cleanup_free_ char *space =
        xasprintf("https://spdx.org/spdxdocs/%s-%s-%.32s", s->name, s->version, sha256);

    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:{s:s,s:[s]}}", "spdxVersion", "SPDX-2.3",
                     "dataLicense", "CC0-1.0", "SPDXID", "SPDXRef-DOCUMENT", "name", title,
                     "documentNamespace", space, "creationInfo", "created", "1970-01-01T00:00:00Z",
                     "creators", tool);
}

int guest_sbom(const struct sbom *s, json_t **ret, struct err *e)
{
    _cleanup_free_ char(*sha1)[40] = xcalloc(s->n ? s->n : 1, sizeof(*sha1));
    _cleanup_json_ json_t *doc = NULL;
    json_t *packages = json_array(), *files = json_array(), *relations = json_array();
    char one[65], sha256[65];
    int bad = digest(EVP_sha256(), s->uki, sha256);

    if (s->packages->files_n != s->n) {
        bad = 1;
    }
    relate(relations, "SPDXRef-DOCUMENT", "DESCRIBES", IMAGE_ID);
    for (size_t i = 0; !bad && i < s->n; i++) {
        bad = add_file(s, i, files, relations, one);
        if (!bad) {
            memcpy(sha1[i], one, sizeof(*sha1));
        }
    }
    if (!bad) {
        bad = json_array_append_new(packages, image(s, sha1, sha256));
    }
    for (size_t i = 0; !bad && i < s->packages->n; i++) {
        bad = json_array_append_new(packages, package(i + 1, &s->packages->v[i]));
    }
    doc = bad ? NULL : document(s, sha256);
    /* These take the lists, whether they succeed or not. */
    bad |= json_object_set_new(doc, "packages", packages);
    bad |= json_object_set_new(doc, "files", files);
    bad |= json_object_set_new(doc, "relationships", relations);
    if (bad) {
        return s->packages->files_n != s->n
                   ? err_refuse(e, ERR_INVALID, "sbom", "packages of as many files", "%zu and %zu",
                                s->packages->files_n, s->n)
                   : err_set(e, ERR_INTERNAL, "cannot compose the bill of materials");
    }
    *ret = TAKE_PTR(doc);
    return 0;
}
