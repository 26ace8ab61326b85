/* coffer: the command. Everything is in the library; cli/verbs.c is the table of what it can do. */
#include "cli/cli.h"

int main(int argc, char **argv)
{
    int status = cli_main(argc, argv, stdout, stderr);

    if (fflush(stdout) != 0 && status == 0) {
        status = 1;
    }
#ifndef COFFER_SANITIZED
    /* Without the libraries' own endings: nats.c's threads may still be at work, and its locks
     * abort the process when they are used after their library has ended. */
    _exit(status);
#endif
    return status;
}
