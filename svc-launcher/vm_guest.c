#include "common/jcs.h"
#include "svc-launcher/vm.h"

/* What a guest says: hearsay, as lifecycle.c puts it. Nothing goes on to the launcher that is not a
 * whole lifecycle line, and nothing after the exit. */

/* {"alive":ms} or {"exit":n}: 1, and 0 for any other line. */
static int vm_line(struct vm_guest *g, struct bytes line)
{
    _cleanup_json_ json_t *j = NULL;
    int64_t n;

    if (json_parse("line", line, LIFECYCLE_LINE_MAX, &j, NULL) < 0 || !json_is_object(j) ||
        json_object_size(j) != 1) {
        return 0;
    }
    if (json_get_int(j, "line", "alive", 0, INT64_C(1) << 50, &n, NULL) == 0) {
        g->alive = g->fresh = 1;
        return 1;
    }
    if (json_get_int(j, "line", "exit", 0, 255, &n, NULL) == 0) {
        g->exit_code = (int)n;
        return 1;
    }
    return 0;
}

static void on_line(void *arg, struct bytes line)
{
    struct vm_guest *g = arg;
    struct lifecycle l;

    if (g->exit_code >= 0 || vm_line(g, line)) {
        return;
    }
    if (lifecycle_parse(line, &l, NULL) < 0 || l.kind == BACKEND_BOOTED) {
        g->bad++;
        return;
    }
    g->fresh = 1;
    g->explained = g->explained || l.kind == BACKEND_REFUSED || l.kind == BACKEND_FAILED;
    g->forward(g->arg, line);
}

void vm_guest_feed(struct vm_guest *g, struct bytes in)
{
    g->fresh = 0;
    line_cutter_feed(&g->lines, in, on_line, g);
}

void vm_guest_done(struct vm_guest *g)
{
    buf_done(&g->lines.buf);
}

/* ---- text for the log ------------------------------------------------------------------------ */

void vm_text_end(struct vm_text *t)
{
    while (t->n && t->line[t->n - 1] == ' ') {
        t->n--;
    }
    t->line[t->n] = '\0';
    if (t->n) {
        memcpy(t->last, t->line, t->n + 1);
        if (t->left) {
            t->left = t->left > t->n ? t->left - t->n : 0;
            t->out(t->prefix, t->left ? t->line : "(the rest is left out)");
        }
    }
    t->n = 0;
}

/* ESC, "[", parameters, and a letter; or ESC and one byte. */
static int in_escape(struct vm_text *t, uint8_t c)
{
    if (c == 0x1b) {
        t->escape = 1;
        return 1;
    }
    if (t->escape == 1) {
        t->escape = c == '[' ? 2 : 0;
        return 1;
    }
    if (t->escape == 2) {
        t->escape = c >= 0x40 && c < 0x7f ? 0 : 2;
        return c != '\n';
    }
    return 0;
}

void vm_text_feed(struct vm_text *t, struct bytes in)
{
    for (size_t i = 0; i < in.n; i++) {
        uint8_t c = in.p[i];
        if (in_escape(t, c)) {
            continue;
        }
        if (c == '\n') {
            t->escape = 0;
            vm_text_end(t);
        } else if (c != '\r' && t->n < VM_TEXT_LINE && (t->n || c != ' ')) {
            t->line[t->n++] = c >= 0x20 && c < 0x7f ? (char)c : '?';
        }
    }
}
