/* commands.h - the commands of `trellis`, one a file, and what they share.
 * A command gets its own argv: argv[0] is "trellis NAME" (so getopt's messages read well), then its arguments. It
 * returns the exit status: 0, 1 when something failed, 2 when it was called wrongly. Errors are one line on stderr,
 * "trellis NAME: what". --help prints the command's text on stdout. */
#ifndef TRELLIS_COMMANDS_H
#define TRELLIS_COMMANDS_H

#include "error.h"

#include <stdbool.h>

int command_bench(int argc, char **argv);
int command_check(int argc, char **argv);
int command_cutout(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_generate(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_render(int argc, char **argv);
int command_wait(int argc, char **argv);
int command_worker(int argc, char **argv);

/* A whole number in least..most and nothing else; false leaves *value as it is. */
bool cli_number(int *value, const char *text, int least, int most);

/* Print "trellis NAME: what" for argv[0] = "trellis NAME"; returns 1. */
int cli_fail(const char *argv0, const struct error *err);
/* The same for a wrong call, with a pointer to the help; returns 2. */
__attribute__((format(printf, 2, 3))) int cli_usage(const char *argv0, const char *format, ...);

#endif
