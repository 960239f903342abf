/* state.h - the state directory: one daemon's memory on disk. Mode 0700, locked, never followed through a symlink.
 *
 *   lock           flock'd while a daemon uses the directory
 *   journal        names, attributes, jobs (journal.h); reserve: space kept for it
 *   contents/XX/   the bytes of every file under its node's id, in 16 hexadecimal digits; XX are the last two
 *
 * Nothing on disk is named by a user. Immutable after state_open, so no lock guards it. */
#ifndef STATE_H
#define STATE_H

#include "error.h"

#include <stdint.h>

struct state {
	char *path; /* absolute */
	int dir_fd, contents_fd, lock_fd;
};

/* Make (with its parents) and lock the directory. Fails when another daemon has it. */
bool state_open(struct state *state, const char *path, struct error *err);
void state_close(struct state *state);

/* $XDG_STATE_HOME/trellisfs/NAME or ~/.local/state/trellisfs/NAME, for root /var/lib/trellisfs/NAME, where NAME is the
 * mountpoint with '/' written as '-'. malloc'd; NULL: no home folder is known. */
char *state_default_path(const char *mountpoint);

/* A descriptor, or -errno. */
int state_content_create(const struct state *state, uint64_t id);
int state_content_open(const struct state *state, uint64_t id, int flags);
/* 0 or an errno. */
int state_content_remove(const struct state *state, uint64_t id);
int state_content_link(const struct state *state, uint64_t from, uint64_t to);

/* Remove the contents for which keep() says no: what a crash left without a name. */
void state_sweep(const struct state *state, bool (*keep)(void *user, uint64_t id), void *user);

/* Bytes that a writer may still use; 0 when unknown. */
uint64_t state_free_bytes(const struct state *state);

#endif
