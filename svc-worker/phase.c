/* What the launcher reads: one JSON object a line, each in one write, so that the worker's and the
 * runner's never mix. */
#include "svc-worker/worker.h"

static void say(json_t *j)
{
    _cleanup_json_ json_t *owned = j;
    _cleanup_free_ char *text = owned ? json_dumps(owned, JSON_COMPACT) : NULL;
    _cleanup_free_ char *line = text ? xasprintf("%s\n", text) : NULL;

    if (line && write(STDOUT_FILENO, line, strlen(line)) < 0) {
        return; /* nobody listens: the launcher is gone, and will be again */
    }
}

void phase_say(const char *phase)
{
    say(json_pack("{s:s}", "phase", phase));
}

void phase_refused(const struct err *why, const char *by)
{
    json_t *o = result_refusal_json(why);

    if (by) {
        json_object_set_new(o, "by", json_string(by));
    }
    say(json_pack("{s:o}", "refused", o));
}

void phase_done(void)
{
    say(json_pack("{s:b}", "done", 1));
}
