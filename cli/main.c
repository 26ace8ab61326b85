/* coffer: the command. Everything is in the library; cli/verbs.c is the table of what it can do. */
#include "cli/cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv, stdout, stderr);
}
