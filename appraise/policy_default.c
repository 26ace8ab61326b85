#include "appraise/policy.h"

static const char text[] = "apiVersion: coffer/v1\n"
                           "kind: AppraisalPolicy\n"
                           "metadata: {name: coffer-default, version: 1}\n"
                           "rules:\n"
                           "  - name: genuine\n"
                           "    claim: x\n"
                           "    op: absent\n"
                           "    pass: {}\n";

const char *policy_default_text(void)
{
    return text;
}
