/* state.h - the state directory: one daemon's memory on disk. Mode 0700, locked, never followed through a symlink.
 *
 *   lock           flock'd while a daemon uses the directory; its text: "going" once that daemon is about to end
 *   journal        names, attributes, jobs (journal.h); journal.synced, reserve: beside it
 *   contents/XX/   the bytes of every file under its node's id, in 16 hexadecimal digits; XX are the last two
 *
 * Nothing on disk is named by a user. Immutable after state_open, so no lock guards it. */
#ifndef STATE_H
#define STATE_H

#include "error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* What damage or a loss of power had done to the state directory when it was opened, and what is still so. */
struct state_recovery {
	bool damaged; /* the journal was */
	uint64_t lost_changes, reordered;
	int64_t damaged_bytes;
	int64_t cut_bytes;  /* of an end that was torn, which is no damage */
	long lost_files;    /* in lost/ */
	long missing_files; /* whose content is gone */
};

struct state {
	char *path; /* absolute */
	int dir_fd, contents_fd, lock_fd;
};

enum state_mode {
	STATE_MAKE, /* make it with its parents where it is missing; wait for a daemon that is going */
	STATE_LOOK, /* change nothing in it */
};

/* Lock the directory. Fails when another daemon has it; one that is about to end is waited for. */
bool state_open(struct state *state, const char *path, enum state_mode mode, struct error *err);
/* The lock will be free soon. */
void state_going(const struct state *state);
void state_close(struct state *state);

/* $XDG_STATE_HOME/trellisfs/NAME or ~/.local/state/trellisfs/NAME, for root /var/lib/trellisfs/NAME, where NAME is the
 * mountpoint with '/' written as '-'. malloc'd; NULL: no home folder is known. */
char *state_default_path(const char *mountpoint);

enum { STATE_CONTENT_NAME = 32 };
/* Of a content, below contents/. */
void state_content_name(char name[STATE_CONTENT_NAME], uint64_t id);
/* A descriptor, or -errno. */
int state_content_create(const struct state *state, uint64_t id);
int state_content_open(const struct state *state, uint64_t id, int flags);
/* 0 or an errno. */
int state_content_remove(const struct state *state, uint64_t id);
int state_content_link(const struct state *state, uint64_t from, uint64_t to);

/* 0 or an errno. */
int state_content_stat(const struct state *state, uint64_t id, struct stat *st);
/* Call visit for each content until it says false: then that is the answer. */
bool state_each_content(const struct state *state, bool (*visit)(void *user, uint64_t id), void *user);

/* Bytes that a writer may still use; 0 when unknown. */
uint64_t state_free_bytes(const struct state *state);

#endif
