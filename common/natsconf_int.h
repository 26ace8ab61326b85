#ifndef COFFER_NATSCONF_INT_H
#define COFFER_NATSCONF_INT_H

#include "common/natsconf.h"

/* Makes or loads the CA in `dir` and issues the server's certificate. */
int natsconf_certificates(const char *dir, const char *const *names, size_t n_names, struct err *e);

#endif
