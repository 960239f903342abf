/* check.h - `trellisfs --check STATE [--repair | --salvage DIR]`: a state directory that no daemon uses, looked at, put right, or
 * copied out. */
#ifndef CHECK_H
#define CHECK_H

#define CHECK_ARGUMENT "--check"

/* The exit status, in bits as e2fsck's. */
enum {
	CHECK_CLEAN = 0,
	CHECK_CORRECTED = 1, /* errors were there and are put right */
	CHECK_LEFT = 4,	     /* errors are there */
	CHECK_FAILED = 8,    /* it cannot be looked at: in use, none, of a later format */
	CHECK_USAGE = 16,
};

/* arguments: what follows CHECK_ARGUMENT. */
int check_main(int n_arguments, char **arguments);

#endif
