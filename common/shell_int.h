#ifndef COFFER_SHELL_INT_H
#define COFFER_SHELL_INT_H

#include "common/shell.h"

/* Tells systemd (NOTIFY_SOCKET); nothing when there is none. */
void notify_send(const char *state);
/* Half of systemd's watchdog time in seconds; 0 when it watches nothing. */
double notify_watchdog_s(void);
/* No core dumps, no ptrace by others (not under sanitizers), one malloc arena. */
void harden_process(void);
/* SIGTERM when the parent ends; -1 when it has ended already. */
int die_with_parent(void);

#endif
