#include "cli/progress.h"

#include "cli/cli.h"

void progress_init(struct progress *p, int color)
{
    *p = (struct progress){.next_seq = 1, .color = color};
}

static const char *color_of(const struct progress *p, const char *state)
{
    static const struct cli plain = {0}, coloured = {.color = 1};
    const struct cli *c = p->color ? &coloured : &plain;

    if (streq(state, "released")) {
        return cli_color(c, COLOR_GOOD);
    }
    if (streq(state, "held")) {
        return cli_color(c, COLOR_WARN);
    }
    return cli_exit_of_state(state) == CLI_OK ? "" : cli_color(c, COLOR_BAD);
}

/* What else is worth saying when a state is entered. */
static void add_facts(struct progress *p, const Coffer__V1__JobEvent *ev, struct buf *out)
{
    if (ev->attempt > 1 && ev->attempt != p->attempt) {
        buf_addf(out, NULL, "  attempt %u", ev->attempt);
    }
    if (streq(ev->state, "launching") && ev->host[0]) {
        buf_addf(out, NULL, "  on %s (%s)", ev->host, ev->backend);
    }
    if (ev->detail[0]) {
        buf_addf(out, NULL, "  %s", ev->detail);
    }
    if (ev->downgraded && !p->downgraded) {
        buf_addf(out, NULL, "  DOWNGRADED: no trusted execution environment was free");
    }
}

static void add_state(struct progress *p, const Coffer__V1__JobEvent *ev, struct buf *out)
{
    const char *color = color_of(p, ev->state);

    buf_addf(out, NULL, "%9.3f s  %s%-10s%s %+8.3f s", (double)(ev->at_ms - p->start_ms) / 1000,
             color, ev->state, color[0] ? "\033[0m" : "", (double)(ev->at_ms - p->last_ms) / 1000);
    add_facts(p, ev, out);
    buf_addf(out, NULL, "\n");
    /* A retry says why, and so does an end; the message of an end that the caller shows in full. */
    if (ev->reason && ev->reason->message[0] && !ev->terminal && !streq(ev->state, "held")) {
        buf_addf(out, NULL, "             because %s\n", ev->reason->message);
    }
}

void progress_event(struct progress *p, const Coffer__V1__JobEvent *ev, struct buf *out)
{
    if (ev->seq < p->next_seq) {
        return;
    }
    if (ev->seq > p->next_seq) {
        p->missing = 1;
        return;
    }
    p->missing = 0;
    p->next_seq++;
    if (!p->state[0]) {
        p->start_ms = p->last_ms = ev->at_ms;
    }
    if (streq(ev->state, p->state) && ev->attempt == p->attempt) {
        if (ev->detail[0] && !streq(ev->detail, p->last_phase)) {
            buf_addf(out, NULL, "%9.3f s    - %s\n", (double)(ev->at_ms - p->start_ms) / 1000,
                     ev->detail);
            snprintf(p->last_phase, sizeof(p->last_phase), "%s", ev->detail);
        }
    } else {
        add_state(p, ev, out);
        p->last_ms = ev->at_ms;
        p->last_phase[0] = '\0';
    }
    snprintf(p->state, sizeof(p->state), "%s", ev->state);
    p->attempt = ev->attempt;
    p->downgraded |= ev->downgraded;
    p->terminal = ev->terminal || streq(ev->state, "held");
}
