#include "common/jcs.h"
#include "svc-launcher/vm.h"

/* What the launcher tells cvm-vm: not from outside, but read as strictly. */

#define JSON_MAX_BYTES 65536u
#define HEAD_BYTES 4u

static const char *const kinds[] = {[VM_VTPM] = "vtpm", [VM_TDX] = "tdx", [VM_SNP] = "snp"};

static const struct {
    const char *name;
    size_t at;
} strings[] = {
    {"id", offsetof(struct vm_params, id)},
    {"work_dir", offsetof(struct vm_params, work_dir)},
    {"store", offsetof(struct vm_params, store)},
    {"qemu", offsetof(struct vm_params, opt.qemu)},
    {"swtpm", offsetof(struct vm_params, opt.swtpm)},
    {"swtpm_setup", offsetof(struct vm_params, opt.swtpm_setup)},
    {"image", offsetof(struct vm_params, opt.image)},
    {"tpm_ca", offsetof(struct vm_params, opt.tpm_ca)},
    {"accel", offsetof(struct vm_params, opt.accel)},
    {"cpus", offsetof(struct vm_params, opt.cpus)},
    {"quote_socket", offsetof(struct vm_params, opt.quote_socket)},
};

static const char **string_at(struct vm_params *p, size_t i)
{
    return (const char **)(void *)((char *)p + strings[i].at);
}

int vm_params_pack(const struct vm_params *p, struct buf *ret, struct err *e)
{
    _cleanup_json_ json_t *j = json_object();
    struct vm_params copy = *p;

    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        const char *s = *string_at(&copy, i);
        json_t *v = json_string(s ? s : "");
        if (!v) {
            return err_refuse(e, ERR_INVALID, strings[i].name, "UTF-8", "something else");
        }
        json_object_set_new(j, strings[i].name, v);
    }
    json_object_set_new(j, "backend", json_string(kinds[p->kind]));
    json_object_set_new(j, "kvm", json_integer(p->kvm != 0));
    json_object_set_new(j, "overhead_bytes", json_integer(p->opt.overhead_bytes));
    json_object_set_new(j, "hang_ms", json_integer(p->opt.hang_ms));
    json_object_set_new(j, "scratch_max_bytes", json_integer(p->opt.scratch_max_bytes));
    json_object_set_new(j, "numa_node", json_integer(p->opt.numa_node));
    json_object_set_new(j, "hugepages", json_integer(p->opt.hugepages != 0));
    json_object_set_new(j, "lock_memory", json_integer(p->opt.lock_memory != 0));
    _cleanup_free_ char *text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) {
        return err_set(e, ERR_INTERNAL, "cannot encode a VM's parameters");
    }
    size_t n = strlen(text);
    if (n > JSON_MAX_BYTES) {
        return err_refuse(e, ERR_TOO_LARGE, "parameters", "at most 65536 bytes", "%zu", n);
    }
    const uint8_t head[HEAD_BYTES] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
                                      (uint8_t)n};
    return buf_add(ret, head, sizeof(head), e) < 0 || buf_add(ret, text, n, e) < 0 ||
                   buf_add(ret, p->config.p, p->config.n, e) < 0
               ? -1
               : 0;
}

static int read_kind(const json_t *j, struct vm_params *p, struct err *e)
{
    const char *kind;

    if (json_get_str(j, "parameters", "backend", &kind, e) < 0) {
        return -1;
    }
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        if (streq(kind, kinds[k])) {
            p->kind = (enum vm_kind)k;
            return 0;
        }
    }
    return err_refuse(e, ERR_INVALID, "parameters.backend", "vtpm, tdx or snp", "\"%.40s\"", kind);
}

static int read_json(const json_t *j, struct vm_params *p, struct err *e)
{
    int64_t kvm, huge, lock;

    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        if (json_get_str(j, "parameters", strings[i].name, string_at(p, i), e) < 0) {
            return -1;
        }
    }
    if (read_kind(j, p, e) < 0 || json_get_int(j, "parameters", "kvm", 0, 1, &kvm, e) < 0 ||
        json_get_int(j, "parameters", "overhead_bytes", 0, 1ll << 50, &p->opt.overhead_bytes, e) <
            0 ||
        json_get_int(j, "parameters", "hang_ms", 1, 3600000, &p->opt.hang_ms, e) < 0 ||
        json_get_int(j, "parameters", "scratch_max_bytes", 0, 1ll << 40, &p->opt.scratch_max_bytes,
                     e) < 0 ||
        json_get_int(j, "parameters", "numa_node", -1, 1023, &p->opt.numa_node, e) < 0 ||
        json_get_int(j, "parameters", "hugepages", 0, 1, &huge, e) < 0 ||
        json_get_int(j, "parameters", "lock_memory", 0, 1, &lock, e) < 0) {
        return -1;
    }
    p->kvm = (int)kvm;
    p->opt.hugepages = (int)huge;
    p->opt.lock_memory = (int)lock;
    return 0;
}

int vm_params_unpack(struct bytes in, struct vm_params *ret, struct err *e)
{
    _cleanup_json_ json_t *j = NULL;
    struct vm_params p = {0};
    size_t n = SIZE_MAX;

    if (in.n >= HEAD_BYTES) {
        n = (size_t)in.p[0] << 24 | (size_t)in.p[1] << 16 | (size_t)in.p[2] << 8 | (size_t)in.p[3];
    }
    if (in.n < HEAD_BYTES || n > JSON_MAX_BYTES || n > in.n - HEAD_BYTES) {
        return err_refuse(e, ERR_INVALID, "parameters", "a length and so many bytes", "%zu bytes",
                          in.n);
    }
    if (json_parse("parameters", BYTES(in.p + HEAD_BYTES, n), JSON_MAX_BYTES, &j, e) < 0) {
        return -1;
    }
    if (!json_is_object(j)) {
        return err_refuse(e, ERR_INVALID, "parameters", "an object", "something else");
    }
    if (read_json(j, &p, e) < 0) {
        return -1;
    }
    p.config = BYTES(in.p + HEAD_BYTES + n, in.n - HEAD_BYTES - n);
    p.json = TAKE_PTR(j);
    *ret = p;
    return 0;
}

void vm_params_done(struct vm_params *p)
{
    json_decref(p->json);
    *p = (struct vm_params){0};
}
