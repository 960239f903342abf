/* compact.h - write the journal anew when most of it says nothing any more, or when a sync of it has failed.
 * All of it is the sync thread's (sync.c), between its groups: whoever waits for a sync does not wait for this. */
#ifndef COMPACT_H
#define COMPACT_H

#include "fs.h"

struct compaction {
	pid_t child;		  /* that writes the new log; 0: none */
	struct journal_log copy;  /* which that is */
	struct journal_log from;  /* the old one, as it was when the child began */
	struct journal_log *told; /* shared with the child: the copy, when it is whole */
	bool from_broken;	  /* a sync of that one had failed by then */
	struct journal_log old;	  /* what has been replaced; its bytes go a few at a time, as that takes long */
	int64_t retry_ns;	  /* CLOCK_MONOTONIC: not before */
	bool stopped;		  /* the child was told to end */
};

/* Begin when it is worth it, end when the child has ended. When to call it again at the latest, in ms; 0: no need. */
int compact_step(struct compaction *c, struct fs *fs);
/* The child ends. What only memory knows, because the journal could not be synced, is waited for. */
void compact_stop(struct compaction *c, struct fs *fs);

#endif
